/* The GPU's operations on rows and tokens and its linear layers, through the seam: against double
 * precision, in every type, into outputs full of NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/oracle.h"
#include "tests/support_cuda.h"

typedef struct {
    vt_device *dev;
    vt_stream *s;
} gpu;

static gpu open_gpu(vt_dtype type, bool tf32, int images)
{
    vt_status st = {VT_OK, ""};
    need_gpu();
    gpu g = {vt_cuda_open(type, tf32, 0, 1, &st), NULL};
    if (!g.dev || !(g.s = g.dev->ops->stream_open(g.dev, &st)))
        fail_msg("%s", st.text);
    g.s->images = images;
    return g;
}

static void close_gpu(gpu *g)
{
    g->dev->ops->stream_close(g->s);
    g->dev->ops->close(g->dev);
}

/* On the device, every value NaN. */
static vt_mat new_mat(const gpu *g, vt_dtype type, size_t rows, int cols)
{
    vt_status st;
    vt_mat m = {NULL, type, rows, cols};
    size_t n = rows * (size_t)cols;
    float *nan_ = malloc(n * sizeof *nan_);
    m.p = g->dev->ops->alloc(g->dev, vt_mat_bytes(m), "test", &st);
    assert_non_null(m.p);
    for (size_t i = 0; i < n; i++)
        nan_[i] = NAN;
    assert_int_equal(g->dev->ops->upload(g->dev, m, nan_, &st), 0);
    free(nan_);
    return m;
}

static vt_mat put(const gpu *g, vt_dtype type, const float *x, size_t rows, int cols)
{
    vt_status st;
    vt_mat m = new_mat(g, type, rows, cols);
    assert_int_equal(g->dev->ops->upload(g->dev, m, x, &st), 0);
    return m;
}

static float *get(const gpu *g, vt_mat m)
{
    vt_status st = {VT_OK, ""};
    float *f = malloc(m.rows * (size_t)m.cols * sizeof *f);
    if (g->dev->ops->finish(g->s, &st) || g->dev->ops->download(g->dev, f, m, &st))
        fail_msg("%s", st.text);
    return f;
}

static void drop(const gpu *g, vt_mat m)
{
    g->dev->ops->free(g->dev, m.p);
}

/* As the type rounds: by way of the device, whose casts have a test of their own. */
static void round_to(const gpu *g, vt_dtype type, float *x, size_t n)
{
    vt_mat m = put(g, type, x, 1, (int)n);
    float *f = get(g, m);
    memcpy(x, f, n * sizeof *x);
    free(f);
    drop(g, m);
}

/* Half a unit in the last place, of the value 1. */
static double unit(vt_dtype type)
{
    return type == VT_F32 ? 0x1p-24 : type == VT_F16 ? 0x1p-11 : 0x1p-8;
}

static float *randoms(size_t n, float scale, unsigned seed)
{
    float *x = malloc(n * sizeof *x);
    oracle_random(x, n, scale, seed);
    return x;
}

static const vt_dtype types[] = {VT_F32, VT_F16, VT_BF16};

/* ---- casts ---- */

static void casts_round_to_nearest_even(void **state)
{
    (void)state;
    const float x[] = {1, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f, -1 - 0x1p-8f, 65504, 1e-7f, -0.0f};
    const float half[] = {1, 1, 1 + 4 * 0x1p-11f, -1 - 0x1p-8f, 65504, 0x1p-24f * 2, -0.0f};
    gpu g = open_gpu(VT_F16, false, 1);
    vt_mat m = put(&g, VT_F16, x, 1, 7);
    float *got = get(&g, m);
    for (int i = 0; i < 7; i++)
        assert_true(got[i] == half[i] && signbit(got[i]) == signbit(half[i]));
    free(got);
    drop(&g, m);
    float *many = randoms(4099, 3, 1), *want = malloc(4099 * sizeof *want);
    memcpy(want, many, 4099 * sizeof *want);
    oracle_round_bf16(want, 4099);
    m = put(&g, VT_BF16, many, 1, 4099);
    got = get(&g, m);
    assert_memory_equal(got, want, 4099 * sizeof *want);
    free(got), free(many), free(want);
    drop(&g, m);
    close_gpu(&g);
}

