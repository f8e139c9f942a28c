/* What the CUDA kernels offer to the host code of the back end: plain functions that launch work on
 * a stream. Host code is C (kernels/cuda/ *.c), device code CUDA C (*.cu); this header is all that
 * they share, and neither knows models, files or errors in words.
 *
 * Every launcher returns 0 or a cudaError_t, touches no memory but its arguments', allocates
 * nothing and never synchronises, so all of them can be captured into a graph. Pointers are the
 * device's unless said otherwise and 16-byte aligned, sizes are in elements. "16-bit type" is fp16
 * or bf16.
 *
 * Kernels for compute capability 9.0 are launched with programmatic dependent launch (common.cuh):
 * each waits for the one before it prior to its first access to memory that another may have
 * written; weights, masks and descriptors are not among that.
 */
#ifndef VT_CUDA_KERNELS_H
#define VT_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/columns.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- operations on rows and tokens: backend.h has their formulas ---- */

int vt_cuda_cast(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, size_t n,
                 cudaStream_t stream); /* x may be pinned host memory */
/* gamma and beta may be NULL, both: y = (x - mean) / sqrt(var + eps). */
int vt_cuda_norm(vt_mat y, vt_mat x, const float *gamma, const float *beta, float eps,
                 cudaStream_t stream);
int vt_cuda_qk_norm(vt_mat qkv, int heads, int head_dim, const float *q_gamma, const float *q_beta,
                    const float *k_gamma, const float *k_beta, float eps, cudaStream_t stream);
int vt_cuda_patches(vt_mat cols, vt_mat images, int channels, int height, int width, int patch_h,
                    int patch_w, cudaStream_t stream);
int vt_cuda_tokens(vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                   const float *pos, int images, cudaStream_t stream);
int vt_cuda_pool(vt_mat y, vt_mat x, int tokens, vt_pool how, int first, cudaStream_t stream);
int vt_cuda_take(vt_mat y, vt_mat x, int tokens, int first, cudaStream_t stream);
int vt_cuda_rope(vt_mat qkv, int heads, int head_dim, int tokens, int prefix, const vt_rope *r,
                 cudaStream_t stream);
int vt_cuda_halves(vt_mat y, vt_mat x, vt_halves how, float factor, cudaStream_t stream);
int vt_cuda_add(vt_mat y, vt_mat x, cudaStream_t stream);
int vt_cuda_latent_pool(vt_mat y, vt_mat kv, const float *q, int heads, int first,
                        cudaStream_t stream);

/* ---- products of our own ---- */

/* Moments of the rows of x (backend.h), of a 16-bit type. */
int vt_cuda_moments(float *moments, vt_mat x, cudaStream_t stream);

/* sums [rows] of the rows of w, of a 16-bit type. */
int vt_cuda_row_sums(float *sums, vt_mat w, cudaStream_t stream);

/* y [m, n] = act(a [m, k] w [n, k]^T + bias), or y += a w^T + bias where `add` (act is none then).
 * a and w have one type, rows contiguous; y has that type or fp32; sums are fp32. With a_moments,
 * each row of a is normalised: N(a) = (a - mean) / sqrt(variance + eps) stands for a. */
typedef struct {
    const void *a, *w;
    const float *bias;               /* [n] or NULL */
    const float *w_sums, *a_moments; /* [n] the sums of w's rows, moments of a; NULL: a as it is */
    float *y_moments;                /* of what y becomes, where `add`; NULL: not wanted */
    float eps;
    void *y;
    vt_dtype type, y_type;
    int m, n, k;
    vt_activation act;
    bool add;
} vt_cuda_gemm;

/* y = act(y) in place: for products whose library has no such epilogue. */
int vt_cuda_activate(vt_mat y, vt_activation act, cudaStream_t stream);

/* Any type, shape and alignment, plainly: for what nobody else serves. */
int vt_cuda_gemm_any(const vt_cuda_gemm *g, cudaStream_t stream);

/* Variants (tile shapes) are numbered from 0. A variant serves a product or not, by type, shape and
 * compute capability (90 for 9.0); which is fastest is found by timing. */
