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
