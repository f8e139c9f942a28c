/* The CPU's operations on rows and tokens: norm, qk_norm, patches, tokens, pool, cast. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/oracle.h"

static const char *const isas[] = {"generic", "neon", "avx2", "avx512"};
enum { ISAS = 4 };

typedef struct {
    vt_device *dev; /* NULL where the machine has not got it */
    vt_stream *s;
} cpu;

static cpu open_cpu(const char *isa, vt_dtype type, int threads, int images)
{
    vt_status st;
    cpu c = {vt_cpu_open_as(type, threads, isa, 0, &st), NULL};
    if (c.dev) {
        c.s = c.dev->ops->stream_open(c.dev, &st);
        c.s->images = images;
    }
    return c;
}

static void close_cpu(cpu *c)
{
    c->dev->ops->stream_close(c->s);
    c->dev->ops->close(c->dev);
}

static vt_mat new_mat(vt_dtype type, size_t rows, int cols)
{
    vt_mat m = {NULL, type, rows, cols};
    m.p = malloc(vt_mat_bytes(m));
    memset(m.p, 0xff, vt_mat_bytes(m));
    return m;
}

static float *floats_of(const cpu *c, vt_mat m)
{
    vt_status st;
    float *f = malloc(m.rows * (size_t)m.cols * sizeof *f);
    c->dev->ops->download(c->dev, f, m, &st);
    return f;
}

/* offset: how far the mean lies from zero, in standard deviations. */
static void check_norm(const char *isa, size_t rows, int cols, vt_dtype x_type, vt_dtype y_type,
                       float offset)
{
    cpu c = open_cpu(isa, VT_BF16, 2, 1);
    if (!c.dev)
        return;
    vt_status st;
    size_t n = rows * (size_t)cols;
    float *x = malloc(n * sizeof *x), *gamma = malloc((size_t)cols * sizeof *gamma);
    float *beta = malloc((size_t)cols * sizeof *beta), *plain = malloc(n * sizeof *plain);
    double *want = malloc(n * sizeof *want);
    oracle_random(x, n, 1, 1);
    oracle_random(gamma, (size_t)cols, 1, 2);
    oracle_random(beta, (size_t)cols, 1, 3);
    for (size_t i = 0; i < n; i++)
        x[i] += offset;
    if (x_type == VT_BF16)
        oracle_round_bf16(x, n);
    vt_mat mx = new_mat(x_type, rows, cols), my = new_mat(y_type, rows, cols);
    c.dev->ops->upload(c.dev, mx, x, &st);
    oracle_norm(want, x, rows, cols, gamma, beta, 1e-6);
    plain_norm(plain, x, rows, cols, gamma, beta, 1e-6f);
    if (y_type == VT_BF16)
        oracle_round_bf16(plain, n);
    double limit = 2 * oracle_error(plain, want, n) + (y_type == VT_F32 ? 5e-7 : 1e-5);
    c.dev->ops->norm(c.s, my, mx, gamma, beta, 1e-6f);
    float *got = floats_of(&c, my);
    assert_true(oracle_error(got, want, n) <= limit);
    free(got);
    if (x_type == y_type) { /* in place */
        c.dev->ops->norm(c.s, mx, mx, gamma, beta, 1e-6f);
        got = floats_of(&c, mx);
        assert_true(oracle_error(got, want, n) <= limit);
        free(got);
    }
    free(x), free(gamma), free(beta), free(plain), free(want), free(mx.p), free(my.p);
    close_cpu(&c);
}

static void norm_holds_for_all_widths_and_types(void **state)
{
    (void)state;
    const int cols[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 192, 768, 1027};
    for (int isa = 0; isa < ISAS; isa++)
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
            for (int types = 0; types < 4; types++)
                check_norm(isas[isa], 5, cols[i], types & 1 ? VT_BF16 : VT_F32,
                           types & 2 ? VT_BF16 : VT_F32, 0);
}

static void norm_stands_a_mean_far_from_zero(void **state)
{
    (void)state;
    for (int isa = 0; isa < ISAS; isa++)
        check_norm(isas[isa], 5, 768, VT_F32, VT_F32, 1000);
}

