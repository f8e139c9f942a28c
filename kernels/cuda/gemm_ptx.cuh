/* The Hopper instructions that the products use, one function each: barriers in shared memory
 * (mbarrier), the bulk tensor copy (TMA), warpgroup products (wgmma), and clusters.
 *
 * Operands in shared memory are slices of 64 elements of k: rows of 128 bytes in the 128-byte
 * swizzle, so that 8 rows fill 1024 bytes. Shared memory is addressed by 32-bit offsets.
 */
#ifndef VT_CUDA_GEMM_PTX_CUH
#define VT_CUDA_GEMM_PTX_CUH

#include <cuda.h>

#include "kernels/cuda/common.cuh"

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

/* Makes initialised barriers visible to the cluster and to the copy engine. */
__device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and has the phase wait for so many copied bytes too. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* Arrives at the same barrier of a block of the cluster. */
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t block)
{
    asm volatile("{\n\t.reg .b32 remote;\n\t"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n\t}" ::"r"(barrier),
                 "r"(block)
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

/* Named barriers among so many threads of the block. */
__device__ __forceinline__ void named_wait(int name, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int name, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

/* ---- clusters ---- */

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

/* The address in a block of the cluster of what lies at the offset in this one. */
__device__ __forceinline__ uint32_t cluster_offset(uint32_t offset, uint32_t block)
{
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(offset), "r"(block));
    return there;
}

__device__ __forceinline__ void cluster_store(uint32_t to, float x, float y)
{
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}

/* ---- the bulk tensor copy ---- */

__device__ __forceinline__ void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map));
}

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

/* ---- warpgroup products ---- */

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

/* Descriptor of a slice at a multiple of 1024 bytes, the lower half: the upper one says 128-byte
 * swizzle, and 1024 bytes from 8 rows to the next. Adding 2 moves on by 16 elements of k, adding 512
 * by 64 rows. */
__device__ __forceinline__ uint32_t slice(uint32_t offset)
{
    return 1u << 16 | (offset & 0x3ffff) >> 4;
}

/* d [64, N] (+)= a [64, 16] b [N, 16]^T: what was in d counts if `keep`. Warp w of the group holds rows 16 w and on; lane l has of
 * rows l / 4 + {0, 8} and columns 8 j + 2 (l % 4) + {0, 1} the sums d[4 j + {0, 1, 2, 3}]. */
template <class T, int N> struct product;

#define VT_F8(d, i)                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define VT_F16R(d, i) VT_F8(d, i), VT_F8(d, i + 8)
#define VT_F48(d)     VT_F16R(d, 0), VT_F16R(d, 16), VT_F16R(d, 32)
#define VT_F64(d)     VT_F48(d), VT_F16R(d, 48)
#define VT_F96(d)     VT_F64(d), VT_F16R(d, 64), VT_F16R(d, 80)
#define VT_P48                                                                                     \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
    "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define VT_P64 VT_P48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define VT_P96                                                                                     \
    VT_P64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84," \
           "%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

#define VT_PRODUCT(T, TYPE, N, PLACES, REGISTERS, A, B, KEEP)                                      \
    template <> struct product<T, N> {                                                             \
        static __device__ __forceinline__ void add(float (&d)[N / 2], uint32_t a, uint32_t b,      \
                                                   int keep)                                       \
        {                                                                                          \
            asm volatile("{\n\t.reg .pred keep;\n\t.reg .b64 a, b;\n\t"                            \
                         "setp.ne.b32 keep, " KEEP ", 0;\n\t"                                      \
                         "mov.b64 a, {" A ", 0x40000040};\n\tmov.b64 b, {" B ", 0x40000040};\n\t"  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE           \
                         " {" PLACES "}, a, b, keep, 1, 1, 0, 0;\n\t}"                             \
                         : REGISTERS                                                               \
                         : "r"(a), "r"(b), "r"(keep));                                             \
        }                                                                                          \
    };
#define VT_PRODUCTS(T, TYPE)                                                                       \
    VT_PRODUCT(T, TYPE, 96, VT_P48, VT_F48(d), "%48", "%49", "%50")                                \
    VT_PRODUCT(T, TYPE, 128, VT_P64, VT_F64(d), "%64", "%65", "%66")                               \
    VT_PRODUCT(T, TYPE, 192, VT_P96, VT_F96(d), "%96", "%97", "%98")
VT_PRODUCTS(__half, "f16")
VT_PRODUCTS(__nv_bfloat16, "bf16")

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

template <int REGISTERS> __device__ __forceinline__ void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void give_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

#endif
#endif
