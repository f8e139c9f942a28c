/* The operations that only some families of models use, on the CPU: every instruction set that the
 * machine has, both types, one thread and three. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/support_families.h"

static void on_all(void (*check)(vt_stream *))
{
    static const char *const isas[] = {"generic", "neon", "avx2", "avx512"};
    for (int i = 0; i < 4 * 2 * 2; i++) {
        vt_status st;
        vt_dtype type = i & 1 ? VT_BF16 : VT_F32;
        vt_device *dev = vt_cpu_open_as(type, i & 2 ? 3 : 1, isas[i / 4], 0, &st);
        if (!dev)
            continue;
        vt_stream *s = dev->ops->stream_open(dev, &st);
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
