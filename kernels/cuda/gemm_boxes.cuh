/* The way of gemm_small from sums in registers to y: a 16-bit y leaves by the copy engine from a slab
 * of shared memory of each warp, and what it is added to has come into that slab the same way while
 * the products ran: with few rows nothing else hides these trips to memory. An fp32 y goes as sums
 * through the slab and by gemm_epilogue.cuh, from which the activations are too.
 *
 * Not for gemm_persistent: there one pair of warpgroups finishes while the other multiplies, and the
 * memory is better spent on stages of the ring (H100, `vitrun bench --batch 32` of ViT-B/16 in fp16:
 * 2.2 ms; 2.4 ms with this and four stages).
 */
#ifndef VT_CUDA_GEMM_BOXES_CUH
#define VT_CUDA_GEMM_BOXES_CUH

#include "kernels/cuda/gemm_epilogue.cuh"

/* A warp's slab for 16 rows of a tile of COLS columns: boxes of PART columns in 16 bits, swizzled as
 * the copy engine does it, so that wgmma's pairs meet every bank once; or sums, PIECE columns of them
 * at a time. Behind it the columns' bias. */
template <int COLS> struct slab_of_tile {
    static constexpr int PART = COLS % 64 ? 32 : 64, PIECE = 32;
    static constexpr int ROW = PART * 2, BOX = 16 * ROW, BOXES = COLS / PART * BOX;
    static constexpr int WIDE = finishing<16, PIECE, 32>::SLAB * 4;
    static constexpr int BIAS = BOXES > WIDE ? BOXES : WIDE;
    static constexpr int BYTES =
        (BIAS + COLS * 4 + 1023) / 1024 * 1024; /* swizzle atoms are whole */
};

#if VT_SM90A

/* What y is added to on its way into the slab: `arrived` tells. Waits for the slab's last tile to have
 * left. */
template <int COLS>
__device__ __forceinline__ void fetch_old(const output &o, const CUtensorMap *y, int row, int col,
                                          unsigned char *slab, uint32_t arrived)
{
    using L = slab_of_tile<COLS>;
    if (threadIdx.x % 32 == 0 && !o.wide) {
        stores_wait_read();
        if (o.add) {
            barrier_expect(arrived, L::BOXES);
            for (int i = 0; i < COLS / L::PART; i++)
                copy_box(shared_offset(slab) + i * L::BOX, y, col + i * L::PART, row, arrived);
        }
    }
    __syncwarp();
}

template <int COLS>
__device__ __forceinline__ void store_slab(const CUtensorMap *y, int row, int col,
                                           const unsigned char *slab)
{
    using L = slab_of_tile<COLS>;
    shared_to_copies();
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        for (int i = 0; i < COLS / L::PART; i++)
            store_box(y, col + i * L::PART, row, shared_offset(slab) + i * L::BOX);
        stores_commit();
    }
}

/* A lane's first pair of columns in its first row of a box; 8 columns further in the row is
 * `put ^ 16 j`, the row 8 further 8 rows on. */
template <class L> __device__ __forceinline__ uint32_t pair_in(const unsigned char *slab)
{
    int lane = threadIdx.x % 32, row = lane / 4, turn = L::PART == 64 ? row : row / 2;
    return shared_offset(slab) + row * L::ROW + turn * 16 + lane % 4 * 4;
}

