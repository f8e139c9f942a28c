/* The CPU's operations that only some families of models use: RMSNorm, rotary embedding, gated and
 * differential halves, addition, attention pooling, attention with a relative position bias. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/oracle.h"
#include "tests/support_mask.h"

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

/* Of the device's type, full of NaN. */
static vt_mat new_mat(const cpu *c, size_t rows, int cols)
{
    vt_mat m = {NULL, c->dev->dtype, rows, cols};
    m.p = malloc(vt_mat_bytes(m));
    memset(m.p, 0xff, vt_mat_bytes(m));
    return m;
}

/* x, rounded to the device's type, in a matrix of it. */
static vt_mat mat_of(const cpu *c, float *x, size_t rows, int cols)
{
    vt_status st;
    vt_mat m = new_mat(c, rows, cols);
    if (c->dev->dtype == VT_BF16)
        oracle_round_bf16(x, rows * (size_t)cols);
    c->dev->ops->upload(c->dev, m, x, &st);
    return m;
}

/* Frees the matrix. */
static void check(const cpu *c, vt_mat m, const double *want, double f32, double bf16)
{
    vt_status st;
    size_t n = m.rows * (size_t)m.cols;
    float *got = malloc(n * sizeof *got);
    c->dev->ops->download(c->dev, got, m, &st);
    double error = oracle_error(got, want, n);
    if (!(error <= (c->dev->dtype == VT_BF16 ? bf16 : f32)))
        fail_msg("%s %s: off by %g", vt_cpu(c->s)->isa->name, c->dev->arithmetic, error);
    free(got);
    free(m.p);
}

/* Runs `test` for every instruction set and type. */
static void on_all(void (*test)(const cpu *), int images)
{
    for (int isa = 0; isa < ISAS; isa++)
        for (int type = 0; type < 2; type++)
            for (int threads = 1; threads <= 3; threads += 2) {
                cpu c = open_cpu(isas[isa], type ? VT_BF16 : VT_F32, threads, images);
                if (!c.dev)
                    continue;
                test(&c);
                close_cpu(&c);
            }
}

/* ---- RMSNorm ---- */

static void check_rms(const cpu *c)
{
    const int cols[] = {1, 3, 8, 17, 33, 64, 768, 1027};
    float x[5 * 1027], gamma[1027];
    double want[5 * 1027];
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        oracle_random(x, 5 * (size_t)cols[i], 2, (unsigned)i);
        oracle_random(gamma, (size_t)cols[i], 1, 7);
        vt_mat in = mat_of(c, x, 5, cols[i]), out = new_mat(c, 5, cols[i]);
        oracle_norm(want, x, 5, cols[i], gamma, NULL, 1e-5);
        c->dev->ops->norm(c->s, out, in, gamma, NULL, 1e-5f);
        check(c, out, want, 2e-6, 4e-2);
        c->dev->ops->norm(c->s, in, in, gamma, NULL, 1e-5f);
        check(c, in, want, 2e-6, 4e-2);
    }
}

static void a_norm_without_beta_is_rmsnorm(void **state)
{
    (void)state;
    on_all(check_rms, 1);
}

/* ---- rotary embedding ---- */

static void check_rope(const cpu *c)
{
    enum { B = 2, X = 2, P = 5, N = X + P, H = 3, D = 12, WIDTH = 3 * H * D };
    float table[H * P * D], x[B * N * WIDTH];
    double want[B * N * WIDTH];
    for (int half = 0; half < 2; half++)
        for (int heads = 1; heads <= H; heads += H - 1) {
            oracle_random(x, B * N * WIDTH, 1, 3);
            oracle_random(table, (size_t)(heads * P * D), 1, 4); /* any pairs of numbers */
            vt_mat m = mat_of(c, x, B * N, WIDTH);
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
            c->dev->ops->rope(c->s, m, H, D, N, X, &(vt_rope){table, heads, half});
            check(c, m, want, 1e-6, 3e-2);
        }
}

static void rope_turns_queries_and_keys_of_patches_only(void **state)
{
    (void)state;
    on_all(check_rope, 2);
}

/* ---- halves, addition ---- */

static void check_halves(const cpu *c)
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
            vt_mat in = mat_of(c, x, R, 2 * n), out = new_mat(c, R, n);
            for (int i = 0; i < R * n; i++) {
                double a = x[i / n * 2 * n + i % n], b = x[i / n * 2 * n + n + i % n];
                want[i] = how == VT_HALVES_SWIGLU ? a / (1 + exp(-a)) * b : a - 0.75 * b;
            }
            c->dev->ops->halves(c->s, out, in, (vt_halves)how, 0.75f);
            check(c, out, want, how ? 1e-6 : 3e-4, how ? 2e-2 : 8);
            free(in.p);
        }
}

static void halves_are_gated_or_subtracted(void **state)
{
    (void)state;
    on_all(check_halves, 1);
}

