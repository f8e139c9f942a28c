/* What attention_small.cu offers to attention_mma.cu, which chooses. */
#ifndef VT_CUDA_ATTENTION_SMALL_CUH
#define VT_CUDA_ATTENTION_SMALL_CUH

#include "kernels/cuda/kernels.h"

extern "C" bool vt_cuda_attend_small_serves(const vt_cuda_attention *a, int capability);
extern "C" int vt_cuda_attend_small(const vt_cuda_attention *a, cudaStream_t stream);

#endif
