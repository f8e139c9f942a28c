/* Every attention kernel of the CUDA back end computes masked softmax attention: against double
 * precision, over token counts, head sizes, masks, types, lists of heads and numbers of images;
 * into outputs and scratch full of NaN, with huge numbers behind the last token, and without
 * writing elsewhere.
 *
 * Inputs are rounded to bfloat16, which makes them exact in all four types, so one oracle serves
 * all. What remains of a 16-bit kernel's error is, per element of `out`, with u = 2^-11 (fp16, and
 * tf32) or 2^-8 (bf16):
 *   u |out|                  the result's rounding (not of tf32, whose result is fp32)
 *   u sum_k w_k |v_k|        weights w are rounded before they meet the values, each by u at most;
 *                            their sum is taken before
 *   2 u sum_k w_k |v_k|      axial only: what two passes leave is rounded before the third adds to
 * it
 *   2^-25 tokens max |v|     fp16 only: weights below 2^-14 are rounded to multiples of 2^-24
 * and what float arithmetic gives anyway: twice the plainest implementation's error, and 2^-22 of
 * sum_k w_k |v_k| for powers of 2 that are off in their last bits: all that fp32 may have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/cuda/cuda.h"
#include "tests/oracle.h"
#include "tests/support_cuda.h"
#include "tests/support_mask.h"

enum { HEADS = 3, BEHIND = 200 /* rows of huge numbers behind the last token */ };

/* ---- types ---- */

typedef enum { FP32, TF32, FP16, BF16, TYPES } type;

static const char *const type_name[TYPES] = {"fp32", "tf32", "fp16", "bf16"};

static vt_dtype dtype_of(type t)
{
    return t == FP16 ? VT_F16 : t == BF16 ? VT_BF16 : VT_F32;
}

/* x is 0 or normal in fp16 and has at most eleven significant bits. */
static uint16_t to_half(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t sign = u >> 16 & 0x8000;
    return (uint16_t)(x == 0 ? sign : sign | (((u & 0x7fffffff) - (112u << 23)) >> 13));
}

static float from_half(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float x = exponent == 31  ? fraction ? NAN : INFINITY
              : exponent == 0 ? ldexpf((float)fraction, -24)
                              : ldexpf((float)(fraction + 1024), exponent - 25);
    return h & 0x8000 ? -x : x;
}

static void to_type(void *to, const float *from, size_t n, type t)
{
    for (size_t i = 0; i < n; i++)
        if (t == FP16)
            ((uint16_t *)to)[i] = to_half(from[i]);
        else if (t == BF16)
            ((uint16_t *)to)[i] = vt_f32_to_bf16(from[i]);
        else
            ((float *)to)[i] = from[i];
}

static float from_type(const void *from, size_t i, type t)
{
    return t == FP16   ? from_half(((const uint16_t *)from)[i])
           : t == BF16 ? vt_bf16_to_f32(((const uint16_t *)from)[i])
                       : ((const float *)from)[i];
}

/* ---- masks ---- */

typedef enum {
    M_NONE,
    M_FULL,
    M_EMPTY,
    M_SPARSE,
    M_HALF,
    M_HOLES,
    M_DIAGONAL,
    M_CROSS,
    M_KINDS
} kind;

static const char *const mask_name[M_KINDS] = {"no mask", "full",  "empty",    "sparse",
                                               "half",    "holes", "diagonal", "cross"};

/* The squarest grid of all tokens but the prefix: its width. */
static int grid_width(int tokens, int prefix)
{
    int patches = tokens - prefix, high = (int)sqrt((double)patches);
    while (patches % high)
        high--;
    return patches / high;
}

/* Prefix tokens with all, row and column and near patches, and a few patches that see all. */
static bool in_cross(int q, int k, int prefix, int wide)
{
    int a = q - prefix, b = k - prefix;
    if (a < 0 || b < 0 || a % 211 == 7)
        return true;
    int dy = a / wide - b / wide, dx = a % wide - b % wide;
    return !dy || !dx || (abs(dy) < 3 && abs(dx) < 3);
}

