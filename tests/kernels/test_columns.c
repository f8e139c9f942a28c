/* The columns layout holds exactly the pairs of the row function that it was built from, each once,
 * in every shape; its bits are in the order that columns.h gives; counts agree with what is built.
 * Guests and the group of what is left to them hold a prefix query's pairs once more, each once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/columns.h"
#include "tests/support_mask.h"

/* ---- masks ---- */

typedef bool (*rule)(int di, int dj);

static bool near_by(int di, int dj)
{
    return di * di + dj * dj < 9;
}

static bool in_cross(int di, int dj)
{
    return di == 0 || dj == 0;
}

static bool in_cross_or_near(int di, int dj)
{
    return in_cross(di, dj) || near_by(di, dj);
}

/* Patches by a rule of their distance on the grid; prefix tokens see and are seen by all. */
static table_mask *ruled(int prefix, int high, int wide, rule on)
{
    table_mask *t = table_mask_new(prefix, high, wide);
    int n = t->mask.tokens;
    for (int q = 0; q < n; q++)
        for (int k = 0; k < n; k++) {
            int a = q - prefix, b = k - prefix;
            bool sees = a < 0 || b < 0 || on(a / wide - b / wide, a % wide - b % wide);
            t->on[(size_t)q * (size_t)n + (size_t)k] = sees;
        }
    return t;
}

static vt_columns *build(const table_mask *t, vt_columns_shape shape)
{
    vt_status st = {VT_OK, ""};
    vt_columns *l = vt_columns_build(&t->mask, shape, 2, &st);
    assert_non_null(l);
    return l;
}

/* ---- reading a layout back ---- */

static bool bit_of(const uint32_t block[128], int query, int key)
{
    int thread = query / 16 * 32 + query % 8 * 4 + key % 8 / 2;
    return block[thread] >> (key / 8 * 4 + query % 16 / 8 * 2 + key % 2) & 1;
}

static bool pair_on(const vt_columns *l, uint32_t block, int query, int key)
{
    if (block >= VT_BLOCK_EMPTY)
        return block == VT_BLOCK_FULL;
    assert_true(block < l->blocks);
    return bit_of(l->bits[block], query, key);
}

/* Block (tile, half): counts the pairs that it has on, and checks its kind. */
static void read_block(const vt_columns *l, const int32_t *query, const int32_t *key,
                       uint32_t block, uint8_t *got)
{
    int real = 0, on = 0, keys = 0;
    for (int k = 0; k < 64; k++)
        keys += key[k] >= 0;
    for (int q = 0; q < 64; q++)
        for (int k = 0; k < 64 && query[q] >= 0; k++) {
            bool sees = pair_on(l, block, q, k);
            real++;
            on += sees;
            if (key[k] < 0)
                assert_false(sees);
            else
                got[(size_t)query[q] * (size_t)l->tokens + (size_t)key[k]] += sees;
        }
    if (block == VT_BLOCK_FULL)
        assert_int_equal(keys, 64);
    else if (block != VT_BLOCK_EMPTY)
        assert_true(on > 0 && (on < real || keys < 64));
}

static void read_group(const vt_columns *l, int g, uint8_t *got)
{
    int halves = l->shape.rows / 64, tiles = (int)(l->start[g + 1] - l->start[g]);
    const int32_t *query = l->query + (size_t)g * (size_t)l->shape.rows;
    assert_int_equal(tiles, (l->columns[g] + 63) / 64);
    for (int i = 0; i < tiles * 64; i++) {
        int32_t key = l->key[(size_t)l->start[g] * 64 + (size_t)i];
        assert_int_equal(key >= 0, i < (int)l->columns[g]);
        assert_true(key < l->tokens);
    }
    for (int t = 0; t < tiles; t++)
        for (int h = 0; h < halves; h++) {
            size_t tile = l->start[g] + (size_t)t;
            read_block(l, query + 64 * h, l->key + tile * 64,
                       l->block[tile * (size_t)halves + (size_t)h], got);
        }
}

/* Real queries first in each half; every token once in pass 0, at most once in a later one. */
static void check_queries(const vt_columns *l, int pass)
{
    int *times = calloc((size_t)l->tokens, sizeof *times);
    for (int i = l->pass[pass] * l->shape.rows; i < l->pass[pass + 1] * l->shape.rows; i++) {
        assert_true(l->query[i] >= -1 && l->query[i] < l->tokens);
        if (l->query[i] < 0)
            continue;
        times[l->query[i]]++;
        if (i % 64)
            assert_true(l->query[i - 1] >= 0);
    }
    for (int t = 0; t < l->tokens; t++)
        assert_true(pass ? times[t] <= 1 : times[t] == 1);
    free(times);
}

