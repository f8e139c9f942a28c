/* Fused attention in fp32, on the ordinary multiply-add units. Any head_dim. Where operands may be
 * rounded to tf32, attention_mma.cu's kernels serve instead if they can.
 *
 * A block has 128 queries of a head and passes over the keys in tiles of 64:
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
 * Heads wider than 64 (SLICED) are taken in slices: s is summed over them; slices of out wait in
 * memory, in `out` itself.
 */
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
    const float *bias;      /* of the head */
};

__device__ __forceinline__ head_view view_of(const vt_cuda_attention &a, unsigned index)
{
    size_t image = index / (unsigned)a.group_heads;
    int head = (int)(index % (unsigned)a.group_heads), width = a.heads * a.head_dim;
    if (a.head)
        head = a.head[head];
    size_t row = image * a.tokens, column = (size_t)head * a.head_dim;
    return {(const float *)a.qkv + row * 3 * width + column,
            (float *)a.out + row * width + column,
            width,
            a.tokens,
            a.head_dim,
            a.bias.table + head * a.bias.stride};
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

/* to[d][i] = from[first + i][col + d], permuted. */
template <int D, int ROWS>
__device__ __forceinline__ void copy_transposed(float (&to)[D][ROWS], const float *from,
                                                const head_view &h, int first, int col)
{
    int d = threadIdx.x % D;
    const float *source = from + (size_t)first * (3 * h.width) + col + d;
    int valid = col + d < h.dim ? h.tokens - first : 0;
#pragma unroll 8
    for (int i = threadIdx.x / D; i < ROWS; i += THREADS / D)
        copy_async<4>(&to[d][permuted(d, i)], source + (size_t)i * (3 * h.width), i < valid);
}

template <int D>
__device__ __forceinline__ void copy_values(float (&to)[KEYS][D], const head_view &h, int first,
                                            int col)
{
    const float *source = h.q + 2 * h.width + (size_t)first * (3 * h.width) + col;
    int step = h.dim % 4 ? 1 : 4, columns = D / step;
    for (int i = threadIdx.x; i < KEYS * columns; i += THREADS) {
        int key = i / columns, d = i % columns * step;
        bool valid = first + key < h.tokens && col + d < h.dim;
        const float *at = source + (size_t)key * (3 * h.width) + d;
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

/* The 64 keys of a tile that row `row` may see. */
__device__ __forceinline__ uint64_t keys_on(const vt_cuda_attention &a, int row, int tile)
{
    if (a.bits)
        return row < a.tokens ? ((const uint64_t *)(a.bits + (size_t)row * a.words))[tile] : 0;
    int left = a.tokens - tile * KEYS;
    return left < KEYS ? (1ull << left) - 1 : ~0ull;
}

/* Entries beyond the tokens take any bias. */
__device__ __forceinline__ void add_bias(float (&s)[8][8], const vt_attn_bias &b,
                                         const head_view &h, int first, int tile)
{
    int col[8], last = h.tokens - 1;
#pragma unroll
    for (int n = 0; n < 8; n++)
        col[n] = b.col[min(tile * KEYS + threadIdx.x % 8 * 4 + n / 4 * 32 + n % 4, last)];
#pragma unroll
    for (int m = 0; m < 8; m++) {
        const float *bias = h.bias + b.row[min(first + row_of(m), last)];
#pragma unroll
        for (int n = 0; n < 8; n++)
            s[m][n] += bias[col[n]];
    }
}

/* s becomes the weights. */
__device__ __forceinline__ void weigh(float (&s)[8][8], running &r, const vt_cuda_attention &a,
                                      int first, int tile)
{
    int x = threadIdx.x % 8 * 4;
    bool test = a.bits || (tile + 1) * KEYS > a.tokens;
#pragma unroll
    for (int m = 0; m < 8; m++) {
        uint64_t on = test ? keys_on(a, first + row_of(m), tile) >> x : ~0ull;
        float max = r.max[m];
#pragma unroll
        for (int n = 0; n < 8; n++) {
            s[m][n] = on >> (n / 4 * 32 + n % 4) & 1 ? s[m][n] * a.scale : -INFINITY;
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

/* The next tile from `tile` on that any of the block's rows touches. All threads. */
__device__ __forceinline__ int next_tile(const vt_cuda_attention &a, int first, int tile)
{
    for (; a.bits && tile * KEYS < a.tokens; tile++) {
        uint64_t some = keys_on(a, first + (int)threadIdx.x, tile);
        if (__syncthreads_or(some != 0))
            break;
    }
    return tile;
}

/* 1 / sum of each row, 0 where it has no keys. */
__device__ __forceinline__ void invert_sums(float (&inverse)[8], const running &r)
{
#pragma unroll
    for (int m = 0; m < 8; m++) {
        float sum = r.sum[m];
#pragma unroll
        for (int i = 1; i < 8; i *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, i);
        inverse[m] = sum > 0 ? 1.0f / sum : 0.0f;
    }
}

/* ---- a thread's part of out, from column `col` of the head on ---- */

template <typename Visit>
__device__ __forceinline__ void each_element(const head_view &h, int first, int col, int chunks,
                                             Visit visit)
{
    int x = threadIdx.x % 8 * 4;
#pragma unroll
    for (int m = 0; m < 8; m++) {
        float *to = h.out + (size_t)(first + row_of(m)) * h.width + col;
#pragma unroll
        for (int n = 0; n < 4 * chunks; n++) {
            int d = n / 4 * 32 + x + n % 4;
            if (first + row_of(m) < h.tokens && col + d < h.dim)
                visit(m, n, to[d]);
        }
    }
}

/* ---- the kernel ---- */

template <int D, bool BIAS>
__device__ __forceinline__ void attend_whole(operands<D> &o, const vt_cuda_attention &a,
                                             const head_view &h, int first)
{
    running r;
    float out[8][D / 8] = {}, inverse[8];
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.max[m] = NO_SCORE_YET, r.sum[m] = 0;
    int tile = next_tile(a, first, 0);
    copy_transposed(o.q, h.q, h, first, 0);
    copy_transposed(o.k, h.q + h.width, h, tile * KEYS, 0);
    while (tile * KEYS < a.tokens) {
        float s[8][8] = {};
        await_copies();
        __syncthreads();
        copy_values(o.v, h, tile * KEYS, 0);
        outer_products<D, 2, KEYS, true>(s, o.q, o.k);
        if (BIAS)
            add_bias(s, a.bias, h, first, tile);
        weigh(s, r, a, first, tile);
        put_weights(o.p, s);
        await_copies();
        __syncthreads();
        tile = next_tile(a, first, tile + 1);
        copy_transposed(o.k, h.q + h.width, h, tile * KEYS, 0);
#pragma unroll
        for (int i = 0; i < D; i++)
            out[i % 8][i / 8] *= r.shrink[i % 8];
        outer_products<KEYS, D / 32, D, false>(out, o.p, o.v);
    }
    await_copies();
    invert_sums(inverse, r);
    each_element(h, first, 0, D / 32,
                 [&](int m, int n, float &to) { to = out[m][n] * inverse[m]; });
}

template <int D, bool BIAS>
__device__ __forceinline__ void attend_sliced(operands<D> &o, const vt_cuda_attention &a,
                                              const head_view &h, int first)
{
    running r;
    float inverse[8];
    bool begun = false;
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.max[m] = NO_SCORE_YET, r.sum[m] = 0;
    for (int tile = next_tile(a, first, 0); tile * KEYS < a.tokens;
         tile = next_tile(a, first, tile + 1)) {
        float s[8][8] = {};
        for (int col = 0; col < h.dim; col += D) {
            __syncthreads();
            copy_transposed(o.q, h.q, h, first, col);
            copy_transposed(o.k, h.q + h.width, h, tile * KEYS, col);
            await_copies();
            __syncthreads();
            outer_products<D, 2, KEYS, true>(s, o.q, o.k);
        }
        if (BIAS)
            add_bias(s, a.bias, h, first, tile);
        weigh(s, r, a, first, tile);
        put_weights(o.p, s);
        for (int col = 0; col < h.dim; col += D) {
            float out[8][D / 8] = {};
            __syncthreads();
            copy_values(o.v, h, tile * KEYS, col);
            if (begun)
                each_element(h, first, col, D / 32,
                             [&](int m, int n, float &to) { out[m][n] = to * r.shrink[m]; });
            await_copies();
            __syncthreads();
            outer_products<KEYS, D / 32, D, false>(out, o.p, o.v);
            each_element(h, first, col, D / 32, [&](int m, int n, float &to) { to = out[m][n]; });
        }
        begun = true;
    }
    invert_sums(inverse, r);
    for (int col = 0; col < h.dim; col += D)
        each_element(h, first, col, D / 32,
                     [&](int m, int, float &to) { to = begun ? to * inverse[m] : 0.0f; });
}

template <int D, bool SLICED, bool BIAS>
__global__ void __launch_bounds__(THREADS, 2) f32_kernel(vt_cuda_attention a, unsigned row_tiles)
{
    extern __shared__ __align__(128) char shared[];
    int first = (int)(blockIdx.x % row_tiles) * QUERIES;
    head_view h = view_of(a, blockIdx.x / row_tiles);
    after_previous();
    let_next_start();
    if (SLICED)
        attend_sliced<D, BIAS>(*(operands<D> *)shared, a, h, first);
    else
        attend_whole<D, BIAS>(*(operands<D> *)shared, a, h, first);
}

template <int D, bool SLICED, bool BIAS>
static int run(const vt_cuda_attention *a, cudaStream_t stream)
{
    unsigned row_tiles = (unsigned)((a->tokens + QUERIES - 1) / QUERIES);
    int failed = allow_shared(f32_kernel<D, SLICED, BIAS>, sizeof(operands<D>));
    if (failed)
        return failed;
    return launch(f32_kernel<D, SLICED, BIAS>,
                  row_tiles * (unsigned)a->images * (unsigned)a->group_heads, THREADS,
                  sizeof(operands<D>), stream, *a, row_tiles);
}

template <bool BIAS> static int choose(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->head_dim <= 32   ? run<32, false, BIAS>(a, stream)
           : a->head_dim <= 64 ? run<64, false, BIAS>(a, stream)
                               : run<64, true, BIAS>(a, stream);
}

extern "C" int vt_cuda_attend_f32(const vt_cuda_attention *a, cudaStream_t stream)
{
    if (a->tf32 && vt_cuda_attend_mma_serves(a, 80))
        return vt_cuda_attend_mma(a, stream);
    return a->bias.table ? choose<true>(a, stream) : choose<false>(a, stream);
}
