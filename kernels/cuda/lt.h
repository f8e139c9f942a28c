/* cuBLASLt, opened at run time, so that the program starts where it is not installed. Knows how to
 * describe the products that a ViT needs and how to list and run algorithms for them:
 *
 *   y [m, n] = factor x [m, k] w [n, k]^T (+ bias [n]) (+ y)
 *
 * or a batch of those, which is column-major D = op_T(W) X with nothing transposed in memory. Which
 * algorithm is used is the caller's choice.
 */
#ifndef VT_CUDA_LT_H
#define VT_CUDA_LT_H

#include <cublasLt.h>

#include "kernels/status.h"
#include "kernels/tensor.h"

typedef struct vt_lt vt_lt; /* the library and a handle; safe from several threads */
typedef struct vt_lt_product vt_lt_product; /* descriptors of one product: one thread at a time */

/* A matrix within a larger one: elements from row to row, from one product's matrix to the next's,
 * and what the first one's place is a multiple of. */
typedef struct {
    int64_t row, next, start; /* row 0: rows are contiguous; start 0: of anything */
} vt_lt_pitch;

typedef struct {
    int m, n, k;
    vt_lt_pitch x_pitch, w_pitch, y_pitch;
    int batch;      /* products; 0: one */
    float factor;   /* 0: 1 */
    vt_dtype x, y;  /* of x and w; of y */
    bool upright;   /* w is [k, n] */
    bool tf32;      /* fp32 operands may be rounded to tf32 */
    bool bias, add; /* bias is fp32 where y is, else of y's type */
    bool gelu_tanh; /* the library's own epilogue; only with bias, and not with add */
} vt_lt_shape;

vt_lt *vt_lt_open(vt_status *st); /* VT_MACHINE where it is not to be had */
void vt_lt_close(vt_lt *lt);
size_t vt_lt_version(const vt_lt *lt);

/* NULL with st set. Free with vt_lt_product_free. */
vt_lt_product *vt_lt_product_new(vt_lt *lt, const vt_lt_shape *shape, vt_status *st);
void vt_lt_product_free(vt_lt_product *p);

/* Up to `most` algorithms that need at most `workspace` bytes, the library's favourite first; their
 * number. */
int vt_lt_algorithms(const vt_lt_product *p, size_t workspace, cublasLtMatmulAlgo_t *out, int most);

/* 0, or a cublasStatus_t. */
int vt_lt_run(vt_lt_product *p, const cublasLtMatmulAlgo_t *algo, void *y, const void *x,
              const void *w, const void *bias, void *workspace, size_t workspace_bytes,
              cudaStream_t stream);

#endif
