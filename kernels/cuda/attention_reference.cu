/* Attention as it is written down, step by step, all scores in memory: the yardstick of the fused
 * kernels' memory, and what `vitrun check` compares them with.
 *
 *   scores[i, h, q, k] = scale (q . k + bias)      fp32, [images * group_heads, tokens, tokens]
 *   scores = softmax of each row over its allowed keys; zeros elsewhere
 *   out = scores v
 *
 * Any type and head_dim. Products go through 64 x 64 tiles in shared memory, sums are fp32;
 * nothing else is done for speed.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int TILE = 64, DEPTH = 16, THREADS = 256; /* a thread has 4 x 4 of a tile */

/* ---- a tile of a product: sum over i of a[r, i] b[i, c] ---- */

/* A matrix; entries beyond its extents count as 0. */
template <typename T> struct matrix {
    const T *p;
    size_t row_step, col_step; /* one of them is 1 */
    int rows, cols;

    __device__ float at(int r, int c) const
    {
        return r < rows && c < cols ? to_f32(p[r * row_step + c * col_step]) : 0.0f;
    }
};

/* A thread has rows thread / 16 + 16 i and columns thread % 16 + 16 j of the tile at (row, col). */
template <typename A, typename B>
__device__ void tile_product(float (&sum)[4][4], const matrix<A> &a, const matrix<B> &b, int row,
                             int col)
{
    __shared__ float left[DEPTH][TILE + 1], right[DEPTH][TILE + 1];
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int first = 0; first < a.cols; first += DEPTH) {
        for (int j = 0; j < 4; j++) { /* neighbouring threads read neighbouring elements */
            left[x][y + 16 * j] = a.at(row + y + 16 * j, first + x);
            if (b.row_step == 1)
                right[x][y + 16 * j] = b.at(first + x, col + y + 16 * j);
            else
                right[y][x + 16 * j] = b.at(first + y, col + x + 16 * j);
        }
        __syncthreads();
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += left[d][y + 16 * i] * right[d][x + 16 * j];
        __syncthreads();
    }
}

/* ---- what a block works on: a tile of an image's listed head ---- */

struct place {
    size_t index; /* image * group_heads + position in the list */
    size_t image;
    int head, row, col;
};

__device__ place place_of(const vt_cuda_attention &a, int row_tiles, int col_tiles)
{
    size_t block = blockIdx.x, tiles = (size_t)row_tiles * col_tiles;
    int tile = (int)(block % tiles);
    place p = {block / tiles, block / tiles / a.group_heads, 0, tile / col_tiles * TILE,
               tile % col_tiles * TILE};
    p.head = (int)(p.index % a.group_heads);
    if (a.head)
        p.head = a.head[p.head];
    return p;
}

/* which: 0 q, 1 k, 2 v, as [tokens, head_dim]. */
template <typename T>
__device__ matrix<T> operand(const vt_cuda_attention &a, const place &p, int which)
{
    size_t width = (size_t)a.heads * a.head_dim;
    const T *first = (const T *)a.qkv + p.image * a.tokens * 3 * width + which * width;
    return {first + (size_t)p.head * a.head_dim, 3 * width, 1, a.tokens, a.head_dim};
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    scores_kernel(float *scores, vt_cuda_attention a, int tiles)
{
    place p = place_of(a, tiles, tiles);
    after_previous();
    let_next_start();
    matrix<T> q = operand<T>(a, p, 0), k = operand<T>(a, p, 1);
    matrix<T> k_transposed = {k.p, k.col_step, k.row_step, k.cols, k.rows};
    float sum[4][4] = {};
    tile_product(sum, q, k_transposed, p.row, p.col);
    scores += p.index * a.tokens * a.tokens;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int row = p.row + threadIdx.x / 16 + 16 * i, col = p.col + threadIdx.x % 16 + 16 * j;
            if (row >= a.tokens || col >= a.tokens)
                continue;
            if (a.bias.table)
                sum[i][j] +=
                    a.bias.table[p.head * a.bias.stride + a.bias.row[row] + a.bias.col[col]];
            scores[(size_t)row * a.tokens + col] = sum[i][j] * a.scale;
        }
}

/* ---- softmax in place: a warp a row ---- */

__device__ bool allowed(const vt_cuda_attention &a, int q, int k)
{
    return !a.bits || (a.bits[(size_t)q * a.words + k / 32] >> k % 32 & 1);
}

__global__ void __launch_bounds__(THREADS) softmax_kernel(float *scores, vt_cuda_attention a)
{
    size_t row = (size_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32, q = (int)(row % a.tokens);
    after_previous();
    let_next_start();
    if (row >= (size_t)a.images * a.group_heads * a.tokens)
        return;
    float *s = scores + row * a.tokens, max = -INFINITY, sum = 0;
    for (int k = lane; k < a.tokens; k += 32)
        if (allowed(a, q, k))
            max = fmaxf(max, s[k]);
    for (int i = 16; i; i /= 2)
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, i));
    for (int k = lane; k < a.tokens; k += 32)
        sum += s[k] = allowed(a, q, k) ? expf(s[k] - max) : 0.0f;
    for (int i = 16; i; i /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, i);
    for (int k = lane; k < a.tokens; k += 32)
        s[k] = sum > 0 ? s[k] / sum : 0.0f;
}

/* ---- out = scores v ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    values_kernel(const float *scores, vt_cuda_attention a, int row_tiles, int col_tiles)
{
    place p = place_of(a, row_tiles, col_tiles);
    after_previous();
    let_next_start();
    matrix<float> weights = {scores + p.index * a.tokens * a.tokens, (size_t)a.tokens, 1, a.tokens,
                             a.tokens};
    float sum[4][4] = {};
    tile_product(sum, weights, operand<T>(a, p, 2), p.row, p.col);
    T *out = (T *)a.out + (p.image * a.tokens * a.heads + p.head) * a.head_dim;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int row = p.row + threadIdx.x / 16 + 16 * i, col = p.col + threadIdx.x % 16 + 16 * j;
            if (row < a.tokens && col < a.head_dim)
                out[(size_t)row * a.heads * a.head_dim + col] = from_f32<T>(sum[i][j]);
        }
}

/* ---- launching ---- */

template <typename T> static int run(const vt_cuda_attention *a, float *scores, cudaStream_t stream)
{
    size_t heads = (size_t)a->images * a->group_heads, rows = heads * a->tokens;
    int tiles = (a->tokens + TILE - 1) / TILE, col_tiles = (a->head_dim + TILE - 1) / TILE;
    int failed = launch(scores_kernel<T>, (unsigned)(heads * tiles * tiles), THREADS, 0, stream,
                        scores, *a, tiles);
    if (!failed)
        failed = launch(softmax_kernel, (unsigned)((rows + THREADS / 32 - 1) / (THREADS / 32)),
                        THREADS, 0, stream, scores, *a);
    if (!failed)
        failed = launch(values_kernel<T>, (unsigned)(heads * tiles * col_tiles), THREADS, 0, stream,
                        scores, *a, tiles, col_tiles);
    return failed;
}

extern "C" int vt_cuda_attend_reference(const vt_cuda_attention *a, float *scores,
                                        cudaStream_t stream)
{
    return a->type == VT_F32   ? run<float>(a, scores, stream)
           : a->type == VT_F16 ? run<__half>(a, scores, stream)
                               : run<__nv_bfloat16>(a, scores, stream);
}
