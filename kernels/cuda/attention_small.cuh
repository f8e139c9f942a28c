/* What attention_small.cu offers to attention_mma.cu, which chooses. */
#ifndef VT_CUDA_ATTENTION_SMALL_CUH
#define VT_CUDA_ATTENTION_SMALL_CUH

#include "kernels/cuda/kernels.h"

bool attend_small_serves(const vt_cuda_attention *a, int capability);
/* Each head's rows by `parts` blocks. */
int attend_small(const vt_cuda_attention *a, int parts, cudaStream_t stream);

#endif
