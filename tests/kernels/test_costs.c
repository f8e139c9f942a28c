/* The cost model's constants survive being written, and are found again from times that were computed
 * with them, exact or disturbed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/costs.h"

enum { MOST = 400 };

/* Like a CPU's: no launch, no columns. */
static const vt_attn_costs cpu = {.pack = 0.11,
                                  .tile = 11.7,
                                  .soft = 7.0,
                                  .mask = 44.6,
                                  .group = 73,
                                  .widen = 0.62,
                                  .pair = 0.13,
                                  .pair_soft = 10,
                                  .row = 31,
                                  .reference = 0.33};

/* Like a GPU's: no tiles, little per token. */
static const vt_attn_costs gpu = {.tile = 0.002,
                                  .mask = 0.03,
                                  .skip = 0.012,
                                  .pair = 0.001,
                                  .row = 0.01,
                                  .reference = 0.0001,
                                  .launch = 3000,
                                  .longest = 180,
                                  .columns_group = {8, 14},
                                  .columns_tile = {1, 1.5},
                                  .columns_block = {2.6, 2.2},
                                  .columns_merge = {16, 30},
                                  .columns_start = 4000,
                                  .columns_pass = 2000,
                                  .columns_step = 400,
                                  .columns_late = 0.5,
                                  .columns_blocks = {400, 200},
                                  .columns_guests = 1};

static vt_attn_work work_of(int tokens, int head_dim, int images, double density, bool masked)
{
    int t = (tokens + 15) / 16, groups = (tokens + 63) / 64;
    vt_attn_work w = {.images = images,
                      .heads = 12,
                      .tokens = tokens,
                      .head_dim = head_dim,
                      .threads = 1,
                      .masked = masked};
    w.nnz = (int64_t)(density * tokens * tokens) + tokens;
    w.occupied = fmin(1, 4 * density);
    w.tiles = (int64_t)(fmin(1, 3 * density) * t * t) + t;
    w.row_max = tokens;
    for (int s = 0; s < VT_COLUMNS_SHAPES; s++) {
        vt_columns_count *c = &w.columns[s];
        c->groups = groups / (s % 2 + 1) + 1;
        c->passes = s / 2 + 1;
        c->merged = s / 2 * c->groups / 2;
        c->tiles = c->groups * (1 + (int64_t)(fmin(1, 4 * density) * tokens / 64));
        c->blocks = c->tiles * (s % 2 + 1) - s % 2 * (c->tiles / (t % 3 + 2));
        c->spared = tokens / 64 / 2;
        c->prefix = 2 + tokens / 64 / 2;
        for (int p = 0; p < c->passes; p++)
            c->longest[p] = c->tiles / c->groups + p;
    }
    return w;
}

/* What all kernels would take, over sizes and masks; `noise` disturbs the times. */
static int samples_of(const vt_attn_costs *truth, bool is_gpu, double noise, vt_attn_sample *out)
{
    const int tokens[] = {64, 197, 577, 1025, 4097}, images[] = {1, 8};
    const double density[] = {0.003, 0.03, 0.2};
    uint32_t random = 1;
    int n = 0;
    for (int t = 0; t < 5; t++)
        for (int d = 0; d < 3; d++)
            for (int b = 0; b < 2; b++)
                for (int k = 0; k < VT_ATTN_KERNELS; k++) {
                    bool served = is_gpu ? k != VT_ATTN_TILES : k <= VT_ATTN_ROWS;
                    if (!served)
                        continue;
                    vt_attn_sample *s = &out[n++];
                    random = random * 1664525u + 1013904223u;
                    s->kernel = (vt_attn_kernel)k;
                    s->work = work_of(tokens[t], is_gpu ? 64 : 32 << (t + d) % 3, images[b],
                                      density[d], d > 0 || k != VT_ATTN_DENSE);
                    s->ms = vt_attn_predict(truth, s->kernel, &s->work) *
                            (1 + noise * ((random >> 8) * 0x1p-23 - 1));
                }
    assert_true(n <= MOST);
    return n;
}

/* Every constant but facts times something between 1/2 and 2: where a formula is the less of two, a fit
 * from further off may end with the other. */
static vt_attn_costs another(vt_attn_costs c, uint32_t seed)
{
    double *x = (double *)&c;
    for (int i = 0; i < vt_costs_count(); i++) {
        seed = seed * 1664525u + 1013904223u;
        if (!vt_costs_is_fact(i))
            x[i] *= exp2(2 * (seed >> 8) * 0x1p-24 - 1);
    }
    return c;
}

static vt_attn_kernel fastest(const vt_attn_costs *c, const vt_attn_work *w, bool is_gpu)
{
    vt_attn_kernel best = VT_ATTN_DENSE;
    for (int k = VT_ATTN_DENSE; k < VT_ATTN_KERNELS; k++) {
        bool served = is_gpu ? k != VT_ATTN_TILES : k <= VT_ATTN_ROWS;
        if (served && vt_attn_predict(c, (vt_attn_kernel)k, w) < vt_attn_predict(c, best, w))
            best = (vt_attn_kernel)k;
    }
    return best;
}

