/* One layer's attention, decided ahead: which kernel serves which heads, reading which layout.
 *
 *   out[n, h] = sum over allowed keys k of softmax_k(scale * q[n, h] . k[k, h]) * v[k, h]
 *
 * over the interleaved buffer qkv [B * N, 3 * heads * head_dim] (q of all heads, then k, then v)
 * into out [B * N, heads * head_dim]. Scores of forbidden pairs are -inf before the row maximum; a
 * row with no allowed key gives zeros. All kernels compute the same function, up to rounding.
 *
 * With a bias, scores are scale * (q . k + bias(h, n, k)): see vt_attn_bias.
 */
#ifndef VT_ATTENTION_H
#define VT_ATTENTION_H

#include "kernels/columns.h"
#include "kernels/layout.h"

typedef enum {
    VT_ATTN_REFERENCE, /* materialises the N x N scores of all heads: the yardstick */
    VT_ATTN_DENSE,     /* fused, online softmax, visits all keys, mask applied from the bitmap */
    VT_ATTN_TILES,     /* fused, visits the 16 x 16 tiles that the mask touches, in 2-D order */
    VT_ATTN_ROWS,      /* visits exactly the allowed pairs, row by row, from CSR */
    /* Gathers the keys that groups of queries list (columns.h), in the order of vt_columns_shapes: */
    VT_ATTN_COLUMNS64,  /* 64 queries a group */
    VT_ATTN_COLUMNS128, /* 128 */
    VT_ATTN_AXIAL64,    /* the same in passes: pairs of a grid row, of a grid column, the rest */
    VT_ATTN_AXIAL128,
    VT_ATTN_KERNELS
} vt_attn_kernel;

/* "reference", "dense", "tiles", "rows", "columns64", "columns128", "axial64", "axial128" */
const char *vt_attn_kernel_name(vt_attn_kernel k);

/* The index in vt_columns_shapes of what the kernel reads, -1: no columns. */
static inline int vt_attn_columns(vt_attn_kernel k)
{
    return k >= VT_ATTN_COLUMNS64 && k <= VT_ATTN_AXIAL128 ? (int)k - VT_ATTN_COLUMNS64 : -1;
}

/* Heads of one layer that share a mask and hence a kernel. The layouts belong to the session. */
typedef struct {
    int heads;        /* how many */
    uint16_t *head;   /* [heads] which */
    const char *name; /* "0-11": for the profile */
    vt_attn_kernel kernel;
    const vt_bitmap *bitmap;   /* reference, dense: NULL means every pair is on */
    const vt_tiles *tiles;     /* tiles */
    const vt_csr *csr;         /* rows */
    const vt_columns *columns; /* columns, axial: in the kernel's shape */
    struct vt_attn_own *own;   /* the device's copy of the above, where it needs one */
} vt_attn_group;

/* An additive relative position bias in the units of q . k, that is divided by the scale. It
 * depends on the difference of two places only, and so it is never written out N x N: for head h,
 * query n and key k it is table[h * stride + row[n] + col[k]]. In the device's memory. */
typedef struct {
    const float *table;       /* [heads, stride]; NULL: no bias */
    size_t stride;            /* floats a head */
    const int32_t *row, *col; /* [tokens] */
} vt_attn_bias;

typedef struct {
    int tokens, heads, head_dim; /* N; of the whole layer */
    float scale;
    const vt_attn_bias *bias; /* NULL: none */
    int groups;
    vt_attn_group *group;
} vt_attn_plan;

#endif
