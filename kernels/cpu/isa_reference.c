/* `reference`, step by step on one query token: the plainest way, with all scores in memory. Loops
 * that the compiler makes vectors of; no blocking, no packing. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

VT_INLINE float dot(const void *a, const void *b, vt_dtype type, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += get1(a, type, i) * get1(b, type, i);
    return sum;
}

VT_INLINE const void *token(const vt_attn_item *it, const void *base, int t)
{
    return (const char *)base + (size_t)t * it->step * vt_dtype_bytes(it->type);
}

void VT_NAME(vt_reference_scores)(const vt_attn_item *it, int query, float *scores)
{
    const void *q = token(it, it->q, query);
    if (it->type == VT_F32)
        for (int k = 0; k < it->tokens; k++)
            scores[k] = it->scale * dot(q, token(it, it->k, k), VT_F32, it->head_dim);
    else
        for (int k = 0; k < it->tokens; k++)
            scores[k] = it->scale * dot(q, token(it, it->k, k), VT_BF16, it->head_dim);
    for (int k = 0; it->bias && k < it->tokens; k++)
        scores[k] += it->scale * it->bias[it->row[query] + it->col[k]];
}

void VT_NAME(vt_reference_softmax)(const vt_attn_item *it, int query, float *scores)
{
    const float log2e = 1.44269504f;
    const vt_bitmap *b = it->group->bitmap;
    int n = it->tokens;
    float max = -INFINITY, sum = 0;
    for (int k = 0; b && k < n; k++)
        if (!(b->bits[(size_t)query * b->stride + (size_t)(k / 8)] >> k % 8 & 1))
            scores[k] = -INFINITY;
    for (int k = 0; k < n; k++)
        max = scores[k] > max ? scores[k] : max;
    if (max == -INFINITY)
        max = 0; /* an empty row: all weights 0 */
    for (int k = 0; k < n; k += VL) {
        float part[VL];
        for (int i = 0; i < VL; i++)
            part[i] = k + i < n ? (scores[k + i] - max) * log2e : -INFINITY;
        v_store(part, v_exp2(v_load(part)));
        for (int i = 0; i < VL && k + i < n; i++) {
            scores[k + i] = part[i];
            sum += part[i];
        }
    }
    float scale = sum > 0 ? 1.0f / sum : 0;
    for (int k = 0; k < n; k++)
        scores[k] *= scale;
}

VT_INLINE void product(const vt_attn_item *it, int query, const float *weights, vt_dtype type)
{
    enum { COLUMNS = 64 };
    int d = it->head_dim;
    char *out = (char *)it->out + (size_t)query * it->out_step * vt_dtype_bytes(type);
    for (int c = 0; c < d; c += COLUMNS) {
        float sum[COLUMNS] = {0};
        int m = d - c < COLUMNS ? d - c : COLUMNS;
        for (int k = 0; k < it->tokens; k++) {
            const void *v = token(it, it->v, k);
            for (int i = 0; i < m; i++)
                sum[i] += weights[k] * get1(v, type, c + i);
        }
        for (int i = 0; i < m; i++)
            put1(out, type, c + i, sum[i]);
    }
}

void VT_NAME(vt_reference_product)(const vt_attn_item *it, int query, const float *weights)
{
    if (it->type == VT_F32)
        product(it, query, weights, VT_F32);
    else
        product(it, query, weights, VT_BF16);
}
