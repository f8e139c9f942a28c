/* Whole models on the GPU against timm, with every attention kernel and in every type. fp32 keeps
 * what the CPU promises; the other types stay within some roundings of their own (tf32 and fp16
 * round operands to 11 bits, bf16 to 8), which a dozen layers add up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support_cuda.h"
#include "tests/support_golden.h"

static void agrees(const char *kernel, const char *dtype, double tolerance)
{
    need_gpu();
    golden_run_all(&(golden_variant){"cuda", kernel, dtype, tolerance});
}

static void fp32_agrees_with_timm_whatever_kernel_auto_picks(void **state)
{
    (void)state;
    agrees(NULL, "fp32", 1e-4);
}

static void fp32_reference_agrees_with_timm(void **state)
{
    (void)state;
    agrees("reference", "fp32", 1e-4);
}

static void fp32_dense_agrees_with_timm(void **state)
{
    (void)state;
    agrees("dense", "fp32", 1e-4);
}

static void fp32_rows_agrees_with_timm(void **state)
{
    (void)state;
    agrees("rows", "fp32", 1e-4);
}

static void tf32_stays_close_to_timm(void **state)
{
    (void)state;
    agrees(NULL, "tf32", 0.01);
}

static void fp16_dense_stays_close_to_timm(void **state)
{
    (void)state;
    agrees("dense", "fp16", 0.01);
}

static void fp16_rows_stays_close_to_timm(void **state)
{
    (void)state;
    agrees("rows", "fp16", 0.01);
}

static void fp16_reference_stays_close_to_timm(void **state)
{
    (void)state;
    agrees("reference", "fp16", 0.01);
}

static void bf16_stays_close_to_timm(void **state)
{
    (void)state;
    agrees("dense", "bf16", 0.05);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp32_agrees_with_timm_whatever_kernel_auto_picks),
        cmocka_unit_test(fp32_reference_agrees_with_timm),
        cmocka_unit_test(fp32_dense_agrees_with_timm),
        cmocka_unit_test(fp32_rows_agrees_with_timm),
        cmocka_unit_test(tf32_stays_close_to_timm),
        cmocka_unit_test(fp16_dense_stays_close_to_timm),
        cmocka_unit_test(fp16_rows_stays_close_to_timm),
        cmocka_unit_test(fp16_reference_stays_close_to_timm),
        cmocka_unit_test(bf16_stays_close_to_timm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
