/* Dense attention by way of the scores, for heads too wide to be fused: a tile's scores want whole
 * keys, and its share of the output whole values, in registers and shared memory.
 *
 *   scores = q k^T     cuBLASLt, fp32, q and k where the layer left them in qkv
 *   weights            softmax.cu, in place
 *   out = weights v    cuBLASLt, v from qkv, into out
 *
 * As many heads at a time as have their scores in SCORES bytes, which stay in the L2 cache; of a head
 * that has more, as many rows. A batch goes over the images of a head or over the heads of an image,
 * whichever are more (over images where heads are listed, as those lie anywhere). Heads and rows are
 * divided evenly; what is left over is made up for by overlapping with the part before.
 *
 * Serves all types, any mask and bias; 16-bit types only heads of whole 16 bytes.
 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

enum { SCORES = 32 << 20, MOST_ALGORITHMS = 8 };

typedef struct {
    int batch, rows; /* of a part: products, and queries of each */
    bool over_images;
    int pitch; /* floats from row to row of scores */
} division;

struct vt_cuda_attention_products {
    struct vt_cuda_attention_products *next;
    vt_cuda_attention shape; /* its addresses do not count */
    division by;
    vt_lt_product *scores, *values;
    cublasLtMatmulAlgo_t scores_by, values_by;
};

/* The size of the smallest number of equal parts of n that are at most `most` each. */
static int even(int64_t n, int64_t most)
{
    int64_t parts = most > 0 ? (n + most - 1) / most : n;
    return (int)((n + parts - 1) / parts);
}

static division divide(const vt_cuda_attention *a)
{
    division by = {.over_images = a->listed || a->images > a->heads,
                   .pitch = (a->tokens + 7) / 8 * 8};
    int64_t row = (int64_t)by.pitch * (int64_t)sizeof(float);
    by.rows = even(a->tokens, SCORES / row);
    by.batch = 1;
    if (by.rows == a->tokens)
        by.batch = even(by.over_images ? a->images : a->heads, SCORES / (row * a->tokens));
    return by;
}

bool vt_cuda_attend_scores_serves(const vt_cuda_attention *a)
{
    return a->type == VT_F32 || a->head_dim % 8 == 0;
}

size_t vt_cuda_scores_bytes(const vt_cuda_attention *a)
{
    division by = divide(a);
    return (size_t)by.batch * (size_t)by.rows * (size_t)by.pitch * sizeof(float);
}

/* ---- the two products ---- */

static vt_lt_shape scores_shape(const vt_cuda_attention *a, division by)
{
    int64_t width = (int64_t)a->heads * a->head_dim, d = a->head_dim;
    vt_lt_pitch in = {3 * width, by.over_images ? 3 * width * a->tokens : d, d};
    return (vt_lt_shape){.m = by.rows,
                         .n = a->tokens,
                         .k = a->head_dim,
                         .x_pitch = in,
                         .w_pitch = in,
                         .y_pitch = {by.pitch, (int64_t)by.rows * by.pitch, 0},
                         .batch = by.batch,
                         .x = a->type,
                         .y = VT_F32,
                         .tf32 = a->tf32};
}

static vt_lt_shape values_shape(const vt_cuda_attention *a, division by)
{
    int64_t width = (int64_t)a->heads * a->head_dim, d = a->head_dim;
    int64_t row = by.pitch * (int64_t)(sizeof(float) / vt_dtype_bytes(a->type));
    return (vt_lt_shape){
        .m = by.rows,
        .n = a->head_dim,
        .k = a->tokens,
        .x_pitch = {row, by.rows * row, 0},
        .w_pitch = {3 * width, by.over_images ? 3 * width * a->tokens : d, d},
        .y_pitch = {width, by.over_images ? width * a->tokens : d, d},
        .batch = by.batch,
        .factor = a->type == VT_F16 ? 1 / VT_CUDA_HALF_WEIGHT : 1,
        .x = a->type,
        .y = a->type,
        .upright = true,
        .tf32 = a->tf32,
    };
}

typedef struct {
    cuda_stream *s;
    vt_lt_product *product;
    const cublasLtMatmulAlgo_t *algo;
    void *y;
    const void *x, *w;
} trial;

static int multiply(cuda_stream *s, vt_lt_product *p, const cublasLtMatmulAlgo_t *algo, void *y,
                    const void *x, const void *w)
{
    return vt_lt_run(p, algo, y, x, w, NULL, s->workspace, s->workspace_bytes, s->stream)
               ? cudaErrorNotSupported
               : 0;
}

static int try_algorithm(void *user, int i)
{
    const trial *t = user;
    return multiply(t->s, t->product, &t->algo[i], t->y, t->x, t->w);
}

