/* The choice of an attention kernel is a pure function: a table of cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/dispatch.h"

/* A device on which a tile costs 100 and a pair 10 per unit of head_dim, all else nothing. */
static const vt_attn_costs costs = {.tile = 100, .pair = 10, .reference = 1000};

/* 64 tokens: 4 x 4 tiles. */
static vt_attn_work work(int64_t nnz, int64_t tiles)
{
    return (vt_attn_work){.images = 1,
                          .heads = 1,
                          .tokens = 64,
                          .head_dim = 8,
                          .threads = 1,
                          .masked = true,
                          .nnz = nnz,
                          .tiles = tiles,
                          .serves = {true, true, true, true}};
}

static vt_attn_choice choose(vt_attn_wish wish, vt_attn_work w)
{
    vt_attn_choice c;
    vt_status st = {0};
    assert_int_equal(vt_attn_choose(&c, &wish, &w, &costs, &st), 0);
    return c;
}

static const vt_attn_wish automatic = {.rule = VT_RULE_AUTO, .threshold = 0.30};
static const vt_attn_wish by_density = {.rule = VT_RULE_DENSITY, .threshold = 0.30};

static void no_mask_is_dense_whatever_is_asked(void **state)
{
    (void)state;
    vt_attn_work w = work(4096, 0);
    w.masked = false;
    vt_attn_wish forced = {.kernel = "rows"};
    assert_int_equal(choose(automatic, w).kernel, VT_ATTN_DENSE);
    assert_int_equal(choose(by_density, w).kernel, VT_ATTN_DENSE);
    assert_int_equal(choose(forced, w).kernel, VT_ATTN_DENSE);
}

static void the_threshold_is_strict(void **state)
{
    (void)state;
    vt_attn_wish half = {.rule = VT_RULE_DENSITY, .threshold = 0.5};
    assert_int_equal(choose(half, work(2048, 4)).kernel, VT_ATTN_DENSE);
    assert_int_equal(choose(half, work(2047, 4)).kernel, VT_ATTN_TILES);
    vt_attn_wish all = {.rule = VT_RULE_DENSITY, .threshold = 1};
    assert_int_equal(choose(all, work(4096, 16)).kernel, VT_ATTN_DENSE);
    vt_attn_wish none = {.rule = VT_RULE_DENSITY, .threshold = 0};
    assert_int_equal(choose(none, work(0, 0)).kernel, VT_ATTN_DENSE);
}

static void density_takes_a_sparse_kernel_even_where_it_is_slower(void **state)
{
    (void)state;
    /* every tile occupied, 1000 pairs: dense 1600, tiles 1600, rows 10000 */
    vt_attn_choice c = choose(by_density, work(1000, 16));
    assert_int_equal(c.kernel, VT_ATTN_TILES);
    assert_int_equal(choose(automatic, work(1000, 16)).kernel, VT_ATTN_DENSE);
}

static void automatic_takes_the_fastest_below_the_threshold(void **state)
{
    (void)state;
    assert_int_equal(choose(automatic, work(1000, 4)).kernel, VT_ATTN_TILES);
    assert_int_equal(choose(automatic, work(20, 4)).kernel, VT_ATTN_ROWS);
    assert_int_equal(choose(automatic, work(1229, 1)).kernel, VT_ATTN_DENSE); /* 0.30005 */
}

/* dense: 12800 */
static void a_sparse_kernel_must_promise_more_than_predictions_are_off(void **state)
{
    (void)state;
    vt_attn_work w = work(1000, 16);
    vt_attn_costs c = costs;
    vt_attn_choice choice;
    vt_status st = {0};
    c.group = -100; /* of 4: tiles are predicted to take 3.1 % less */
    assert_int_equal(vt_attn_choose(&choice, &automatic, &w, &c, &st), 0);
    assert_int_equal(choice.kernel, VT_ATTN_TILES);
    c.group = -90; /* 2.8 % */
    assert_int_equal(vt_attn_choose(&choice, &automatic, &w, &c, &st), 0);
    assert_int_equal(choice.kernel, VT_ATTN_DENSE);
}

static void forced_kernels_are_obeyed_and_unknown_ones_refused(void **state)
{
    (void)state;
    for (int k = 0; k <= VT_ATTN_ROWS; k++) {
        vt_attn_wish wish = {.kernel = vt_attn_kernel_name((vt_attn_kernel)k)};
        assert_int_equal(choose(wish, work(4096, 16)).kernel, k);
    }
    vt_attn_wish sparse = {.kernel = "sparse"}, odd = {.kernel = "flash"};
    assert_int_equal(choose(sparse, work(20, 16)).kernel, VT_ATTN_ROWS);
    assert_int_equal(choose(sparse, work(4000, 1)).kernel, VT_ATTN_TILES);
    vt_attn_choice c;
    vt_attn_work w = work(10, 1);
    vt_status st = {0};
    assert_int_equal(vt_attn_choose(&c, &odd, &w, &costs, &st), -1);
    assert_int_equal(st.code, VT_USAGE);
    assert_true(vt_attn_known_kernel("sparse"));
    assert_false(vt_attn_known_kernel("flash"));
}