/* ---- norm ---- */

static void check_norm(size_t rows, int cols, vt_dtype x_type, vt_dtype y_type, float offset)
{
    gpu g = open_gpu(x_type == VT_F32 ? y_type : x_type, false, 1);
    size_t n = rows * (size_t)cols;
    float *x = randoms(n, 1, 1), *gamma = randoms((size_t)cols, 1, 2);
    float *beta = randoms((size_t)cols, 1, 3);
    double *want = malloc(n * sizeof *want);
    for (size_t i = 0; i < n; i++)
        x[i] += offset;
    round_to(&g, x_type, x, n);
    oracle_norm(want, x, rows, cols, gamma, beta, 1e-6);
    vt_mat mx = put(&g, x_type, x, rows, cols), my = new_mat(&g, y_type, rows, cols);
    vt_mat mg = put(&g, VT_F32, gamma, 1, cols), mb = put(&g, VT_F32, beta, 1, cols);
    g.dev->ops->norm(g.s, my, mx, mg.p, mb.p, 1e-6f);
    float *got = get(&g, my);
    double limit = (offset != 0 ? 2e-3 : 4e-6) + 12 * unit(y_type);
    if (!(oracle_error(got, want, n) <= limit))
        fail_msg("norm of %zu x %d: off by %g", rows, cols, oracle_error(got, want, n));
    free(got);
    if (x_type == y_type) { /* in place */
        g.dev->ops->norm(g.s, mx, mx, mg.p, mb.p, 1e-6f);
        got = get(&g, mx);
        assert_true(oracle_error(got, want, n) <= limit);
        free(got);
    }
    free(x), free(gamma), free(beta), free(want);
    drop(&g, mx), drop(&g, my), drop(&g, mg), drop(&g, mb);
    close_gpu(&g);
}

static void norm_holds_for_all_widths_and_types(void **state)
{
    (void)state;
    const int cols[] = {1, 3, 4, 31, 64, 100, 192, 384, 768, 1024, 1027, 1280, 2048, 3072};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (int t = 1; t < 3; t++) {
            check_norm(7, cols[i], VT_F32, types[t], 0);
            check_norm(7, cols[i], types[t], types[t], 0);
            check_norm(7, cols[i], types[t], VT_F32, 0);
        }
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        check_norm(7, cols[i], VT_F32, VT_F32, 0);
    check_norm(1001, 768, VT_F32, VT_F16, 0);
}

static void norm_stands_a_mean_far_from_zero(void **state)
{
    (void)state;
    check_norm(5, 768, VT_F32, VT_F32, 1000);
}

static void qk_norm_norms_each_head_of_q_and_k_and_leaves_v(void **state)
{
    (void)state;
    enum { ROWS = 7, HEADS = 3, DIM = 20, WIDTH = 3 * HEADS * DIM };
    double want[DIM];
    for (int t = 0; t < 3; t++) {
        gpu g = open_gpu(types[t], false, 1);
        float *x = randoms(ROWS * WIDTH, 2, 9), *p[4];
        vt_mat device[4];
        round_to(&g, types[t], x, ROWS * WIDTH);
        for (unsigned i = 0; i < 4; i++) {
            p[i] = randoms(DIM, 1, i);
            device[i] = put(&g, VT_F32, p[i], 1, DIM);
        }
        vt_mat m = put(&g, types[t], x, ROWS, WIDTH);
        g.dev->ops->qk_norm(g.s, m, HEADS, DIM, device[0].p, device[1].p, device[2].p, device[3].p,
                            1e-6f);
        float *got = get(&g, m);
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < 3 * HEADS; h++) {
                const float *from = x + r * WIDTH + h * DIM, *to = got + r * WIDTH + h * DIM;
                if (h >= 2 * HEADS) {
                    assert_memory_equal(to, from, DIM * sizeof *to);
                    continue;
                }
                int which = h < HEADS ? 0 : 2;
                oracle_norm(want, from, 1, DIM, p[which], p[which + 1], 1e-6);
                assert_true(oracle_error(to, want, DIM) <= 4e-6 + 8 * unit(types[t]));
            }
        for (int i = 0; i < 4; i++) {
            free(p[i]);
            drop(&g, device[i]);
        }
        free(got), free(x);
        drop(&g, m);
        close_gpu(&g);
    }
}

