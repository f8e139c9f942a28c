/* Random patterns: exact counts, the same bits everywhere, and the right distribution. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/masks/pattern.h"

static vt_masks *load_seeded(const char *text, int layers, int h, int w, int threads)
{
    vt_status st = {VT_OK, ""};
    vt_mask_shape shape = {layers, 1, 0, h, w};
    vt_masks *m = vt_masks_load(NULL, &text, 1, &shape, threads, &st);
    if (!m)
        fail_msg("%s: %s", text, st.text);
    return m;
}

static vt_mask_stats stats(const char *text, int h, int w, int threads)
{
    vt_status st = {VT_OK, ""};
    vt_mask_stats s;
    vt_masks *m = load_seeded(text, 1, h, w, threads);
    assert_int_equal(vt_mask_count(m->layer[0].group[0].mask, 1, &s, &st), 0);
    vt_masks_free(m);
    return s;
}

static void counts_are_truncated_as_the_how_to_computes_them(void **state)
{
    (void)state;
    assert_int_equal(stats("random(sparsity=0.95)", 20, 30, 2).nnz, 18000);
    assert_int_equal(stats("random(sparsity=0.99)", 14, 14, 2).nnz, 384); /* of 384.16 */
    assert_int_equal(stats("random(sparsity=0.9)", 14, 14, 2).nnz, 3841); /* of 3841.6 */
    assert_int_equal(stats("random(nnz=1)", 14, 14, 2).nnz, 1);
    assert_int_equal(stats("random(nnz=38415)", 14, 14, 2).nnz, 38415);
    const char *g = "random_from_probability(probability=local_2d_gaussian(sigma=2), "
                    "sparsity=0.95, seed=7)";
    assert_int_equal(stats(g, 20, 30, 2).nnz, 18000);
}

/* nnz from nothing to everything, among few pairs and many: histograms, ties of bins, ends. */
static void any_count_is_exact(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    const int patches[] = {1, 2, 3, 10, 65, 300};
    for (int i = 0; i < 6; i++)
        for (int part = 0; part <= 9; part++) {
            int p = patches[i];
            int64_t pairs = (int64_t)p * p, on = 0;
            int64_t nnz = part == 8 ? 1 : part == 9 ? pairs - 1 : pairs * part / 7;
            size_t room = (size_t)p * vt_mask_words(p);
            uint64_t *bits = vt_alloc(room, sizeof *bits, "test", &st);
            assert_int_equal(vt_random_uniform(bits, p, nnz, 5, 2, &st), 0);
            for (size_t w = 0; w < room; w++)
                on += __builtin_popcountll(bits[w]);
            assert_int_equal(on, nnz);
            vt_free(bits);
        }
}

/* The smallest keys by a full sort are those chosen. */
static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void the_smallest_keys_are_chosen(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    enum { P = 150, PAIRS = P * P, NNZ = 5000 };
    uint64_t *key = test_calloc(PAIRS, sizeof *key), bits[P * 3] = {0};
    for (uint64_t i = 0; i < PAIRS; i++)
        key[i] = vt_random_key(42, i);
    qsort(key, PAIRS, sizeof *key, ascending);
    for (int i = 1; i < PAIRS; i++)
        assert_true(key[i - 1] != key[i]);
    assert_int_equal(vt_random_uniform(bits, P, NNZ, 42, 3, &st), 0);
    for (uint64_t i = 0; i < PAIRS; i++)
        assert_int_equal(bits[i / P * 3 + i % P / 64] >> i % P % 64 & 1,
                         vt_random_key(42, i) < key[NNZ]);
    test_free(key);
}

typedef struct {
    double key;
    int pair;
} keyed;

static int by_key(const void *a, const void *b)
{
    double x = ((const keyed *)a)->key, y = ((const keyed *)b)->key;
    return x < y ? -1 : x > y;
}

