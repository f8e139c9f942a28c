/* Errors with their path, free memory, the spread of samples: median, smallest, 90th percentile by
 * nearest rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/experiments/measure.h"

static void a_path_goes_before_the_message(void **state)
{
    (void)state;
    vitrun_error err;
    vte_fail(&err, VITRUN_INPUT, "bad (%d)", 3);
    assert_int_equal(vte_prefix(&err, "a.png"), -1);
    assert_string_equal(err.message, "a.png: bad (3)");
    assert_int_equal(err.code, VITRUN_INPUT);
    vte_fail(&err, VITRUN_INPUT, "bad");
    vte_prefix(&err, "-");
    assert_string_equal(err.message, "standard input: bad");
}

static void a_long_path_leaves_the_message_whole(void **state)
{
    (void)state;
    char path[4096];
    vitrun_error err;
    memset(path, 'p', sizeof path);
    strcpy(path + sizeof path - 8, "/ab.png");
    vte_fail(&err, VITRUN_INPUT, "bad");
    vte_prefix(&err, path);
    assert_memory_equal(err.message, "...pp", 5);
    assert_non_null(strstr(err.message, "p/ab.png: bad"));
}

static void available_memory_is_a_part_of_all(void **state)
{
    (void)state;
    if (access("/proc/meminfo", R_OK) != 0)
        skip();
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(vte_available_memory() > 0 && vte_available_memory() <= all);
}

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
        cmocka_unit_test(a_path_goes_before_the_message),
        cmocka_unit_test(a_long_path_leaves_the_message_whole),
        cmocka_unit_test(available_memory_is_a_part_of_all),
        cmocka_unit_test(one_sample_is_its_own_spread),
        cmocka_unit_test(an_even_number_of_samples_has_its_median_between_two),
        cmocka_unit_test(nine_of_ten_samples_do_not_exceed_p90),
        cmocka_unit_test(the_clock_goes_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
