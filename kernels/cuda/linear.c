/* Linear layers: y = act(x W^T + b), or y += x W^T + b.
 *
 * A product has several candidates: cuBLASLt's algorithms for its shape, followed by a pass for an
 * activation that the library's epilogue has not got, and our own tiles with everything in the
 * epilogue (vt_cuda_gemm_...). Odd shapes, whose rows are not aligned as those want, have a plain
 * one. Each shape is timed once, on the real buffers, when a stream is prepared, and remembered on
 * disk (tuned.c).
 *
 * Where the input is normalised on the way or moments of the result are wanted, our tiles do it in
 * their epilogues; the others have passes before and behind.
 *
 * Weights are kept as [out, in] in the device's type; bias in fp32 and, where that is a 16-bit
 * type, in it as well, because cuBLASLt wants the bias in the output's type. With them are kept the
 * sums of W's rows as they were rounded, for normalised inputs.
 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

enum { LT_MOST = 8, CANDIDATES = 24, COLD_ROWS = 2048 };

struct vt_linear {
    int out, in;
    vt_dtype type;
    void *w;
    float *bias; /* NULL: none */
    void *bias16;
    float *sums; /* [out]; NULL where fold_rows is 0 */
    size_t bytes;
};

enum { LIBRARY = -1, ANY = -2 };

typedef struct { /* one way to compute a product */
    int own;     /* variant of our own product, LIBRARY or ANY */
    cublasLtMatmulAlgo_t algo;
} candidate;

struct vt_cuda_product {
    struct vt_cuda_product *next;
    int m, n, k;
    vt_dtype x, y;
    bool bias, norm, moments;
    vt_epilogue e; /* its act and add */
    vt_lt_product *lt;
    bool fused; /* the activation is in cuBLASLt's epilogue */
    candidate best;
};

/* ---- weights ---- */

static size_t align256(size_t n)
{
    return (n + 255) / 256 * 256;
}

static int fill(vt_device *dev, vt_linear *l, const float *w, const float *bias, vt_status *st)
{
    vt_mat weights = {l->w, l->type, (size_t)l->out, l->in}, b = {l->bias, VT_F32, 1, l->out};
    vt_mat b16 = {l->bias16, l->type, 1, l->out};
    if (dev->ops->upload(dev, weights, w, st) || (bias && dev->ops->upload(dev, b, bias, st)) ||
        (l->bias16 && dev->ops->upload(dev, b16, bias, st)))
        return -1;
    int error = l->sums ? vt_cuda_row_sums(l->sums, weights, NULL) : 0;
    if (!error && l->sums)
        error = cudaStreamSynchronize(NULL);
    return error ? vt_cuda_fail(dev, error, "sums of weights", st) : 0;
}

vt_linear *vt_cuda_linear_load(vt_device *dev, const float *w, const float *bias, int out, int in,
                               size_t rows, vt_status *st)
{
    (void)rows;
    vt_linear *l = vt_alloc(1, sizeof *l, "linear layer", st);
    if (!l)
        return NULL;
    size_t type = vt_dtype_bytes(dev->dtype), n = (size_t)out;
    size_t matrix = align256(n * (size_t)in * type), vector = bias ? align256(n * 4) : 0;
    size_t narrow = bias && dev->dtype != VT_F32 ? align256(n * type) : 0;
    size_t sums = dev->fold_rows ? align256(n * 4) : 0;
    *l = (vt_linear){.out = out, .in = in, .type = dev->dtype};
    l->bytes = matrix + vector + narrow + sums;
    l->w = vt_cuda_malloc(dev, l->bytes, "weights", st);
    if (l->w && vector)
        l->bias = (float *)((char *)l->w + matrix);
    if (l->w && narrow)
        l->bias16 = (char *)l->bias + vector;
    if (l->w && sums)
        l->sums = (float *)((char *)l->w + matrix + vector + narrow);
    if (!l->w || fill(dev, l, w, bias, st)) {
        vt_cuda_linear_free(dev, l);
        return NULL;
    }
    return l;
}

