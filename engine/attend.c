/* Attention weights, whichever kernel serves a layer: an observer takes each layer's q and k out of
 * a running forward pass and computes
 *
 *   w[n, k] = softmax over allowed keys k of scale * (q[n] . k[k] + bias)
 *
 * (of differential attention the first softmax less lambda times the second) again on the host, in
 * fp32, for the queries asked for. Fused kernels never hold these weights. No N^2 is kept here: rows
 * are handed on in blocks.
 */
#include "engine/session.h"
#include "kernels/attention_weights.h"

#include <string.h>

enum { BLOCK = 48 }; /* queries at a time: whole register tiles of every instruction set */

typedef struct {
    const vitrun_model *model;
    int first, queries;
    vitrun_attention_fn fn;
    void *user;
    float *qkv;        /* [rows of a slice, 3 * heads * head_dim] */
    float *keys;       /* [images of a slice, heads, head_dim, stride] */
    size_t stride;     /* tokens, padded */
    vt_attn_bias bias; /* of the layer in hand, in `bias_floats`; table NULL: none */
    float *bias_floats;
    vt_status st;
} watcher;

typedef struct { /* one layer of a slice of images */
    watcher *w;
    const vt_attn_plan *plan;
    const vt_mask **mask; /* [plan's heads]; NULL: every pair is on */
    int layer, first, images;
} layer_job;

typedef struct {    /* a thread's */
    uint64_t *bits; /* [BLOCK, words] */
    float *scores;  /* [BLOCK, stride] */
    float *weights; /* [BLOCK, tokens] */
} scratch;

static size_t keys_of_head(const layer_job *j)
{
    return (size_t)j->plan->head_dim * j->w->stride;
}

/* q of token 0; those of k follow behind the q of all heads. */
static const float *queries_of(const layer_job *j, int image, int head)
{
    size_t row = 3 * (size_t)j->plan->heads * (size_t)j->plan->head_dim;
    return j->w->qkv + (size_t)image * (size_t)j->plan->tokens * row +
           (size_t)head * (size_t)j->plan->head_dim;
}

/* Every head's keys of every image, transposed, so that a row's scores are sums of long rows. */
static void transpose_keys(const layer_job *j)
{
    int heads = j->plan->heads, n = j->plan->tokens, d = j->plan->head_dim;
#pragma omp parallel for num_threads(j->w->model->dev->threads)
    for (int at = 0; at < j->images * heads; at++) {
        const float *k = queries_of(j, at / heads, at % heads) + heads * d;
        float *to = j->w->keys + (size_t)at * keys_of_head(j);
        for (int t = 0; t < n; t++, k += 3 * heads * d)
            for (int i = 0; i < d; i++)
                to[(size_t)i * j->w->stride + (size_t)t] = k[i];
    }
}

/* Of queries first .. first + rows: `factor` times their softmax, with `add` on top of what is there. */
static void weigh(const layer_job *j, int image, int head, int first, int rows, float factor,
                  bool add, const scratch *s)
{
    const watcher *w = j->w;
    const vt_attn_plan *p = j->plan;
    size_t step = 3 * (size_t)p->heads * (size_t)p->head_dim;
    size_t at = (size_t)image * (size_t)p->heads + (size_t)head;
    vt_attn_weights v = {
        .q = queries_of(j, image, head) + (size_t)first * step,
        .q_step = step,
        .keys = w->keys + at * keys_of_head(j),
        .stride = w->stride,
        .rows = rows,
        .tokens = p->tokens,
        .head_dim = p->head_dim,
        .scale = p->scale,
        .factor = factor,
        .add = add,
        .bias = w->bias.table ? w->bias.table + (size_t)head * w->bias.stride : NULL,
        .bias_row = w->bias.table ? w->bias.row + first : NULL,
        .bias_col = w->bias.col,
        .bits = j->mask[head] ? s->bits : NULL,
        .words = vt_mask_words(p->tokens),
        .scores = s->scores,
        .weights = s->weights,
    };
    vt_attention_weights(&v);
}

/* Some queries of one head, of one image after the other. */
static void attend_block(const layer_job *j, int head, int first, int rows, const scratch *s)
{
    const vit_model *m = &j->w->model->vit;
    const vt_mask *mask = j->mask[head];
    for (int r = 0; mask && r < rows; r++)
        mask->row(mask, first + r, s->bits + (size_t)r * vt_mask_words(j->plan->tokens));
    for (int i = 0; i < j->images; i++) {
        vitrun_attention_rows out = {j->first + i, j->layer, head / m->head_copies,
                                     first,        rows,     s->weights};
        weigh(j, i, head, first, rows, 1, false, s);
        if (m->cfg.differential) /* the copies in between have the other half of the values */
            weigh(j, i, head + 2, first, rows, -m->block[j->layer].lambda, true, s);
        j->w->fn(j->w->user, &out);
    }
}

