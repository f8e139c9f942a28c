/* The way of gemm_small from sums in registers to y: a 16-bit y leaves by the copy engine from a
 * slab of shared memory of each warp, and what it is added to has come into that slab the same way
 * while the products ran: with few rows nothing else hides these trips to memory. An fp32 y goes as
 * sums through the slab and by gemm_epilogue.cuh, from which the activations are too. Bias, and
 * what belongs to rows, lie in shared memory (facts): other warps have put them there while the
 * products ran.
 *
 * A normalised input: with N(x) = (x - mean) scale for each row x of a,
 *
 *   N(x) w^T = scale (x w^T - mean sum(w)), sum(w) over the columns of each row of w
 *
 * so the product takes x as it is. mean and scale come from moments: for each part of VT_MOMENTS
 * columns of a row its mean and the sum of squares of the distances from that, which are put
 * together without cancellation, however far the mean is from zero. A product that adds to y leaves
 * y's.
 *
 * Not for gemm_persistent: there one pair of warpgroups finishes while the other multiplies, and
 * the memory is better spent on stages of the ring (H100, `vitrun bench --batch 32` of ViT-B/16 in
 * fp16: 2.2 ms; 2.4 ms with this and four stages).
 */
#ifndef VT_CUDA_GEMM_BOXES_CUH
#define VT_CUDA_GEMM_BOXES_CUH

#include "kernels/cuda/gemm_epilogue.cuh"

struct box_output : output {
    const float *w_sums, *a_moments; /* of a normalised input, else NULL */
    float *y_moments;                /* NULL: not wanted */
    int k;
    float eps;
};

/* A warp's slab for 16 rows of a tile of COLS columns: boxes of PART columns in 16 bits, swizzled
 * as the copy engine does it, so that wgmma's pairs meet every bank once; or sums, PIECE columns of
 * them at a time. */
template <int COLS> struct slab_of_tile {
    static constexpr int PART = COLS % 64 ? 32 : 64, PIECE = 32;
    static constexpr int ROW = PART * 2, BOX = 16 * ROW, BOXES = COLS / PART * BOX;
    static constexpr int WIDE = finishing<16, PIECE, 32>::SLAB * 4;
    static constexpr int BYTES = ((BOXES > WIDE ? BOXES : WIDE) + 1023) / 1024 * 1024; /* atoms */
};

/* What is known of a tile before its sums. */
template <int ROWS_, int COLS_> struct facts {
    static constexpr int ROWS = ROWS_, COLS = COLS_;
    float bias[COLS], sums[COLS]; /* of w; zeros where there are none */
    float2 rows[ROWS];            /* mean and scale; 0 and 1 where the input is not normalised */
};
constexpr int FINDERS = 64; /* threads that put them there */

#if VT_SM90A

/* ---- facts ---- */

template <class F>
__device__ __forceinline__ void put_columns(const box_output &o, int col, F *f, int finder)
{
    int at = finder % 32 * 4;
    if (at < F::COLS)
        *reinterpret_cast<float4 *>((finder < 32 ? f->bias : f->sums) + at) =
            four_of(finder < 32 ? o.bias : o.w_sums, col + at, o.n);
}

__device__ __forceinline__ float2 mean_and_scale(const box_output &o, int row)
{
    int parts = o.k / VT_MOMENTS;
    const float2 *part = reinterpret_cast<const float2 *>(o.a_moments) + (size_t)row * parts;
    float sum = 0, squares = 0;
#pragma unroll 6
    for (int p = 0; p < parts; p++)
        sum += part[p].x;
    float mean = sum / parts;
#pragma unroll 6
    for (int p = 0; p < parts; p++) {
        float2 v = part[p];
        squares += v.y + VT_MOMENTS * (v.x - mean) * (v.x - mean);
    }
    return make_float2(mean, rsqrtf(squares / o.k + o.eps));
}

template <class F>
__device__ __forceinline__ void put_rows(const box_output &o, int row, F *f, int finder)
{
    for (int r = finder; r < F::ROWS; r += FINDERS)
        f->rows[r] = o.a_moments ? mean_and_scale(o, min(row + r, o.m - 1)) : make_float2(0, 1);
}

/* ---- tiles ---- */

/* What y is added to on its way into the slab: `arrived` tells. Waits for the slab's last tile to
 * have left. */
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

