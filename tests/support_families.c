/* See support_families.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/ops.h"
#include "tests/oracle.h"
#include "tests/support_families.h"
#include "tests/support_mask.h"

/* ---- the device's memory: taken as a check goes along, given back by `release` ---- */

static void *held[64];
static int holding;

static void *take(vt_stream *s, vt_mat m, const float *host)
{
    vt_status st = {VT_OK, ""};
    assert_true(holding < 64);
    m.p = s->dev->ops->alloc(s->dev, vt_mat_bytes(m), "test", &st);
    assert_non_null(m.p);
    assert_int_equal(s->dev->ops->upload(s->dev, m, host, &st), 0);
    return held[holding++] = m.p;
}

static void release(vt_stream *s)
{
    while (holding)
        s->dev->ops->free(s->dev, held[--holding]);
}

static const float *vector(vt_stream *s, const void *host, size_t n)
{
    return take(s, (vt_mat){NULL, VT_F32, 1, (int)n}, host);
}

/* Full of NaN. */
static vt_mat new_typed(vt_stream *s, vt_dtype type, size_t rows, int cols)
{
    size_t n = rows * (size_t)cols;
    vt_mat m = {NULL, type, rows, cols};
    float *poison = malloc(n * sizeof *poison);
    for (size_t i = 0; i < n; i++)
        poison[i] = NAN;
    m.p = take(s, m, poison);
    free(poison);
    return m;
}

static vt_mat new_mat(vt_stream *s, size_t rows, int cols)
{
    return new_typed(s, s->dev->dtype, rows, cols);
}

/* x in a matrix of the device's type, and rounded to it. */
static vt_mat mat_of(vt_stream *s, float *x, size_t rows, int cols)
{
    vt_status st;
    vt_mat m = new_mat(s, rows, cols);
    assert_int_equal(s->dev->ops->upload(s->dev, m, x, &st), 0);
    assert_int_equal(s->dev->ops->download(s->dev, x, m, &st), 0);
    return m;
}

/* fp16 has eight times the precision of bf16. */
static void check(vt_stream *s, vt_mat m, const double *want, double f32, double bf16)
{
    vt_status st = {VT_OK, ""};
    size_t n = m.rows * (size_t)m.cols;
    float *got = malloc(n * sizeof *got);
    if (s->dev->ops->finish(s, &st))
        fail_msg("%s", st.text);
    assert_int_equal(s->dev->ops->download(s->dev, got, m, &st), 0);
    double error = oracle_error(got, want, n);
    double allowed = m.type == VT_F32 ? f32 : m.type == VT_BF16 ? bf16 : bf16 / 8;
    if (!(error <= allowed))
        fail_msg("%s %s: off by %g (allowed %g)", s->dev->ops->name, s->dev->arithmetic, error,
                 allowed);
    free(got);
}

/* ---- RMSNorm ---- */

static void check_rms(vt_stream *s)
{
    const int cols[] = {1, 3, 8, 17, 33, 64, 768, 1027};
    float x[5 * 1027], gamma[1027];
    double want[5 * 1027];
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        oracle_random(x, 5 * (size_t)cols[i], 2, (unsigned)i);
        oracle_random(gamma, (size_t)cols[i], 1, 7);
        vt_mat in = mat_of(s, x, 5, cols[i]), out = new_mat(s, 5, cols[i]);
        oracle_norm(want, x, 5, cols[i], gamma, NULL, 1e-5);
        s->dev->ops->norm(s, out, in, vector(s, gamma, (size_t)cols[i]), NULL, 1e-5f);
        check(s, out, want, 2e-6, 4e-2);
        s->dev->ops->norm(s, in, in, vector(s, gamma, (size_t)cols[i]), NULL, 1e-5f);
        check(s, in, want, 2e-6, 4e-2);
        release(s);
    }
}

/* ---- rotary embedding ---- */

static void check_rope(vt_stream *s)
{
    enum { B = 2, X = 2, P = 5, N = X + P, H = 3, D = 12, WIDTH = 3 * H * D };
    float table[H * P * D], x[B * N * WIDTH];
    double want[B * N * WIDTH];
    for (int half = 0; half < 2; half++)
        for (int heads = 1; heads <= H; heads += H - 1) {
            oracle_random(x, B * N * WIDTH, 1, 3);
            oracle_random(table, (size_t)(heads * P * D), 1, 4); /* any pairs of numbers */
            vt_mat m = mat_of(s, x, B * N, WIDTH);
            for (int i = 0; i < B * N * WIDTH; i++)
                want[i] = x[i];
            for (int r = 0; r < B * N; r++)
                for (int h = 0; h < 2 * H; h++)
                    for (int i = 0; i < D / 2 && r % N >= X; i++) {
                        int own = heads == 1 ? 0 : h % H, patch = r % N - X;
                        const float *t = table + (own * P + patch) * D + 2 * i;
                        int at = r * WIDTH + h * D + (half ? i : 2 * i), other = half ? D / 2 : 1;
                        want[at] = (double)x[at] * t[0] - (double)x[at + other] * t[1];
                        want[at + other] = (double)x[at + other] * t[0] + (double)x[at] * t[1];
                    }
            const float *turns = vector(s, table, (size_t)(heads * P * D));
            s->dev->ops->rope(s, m, H, D, N, X, &(vt_rope){turns, heads, half});
            check(s, m, want, 1e-6, 4e-2);
            release(s);
        }
}

