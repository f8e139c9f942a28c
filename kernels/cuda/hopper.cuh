/* Hopper's own instructions and the host's share of them, a function each: barriers in shared
 * memory (mbarrier), the bulk tensor copy (TMA) with its maps, products of a warpgroup (wgmma).
 *
 * Shared memory is addressed by 32-bit offsets. Tiles lie there as the copy engine's 128-byte
 * swizzle puts them: rows of 64 elements of 16 bits, 8 rows filling 1024 bytes, the 16-byte chunk c
 * of row r at chunk c ^ (r % 8); every tile starts at a multiple of 1024.
 */
#ifndef VT_CUDA_HOPPER_CUH
#define VT_CUDA_HOPPER_CUH

#include <cuda.h>

#include "kernels/cuda/common.cuh"
#include "kernels/tensor.h"

/* ---- tensor maps, on the host ---- */

typedef CUresult (*vt_encode_tiled)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                    const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                    const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's encoder, found at run time: programs start where there is no driver. */
static vt_encode_tiled tensor_map_encoder()
{
    static vt_encode_tiled found; /* several threads may look, and find the same */
    vt_encode_tiled encode = __atomic_load_n(&found, __ATOMIC_RELAXED);
    if (encode)
        return encode;
    void *at = NULL;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000,
                                                     cudaEnableDefault, &result);
#else
    cudaError_t e =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &at, cudaEnableDefault, &result);
#endif
    if (e != cudaSuccess || result != cudaDriverEntryPointSuccess)
        return NULL;
    encode = (vt_encode_tiled)at;
    __atomic_store_n(&found, encode, __ATOMIC_RELAXED);
    return encode;
}

/* Describes a tensor of a 16-bit type for copies of boxes, in the 128-byte swizzle. extent and box
 * in elements, innermost first; stride[i], in bytes, is that of dimension i + 1. What a box has
 * outside of the tensor is filled with zeros. 0 or a cudaError_t. */
static inline int tensor_map(CUtensorMap *map, vt_dtype type, int rank, const void *base,
                             const cuuint64_t *extent, const cuuint64_t *stride,
                             const cuuint32_t *box,
                             CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B)
{
    const cuuint32_t every[5] = {1, 1, 1, 1, 1};
    vt_encode_tiled encode = tensor_map_encoder();
    if (!encode)
        return cudaErrorNotSupported;
    CUresult e = encode(
        map, type == VT_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        (cuuint32_t)rank, (void *)base, extent, stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static inline int multiprocessors(int *count)
{
    int device, e = cudaGetDevice(&device);
    return e ? e : (int)cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

#if VT_SM90A

__device__ __forceinline__ uint32_t shared_offset(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers ---- */

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/* Shows initialised barriers to the copy engine; the block's threads need a __syncthreads() too. */
__device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives, and has the phase wait for so many copied bytes too. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ bool barrier_passed(uint32_t barrier, uint32_t parity)
{
    uint32_t passed;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(passed)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return passed;
}

/* Returns once the phase of this parity is complete; on a fresh barrier, parity 1 is. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
#ifdef VT_BOUNDED_WAIT /* for debugging: a lost arrival ends the program */
    for (int tries = 0; !barrier_passed(barrier, parity); tries++)
        if (tries > 1 << 20)
            __trap();
#else
    while (!barrier_passed(barrier, parity))
        ;
#endif
}

/* Barriers 1 to 15 among `threads` threads of the block, some of which only arrive. */
__device__ __forceinline__ void named_wait(int name, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int name, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

/* ---- the bulk tensor copy: boxes into shared memory, whose bytes the barrier counts ---- */

__device__ __forceinline__ void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map));
}

__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int x, int y, int z,
                                         uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
                 : "memory");
}

/* ---- warpgroups ---- */

template <int N> __device__ __forceinline__ void fewer_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void more_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* Goes before products whose registers were touched by anything else. */
__device__ __forceinline__ void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most PENDING committed groups are unfinished. */
template <int PENDING> __device__ __forceinline__ void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from moving uses of registers across a begin or a wait. */
template <int N> __device__ __forceinline__ void products_touch(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> __device__ __forceinline__ void products_touch(uint32_t (&a)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(a[i])::"memory");
}