/* y = act(scale (sums - mean w_sums) + bias); f: the warp's rows from `first` on. */
template <class T, class F, vt_activation ACT>
__device__ __forceinline__ void box_packed(const F *f, int first, const float (&acc)[F::COLS / 2],
                                           unsigned char *slab)
{
    using L = slab_of_tile<F::COLS>;
    int lane = threadIdx.x % 32;
    const float2 of[2] = {f->rows[first + lane / 4], f->rows[first + lane / 4 + 8]};
    const float2 *bias = reinterpret_cast<const float2 *>(f->bias) + lane % 4;
    const float2 *sums = reinterpret_cast<const float2 *>(f->sums) + lane % 4;
    uint32_t put = pair_in<L>(slab);
#pragma unroll
    for (int j = 0; j < F::COLS; j += 16) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) { /* columns 0, 1 of both rows, then 8, 9 */
            int at = j / 2 + i / 4 * 4, r = i / 2 % 2;
            float b = i % 2 ? bias[at].y : bias[at].x, u = i % 2 ? sums[at].y : sums[at].x;
            x[i] = fmaf(of[r].y, fmaf(-of[r].x, u, acc[j / 2 + i]), b);
        }
        activate<ACT>(x);
        uint32_t box = j / L::PART * L::BOX, chunk = j % L::PART * 2;
        shared_store((put ^ chunk) + box, pack2<T>(x[0], x[1]));
        shared_store((put ^ chunk) + box + 8 * L::ROW, pack2<T>(x[2], x[3]));
        shared_store((put ^ (chunk + 16)) + box, pack2<T>(x[4], x[5]));
        shared_store((put ^ (chunk + 16)) + box + 8 * L::ROW, pack2<T>(x[6], x[7]));
    }
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Moments of the part of columns whose values are x: [4 j + {0, 1}] of the first row that the lane
 * shares with its quad, [4 j + {2, 3}] of the second. */
__device__ __forceinline__ void put_moments(const box_output &o, const float *x, int row, int col)
{
    int lane = threadIdx.x % 32, parts = o.n / VT_MOMENTS;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = 0, squares = 0;
#pragma unroll
        for (int j = 2 * i; j < VT_MOMENTS / 2; j += 4)
            sum += x[j] + x[j + 1];
        float mean = quad_sum(sum) / VT_MOMENTS;
#pragma unroll
        for (int j = 2 * i; j < VT_MOMENTS / 2; j += 4)
            squares += (x[j] - mean) * (x[j] - mean) + (x[j + 1] - mean) * (x[j + 1] - mean);
        squares = quad_sum(squares);
        int at = row + lane / 4 + 8 * i;
        if (lane % 4 == 0 && at < o.m && col < o.n)
            reinterpret_cast<float2 *>(o.y_moments)[(size_t)at * parts + col / VT_MOMENTS] =
                make_float2(mean, squares);
    }
}

/* y += sums + bias, and y's moments; acc becomes y. */
template <class T, class F>
__device__ __forceinline__ void box_added(const box_output &o, const F *f,
                                          float (&acc)[F::COLS / 2], int row, int col,
                                          unsigned char *slab)
{
    using L = slab_of_tile<F::COLS>;
    const float2 *bias = reinterpret_cast<const float2 *>(f->bias) + threadIdx.x % 4;
    uint32_t put = pair_in<L>(slab);
#pragma unroll
    for (int j = 0; j < F::COLS; j += 8) {
        float *a = &acc[j / 2];
        float2 b = bias[j / 2];
        uint32_t at = (put ^ j % L::PART * 2) + j / L::PART * L::BOX;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float2 old = unpack2<T>(shared_load(at + 8 * i * L::ROW));
            a[2 * i] += b.x + old.x;
            a[2 * i + 1] += b.y + old.y;
            shared_store(at + 8 * i * L::ROW, pack2<T>(a[2 * i], a[2 * i + 1]));
        }
    }
#pragma unroll
    for (int part = 0; part < F::COLS; part += VT_MOMENTS)
        if (F::COLS % VT_MOMENTS == 0 && o.y_moments)
            put_moments(o, &acc[part / 2], row, col + part);
}

/* A warp's 16 rows, piece by piece. */
template <class T, class F>
__device__ __forceinline__ void box_wide(const output &o, const F *f,
                                         const float (&acc)[F::COLS / 2], int row, int col,
                                         unsigned char *slab)
{
    using L = slab_of_tile<F::COLS>;
    using shape = finishing<16, L::PIECE, 32>;
    float *sums = reinterpret_cast<float *>(slab);
#pragma unroll
    for (int piece = 0; piece < F::COLS; piece += L::PIECE) {
        put_sums<L::PIECE>(&acc[piece / 2], shared_offset(sums));
        __syncwarp();
        finish<T, shape>(o, sums, f->bias + piece, threadIdx.x % 32, row, col + piece);
        __syncwarp();
    }
}

/* A warp's 16 rows from `row` on, number `first` and on of the tile of which f tells; `arrived` and
 * its parity are fetch_old's. */
template <class T, class F>
__device__ __forceinline__ void finish_rows(const box_output &o, const CUtensorMap *y, const F *f,
                                            int first, float (&acc)[F::COLS / 2], int row, int col,
                                            unsigned char *slab, uint32_t arrived, uint32_t parity)
{
    if (o.wide) {
        box_wide<T>(o, f, acc, row, col, slab);
        return;
    }
    if (o.add) {
        barrier_wait(arrived, parity);
        box_added<T>(o, f, acc, row, col, slab);
    } else if (o.act == VT_ACT_NONE) {
        box_packed<T, F, VT_ACT_NONE>(f, first, acc, slab);
    } else if (o.act == VT_ACT_GELU) {
        box_packed<T, F, VT_ACT_GELU>(f, first, acc, slab);
    } else if (o.act == VT_ACT_GELU_TANH) {
        box_packed<T, F, VT_ACT_GELU_TANH>(f, first, acc, slab);
    } else {
        box_packed<T, F, VT_ACT_QUICK_GELU>(f, first, acc, slab);
    }
    store_slab<F::COLS>(y, row, col, slab);
}

#endif
#endif