/* ---- tokens ---- */

static void check_patches(vt_dtype type, int height, int width, int patch_h, int patch_w)
{
    enum { B = 2, C = 3 };
    int gh = height / patch_h, gw = width / patch_w;
    gpu g = open_gpu(type, false, B);
    size_t n = (size_t)(B * C * height * width);
    float *image = malloc(n * sizeof *image);
    for (size_t i = 0; i < n; i++)
        image[i] = (float)(i % 251); /* exact in every type */
    vt_mat images = put(&g, type, image, B, C * height * width);
    vt_mat cols = new_mat(&g, type, (size_t)(B * gh * gw), C * patch_h * patch_w);
    g.dev->ops->patches(g.s, cols, images, C, height, width, patch_h, patch_w);
    float *got = get(&g, cols), *at = got;
    for (int b = 0; b < B; b++)
        for (int p = 0; p < gh * gw; p++)
            for (int c = 0; c < C; c++)
                for (int y = 0; y < patch_h; y++)
                    for (int x = 0; x < patch_w; x++) {
                        int row = ((b * C + c) * height + p / gw * patch_h + y) * width;
                        assert_true(*at++ == image[row + p % gw * patch_w + x]);
                    }
    free(got), free(image);
    drop(&g, cols), drop(&g, images);
    close_gpu(&g);
}

static void patches_follow_the_kernel_of_the_convolution(void **state)
{
    (void)state;
    for (int t = 0; t < 3; t++) {
        check_patches(types[t], 6, 8, 3, 2);
        check_patches(types[t], 32, 48, 16, 16);
        check_patches(types[t], 28, 56, 14, 14);
        check_patches(types[t], 10, 4, 5, 4);
    }
}

static void tokens_are_prefix_then_patches_with_position(void **state)
{
    (void)state;
    enum { B = 3, P = 5 };
    for (int width = 9; width <= 12; width += 3)
        for (int count = 0; count <= 2; count++)
            for (int with_pos = 0; with_pos < 2; with_pos++) {
                gpu g = open_gpu(VT_F32, false, B); /* sums are exact to the bit */
                float *patches = randoms((size_t)(B * P * width), 1, 1);
                float *pos = randoms((size_t)(P * width), 1, 2);
                float *prefix = randoms((size_t)(2 * width), 1, 3);
                vt_mat x = new_mat(&g, VT_F32, (size_t)(B * (P + count)), width);
                vt_mat from = put(&g, VT_F32, patches, B * P, width);
                vt_mat mp = put(&g, VT_F32, pos, P, width), mx = put(&g, VT_F32, prefix, 2, width);
                g.dev->ops->tokens(g.s, x, from, mx.p, count, with_pos ? mp.p : NULL);
                float *got = get(&g, x), *at = got;
                for (int b = 0; b < B; b++) {
                    for (int i = 0; i < count * width; i++)
                        assert_true(*at++ == prefix[i]);
                    for (int i = 0; i < P * width; i++)
                        assert_true(*at++ == patches[b * P * width + i] + (with_pos ? pos[i] : 0));
                }
                free(got), free(patches), free(pos), free(prefix);
                drop(&g, x), drop(&g, from), drop(&g, mp), drop(&g, mx);
                close_gpu(&g);
            }
}