static void exact_times_are_explained(void **state)
{
    (void)state;
    static vt_attn_sample s[MOST];
    vt_status st = {0};
    for (uint32_t seed = 1; seed <= 20; seed++)
        for (int is_gpu = 0; is_gpu < 2; is_gpu++) {
            vt_attn_costs truth = another(is_gpu ? gpu : cpu, seed), found = is_gpu ? gpu : cpu;
            int n = samples_of(&truth, is_gpu, 0, s);
            double before = vt_costs_judge(&found, s, n).worst;
            assert_int_equal(vt_costs_fit(&found, s, n, &st), 0);
            vt_costs_miss after = vt_costs_judge(&found, s, n);
            if (!(after.worst < 0.02 && after.worst < before))
                fail_msg("seed %u, %s: misses by %g, before by %g", seed, is_gpu ? "gpu" : "cpu",
                         after.worst, before);
        }
}

static void constants_that_matter_are_found_again(void **state)
{
    (void)state;
    static vt_attn_sample s[MOST];
    vt_status st = {0};
    vt_attn_costs truth = another(cpu, 7), found = cpu;
    int n = samples_of(&truth, false, 0, s);
    assert_int_equal(vt_costs_fit(&found, s, n, &st), 0);
    const double pairs[][2] = {{found.tile, truth.tile},
                               {found.pair, truth.pair},
                               {found.mask, truth.mask},
                               {found.reference, truth.reference}};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(pairs[i][0] / pairs[i][1] - 1) < 0.03);
    assert_true(found.launch == 0 && found.columns_block[0] == 0);
}

static void disturbed_times_still_choose_well(void **state)
{
    (void)state;
    static vt_attn_sample s[MOST];
    vt_status st = {0};
    for (int is_gpu = 0; is_gpu < 2; is_gpu++) {
        vt_attn_costs truth = another(is_gpu ? gpu : cpu, 3), found = is_gpu ? gpu : cpu;
        int n = samples_of(&truth, is_gpu, 0.05, s);
        assert_int_equal(vt_costs_fit(&found, s, n, &st), 0);
        for (int i = 0; i < n; i++) {
            vt_attn_kernel best = fastest(&truth, &s[i].work, is_gpu);
            vt_attn_kernel taken = fastest(&found, &s[i].work, is_gpu);
            double loss = vt_attn_predict(&truth, taken, &s[i].work) /
                          vt_attn_predict(&truth, best, &s[i].work);
            assert_true(loss < 1.08);
        }
    }
}

static void what_nothing_tells_stays(void **state)
{
    (void)state;
    static vt_attn_sample s[MOST];
    vt_status st = {0};
    vt_attn_costs truth = another(gpu, 5), found = gpu;
    int n = samples_of(&truth, true, 0, s), dense = 0;
    for (int i = 0; i < n; i++)
        if (s[i].kernel == VT_ATTN_DENSE)
            s[dense++] = s[i];
    s[dense] = s[0];
    s[dense++].ms = 0; /* no time: does not count */
    assert_int_equal(vt_costs_fit(&found, s, dense, &st), 0);
    assert_true(fabs(found.columns_block[0] / gpu.columns_block[0] - 1) < 1e-9);
    assert_true(fabs(found.pair / gpu.pair - 1) < 1e-9);
    assert_true(fabs(found.tile / truth.tile - 1) < 0.02);
    vt_attn_costs none = gpu;
    assert_int_equal(vt_costs_fit(&none, s, 0, &st), 0);
    for (int i = 0; i < vt_costs_count(); i++) /* up to exp and log */
        assert_true(fabs(vt_costs_get(&none, i) - vt_costs_get(&gpu, i)) <=
                    1e-12 * vt_costs_get(&gpu, i));
}

static void texts_are_read_back(void **state)
{
    (void)state;
    char text[VT_COSTS_TEXT], again[VT_COSTS_TEXT];
    for (uint32_t seed = 0; seed < 50; seed++) {
        vt_attn_costs c = another(seed % 2 ? gpu : cpu, seed), read;
        vt_costs_write(&c, text);
        assert_true(vt_costs_read(&read, text));
        vt_costs_write(&read, again);
        assert_string_equal(text, again);
    }
    vt_attn_costs longest;
    for (int i = 0; i < vt_costs_count(); i++)
        ((double *)&longest)[i] = 1.23456e-300;
    vt_costs_write(&longest, text);
    assert_true(vt_costs_read(&longest, text));
}

static void broken_texts_are_refused(void **state)
{
    (void)state;
    char good[VT_COSTS_TEXT], bad[VT_COSTS_TEXT + 64];
    vt_attn_costs untouched = gpu;
    vt_costs_write(&gpu, good);
    for (size_t n = 0; n + 1 < strlen(good); n++)
        if (good[n] == ' ' || good[n] == '=') { /* cut in the middle of a value is a value */
            snprintf(bad, sizeof bad, "%.*s", (int)n, good);
            assert_false(vt_costs_read(&untouched, bad));
        }
    const char *const others[] = {"pack=nan", "pack=inf", "pack=-1", "pack=", "pack", "tile=1"};
    for (int i = 0; i < 6; i++) {
        snprintf(bad, sizeof bad, "%s%s", others[i], strchr(good, ' '));
        assert_false(vt_costs_read(&untouched, bad));
    }
    snprintf(bad, sizeof bad, "%s more=1", good);
    assert_false(vt_costs_read(&untouched, bad));
    assert_memory_equal(&untouched, &gpu, sizeof gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_times_are_explained),
        cmocka_unit_test(constants_that_matter_are_found_again),
        cmocka_unit_test(disturbed_times_still_choose_well),
        cmocka_unit_test(what_nothing_tells_stays),
        cmocka_unit_test(texts_are_read_back),
        cmocka_unit_test(broken_texts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