static int open_scratch(scratch *s, const layer_job *j, vt_status *st)
{
    size_t n = (size_t)j->plan->tokens, stride = j->w->stride;
    s->bits = vt_alloc(BLOCK * vt_mask_words(j->plan->tokens), sizeof *s->bits, "mask rows", st);
    s->scores = vt_alloc(BLOCK * (stride + n), sizeof *s->scores, "attention weights", st);
    s->weights = s->scores ? s->scores + BLOCK * stride : NULL;
    return s->bits && s->scores ? 0 : -1;
}

static void close_scratch(scratch *s)
{
    vt_free(s->bits);
    vt_free(s->scores);
}

/* The mask of each of the layer's heads: mask [heads]. */
static void masks_of(const vt_plans *plans, int layer, const vt_mask **mask)
{
    const vt_attn_plan *plan = &plans->plan[layer];
    int first = 0;
    while (plans->group[first].pub.layer != layer)
        first++;
    for (int g = 0; g < plan->groups; g++) {
        int index = plans->group[first + g].mask;
        for (int i = 0; i < plan->group[g].heads; i++)
            mask[plan->group[g].head[i]] = index < 0 ? NULL : plans->mask[index].mask;
    }
}

/* Blocks of queries run side by side; the images of one block follow each other. */
static int attend_blocks(const layer_job *j)
{
    const watcher *w = j->w;
    int copies = w->model->vit.head_copies, heads = j->plan->heads / copies;
    int blocks = (w->queries + BLOCK - 1) / BLOCK, failed = 0;
#pragma omp parallel num_threads(w->model->dev->threads) reduction(| : failed)
    {
        scratch s;
        vt_status unused;
        failed = open_scratch(&s, j, &unused) != 0;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < heads * blocks; i++) {
            int first = w->first + i % blocks * BLOCK, left = w->first + w->queries - first;
            if (!failed)
                attend_block(j, i / blocks * copies, first, left < BLOCK ? left : BLOCK, &s);
        }
        close_scratch(&s);
    }
    return failed;
}

static void attend_layer(watcher *w, const vt_attn_plan *plan, int layer, int first, int images)
{
    layer_job j = {w, plan, NULL, layer, first, images};
    j.mask = vt_alloc((size_t)plan->heads, sizeof(const vt_mask *), "masks", &w->st);
    if (!j.mask)
        return;
    masks_of(&w->model->plans, layer, j.mask);
    transpose_keys(&j);
    if (attend_blocks(&j))
        vt_fail(&w->st, VT_MACHINE, "out of memory (attention weights)");
    vt_free(j.mask);
}

/* The observer: at each attention, its input is still there. */
static void at_attention(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat qkv)
{
    watcher *w = user;
    vt_device *dev = s->dev;
    (void)y;
    if (strcmp(name, "attention") != 0 || w->st.code != VT_OK || dev->ops->finish(s, &w->st) ||
        dev->ops->download(dev, w->qkv, qkv, &w->st))
        return;
    const vt_attn_plan *plan = &w->model->plans.plan[s->layer];
    w->bias = (vt_attn_bias){0};
    w->bias_floats = NULL;
    if (!plan->bias || !vt_plan_fetch_bias(dev, plan, &w->bias, &w->bias_floats, &w->st))
        attend_layer(w, plan, s->layer, s->first, s->images);
    vt_free(w->bias_floats);
}

static int check_queries(const vitrun_context *c, int first, int queries, vt_status *st)
{
    int tokens = c->model->vit.tokens;
    if (first < 0 || queries < 1 || queries > tokens || first > tokens - queries)
        return vt_fail(st, VT_USAGE, "queries %d to %d (expected 0 to %d)", first,
                       first + queries - 1, tokens - 1);
    return 0;
}

/* Copies of q, k and v, and of the keys once more, for the images that go through at a time. */
static int open_buffers(watcher *w, const vitrun_context *c)
{
    const vit_model *m = &c->model->vit;
    size_t images = (size_t)vit_slice(m, c->acts.images), width = (size_t)m->attn_width;
    size_t n = (size_t)m->tokens;
    w->stride = (n + VT_WEIGHTS_PAD - 1) / VT_WEIGHTS_PAD * VT_WEIGHTS_PAD;
    w->qkv = vt_alloc(images * n * 3 * width, sizeof *w->qkv, "q, k and v", &w->st);
    if (w->qkv)
        w->keys = vt_alloc(images * width * w->stride, sizeof *w->keys, "keys", &w->st);
    return w->keys ? 0 : -1;
}

int vitrun_attend(vitrun_context *c, int count, int first, int queries, vitrun_attention_fn fn,
                  void *user, const vitrun_outputs *out, vitrun_error *err)
{
    watcher w = {.first = first, .queries = queries, .fn = fn, .user = user};
    int failed = -1;
    if (vitrun_need(c, "context", err) || vitrun_need((const void *)(uintptr_t)fn, "fn", err))
        return -1;
    w.model = c->model;
    if (check_queries(c, first, queries, &w.st) == 0 && open_buffers(&w, c) == 0) {
        c->stream->observe = at_attention;
        c->stream->observe_user = &w;
        failed = vitrun_forward(c, count, out, err);
        c->stream->observe = NULL;
    }
    vt_free(w.qkv);
    vt_free(w.keys);
    return w.st.code != VT_OK ? vitrun_fail(err, &w.st) : failed;
}
