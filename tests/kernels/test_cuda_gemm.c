/* Our matrix products for compute capability 9.0: every variant, both 16-bit types, all epilogues,
 * shapes that no tile divides; into memory full of NaN with guards around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/kernels.h"
#include "tests/oracle.h"

enum { GUARD = 1024 };

static int capability(void)
{
    int device, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess)
        return 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return 10 * major + minor;
}

static void need_hopper(void)
{
    int found = capability();
    if (found != 90) {
        puts(found ? "SKIPPED: no device of compute capability 9.0" : "SKIPPED: no CUDA device");
        skip();
    }
}

static void ok(int error)
{
    if (error)
        fail_msg("%s", cudaGetErrorString((cudaError_t)error));
}

/* ---- 16-bit types ---- */

static uint16_t narrow(float x, vt_dtype type)
{
    if (type == VT_BF16)
        return vt_f32_to_bf16(x);
    _Float16 h = (_Float16)x;
    uint16_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

static float widen(uint16_t u, vt_dtype type)
{
    if (type == VT_BF16)
        return vt_bf16_to_f32(u);
    _Float16 h;
    memcpy(&h, &u, sizeof h);
    return (float)h;
}

static void round_all(float *x, size_t n, vt_dtype type)
{
    for (size_t i = 0; type != VT_F32 && i < n; i++)
        x[i] = widen(narrow(x[i], type), type);
}

static void *to_device(const float *x, size_t n, vt_dtype type)
{
    void *p;
    size_t bytes = n * vt_dtype_bytes(type);
    ok(cudaMalloc(&p, bytes ? bytes : 1));
    uint16_t *h = malloc(n * sizeof *h + 1);
    for (size_t i = 0; type != VT_F32 && i < n; i++)
        h[i] = narrow(x[i], type);
    ok(cudaMemcpy(p, type == VT_F32 ? (const void *)x : h, bytes, cudaMemcpyHostToDevice));
    free(h);
    return p;
}

/* ---- one product ---- */

typedef struct {
    int m, n, k;
    vt_dtype type, y_type;
    vt_activation act;
    bool bias, add;
    bool norm, moments; /* of the input; of what y becomes */
} shape;

typedef struct {
    float *a, *w, *bias, *add; /* on the host, representable in their types */
    float *normed;             /* a, or N(a) */
    vt_cuda_gemm g;            /* the same on the device; y is not set */
} problem;

static float *random_values(size_t n, float scale, unsigned seed, vt_dtype type)
{
    float *x = malloc(n * sizeof *x);
    oracle_random(x, n, scale, seed);
    round_all(x, n, type);
    return x;
}

enum { MEAN = 3 }; /* of inputs that are normalised: away from zero */
static const float EPS = 1e-3f;

/* N(a) of rows, in double precision. */
static float *normalised(const float *a, size_t rows, size_t cols)
{
    float *y = malloc(rows * cols * sizeof *y);
    for (size_t r = 0; r < rows; r++) {
        double mean = 0, var = 0;
        for (size_t c = 0; c < cols; c++)
            mean += a[r * cols + c] / (double)cols;
        for (size_t c = 0; c < cols; c++)
            var += pow(a[r * cols + c] - mean, 2) / (double)cols;
        for (size_t c = 0; c < cols; c++)
            y[r * cols + c] = (float)((a[r * cols + c] - mean) / sqrt(var + (double)EPS));
    }
    return y;
}

static void make_normed(problem *p, const shape *s)
{
    size_t m = (size_t)s->m, k = (size_t)s->k;
    float *sums, *moments;
    for (size_t i = 0; i < m * k; i++)
        p->a[i] += MEAN;
    round_all(p->a, m * k, s->type);
    p->normed = normalised(p->a, m, k);
    p->g.a = to_device(p->a, m * k, s->type);
    ok(cudaMalloc((void **)&sums, (size_t)s->n * sizeof *sums));
    ok(cudaMalloc((void **)&moments, m * k / VT_MOMENTS * 2 * sizeof *moments));
    ok(vt_cuda_row_sums(sums, (vt_mat){(void *)p->g.w, s->type, (size_t)s->n, s->k}, NULL));
    ok(vt_cuda_moments(moments, (vt_mat){(void *)p->g.a, s->type, m, s->k}, NULL));
    p->g.w_sums = sums, p->g.a_moments = moments, p->g.eps = EPS;
}

static problem make_problem(const shape *s)
{
    problem p = {0};
    size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k;
    p.a = random_values(m * k, 1, 1, s->type);
    p.w = random_values(n * k, 2 / sqrtf((float)k), 2, s->type);
    p.bias = s->bias ? random_values(n, 1, 3, VT_F32) : NULL;
    p.add = s->add ? random_values(m * n, 1, 4, s->y_type) : NULL;
    p.g = (vt_cuda_gemm){.a = s->norm ? NULL : to_device(p.a, m * k, s->type),
                         .w = to_device(p.w, n * k, s->type),
                         .bias = p.bias ? to_device(p.bias, n, VT_F32) : NULL,
                         .type = s->type,
                         .y_type = s->y_type,
                         .m = s->m,
                         .n = s->n,
                         .k = s->k,
                         .act = s->act,
                         .add = s->add};
    if (s->norm)
        make_normed(&p, s);
    if (s->moments)
        ok(cudaMalloc((void **)&p.g.y_moments, m * n / VT_MOMENTS * 2 * sizeof(float)));
    return p;
}

static void free_problem(problem *p)
{
    free(p->a), free(p->w), free(p->bias), free(p->add), free(p->normed);
    cudaFree((void *)p->g.w_sums), cudaFree((void *)p->g.a_moments), cudaFree(p->g.y_moments);
    cudaFree((void *)p->g.a), cudaFree((void *)p->g.w), cudaFree((void *)p->g.bias);
}

/* y of a variant, as floats; what surrounds it must stay as it was. */
static float *run(const problem *p, int variant)
{
    size_t count = (size_t)p->g.m * (size_t)p->g.n, bytes = count * vt_dtype_bytes(p->g.y_type);
    unsigned char *memory, *host = malloc(bytes + 2 * GUARD);
    ok(cudaMalloc((void **)&memory, bytes + 2 * GUARD));
    ok(cudaMemset(memory, 0xff, bytes + 2 * GUARD)); /* NaN in all types */
    if (p->add) {
        void *old = to_device(p->add, count, p->g.y_type);
        ok(cudaMemcpy(memory + GUARD, old, bytes, cudaMemcpyDeviceToDevice));
        cudaFree(old);
    }
    vt_cuda_gemm g = p->g;
    g.y = memory + GUARD;
    ok(vt_cuda_gemm_run(variant, &g, NULL));
    ok(cudaDeviceSynchronize());
    ok(cudaMemcpy(host, memory, bytes + 2 * GUARD, cudaMemcpyDeviceToHost));
    cudaFree(memory);
    for (size_t i = 0; i < GUARD; i++)
        assert_true(host[i] == 0xff && host[GUARD + bytes + i] == 0xff);
    float *y = malloc(count * sizeof *y);
    for (size_t i = 0; i < count; i++) {
        uint16_t u;
        if (g.y_type == VT_F32)
            memcpy(&y[i], host + GUARD + 4 * i, 4);
        else
            memcpy(&u, host + GUARD + 2 * i, 2), y[i] = widen(u, g.y_type);
    }
    free(host);
    return y;
}

/* Rounding of the sums, of the result, and of a 16-bit y. */
static double limit(const shape *s, double want)
{
    double half_ulp = s->y_type == VT_F32 ? 0 : s->y_type == VT_F16 ? 1.0 / 2048 : 1.0 / 256;
    double sums = 2e-6 + 4e-8 * s->k; /* a normalised input's are of values about its mean */
    return fabs(want) * half_ulp * 1.001 + (s->norm ? 2 * (1 + MEAN) : 1) * sums +
           (s->y_type == VT_F16 ? 6e-8 : 0);
}

/* The i-th of `rows` rows that are compared. */
static int compared_row(const shape *s, int i, int rows)
{
    return rows > 1 ? (int)((size_t)i * (size_t)(s->m - 1) / (size_t)(rows - 1)) : 0;
}

static void check_row(const shape *s, const float *y, const double *want, int row, const char *name)
{
    y += (size_t)row * (size_t)s->n;
    for (int c = 0; c < s->n; c++)
        if (!(fabs(y[c] - want[c]) <= limit(s, want[c])))
            fail_msg("%s: %d x %d -> %d, act %d, add %d, types %d %d: y[%d, %d] = %.9g, expected "
                     "%.9g",
                     name, s->m, s->k, s->n, s->act, s->add, s->type, s->y_type, row, c,
                     (double)y[c], want[c]);
}

/* Moments of y as it is in memory differ from those before rounding by at most its step. */
static void check_moments(const problem *p, const float *y, const char *name)
{
    size_t parts = (size_t)p->g.m * (size_t)p->g.n / VT_MOMENTS;
    float *got = malloc(parts * 2 * sizeof *got);
    double step = p->g.type == VT_F16 ? 1.0 / 1024 : 1.0 / 128;
    ok(cudaMemcpy(got, p->g.y_moments, parts * 2 * sizeof *got, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < parts; i++, y += VT_MOMENTS) {
        double mean = 0, squares = 0, largest = 0;
        for (int c = 0; c < VT_MOMENTS; c++)
            mean += (double)y[c] / VT_MOMENTS, largest = fmax(largest, fabs((double)y[c]));
        for (int c = 0; c < VT_MOMENTS; c++)
            squares += pow(y[c] - mean, 2);
        if (!(fabs(got[2 * i] - mean) <= step * largest / 4) ||
            !(fabs(got[2 * i + 1] - squares) <= step * squares))
            fail_msg("%s: %d x %d -> %d: moments of part %zu: %g %g, expected %g %g", name, p->g.m,
                     p->g.k, p->g.n, i, (double)got[2 * i], (double)got[2 * i + 1], mean, squares);
    }
    free(got);
}

enum { ROWS = 8 }; /* that are compared of a large product; of the others, that they are finite */

/* Under a tool that takes a thousand times as long, only small products: VITRUN_TEST_PRODUCTS=N
 * leaves out those of more than N multiplications. */
static bool is_left_out(const shape *s)
{
    const char *most = getenv("VITRUN_TEST_PRODUCTS");
    return most && (double)s->m * s->n * s->k > atof(most);
}

/* All variants. */
static void check(const shape *s)
{
    if (is_left_out(s))
        return;
    problem p = make_problem(s);
    size_t n = (size_t)s->n, k = (size_t)s->k;
    int rows = (double)s->m * s->n * s->k < 2e6 || s->m < ROWS ? s->m : ROWS, served = 0;
    double *want = malloc((size_t)rows * n * sizeof *want);
    for (int i = 0; i < rows; i++) {
        size_t r = (size_t)compared_row(s, i, rows);
        oracle_linear(want + (size_t)i * n, (s->norm ? p.normed : p.a) + r * k, p.w, p.bias,
                      p.add ? p.add + r * n : NULL, 1, s->n, s->k, (oracle_act)s->act);
    }
    for (int v = 0; v < vt_cuda_gemm_variants(); v++) {
        if (!vt_cuda_gemm_serves(v, &p.g, 90))
            continue;
        float *y = run(&p, v);
        for (int i = 0; i < rows; i++)
            check_row(s, y, want + (size_t)i * n, compared_row(s, i, rows), vt_cuda_gemm_name(v));
        bool finite = true;
        for (size_t i = 0; i < (size_t)s->m * n; i++)
            finite = finite && isfinite(y[i]);
        assert_true(finite);
        if (s->moments)
            check_moments(&p, y, vt_cuda_gemm_name(v));
        free(y);
        served++;
    }
    assert_true(served > 0);
    free(want);
    free_problem(&p);
}

static const struct {
    vt_activation act;
    bool add;
} epilogues[] = {{VT_ACT_NONE, false},
                 {VT_ACT_NONE, true},
                 {VT_ACT_GELU, false},
                 {VT_ACT_GELU_TANH, false},
                 {VT_ACT_QUICK_GELU, false}};

static void all_epilogues_and_types_give_the_layer(void **state)
{
    (void)state;
    need_hopper();
    for (size_t e = 0; e < sizeof epilogues / sizeof *epilogues; e++)
        for (int types = 0; types < 4; types++)
            for (int bias = 0; bias < 2; bias++) {
                vt_dtype type = types & 1 ? VT_BF16 : VT_F16;
                check(&(shape){197, 200, 136, type, types & 2 ? VT_F32 : type, epilogues[e].act,
                               bias, .add = epilogues[e].add});
            }
}

static void shapes_that_no_tile_divides_give_the_layer(void **state)
{
    (void)state;
    need_hopper();
    const int rows[] = {1, 63, 64, 65, 127, 129, 197}, columns[] = {8, 80, 768, 1000, 2304};
    const int depths[] = {8, 64, 72, 768, 3072};
    for (int r = 0, i = 0; r < 7; r++)
        for (int c = 0; c < 5; c++)
            for (int d = 0; d < 5; d++, i++) {
                vt_dtype type = i % 3 ? VT_F16 : VT_BF16;
                check(&(shape){rows[r], columns[c], depths[d], type, i % 2 ? VT_F32 : type,
                               epilogues[i % 5].act, i % 7 != 0, .add = epilogues[i % 5].add});
            }
}

static void layers_of_vit_give_the_layer(void **state)
{
    (void)state;
    need_hopper();
    const int rows[] = {197, 1576, 4097, 6304, 12608};
    for (int r = 0; r < 5; r++) {
        check(&(shape){rows[r], 2304, 768, VT_F16, VT_F16, VT_ACT_NONE, true, .add = false});
        check(&(shape){rows[r], 768, 768, VT_F16, VT_F32, VT_ACT_NONE, true, .add = true});
        check(&(shape){rows[r], 3072, 768, VT_BF16, VT_BF16, VT_ACT_GELU, true, .add = false});
        check(&(shape){rows[r], 768, 3072, VT_BF16, VT_F32, VT_ACT_NONE, true, .add = true});
        check(&(shape){rows[r], 768, 768, VT_F16, VT_F16, VT_ACT_NONE, true, .add = true});
        check(&(shape){rows[r], 768, 3072, VT_BF16, VT_BF16, VT_ACT_NONE, true, .add = true});
    }
}

static void a_normalised_input_gives_the_layer_of_its_norm(void **state)
{
    (void)state;
    need_hopper();
    const int rows[] = {1, 63, 197, 255, 256}, columns[] = {8, 1000, 2304}, depths[] = {64, 768};
    for (int r = 0, i = 0; r < 5; r++)
        for (int c = 0; c < 3; c++)
            for (int d = 0; d < 2; d++, i++) {
                vt_dtype type = i % 3 ? VT_F16 : VT_BF16;
                check(&(shape){rows[r], columns[c], depths[d], type, type, (vt_activation)(i % 4),
                               i % 5 != 0, false, .norm = true});
            }
}

static void an_addition_leaves_moments_of_the_sum(void **state)
{
    (void)state;
    need_hopper();
    const int rows[] = {1, 65, 197, 255, 256}, columns[] = {64, 192, 768}, depths[] = {8, 768};
    for (int r = 0, i = 0; r < 5; r++)
        for (int c = 0; c < 3; c++)
            for (int d = 0; d < 2; d++, i++) {
                vt_dtype type = i % 3 ? VT_F16 : VT_BF16;
                check(&(shape){rows[r], columns[c], depths[d], type, type, VT_ACT_NONE, i % 5 != 0,
                               true, .moments = true});
            }
}

/* y [m, 8] = act(x), over the range of x. */
static void activations_hold_from_end_to_end(void **state)
{
    (void)state;
    need_hopper();
    enum { M = 4096 };
    const float edge[] = {-INFINITY, -1e30f, -90, 90, 1e30f, INFINITY, NAN};
    for (int act = VT_ACT_GELU; act <= VT_ACT_QUICK_GELU; act++) {
        shape s = {M, 8, 8, VT_BF16, VT_F32, (vt_activation)act, false, .add = false};
        problem p = make_problem(&s);
        float *a = calloc(M * 8, sizeof *a), w[64] = {0};
        for (int i = 0; i < M; i++) /* all bfloat16 of |x| < 32, about every fourth */
            a[8 * i] = i < 7 ? edge[i] : vt_bf16_to_f32((uint16_t)(i % 2 << 15 | (0x3800 + i / 4)));
        for (int j = 0; j < 8; j++)
            w[8 * j] = 1;
        cudaFree((void *)p.g.a), cudaFree((void *)p.g.w);
        p.g.a = to_device(a, M * 8, VT_BF16);
        p.g.w = to_device(w, 64, VT_BF16);
        for (int v = 0; v < vt_cuda_gemm_variants(); v++) {
            if (!vt_cuda_gemm_serves(v, &p.g, 90))
                continue;
            float *y = run(&p, v);
            for (int i = 7; i < M; i++) {
                double want;
                oracle_linear(&want, &a[8 * i], w, NULL, NULL, 1, 1, 1, (oracle_act)act);
                assert_true(fabs(y[8 * i] - want) <= 4e-7 * fmax(1, fabs(want)));
            }
            assert_true(fabsf(y[8]) < 1 && fabsf(y[16]) < 1e-30f && fabsf(y[24] - 90) < 1e-4f);
            assert_true(fabsf(y[32] / 1e30f - 1) < 0.01f && y[40] == INFINITY && isnan(y[48]));
            free(y);
        }
        free(a);
        free_problem(&p);
    }
}

static void a_variant_gives_the_same_bits_each_time(void **state)
{
    (void)state;
    need_hopper();
    shape s = {300, 776, 1544, VT_F16, VT_F32, VT_ACT_NONE, true, .add = true};
    if (is_left_out(&s))
        skip();
    problem p = make_problem(&s);
    size_t bytes = (size_t)s.m * (size_t)s.n * sizeof(float);
    for (int v = 0; v < vt_cuda_gemm_variants(); v++) {
        if (!vt_cuda_gemm_serves(v, &p.g, 90))
            continue;
        float *once = run(&p, v);
        for (int i = 0; i < 5; i++) {
            float *again = run(&p, v);
            assert_memory_equal(once, again, bytes);
            free(again);
        }
        free(once);
    }
    free_problem(&p);
}

/* h = gelu(a W1^T), a = h W2^T: each product reads what the one before wrote and writes what that
 * read. With `wait`, each has the device for itself. */
static float *chain(const problem *p, int variant, void *h, cudaStream_t stream, bool wait)
{
    size_t m = (size_t)p->g.m, k = (size_t)p->g.k;
    void *a = to_device(p->a, m * k, p->g.type);
    vt_cuda_gemm up = p->g, down = p->g;
    up.a = a, up.y = h, up.act = VT_ACT_GELU;
    down.a = h, down.y = a, down.bias = NULL, down.act = VT_ACT_NONE;
    down.n = p->g.k, down.k = p->g.n;
    for (int i = 0; i < 20; i++) {
        ok(vt_cuda_gemm_run(variant, i % 2 ? &down : &up, stream));
        if (wait)
            ok(cudaStreamSynchronize(stream));
    }
    ok(cudaStreamSynchronize(stream));
    float *out = malloc(m * k * 2);
    ok(cudaMemcpy(out, a, m * k * 2, cudaMemcpyDeviceToHost));
    cudaFree(a);
    return out;
}

static void products_in_a_row_wait_for_each_other(void **state)
{
    (void)state;
    need_hopper();
    shape s = {197, 3072, 768, VT_F16, VT_F16, VT_ACT_GELU, true, .add = false};
    if (is_left_out(&s))
        skip();
    problem p = make_problem(&s);
    size_t count = (size_t)s.n * (size_t)s.k;
    for (size_t i = 0; i < count; i++)
        p.w[i] *= 0.25f; /* what goes round stays bounded */
    cudaFree((void *)p.g.w);
    p.g.w = to_device(p.w, count, s.type);
    void *h;
    cudaStream_t stream;
    ok(cudaMalloc(&h, (size_t)s.m * (size_t)s.n * 2));
    ok(cudaStreamCreate(&stream));
    for (int v = 0; v < vt_cuda_gemm_variants(); v++) {
        if (!vt_cuda_gemm_serves(v, &p.g, 90))
            continue;
        float *apart = chain(&p, v, h, stream, true);
        for (int i = 0; i < 5; i++) {
            float *together = chain(&p, v, h, stream, false);
            assert_memory_equal(apart, together, (size_t)s.m * (size_t)s.k * 2);
            free(together);
        }
        free(apart);
    }
    cudaStreamDestroy(stream);
    cudaFree(h);
    free_problem(&p);
}

static void what_is_not_served_is_refused(void **state)
{
    (void)state; /* without a device too */
    float some = 0;
    int normalise = 0;
    const vt_cuda_gemm good = {.m = 1, .n = 8, .k = 8, .type = VT_F16, .y_type = VT_F32};
    for (int v = 0; v < vt_cuda_gemm_variants(); v++) {
        vt_cuda_gemm g = good;
        assert_non_null(vt_cuda_gemm_name(v));
        assert_true(vt_cuda_gemm_serves(v, &g, 90));
        assert_false(vt_cuda_gemm_serves(v, &g, 80) || vt_cuda_gemm_serves(v, &g, 100));
        g.type = VT_F32;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.y_type = VT_BF16;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.n = 12;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.k = 7;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.m = 0;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.add = true, g.act = VT_ACT_GELU;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.y_type = VT_F16, g.a_moments = g.w_sums = &some;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g.k = VT_MOMENTS, normalise += vt_cuda_gemm_serves(v, &g, 90);
        g.w_sums = NULL;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
        g = good, g.y_type = VT_F16, g.y_moments = &some, g.add = true;
        assert_false(vt_cuda_gemm_serves(v, &g, 90));
    }
    assert_true(normalise > 0);
    assert_false(vt_cuda_gemm_serves(-1, &good, 90));
    assert_false(vt_cuda_gemm_serves(vt_cuda_gemm_variants(), &good, 90));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_served_is_refused),
        cmocka_unit_test(all_epilogues_and_types_give_the_layer),
        cmocka_unit_test(shapes_that_no_tile_divides_give_the_layer),
        cmocka_unit_test(layers_of_vit_give_the_layer),
        cmocka_unit_test(a_normalised_input_gives_the_layer_of_its_norm),
        cmocka_unit_test(an_addition_leaves_moments_of_the_sum),
        cmocka_unit_test(activations_hold_from_end_to_end),
        cmocka_unit_test(a_variant_gives_the_same_bits_each_time),
        cmocka_unit_test(products_in_a_row_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
