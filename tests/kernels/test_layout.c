/* Bitmap, CSR and tiles hold exactly the pairs of the row function that they were built from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/layout.h"
#include "tests/support_mask.h"

static void check_bitmap(const table_mask *t)
{
    vt_status st = {VT_OK, ""};
    int n = t->mask.tokens;
    vt_bitmap *b = vt_bitmap_build(&t->mask, 2, &st);
    assert_non_null(b);
    assert_int_equal(b->tokens, n);
    assert_int_equal(b->stride, (n + 7) / 8);
    assert_true(b->bytes >= (size_t)n * b->stride);
    for (int q = 0; q < n; q++)
        for (size_t k = 0; k < b->stride * 8; k++) {
            bool on = b->bits[(size_t)q * b->stride + k / 8] >> k % 8 & 1;
            assert_int_equal(on, k < (size_t)n && t->on[(size_t)q * (size_t)n + k]);
        }
    vt_bitmap_free(b);
}

static void check_csr(const table_mask *t)
{
    vt_status st = {VT_OK, ""};
    int n = t->mask.tokens;
    vt_csr *c = vt_csr_build(&t->mask, 2, &st);
    assert_non_null(c);
    assert_non_null(c->key16);
    assert_null(c->key32);
    assert_int_equal(c->start[0], 0);
    for (int q = 0; q < n; q++) {
        uint32_t at = c->start[q];
        for (int k = 0; k < n; k++)
            if (t->on[(size_t)q * (size_t)n + (size_t)k])
                assert_int_equal(c->key16[at++], k);
        assert_int_equal(at, c->start[q + 1]);
    }
    vt_csr_free(c);
}

/* Every token has one slot; prefix tokens share no group with patches. Fills slot[N]. */
static void check_slots(const table_mask *t, const vt_tiles *l, int *slot)
{
    int n = t->mask.tokens, found = 0;
    for (int s = 0; s < l->groups * VT_TILE; s++) {
        int token = l->token[s];
        if (token < 0) {
            assert_int_equal(token, -1);
            continue;
        }
        assert_true(token < n);
        slot[token] = s;
        found++;
        int first = l->token[s - s % VT_TILE];
        assert_int_equal(token < t->mask.prefix, first < t->mask.prefix);
    }
    assert_int_equal(found, n);
    for (int i = 0; i < n; i++)
        assert_int_equal(l->token[slot[i]], i);
}

/* Turns group g's list into pairs of the table `got`; checks order and the FULL mark. */
static size_t check_group(const vt_tiles *l, int g, bool *got)
{
    size_t partial = 0, n = (size_t)l->tokens;
    for (uint32_t i = l->start[g]; i < l->start[g + 1]; i++) {
        bool full = l->tile[i] & VT_TILE_FULL, any = false, all = true;
        uint32_t k = l->tile[i] & ~(uint32_t)VT_TILE_FULL;
        assert_true(k < (uint32_t)l->groups);
        if (i > l->start[g])
            assert_true((l->tile[i - 1] & ~(uint32_t)VT_TILE_FULL) < k);
        partial += !full;
        for (int q = 0; q < VT_TILE; q++)
            for (int s = 0; s < VT_TILE; s++) {
                int query = l->token[g * VT_TILE + q], key = l->token[k * VT_TILE + (uint32_t)s];
                bool on = full || (l->bits[l->bits_at[i]][q] >> s & 1);
                if (query < 0 || key < 0) {
                    assert_true(full || !on);
                    continue;
                }
                any |= on;
                all &= on;
                got[(size_t)query * n + (size_t)key] = on;
            }
        assert_true(any);
        assert_int_equal(full, all);
    }
    return partial;
}