static bool *make_mask(int tokens, int prefix, kind what)
{
    int wide = grid_width(tokens, prefix);
    const float below[M_KINDS] = {[M_SPARSE] = -1.6f, [M_HALF] = 0, [M_HOLES] = -0.5f};
    size_t n = (size_t)tokens;
    bool *on = malloc(n * n * sizeof *on);
    float *x = malloc(n * n * sizeof *x);
    oracle_random(x, n * n, 1, (unsigned)tokens + (unsigned)what);
    for (size_t i = 0; i < n * n; i++) {
        size_t q = i / n, k = i % n;
        on[i] = what == M_NONE || what == M_FULL || (what != M_EMPTY && x[i] < below[what]);
        if (what == M_HOLES) /* rows without keys, keys that nobody sees, a whole tile unseen */
            on[i] = on[i] && q % 3 != 1 && k % 5 != 2 && (k < 64 || k >= 160);
        if (what == M_DIAGONAL)
            on[i] = q == k;
        if (what == M_CROSS)
            on[i] = in_cross((int)q, (int)k, prefix, wide);
    }
    free(x);
    return on;
}

static uint32_t *bits_of(const bool *on, int tokens, int *words)
{
    size_t n = (size_t)tokens;
    *words = (tokens + 127) / 128 * 4;
    uint32_t *bits = calloc(n * (size_t)*words, sizeof *bits);
    for (size_t i = 0; i < n * n; i++)
        if (on[i])
            bits[i / n * (size_t)*words + i % n / 32] |= 1u << i % n % 32;
    return bits;
}

/* ---- problems: `distinct` images, which a run may repeat ---- */

typedef struct {
    int tokens, prefix, head_dim, distinct;
    kind what;
    bool *on;
    float *qkv;            /* [distinct * N, 3 * HEADS * head_dim] */
    double *want, *spread; /* [distinct * N, HEADS * head_dim]; spread: of |v| instead of v */
    double most;           /* no |v| is greater */
    double error;          /* of the plainest implementation in float */
} problem;

static void take_head(float *to, const problem *p, int image, int column)
{
    size_t d = (size_t)p->head_dim, n = (size_t)p->tokens, row = 3 * HEADS * d;
    for (size_t t = 0; t < n; t++)
        memcpy(to + t * d, p->qkv + ((size_t)image * n + t) * row + (size_t)column * d,
               d * sizeof *to);
}

static double solve_head(problem *p, int image, int head)
{
    size_t n = (size_t)p->tokens, d = (size_t)p->head_dim;
    float *q = malloc(4 * n * d * sizeof *q), *k = q + n * d, *v = k + n * d, *plain = v + n * d;
    double *out = malloc(2 * n * d * sizeof *out), *spread = out + n * d;
    take_head(q, p, image, head);
    take_head(k, p, image, HEADS + head);
    take_head(v, p, image, 2 * HEADS + head);
    plain_attention(plain, q, k, v, p->on, p->tokens, p->head_dim, 1 / sqrtf((float)d));
    oracle_attention(out, q, k, v, p->on, p->tokens, p->head_dim, 1 / sqrt((double)d));
    for (size_t i = 0; i < n * d; i++)
        v[i] = fabsf(v[i]);
    oracle_attention(spread, q, k, v, p->on, p->tokens, p->head_dim, 1 / sqrt((double)d));
    for (size_t t = 0; t < n; t++) {
        size_t to = (((size_t)image * n + t) * HEADS + (size_t)head) * d;
        memcpy(p->want + to, out + t * d, d * sizeof *out);
        memcpy(p->spread + to, spread + t * d, d * sizeof *out);
    }
    double error = oracle_error(plain, out, n * d);
    free(q);
    free(out);
    return error;
}

static problem make_prefixed(int tokens, int prefix, int head_dim, kind what, int distinct,
                             float size)
{
    problem p = {.tokens = tokens,
                 .prefix = prefix,
                 .head_dim = head_dim,
                 .distinct = distinct,
                 .what = what,
                 .most = 2 * sqrt(3.0) * (double)size};
    size_t all = (size_t)distinct * (size_t)tokens * HEADS * (size_t)head_dim;
    p.on = make_mask(tokens, prefix, what);
    p.qkv = malloc(3 * all * sizeof *p.qkv);
    p.want = malloc(all * sizeof *p.want);
    p.spread = malloc(all * sizeof *p.spread);
    oracle_random(p.qkv, 3 * all, size, (unsigned)(tokens * 1000 + head_dim));
    oracle_round_bf16(p.qkv, 3 * all);
    for (size_t i = 0; i < 3 * all; i++)
        if (fabsf(p.qkv[i]) < 1e-4f) /* would not be normal in fp16 */
            p.qkv[i] = 0;
    double error = 0;
    for (int i = 0; i < distinct * HEADS; i++)
        error = fmax(error, solve_head(&p, i / HEADS, i % HEADS));
    p.error = error;
    return p;
}

