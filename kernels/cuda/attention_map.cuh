/* The map through which the bulk tensor copy reads q, k and v where the product left them, in qkv
 * [images * tokens, 3 * heads * head_dim] of a 16-bit type: boxes of 64 columns and `rows` tokens
 * of an image (column, token, image). Rows past an image's last token come as zeros.
 */
#ifndef VT_CUDA_ATTENTION_MAP_CUH
#define VT_CUDA_ATTENTION_MAP_CUH

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/kernels.h"

static inline int map_rows(CUtensorMap *map, const vt_cuda_attention *a, int rows)
{
    cuuint64_t row = (cuuint64_t)3 * a->heads * a->head_dim;
    cuuint64_t extent[3] = {row, (cuuint64_t)a->tokens, (cuuint64_t)a->images};
    cuuint64_t stride[2] = {2 * row, 2 * row * (cuuint64_t)a->tokens};
    cuuint32_t box[3] = {64, (cuuint32_t)rows, 1};
    return tensor_map(map, a->type, 3, a->qkv, extent, stride, box);
}

#endif