static double pooled(const float *x, int tokens, int width, int col, vt_pool how, int first)
{
    double sum = 0, max = -INFINITY;
    for (int t = first; t < tokens; t++) {
        sum += x[t * width + col];
        max = fmax(max, x[t * width + col]);
    }
    double mean = sum / (tokens - first);
    return how == VT_POOL_TOKEN ? x[first * width + col]
           : how == VT_POOL_AVG ? mean
           : how == VT_POOL_MAX ? max
                                : (mean + max) / 2;
}

static void pooling_takes_a_token_the_mean_the_maximum_or_both(void **state)
{
    (void)state;
    enum { B = 3, N = 37, D = 70 };
    gpu g = open_gpu(VT_F16, false, B);
    float *x = randoms(B * N * D, 1, 5);
    vt_mat mx = put(&g, VT_F32, x, B * N, D), y = new_mat(&g, VT_F32, B, D);
    for (int how = VT_POOL_TOKEN; how <= VT_POOL_AVGMAX; how++)
        for (int first = 0; first < 3; first++) {
            g.dev->ops->pool(g.s, y, mx, N, (vt_pool)how, first);
            float *got = get(&g, y);
            for (int b = 0; b < B; b++)
                for (int c = 0; c < D; c++)
                    assert_true(fabs(got[b * D + c] -
                                     pooled(x + b * N * D, N, D, c, (vt_pool)how, first)) <= 2e-6);
            free(got);
        }
    free(x);
    drop(&g, mx), drop(&g, y);
    close_gpu(&g);
}

static void taking_copies_one_row_of_each_image(void **state)
{
    (void)state;
    enum { B = 3, N = 37, D = 300, FIRST = 2 };
    for (int t = 0; t < 3; t++) {
        gpu g = open_gpu(types[t], false, B);
        float *x = randoms(B * N * D, 1, 5);
        round_to(&g, types[t], x, B * N * D);
        vt_mat mx = put(&g, types[t], x, B * N, D), y = new_mat(&g, types[t], B, D);
        g.dev->ops->take(g.s, y, mx, N, FIRST);
        float *got = get(&g, y);
        for (int b = 0; b < B; b++)
            for (int c = 0; c < D; c++)
                assert_true(got[b * D + c] == x[(b * N + FIRST) * D + c]);
        free(got), free(x);
        drop(&g, mx), drop(&g, y);
        close_gpu(&g);
    }
}

/* ---- linear layers ---- */

typedef struct {
    vt_dtype type, y_type;
    bool tf32, bias;
    size_t rows;
    int out, in;
    vt_epilogue e;
} shape;

/* Sums are fp32 of exact products; what is rounded to the type is the result, tf32's operands, and,
 * where the library has no such bias, the bias. */
static double allowed(const shape *s, const double *want, size_t n)
{
    double largest = 1;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(want[i]));
    double sums = (s->tf32 ? 0x1p-10 : 0x1p-20);
    return largest * (sums + 2 * unit(s->y_type)) + (s->y_type == s->type ? 4 * unit(s->type) : 0);
}

/* N(x) of each row, in double precision, rounded to fp32. */
static float *normalised(const float *x, size_t rows, int cols, double eps)
{
    float *y = malloc(rows * (size_t)cols * sizeof *y);
    for (size_t r = 0; r < rows; r++) {
        const float *from = x + r * (size_t)cols;
        double mean = 0, var = 0;
        for (int c = 0; c < cols; c++)
            mean += (double)from[c] / cols;
        for (int c = 0; c < cols; c++)
            var += (from[c] - mean) * (from[c] - mean) / cols;
        for (int c = 0; c < cols; c++)
            y[r * (size_t)cols + (size_t)c] = (float)((from[c] - mean) / sqrt(var + eps));
    }
    return y;
}

