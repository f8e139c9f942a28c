/* Attention over the keys that groups of queries list (columns.h), gathered, in fp32: heads of at
 * most 64. attention_f32.cuh does the arithmetic, attention_merge.cuh puts the items' results
 * together. A block works on one item and has room for 128 queries: groups of 64 use half of it.
 */
#include "kernels/cuda/attention_f32.cuh"
#include "kernels/cuda/attention_merge.cuh"

struct column_tiles {
    const columns_place &at;
    int tile;

    __device__ __forceinline__ bool here() const
    {
        return tile < at.item.tiles;
    }
    __device__ __forceinline__ void next()
    {
        tile++;
    }
    __device__ __forceinline__ token_list queries() const
    {
        return {at.c.query + (size_t)at.item.group * at.c.rows, at.c.rows};
    }
    __device__ __forceinline__ token_list keys() const
    {
        return {at.c.key + (size_t)(at.item.first + tile) * KEYS, KEYS};
    }

    __device__ __forceinline__ void add_bias(float (&)[8][8]) const /* there is none */
    {
    }

    /* From the order of columns.h: a row's two words have this thread's first and second pair of
     * keys, and those 32 further. */
    __device__ __forceinline__ uint32_t on(int row) const
    {
        int halves = at.c.rows / 64, x = threadIdx.x % 8;
        if (row >= at.c.rows)
            return 0;
        uint32_t block = at.c.block[(size_t)(at.item.first + tile) * halves + row / 64];
        if (block >= VT_BLOCK_EMPTY)
            return block == VT_BLOCK_FULL ? 0xff : 0;
        const uint32_t *words =
            at.c.bits + (size_t)block * 128 + row % 64 / 16 * 32 + row % 8 * 4 + x % 2 * 2;
        uint2 two = *reinterpret_cast<const uint2 *>(words);
        int shift = x / 2 * 4 + row % 16 / 8 * 2;
        uint32_t first = two.x >> shift, second = two.y >> shift;
        return (first & 3) | (second & 3) << 2 | (first >> 16 & 3) << 4 | (second >> 16 & 3) << 6;
    }
};

/* A thread's rows: see attention_merge.cuh. */
template <int D> struct f32_rows {
    static const int COUNT = 8;
    const column_tiles &tiles;
    running r;
    float out[8][D / 8];

    __device__ __forceinline__ int row(int i) const
    {
        return row_of(i);
    }
    __device__ __forceinline__ int token(int i) const
    {
        token_list queries = tiles.queries();
        return queries.real(row_of(i)) ? queries.at(row_of(i)) : -1;
    }
    __device__ __forceinline__ float &top(int i)
    {
        return r.max[i];
    }
    __device__ __forceinline__ float &sum(int i)
    {
        return r.sum[i];
    }
    __device__ __forceinline__ bool leads() const
    {
        return threadIdx.x % 8 == 0;
    }

    template <typename Visit> __device__ __forceinline__ void each(int i, Visit visit)
    {
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            visit(n / 4 * 32 + (int)threadIdx.x % 8 * 4 + n % 4, out[i][n]);
    }
};

template <int D>
__global__ void __launch_bounds__(THREADS, 2)
    columns_f32_kernel(vt_cuda_attention a, columns_phase p)
{
    extern __shared__ __align__(128) char shared[];
    columns_place at(p);
    head_view h = view_of(a, (unsigned)at.pair);
    column_tiles tiles = {at, 0};
    f32_rows<D> rows = {tiles, {}, {}};
    after_previous();
    let_next_start();
    attend_whole(rows.out, rows.r, *(operands<D> *)shared, h, a.scale, tiles);
#pragma unroll
    for (int i = 0; i < rows.COUNT; i++)
        rows.r.max[i] *= LOG2_E;
    if (!put_together(rows, at, h.out, h.width, h.tokens, h.dim))
        return;
#pragma unroll
    for (int i = 0; i < rows.COUNT; i++) {
        int token = rows.token(i);
        float *to = h.out + (size_t)max(token, 0) * h.width;
        rows.each(i, [&](int col, float &out) {
            if (token >= 0 && col < h.dim)
                to[col] = out;
        });
    }
}

template <int D>
static int run(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    return launch_phases(columns_f32_kernel<D>, THREADS, sizeof(operands<D>), a, c, stream);
}

extern "C" bool vt_cuda_attend_columns_f32_serves(const vt_cuda_attention *a, int capability)
{
    (void)capability;
    return a->type == VT_F32 && a->head_dim <= 64 && a->scale > 0 && !a->bias.table;
}

extern "C" int vt_cuda_attend_columns_f32(const vt_cuda_attention *a, const vt_cuda_columns *c,
                                          cudaStream_t stream)
{
    return a->head_dim <= 32 ? run<32>(a, c, stream) : run<64>(a, c, stream);
}
