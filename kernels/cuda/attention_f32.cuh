/* The pieces of fused attention in fp32, on the ordinary multiply-add units. A block has 128
 * queries of a head and passes over the keys in tiles of 64:
 *
 *   s = scale (q k^T + bias); p = exp(s - max); sum += p; out = out * exp(old max - max) + p v
 *
 * A thread has 8 x 8 of s and 8 rows x D / 8 columns of out: rows 4 y .. 4 y + 3 and 64 more,
 * columns 4 x .. 4 x + 3 and 32 more. Operands lie in shared memory the way outer products want
 * them:
 *
 *   q [D][128], k [D][64] transposed, p [64 keys][128 queries] transposed, v [64 keys][D]
 *
 * the first three with their chunks of four columns permuted by xor with the row / 4, so that
 * neither the transposed writing nor the reading meets in one bank much. The next tile's keys
 * arrive while p v is computed, its values while q k^T is.
 *
 * Which queries and keys these are, and which pairs are on, is told by a type Tiles, which is at
 * one tile at a time:
 *
 *   here(), next()     is there a tile? on to the next one; all threads together
 *   queries(), keys()  see attention_tokens.cuh; keys() where here()
 *   on(row)            bit n: this thread's column n of the row is on
 *   add_bias(s)        to this thread's part of the scores
 */
#ifndef VT_CUDA_ATTENTION_F32_CUH
#define VT_CUDA_ATTENTION_F32_CUH

#include "kernels/cuda/attention_tokens.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int THREADS = 128, QUERIES = 128, KEYS = 64;
static const float LOG2_E = 1.44269504f, NO_SCORE_YET = -3e38f;

template <int D> struct operands {
    float q[D][QUERIES], k[D][KEYS], p[KEYS][QUERIES], v[KEYS][D];
};

/* Where column `col` of row `row` of a permuted matrix is, within its row. */
__device__ __forceinline__ int permuted(int row, int col)
{
    return ((col / 4) ^ (row / 4 % 8)) * 4 + col % 4;
}

/* ---- copies from global memory; zeros beyond the tokens and the head ---- */

struct head_view {
    const float *q; /* of the image's first token; k and v lie `width` and 2 `width` further */
    float *out;
    int width, tokens, dim; /* width: heads * dim; a token is 3 `width` after the one before */
};

__device__ __forceinline__ head_view view_of(const vt_cuda_attention &a, unsigned index)
{
    size_t image = index / (unsigned)a.group_heads;
    int head = (int)(index % (unsigned)a.group_heads), width = a.heads * a.head_dim;
    if (a.head)
        head = a.head[head];
    size_t row = image * a.tokens, column = (size_t)head * a.head_dim;
    return {(const float *)a.qkv + row * 3 * width + column, (float *)a.out + row * width + column,
            width, a.tokens, a.head_dim};
}

template <int BYTES>
__device__ __forceinline__ void copy_async(float *to, const float *from, bool valid)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                     "r"(valid ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from),
                     "r"(valid ? 4 : 0)
                     : "memory");
}

__device__ __forceinline__ void await_copies()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* to[d][i] = from[token i][d], permuted. */
template <int D, int ROWS, typename Tokens>
__device__ __forceinline__ void copy_transposed(float (&to)[D][ROWS], const float *from,
                                                const head_view &h, Tokens tokens)
{
    int d = threadIdx.x % D;
    const float *source = from + d;
#pragma unroll 8
    for (int i = threadIdx.x / D; i < ROWS; i += THREADS / D)
        copy_async<4>(&to[d][permuted(d, i)], source + (size_t)tokens.at(i) * (3 * h.width),
                      tokens.real(i) && d < h.dim);
}

template <int D, typename Tokens>
__device__ __forceinline__ void copy_values(float (&to)[KEYS][D], const head_view &h, Tokens tokens)
{
    const float *source = h.q + 2 * h.width;
    int step = h.dim % 4 ? 1 : 4, columns = D / step;
    for (int i = threadIdx.x; i < KEYS * columns; i += THREADS) {
        int key = i / columns, d = i % columns * step;
        bool valid = tokens.real(key) && d < h.dim;
        const float *at = source + (size_t)tokens.at(key) * (3 * h.width) + d;
        if (step == 4)
            copy_async<16>(&to[key][d], at, valid);
        else
            copy_async<4>(&to[key][d], at, valid);
    }
}

/* ---- register tiles ---- */