void vt_cuda_linear_free(vt_device *dev, vt_linear *l)
{
    if (l && l->w)
        dev->ops->free(dev, l->w);
    vt_free(l);
}

size_t vt_cuda_linear_bytes(const vt_linear *l)
{
    return l->bytes;
}

bool vt_cuda_linear_fits(const vt_linear *l, int in, int out)
{
    return l->in == in && l->out == out;
}

/* ---- running a candidate ---- */

typedef struct { /* what a product is asked to work on */
    void *y;
    const void *x;
    const vt_linear *l;
    vt_epilogue e;
} operands;

static vt_cuda_gemm own_product(const vt_cuda_product *p, const operands *o)
{
    return (vt_cuda_gemm){.a = o->x,
                          .w = o->l->w,
                          .bias = o->l->bias,
                          .w_sums = p->norm ? o->l->sums : NULL,
                          .a_moments = p->norm ? o->e.norm->moments : NULL,
                          .y_moments = p->moments ? o->e.moments : NULL,
                          .eps = p->norm ? o->e.norm->eps : 0,
                          .y = o->y,
                          .type = p->x,
                          .y_type = p->y,
                          .m = p->m,
                          .n = p->n,
                          .k = p->k,
                          .act = p->e.act,
                          .add = p->e.add};
}

/* The product and its activation, of x as it is. */
static int run_plain(cuda_stream *s, vt_cuda_product *p, const candidate *c, const operands *o)
{
    const void *bias = p->y == VT_F32 ? o->l->bias : o->l->bias16;
    vt_mat y = {o->y, p->y, (size_t)p->m, p->n};
    if (c->own == ANY) {
        vt_cuda_gemm g = own_product(p, o);
        return vt_cuda_gemm_any(&g, s->stream);
    }
    if (vt_lt_run(p->lt, &c->algo, o->y, o->x, o->l->w, bias, s->workspace, s->workspace_bytes,
                  s->stream))
        return cudaErrorNotSupported;
    return p->fused ? 0 : vt_cuda_activate(y, p->e.act, s->stream);
}

static int run_candidate(cuda_stream *s, vt_cuda_product *p, const candidate *c, operands o)
{
    if (c->own >= 0) {
        vt_cuda_gemm g = own_product(p, &o);
        return vt_cuda_gemm_run(c->own, &g, s->stream);
    }
    int error = 0;
    if (p->norm) {
        vt_mat x = {(void *)o.x, p->x, (size_t)p->m, p->k}, normed = o.e.norm->room;
        error = vt_cuda_norm(normed, x, NULL, NULL, o.e.norm->eps, s->stream);
        o.x = normed.p;
    }
    if (!error)
        error = run_plain(s, p, c, &o);
    vt_mat y = {o.y, p->y, (size_t)p->m, p->n};
    return error || !p->moments ? error : vt_cuda_moments(o.e.moments, y, s->stream);
}

/* ---- choosing ---- */

/* Where our tiles do what the library needs passes for, only they: timed alone, passes seem to cost
 * less than they do in a model. */
static int list_candidates(const cuda_device *dev, const vt_cuda_product *p, const operands *o,
                           candidate *out)
{
    cublasLtMatmulAlgo_t algo[LT_MOST];
    vt_cuda_gemm g = own_product(p, o);
    int n = 0;
    for (int v = 0; v < vt_cuda_gemm_variants() && n < CANDIDATES - LT_MOST; v++)
        if (vt_cuda_gemm_serves(v, &g, dev->capability))
            out[n++] = (candidate){.own = v};
    if (n && (p->norm || p->moments))
        return n;
    int found = vt_lt_algorithms(p->lt, VT_CUDA_WORKSPACE, algo, LT_MOST);
    for (int i = 0; i < found; i++)
        out[n++] = (candidate){.own = LIBRARY, .algo = algo[i]};
    if (!n)
        out[n++] = (candidate){.own = ANY};
    return n;
}