/* The fastest of the library's algorithms. */
static vt_lt_product *choose(cuda_stream *s, vt_lt_shape shape, cublasLtMatmulAlgo_t *best, void *y,
                             const void *x, const void *w, vt_status *st)
{
    cublasLtMatmulAlgo_t algo[MOST_ALGORITHMS];
    vt_lt_product *p = vt_lt_product_new(vt_cuda(&s->base)->lt, &shape, st);
    if (!p)
        return NULL;
    trial t = {s, p, algo, y, x, w};
    int found = vt_lt_algorithms(p, s->workspace_bytes, algo, MOST_ALGORITHMS);
    char what[96];
    snprintf(what, sizeof what, "attention: product by cuBLASLt of %d x %d x %d", shape.m, shape.n,
             shape.k);
    int i = vt_cuda_fastest(&s->base, found, try_algorithm, &t, false, what, st);
    if (i >= 0) {
        *best = algo[i];
        return p;
    }
    vt_lt_product_free(p);
    return NULL;
}

/* ---- products of a stream ---- */

static vt_cuda_attention_products *find(const cuda_stream *s, const vt_cuda_attention *a)
{
    division by = divide(a);
    for (vt_cuda_attention_products *p = s->attention; p; p = p->next)
        if (p->shape.type == a->type && p->shape.tf32 == a->tf32 && p->shape.images == a->images &&
            p->shape.tokens == a->tokens && p->shape.heads == a->heads &&
            p->shape.head_dim == a->head_dim && p->by.over_images == by.over_images)
            return p;
    return NULL;
}

static const char *element(const void *p, int64_t at, vt_dtype type)
{
    return (const char *)p + at * (int64_t)vt_dtype_bytes(type);
}

void vt_cuda_attention_products_free(vt_cuda_attention_products *list)
{
    while (list) {
        vt_cuda_attention_products *p = list;
        list = p->next;
        vt_lt_product_free(p->scores);
        vt_lt_product_free(p->values);
        vt_free(p);
    }
}

int vt_cuda_prepare_scores(vt_stream *stream, const vt_cuda_attention *a, vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    if (vt_cuda_need_scratch(stream, vt_cuda_scores_bytes(a), "scores", st))
        return -1;
    if (stream->dry || find(s, a))
        return 0;
    vt_cuda_attention_products *p = vt_alloc(1, sizeof *p, "attention", st);
    if (!p)
        return -1;
    int64_t width = (int64_t)a->heads * a->head_dim;
    *p = (vt_cuda_attention_products){.shape = *a, .by = divide(a)};
    p->scores = choose(s, scores_shape(a, p->by), &p->scores_by, s->scratch, a->qkv,
                       element(a->qkv, width, a->type), st);
    p->values = p->scores ? choose(s, values_shape(a, p->by), &p->values_by, a->out, s->scratch,
                                   element(a->qkv, 2 * width, a->type), st)
                          : NULL;
    if (!p->values) {
        vt_cuda_attention_products_free(p);
        return -1;
    }
    p->next = s->attention;
    s->attention = p;
    return 0;
}

/* ---- running ---- */

/* The part that begins with this query of this head of this image. */
static int run_part(cuda_stream *s, vt_cuda_attention_products *p, const vt_cuda_attention *a,
                    int image, int head, int query)
{
    int64_t width = (int64_t)a->heads * a->head_dim, token = (int64_t)image * a->tokens;
    int64_t column = (int64_t)head * a->head_dim;
    const void *q = element(a->qkv, (token + query) * 3 * width + column, a->type);
    const void *k = element(a->qkv, token * 3 * width + width + column, a->type);
    const void *v = element(a->qkv, token * 3 * width + 2 * width + column, a->type);
    vt_cuda_scores scores = {.scores = (float *)(void *)s->scratch,
                             .count = p->by.batch,
                             .rows = p->by.rows,
                             .pitch = p->by.pitch,
                             .query = query,
                             .head = head,
                             .head_step = p->by.over_images ? 0 : 1};
    void *out =
        (char *)a->out + ((token + query) * width + column) * (int64_t)vt_dtype_bytes(a->type);
    int error = multiply(s, p->scores, &p->scores_by, s->scratch, q, k);
    if (!error)
        error = vt_cuda_softmax(a, &scores, s->stream);
    return error ? error : multiply(s, p->values, &p->values_by, out, s->scratch, v);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

int vt_cuda_attend_scores(vt_stream *stream, const vt_cuda_attention *a)
{
    cuda_stream *s = (cuda_stream *)stream;
    vt_cuda_attention_products *p = find(s, a);
    if (!p)
        return cudaErrorNotSupported;
    int many = p->by.over_images ? a->images : a->heads, error = 0;
    int turns = p->by.over_images ? a->group_heads : a->images;
    for (int t = 0; t < turns; t++)
        for (int i = 0; i < many; i += p->by.batch)
            for (int row = 0; row < a->tokens && !error; row += p->by.rows) {
                int first = least(i, many - p->by.batch);
                int head = !p->by.over_images ? first : a->listed ? a->listed[t] : t;
                error = run_part(s, p, a, p->by.over_images ? first : t, head,
                                 least(row, a->tokens - p->by.rows));
            }
    return error;
}