/* ---- halves, addition ---- */

static void check_halves(vt_stream *s)
{
    enum { R = 7 };
    const int cols[] = {1, 5, 8, 16, 33, 100};
    float x[R * 200];
    double want[R * 100];
    for (size_t k = 0; k < sizeof cols / sizeof *cols; k++)
        for (int how = 0; how < 2; how++) {
            int n = cols[k];
            oracle_random(x, (size_t)(R * 2 * n), how ? 1 : 20,
                          (unsigned)n); /* far into both ends */
            vt_mat in = mat_of(s, x, R, 2 * n), out = new_mat(s, R, n);
            for (int i = 0; i < R * n; i++) {
                double a = x[i / n * 2 * n + i % n], b = x[i / n * 2 * n + n + i % n];
                want[i] = how == VT_HALVES_SWIGLU ? a / (1 + exp(-a)) * b : a - 0.75 * b;
            }
            s->dev->ops->halves(s, out, in, (vt_halves)how, 0.75f);
            check(s, out, want, how ? 1e-6 : 3e-4, how ? 2e-2 : 8);
            release(s);
        }
}

static void check_add(vt_stream *s)
{
    enum { R = 3, N = 21 };
    float x[R * N], y[R * N];
    double want[R * N];
    vt_status st;
    oracle_random(x, R * N, 1, 1);
    oracle_random(y, R * N, 1, 2);
    vt_mat from = mat_of(s, x, R, N), to = mat_of(s, y, R, N), wide = new_typed(s, VT_F32, R, N);
    assert_int_equal(s->dev->ops->upload(s->dev, wide, y, &st), 0);
    for (int i = 0; i < R * N; i++)
        want[i] = (double)x[i] + y[i];
    s->dev->ops->add(s, to, from);
    s->dev->ops->add(s, wide, from); /* of another type */
    check(s, to, want, 1e-6, 2e-2);
    check(s, wide, want, 1e-6, 0);
    release(s);
}

/* ---- attention pooling ---- */

/* One query is a row of attention whose other rows are not looked at. */
static void check_latent(vt_stream *s)
{
    enum { B = 2, N = 19, H = 2, D = 70, WIDTH = H * D };
    static float kv[B * N * 2 * WIDTH], query[WIDTH], q[N * D], k[N * D], v[N * D];
    static double head[N * D], want[B * WIDTH];
    vt_status st = {0};
    for (int first = 0; first < 6; first += 5) {
        int n = N - first;
        oracle_random(kv, B * N * 2 * WIDTH, 1.5f, 3);
        oracle_random(query, WIDTH, 1.5f, 4);
        vt_mat in = mat_of(s, kv, B * N, 2 * WIDTH), out = new_mat(s, B, WIDTH);
        for (int i = 0; i < B * H; i++) {
            int image = i / H, column = i % H * D;
            memset(q, 0, sizeof q);
            memcpy(q, query + column, D * sizeof *q);
            for (int t = 0; t < n; t++) {
                const float *row = kv + (image * N + first + t) * 2 * WIDTH + column;
                memcpy(k + t * D, row, D * sizeof *k);
                memcpy(v + t * D, row + WIDTH, D * sizeof *v);
            }
            oracle_attention(head, q, k, v, NULL, n, D, 1 / sqrt((double)D));
            memcpy(want + image * WIDTH + column, head, D * sizeof *want);
        }
        if (s->dev->ops->prepare_latent_pool)
            assert_int_equal(s->dev->ops->prepare_latent_pool(s, in, &st), 0);
        s->dev->ops->latent_pool(s, out, in, vector(s, query, WIDTH), H, first);
        check(s, out, want, 3e-6, 2e-2);
        release(s);
    }
}

/* ---- attention with a bias ---- */

enum { HEADS = 2, DIM = 24, STRIDE = 97, MOST = 200 };

/* A bias that is a sum of places, as relative positions are: row and col in any order. */
typedef struct {
    float table[HEADS * STRIDE];
    int32_t row[MOST], col[MOST];
    vt_attn_bias bias;
} places;

static void make_places(vt_stream *s, places *p, int tokens)
{
    oracle_random(p->table, HEADS * STRIDE, 9, 11);
    for (int t = 0; t < tokens; t++) {
        p->row[t] = t * 29 % 48;
        p->col[t] = t * 31 % 49;
    }
    p->bias.stride = STRIDE;
    p->bias.table = vector(s, p->table, HEADS * STRIDE);
    p->bias.row = (const int32_t *)(const void *)vector(s, p->row, (size_t)tokens);
    p->bias.col = (const int32_t *)(const void *)vector(s, p->col, (size_t)tokens);
}

