/* Attention over the keys that groups of queries list (columns.h), gathered, with mma.sync: 16-bit
 * types and tf32, compute capability 8.0 and later, heads as wide as attention_mma.cu serves them.
 * attention_columns.cu does the same with what compute capability 9.0 has, for heads of 64.
 *
 * A block works on one item: some tiles of a group, for one head of one image; tiles pass through
 * attention_ring.cuh's ring, and attention_mma.cuh does the arithmetic. A group of 64 queries has 4
 * warps of 16; one of 128 has 4 warps of twice 16, or 8 where heads are too wide for that.
 *
 * attention_merge.cuh puts the items' results together.
 */
#include "kernels/cuda/attention_merge.cuh"
#include "kernels/cuda/attention_ring.cuh"

template <typename T_, int D_, int M_, int WARPS_> struct columns_config {
    typedef T_ T;
    static const int D = D_, M = M_, WARPS = WARPS_, HALVES = M * WARPS / 4; /* of 64 queries */
    typedef ring<T, D, M, WARPS> R;
    typedef warp_state<T, D, M> state;
};

/* A lane's rows of a group, and what they have come to: see attention_merge.cuh. */
template <typename C> struct columns_rows {
    static const int COUNT = 2 * C::M;
    const columns_place &at;
    lane_tokens<C::M> tokens;
    typename C::state st;

    __device__ __forceinline__ columns_rows(const columns_place &place) : at(place)
    {
        const int32_t *query = at.c.query + (size_t)at.item.group * C::HALVES * 64;
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            tokens.at[i / 2][i % 2] = query[row(i)];
    }

    __device__ __forceinline__ int half_of(int m) const
    {
        return C::M > 1 ? m : threadIdx.x / 128;
    }

    __device__ __forceinline__ int row(int i) const
    {
        int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        return half_of(i / 2) * 64 + warp * 16 + i % 2 * 8 + lane / 4;
    }

    __device__ __forceinline__ int token(int i) const
    {
        return tokens.at[i / 2][i % 2];
    }
    __device__ __forceinline__ float &top(int i)
    {
        return st.top[i / 2][i % 2];
    }
    __device__ __forceinline__ float &sum(int i)
    {
        return st.sum[i / 2][i % 2];
    }
    __device__ __forceinline__ bool leads() const
    {
        return threadIdx.x % 4 == 0;
    }

    template <typename Visit> __device__ __forceinline__ void each(int i, Visit visit)
    {
#pragma unroll
        for (int n = 0; n < C::D / 4; n++)
            visit(n / 2 * 8 + (int)threadIdx.x % 4 * 2 + n % 2,
                  st.out[i / 2][n / 2][i % 2 * 2 + n % 2]);
    }

    /* The words of tile `tile` of the item, of 64 keys. */
    __device__ __forceinline__ void load_words(uint32_t (&word)[C::M], int tile) const
    {
#pragma unroll
        for (int m = 0; m < C::M; m++) {
            uint32_t block = at.c.block[(size_t)(at.item.first + tile) * C::HALVES + half_of(m)];
            word[m] = block == VT_BLOCK_EMPTY  ? 0
                      : block == VT_BLOCK_FULL ? 0xffffffffu
                                               : at.c.bits[(size_t)block * 128 + threadIdx.x % 128];
        }
    }
};

/* ---- tiles ---- */

template <typename C>
__device__ __forceinline__ void all_tiles(columns_rows<C> &rows, const head_view<typename C::T> &h,
                                          char *shared, float to_log2)
{
    const columns_place &at = rows.at;
    typedef typename C::R R;
    const int SHARE = 64 / R::KEYS; /* of a layout's tile is a tile of the ring */
    const int32_t *key = at.c.key + (size_t)at.item.first * 64;
    int count = at.item.tiles * SHARE;
    for (int i = 0, stage = 0; i < count; i++) {
        uint32_t word[C::M];
        rows.load_words(word, i / SHARE);
        await_copies<R::STAGES - 2>();
        R::round(shared + stage * R::STAGE, h);
        __syncthreads();
        int next = i + R::STAGES - 1, free = stage ? stage - 1 : R::STAGES - 1;
        if (next < count)
            R::copy(shared + free * R::STAGE, h, token_list{key + next * R::KEYS, R::KEYS});
        end_of_copies();
        uint32_t keys = shared_address(shared) + stage * R::STAGE;
#pragma unroll 1 /* the code is large */
        for (int part = 0; part < R::KEYS / 32; part++) {
            lane_words<C::M> on;
#pragma unroll
            for (int m = 0; m < C::M; m++)
                on.on[m] = word[m] >> 16 * (i % SHARE + part) & 0xffff;
            visit<false>(rows.st, keys, keys + R::HALF, on, to_log2, bias_view{});
            keys += 32 * rows_of<typename C::T, C::D>::BYTES;
        }
        stage = stage + 1 < R::STAGES ? stage + 1 : 0;
    }
}

