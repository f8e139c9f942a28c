/* Fused attention in fp32 over all keys, on the ordinary multiply-add units: attention_f32.cuh does
 * the arithmetic. Heads to 64 wide. Tiles that a mask leaves empty for all of a block's queries are
 * left out. Wider heads go through scores (scores.c).
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

/* A row without keys gives zeros. */
template <int D>
__device__ __forceinline__ void store(const head_view &h, int first, const float (&out)[8][D / 8],
                                      const running &r)
{
    int x = threadIdx.x % 8 * 4;
#pragma unroll
    for (int m = 0; m < 8; m++) {
        float *to = h.out + (size_t)(first + row_of(m)) * h.width;
        float inverse = r.sum[m] > 0 ? 1.0f / r.sum[m] : 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            int d = n / 4 * 32 + x + n % 4;
            if (first + row_of(m) < h.tokens && d < h.dim)
                to[d] = out[m][n] * inverse;
        }
    }
}

template <int D, bool BIAS>
__global__ void __launch_bounds__(THREADS, 2) f32_kernel(vt_cuda_attention a, unsigned row_tiles)
{
    extern __shared__ __align__(128) char shared[];
    unsigned pair = blockIdx.x / row_tiles;
    head_view h = view_of(a, pair);
    dense_tiles<BIAS> tiles(a, pair, (int)(blockIdx.x % row_tiles) * QUERIES);
    after_previous();
    let_next_start();
    running r;
    float out[8][D / 8];
    attend_whole(out, r, *(operands<D> *)shared, h, a.scale, tiles);
    store<D>(h, tiles.first, out, r);
}

template <int D, bool BIAS> static int run(const vt_cuda_attention *a, cudaStream_t stream)
{
    unsigned row_tiles = (unsigned)((a->tokens + QUERIES - 1) / QUERIES);
    int failed = allow_shared(f32_kernel<D, BIAS>, sizeof(operands<D>));
    if (failed)
        return failed;
    return launch(f32_kernel<D, BIAS>, row_tiles * (unsigned)a->images * (unsigned)a->group_heads,
                  THREADS, sizeof(operands<D>), stream, *a, row_tiles);
}

template <bool BIAS> static int choose(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->head_dim <= 32 ? run<32, BIAS>(a, stream) : run<64, BIAS>(a, stream);
}

extern "C" bool vt_cuda_attend_f32_serves(const vt_cuda_attention *a, int capability)
{
    return a->type == VT_F32 && a->head_dim <= 64 && capability >= 80;
}

extern "C" int vt_cuda_attend_f32(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->bias.table ? choose<true>(a, stream) : choose<false>(a, stream);
}