int vt_cuda_gemm_variants(void);
const char *vt_cuda_gemm_name(int variant); /* "128x256" */
bool vt_cuda_gemm_serves(int variant, const vt_cuda_gemm *g, int capability);
int vt_cuda_gemm_run(int variant, const vt_cuda_gemm *g, cudaStream_t stream);

/* ---- attention ---- */

/* out[n, h] = sum over allowed keys k of softmax_k(scale * q[n, h] . k[k, h]) * v[k, h]:
 * attention.h, for the listed heads of every image. */
typedef struct {
    const void *qkv; /* [images * tokens, 3 * heads * head_dim] */
    void *out;       /* [images * tokens, heads * head_dim] */
    vt_dtype type;   /* of both */
    bool tf32;       /* fp32 operands may be rounded to tf32 */
    int images, tokens, heads, head_dim;
    float scale;
    vt_attn_bias bias;      /* table NULL: none */
    const uint16_t *head;   /* [group_heads] the heads to serve; NULL: all, group_heads == heads */
    const uint16_t *listed; /* the same in the host's memory */
    int group_heads;
    const uint32_t
        *bits;   /* [tokens, words], bit k % 32 of word k / 32: key k is allowed; bits at */
    int words;   /* tokens and beyond are zero; words % 4 == 0. NULL: every pair is on */
    int touched; /* eighths of the 64 x 64 tiles that hold a pair, rounded up: tells which kernel */
} vt_cuda_attention;

/* mma.sync: 16-bit types, and tf32, compute capability 8.0 and later; few tokens on 9.0 by wgmma. */
bool vt_cuda_attend_mma_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_mma(const vt_cuda_attention *a, cudaStream_t stream);

/* wgmma and the bulk tensor copy, 16-bit types, compute capability 9.0. */
bool vt_cuda_attend_wgmma_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_wgmma(const vt_cuda_attention *a, cudaStream_t stream);

/* fp32, head_dim to 64. */
bool vt_cuda_attend_f32_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_f32(const vt_cuda_attention *a, cudaStream_t stream);

/* All types: scores [images * group_heads, tokens, tokens] fp32 materialised in `scores`. */
int vt_cuda_attend_reference(const vt_cuda_attention *a, float *scores, cudaStream_t stream);

/* Softmax of scores in memory, in place: softmax.cu. Matrix i of `count`, [rows, pitch], has the
 * scores of head `head + i head_step` and the queries from `query` on; pitch is a multiple of 4.
 * Row r's weights, of type a->type and VT_CUDA_HALF_WEIGHT times as large in fp16, are put where its
 * scores begin. */
#define VT_CUDA_HALF_WEIGHT 32768.0f
typedef struct {
    float *scores;
    int count, rows, pitch, query, head, head_step;
} vt_cuda_scores;
int vt_cuda_softmax(const vt_cuda_attention *a, const vt_cuda_scores *s, cudaStream_t stream);

/* A list of the allowed pairs on the device: the keys of query i are key[start[i] .. start[i + 1]),
 * ascending; 16-bit ones where key16 is set, else 32-bit. What the host keeps of it: */
enum { VT_CUDA_PANEL_QUERIES = 128, VT_CUDA_PANEL_LEVELS = 4 };
typedef struct {
    const uint32_t *start; /* [tokens + 1] */
    const uint16_t *key16;
    const uint32_t *key32;
    const uint32_t *long_row; /* [long_rows] rows with more than long_keys keys, on the device */
    uint32_t long_keys;
    int long_rows;
    uint32_t pairs;                      /* of all rows */
    uint32_t most[VT_CUDA_PANEL_LEVELS]; /* most pairs that 128 >> i rows, from a multiple of that
                                            on, have together, without long ones */
} vt_cuda_rows;

/* The allowed pairs only, row by row: all types, any head_dim to 1024. Ignores a->bits, as all
 * kernels do that have a list of their own. */