/* Every pair of the prefix queries is taken once from a tile of its key's own group, or left. */
static void check_guests(const table_mask *t, const vt_columns *l)
{
    int halves = l->shape.rows / 64, prefix = t->mask.prefix;
    size_t n = (size_t)t->mask.tokens;
    uint8_t *got = calloc(n * n, 1);
    assert_int_equal(l->guests, prefix <= VT_COLUMN_GUESTS && prefix < t->mask.tokens ? prefix : 0);
    for (int g = 0; l->guests && g < l->pass[1]; g++)
        for (int h = 0; h < halves; h++)
            for (int i = 0; i < l->guests; i++)
                for (uint64_t w = l->guest[g * halves + h][i]; w; w &= w - 1) {
                    uint32_t tile = l->start[g] + (uint32_t)h;
                    assert_true(tile < l->start[g + 1]);
                    got[(size_t)i * n + (size_t)l->key[tile * 64 + (uint32_t)__builtin_ctzll(w)]]++;
                }
    if (l->guests)
        read_group(l, l->groups, got);
    for (size_t i = 0; i < n * n; i++)
        assert_int_equal(got[i], (int)(i / n) < l->guests && t->on[i]);
    free(got);
}

static void check_layout(const table_mask *t, vt_columns_shape shape)
{
    vt_columns *l = build(t, shape);
    size_t n = (size_t)t->mask.tokens;
    uint8_t *got = calloc(n * n, 1);
    assert_int_equal(l->pass[0], 0);
    assert_int_equal(l->pass[l->passes], l->groups);
    assert_int_equal(l->start[0], 0);
    for (int p = 0; p < l->passes; p++)
        check_queries(l, p);
    for (int g = 0; g < l->groups; g++)
        read_group(l, g, got);
    for (size_t i = 0; i < n * n; i++)
        if (got[i] != t->on[i])
            fail_msg("rows %d%s, grid %dx%d: pair (%zu, %zu) is there %d times, must be %d",
                     shape.rows, shape.axial ? " axial" : "", t->mask.grid_h, t->mask.grid_w, i / n,
                     i % n, got[i], t->on[i]);
    free(got);
    check_guests(t, l);
    vt_columns_free(l);
}

static void check_shapes(table_mask *t)
{
    for (int i = 0; i < VT_COLUMNS_SHAPES; i++)
        check_layout(t, vt_columns_shapes[i]);
    vt_mask_free(&t->mask);
}

/* ---- the tests ---- */

static const struct {
    int prefix, high, wide;
} grids[] = {{1, 14, 14}, {0, 8, 8},   {5, 16, 16}, {1, 1, 130}, {2, 130, 1}, {1, 2, 40},
             {0, 1, 1},   {1, 37, 11}, {3, 9, 70},  {1, 24, 24}, {65, 3, 5},  {130, 4, 4}};
enum { GRIDS = sizeof grids / sizeof *grids };

static void every_pair_of_random_masks_is_there_once(void **state)
{
    (void)state;
    const double densities[] = {0, 0.01, 0.1, 0.6, 1};
    for (int g = 0; g < GRIDS; g++)
        for (int d = 0; d < 5; d++)
            check_shapes(table_mask_random(grids[g].prefix, grids[g].high, grids[g].wide,
                                           densities[d], (unsigned)(g + d)));
}

static void every_pair_of_windows_and_crosses_is_there_once(void **state)
{
    (void)state;
    const rule rules[] = {near_by, in_cross, in_cross_or_near};
    for (int g = 0; g < GRIDS; g++)
        for (int r = 0; r < 3; r++)
            check_shapes(ruled(grids[g].prefix, grids[g].high, grids[g].wide, rules[r]));
}

static void a_window_lists_its_block_and_halo(void **state)
{
    (void)state;
    table_mask *t = ruled(1, 32, 32, near_by); /* 2 patches further each way, corners cut off */
    vt_columns *l = build(t, vt_columns_shapes[0]);
    uint32_t most = 0;
    for (int g = 1; g < l->groups; g++)
        most = l->columns[g] > most ? l->columns[g] : most;
    assert_int_equal(l->columns[0], 1025);
    assert_int_equal(most, 12 * 12 + 1);
    assert_int_equal(l->groups, 17);
    vt_columns_free(l);
    vt_mask_free(&t->mask);
}

/* The class token of a window finds all patches in their own groups' first tiles. */
static void only_prefix_keys_are_left_of_a_window(void **state)
{
    (void)state;
    for (int shape = 0; shape < VT_COLUMNS_SHAPES; shape++) {
        table_mask *t = ruled(5, 37, 37, near_by);
        vt_columns *l = build(t, vt_columns_shapes[shape]);
        assert_int_equal(l->columns[l->groups], 5);
        vt_columns_free(l);
        vt_mask_free(&t->mask);
    }
}

