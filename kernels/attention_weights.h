/* Attention weights written out, in the host's memory, for those who want to see them: fused kernels
 * never hold them. Of some queries r of one head
 *
 *   weights[r, k] = factor * softmax over allowed k of (scale * (q[r] . key[k] + bias))
 *
 * is set, or added to what is there already. A row with no allowed key gives zeros.
 */
#ifndef VT_ATTENTION_WEIGHTS_H
#define VT_ATTENTION_WEIGHTS_H

#include "kernels/attention.h"

enum { VT_WEIGHTS_PAD = 32 }; /* keys are padded with zeros to a multiple of this */

typedef struct {
    const float *q; /* [rows, head_dim], the rows q_step floats apart */
    size_t q_step;
    const float *keys; /* [head_dim, stride]: transposed */
    size_t stride;     /* tokens, padded */
    int rows, tokens, head_dim;
    float scale, factor;
    bool add;                /* to what is there */
    const float *bias;       /* the head's vt_attn_bias.table; NULL: none */
    const int32_t *bias_row; /* [rows] */
    const int32_t *bias_col; /* [tokens] */
    const uint64_t *bits;    /* [rows, words]: which keys each may see; NULL: all */
    size_t words;
    float *scores;  /* scratch [rows, stride] */
    float *weights; /* [rows, tokens] */
} vt_attn_weights;

/* With the best vector code of this CPU, whichever device computes the rest. */
void vt_attention_weights(const vt_attn_weights *w);

#endif