/* Texts that tuned.c keeps: "own NAME", "own any", or "lt" and the algorithm's bytes in hex. */
static void write_choice(const candidate *c, char *text, size_t room)
{
    if (c->own != LIBRARY) {
        snprintf(text, room, "own %s", c->own == ANY ? "any" : vt_cuda_gemm_name(c->own));
        return;
    }
    const unsigned char *bytes = (const unsigned char *)&c->algo;
    size_t at = (size_t)snprintf(text, room, "lt ");
    for (size_t i = 0; i < sizeof c->algo; i++)
        at += (size_t)snprintf(text + at, room - at, "%02x", bytes[i]);
}

static bool read_choice(candidate *c, const char *text)
{
    unsigned byte;
    *c = (candidate){.own = ANY};
    if (!strcmp(text, "own any"))
        return true;
    if (!strncmp(text, "own ", 4)) {
        for (int v = 0; v < vt_cuda_gemm_variants(); v++)
            if (!strcmp(vt_cuda_gemm_name(v), text + 4)) {
                *c = (candidate){.own = v};
                return true;
            }
        return false;
    }
    if (strncmp(text, "lt ", 3) || strlen(text) != 3 + 2 * sizeof c->algo)
        return false;
    *c = (candidate){.own = LIBRARY};
    for (size_t i = 0; i < sizeof c->algo; i++) {
        if (sscanf(text + 3 + 2 * i, "%2x", &byte) != 1)
            return false;
        ((unsigned char *)&c->algo)[i] = (unsigned char)byte;
    }
    return true;
}

typedef struct {
    cuda_stream *s;
    vt_cuda_product *p;
    const candidate *list;
    operands o;
} trial;

/* A pass over m that changes nothing. */
static int touch(vt_mat m, cudaStream_t stream)
{
    return vt_cuda_cast(m.p, m.type, m.p, m.type, m.rows * (size_t)m.cols, stream);
}

/* Small products between two small kernels, as in a model: what the next kernel may begin before
 * the last one ends decides there. */
static int try_candidate(void *user, int i)
{
    const trial *t = user;
    const vt_cuda_product *p = t->p;
    bool small = p->m < COLD_ROWS;
    vt_mat x = {(void *)t->o.x, p->x, (size_t)p->m, p->k}, y = {t->o.y, p->y, (size_t)p->m, p->n};
    int error = small ? touch(x, t->s->stream) : 0;
    if (!error)
        error = run_candidate(t->s, t->p, &t->list[i], t->o);
    return small && !error ? touch(y, t->s->stream) : error;
}

static void key_of(const vt_cuda_product *p, bool tf32, char *key, size_t room)
{
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const char *const acts[] = {"", " gelu", " gelu_tanh", " quick_gelu"};
    snprintf(key, room, "product %dx%dx%d %s%s %s%s%s%s%s%s", p->m, p->n, p->k, types[p->x],
             tf32 ? "(tf32)" : "", types[p->y], p->bias ? " bias" : "", acts[p->e.act],
             p->e.add ? " add" : "", p->norm ? " norm" : "", p->moments ? " moments" : "");
}

/* Takes over the remembered choice where there is one that still works: the file may be anybody's.
 * Nothing runs any more when it returns: the caller may fill the buffers by other streams. */
static bool recall(const trial *t, const char *key)
{
    cuda_device *dev = vt_cuda(&t->s->base);
    const char *known = vt_tuned_get(dev->tuned, key);
    candidate c;
    if (!known || !read_choice(&c, known))
        return false;
    vt_cuda_gemm g = own_product(t->p, &t->o);
    if (c.own >= 0 && !vt_cuda_gemm_serves(c.own, &g, dev->capability))
        return false;
    if (run_candidate(t->s, t->p, &c, t->o) || cudaStreamSynchronize(t->s->stream)) {
        cudaGetLastError();
        return false;
    }
    t->p->best = c;
    return true;
}

