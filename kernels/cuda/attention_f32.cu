/* Fused attention in fp32 over all keys, on the ordinary multiply-add units: attention_f32.cuh does
 * the arithmetic. Any head_dim. Tiles that a mask leaves empty for all of a block's queries are
 * left out. Where operands may be rounded to tf32, attention_mma.cu's kernels serve instead if they
 * can.
 */
#include "kernels/cuda/attention_f32.cuh"

/* Consecutive queries from `first` on, and all keys. */
template <bool BIAS> struct dense_tiles {
    const vt_cuda_attention &a;
    const float *bias; /* of the head */
    int first, tile;

    __device__ __forceinline__ dense_tiles(const vt_cuda_attention &of, unsigned pair, int from)
        : a(of), first(from), tile(0)
    {
        unsigned head = pair % (unsigned)a.group_heads;
        bias = BIAS ? a.bias.table + (a.head ? a.head[head] : head) * a.bias.stride : NULL;
        skip();
    }

    /* Past tiles that none of the block's rows touches. */
    __device__ __forceinline__ void skip()
    {
        for (; a.bits && here(); tile++)
            if (__syncthreads_or(keys_on(first + (int)threadIdx.x) != 0))
                break;
    }

    /* Of the tile, those that a row may see. */
    __device__ __forceinline__ uint64_t keys_on(int row) const
    {
        if (a.bits)
            return row < a.tokens ? ((const uint64_t *)(a.bits + (size_t)row * a.words))[tile] : 0;
        int left = a.tokens - tile * KEYS;
        return left < KEYS ? (1ull << left) - 1 : ~0ull;
    }

    __device__ __forceinline__ bool here() const
    {
        return tile * KEYS < a.tokens;
    }
    __device__ __forceinline__ void next()
    {
        tile++;
        skip();
    }
    __device__ __forceinline__ token_range queries() const
    {
        return {first, a.tokens};
    }
    __device__ __forceinline__ token_range keys() const
    {
        return {tile * KEYS, a.tokens};
    }

    /* Entries beyond the tokens take any bias. */
    __device__ __forceinline__ void add_bias(float (&s)[8][8]) const
    {
        if (!BIAS)
            return;
        int col[8], last = a.tokens - 1;
#pragma unroll
        for (int n = 0; n < 8; n++)
            col[n] = a.bias.col[min(tile * KEYS + threadIdx.x % 8 * 4 + n / 4 * 32 + n % 4, last)];
#pragma unroll
        for (int m = 0; m < 8; m++) {
            const float *of_row = bias + a.bias.row[min(first + row_of(m), last)];
#pragma unroll
            for (int n = 0; n < 8; n++)
                s[m][n] += of_row[col[n]];
        }
    }

    __device__ __forceinline__ uint32_t on(int row) const
    {
        if (!a.bits && (tile + 1) * KEYS <= a.tokens)
            return 0xff;
        uint64_t on = keys_on(first + row) >> threadIdx.x % 8 * 4;
        return (uint32_t)(on & 15) | (uint32_t)(on >> 28 & 0xf0);
    }
};

/* 1 / sum of each row, 0 where it has no keys. */
__device__ __forceinline__ void invert(float (&inverse)[8], const float (&sum)[8])
{
#pragma unroll
    for (int m = 0; m < 8; m++)
        inverse[m] = sum[m] > 0 ? 1.0f / sum[m] : 0.0f;
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

template <int D, typename Tiles>
__device__ __forceinline__ void attend_narrow(operands<D> &o, const vt_cuda_attention &a,
                                              const head_view &h, Tiles &tiles)
{
    running r;
    float out[8][D / 8], inverse[8];
    attend_whole(out, r, o, h, a.scale, tiles);
    invert(inverse, r.sum);
    each_element(h, tiles.first, 0, D / 32,
                 [&](int m, int n, float &to) { to = out[m][n] * inverse[m]; });
}

template <int D, typename Tiles>
__device__ __forceinline__ void attend_sliced(operands<D> &o, const vt_cuda_attention &a,
                                              const head_view &h, Tiles &tiles)
{
    running r;
    float inverse[8];
    bool begun = false;
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.max[m] = NO_SCORE_YET, r.sum[m] = 0;
    for (; tiles.here(); tiles.next()) {
        float s[8][8] = {};
        for (int col = 0; col < h.dim; col += D) {
            __syncthreads();
            copy_transposed(o.q, h.q, h, col, tiles.queries());
            copy_transposed(o.k, h.q + h.width, h, col, tiles.keys());
            await_copies();
            __syncthreads();
            outer_products<D, 2, KEYS, true>(s, o.q, o.k);
        }
        tiles.add_bias(s);
        weigh(s, r, a.scale, tiles);
        put_weights(o.p, s);
        for (int col = 0; col < h.dim; col += D) {
            float out[8][D / 8] = {};
            __syncthreads();
            copy_values(o.v, h, col, tiles.keys());
            if (begun)
                each_element(h, tiles.first, col, D / 32,
                             [&](int m, int n, float &to) { out[m][n] = to * r.shrink[m]; });
            await_copies();
            __syncthreads();
            outer_products<KEYS, D / 32, D, false>(out, o.p, o.v);
            each_element(h, tiles.first, col, D / 32,
                         [&](int m, int n, float &to) { to = out[m][n]; });
        }
        begun = true;
    }
#pragma unroll
    for (int m = 0; m < 8; m++)
        r.sum[m] = whole_sum(r.sum[m]);
    invert(inverse, r.sum);
    for (int col = 0; col < h.dim; col += D)
        each_element(h, tiles.first, col, D / 32,
                     [&](int m, int, float &to) { to = begun ? to * inverse[m] : 0.0f; });
}

template <int D, bool SLICED, bool BIAS>
__global__ void __launch_bounds__(THREADS, 2) f32_kernel(vt_cuda_attention a, unsigned row_tiles)
{
    extern __shared__ __align__(128) char shared[];
    unsigned pair = blockIdx.x / row_tiles;
    head_view h = view_of(a, pair);
    dense_tiles<BIAS> tiles(a, pair, (int)(blockIdx.x % row_tiles) * QUERIES);
    after_previous();
    let_next_start();
    if (SLICED)
        attend_sliced(*(operands<D> *)shared, a, h, tiles);
    else
        attend_narrow(*(operands<D> *)shared, a, h, tiles);
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