/* y = act(sums + bias) */
template <class T, int COLS, vt_activation ACT>
__device__ __forceinline__ void box_packed(const float (&acc)[COLS / 2], unsigned char *slab)
{
    using L = slab_of_tile<COLS>;
    const float2 *bias = reinterpret_cast<const float2 *>(slab + L::BIAS) + threadIdx.x % 4;
    uint32_t put = pair_in<L>(slab);
#pragma unroll
    for (int j = 0; j < COLS; j += 16) {
        const float *a = &acc[j / 2];
        float2 b[2] = {bias[j / 2], bias[j / 2 + 4]};
        float x[8] = {a[0] + b[0].x, a[1] + b[0].y, a[2] + b[0].x, a[3] + b[0].y,
                      a[4] + b[1].x, a[5] + b[1].y, a[6] + b[1].x, a[7] + b[1].y};
        activate<ACT>(x);
        uint32_t box = j / L::PART * L::BOX, chunk = j % L::PART * 2;
        shared_store((put ^ chunk) + box, pack2<T>(x[0], x[1]));
        shared_store((put ^ chunk) + box + 8 * L::ROW, pack2<T>(x[2], x[3]));
        shared_store((put ^ (chunk + 16)) + box, pack2<T>(x[4], x[5]));
        shared_store((put ^ (chunk + 16)) + box + 8 * L::ROW, pack2<T>(x[6], x[7]));
    }
}

/* y += sums + bias */
template <class T, int COLS>
__device__ __forceinline__ void box_added(const float (&acc)[COLS / 2], unsigned char *slab)
{
    using L = slab_of_tile<COLS>;
    const float2 *bias = reinterpret_cast<const float2 *>(slab + L::BIAS) + threadIdx.x % 4;
    uint32_t put = pair_in<L>(slab);
#pragma unroll
    for (int j = 0; j < COLS; j += 8) {
        const float *a = &acc[j / 2];
        float2 b = bias[j / 2];
        uint32_t at = (put ^ j % L::PART * 2) + j / L::PART * L::BOX;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float2 old = unpack2<T>(shared_load(at + 8 * i * L::ROW));
            shared_store(at + 8 * i * L::ROW,
                         pack2<T>(a[2 * i] + b.x + old.x, a[2 * i + 1] + b.y + old.y));
        }
    }
}

/* A warp's 16 rows, piece by piece. */
template <class T, int COLS>
__device__ __forceinline__ void box_wide(const output &o, const float (&acc)[COLS / 2], int row,
                                         int col, unsigned char *slab)
{
    using L = slab_of_tile<COLS>;
    using shape = finishing<16, L::PIECE, 32>;
    float *sums = reinterpret_cast<float *>(slab);
    const float *bias = reinterpret_cast<const float *>(slab + L::BIAS);
#pragma unroll
    for (int piece = 0; piece < COLS; piece += L::PIECE) {
        put_sums<L::PIECE>(&acc[piece / 2], shared_offset(sums));
        __syncwarp();
        finish<T, shape>(o, sums, bias + piece, threadIdx.x % 32, row, col + piece);
        __syncwarp();
    }
}

/* A warp's 16 rows of a tile, from row and col on; lane l has bias 4 l and on, `arrived` and its
 * parity are fetch_old's. */
template <class T, int COLS>
__device__ __forceinline__ void
finish_rows(const output &o, const CUtensorMap *y, const float (&acc)[COLS / 2], float4 bias,
            int row, int col, unsigned char *slab, uint32_t arrived, uint32_t parity)
{
    int lane = threadIdx.x % 32;
    if (lane < COLS / 4)
        reinterpret_cast<float4 *>(slab + slab_of_tile<COLS>::BIAS)[lane] = bias;
    __syncwarp();
    if (o.wide) {
        box_wide<T, COLS>(o, acc, row, col, slab);
        return;
    }
    if (o.add) {
        barrier_wait(arrived, parity);
        box_added<T, COLS>(acc, slab);
    } else if (o.act == VT_ACT_NONE) {
        box_packed<T, COLS, VT_ACT_NONE>(acc, slab);
    } else if (o.act == VT_ACT_GELU) {
        box_packed<T, COLS, VT_ACT_GELU>(acc, slab);
    } else if (o.act == VT_ACT_GELU_TANH) {
        box_packed<T, COLS, VT_ACT_GELU_TANH>(acc, slab);
    } else {
        box_packed<T, COLS, VT_ACT_QUICK_GELU>(acc, slab);
    }
    store_slab<COLS>(y, row, col, slab);
}

#endif
#endif