static problem make_problem(int tokens, int head_dim, kind what, int distinct, float size)
{
    return make_prefixed(tokens, tokens > 1, head_dim, what, distinct, size);
}

static void free_problem(problem *p)
{
    free(p->on);
    free(p->qkv);
    free(p->want);
    free(p->spread);
}

/* ---- running ---- */

static void *on_device(const void *from, size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes + 16), cudaSuccess);
    if (from)
        assert_int_equal(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    else /* NaN in all types */
        assert_int_equal(cudaMemset(p, 0xff, bytes), cudaSuccess);
    return p;
}

/* qkv of `images` images, and behind them rows of 30000. */
static void *make_qkv(const problem *p, type t, int images)
{
    size_t per_image = (size_t)p->tokens * 3 * HEADS * (size_t)p->head_dim;
    size_t behind = BEHIND * 3 * HEADS * (size_t)p->head_dim, size = vt_dtype_bytes(dtype_of(t));
    char *all = malloc(((size_t)images * per_image + behind) * size);
    for (int i = 0; i < images; i++)
        to_type(all + (size_t)i * per_image * size, p->qkv + (size_t)(i % p->distinct) * per_image,
                per_image, t);
    const float huge = 29952; /* 2^8 * 117 */
    for (size_t i = 0; i < behind; i++)
        to_type(all + ((size_t)images * per_image + i) * size, &huge, 1, t);
    void *device = on_device(all, ((size_t)images * per_image + behind) * size);
    free(all);
    return device;
}

/* ---- the kernels ---- */

typedef struct {
    const char *name;
    bool (*serves)(const vt_cuda_attention *a, int capability);
    int (*run)(const problem *p, const vt_cuda_attention *a, float *scores, cudaStream_t stream);
    /* Or one that reads columns, in a shape: */
    int (*attend)(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream);
    int shape;
} launcher;

static bool serves_all(const vt_cuda_attention *a, int capability)
{
    return a && capability;
}

static int run_reference(const problem *p, const vt_cuda_attention *a, float *scores,
                         cudaStream_t stream)
{
    (void)p;
    return vt_cuda_attend_reference(a, scores, stream);
}

static int run_f32(const problem *p, const vt_cuda_attention *a, float *scores, cudaStream_t stream)
{
    (void)p, (void)scores;
    return vt_cuda_attend_f32(a, stream);
}

static int run_mma(const problem *p, const vt_cuda_attention *a, float *scores, cudaStream_t stream)
{
    (void)p, (void)scores;
    return vt_cuda_attend_mma(a, stream);
}

static int run_wgmma(const problem *p, const vt_cuda_attention *a, float *scores,
                     cudaStream_t stream)
{
    (void)p, (void)scores;
    return vt_cuda_attend_wgmma(a, stream);
}

static table_mask *mask_of(const problem *p)
{
    int wide = grid_width(p->tokens, p->prefix);
    table_mask *t = table_mask_new(p->prefix, (p->tokens - p->prefix) / wide, wide);
    memcpy(t->on, p->on, (size_t)p->tokens * (size_t)p->tokens * sizeof *t->on);
    return t;
}

static vt_device *device(void) /* for its memory */
{
    static vt_device *dev;
    vt_status st = {VT_OK, ""};
    dev = dev ? dev : vt_cuda_open(VT_F16, false, 0, 1, &st);
    assert_non_null(dev);
    return dev;
}

/* Lists of the problem's pairs on the device; the caller releases *block. */
static vt_cuda_rows rows_of(const problem *p, void **block)
{
    vt_status st = {VT_OK, ""};
    table_mask *mask = mask_of(p);
    vt_csr *csr = vt_csr_build(&mask->mask, 4, &st);
    vt_cuda_rows rows;
    size_t bytes;
    assert_non_null(csr);
    *block = vt_cuda_rows_load(device(), csr, &rows, &bytes, &st);
    assert_non_null(*block);
    vt_csr_free(csr);
    vt_mask_free(&mask->mask);
    return rows;
}

static bool serves_rows(const vt_cuda_attention *a, int capability)
{
    return a->bits && capability;
}

static bool serves_scores(const vt_cuda_attention *a, int capability)
{
    return capability && vt_cuda_attend_scores_serves(a);
}