static void equal_blocks_are_stored_once(void **state)
{
    (void)state;
    table_mask *t = ruled(0, 80, 80, near_by);
    vt_columns *l = build(t, vt_columns_shapes[0]);
    size_t used = 0;
    for (uint32_t i = 0; i < l->start[l->groups]; i++)
        used += l->block[i] < VT_BLOCK_EMPTY;
    assert_true(l->blocks * 4 < used);
    for (size_t a = 0; a < l->blocks; a++)
        for (size_t b = 0; b < a; b++)
            assert_memory_not_equal(l->bits[a], l->bits[b], sizeof l->bits[a]);
    vt_columns_free(l);
    vt_mask_free(&t->mask);
}

static void a_cross_is_cut_into_rows_and_columns(void **state)
{
    (void)state;
    table_mask *t = ruled(1, 64, 64, in_cross);
    vt_columns *l = build(t, vt_columns_shapes[2]);
    assert_int_equal(l->passes, 2);
    for (int g = 1; g < l->groups; g++)
        assert_int_equal(l->columns[g], g < l->pass[1] ? 65 : 64);
    vt_columns_free(l);
    vt_mask_free(&t->mask);
}

/* Of each pass's groups, and of prefix groups, the most tiles. */
static void check_longest(const vt_columns_count *count, const vt_columns *l, int prefix)
{
    int64_t longest[VT_COLUMN_PASSES] = {0}, of_prefix = 0;
    for (int p = 0; p < l->passes; p++)
        for (int g = l->pass[p]; g < l->pass[p + 1]; g++) {
            int64_t tiles = l->start[g + 1] - l->start[g];
            bool is_prefix = p == 0 && l->query[(size_t)g * (size_t)l->shape.rows] < prefix;
            int64_t *most = is_prefix ? &of_prefix : &longest[p];
            *most = tiles > *most ? tiles : *most;
        }
    assert_int_equal(count->prefix, of_prefix);
    assert_memory_equal(count->longest, longest, sizeof longest);
}

static void counts_are_those_of_the_layout(void **state)
{
    (void)state;
    for (int g = 0; g < GRIDS; g++)
        for (int r = 0; r < 2; r++) {
            table_mask *t =
                r ? ruled(grids[g].prefix, grids[g].high, grids[g].wide, in_cross)
                  : table_mask_random(grids[g].prefix, grids[g].high, grids[g].wide, 0.05, 9);
            vt_columns_count count[VT_COLUMNS_SHAPES];
            vt_status st = {VT_OK, ""};
            assert_int_equal(vt_columns_count_all(&t->mask, 2, count, &st), 0);
            for (int i = 0; i < VT_COLUMNS_SHAPES; i++) {
                vt_columns *l = build(t, vt_columns_shapes[i]);
                int64_t columns = 0, blocks = 0;
                for (int j = 0; j < l->groups; j++)
                    columns += l->columns[j];
                for (uint32_t j = 0; j < l->start[l->groups] * (uint32_t)l->shape.rows / 64; j++)
                    blocks += l->block[j] != VT_BLOCK_EMPTY;
                if (count[i].passes) {
                    assert_int_equal(count[i].passes, l->passes);
                    assert_int_equal(count[i].groups, l->groups);
                    assert_int_equal(count[i].merged, l->groups - l->pass[1]);
                    assert_int_equal(count[i].tiles, l->start[l->groups]);
                    assert_int_equal(count[i].columns, columns);
                    if (l->guests)
                        assert_int_equal(count[i].spared, (l->columns[0] + 63) / 64 -
                                                              (l->columns[l->groups] + 63) / 64);
                    else
                        assert_int_equal(count[i].spared, 0);
                    assert_int_equal(count[i].blocks, blocks);
                    check_longest(&count[i], l, t->mask.prefix);
                } else {
                    assert_true(l->shape.axial);
                }
                vt_columns_free(l);
            }
            vt_mask_free(&t->mask);
        }
}

static void a_cut_is_counted_where_it_pays(void **state)
{
    (void)state;
    const struct {
        rule on;
        bool pays;
    } cases[] = {{in_cross, true}, {in_cross_or_near, true}, {near_by, false}};
    for (int i = 0; i < 3; i++) {
        table_mask *t = ruled(1, 48, 48, cases[i].on);
        vt_columns_count count[VT_COLUMNS_SHAPES];
        vt_status st = {VT_OK, ""};
        assert_int_equal(vt_columns_count_all(&t->mask, 2, count, &st), 0);
        assert_int_equal(count[2].passes > 0, cases[i].pays);
        vt_mask_free(&t->mask);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_random_masks_is_there_once),
        cmocka_unit_test(every_pair_of_windows_and_crosses_is_there_once),
        cmocka_unit_test(a_window_lists_its_block_and_halo),
        cmocka_unit_test(only_prefix_keys_are_left_of_a_window),
        cmocka_unit_test(equal_blocks_are_stored_once),
        cmocka_unit_test(a_cross_is_cut_into_rows_and_columns),
        cmocka_unit_test(counts_are_those_of_the_layout),
        cmocka_unit_test(a_cut_is_counted_where_it_pays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
