/* The instructions that matrix products use beside hopper.cuh's, one function each: clusters,
 * copies of boxes of matrices, products of two slices of 64 elements of k in shared memory.
 */
#ifndef VT_CUDA_GEMM_PTX_CUH
#define VT_CUDA_GEMM_PTX_CUH

#include "kernels/cuda/hopper.cuh"

#if VT_SM90A

/* ---- clusters ---- */

/* Arrives at the same barrier of a block of the cluster. */
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t block)
{
    asm volatile("{\n\t.reg .b32 remote;\n\t"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n\t}" ::"r"(barrier),
                 "r"(block)
                 : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster; what each wrote before is visible to all after. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

/* The same without memory: barriers just initialised are visible, and none leaves before the others
 * are here. */
__device__ __forceinline__ void cluster_meet()
{
    asm volatile("barrier.cluster.arrive.relaxed;\n\tbarrier.cluster.wait;" ::: "memory");
}

/* ---- the bulk tensor copy ---- */

/* The box at (k, row) of a matrix into shared memory; the barrier counts its bytes. */
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, int k, int row,
                                         uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier)
                 : "memory");
}

/* The same into all blocks of the cluster in `blocks`, each telling its own barrier. */
__device__ __forceinline__ void copy_box_to(uint32_t to, const CUtensorMap *map, int k, int row,
                                            uint32_t barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier), "h"(blocks)
                 : "memory");
}

/* A box from shared memory to (x, y) of a matrix, in the group that stores_commit() closes. What
 * lies outside of the matrix is not stored. */
__device__ __forceinline__ void store_box(const CUtensorMap *map, int x, int y, uint32_t from)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
            map),
        "r"(x), "r"(y), "r"(from)
        : "memory");
}

__device__ __forceinline__ void stores_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until shared memory that this thread's stores read may be written again. */
__device__ __forceinline__ void stores_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Shows what this thread has written to shared memory to the copy engine. */
__device__ __forceinline__ void shared_to_copies()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- warpgroup products ---- */

/* Descriptor of a slice at a multiple of 1024 bytes, the lower half: the upper one says 128-byte
 * swizzle, and 1024 bytes from 8 rows to the next. Adding 2 moves on by 16 elements of k, adding
 * 512 by 64 rows. */
__device__ __forceinline__ uint32_t slice(uint32_t offset)
{
    return 1u << 16 | (offset & 0x3ffff) >> 4;
}

/* d [64, N] += a [64, 16] b [N, 16]^T. Warp w of the group holds rows 16 w and on; lane l has of
 * rows l / 4 + {0, 8} and columns 8 j + 2 (l % 4) + {0, 1} the sums d[4 j + {0, 1, 2, 3}]. */
template <class T, int N> struct slice_product;

#define VT_F8(d, i)                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define VT_F16R(d, i) VT_F8(d, i), VT_F8(d, i + 8)
#define VT_F32R(d)    VT_F16R(d, 0), VT_F16R(d, 16)
#define VT_F48(d)     VT_F32R(d), VT_F16R(d, 32)
#define VT_F64(d)     VT_F48(d), VT_F16R(d, 48)
#define VT_P32                                                                                     \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
    "%25,%26,%27,%28,%29,%30,%31"
#define VT_P48 VT_P32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define VT_P64 VT_P48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define VT_SLICE_PRODUCT(T, TYPE, N, PLACES, REGISTERS, A, B, KEEP)                                \
    template <> struct slice_product<T, N> {                                                       \
        static __device__ __forceinline__ void add(float (&d)[N / 2], uint32_t a, uint32_t b)      \
        {                                                                                          \
            asm volatile("{\n\t.reg .pred keep;\n\t.reg .b64 a, b;\n\t"                            \
                         "setp.ne.b32 keep, " KEEP ", 0;\n\t"                                      \
                         "mov.b64 a, {" A ", 0x40000040};\n\tmov.b64 b, {" B ", 0x40000040};\n\t"  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE           \
                         " {" PLACES "}, a, b, keep, 1, 1, 0, 0;\n\t}"                             \
                         : REGISTERS                                                               \
                         : "r"(a), "r"(b), "r"(1));                                                \
        }                                                                                          \
    };
#define VT_SLICE_PRODUCTS(T, TYPE)                                                                 \
    VT_SLICE_PRODUCT(T, TYPE, 64, VT_P32, VT_F32R(d), "%32", "%33", "%34")                         \
    VT_SLICE_PRODUCT(T, TYPE, 96, VT_P48, VT_F48(d), "%48", "%49", "%50")                          \
    VT_SLICE_PRODUCT(T, TYPE, 128, VT_P64, VT_F64(d), "%64", "%65", "%66")
VT_SLICE_PRODUCTS(__half, "f16")
VT_SLICE_PRODUCTS(__nv_bfloat16, "bf16")

/* ---- the rest ---- */

/* The number of this warp, known to the compiler as the same for all its threads. */
__device__ __forceinline__ int warp_number()
{
    return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
}

/* Brings a box at (k, row) of a matrix into the L2 cache. */
__device__ __forceinline__ void prefetch_box(const CUtensorMap *map, int k, int row)
{
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map),
                 "r"(k), "r"(row)
                 : "memory");
}

__device__ __forceinline__ void shared_store(uint32_t to, float x, float y)
{
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}

__device__ __forceinline__ void shared_store(uint32_t to, uint32_t x)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}

__device__ __forceinline__ uint32_t shared_load(uint32_t from)
{
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
    return x;
}

/* Adds to memory without waiting for what was there. */
__device__ __forceinline__ void add_to(float *p, float4 v)
{
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y),
                 "f"(v.z), "f"(v.w)
                 : "memory");
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
#endif
