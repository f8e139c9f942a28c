/* The operations that only some families of models use, on the GPU, in every type. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support_cuda.h"
#include "tests/support_families.h"

static void on_all(void (*check)(vt_stream *))
{
    static const vt_dtype types[] = {VT_F32, VT_F16, VT_BF16};
    need_gpu();
    for (int type = 0; type < 4; type++) {
        vt_status st = {VT_OK, ""};
        vt_device *dev = vt_cuda_open(types[type % 3], type == 3, 0, 1, &st); /* tf32 last */
        vt_stream *s = dev ? dev->ops->stream_open(dev, &st) : NULL;
        if (!s)
            fail_msg("%s", st.text);
        s->images = FAMILY_IMAGES;
        check(s);
        dev->ops->stream_close(s);
        dev->ops->close(dev);
    }
}

int main(void)
{
    return run_family_tests(on_all);
}