static void reasons_say_density_threshold_and_times(void **state)
{
    (void)state;
    assert_non_null(strstr(choose(automatic, work(1000, 4)).reason, "0.2441 < 0.3"));
    assert_non_null(strstr(choose(automatic, work(4000, 4)).reason, "0.9766 >= threshold 0.3"));
    vt_attn_wish forced = {.kernel = "rows"};
    assert_non_null(strstr(choose(forced, work(9, 4)).reason, "rows was asked for"));
}

static void time_grows_with_work_and_shrinks_with_threads(void **state)
{
    (void)state;
    for (int k = 0; k <= VT_ATTN_ROWS; k++) {
        vt_attn_work one = work(100, 4), two = one, threads = one;
        two.images = 2;
        threads.threads = 2;
        double ms = vt_attn_predict(&costs, (vt_attn_kernel)k, &one);
        assert_true(ms > 0);
        assert_true(vt_attn_predict(&costs, (vt_attn_kernel)k, &two) == 2 * ms);
        assert_true(vt_attn_predict(&costs, (vt_attn_kernel)k, &threads) == ms / 2);
    }
}

/* A GPU on which a group costs 1000 and a tile 100 and 10 for each block, of 128 queries half as much
 * again; at most 100 items at a time. */
static vt_attn_choice choose_columns(vt_attn_wish wish, vt_attn_work w)
{
    const vt_attn_costs gpu = {.tile = 100,
                               .launch = 5000,
                               .columns_group = {1000, 1500},
                               .columns_tile = {100, 150},
                               .columns_block = {10, 15},
                               .columns_merge = {200, 300},
                               .columns_start = 7000,
                               .columns_pass = 3000,
                               .columns_step = 500,
                               .columns_late = 0.5,
                               .columns_blocks = {100, 50},
                               .columns_guests = 1};
    vt_attn_choice c;
    vt_status st = {0};
    w.serves[VT_ATTN_TILES] = w.serves[VT_ATTN_ROWS] = false;
    for (int s = 0; s < VT_COLUMNS_SHAPES; s++)
        w.serves[VT_ATTN_COLUMNS64 + s] = true;
    assert_int_equal(vt_attn_choose(&c, &wish, &w, &gpu, &st), 0);
    return c;
}

static bool is_near(double ms, double ns)
{
    return fabs(ms - 1e-6 * ns) < 1e-12;
}

static void columns_cost_groups_tiles_passes_and_what_ends_last(void **state)
{
    (void)state;
    vt_attn_work w = work(100, 0);
    w.heads = 10;
    w.head_dim = 64;
    w.columns[0] = (vt_columns_count){.groups = 2,
                                      .tiles = 30,
                                      .blocks = 30,
                                      .spared = 10,
                                      .prefix = 12,
                                      .longest = {3},
                                      .passes = 1};
    w.columns[1] =
        (vt_columns_count){.groups = 1, .tiles = 10, .blocks = 16, .longest = {4}, .passes = 1};
    w.columns[2] = (vt_columns_count){
        .groups = 4, .tiles = 5, .blocks = 5, .merged = 3, .longest = {1, 1}, .passes = 2};
    vt_attn_choice c = choose_columns(automatic, w);
    /* 20 of 100 items, the longest of which is a group and 3 tiles */
    assert_true(is_near(c.ms[VT_ATTN_COLUMNS64],
                        5000 + 10 * (2000 + 2000 + 200) + 8500 + 0.5 * 20 * (1000 + 3 * 110)));
    assert_true(is_near(c.ms[VT_ATTN_COLUMNS128],
                        5000 + 10 * (1500 + 1500 + 240) + 9000 + 0.5 * 10 * (1500 + 4 * 174)));
    assert_true(is_near(c.ms[VT_ATTN_AXIAL64], 5000 + 10 * (4000 + 500 + 50 + 600) + 7000 + 3000 +
                                                   1000 + 0.5 * 40 * (1000 + 110)));
    assert_true(isinf(c.ms[VT_ATTN_AXIAL128]));     /* not counted */
    assert_int_equal(c.kernel, VT_ATTN_COLUMNS128); /* dense: 1029000 ns */
    w.heads = 1000;                                 /* all busy */
    c = choose_columns(automatic, w);
    assert_true(is_near(c.ms[VT_ATTN_COLUMNS128],
                        5000 + 1000 * (1500 + 1500 + 240) + 9000 + 0.5 * 50 * (1500 + 4 * 174)));
    w.head_dim = 32;
    c = choose_columns(automatic, w);
    assert_true(is_near(c.ms[VT_ATTN_COLUMNS128],
                        5000 + 500 * (1500 + 1500 + 240) + 4500 + 0.5 * 25 * (1500 + 4 * 174)));
    vt_attn_wish axial = {.kernel = "axial128"};
    assert_int_equal(choose_columns(axial, w).kernel, VT_ATTN_AXIAL128);
}