/* An operand's tile in shared memory. Rows along m or n (each has 64 of k): 16 more of k are 32
 * bytes further. Rows along k (each has 64 of n; the product is `turned`): 16 more of k are 2048
 * bytes further. Either way 8 more rows are 1024 bytes further. */
__device__ __forceinline__ uint64_t operand(uint32_t offset)
{
    const uint32_t swizzle_128 = 1u << 30, rows_8 = 1024 >> 4;
    uint64_t d;
    asm("mov.b64 %0, {%1, %2};" : "=l"(d) : "r"(offset >> 4), "r"(swizzle_128 | rows_8));
    return d;
}

/* d [64, N] (+)= a [64, 16] b [16, N], d in registers: thread t has, of the columns 8 c to 8 c + 7,
 * columns 2 (t % 4) and 2 (t % 4) + 1 of row t / 4 of its warp's 16 in d[4 c], d[4 c + 1], and of
 * the row 8 further in d[4 c + 2], d[4 c + 3]. Where a is in registers, a[0 .. 3] holds pairs of
 * columns likewise, of (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8). */
template <int N, typename T> struct product;

#define VT_ACC8(i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define VT_ACC16(i) VT_ACC8(i), VT_ACC8(i + 8)
#define VT_ACC32(i) VT_ACC16(i), VT_ACC16(i + 16)
#define VT_ACC64(i) VT_ACC32(i), VT_ACC32(i + 32)

#define VT_REG8  "%0, %1, %2, %3, %4, %5, %6, %7"
#define VT_REG16 VT_REG8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define VT_REG24 VT_REG16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define VT_REG32 VT_REG24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define VT_REG40 VT_REG32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define VT_REG48 VT_REG40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define VT_REG56 VT_REG48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define VT_REG64 VT_REG56 ", %56, %57, %58, %59, %60, %61, %62, %63"

/* both(): a and b from shared memory; left(): a from registers, b turned or not. p0 .. p6 number
 * the operands after d. */
#define VT_PRODUCT_OF(N, T, type, regs, p0, p1, p2, p3, p4, p5, p6, ...)                           \
    template <> struct product<N, T> {                                                             \
        static __device__ __forceinline__ void both(float *d, uint64_t a, uint64_t b, int add)     \
        {                                                                                          \
            asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " p2 ", 0;\n\t"                     \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type "\n\t"    \
                         "{" regs "}, " p0 ", " p1 ", p, 1, 1, 0, 0;\n\t}"                         \
                         : __VA_ARGS__                                                             \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
        template <int TURNED>                                                                      \
        static __device__ __forceinline__ void left(float *d, const uint32_t *a, uint64_t b,       \
                                                    int add)                                       \
        {                                                                                          \
            asm volatile(                                                                          \
                "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " p5 ", 0;\n\t"                              \
                "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type "\n\t"             \
                "{" regs "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", p, 1, 1, " p6 ";\n\t}"      \
                : __VA_ARGS__                                                                      \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TURNED));      \
        }                                                                                          \
    };
#define VT_PRODUCT(N, regs, p0, p1, p2, p3, p4, p5, p6, ...)                                       \
    VT_PRODUCT_OF(N, __half, "f16", regs, p0, p1, p2, p3, p4, p5, p6, __VA_ARGS__)                 \
    VT_PRODUCT_OF(N, __nv_bfloat16, "bf16", regs, p0, p1, p2, p3, p4, p5, p6, __VA_ARGS__)

VT_PRODUCT(16, VT_REG8, "%8", "%9", "%10", "%11", "%12", "%13", "%14", VT_ACC8(0))
VT_PRODUCT(64, VT_REG32, "%32", "%33", "%34", "%35", "%36", "%37", "%38", VT_ACC32(0))
VT_PRODUCT(128, VT_REG64, "%64", "%65", "%66", "%67", "%68", "%69", "%70", VT_ACC64(0))

#endif
#endif