static void check_tiles(const table_mask *t)
{
    vt_status st = {VT_OK, ""};
    size_t n = (size_t)t->mask.tokens, partial = 0;
    vt_tiles *l = vt_tiles_build(&t->mask, 2, &st);
    assert_non_null(l);
    assert_int_equal(l->tokens, n);
    int *slot = test_calloc(n, sizeof *slot);
    bool *got = test_calloc(n * n, sizeof *got);
    check_slots(t, l, slot);
    assert_int_equal(l->start[0], 0);
    for (int g = 0; g < l->groups; g++)
        partial += check_group(l, g, got);
    assert_int_equal(partial, l->partial);
    assert_memory_equal(got, t->on, n * n);
    int64_t tiles = -1;
    assert_int_equal(vt_tiles_count(&t->mask, 1, &tiles, &st), 0);
    assert_int_equal(tiles, l->start[l->groups]);
    size_t words = (size_t)l->groups * 17 + 1 + 2 * (size_t)tiles;
    assert_int_equal(l->bytes, sizeof *l + words * 4 + partial * 32);
    test_free(slot);
    test_free(got);
    vt_tiles_free(l);
}

static void check_all(table_mask *t)
{
    check_bitmap(t);
    check_csr(t);
    check_tiles(t);
    vt_mask_free(&t->mask);
}

static void every_size_up_to_70_tokens_round_trips(void **state)
{
    (void)state;
    for (int n = 1; n <= 70; n++) {
        check_all(table_mask_random(0, 1, n, 0.3, (unsigned)n));
        check_all(table_mask_random(0, n, 1, 0.1, (unsigned)n));
        if (n > 1)
            check_all(table_mask_random(1, 1, n - 1, 0.02, (unsigned)n));
    }
}

static void odd_grids_and_prefixes_round_trip(void **state)
{
    (void)state;
    const int prefix[] = {0, 1, 2, 5, 16, 17},
              grid[][2] = {{3, 5}, {4, 4}, {7, 9}, {14, 14}, {5, 2}};
    for (int p = 0; p < 6; p++)
        for (int g = 0; g < 5; g++)
            for (int d = 0; d < 4; d++)
                check_all(table_mask_random(prefix[p], grid[g][0], grid[g][1],
                                            (double[]){0.01, 0.1, 0.5, 0.99}[d],
                                            (unsigned)(p * 20 + g * 4 + d)));
}

static void empty_and_full_rows_round_trip(void **state)
{
    (void)state;
    for (int prefix = 0; prefix <= 5; prefix += 5) {
        table_mask *t = table_mask_random(prefix, 6, 7, 0.2, 3);
        size_t n = (size_t)t->mask.tokens;
        for (size_t q = 0; q < n; q++)
            if (q % 3 != 2)
                memset(t->on + q * n, q % 3 == 0, n);
        check_all(t);
        check_all(table_mask_new(prefix, 6, 7)); /* nothing is on */
        t = table_mask_new(prefix, 6, 7);
        memset(t->on, 1, n * n);
        check_all(t);
    }
}

static void a_full_mask_needs_no_bits(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    table_mask *t = table_mask_new(1, 14, 14);
    memset(t->on, 1, 197 * 197);
    vt_tiles *l = vt_tiles_build(&t->mask, 1, &st);
    assert_int_equal(l->partial, 0);
    assert_int_equal(l->groups, 14); /* one of the prefix, 13 of 196 patches */
    assert_int_equal(l->start[l->groups], 14 * 14);
    vt_tiles_free(l);
    vt_mask_free(&t->mask);
}

/* Each patch sees its own 4 x 4 block: strips make every block one full tile, also where a padding
 * between strips is needed for that. */
static void blocks_of_the_grid_become_full_tiles(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    const int width[] = {16, 14};
    for (int c = 0; c < 2; c++) {
        int w = width[c], blocks = (w + 3) / 4, p = 8 * w;
        table_mask *t = table_mask_new(0, 8, w);
        for (int q = 0; q < p; q++)
            for (int k = 0; k < p; k++)
                t->on[q * p + k] = q / w / 4 == k / w / 4 && q % w / 4 == k % w / 4;
        vt_tiles *l = vt_tiles_build(&t->mask, 1, &st);
        assert_int_equal(l->start[l->groups], 2 * blocks);
        assert_int_equal(l->partial, 0);
        vt_tiles_free(l);
        vt_mask_free(&t->mask);
    }
}