static void check_linear(const shape *s)
{
    vt_status st = {VT_OK, ""};
    gpu g = open_gpu(s->type, s->tf32, 1);
    size_t n = s->rows * (size_t)s->out;
    float *x = randoms(s->rows * (size_t)s->in, 1, 1);
    float *w = randoms((size_t)s->out * (size_t)s->in, 1 / sqrtf((float)s->in), 2);
    float *bias = s->bias ? randoms((size_t)s->out, 1, 3) : NULL, *add = randoms(n, 1, 4);
    double *want = malloc(n * sizeof *want);
    round_to(&g, s->type, x, s->rows * (size_t)s->in);
    round_to(&g, s->type, w, (size_t)s->out * (size_t)s->in);
    oracle_linear(want, x, w, bias, s->e.add ? add : NULL, s->rows, s->out, s->in,
                  (oracle_act)s->e.act);
    vt_linear *l = g.dev->ops->linear_load(g.dev, w, bias, s->out, s->in, s->rows, &st);
    assert_non_null(l);
    vt_mat mx = put(&g, s->type, x, s->rows, s->in), my = new_mat(&g, s->y_type, s->rows, s->out);
    if (g.dev->ops->prepare_linear(g.s, my, mx, l, s->e, &st))
        fail_msg("%s", st.text);
    for (size_t i = 0; i < n && !s->e.add; i++)
        add[i] = NAN;
    g.dev->ops->upload(g.dev, my, add, &st);
    g.dev->ops->upload(g.dev, mx, x, &st);
    g.dev->ops->linear(g.s, my, mx, l, s->e);
    float *got = get(&g, my);
    double error = oracle_error(got, want, n), limit = allowed(s, want, n);
    if (!(error <= limit))
        fail_msg("%zu x %d x %d, type %d, act %d, add %d: off by %g (allowed %g)", s->rows, s->out,
                 s->in, s->type, s->e.act, s->e.add, error, limit);
    free(got), free(x), free(w), free(bias), free(add), free(want);
    drop(&g, mx), drop(&g, my);
    g.dev->ops->linear_free(g.dev, l);
    close_gpu(&g);
}

