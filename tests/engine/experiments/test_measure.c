/* The spread of samples: median, smallest, 90th percentile by nearest rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/experiments/measure.h"

static void one_sample_is_its_own_spread(void **state)
{
    (void)state;
    double x[] = {4};
    vte_spread s = vte_spread_of(x, 1);
    assert_true(s.count == 1 && s.median == 4 && s.min == 4 && s.p90 == 4 && s.max == 4);
}

static void an_even_number_of_samples_has_its_median_between_two(void **state)
{
    (void)state;
    double x[] = {9, 1, 3, 5};
    vte_spread s = vte_spread_of(x, 4);
    assert_true(s.median == 4 && s.min == 1 && s.max == 9 && s.p90 == 9);
}

static void nine_of_ten_samples_do_not_exceed_p90(void **state)
{
    (void)state;
    double x[20];
    for (int n = 1; n <= 20; n++) {
        for (int i = 0; i < n; i++)
            x[i] = (i * 7) % n + 1; /* not in order; a permutation of 1 to n unless 7 divides n */
        vte_spread s = vte_spread_of(x, n);
        int within = 0;
        for (int i = 0; i < n; i++)
            within += x[i] <= s.p90;
        assert_true(10 * within >= 9 * n);
        within = 0;
        for (int i = 0; i < n; i++)
            within += x[i] < s.p90;
        assert_true(10 * within < 9 * n);
    }
}

static void the_clock_goes_forward(void **state)
{
    (void)state;
    double a = vte_now_ms(), b = vte_now_ms();
    assert_true(b >= a);
    assert_true(vte_resident_peak() > 1 << 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_sample_is_its_own_spread),
        cmocka_unit_test(an_even_number_of_samples_has_its_median_between_two),
        cmocka_unit_test(nine_of_ten_samples_do_not_exceed_p90),
        cmocka_unit_test(the_clock_goes_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