__device__ __forceinline__ void load_4(float *to, const float *from)
{
    float4 v = *(const float4 *)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* sum[8][4 C] += sum over i < DEPTH of a[i][rows] b[i][columns]; a is permuted, b where P. */
template <int DEPTH, int C, int COLS, bool P>
__device__ __forceinline__ void outer_products(float (&sum)[8][4 * C],
                                               const float (&a)[DEPTH][QUERIES],
                                               const float (&b)[DEPTH][COLS])
{
    int x = threadIdx.x % 8 * 4, y = threadIdx.x / 8 * 4;
#pragma unroll 2
    for (int four = 0; four < DEPTH; four += 4) {
        const float *left = &a[four][permuted(four, y)];
        const float *right = &b[four][P ? permuted(four, x) : x];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float l[8], r[4 * C];
            load_4(l, left + i * QUERIES);
            load_4(l + 4, left + i * QUERIES + 64);
#pragma unroll
            for (int c = 0; c < C; c++)
                load_4(r + 4 * c, right + i * COLS + 32 * c);
#pragma unroll
            for (int m = 0; m < 8; m++)
#pragma unroll
                for (int n = 0; n < 4 * C; n++)
                    sum[m][n] = fmaf(l[m], r[n], sum[m][n]);
        }
    }
}

/* Row m of a thread's eight. */
__device__ __forceinline__ int row_of(int m)
{
    return threadIdx.x / 8 * 4 + m / 4 * 64 + m % 4;
}

/* ---- softmax ---- */

struct running {
    float max[8], sum[8], shrink[8]; /* sum: of this thread's columns */
};

/* s becomes the weights. */
template <typename Tiles>
__device__ __forceinline__ void weigh(float (&s)[8][8], running &r, float scale, const Tiles &tiles)
{
#pragma unroll
    for (int m = 0; m < 8; m++) {
        uint32_t on = tiles.on(row_of(m));
        float max = r.max[m];
#pragma unroll
        for (int n = 0; n < 8; n++) {
            s[m][n] = on >> n & 1 ? s[m][n] * scale : -INFINITY;
            max = fmaxf(max, s[m][n]);
        }
#pragma unroll
        for (int i = 1; i < 8; i *= 2)
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, i));
        r.shrink[m] = exp2f((r.max[m] - max) * LOG2_E);
        r.max[m] = max;
        r.sum[m] *= r.shrink[m];
#pragma unroll
        for (int n = 0; n < 8; n++) {
            s[m][n] = exp2f((s[m][n] - max) * LOG2_E);
            r.sum[m] += s[m][n];
        }
    }
}

__device__ __forceinline__ void put_weights(float (&p)[KEYS][QUERIES], const float (&s)[8][8])
{
    int x = threadIdx.x % 8 * 4, y = threadIdx.x / 8 * 4;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        int key = x + n / 4 * 32 + n % 4;
        float *to = &p[key][permuted(key, y)];
        *(float4 *)to = make_float4(s[0][n], s[1][n], s[2][n], s[3][n]);
        *(float4 *)(to + 64) = make_float4(s[4][n], s[5][n], s[6][n], s[7][n]);
    }
}

/* A row's sum, from its 8 threads. */
__device__ __forceinline__ float whole_sum(float sum)
{
#pragma unroll
    for (int i = 1; i < 8; i *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, i);
    return sum;
}

/* ---- heads of at most D ---- */

template <int D, typename Tiles>
__device__ __forceinline__ void attend_whole(float (&out)[8][D / 8], running &r, operands<D> &o,
                                             const head_view &h, float scale, Tiles &tiles)
{
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.max[m] = NO_SCORE_YET, r.sum[m] = 0;
#pragma unroll
    for (int i = 0; i < D; i++)
        out[i % 8][i / 8] = 0;
    copy_transposed(o.q, h.q, h, tiles.queries());
    if (tiles.here())
        copy_transposed(o.k, h.q + h.width, h, tiles.keys());
    while (tiles.here()) {
        float s[8][8] = {};
        await_copies();
        __syncthreads();
        copy_values(o.v, h, tiles.keys());
        outer_products<D, 2, KEYS, true>(s, o.q, o.k);
        tiles.add_bias(s);
        weigh(s, r, scale, tiles);
        put_weights(o.p, s);
        await_copies();
        __syncthreads();
        tiles.next();
        if (tiles.here())
            copy_transposed(o.k, h.q + h.width, h, tiles.keys());
#pragma unroll
        for (int i = 0; i < D; i++)
            out[i % 8][i / 8] *= r.shrink[i % 8];
        outer_products<KEYS, D / 32, D, false>(out, o.p, o.v);
    }
    await_copies();
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.sum[m] = whole_sum(r.sum[m]);
}

#endif