static void linear_layers_hold_in_every_type_shape_and_epilogue(void **state)
{
    (void)state;
    const struct {
        size_t rows;
        int out, in;
    } sizes[] = {{1, 10, 96}, {3, 1000, 64}, {65, 96, 288}, {197, 192, 768}, {50, 17, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int t = 0; t < 3; t++)
            for (int act = 0; act < 5; act++) {
                shape s = {.type = types[t],
                           .y_type = act == 4 ? VT_F32 : types[t],
                           .bias = act != 2,
                           .rows = sizes[i].rows,
                           .out = sizes[i].out,
                           .in = sizes[i].in,
                           .e = {.act = (vt_activation)(act & 3), .add = act == 4}};
                check_linear(&s);
            }
    check_linear(&(shape){VT_F32, VT_F32, true, true, 100, 96, 256, {.act = VT_ACT_GELU}});
}

/* y = N(x) W^T + b, then y += x W^T + b with moments of what y became. */
static void check_normed(vt_dtype type, size_t rows, int out, int in)
{
    vt_status st = {VT_OK, ""};
    gpu g = open_gpu(type, false, 1);
    size_t n = rows * (size_t)out, parts = n / VT_MOMENTS;
    float *x = randoms(rows * (size_t)in, 1, 1), *bias = randoms((size_t)out, 1, 3);
    float *w = randoms((size_t)out * (size_t)in, 1 / sqrtf((float)in), 2);
    for (size_t i = 0; i < rows * (size_t)in; i++)
        x[i] = x[i] * 0.5f + 2;
    round_to(&g, type, x, rows * (size_t)in);
    round_to(&g, type, w, (size_t)out * (size_t)in);
    double *want = malloc(n * sizeof *want);
    float *normed = normalised(x, rows, in, 1e-3);
    oracle_linear(want, normed, w, bias, NULL, rows, out, in, (oracle_act)VT_ACT_GELU);
    vt_linear *l = g.dev->ops->linear_load(g.dev, w, bias, out, in, rows, &st);
    vt_mat mx = put(&g, type, x, rows, in), room = new_mat(&g, type, rows, in);
    vt_mat y = new_mat(&g, type, rows, out), m = new_mat(&g, VT_F32, rows, 2 * in / VT_MOMENTS);
    vt_mat left = new_mat(&g, VT_F32, rows, 2 * out / VT_MOMENTS), after = left;
    after.p = new_mat(&g, VT_F32, rows, 2 * out / VT_MOMENTS).p;
    const vt_input_norm in_norm = {1e-3f, m.p, room};
    const vt_epilogue norm = {.act = VT_ACT_GELU, .norm = &in_norm};
    const vt_epilogue add = {.add = true, .moments = left.p};
    if (g.dev->ops->prepare_linear(g.s, y, mx, l, norm, &st) ||
        g.dev->ops->prepare_linear(g.s, y, mx, l, add, &st))
        fail_msg("%s", st.text);
    g.dev->ops->norm(g.s, room, mx, NULL, NULL, 1e-3f);
    float *got = get(&g, room);
    for (size_t i = 0; i < rows * (size_t)in; i++)
        assert_true(fabs(got[i] - normed[i]) <= 2 * unit(type) * (1 + fabs(normed[i])));
    free(got);
    g.dev->ops->moments(g.s, m.p, mx);
    g.dev->ops->linear(g.s, y, mx, l, norm);
    got = get(&g, y);
    double error = oracle_error(got, want, n);
    shape s = {.type = type, .y_type = type};
    if (!(error <= allowed(&s, want, n)))
        fail_msg("%zu x %d x %d, type %d: off by %g", rows, out, in, type, error);
    free(got);
    g.dev->ops->linear(g.s, y, mx, l, add);
    g.dev->ops->moments(g.s, after.p, y);
    float *a = get(&g, left), *b = get(&g, after);
    for (size_t i = 0; i < parts; i++) {
        double spread = sqrt(b[2 * i + 1] / VT_MOMENTS) + fabs((double)b[2 * i]);
        assert_true(fabs(a[2 * i] - b[2 * i]) <= 2 * unit(type) * spread);
        assert_true(fabs(a[2 * i + 1] - b[2 * i + 1]) <=
                    4 * unit(type) * spread * spread * VT_MOMENTS);
    }
    free(a), free(b), free(x), free(w), free(bias), free(want), free(normed);
    drop(&g, mx), drop(&g, room), drop(&g, y), drop(&g, m), drop(&g, left), drop(&g, after);
    g.dev->ops->linear_free(g.dev, l);
    close_gpu(&g);
}

static void products_normalise_their_input_and_leave_moments(void **state)
{
    (void)state;
    need_gpu();
    for (int t = 1; t < 3; t++) {
        check_normed(types[t], 1, 64, 128);
        check_normed(types[t], 197, 192, 768);
        check_normed(types[t], 255, 768, 320);
        check_normed(types[t], 256, 384, 64);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(casts_round_to_nearest_even),
        cmocka_unit_test(norm_holds_for_all_widths_and_types),
        cmocka_unit_test(norm_stands_a_mean_far_from_zero),
        cmocka_unit_test(qk_norm_norms_each_head_of_q_and_k_and_leaves_v),
        cmocka_unit_test(patches_follow_the_kernel_of_the_convolution),
        cmocka_unit_test(tokens_are_prefix_then_patches_with_position),
        cmocka_unit_test(pooling_takes_a_token_the_mean_the_maximum_or_both),
        cmocka_unit_test(taking_copies_one_row_of_each_image),
        cmocka_unit_test(linear_layers_hold_in_every_type_shape_and_epilogue),
        cmocka_unit_test(products_normalise_their_input_and_leave_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