/* By what is remembered, else by timing; the lock keeps other streams from timing beside us. */
static int choose(cuda_stream *s, vt_cuda_product *p, operands o, vt_status *st)
{
    cuda_device *dev = vt_cuda(&s->base);
    char key[128], text[256];
    candidate list[CANDIDATES];
    key_of(p, dev->base.tf32, key, sizeof key);
    pthread_mutex_lock(&dev->lock);
    trial t = {s, p, list, o};
    int best = -1;
    bool found = recall(&t, key);
    if (!found) {
        int tried = list_candidates(dev, p, &o, list);
        best = vt_cuda_fastest(&s->base, tried, try_candidate, &t, p->m < COLD_ROWS, key, st);
        if (best >= 0) {
            p->best = list[best];
            write_choice(&p->best, text, sizeof text);
            vt_tuned_put(dev->tuned, key, text);
        }
    }
    pthread_mutex_unlock(&dev->lock);
    return found || best >= 0 ? 0 : -1;
}

/* ---- products of a stream ---- */

static vt_cuda_product *find(const cuda_stream *s, vt_mat y, vt_mat x, const vt_linear *l,
                             vt_epilogue e)
{
    for (vt_cuda_product *p = s->products; p; p = p->next)
        if ((size_t)p->m == x.rows && p->n == l->out && p->k == l->in && p->x == x.type &&
            p->y == y.type && p->bias == (l->bias != NULL) && p->e.act == e.act &&
            p->e.add == e.add && p->norm == (e.norm != NULL) && p->moments == (e.moments != NULL))
            return p;
    return NULL;
}

static void free_product(vt_cuda_product *p)
{
    vt_lt_product_free(p->lt);
    vt_free(p);
}

static vt_cuda_product *new_product(cuda_device *dev, vt_mat y, vt_mat x, const vt_linear *l,
                                    vt_epilogue e, vt_status *st)
{
    vt_cuda_product *p = vt_alloc(1, sizeof *p, "product", st);
    if (!p)
        return NULL;
    p->m = (int)x.rows, p->n = l->out, p->k = l->in;
    p->x = x.type, p->y = y.type, p->bias = l->bias != NULL;
    p->e = (vt_epilogue){.act = e.act, .add = e.add};
    p->norm = e.norm != NULL, p->moments = e.moments != NULL;
    p->fused = e.act == VT_ACT_GELU_TANH && p->bias;
    vt_lt_shape shape = {.m = p->m,
                         .n = p->n,
                         .k = p->k,
                         .x = p->x,
                         .y = p->y,
                         .tf32 = dev->base.tf32,
                         .bias = p->bias,
                         .add = e.add,
                         .gelu_tanh = p->fused};
    if ((p->lt = vt_lt_product_new(dev->lt, &shape, st)))
        return p;
    free_product(p);
    return NULL;
}

int vt_cuda_prepare_linear(vt_stream *stream, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e,
                           vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    if (x.rows > INT32_MAX / 2)
        return vt_fail(st, VT_MACHINE, "%s: a product of %zu rows", vt_cuda(stream)->name, x.rows);
    if (vt_cuda_need_scratch(stream, 0, "workspace", st))
        return -1;
    if (stream->dry || find(s, y, x, l, e))
        return 0;
    vt_cuda_product *p = new_product(vt_cuda(stream), y, x, l, e, st);
    if (!p)
        return -1;
    if (choose(s, p, (operands){y.p, x.p, l, e}, st)) {
        free_product(p);
        return -1;
    }
    p->next = s->products;
    s->products = p;
    return 0;
}

void vt_cuda_products_free(vt_cuda_product *list)
{
    while (list) {
        vt_cuda_product *p = list;
        list = p->next;
        free_product(p);
    }
}

void vt_cuda_linear(vt_stream *stream, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e)
{
    cuda_stream *s = (cuda_stream *)stream;
    vt_cuda_product *p = find(s, y, x, l, e);
    if (!p) {
        vt_fail(&stream->error, VT_MACHINE, "product was not prepared (layer %d)", stream->layer);
        return;
    }
    vt_cuda_note(stream, run_candidate(s, p, &p->best, (operands){y.p, x.p, l, e}),
                 "matrix product");
}
