/* The activations of an MLP, by their definitions, in fp32. The tiles of gemm_sm90.cu have forms of
 * their own, made for many elements at a time (gemm_epilogue.cuh).
 */
#ifndef VT_CUDA_ACTIVATE_CUH
#define VT_CUDA_ACTIVATE_CUH

#include "kernels/cuda/kernels.h"

__device__ __forceinline__ float activate(float x, vt_activation act)
{
    if (act == VT_ACT_GELU)
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (act == VT_ACT_GELU_TANH)
        return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    if (act == VT_ACT_QUICK_GELU)
        return x / (1.0f + expf(-1.702f * x));
    return x;
}

#endif