/* Fixed point orders as these doubles do, but for keys nearer than 2^-46, which do not occur. */
static void check_gaussian(int h, int w, double sigma, int64_t nnz, uint64_t seed)
{
    vt_status st = {VT_OK, ""};
    int p = h * w, words = (int)vt_mask_words(p);
    keyed *all = test_calloc((size_t)p * (size_t)p, sizeof *all);
    uint64_t *bits = test_calloc((size_t)p * (size_t)words, sizeof *bits);
    for (int i = 0; i < p * p; i++) {
        int di = i / p / w - i % p / w, dj = i / p % w - i % p % w;
        double u = ((double)(vt_random_key(seed, (uint64_t)i) >> 12) + 0.5) * 0x1p-52;
        double far = (di * di + dj * dj) / (2 * sigma * sigma);
        all[i] = (keyed){vt_random_log(-vt_random_log(u)) + far, i};
    }
    qsort(all, (size_t)(p * p), sizeof *all, by_key);
    assert_int_equal(vt_random_gaussian(bits, h, w, sigma, nnz, seed, 2, &st), 0);
    for (int i = 0; i < p * p; i++) {
        int q = all[i].pair / p, k = all[i].pair % p;
        assert_int_equal(bits[q * words + k / 64] >> k % 64 & 1, i < nnz);
    }
    test_free(all);
    test_free(bits);
}

static void the_first_arrivals_are_chosen(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++)
        for (int i = 0; i < 5; i++) {
            check_gaussian(5, 7, 0.5 + i, (int[]){1, 20, 60, 40, 300}[i], seed);
            check_gaussian(1, 70, 6.5, (int[]){1, 70, 500, 2000, 4899}[i], seed);
        }
}

/* Whether the NNZ pairs chosen on a grid of one row are those with the smallest keys. far: -log of
 * the weight at distance 1, 0 for the uniform pattern. */
enum { ROW = 40, NNZ = 100 };

static void check_smallest(const uint64_t *bits, uint64_t seed, double far)
{
    double last = -1e300, first = 1e300;
    int on = 0;
    for (int i = 0; i < ROW * ROW; i++) {
        uint64_t random = vt_random_key(seed, (uint64_t)i);
        double u = ((double)(random >> 12) + 0.5) * 0x1p-52, d = i / ROW - i % ROW;
        double key = far > 0 ? vt_random_log(-vt_random_log(u)) + far * d * d : (double)random;
        if (bits[i / ROW] >> i % ROW & 1) {
            on++;
            last = fmax(last, key);
        } else {
            first = fmin(first, key);
        }
    }
    assert_int_equal(on, NNZ);
    assert_true(last < first);
}

/* So many draws that in some of them the first window of keys begins too late or ends too early. */
static void every_draw_of_many_is_the_smallest_keys(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    for (uint64_t seed = 0; seed < 1500; seed++) {
        uint64_t bits[ROW] = {0}, weighted[ROW] = {0};
        assert_int_equal(vt_random_uniform(bits, ROW, NNZ, seed, 1, &st), 0);
        check_smallest(bits, seed, 0);
        assert_int_equal(vt_random_gaussian(weighted, 1, ROW, 16, NNZ, seed, 1, &st), 0);
        check_smallest(weighted, seed, 1 / (2.0 * 16 * 16));
    }
}

static void the_logarithm_is_right_to_the_last_bits(void **state)
{
    (void)state;
    uint64_t x = 1;
    for (int i = 0; i < 200000; i++) {
        x = vt_random_mix(x + 1);
        double u = ((double)(x >> 12) + 0.5) * 0x1p-52, l = log(u);
        assert_true(fabs(vt_random_log(u) - l) <= 4e-16 * fabs(l));
        assert_true(fabs(vt_random_log(-l) - log(-l)) <= 4e-16 * (1 + fabs(log(-l))));
    }
    assert_true(vt_random_log(1.0) == 0.0);
    assert_true(fabs(vt_random_log(0x1p-1060) + 1060 * log(2)) < 1e-12);
}

/* Pins the bits: a change of generator, logarithm or selection, or a machine that computes anything
 * else, shows here. */
