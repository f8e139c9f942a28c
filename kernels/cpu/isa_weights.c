/* Attention weights of some queries of a head, written out: for those who want to see them. The
 * attention kernels proper never hold more of them than fits in cache. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

/* Scores of VT_GEMM_ROWS queries, from `first` on, with 2 * VL keys: as many accumulators as a
 * product's register tile has. Where there are fewer queries, the last one fills in. */
VT_INLINE void scores_tile(const vt_attn_weights *w, int first, int at)
{
    vf sum[VT_GEMM_ROWS][2] = {0};
    const float *q[VT_GEMM_ROWS], *key = w->keys + at;
    for (int r = 0; r < VT_GEMM_ROWS; r++)
        q[r] = w->q + (size_t)(first + r < w->rows ? first + r : w->rows - 1) * w->q_step;
    for (int i = 0; i < w->head_dim; i++, key += w->stride) {
        vf k0 = v_load(key), k1 = v_load(key + VL);
        V_UNROLL
        for (int r = 0; r < VT_GEMM_ROWS; r++) {
            vf x = v_splat(q[r][i]);
            sum[r][0] += x * k0;
            sum[r][1] += x * k1;
        }
    }
    for (int r = 0; r < VT_GEMM_ROWS && first + r < w->rows; r++) {
        float *to = w->scores + (size_t)(first + r) * w->stride + at;
        v_store(to, sum[r][0] * v_splat(w->scale));
        v_store(to + VL, sum[r][1] * v_splat(w->scale));
    }
}

static void add_bias(const vt_attn_weights *w, int row, float *scores)
{
    const float *bias = w->bias + w->bias_row[row];
    for (int k = 0; k < w->tokens; k++)
        scores[k] += w->scale * bias[w->bias_col[k]];
}

/* Forbidden keys, and the padding, get -inf; returns the largest of the others. */
static float forbid(const vt_attn_weights *w, int row, float *scores)
{
    const uint64_t *bits = w->bits ? w->bits + (size_t)row * w->words : NULL;
    for (int k = 0; bits && k < w->tokens; k++)
        if (!(bits[k / 64] >> k % 64 & 1))
            scores[k] = -INFINITY;
    for (size_t k = (size_t)w->tokens; k < w->stride; k++)
        scores[k] = -INFINITY;
    vf top = v_load(scores);
    for (size_t k = VL; k < w->stride; k += VL)
        top = v_max(top, v_load(scores + k));
    return v_max_all(top);
}

/* scores -> exp(scores - top); an empty row becomes zeros. Returns the sum, in double precision. */
static double exponentials(const vt_attn_weights *w, float *scores, float top)
{
    const vf log2e = v_splat(1.44269504f), most = v_splat(top == -INFINITY ? 0 : top);
    double sum = 0;
    for (size_t k = 0; k < w->stride; k += VL) {
        vf e = v_exp2((v_load(scores + k) - most) * log2e);
        v_store(scores + k, e);
        sum += v_sum(e);
    }
    return sum;
}

void VT_NAME(vt_attention_weights)(const vt_attn_weights *w)
{
    for (int at = 0; (size_t)at < w->stride; at += 2 * VL)
        for (int first = 0; first < w->rows; first += VT_GEMM_ROWS)
            scores_tile(w, first, at);
    for (int r = 0; r < w->rows; r++) {
        float *scores = w->scores + (size_t)r * w->stride;
        float *to = w->weights + (size_t)r * (size_t)w->tokens;
        if (w->bias)
            add_bias(w, r, scores);
        double sum = exponentials(w, scores, forbid(w, r, scores));
        float scale = sum > 0 ? (float)(w->factor / sum) : 0;
        for (int k = 0; k < w->tokens; k++)
            to[k] = (w->add ? to[k] : 0) + scale * scores[k];
    }
}