/* Rows of 16 patches that see themselves: the natural order is the best and is taken. */
static void rows_of_the_grid_keep_the_natural_order(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    table_mask *t = table_mask_new(2, 8, 16);
    size_t n = (size_t)t->mask.tokens;
    for (size_t q = 2; q < n; q++)
        for (size_t k = 2; k < n; k++)
            t->on[q * n + k] = (q - 2) / 16 == (k - 2) / 16;
    vt_tiles *l = vt_tiles_build(&t->mask, 1, &st);
    assert_int_equal(l->start[l->groups], 8);
    for (int s = 16; s < l->groups * VT_TILE; s++)
        assert_int_equal(l->token[s], s - 14);
    vt_tiles_free(l);
    vt_mask_free(&t->mask);
}

static void layouts_do_not_depend_on_threads(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    table_mask *t = table_mask_random(1, 13, 17, 0.05, 9);
    vt_tiles *a = vt_tiles_build(&t->mask, 1, &st), *b = vt_tiles_build(&t->mask, 5, &st);
    size_t tiles = a->start[a->groups];
    assert_int_equal(a->groups, b->groups);
    assert_memory_equal(a->start, b->start, ((size_t)a->groups + 1) * sizeof *a->start);
    assert_memory_equal(a->tile, b->tile, tiles * sizeof *a->tile);
    assert_memory_equal(a->bits_at, b->bits_at, tiles * sizeof *a->bits_at);
    assert_memory_equal(a->bits, b->bits, a->partial * sizeof *a->bits);
    vt_tiles_free(a);
    vt_tiles_free(b);
    vt_mask_free(&t->mask);
}

/* 65537 tokens, each of which sees itself and the last: keys need 32 bits. */
static void see_last_row(const vt_mask *mask, int query, uint64_t *bits)
{
    memset(bits, 0, vt_mask_words(mask->tokens) * sizeof *bits);
    bits[query / 64] |= (uint64_t)1 << query % 64;
    bits[mask->tokens / 64] |= (uint64_t)1 << (mask->tokens - 1) % 64;
}

static void csr_widens_its_keys_beyond_65536_tokens(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    vt_mask m = {.tokens = 65537, .grid_h = 1, .grid_w = 65537, .row = see_last_row};
    vt_csr *c = vt_csr_build(&m, 2, &st);
    assert_null(c->key16);
    assert_int_equal(c->start[65537], 2 * 65537 - 1);
    assert_int_equal(c->key32[2 * 65535 + 1], 65536);
    assert_int_equal(c->bytes, sizeof *c + 65538 * 4 + (2 * 65537 - 1) * 4);
    vt_csr_free(c);
}

static void all_row(const vt_mask *mask, int query, uint64_t *bits)
{
    (void)query;
    memset(bits, 0xff, vt_mask_words(mask->tokens) * sizeof *bits);
}

static void more_pairs_than_32_bits_count_is_an_error(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    vt_mask m = {.tokens = 65536, .grid_h = 1, .grid_w = 65536, .row = all_row};
    assert_null(vt_csr_build(&m, 2, &st));
    assert_int_equal(st.code, VT_MACHINE);
    assert_non_null(strstr(st.text, "more than 2^32 - 1 allowed pairs"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_up_to_70_tokens_round_trips),
        cmocka_unit_test(odd_grids_and_prefixes_round_trip),
        cmocka_unit_test(empty_and_full_rows_round_trip),
        cmocka_unit_test(a_full_mask_needs_no_bits),
        cmocka_unit_test(blocks_of_the_grid_become_full_tiles),
        cmocka_unit_test(rows_of_the_grid_keep_the_natural_order),
        cmocka_unit_test(layouts_do_not_depend_on_threads),
        cmocka_unit_test(csr_widens_its_keys_beyond_65536_tokens),
        cmocka_unit_test(more_pairs_than_32_bits_count_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