static void masks_are_the_same_on_every_machine(void **state)
{
    (void)state;
    vt_mask_stats a = stats("random(sparsity=0.9, seed=1)", 14, 14, 1);
    vt_mask_stats b = stats("random_from_probability(probability=local_2d_gaussian(sigma=2), "
                            "sparsity=0.95, seed=7)",
                            20, 30, 1);
    vt_mask_stats c = stats("bigbird(block_size=4, random_blocks=2, seed=3)", 14, 14, 1);
    assert_true(a.hash[0] == 0xcfdfe134e4be2d80 && a.hash[1] == 0xeb41454fd7ff33e6);
    assert_true(b.hash[0] == 0xe8faf13060cc5c8e && b.hash[1] == 0xffe7f80a50f670f3);
    assert_true(c.hash[0] == 0x1f91840340a8df68 && c.hash[1] == 0xe70a1b32623feaee);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    const char *texts[] = {"random(sparsity=0.9, seed=1)",
                           "random_from_probability(probability=local_2d_gaussian(sigma=3), "
                           "sparsity=0.8, seed=7)"};
    for (int i = 0; i < 2; i++) {
        vt_mask_stats one = stats(texts[i], 16, 17, 1);
        for (int threads = 2; threads < 8; threads++) {
            vt_mask_stats many = stats(texts[i], 16, 17, threads);
            assert_int_equal(one.nnz, many.nnz);
            assert_memory_equal(one.hash, many.hash, sizeof one.hash);
        }
    }
}

static void seeds_give_different_masks(void **state)
{
    (void)state;
    vt_mask_stats a = stats("random(sparsity=0.9, seed=1)", 14, 14, 1);
    vt_mask_stats b = stats("random(sparsity=0.9, seed=2)", 14, 14, 1);
    vt_mask_stats none = stats("random(sparsity=0.9)", 14, 14, 1);
    vt_mask_stats zero = stats("random_pattern(seed=0, sparsity=0.9)", 14, 14, 1);
    assert_true(a.hash[0] != b.hash[0]);
    assert_true(none.hash[0] == zero.hash[0] && none.hash[1] == zero.hash[1]);
}

static void one_seed_is_one_mask_on_all_layers(void **state)
{
    (void)state;
    vt_masks *m = load_seeded("random(sparsity=0.5, seed=9)", 5, 8, 8, 1);
    assert_int_equal(m->masks, 1);
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(m->layer[i].group[0].mask, m->mask[0]);
    vt_masks_free(m);
}

/* Rows and columns of a uniform pattern hold binomial counts: with P = 256 and density 1/4, mean
 * 64, standard deviation 6.9; six of them bound 512 counts. */
static void uniform_pairs_are_spread_evenly(void **state)
{
    (void)state;
    vt_masks *m = load_seeded("random(sparsity=0.75, seed=4)", 1, 16, 16, 2);
    const vt_mask *mask = m->mask[0];
    int column[256] = {0};
    double squares = 0;
    for (int q = 0; q < 256; q++) {
        uint64_t bits[4];
        int on = 0;
        mask->row(mask, q, bits);
        for (int k = 0; k < 256; k++) {
            on += (int)(bits[k / 64] >> k % 64 & 1);
            column[k] += (int)(bits[k / 64] >> k % 64 & 1);
        }
        assert_in_range(on, 64 - 42, 64 + 42);
        squares += (on - 64) * (on - 64);
    }
    for (int k = 0; k < 256; k++)
        assert_in_range(column[k], 64 - 42, 64 + 42);
    assert_true(squares / 256 > 36 && squares / 256 < 62); /* 48 +- 3 sigma */
    vt_masks_free(m);
}

/* How often pairs at each squared distance are drawn, against successive sampling in its limit: a
 * pair of weight w is in with probability 1 - exp(-t w), t such that the sum is nnz. */