static void norm_of_equal_values_is_beta(void **state)
{
    (void)state;
    float x[24], gamma[24], beta[24], y[24];
    for (int i = 0; i < 24; i++)
        x[i] = 3, gamma[i] = 7, beta[i] = (float)i;
    for (int isa = 0; isa < ISAS; isa++) {
        cpu c = open_cpu(isas[isa], VT_F32, 1, 1);
        if (!c.dev)
            continue;
        vt_mat mx = {x, VT_F32, 1, 24}, my = {y, VT_F32, 1, 24};
        c.dev->ops->norm(c.s, my, mx, gamma, beta, 1e-6f);
        assert_memory_equal(y, beta, sizeof beta);
        close_cpu(&c);
    }
}

static void qk_norm_norms_each_head_of_q_and_k_and_leaves_v(void **state)
{
    (void)state;
    enum { ROWS = 7, HEADS = 3, DIM = 20, WIDTH = 3 * HEADS * DIM };
    vt_status st;
    float x[ROWS * WIDTH], p[4][DIM];
    double want[DIM];
    for (int i = 0; i < 4; i++)
        oracle_random(p[i], DIM, 1, (unsigned)i);
    for (int isa = 0; isa < ISAS; isa++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            cpu c = open_cpu(isas[isa], bf16 ? VT_BF16 : VT_F32, 2, 1);
            if (!c.dev)
                continue;
            oracle_random(x, ROWS * WIDTH, 2, 9);
            if (bf16)
                oracle_round_bf16(x, ROWS * WIDTH);
            vt_mat m = new_mat(c.dev->dtype, ROWS, WIDTH);
            c.dev->ops->upload(c.dev, m, x, &st);
            c.dev->ops->qk_norm(c.s, m, HEADS, DIM, p[0], p[1], p[2], p[3], 1e-6f);
            float *got = floats_of(&c, m);
            for (int r = 0; r < ROWS; r++)
                for (int h = 0; h < 3 * HEADS; h++) {
                    const float *from = x + r * WIDTH + h * DIM, *g = got + r * WIDTH + h * DIM;
                    if (h >= 2 * HEADS) {
                        assert_memory_equal(g, from, DIM * sizeof *g);
                        continue;
                    }
                    oracle_norm(want, from, 1, DIM, p[h < HEADS ? 0 : 2], p[h < HEADS ? 1 : 3],
                                1e-6);
                    assert_true(oracle_error(g, want, DIM) <= (bf16 ? 2e-2 : 2e-6));
                }
            free(got);
            free(m.p);
            close_cpu(&c);
        }
}

static void patches_follow_the_kernel_of_the_convolution(void **state)
{
    (void)state;
    enum { B = 2, C = 3, H = 6, W = 8, PH = 3, PW = 2, GH = H / PH, GW = W / PW };
    float image[B * C * H * W];
    for (int i = 0; i < B * C * H * W; i++)
        image[i] = (float)(i % 251); /* exact in bf16 too */
    for (int bf16 = 0; bf16 < 2; bf16++) {
        cpu c = open_cpu(NULL, bf16 ? VT_BF16 : VT_F32, 3, B);
        vt_mat cols = new_mat(c.dev->dtype, B * GH * GW, C * PH * PW);
        vt_mat images = {image, VT_F32, B, C * H * W};
        c.dev->ops->patches(c.s, cols, images, C, H, W, PH, PW);
        float *got = floats_of(&c, cols), *at = got;
        for (int b = 0; b < B; b++)
            for (int gy = 0; gy < GH; gy++)
                for (int gx = 0; gx < GW; gx++)
                    for (int ch = 0; ch < C; ch++)
                        for (int y = 0; y < PH; y++)
                            for (int x = 0; x < PW; x++)
                                assert_true(
                                    *at++ ==
                                    image[((b * C + ch) * H + gy * PH + y) * W + gx * PW + x]);
        free(got);
        free(cols.p);
        close_cpu(&c);
    }
}

static void tokens_are_prefix_then_patches_with_position(void **state)
{
    (void)state;
    enum { B = 3, P = 5, D = 9 };
    float patches[B * P * D], pos[P * D], prefix[2 * D];
    oracle_random(patches, B * P * D, 1, 1);
    oracle_random(pos, P * D, 1, 2);
    oracle_random(prefix, 2 * D, 1, 3);
    cpu c = open_cpu(NULL, VT_F32, 2, B);
    for (int count = 0; count <= 2; count++)
        for (int with_pos = 0; with_pos < 2; with_pos++) {
            vt_mat x = new_mat(VT_F32, (size_t)(B * (P + count)), D);
            vt_mat from = {patches, VT_F32, B * P, D};
            c.dev->ops->tokens(c.s, x, from, prefix, count, with_pos ? pos : NULL);
            const float *at = x.p;
            for (int b = 0; b < B; b++) {
                for (int i = 0; i < count * D; i++)
                    assert_true(*at++ == prefix[i]);
                for (int i = 0; i < P * D; i++)
                    assert_true(*at++ == patches[b * P * D + i] + (with_pos ? pos[i] : 0));
            }
            free(x.p);
        }
    close_cpu(&c);
}