static int run_scores(const problem *p, const vt_cuda_attention *a, float *scores,
                      cudaStream_t stream)
{
    vt_device *dev = device();
    vt_status st = {VT_OK, ""};
    static vt_stream *s; /* which keeps the products that it has met */
    s = s ? s : dev->ops->stream_open(dev, &st);
    size_t bytes = vt_cuda_scores_bytes(a);
    (void)p, (void)scores, (void)stream;
    assert_non_null(s);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess); /* it does not wait for other streams */
    if (vt_cuda_prepare_scores(s, a, &st))
        fail_msg("%s", st.text);
    const cuda_stream *own = (const cuda_stream *)s;
    assert_int_equal(cudaMemset(own->scratch, 0xff, bytes), cudaSuccess);
    size_t out = (size_t)a->images * (size_t)a->tokens * (size_t)a->heads * (size_t)a->head_dim;
    assert_int_equal(cudaMemset(a->out, 0xff, out * vt_dtype_bytes(a->type)), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess); /* nor for these */
    int error = vt_cuda_attend_scores(s, a);
    assert_int_equal(dev->ops->finish(s, &st), 0);
    return error;
}

static bool serves_panels(const vt_cuda_attention *a, int capability)
{
    int chunk = a->type == VT_F32 ? 4 : 8;
    return serves_rows(a, capability) && a->head_dim % chunk == 0;
}

static int run_rows(const problem *p, const vt_cuda_attention *a, float *scores,
                    cudaStream_t stream)
{
    void *block;
    vt_cuda_rows rows = rows_of(p, &block);
    (void)scores;
    int error = vt_cuda_attend_gathered(a, &rows, stream);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    vt_cuda_release(device(), block);
    return error;
}

static int run_panels(const problem *p, const vt_cuda_attention *a, float *scores,
                      cudaStream_t stream)
{
    void *block;
    vt_cuda_rows rows = rows_of(p, &block);
    (void)scores;
    int error = 0;
    if (vt_cuda_attend_panels_serves(a, &rows))
        error = vt_cuda_attend_panels(a, &rows, stream);
    else /* rows that do not fit */
        error = vt_cuda_attend_gathered(a, &rows, stream);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    vt_cuda_release(device(), block);
    return error;
}

static int run_columns(const problem *p, const vt_cuda_attention *a, const launcher *by,
                       cudaStream_t stream)
{
    vt_device *dev = device();
    vt_status st = {VT_OK, ""};
    table_mask *mask = mask_of(p);
    vt_columns *layout = vt_columns_build(&mask->mask, vt_columns_shapes[by->shape], 4, &st);
    vt_cuda_columns c;
    size_t bytes, counters = 0;
    assert_non_null(layout);
    void *block = vt_cuda_columns_load(dev, layout, &c, &bytes, &st);
    assert_true(block && vt_cuda_columns_scratch(layout, a, &bytes, &counters));
    void *scratch = on_device(NULL, bytes), *arrived = on_device(NULL, counters * 4);
    assert_int_equal(cudaMemset(arrived, 0, counters * 4), cudaSuccess);
    vt_cuda_columns_place(&c, a, scratch, arrived);
    int error = by->attend(a, &c, stream);
    uint32_t *left = calloc(counters + 1, sizeof *left);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(cudaMemcpy(left, arrived, counters * 4, cudaMemcpyDeviceToHost), cudaSuccess);
    for (size_t i = 0; i < counters; i++)
        assert_int_equal(left[i], 0);
    free(left);
    cudaFree(scratch);
    cudaFree(arrived);
    vt_cuda_release(dev, block);
    vt_columns_free(layout);
    vt_mask_free(&mask->mask);
    return error;
}

