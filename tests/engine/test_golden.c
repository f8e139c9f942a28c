/* Whole models on the CPU against timm, with every attention kernel.
 *
 * Tolerance: fp32 within 1e-4 of the largest logit of timm in float64, what vitrun promises.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support_golden.h"

static void fp32_agrees_with_timm_whatever_kernel_auto_picks(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", NULL, "fp32", 1e-4});
}

static void fp32_reference_agrees_with_timm(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", "reference", "fp32", 1e-4});
}

static void fp32_dense_agrees_with_timm(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", "dense", "fp32", 1e-4});
}

static void fp32_tiles_agrees_with_timm(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", "tiles", "fp32", 1e-4});
}

static void fp32_rows_agrees_with_timm(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", "rows", "fp32", 1e-4});
}

/* bf16 has 8 bits: each of some ten roundings between input and logits moves a value by 2^-9. */
static void bf16_stays_close_to_timm(void **state)
{
    (void)state;
    golden_run_all(&(golden_variant){"cpu", NULL, "bf16", 0.05});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_agrees_with_timm_whatever_kernel_auto_picks),
        cmocka_unit_test(fp32_reference_agrees_with_timm),
        cmocka_unit_test(fp32_dense_agrees_with_timm),
        cmocka_unit_test(fp32_tiles_agrees_with_timm),
        cmocka_unit_test(fp32_rows_agrees_with_timm),
        cmocka_unit_test(bf16_stays_close_to_timm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
