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

static void a_norm_without_beta_is_rmsnorm(void **state)
{
    (void)state;
    on_all(check_rms);
}

static void rope_turns_queries_and_keys_of_patches_only(void **state)
{
    (void)state;
    on_all(check_rope);
}

static void halves_are_gated_or_subtracted(void **state)
{
    (void)state;
    on_all(check_halves);
}

static void add_takes_types_that_differ(void **state)
{
    (void)state;
    on_all(check_add);
}

static void latent_pool_is_attention_of_one_query(void **state)
{
    (void)state;
    on_all(check_latent);
}

static void every_kernel_adds_the_bias_under_a_mask(void **state)
{
    (void)state;
    on_all(check_bias);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_norm_without_beta_is_rmsnorm),
        cmocka_unit_test(rope_turns_queries_and_keys_of_patches_only),
        cmocka_unit_test(halves_are_gated_or_subtracted),
        cmocka_unit_test(add_takes_types_that_differ),
        cmocka_unit_test(latent_pool_is_attention_of_one_query),
        cmocka_unit_test(every_kernel_adds_the_bias_under_a_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