#define COLUMNS(by, name)                                                                          \
    {"columns64" name, by##_serves, NULL, by, 0}, {"columns128" name, by##_serves, NULL, by, 1},   \
        {"axial64" name, by##_serves, NULL, by, 2},                                                \
    {                                                                                              \
        "axial128" name, by##_serves, NULL, by, 3                                                  \
    }

static const launcher launchers[] = {
    {"reference", serves_all, run_reference, NULL, 0},
    {"f32", vt_cuda_attend_f32_serves, run_f32, NULL, 0},
    {"mma", vt_cuda_attend_mma_serves, run_mma, NULL, 0},
    {"wgmma", vt_cuda_attend_wgmma_serves, run_wgmma, NULL, 0},
    {"scores", serves_scores, run_scores, NULL, 0},
    {"rows", serves_rows, run_rows, NULL, 0},
    {"panels", serves_panels, run_panels, NULL, 0},
    COLUMNS(vt_cuda_attend_columns, ""),
    COLUMNS(vt_cuda_attend_columns_mma, " by mma"),
    COLUMNS(vt_cuda_attend_columns_f32, " in fp32"),
};

static bool serves(const launcher *by, const vt_cuda_attention *a, int capability)
{
    return (!by->attend || a->bits) && by->serves(a, capability);
}

/* Passes whose results are rounded before others are added. */
static int passes_before_last(const launcher *by)
{
    return by->attend && vt_columns_shapes[by->shape].axial ? VT_COLUMN_PASSES - 1 : 0;
}

/* ---- comparing ---- */

static double limit(const problem *p, type t, int passes, size_t at)
{
    double u = t == FP32   ? ldexp(1, -22)
               : t == BF16 ? ldexp(1, -8)
                           : ldexp(1, -11),
           limit = 2 * p->error + 2e-7;
    limit += (1 + passes) * u * p->spread[at] + (t == TF32 ? 0 : u * fabs(p->want[at]));
    return limit + (t == FP16 ? ldexp(1, -25) * p->tokens * p->most : 0);
}

static bool listed(const vt_cuda_attention *a, const uint16_t *heads, int head)
{
    for (int i = 0; i < a->group_heads; i++)
        if ((heads ? heads[i] : i) == head)
            return true;
    return false;
}

/* Everything that a run wrote, and that it wrote nothing else. */
static void compare(const problem *p, const vt_cuda_attention *a, const uint16_t *heads,
                    const char *out, type t, const launcher *by)
{
    size_t d = (size_t)p->head_dim, per_image = (size_t)p->tokens * HEADS * d;
    size_t size = vt_dtype_bytes(a->type);
    for (size_t i = 0; i < ((size_t)a->images * (size_t)p->tokens + BEHIND) * HEADS * d; i++) {
        size_t image = i / per_image, at = image % (size_t)p->distinct * per_image + i % per_image;
        if (image >= (size_t)a->images || !listed(a, heads, (int)(i / d % HEADS))) {
            for (size_t b = 0; b < size; b++)
                if ((uint8_t)out[i * size + b] != 0xff)
                    fail_msg("%s wrote element %zu", by->name, i);
            continue;
        }
        double error = fabs(from_type(out, i, t) - p->want[at]);
        if (!(error <= limit(p, t, passes_before_last(by), at)))
            fail_msg("%s %s, %s: N %d, head_dim %d, images %d: [image %zu, row %zu, column %zu] is "
                     "%g, must be %g (at most %g away)",
                     by->name, type_name[t], mask_name[p->what], p->tokens, p->head_dim, a->images,
                     image, i / (HEADS * d) % (size_t)p->tokens, i % (HEADS * d),
                     (double)from_type(out, i, t), p->want[at],
                     limit(p, t, passes_before_last(by), at));
    }
}

static int capability(void)
{
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return 10 * major + minor;
}

/* Every kernel that serves the type; heads: a list of group_heads of them, or NULL for all. */
static void check_type(const problem *p, type t, int images, const uint16_t *heads, int group_heads)
{
    size_t rows = (size_t)images * (size_t)p->tokens, n = (size_t)p->tokens;
    vt_cuda_attention a = {.type = dtype_of(t),
                           .tf32 = t == TF32,
                           .images = images,
                           .tokens = p->tokens,
                           .heads = HEADS,
                           .head_dim = p->head_dim,
                           .scale = 1 / sqrtf((float)p->head_dim),
                           .group_heads = group_heads};
    uint32_t *bits = bits_of(p->on, p->tokens, &a.words);
    void *bits_d = on_device(bits, n * (size_t)a.words * sizeof *bits), *heads_d = NULL;
    if (heads)
        a.head = heads_d = on_device(a.listed = heads, (size_t)group_heads * sizeof *heads);
    a.bits = p->what == M_NONE ? NULL : bits_d;
    a.qkv = make_qkv(p, t, images);
    size_t out_bytes = (rows + BEHIND) * HEADS * (size_t)p->head_dim * vt_dtype_bytes(dtype_of(t));
    char *out = malloc(out_bytes);
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const launcher *by = &launchers[i];
        if (!serves(by, &a, capability()))
            continue;
        a.out = on_device(NULL, out_bytes);
        float *scores =
            on_device(NULL, (size_t)images * (size_t)group_heads * n * n * sizeof *scores);
        int error = by->attend ? run_columns(p, &a, by, 0) : by->run(p, &a, scores, 0);
        assert_int_equal(error, 0);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_int_equal(cudaMemcpy(out, a.out, out_bytes, cudaMemcpyDeviceToHost), cudaSuccess);
        compare(p, &a, heads, out, t, by);
        cudaFree(a.out);
        cudaFree(scores);
    }
    free(bits);
    free(out);
    cudaFree(bits_d);
    cudaFree(heads_d);
    cudaFree((void *)a.qkv);
}

static void check_all(int tokens, int head_dim, kind what, int images)
{
    problem p = make_problem(tokens, head_dim, what, images < 3 ? images : 3, 1.5f);
    for (int t = 0; t < TYPES; t++)
        check_type(&p, (type)t, images, NULL, HEADS);
    free_problem(&p);
}

/* ---- the tests ---- */

static void all_token_counts_and_masks_give_attention(void **state)
{
    (void)state;
    need_gpu();
    const int tokens[] = {1,   2,   7,   16,  17,  63,  64,  65,  127, 128,
                          129, 130, 191, 192, 193, 197, 257, 577, 1025};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (int what = 0; what < M_KINDS; what++)
            check_all(tokens[i], 64, (kind)what, tokens[i] < 200 ? 1 + what % 3 : 1);
}

static void all_head_dimensions_give_attention(void **state)
{
    (void)state;
    need_gpu();
    const int dims[] = {1, 7, 8, 12, 16, 32, 48, 64, 72, 80, 88, 96, 104, 128, 200, 256, 1024};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        check_all(130, dims[i], M_NONE, 2);
        check_all(197, dims[i], M_HOLES, 1);
    }
}

