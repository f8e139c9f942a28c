/* vt_mask_count against plain loops over a table, and its hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support_mask.h"

static vt_mask_stats count(const table_mask *t, int threads)
{
    vt_status st = {VT_OK, ""};
    vt_mask_stats s;
    assert_int_equal(vt_mask_count(&t->mask, threads, &s, &st), 0);
    return s;
}

static bool tile_has_pair(const table_mask *t, int top, int left, int side)
{
    int n = t->mask.tokens;
    for (int q = top; q < n && q < top + side; q++)
        for (int k = left; k < n && k < left + side; k++)
            if (t->on[q * n + k])
                return true;
    return false;
}

static double occupancy(const table_mask *t, int side)
{
    int n = t->mask.tokens, tiles = 0, held = 0;
    for (int top = 0; top < n; top += side)
        for (int left = 0; left < n; left += side, tiles++)
            held += tile_has_pair(t, top, left, side);
    return (double)held / tiles;
}

static void check(table_mask *t)
{
    int n = t->mask.tokens, nnz = 0, empty = 0, low = n, high = 0;
    for (int q = 0; q < n; q++) {
        int on = 0;
        for (int k = 0; k < n; k++)
            on += t->on[q * n + k];
        nnz += on;
        empty += on == 0;
        low = on < low ? on : low;
        high = on > high ? on : high;
    }
    vt_mask_stats s = count(t, 2);
    assert_int_equal(s.tokens, n);
    assert_int_equal(s.nnz, nnz);
    assert_true(s.density == (double)nnz / ((double)n * n));
    assert_true(s.row_mean == (double)nnz / n);
    assert_int_equal(s.empty_rows, empty);
    assert_int_equal(s.row_min, low);
    assert_int_equal(s.row_max, high);
    for (int i = 0; i < 3; i++)
        assert_true(s.occupancy[i] == occupancy(t, vt_occupancy_tile[i]));
    vt_mask_free(&t->mask);
}

static void counts_equal_plain_loops(void **state)
{
    (void)state;
    for (int n = 1; n <= 70; n++)
        check(table_mask_random(0, 1, n, 0.05, (unsigned)n));
    for (int i = 0; i < 5; i++)
        check(table_mask_random(i, 14, 14, (double[]){0, 0.0005, 0.01, 0.3, 1}[i], 1));
}

static void the_hash_tells_any_changed_pair(void **state)
{
    (void)state;
    table_mask *t = table_mask_random(1, 6, 6, 0.3, 5);
    vt_mask_stats before = count(t, 1);
    for (int i = 0; i < 37 * 37; i++) {
        t->on[i] = !t->on[i];
        vt_mask_stats after = count(t, 1);
        assert_true(before.hash[0] != after.hash[0]);
        assert_true(before.hash[1] != after.hash[1]);
        t->on[i] = !t->on[i];
    }
    vt_mask_free(&t->mask);
}

static void the_hash_tells_swapped_rows(void **state)
{
    (void)state;
    table_mask *a = table_mask_new(0, 10, 10), *b = table_mask_new(0, 10, 10);
    a->on[3 * 100 + 7] = b->on[4 * 100 + 7] = true;
    vt_mask_stats sa = count(a, 1), sb = count(b, 1);
    assert_true(sa.hash[0] != sb.hash[0] && sa.hash[1] != sb.hash[1]);
    vt_mask_free(&a->mask);
    vt_mask_free(&b->mask);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    table_mask *t = table_mask_random(2, 20, 21, 0.2, 11);
    vt_mask_stats one = count(t, 1);
    for (int threads = 2; threads <= 9; threads++) {
        vt_mask_stats many = count(t, threads);
        assert_int_equal(one.nnz, many.nnz);
        assert_int_equal(one.empty_rows, many.empty_rows);
        assert_int_equal(one.row_min, many.row_min);
        assert_int_equal(one.row_max, many.row_max);
        assert_memory_equal(one.occupancy, many.occupancy, sizeof one.occupancy);
        assert_memory_equal(one.hash, many.hash, sizeof one.hash);
    }
    vt_mask_free(&t->mask);
}

static void freeing_no_mask_is_fine(void **state)
{
    (void)state;
    vt_mask_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_equal_plain_loops),
        cmocka_unit_test(the_hash_tells_any_changed_pair),
        cmocka_unit_test(the_hash_tells_swapped_rows),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(freeing_no_mask_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
