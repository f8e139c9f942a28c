/* Fused attention on tensor cores for 16-bit types and tf32, compute capability 8.0 and later; what
 * a warp does with a tile of keys is in attention_mma.cuh.
 *
 * A block has 64 M query rows of a head, 16 M a warp; tiles of 64 keys and their values pass
 * through a ring of stages in shared memory. Under a mask the block first lists the tiles that its
 * rows touch, and visits no others. Heads up to 256 wide, in tf32 128; narrower ones are padded
 * with zeros in shared memory.
 *
 * Few tokens on compute capability 9.0 are attention_small.cu's.
 */
#include "kernels/cuda/attention_ring.cuh"
#include "kernels/cuda/attention_small.cuh"

static const int THREADS = 128;

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* ---- which tiles ---- */

/* Behind the stages, under a mask: which tiles to visit. */
struct tile_list {
    uint16_t *tile;
    int count;

    __device__ __forceinline__ int at(int i) const
    {
        return tile ? tile[i] : i;
    }
};

/* All threads: flag[t] = 1 where any of the rows from `first` on has a bit in tile t. */
template <int KEYS>
__device__ __forceinline__ void flag_tiles(uint8_t *flag, const vt_cuda_attention &a, int first,
                                           int rows)
{
    int columns = a.words / 4, last = min(rows, a.tokens - first) * columns;
    const uint4 *bits = (const uint4 *)(a.bits + (size_t)first * a.words);
#pragma unroll 4
    for (int i = threadIdx.x; i < last; i += THREADS) {
        uint4 w = bits[i];
        const uint32_t word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (word[j])
                flag[(i % columns * 128 + j * 32) / KEYS] = 1;
    }
}

/* The first warp: the flagged tiles in ascending order; returns how many. */
__device__ __forceinline__ int list_flagged(uint16_t *tile, const uint8_t *flag, int tiles)
{
    int lane = threadIdx.x % 32, count = 0;
    for (int t = lane; t - lane < tiles; t += 32) {
        bool on = t < tiles && flag[t];
        uint32_t all = __ballot_sync(0xffffffffu, on);
        if (on)
            tile[count + __popc(all & ((1u << lane) - 1))] = (uint16_t)t;
        count += __popc(all);
    }
    return count;
}

template <int KEYS>
__device__ __forceinline__ tile_list list_tiles(char *shared, const vt_cuda_attention &a, int first,
                                                int rows)
{
    __shared__ int count;
    int tiles = (a.tokens + KEYS - 1) / KEYS;
    uint16_t *tile = (uint16_t *)shared;
    uint8_t *flag = (uint8_t *)(tile + tiles);
    for (int t = threadIdx.x; t < tiles; t += THREADS)
        flag[t] = 0;
    __syncthreads();
    flag_tiles<KEYS>(flag, a, first, rows);
    __syncthreads();
    if (threadIdx.x < 32) {
        int n = list_flagged(tile, flag, tiles);
        if (threadIdx.x == 0)
            count = n;
    }
    __syncthreads();
    return {tile, count};
}

/* ---- the kernel ---- */

template <typename T, int D, int M, bool BIAS>
__global__ void __launch_bounds__(THREADS, D > 128 ? 1 : 2)
    ring_kernel(vt_cuda_attention a, unsigned row_tiles)
{
    typedef ring<T, D, M> R;
    extern __shared__ __align__(512) char shared[];
    int block_row = (int)(blockIdx.x % row_tiles) * R::ROWS;
    int row = block_row + (int)threadIdx.x / 32 * 16 * M;
    head_view<T> h = view_of<T>(a, blockIdx.x / row_tiles);
    unsigned head = blockIdx.x / row_tiles % (unsigned)a.group_heads;
    head = a.head ? a.head[head] : head;
    bias_view bias = {
        a.bias.table + head * a.bias.stride, a.bias.row, a.bias.col, a.tokens, row, 0};
    tile_list list = {NULL, (a.tokens + R::KEYS - 1) / R::KEYS};
    if (a.bits)
        list = list_tiles<R::KEYS>(shared + R::BYTES, a, block_row, R::ROWS);
    after_previous();
    let_next_start();
    for (int i = 0; i < R::STAGES - 1; i++) {
        if (i < list.count)
            R::copy(shared + i * R::STAGE, h, token_range{list.at(i) * R::KEYS, a.tokens});
        end_of_copies();
    }
    warp_state<T, D, M> st;
    lane_tokens<M> tokens;
    tokens.range(row, a.tokens);
    if (h.whole())
        load_queries<true>(st, h, tokens);
    else
        load_queries<false>(st, h, tokens);
    clear(st);
    for (int i = 0, stage = 0; i < list.count; i++) {
        row_words<M> on, later;
        int first = list.at(i) * R::KEYS;
        on.load(a, row, first);
        later.load(a, row, first + R::KEYS - 32);
        await_copies<R::STAGES - 2>();
        R::round(shared + stage * R::STAGE, h);
        __syncthreads();
        int next = i + R::STAGES - 1, free = stage ? stage - 1 : R::STAGES - 1;
        if (next < list.count)
            R::copy(shared + free * R::STAGE, h, token_range{list.at(next) * R::KEYS, a.tokens});
        end_of_copies();
        uint32_t keys = shared_address(shared) + stage * R::STAGE;
#pragma unroll 1 /* the code is large */
        for (int half = 0; half < R::KEYS / 32; half++) {
            bias.key = first + 32 * half;
            visit<BIAS>(st, keys, keys + R::HALF, on, a.scale * LOG2_E, bias);
            keys += 32 * rows_of<T, D>::BYTES;
            on = later;
        }
        stage = stage + 1 < R::STAGES ? stage + 1 : 0;
    }
    float weight[M][2];
    inverse_sums(weight, st);
    if (h.whole())
        store<true>(st, h, tokens, weight);
    else
        store<false>(st, h, tokens, weight);
}