static void weighted_pairs_follow_their_weights(void **state)
{
    (void)state;
    enum { SIDE = 24, P = SIDE * SIDE };
    const double sigma = 2;
    vt_masks *m = load_seeded("random_from_probability(probability={\"type\": "
                              "\"local_2d_gausian_distribution\", \"sigma\": 2}, nnz=10000)",
                              1, SIDE, SIDE, 2);
    const vt_mask *mask = m->mask[0];
    double pairs[60] = {0}, drawn[60] = {0}, low = 0, high = 1e6, sum;
    int64_t on = 0;
    for (int q = 0; q < P; q++) {
        uint64_t bits[P / 64];
        mask->row(mask, q, bits);
        for (int k = 0; k < P; k++) {
            int di = q / SIDE - k / SIDE, dj = q % SIDE - k % SIDE, d = di * di + dj * dj;
            on += (int64_t)(bits[k / 64] >> k % 64 & 1);
            if (d < 60) {
                pairs[d]++;
                drawn[d] += (double)(bits[k / 64] >> k % 64 & 1);
            }
        }
    }
    assert_int_equal(on, 10000);
    for (int i = 0; i < 100; i++) { /* bisection for t; beyond d = 60 weights are below 6e-4 */
        double t = (low + high) / 2;
        sum = 0;
        for (int d = 0; d < 60; d++)
            sum += pairs[d] * (1 - exp(-t * exp(-d / (2 * sigma * sigma))));
        if (sum < 10000)
            low = t;
        else
            high = t;
    }
    for (int d = 0; d < 60; d++) {
        double p = 1 - exp(-low * exp(-d / (2 * sigma * sigma))), mean = pairs[d] * p;
        if (pairs[d] > 0)
            assert_true(fabs(drawn[d] - mean) < 5 * sqrt(mean * (1 - p)) + 5);
    }
    vt_masks_free(m);
}

/* sigma=1: weights vanish in single precision at squared distance 208 and beyond. */
static void pairs_without_weight_are_never_drawn(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    enum { W = 40 };
    int64_t weighted = 0;
    uint64_t bits[W] = {0};
    for (int q = 0; q < W; q++)
        for (int k = 0; k < W; k++)
            weighted += (q - k) * (q - k) < 208;
    assert_int_equal(vt_random_gaussian(bits, 1, W, 1.0, weighted, 0, 1, &st), 0);
    for (int q = 0; q < W; q++)
        for (int k = 0; k < W; k++)
            assert_int_equal(bits[q] >> k & 1, (q - k) * (q - k) < 208);
    assert_int_equal(vt_random_gaussian(bits, 1, W, 1.0, weighted + 1, 0, 1, &st), -1);
    assert_string_equal(st.text, "951 pairs asked for, but only 950 of 1600 have a non-zero weight "
                                 "with sigma=1 on 1x40 patches");
    assert_int_equal(weighted, 950);
}

static void extreme_sigmas_are_handled(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    uint64_t bits[16] = {0};
    assert_int_equal(vt_random_gaussian(bits, 4, 4, 1e-300, 16, 0, 1, &st), 0);
    for (int q = 0; q < 16; q++)
        assert_int_equal(bits[q], 1 << q); /* only the diagonal has weight */
    memset(bits, 0, sizeof bits);
    assert_int_equal(vt_random_gaussian(bits, 4, 4, 1e300, 256, 0, 1, &st), 0);
    for (int q = 0; q < 16; q++)
        assert_int_equal(bits[q], 0xffff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_truncated_as_the_how_to_computes_them),
        cmocka_unit_test(any_count_is_exact),
        cmocka_unit_test(the_smallest_keys_are_chosen),
        cmocka_unit_test(the_first_arrivals_are_chosen),
        cmocka_unit_test(every_draw_of_many_is_the_smallest_keys),
        cmocka_unit_test(the_logarithm_is_right_to_the_last_bits),
        cmocka_unit_test(masks_are_the_same_on_every_machine),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(seeds_give_different_masks),
        cmocka_unit_test(one_seed_is_one_mask_on_all_layers),
        cmocka_unit_test(uniform_pairs_are_spread_evenly),
        cmocka_unit_test(weighted_pairs_follow_their_weights),
        cmocka_unit_test(pairs_without_weight_are_never_drawn),
        cmocka_unit_test(extreme_sigmas_are_handled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