int vt_cuda_attend_rows(const vt_cuda_attention *a, const vt_cuda_rows *r, cudaStream_t stream);

/* The two ways of doing so, of which it takes the faster. Panels: heads of whole 16 bytes, rows
 * that fit into shared memory. */
int vt_cuda_attend_gathered(const vt_cuda_attention *a, const vt_cuda_rows *r, cudaStream_t stream);
int vt_cuda_attend_long_rows(const vt_cuda_attention *a, const vt_cuda_rows *r,
                             cudaStream_t stream); /* only the long ones */
bool vt_cuda_attend_panels_serves(const vt_cuda_attention *a, const vt_cuda_rows *r);
bool vt_cuda_attend_panels_better(const vt_cuda_attention *a, const vt_cuda_rows *r);
int vt_cuda_attend_panels(const vt_cuda_attention *a, const vt_cuda_rows *r, cudaStream_t stream);

/* What a block works on: some tiles of a group. A long group's tiles are shared out over several
 * items, each of which leaves the state of its softmax; an item without tiles in the last phase
 * puts them together. A state is a row's head_dim of out = sum of weights x values, then the
 * reference of its weights and their sum. */
typedef struct {
    int group, first, tiles; /* tiles first .. first + tiles - 1 of the layout */
    int narrow;      /* real keys of the last of them: 1 .. 64; 0 where there are no tiles */
    int rows;        /* queries of the group, up to the last real one */
    int pass;        /* not the first: results of earlier ones are to be merged with */
    int give;        /* states go to this slot and those after it; -1: results go to out */
    int slot, parts; /* parts > 0: puts together the states of row r that are in the slots
                                slot + i * rows + r, i from 0 to parts - 1 */
    int guests;      /* the state of guest i from the item's tile h (h < rows of the shape /
                                64, h < tiles) goes to slot guests + h * guests of the layout + i;
                                -1: no guests */
} vt_cuda_item;

/* Items in the order of their phases: a pass each, and a last one of items without tiles. What is
 * read in a phase was written in earlier ones. */
enum { VT_CUDA_PHASES = VT_COLUMN_PASSES + 1 };
typedef struct {
    const vt_cuda_item *item; /* of phase p: first[p] .. first[p + 1] - 1, longest first */
    int phases;               /* the last of which is not empty */
    int first[VT_CUDA_PHASES + 1];
    int slots; /* states, for one head of one image */
} vt_cuda_schedule;

/* A layout of columns.h on the device. */
typedef struct {
    int rows, passes, guests; /* as in vt_columns and its shape */
    const int32_t *query, *key;
    const uint32_t *block, *bits;    /* bits[128 i + t]: word t of block i */
    const uint64_t *guest;           /* guest[8 i + j]: word j of guest[i] */
    vt_cuda_schedule plain, hosting; /* with prefix queries in groups, and as guests */
    /* Scratch for all heads of the group and all images: */
    float *lse;   /* passes > 1: [images, group_heads, tokens] log2 of the sums of weights */
    float *state; /* slots > 0: [images, group_heads, slots, head_dim + 2] */
    /* Counters: zeros, and zeros afterwards: */
    uint32_t *schedule; /* [2] */
    uint32_t *done;     /* phases > 1: [images, group_heads, phases] */
} vt_cuda_columns;

/* The keys that groups of queries list, gathered. 16-bit types, head_dim 64, compute capability
 * 9.0. Ignores a->bits. */
bool vt_cuda_attend_columns_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_columns(const vt_cuda_attention *a, const vt_cuda_columns *c,
                           cudaStream_t stream);

/* The same by mma.sync: what vt_cuda_attend_mma_serves. */
bool vt_cuda_attend_columns_mma_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_columns_mma(const vt_cuda_attention *a, const vt_cuda_columns *c,
                               cudaStream_t stream);

/* And in fp32, head_dim to 64. */
bool vt_cuda_attend_columns_f32_serves(const vt_cuda_attention *a, int capability);
int vt_cuda_attend_columns_f32(const vt_cuda_attention *a, const vt_cuda_columns *c,
                               cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