static void a_kernel_that_cannot_serve_is_never_taken(void **state)
{
    (void)state;
    vt_attn_choice c;
    vt_status st = {0};
    vt_attn_work w = work(10, 1);
    w.serves[VT_ATTN_TILES] = false; /* which would be the cheapest */
    assert_int_equal(choose(automatic, w).kernel, VT_ATTN_ROWS);
    assert_true(isinf(choose(automatic, w).ms[VT_ATTN_TILES]));
    vt_attn_wish tiles = {.rule = VT_RULE_AUTO, .threshold = 0.30, .kernel = "tiles"};
    assert_int_equal(vt_attn_choose(&c, &tiles, &w, &costs, &st), -1);
    assert_int_equal(st.code, VT_USAGE);
    assert_non_null(strstr(st.text, "tiles"));
    w.serves[VT_ATTN_ROWS] = false;
    assert_int_equal(choose(automatic, w).kernel, VT_ATTN_DENSE);
    assert_int_equal(choose(by_density, w).kernel, VT_ATTN_DENSE);
    w.masked = w.serves[VT_ATTN_DENSE] = false;
    assert_int_equal(vt_attn_choose(&c, &automatic, &w, &costs, &st), -1);
}

static void dense_visits_all_in_turns_or_skips_what_is_empty(void **state)
{
    (void)state;
    vt_attn_costs gpu = {.tile = 100, .mask = 20, .skip = 150}; /* 16 tiles, head_dim 8 */
    vt_attn_work w = work(64, 1);
    w.occupied = 0.5;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w) - 1e-6 * (150 * 8 * 8 + 20 * 16)) <
                1e-12);
    w.occupied = 0.9;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w) - 1e-6 * 16 * (800 + 20)) < 1e-12);
    gpu.skip = 0; /* no kernel skips */
    w.occupied = 0.5;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w) - 1e-6 * 16 * (800 + 20)) < 1e-12);
    w.masked = false;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w) - 1e-6 * 16 * 800) < 1e-12);
    gpu.walk = 500; /* 64 keys, one after the other */
    gpu.walk_rows = 48, gpu.walk_blocks = 2;
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 64 * 500));
    gpu.walk_rows = 21; /* 4 blocks in 2 turns */
    gpu.walk_start = 70;
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 2 * (70 + 64 * 500)));
    gpu.walk_blocks = 0; /* only one visits all keys */
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 70 + 64 * 500));
    gpu.walk_mask = 100;
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 70 + 64 * 500));
    w.masked = true;
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 70 + 64 * 600));
    w.masked = false;
    gpu.walk_least = 64; /* what does not pass by all keys serves so few */
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 16 * 800));
    gpu.tile = 0, gpu.skip = 150; /* the only kernel is one that skips */
    assert_true(is_near(vt_attn_predict(&gpu, VT_ATTN_DENSE, &w), 16 * 150 * 8));
}

static void the_longest_row_bounds_rows_from_below(void **state)
{
    (void)state;
    vt_attn_costs gpu = {.tile = 1e9, .pair = 1, .longest = 500, .launch = 1000};
    vt_attn_work w = work(64, 1);
    w.row_max = 10;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_ROWS, &w) - 1e-6 * (1000 + 5000)) < 1e-12);
    w.row_max = 1;
    assert_true(fabs(vt_attn_predict(&gpu, VT_ATTN_ROWS, &w) - 1e-6 * (1000 + 512)) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_cost_groups_tiles_passes_and_what_ends_last),
        cmocka_unit_test(a_kernel_that_cannot_serve_is_never_taken),
        cmocka_unit_test(dense_visits_all_in_turns_or_skips_what_is_empty),
        cmocka_unit_test(the_longest_row_bounds_rows_from_below),
        cmocka_unit_test(no_mask_is_dense_whatever_is_asked),
        cmocka_unit_test(the_threshold_is_strict),
        cmocka_unit_test(density_takes_a_sparse_kernel_even_where_it_is_slower),
        cmocka_unit_test(automatic_takes_the_fastest_below_the_threshold),
        cmocka_unit_test(a_sparse_kernel_must_promise_more_than_predictions_are_off),
        cmocka_unit_test(forced_kernels_are_obeyed_and_unknown_ones_refused),
        cmocka_unit_test(reasons_say_density_threshold_and_times),
        cmocka_unit_test(time_grows_with_work_and_shrinks_with_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
