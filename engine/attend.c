/* Attention weights, whichever kernel serves a layer: an observer takes each layer's q and k out of
 * a running forward pass and computes
 *
 *   w[n, k] = softmax over allowed keys k of scale * (q[n] . k[k] + bias)
 *
 * (of differential attention the first softmax less lambda times the second) again on the host, in
 * fp32 with sums in double precision, for the queries asked for. Fused kernels never hold these
 * weights. No N^2 is kept here: rows are handed on in blocks.
 */
#include "engine/session.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32 }; /* queries at a time */

typedef struct {
    const vitrun_model *model;
    int first, queries;
    vitrun_attention_fn fn;
    void *user;
    float *qkv;        /* [rows of a slice, 3 * heads * head_dim] */
    vt_attn_bias bias; /* of the layer in hand, in `bias_floats`; table NULL: none */
    float *bias_floats;
    vt_status st;
} watcher;

typedef struct { /* one head of one image */
    const watcher *w;
    const vt_attn_plan *plan;
    const vt_mask *mask; /* NULL: every pair is on */
    const float *qkv;    /* of the image */
    int image, layer;
    int head;  /* of the plan's */
    int named; /* as the model counts */
} head_of_image;

/* keys [head_dim, tokens]: so that a row's scores are sums of long rows. */
static void transpose_keys(const head_of_image *h, float *keys)
{
    int n = h->plan->tokens, d = h->plan->head_dim, stride = 3 * h->plan->heads * d;
    const float *k = h->qkv + (h->plan->heads + h->head) * d;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < d; i++)
            keys[(size_t)i * (size_t)n + (size_t)t] = k[(size_t)t * (size_t)stride + (size_t)i];
}

static void scores_of(const head_of_image *h, const float *keys, int query, float *row)
{
    int n = h->plan->tokens, d = h->plan->head_dim, stride = 3 * h->plan->heads * d;
    const float *q = h->qkv + (size_t)query * (size_t)stride + h->head * d;
    memset(row, 0, (size_t)n * sizeof *row);
    for (int i = 0; i < d; i++) {
        float x = q[i] * h->plan->scale;
        const float *k = keys + (size_t)i * (size_t)n;
        for (int t = 0; t < n; t++)
            row[t] += x * k[t];
    }
    const vt_attn_bias *b = &h->w->bias;
    const float *bias = b->table ? b->table + (size_t)h->head * b->stride + b->row[query] : NULL;
    for (int t = 0; bias && t < n; t++)
        row[t] += h->plan->scale * bias[b->col[t]];
}

/* An empty row stays zero. */
static void softmax(const head_of_image *h, int query, float *row, uint64_t *bits)
{
    int n = h->plan->tokens;
    float top = -INFINITY;
    double sum = 0;
    if (h->mask)
        h->mask->row(h->mask, query, bits);
    for (int t = 0; t < n; t++) {
        if (h->mask && !(bits[t / 64] >> t % 64 & 1))
            row[t] = -INFINITY;
        top = row[t] > top ? row[t] : top;
    }
    for (int t = 0; t < n; t++) {
        row[t] = top == -INFINITY ? 0 : expf(row[t] - top);
        sum += row[t];
    }
    for (int t = 0; t < n && sum > 0; t++)
        row[t] = (float)(row[t] / sum);
}

/* Rows of one softmax, [rows, tokens]; `factor` times them is added. */
static void add_rows(const head_of_image *h, float *keys, float *one, uint64_t *bits, float factor,
                     vitrun_attention_rows *rows)
{
    int n = h->plan->tokens;
    float *to = (float *)(uintptr_t)rows->weights;
    transpose_keys(h, keys);
    for (int r = 0; r < rows->rows; r++, to += n) {
        scores_of(h, keys, rows->first + r, one);
        softmax(h, rows->first + r, one, bits);
        for (int t = 0; t < n; t++)
            to[t] += factor * one[t];
    }
}

static int attend_head(const head_of_image *h)
{
    const vit_model *m = &h->w->model->vit;
    int n = h->plan->tokens, last = h->w->first + h->w->queries;
    vt_status st;
    size_t keys_size = (size_t)n * (size_t)h->plan->head_dim;
    float *keys =
        vt_alloc(keys_size + (BLOCK + 1) * (size_t)n, sizeof *keys, "attention weights", &st);
    uint64_t *bits = keys ? vt_alloc(vt_mask_words(n), sizeof *bits, "mask row", &st) : NULL;
    float *one = keys ? keys + keys_size : NULL;
    for (int at = h->w->first; bits && at < last; at += BLOCK) {
        int count = last - at < BLOCK ? last - at : BLOCK;
        vitrun_attention_rows rows = {h->image, h->layer, h->named, at, count, one + n};
        memset(one + n, 0, (size_t)count * (size_t)n * sizeof *one);
        add_rows(h, keys, one, bits, 1, &rows);
        if (m->cfg.differential) { /* the copies in between have the other half of the values */
            head_of_image second = *h;
            second.head += 2;
            add_rows(&second, keys, one, bits, -m->block[h->layer].lambda, &rows);
        }
        h->w->fn(h->w->user, &rows);
    }
    int failed = !bits;
    vt_free(bits);
    vt_free(keys);
    return failed;
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

/* Heads run side by side; the images of one head follow each other. */
static void attend_layer(watcher *w, const vt_attn_plan *plan, int layer, int first, int images)
{
    int failed = 0, copies = w->model->vit.head_copies;
    size_t image = (size_t)plan->tokens * 3 * (size_t)plan->heads * (size_t)plan->head_dim;
    const vt_mask **mask = vt_alloc((size_t)plan->heads, sizeof *mask, "masks", &w->st);
    if (!mask)
        return;
    masks_of(&w->model->plans, layer, mask);
#pragma omp parallel for num_threads(w->model->dev->threads) schedule(dynamic) reduction(| : failed)
    for (int head = 0; head < plan->heads; head += copies)
        for (int i = 0; i < images; i++) {
            head_of_image h = {w,         plan,  mask[head], w->qkv + (size_t)i * image,
                               first + i, layer, head,       head / copies};
            failed |= attend_head(&h);
        }
    vt_free(mask);
    if (failed)
        vt_fail(&w->st, VT_MACHINE, "out of memory (attention weights)");
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

int vitrun_attend(vitrun_context *c, int count, int first, int queries, vitrun_attention_fn fn,
                  void *user, const vitrun_outputs *out, vitrun_error *err)
{
    const vitrun_model *m = c->model;
    watcher w = {.model = m, .first = first, .queries = queries, .fn = fn, .user = user};
    vitrun_outputs none = {0};
    size_t row = 3 * (size_t)m->vit.attn_width;
    if (check_queries(c, first, queries, &w.st) == 0)
        w.qkv = vt_alloc((size_t)vit_slice(&m->vit, c->acts.images) * (size_t)m->vit.tokens * row,
                         sizeof *w.qkv, "q, k and v", &w.st);
    if (!w.qkv)
        return vitrun_fail(err, &w.st);
    c->stream->observe = at_attention;
    c->stream->observe_user = &w;
    int failed = vitrun_forward(c, count, out ? out : &none, err);
    c->stream->observe = NULL;
    vt_free(w.qkv);
    if (!failed && w.st.code != VT_OK)
        failed = vitrun_fail(err, &w.st);
    return failed;
}
