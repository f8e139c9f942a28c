/* What the CUDA kernels share: element types, vector loads, and the way they are launched.
 *
 * Launching: launch() gives every kernel the attribute for programmatic dependent launch, so that
 * on compute capability 9.0 its blocks may start while the kernel before it drains. A kernel
 * launched so must call after_previous() before it touches anything that an earlier kernel writes
 * or reads; it may call let_next_start() as soon as its own blocks are all under way. Elsewhere
 * both are empty and kernels follow each other as usual.
 */
#ifndef VT_CUDA_COMMON_CUH
#define VT_CUDA_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

__device__ __forceinline__ void after_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Launches kernel<<<grid, block, shared bytes, stream>>>(args...) with the attribute above. */
template <typename... Params, typename... Args>
static int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                  cudaStream_t stream, Args... args)
{
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return (int)cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

/* A block needs this once before more than 48 KB of dynamic shared memory. */
template <typename Kernel> static int allow_shared(Kernel *kernel, size_t bytes)
{
    return (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)bytes);
}

__device__ __forceinline__ float to_f32(float x)
{
    return x;
}
__device__ __forceinline__ float to_f32(__half x)
{
    return __half2float(x);
}
__device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ __half from_f32<__half>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Two values of a 16-bit type in a register, the first in the lower half, as mma wants them. */
template <typename T> __device__ __forceinline__ uint32_t pack2(float first, float second);
template <> __device__ __forceinline__ uint32_t pack2<__half>(float first, float second)
{
    __half2 h = __floats2half2_rn(first, second);
    return *reinterpret_cast<uint32_t *>(&h);
}
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float first, float second)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<uint32_t *>(&h);
}

template <typename T> __device__ __forceinline__ float2 unpack2(uint32_t x);
template <> __device__ __forceinline__ float2 unpack2<__half>(uint32_t x)
{
    return __half22float2(*reinterpret_cast<__half2 *>(&x));
}
template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t x)
{
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&x));
}

/* What a block sees of its kernel: is this device code for compute capability 9.0a? */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VT_SM90A 1
#else
#define VT_SM90A 0
#endif

#endif
