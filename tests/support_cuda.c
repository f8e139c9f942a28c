/* Is there a GPU to test? See support_cuda.h. */
#include "tests/support_cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/backend.h"

void need_gpu(void)
{
    vt_status st = {VT_MACHINE, "this build has no CUDA"};
    const char *must = getenv("VITRUN_TEST_GPU");
#if VT_CUDA
    vt_device *dev = vt_cuda_open(VT_F32, false, 0, 1, &st);
    if (dev) {
        dev->ops->close(dev);
        return;
    }
#endif
    if (must && !strcmp(must, "1"))
        fail_msg("no GPU to test: %s", st.text);
    print_message("SKIPPED: no GPU to test: %s\n", st.text);
    skip();
}