static double *biased(const float *qkv, int tokens, const bool *on, const places *p)
{
    size_t n = (size_t)tokens, width = HEADS * DIM;
    float *q = malloc((3 * n * DIM + n * n) * sizeof *q), *k = q + n * DIM, *v = k + n * DIM;
    float *bias = v + n * DIM;
    double *want = malloc(n * width * sizeof *want), *head = malloc(n * DIM * sizeof *head);
    for (size_t h = 0; h < HEADS; h++) {
        for (size_t t = 0; t < n; t++) {
            memcpy(q + t * DIM, qkv + (t * 3 * HEADS + h) * DIM, DIM * sizeof *q);
            memcpy(k + t * DIM, qkv + (t * 3 * HEADS + HEADS + h) * DIM, DIM * sizeof *k);
            memcpy(v + t * DIM, qkv + (t * 3 * HEADS + 2 * HEADS + h) * DIM, DIM * sizeof *v);
        }
        for (size_t i = 0; i < n * n; i++) /* in the units of scaled scores */
            bias[i] =
                p->table[h * STRIDE + (size_t)(p->row[i / n] + p->col[i % n])] / sqrtf((float)DIM);
        oracle_biased_attention(head, q, k, v, on, bias, tokens, DIM, 1 / sqrt((double)DIM));
        for (size_t t = 0; t < n; t++)
            memcpy(want + t * width + h * DIM, head + t * DIM, DIM * sizeof *head);
    }
    free(q);
    free(head);
    return want;
}

static void check_bias_of(vt_stream *s, int tokens, double density)
{
    vt_status st = {0};
    places p;
    size_t n = (size_t)tokens;
    table_mask *mask = table_mask_random(0, 1, tokens, density, (unsigned)tokens);
    for (size_t i = 0; i < n && density < 1; i++)
        mask->on[2 * n + i] = false; /* a row without keys */
    float *qkv = malloc(n * 3 * HEADS * DIM * sizeof *qkv);
    oracle_random(qkv, n * 3 * HEADS * DIM, 1.5f, 5);
    make_places(s, &p, tokens);
    vt_mat in = mat_of(s, qkv, n, 3 * HEADS * DIM);
    vt_bitmap *bitmap = vt_bitmap_build(&mask->mask, 1, &st);
    vt_tiles *tiles = vt_tiles_build(&mask->mask, 1, &st);
    vt_csr *csr = vt_csr_build(&mask->mask, 1, &st);
    double *want = biased(qkv, tokens, mask->on, &p);
    for (int kernel = 0; kernel < VT_ATTN_KERNELS; kernel++) {
        uint16_t heads[HEADS] = {0, 1};
        vt_attn_group g = {HEADS, heads, "0-1", (vt_attn_kernel)kernel, bitmap, tiles,
                           csr,   NULL,  NULL};
        vt_attn_plan plan = {tokens, HEADS, DIM, 1 / sqrtf(DIM), &p.bias, 1, &g};
        vt_mat out = new_mat(s, n, HEADS * DIM);
        if (!vt_attention_serves(s->dev, g.kernel, DIM, true))
            continue;
        assert_int_equal(vt_group_load(s->dev, &g, &st), 0);
        assert_int_equal(s->dev->ops->prepare_attention(s, out, in, &plan, 1, &st), 0);
        s->dev->ops->attention(s, out, in, &plan);
        check(s, out, want, 5e-6, 4e-2);
        vt_group_free(s->dev, &g);
    }
    release(s);
    free(want), free(qkv);
    vt_bitmap_free(bitmap);
    vt_tiles_free(tiles);
    vt_csr_free(csr);
    vt_mask_free(&mask->mask);
}

static void check_bias(vt_stream *s)
{
    const int tokens[] = {3, 16, 37, 49, 130};
    for (int i = 0; i < 5; i++)
        for (int density = 0; density < 3; density++)
            check_bias_of(s, tokens[i], density == 2 ? 1 : density ? 0.5 : 0.1);
}

/* ---- the tests ---- */

static void (*on_all)(void (*check)(vt_stream *));

static void a_norm_without_beta_is_rmsnorm(void **state)
{
    (void)state;
    on_all(check_rms);
}

static void rope_turns_queries_and_keys_of_patches_only(void **state)
{
    (void)state;
    on_all(check_rope);
}

static void halves_are_gated_or_subtracted(void **state)
{
    (void)state;
    on_all(check_halves);
}

static void add_takes_types_that_differ(void **state)
{
    (void)state;
    on_all(check_add);
}

static void latent_pool_is_attention_of_one_query(void **state)
{
    (void)state;
    on_all(check_latent);
}

static void every_kernel_adds_the_bias_under_a_mask(void **state)
{
    (void)state;
    on_all(check_bias);
}

int run_family_tests(void (*each)(void (*check)(vt_stream *)))
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_norm_without_beta_is_rmsnorm),
        cmocka_unit_test(rope_turns_queries_and_keys_of_patches_only),
        cmocka_unit_test(halves_are_gated_or_subtracted),
        cmocka_unit_test(add_takes_types_that_differ),
        cmocka_unit_test(latent_pool_is_attention_of_one_query),
        cmocka_unit_test(every_kernel_adds_the_bias_under_a_mask),
    };
    on_all = each;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