/* ---- the kernel ---- */

template <typename C>
__device__ __forceinline__ void finish(columns_rows<C> &rows, const head_view<typename C::T> &h)
{
    float ones[C::M][2];
#pragma unroll
    for (int i = 0; i < rows.COUNT; i++) {
        rows.sum(i) = whole_sum(rows.sum(i));
        ones[i / 2][i % 2] = 1;
    }
    if (!put_together(rows, rows.at, h.out, h.width, h.tokens, h.dim))
        return;
    if (h.whole())
        store<true>(rows.st, h, rows.tokens, ones);
    else
        store<false>(rows.st, h, rows.tokens, ones);
}

template <typename C>
__global__ void __launch_bounds__(C::R::THREADS, C::D > 128 || C::WARPS > 4 ? 1 : 2)
    columns_kernel(vt_cuda_attention a, columns_phase p)
{
    typedef typename C::R R;
    extern __shared__ __align__(512) char shared[];
    columns_place at(p);
    head_view<typename C::T> h = view_of<typename C::T>(a, (unsigned)at.pair);
    const int32_t *key = p.c.key + (size_t)at.item.first * 64;
    after_previous();
    let_next_start();
    for (int i = 0; i < R::STAGES - 1; i++) {
        if (i < at.item.tiles * 64 / R::KEYS)
            R::copy(shared + i * R::STAGE, h, token_list{key + i * R::KEYS, R::KEYS});
        end_of_copies();
    }
    columns_rows<C> rows(at);
    if (h.whole())
        load_queries<true>(rows.st, h, rows.tokens);
    else
        load_queries<false>(rows.st, h, rows.tokens);
    clear(rows.st);
    all_tiles(rows, h, shared, a.scale * LOG2_E);
    finish(rows, h);
}

/* ---- choice ---- */

template <typename C>
static int run(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    return launch_phases(columns_kernel<C>, C::R::THREADS, C::R::BYTES, a, c, stream);
}

template <typename T, int D>
static int run_width(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    const bool NARROW = D * sizeof(T) <= 128; /* twice 16 rows fit into a warp's registers */
    return c->rows == 64 ? run<columns_config<T, D, 1, 4>>(a, c, stream)
                         : run<columns_config<T, D, NARROW ? 2 : 1, NARROW ? 4 : 8>>(a, c, stream);
}

template <typename T>
static int run_type(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    return a->head_dim <= 32    ? run_width<T, 32>(a, c, stream)
           : a->head_dim <= 64  ? run_width<T, 64>(a, c, stream)
           : a->head_dim <= 128 ? run_width<T, 128>(a, c, stream)
                                : run_width<T, 256>(a, c, stream);
}

static int run_tf32(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    return a->head_dim <= 32   ? run_width<float, 32>(a, c, stream)
           : a->head_dim <= 64 ? run_width<float, 64>(a, c, stream)
                               : run_width<float, 128>(a, c, stream);
}

extern "C" bool vt_cuda_attend_columns_mma_serves(const vt_cuda_attention *a, int capability)
{
    return vt_cuda_attend_mma_serves(a, capability) && !a->bias.table;
}

extern "C" int vt_cuda_attend_columns_mma(const vt_cuda_attention *a, const vt_cuda_columns *c,
                                          cudaStream_t stream)
{
    return a->type == VT_F32   ? run_tf32(a, c, stream)
           : a->type == VT_F16 ? run_type<__half>(a, c, stream)
                               : run_type<__nv_bfloat16>(a, c, stream);
}