template <typename T, int D, int M, bool BIAS = false>
static int run_ring(const vt_cuda_attention *a, cudaStream_t stream)
{
    typedef ring<T, D, M> R;
    auto kernel = ring_kernel<T, D, M, BIAS>;
    unsigned row_tiles = (unsigned)ceil_div(a->tokens, R::ROWS);
    size_t shared = R::BYTES + (a->bits ? (size_t)ceil_div(a->tokens, R::KEYS) * 3 : 0);
    int failed = allow_shared(kernel, shared);
    if (failed)
        return failed;
    return launch(kernel, row_tiles * (unsigned)a->images * (unsigned)a->group_heads, THREADS,
                  shared, stream, *a, row_tiles);
}

/* ---- choice ---- */

static int attribute(cudaDeviceAttr which)
{
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, which, device);
    return value;
}

/* Heads of 33 to 64, the usual ones. */
template <typename T> static int run_64(const vt_cuda_attention *a, cudaStream_t stream)
{
    int heads = a->images * a->group_heads;
    int processors = attribute(cudaDevAttrMultiProcessorCount);
    int capability = attribute(cudaDevAttrComputeCapabilityMajor) * 10 +
                     attribute(cudaDevAttrComputeCapabilityMinor);
    if (vt_cuda_attend_small_serves(a, capability))
        return vt_cuda_attend_small(a, stream);
    if (heads * ceil_div(a->tokens, 128) < 2 * processors)
        return run_ring<T, 64, 1>(a, stream);
    return run_ring<T, 64, 2>(a, stream);
}

template <typename T> static int run_biased(const vt_cuda_attention *a, cudaStream_t stream)
{
    int d = a->head_dim;
    return d <= 32    ? run_ring<T, 32, 1, true>(a, stream)
           : d <= 64  ? run_ring<T, 64, 1, true>(a, stream)
           : d <= 128 ? run_ring<T, 128, 1, true>(a, stream)
                      : run_ring<T, 256, 1, true>(a, stream);
}

template <typename T> static int run_any(const vt_cuda_attention *a, cudaStream_t stream)
{
    int d = a->head_dim;
    if (a->bias.table)
        return run_biased<T>(a, stream);
    return d <= 32    ? run_ring<T, 32, 2>(a, stream)
           : d <= 64  ? run_64<T>(a, stream)
           : d <= 80  ? run_ring<T, 80, 1>(a, stream)
           : d <= 96  ? run_ring<T, 96, 1>(a, stream)
           : d <= 128 ? run_ring<T, 128, 1>(a, stream)
                      : run_ring<T, 256, 1>(a, stream);
}

static int run_tf32(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->head_dim <= 32   ? run_ring<float, 32, 1>(a, stream)
           : a->head_dim <= 64 ? run_ring<float, 64, 1>(a, stream)
                               : run_ring<float, 128, 1>(a, stream);
}

extern "C" bool vt_cuda_attend_mma_serves(const vt_cuda_attention *a, int capability)
{
    int widest = a->type == VT_F32 ? a->tf32 ? 128 : 0 : 256;
    bool biased = a->bias.table && a->type == VT_F32; /* there is none for tf32 */
    return capability >= 80 && a->head_dim <= widest && a->scale > 0 && !biased;
}

extern "C" int vt_cuda_attend_mma(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->type == VT_F32   ? run_tf32(a, stream)
           : a->type == VT_F16 ? run_any<__half>(a, stream)
                               : run_any<__nv_bfloat16>(a, stream);
}