static void take_copies_one_row_of_each_image(void **state)
{
    (void)state;
    enum { B = 2, N = 6, D = 70, FIRST = 2 };
    float x[B * N * D], y[B * D];
    oracle_random(x, B * N * D, 1, 5);
    cpu c = open_cpu(NULL, VT_F32, 2, B);
    c.dev->ops->take(c.s, (vt_mat){y, VT_F32, B, D}, (vt_mat){x, VT_F32, B * N, D}, N, FIRST);
    for (int b = 0; b < B; b++)
        assert_memory_equal(y + b * D, x + (b * N + FIRST) * D, D * sizeof *x);
    close_cpu(&c);
}

static void pool_takes_a_token_or_mean_or_maximum(void **state)
{
    (void)state;
    enum { B = 2, N = 6, D = 70, FIRST = 2 };
    float x[B * N * D], y[B * D];
    oracle_random(x, B * N * D, 1, 5);
    cpu c = open_cpu(NULL, VT_F32, 2, B);
    vt_mat mx = {x, VT_F32, B * N, D}, my = {y, VT_F32, B, D};
    for (int how = VT_POOL_TOKEN; how <= VT_POOL_AVGMAX; how++) {
        memset(y, 0xff, sizeof y);
        c.dev->ops->pool(c.s, my, mx, N, (vt_pool)how, FIRST);
        for (int b = 0; b < B; b++)
            for (int d = 0; d < D; d++) {
                const float *from = x + (b * N + FIRST) * D + d;
                double sum = 0, max = from[0];
                for (int t = 0; t < N - FIRST; t++) {
                    sum += from[t * D];
                    max = fmax(max, from[t * D]);
                }
                double mean = sum / (N - FIRST);
                double want = how == VT_POOL_TOKEN ? from[0]
                              : how == VT_POOL_AVG ? mean
                              : how == VT_POOL_MAX ? max
                                                   : (mean + max) / 2;
                assert_true(fabs(y[b * D + d] - want) <= 1e-7);
            }
    }
    close_cpu(&c);
}

static void cast_rounds_to_nearest(void **state)
{
    (void)state;
    float x[33], back[33];
    uint16_t half[33];
    oracle_random(x, 33, 3, 8);
    x[5] = NAN;
    cpu c = open_cpu(NULL, VT_BF16, 2, 1);
    vt_mat f = {x, VT_F32, 3, 11}, h = {half, VT_BF16, 3, 11}, b = {back, VT_F32, 3, 11};
    c.dev->ops->cast(c.s, h, f);
    c.dev->ops->cast(c.s, b, h);
    assert_true(isnan(back[5]));
    x[5] = back[5] = 0;
    oracle_round_bf16(x, 33);
    assert_memory_equal(back, x, sizeof x);
    close_cpu(&c);
}

static void what_the_cpu_has_not_got_is_refused(void **state)
{
    (void)state;
    vt_status st;
    assert_null(vt_cpu_open(VT_F16, 1, &st));
    assert_int_equal(st.code, VT_USAGE);
    assert_null(vt_cpu_open_as(VT_F32, 1, "avx1024", 0, &st));
    assert_int_equal(st.code, VT_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_holds_for_all_widths_and_types),
        cmocka_unit_test(norm_stands_a_mean_far_from_zero),
        cmocka_unit_test(norm_of_equal_values_is_beta),
        cmocka_unit_test(qk_norm_norms_each_head_of_q_and_k_and_leaves_v),
        cmocka_unit_test(patches_follow_the_kernel_of_the_convolution),
        cmocka_unit_test(tokens_are_prefix_then_patches_with_position),
        cmocka_unit_test(take_copies_one_row_of_each_image),
        cmocka_unit_test(pool_takes_a_token_or_mean_or_maximum),
        cmocka_unit_test(cast_rounds_to_nearest),
        cmocka_unit_test(what_the_cpu_has_not_got_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