static void check_add(const cpu *c)
{
    enum { R = 3, N = 21 };
    float x[R * N], y[R * N];
    double want[R * N];
    oracle_random(x, R * N, 1, 1);
    oracle_random(y, R * N, 1, 2);
    vt_mat from = mat_of(c, x, R, N), to = mat_of(c, y, R, N),
           wide = {malloc(sizeof y), VT_F32, R, N};
    memcpy(wide.p, y, sizeof y);
    for (int i = 0; i < R * N; i++)
        want[i] = (double)x[i] + y[i];
    c->dev->ops->add(c->s, to, from);
    c->dev->ops->add(c->s, wide, from); /* of another type */
    check(c, to, want, 1e-6, 2e-2);
    assert_true(oracle_error(wide.p, want, R * N) <= 1e-6);
    free(from.p), free(wide.p);
}

static void add_takes_types_that_differ(void **state)
{
    (void)state;
    on_all(check_add, 1);
}

/* ---- attention pooling ---- */

/* One query is a row of attention whose other rows are not looked at. */
static void check_latent(const cpu *c)
{
    enum { B = 2, N = 19, H = 2, D = 70, WIDTH = H * D };
    static float kv[B * N * 2 * WIDTH], query[WIDTH], q[N * D], k[N * D], v[N * D];
    static double head[N * D], want[B * WIDTH];
    vt_status st = {0};
    for (int first = 0; first < 6; first += 5) {
        int n = N - first;
        oracle_random(kv, B * N * 2 * WIDTH, 1.5f, 3);
        oracle_random(query, WIDTH, 1.5f, 4);
        vt_mat in = mat_of(c, kv, B * N, 2 * WIDTH), out = new_mat(c, B, WIDTH);
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
        assert_int_equal(c->dev->ops->prepare_latent_pool(c->s, in, &st), 0);
        c->dev->ops->latent_pool(c->s, out, in, query, H, first);
        check(c, out, want, 2e-6, 4e-2);
        free(in.p);
    }
}

static void latent_pool_is_attention_of_one_query(void **state)
{
    (void)state;
    on_all(check_latent, 2);
}

/* ---- attention with a bias ---- */

enum { HEADS = 2, DIM = 24, STRIDE = 97 };

/* A bias that is a sum of places, as relative positions are: row and col in any order. */
typedef struct {
    float table[HEADS * STRIDE];
    int32_t row[64], col[64];
    vt_attn_bias bias;
} places;

static void make_places(places *p, int tokens)
{
    oracle_random(p->table, HEADS * STRIDE, 9, 11);
    for (int t = 0; t < tokens; t++) {
        p->row[t] = t * 29 % 48;
        p->col[t] = t * 31 % 49;
    }
    p->bias = (vt_attn_bias){p->table, STRIDE, p->row, p->col};
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

static void check_bias_of(const cpu *c, int tokens, double density)
{
    vt_status st = {0};
    places p;
    size_t n = (size_t)tokens;
    table_mask *mask = table_mask_random(0, 1, tokens, density, (unsigned)tokens);
    for (size_t i = 0; i < n && density < 1; i++)
        mask->on[2 * n + i] = false; /* a row without keys */
    float *qkv = malloc(n * 3 * HEADS * DIM * sizeof *qkv);
    oracle_random(qkv, n * 3 * HEADS * DIM, 1.5f, 5);
    make_places(&p, tokens);
    vt_mat in = mat_of(c, qkv, n, 3 * HEADS * DIM);
    vt_bitmap *bitmap = vt_bitmap_build(&mask->mask, 1, &st);
    vt_tiles *tiles = vt_tiles_build(&mask->mask, 1, &st);
    vt_csr *csr = vt_csr_build(&mask->mask, 1, &st);
    double *want = biased(qkv, tokens, mask->on, &p);
    for (int kernel = 0; kernel < VT_ATTN_KERNELS; kernel++) {
        uint16_t heads[HEADS] = {0, 1};
        vt_attn_group g = {HEADS, heads, "0-1", (vt_attn_kernel)kernel, bitmap, tiles, csr, NULL};
        vt_attn_plan plan = {tokens, HEADS, DIM, 1 / sqrtf(DIM), &p.bias, 1, &g};
        vt_mat out = new_mat(c, n, HEADS * DIM);
        assert_int_equal(c->dev->ops->prepare_attention(c->s, out, in, &plan, 1, &st), 0);
        c->dev->ops->attention(c->s, out, in, &plan);
        check(c, out, want, 5e-6, 3e-2);
    }
    free(want), free(qkv), free(in.p);
    vt_bitmap_free(bitmap);
    vt_tiles_free(tiles);
    vt_csr_free(csr);
    vt_mask_free(&mask->mask);
}

static void check_bias(const cpu *c)
{
    const int tokens[] = {3, 16, 37, 49};
    for (int i = 0; i < 4; i++)
        for (int density = 0; density < 3; density++)
            check_bias_of(c, tokens[i], density == 2 ? 1 : density ? 0.5 : 0.1);
}

static void every_kernel_adds_the_bias_under_a_mask(void **state)
{
    (void)state;
    on_all(check_bias, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_norm_without_beta_is_rmsnorm),
        cmocka_unit_test(rope_turns_queries_and_keys_of_patches_only),
        cmocka_unit_test(halves_are_gated_or_subtracted),
        cmocka_unit_test(add_takes_types_that_differ),
        cmocka_unit_test(latent_pool_is_attention_of_one_query),
        cmocka_unit_test(every_kernel_adds_the_bias_under_a_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
