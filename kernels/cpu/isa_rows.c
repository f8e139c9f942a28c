/* `rows`: exactly the allowed pairs, one query token at a time, from CSR.
 *
 * K and V of the head are copied to [N][padded] floats first, so that a key is one run of memory
 * and all keys are near each other. Then for a query: the products with its keys, as many keys at
 * a time as a vector has lanes (accumulators along head_dim, reduced together into one vector of
 * scores); softmax over the scores; the weighted sum of the rows of V with the columns in
 * registers. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

enum { AHEAD = 2 * VL }; /* keys whose rows are fetched ahead */

typedef struct {
    const vt_attn_item *it;
    size_t stride; /* of a row of K, V, q: padded head_dim, the padding zero */
    float *k, *v, *q, *o, *s;
} work;

static uint32_t key_at(const vt_csr *c, uint32_t i)
{
    return c->key16 ? c->key16[i] : c->key32[i];
}

VT_INLINE void fetch(const void *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)row + i);
}

/* Row `token` of base as floats, then zeros. */
VT_INLINE void widen_row(const work *w, float *to, const void *base, int token, vt_dtype type)
{
    int d = w->it->head_dim, i = 0;
    const char *row = (const char *)base + (size_t)token * w->it->step * vt_dtype_bytes(type);
    for (; i + VL <= d; i += VL)
        v_store(to + i, v_get(row, type, i));
    for (; i < d; i++)
        to[i] = get1(row, type, i);
    for (; i < (int)w->stride; i++)
        to[i] = 0;
}

VT_INLINE void widen_keys(const work *w, vt_dtype type)
{
    size_t size = vt_dtype_bytes(type), row = w->it->step * size;
    size_t bytes = (size_t)w->it->head_dim * size;
    for (int t = 0; t < w->it->tokens; t++) {
        if (t + AHEAD < w->it->tokens) { /* rows lie too far apart for the machine to foresee */
            fetch((const char *)w->it->k + (size_t)(t + AHEAD) * row, bytes);
            fetch((const char *)w->it->v + (size_t)(t + AHEAD) * row, bytes);
        }
        widen_row(w, w->k + (size_t)t * w->stride, w->it->k, t, type);
        widen_row(w, w->v + (size_t)t * w->stride, w->it->v, t, type);
    }
}

/* ---- VL dot products at once ---- */

/* The scores of VL keys. */
VT_INLINE vf dots(const work *w, const float *const *key)
{
    vf a[VL];
    V_UNROLL
    for (int j = 0; j < VL; j++)
        a[j] = (vf){0};
    for (size_t i = 0; i < w->stride; i += VL) {
        vf q = v_load(w->q + i);
        V_UNROLL
        for (int j = 0; j < VL; j++)
            a[j] += q * v_load(key[j] + i);
    }
    return v_reduce_each(a, true);
}

/* Scores of keys first .. last - 1 of the list; what remains of the last vector is -inf. The
 * greatest is returned. */
static float score_keys(const work *w, int query, uint32_t first, uint32_t last)
{
    const vt_attn_item *it = w->it;
    const vt_csr *c = it->group->csr;
    vf top = v_splat(-INFINITY);
    for (uint32_t i = first; i < last; i += VL) {
        const float *key[VL];
        for (uint32_t j = 0; j < VL; j++) {
            uint32_t at = i + j < last ? i + j : last - 1;
            key[j] = w->k + key_at(c, at) * w->stride;
            if (at + AHEAD < last)
                fetch(w->k + key_at(c, at + AHEAD) * w->stride, w->stride * sizeof(float));
        }
        vf s = dots(w, key);
        float *to = w->s + (i - first);
        v_store(to, s);
        for (uint32_t j = 0; it->bias && j < VL && i + j < last; j++)
            to[j] += it->bias[it->row[query] + it->col[key_at(c, i + j)]];
        for (uint32_t j = last - i; j < VL; j++)
            to[j] = -INFINITY;
        top = v_max(v_load(to), top);
    }
    return v_max_all(top);
}

/* Scores become weights; their sum is returned. */
static float soften(float *s, uint32_t n, float max, float scale)
{
    vf m = v_splat(max), c = v_splat(scale), total = {0};
    for (uint32_t i = 0; i < n; i += VL) {
        vf p = v_exp2((v_load(s + i) - m) * c);
        v_store(s + i, p);
        total += p;
    }
    return v_sum(total);
}

/* o[0 .. vectors * VL) = sum of weight * V row, over the listed keys. */
VT_INLINE void weigh(const work *w, uint32_t first, uint32_t last, size_t column, int vectors)
{
    const vt_csr *c = w->it->group->csr;
    vf a[8];
    V_UNROLL
    for (int i = 0; i < vectors; i++)
        a[i] = (vf){0};
    for (uint32_t j = first; j < last; j++) {
        const float *v = w->v + key_at(c, j) * w->stride + column;
        vf p = v_splat(w->s[j - first]);
        if (j + AHEAD < last)
            fetch(w->v + key_at(c, j + AHEAD) * w->stride + column,
                  (size_t)(vectors * VL) * sizeof(float));
        V_UNROLL
        for (int i = 0; i < vectors; i++)
            a[i] += p * v_load(v + i * VL);
    }
    V_UNROLL
    for (int i = 0; i < vectors; i++)
        v_store(w->o + column + (size_t)(i * VL), a[i]);
}

static void weigh_values(const work *w, uint32_t first, uint32_t last)
{
    size_t c = 0;
    for (; c + 8 * VL <= w->stride; c += 8 * VL)
        weigh(w, first, last, c, 8);
    for (; c + 4 * VL <= w->stride; c += 4 * VL)
        weigh(w, first, last, c, 4);
    for (; c + 2 * VL <= w->stride; c += 2 * VL)
        weigh(w, first, last, c, 2);
    for (; c < w->stride; c += VL)
        weigh(w, first, last, c, 1);
}

VT_INLINE void one_query(const work *w, int query, vt_dtype type)
{
    const float log2e = 1.44269504f;
    const vt_attn_item *it = w->it;
    uint32_t first = it->group->csr->start[query], last = it->group->csr->start[query + 1];
    char *out = (char *)it->out + (size_t)query * it->out_step * vt_dtype_bytes(type);
    if (first == last) {
        memset(out, 0, (size_t)it->head_dim * vt_dtype_bytes(type));
        return;
    }
    widen_row(w, w->q, it->q, query, type);
    float max = score_keys(w, query, first, last);
    float sum = soften(w->s, last - first, max, it->scale * log2e);
    weigh_values(w, first, last);
    float scale = 1.0f / sum;
    int i = 0;
    for (; i + VL <= it->head_dim; i += VL)
        v_put(out, type, i, v_load(w->o + i) * scale);
    for (; i < it->head_dim; i++)
        put1(out, type, i, w->o[i] * scale);
}

VT_INLINE void all_queries(const work *w, vt_dtype type)
{
    widen_keys(w, type);
    for (int q = w->it->first; q < w->it->last; q++)
        one_query(w, q, type);
}

void VT_NAME(vt_attend_rows)(const vt_attn_item *it)
{
    work w = {.it = it, .stride = vt_attn_padded(it->head_dim)};
    w.k = it->scratch;
    w.v = w.k + (size_t)it->tokens * w.stride;
    w.q = w.v + (size_t)it->tokens * w.stride;
    w.o = w.q + w.stride;
    w.s = w.o + w.stride;
    if (it->type == VT_F32)
        all_queries(&w, VT_F32);
    else
        all_queries(&w, VT_BF16);
}