/* So many that scores are made of some heads, or of some rows of one, at a time. */
static void many_tokens_give_attention(void **state)
{
    (void)state;
    need_gpu();
    check_all(2000, 16, M_HOLES, 1);
    check_all(3000, 16, M_NONE, 1);
    check_all(3000, 8, M_HOLES, 2);
}

/* Of few prefix queries `columns` makes guests of other queries' tiles. */
static void any_number_of_prefix_tokens_gives_attention(void **state)
{
    (void)state;
    need_gpu();
    const int prefix[] = {0, 1, 2, 5, 8, 9, 65, 130}, patches[] = {196, 256, 450, 1024};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
        for (int what = M_FULL; what < M_KINDS; what++) {
            problem p = make_prefixed(prefix[i] + patches[(i + (size_t)what) % 4], prefix[i], 64,
                                      (kind)what, 2, 1.5f);
            check_type(&p, what % 2 ? FP16 : BF16, 3, NULL, HEADS);
            free_problem(&p);
        }
}

/* So many that other variants are chosen than for few. */
static void many_images_give_attention(void **state)
{
    (void)state;
    need_gpu();
    const int tokens[] = {17, 50, 64, 197, 257, 288, 577},
              images[] = {150, 40, 100, 60, 40, 100, 25};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (int what = 0; what < M_KINDS; what += 2) {
            problem p = make_problem(tokens[i], 64, (kind)what, 2, 1.5f);
            check_type(&p, i % 2 ? FP16 : BF16, images[i], NULL, HEADS);
            free_problem(&p);
        }
}

static void only_listed_heads_are_written(void **state)
{
    (void)state;
    need_gpu();
    const uint16_t one[] = {1}, two[] = {2, 0};
    const int tokens[] = {50, 197, 300};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (int d = 32; d <= 128; d *= 2) {
            problem p = make_problem(tokens[i], d, M_HALF, 2, 1.5f);
            for (int t = 0; t < TYPES; t++) {
                check_type(&p, (type)t, 2, one, 1);
                check_type(&p, (type)t, 3, two, 2);
            }
            free_problem(&p);
        }
    problem p = make_problem(197, 64, M_HOLES, 2, 1.5f);
    check_type(&p, FP16, 60, two, 2);
    free_problem(&p);
}

/* Scores far apart, which grow along a row: weights underflow to 0, maxima rise, nothing is NaN. */
static void huge_scores_give_attention(void **state)
{
    (void)state;
    need_gpu();
    for (int what = 0; what < M_KINDS; what++) {
        problem p = make_problem(300, 64, (kind)what, 1, 12);
        for (int t = 0; t < TYPES; t++)
            check_type(&p, (type)t, 1, NULL, HEADS);
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_token_counts_and_masks_give_attention),
        cmocka_unit_test(all_head_dimensions_give_attention),
        cmocka_unit_test(many_tokens_give_attention),
        cmocka_unit_test(any_number_of_prefix_tokens_gives_attention),
        cmocka_unit_test(many_images_give_attention),
        cmocka_unit_test(only_listed_heads_are_written),
        cmocka_unit_test(huge_scores_give_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
