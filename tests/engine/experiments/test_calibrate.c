/* Figures and masks of average attention that is known: uniform, on one key, and rows of 4, 3, 2, 1. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/experiments/calibrate.h"

enum { N = 10, PREFIX = 1 }; /* a 3 x 3 grid and a class token */

/* Head 0 uniform; head 1 all on key 0; head 2: keys 1 to 4 with 0.4, 0.3, 0.2, 0.1. */
static vte_calibration known(void)
{
    vte_calibration c = {1, 3, N, PREFIX, 3, 3, 1, 0, calloc(3 * N * N, sizeof(float)), 2};
    static const float weight[] = {0.4f, 0.3f, 0.2f, 0.1f};
    for (int q = 0; q < N; q++) {
        for (int k = 0; k < N; k++)
            c.mean[q * N + k] = 1.0f / N;
        c.mean[(N + q) * N] = 1;
        memcpy(&c.mean[(2 * N + q) * N + 1], weight, sizeof weight);
    }
    return c;
}

static void concentration_is_that_of_the_definition(void **state)
{
    (void)state;
    vte_calibration c = known();
    vte_concentration v;
    vitrun_error err;
    assert_int_equal(vte_concentration_of(&c, 0, 0, &v, &err), 0);
    assert_true(v.keys50 == 5 && v.keys90 == 9 && v.keys99 == 10);
    assert_true(fabs(v.entropy - log(N)) < 1e-6 && fabs(v.prefix - 0.1) < 1e-6);
    double far = 0; /* mean distance of two patches of the grid */
    for (int a = 0; a < 9; a++)
        for (int b = 0; b < 9; b++)
            far += hypot(a / 3 - b / 3, a % 3 - b % 3) / 81;
    assert_true(fabs(v.distance - far) < 1e-6);
    assert_int_equal(vte_concentration_of(&c, 0, 1, &v, &err), 0);
    assert_true(v.keys50 == 1 && v.keys99 == 1 && v.entropy == 0 && v.prefix == 1);
    assert_true(v.distance == 0);
    assert_int_equal(vte_concentration_of(&c, 0, 2, &v, &err), 0);
    assert_true(v.keys50 == 2 && v.keys90 == 3 && v.keys99 == 4 && v.prefix == 0);
    vte_calibration_free(&c);
}

static int ones(const uint8_t *mask, int size)
{
    int sum = 0;
    for (int i = 0; i < size; i++)
        sum += mask[i];
    return sum;
}

static void masks_keep_the_most_attended_keys(void **state)
{
    (void)state;
    vte_calibration c = known();
    vitrun_error err;
    uint8_t mask[3 * N * N];
    assert_int_equal(vte_mask_from(&c, 0, 1, 2, 0, mask, &err), 0);
    assert_int_equal(ones(mask, 3 * N * N), 3 * N * 2);
    assert_true(mask[0] && mask[1]); /* of equal ones the first */
    assert_true(mask[2 * N * N + 1] && mask[2 * N * N + 2]);
    assert_int_equal(vte_mask_from(&c, 0, 1, 0, 0.7, mask, &err), 0);
    assert_int_equal(ones(mask, N), 7);
    assert_int_equal(ones(mask + N * N, N), 1);
    assert_int_equal(ones(mask + 2 * N * N, N), 2);
    /* the mean over heads: key 0 has (0.1 + 1) / 3, key 1 (0.1 + 0.4) / 3 */
    assert_int_equal(vte_mask_from(&c, 0, 0, 2, 0, mask, &err), 0);
    assert_int_equal(ones(mask, N * N), 2 * N);
    assert_true(mask[0] && mask[1] && mask[9 * N] && mask[9 * N + 1]);
    vte_calibration_free(&c);
}

static void a_mask_loses_what_it_leaves_out(void **state)
{
    (void)state;
    vte_calibration c = known();
    vitrun_error err;
    vitrun_mask_options o;
    const char *text = "all: local_2d(distance=1)"; /* itself, and the class token with all */
    vitrun_mask_options_init(&o);
    o.grid_h = o.grid_w = 3, o.prefix = PREFIX, o.layers = 1, o.heads = 3, o.threads = 1;
    o.masks = &text, o.mask_count = 1;
    vitrun_masks *m = vitrun_masks_open(&o, &err);
    assert_non_null(m);
    double lost;
    assert_int_equal(vte_mass_lost(&c, m, 0, 0, &lost, &err), 0);
    assert_true(fabs(lost - 9 * 8.0 / 100) < 1e-6);
    assert_int_equal(vte_mass_lost(&c, m, 0, 1, &lost, &err), 0);
    assert_true(fabs(lost) < 1e-9);
    vitrun_masks_free(m);
    vte_calibration_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(concentration_is_that_of_the_definition),
        cmocka_unit_test(masks_keep_the_most_attended_keys),
        cmocka_unit_test(a_mask_loses_what_it_leaves_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
