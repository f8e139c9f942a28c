/* Fused attention on tensor cores for 16-bit types and tf32, compute capability 8.0 and later; what a
 * warp does with a tile of keys is in attention_mma.cuh. Three ways to bring keys to warps:
 *
 *   ring      any number of tokens. A block has 64 M query rows, 16 M a warp; tiles of 64 keys
 *             pass through a ring of stages in shared memory. Under a mask it first lists the tiles
 *             that its rows touch, and visits no others.
 *   resident  few tokens. A block has a whole head's keys and values in shared memory, or several
 *             blocks share its rows; each warp goes through its rows by itself. Several blocks run
 *             on a multiprocessor, so one loads while others compute.
 *   split     few tokens of few heads, where what counts is how long one block takes. A block has
 *             16 rows; its warps share the keys, and their results are merged at the end.
 *
 * The last two are for 16-bit types. Heads up to 256 wide, in tf32 128; narrower ones are padded with zeros in shared memory.
 */
#include "kernels/cuda/attention_mma.cuh"

static const int WARPS = 4, THREADS = 32 * WARPS;
static const float LOG2_E = 1.44269504f;

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* ---- ring ---- */

template <typename T, int D, int M> struct ring {
    static const int ROWS = 16 * M * WARPS, KEYS = D * sizeof(T) > 256 ? 32 : 64,
                     STAGES = D * sizeof(T) > 256 ? 2 : 3,
                     HALF = KEYS * rows_of<T, D>::BYTES, /* keys, then as many values */
        BYTES = STAGES * 2 * HALF;
};

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

/* The keys and values of a tile, as one group of copies. */
template <typename T, int D, int KEYS>
__device__ __forceinline__ void copy_tile(char *to, const head_view<T> &h, int tile)
{
    const int HALF = KEYS * rows_of<T, D>::BYTES;
    if (!h.whole()) {
        copy_rows_slowly<D, THREADS>(to, h.k(), h, tile * KEYS, KEYS, threadIdx.x);
        copy_rows_slowly<D, THREADS>(to + HALF, h.v(), h, tile * KEYS, KEYS, threadIdx.x);
    } else {
        uint32_t at = shared_address(to);
        copy_rows<D, THREADS>(at, h.k(), h, tile * KEYS, KEYS, threadIdx.x);
        copy_rows<D, THREADS>(at + HALF, h.v(), h, tile * KEYS, KEYS, threadIdx.x);
    }
}

/* Of a tile that has arrived, this thread's part. */
template <typename T, int D, int KEYS>
__device__ __forceinline__ void round_tile(char *tile, const head_view<T> &h)
{
    if constexpr (sizeof(T) == 4)
        if (h.whole()) {
            round_rows<D, THREADS>(tile, KEYS, threadIdx.x);
            round_rows<D, THREADS>(tile + KEYS * rows_of<T, D>::BYTES, KEYS, threadIdx.x);
        }
}

template <typename T, int D, int M, bool MASKED>
__global__ void __launch_bounds__(THREADS, D > 128 ? 1 : 2)
    ring_kernel(vt_cuda_attention a, unsigned row_tiles)
{
    typedef ring<T, D, M> R;
    const int WORDS = R::KEYS / 32;
    extern __shared__ __align__(512) char shared[];
    int block_row = (int)(blockIdx.x % row_tiles) * R::ROWS;
    int row = block_row + (int)threadIdx.x / 32 * 16 * M;
    head_view<T> h = view_of<T>(a, blockIdx.x / row_tiles);
    tile_list list = {NULL, (a.tokens + R::KEYS - 1) / R::KEYS};
    if (MASKED)
        list = list_tiles<R::KEYS>(shared + R::BYTES, a, block_row, R::ROWS);
    after_previous();
    let_next_start();
    for (int i = 0; i < R::STAGES - 1; i++) {
        if (i < list.count)
            copy_tile<T, D, R::KEYS>(shared + i * 2 * R::HALF, h, list.at(i));
        end_of_copies();
    }
    warp_state<T, D, M> st;
    if (h.whole())
        load_queries<true>(st, h, row);
    else
        load_queries<false>(st, h, row);
    clear(st);
    for (int i = 0, stage = 0; i < list.count; i++) {
        uint32_t on[WORDS][M][2];
        int first = list.at(i) * R::KEYS;
#pragma unroll
        for (int w = 0; w < WORDS; w++)
            if (MASKED)
                load_words<M>(on[w], a, row, first / 32 + w);
            else
                all_words<M>(on[w], a.tokens - first - 32 * w);
        await_copies<R::STAGES - 2>();
        round_tile<T, D, R::KEYS>(shared + stage * 2 * R::HALF, h);
        __syncthreads();
        int next = i + R::STAGES - 1, free = stage ? stage - 1 : R::STAGES - 1;
        if (next < list.count)
            copy_tile<T, D, R::KEYS>(shared + free * 2 * R::HALF, h, list.at(next));
        end_of_copies();
        uint32_t keys = shared_address(shared) + stage * 2 * R::HALF;
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            int left = a.tokens - first - 32 * w;
            if (left > 0)
                visit<T, D, M, MASKED>(st, keys + w * 32 * rows_of<T, D>::BYTES,
                                       keys + w * 32 * rows_of<T, D>::BYTES + R::HALF, on[w], left,
                                       a.scale * LOG2_E);
        }
        stage = stage + 1 < R::STAGES ? stage + 1 : 0;
    }
    if (h.whole())
        store<true>(st, h, row);
    else
        store<false>(st, h, row);
}

template <typename T, int D, int M>
static int run_ring(const vt_cuda_attention *a, cudaStream_t stream)
{
    typedef ring<T, D, M> R;
    auto kernel = a->bits ? ring_kernel<T, D, M, true> : ring_kernel<T, D, M, false>;
    unsigned row_tiles = (unsigned)ceil_div(a->tokens, R::ROWS);
    size_t shared = R::BYTES + (a->bits ? (size_t)ceil_div(a->tokens, R::KEYS) * 3 : 0);
    int failed = allow_shared(kernel, shared);
    if (failed)
        return failed;
    return launch(kernel, row_tiles * (unsigned)a->images * (unsigned)a->group_heads, THREADS,
                  shared, stream, *a, row_tiles);
}

/* ---- resident ---- */

/* Barriers on which copies report: phase 0 ends when all threads' copies have arrived. */
__device__ __forceinline__ void expect_copies(uint32_t barrier, int threads)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void report_copies(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void await_reports(uint32_t barrier)
{
    uint32_t done = 0;
    for (int spins = 0; !done; spins++) {
        asm volatile("{\n .reg .pred p;\n"
                     " mbarrier.test_wait.parity.shared.b64 p, [%1], 0;\n"
                     " selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier)
                     : "memory");
#ifdef VT_CUDA_DEBUG
        if (spins > 100000000)
            __trap();
#endif
    }
}

static const int MOST_RESIDENT = 512; /* tokens */

/* All keys, then all values, as shared memory addresses; the barrier of each 64 keys. */
struct resident {
    uint32_t keys, values, barriers;
};

template <typename T, int D, int M, bool MASKED>
__device__ __forceinline__ void attend_resident(const vt_cuda_attention &a, const head_view<T> &h,
                                                const resident &r, int row)
{
    warp_state<T, D, M> st;
    uint32_t on[M][2], next[M][2];
    load_queries<true>(st, h, row);
    clear(st);
    if (MASKED)
        load_words<M>(next, a, row, 0);
    for (int key = 0; key < a.tokens; key += 32) {
        if (key % 64 == 0)
            await_reports(r.barriers + key / 64 * 8);
        if (MASKED) {
#pragma unroll
            for (int i = 0; i < 2 * M; i++)
                on[i / 2][i % 2] = next[i / 2][i % 2];
            if (key + 32 < a.tokens)
                load_words<M>(next, a, row, key / 32 + 1);
        } else {
            all_words<M>(on, a.tokens - key);
        }
        uint32_t at = key * rows_of<T, D>::BYTES;
        visit<T, D, M, MASKED>(st, r.keys + at, r.values + at, on, a.tokens - key,
                               a.scale * LOG2_E);
    }
    store<true>(st, h, row);
}

/* `parts` blocks share a head. Rows are dealt out in groups of 16, as evenly as they come; which of
 * its warps gets more rotates from one wave of blocks to the next, as each of a multiprocessor's
 * four schedulers has one warp of each block. */
template <typename T, int D, bool MASKED>
__global__ void __launch_bounds__(THREADS, 3)
    resident_kernel(vt_cuda_attention a, unsigned parts, unsigned blocks_in_wave)
{
    extern __shared__ __align__(512) char shared[];
    __shared__ uint64_t barrier[MOST_RESIDENT / 64];
    head_view<T> h = view_of<T>(a, blockIdx.x / parts);
    int warp = (int)((threadIdx.x / 32 + blockIdx.x / blocks_in_wave) % WARPS);
    int worker = (int)(blockIdx.x % parts) * WARPS + warp, workers = (int)parts * WARPS;
    int tiles = (a.tokens + 63) / 64, groups = (a.tokens + 15) / 16;
    resident r = {shared_address(shared), 0, shared_address(barrier)};
    r.values = r.keys + groups * 16 * rows_of<T, D>::BYTES;
    if ((int)threadIdx.x < tiles)
        expect_copies(r.barriers + threadIdx.x * 8, THREADS);
    __syncthreads();
    after_previous();
    let_next_start();
    for (int t = 0; t < tiles; t++) {
        int first = t * 64, rows = min(64, groups * 16 - first);
        uint32_t at = first * rows_of<T, D>::BYTES;
        copy_rows<D, THREADS>(r.keys + at, h.k(), h, first, rows, threadIdx.x);
        copy_rows<D, THREADS>(r.values + at, h.v(), h, first, rows, threadIdx.x);
        report_copies(r.barriers + t * 8);
    }
    int group = worker * groups / workers, last = (worker + 1) * groups / workers;
    for (; group + 1 < last; group += 2)
        attend_resident<T, D, 2, MASKED>(a, h, r, group * 16);
    if (group < last)
        attend_resident<T, D, 1, MASKED>(a, h, r, group * 16);
    await_copies<0>();
}

template <typename T, int D>
static int run_resident(const vt_cuda_attention *a, int parts, int multiprocessors,
                        cudaStream_t stream)
{
    auto kernel = a->bits ? resident_kernel<T, D, true> : resident_kernel<T, D, false>;
    size_t shared = (size_t)ceil_div(a->tokens, 16) * 16 * 2 * rows_of<T, D>::BYTES;
    int failed = allow_shared(kernel, shared);
    if (failed)
        return failed;
    return launch(kernel, (unsigned)(a->images * a->group_heads * parts), THREADS, shared, stream,
                  *a, (unsigned)parts, (unsigned)multiprocessors);
}

/* ---- split ---- */

/* A warp's share of a block's result: 16 rows of D sums, their tops and weights. */
template <int D> struct partial {
    float out[16][D + 8]; /* + 8: a warp's stores lie in different banks */
    float top[16], sum[16];
};

template <typename T, int D>
__device__ __forceinline__ void put_partial(partial<D> &to, const warp_state<T, D, 1> &st)
{
    int lane = threadIdx.x % 32, pair = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half;
        float sum = whole_sum(st.sum[0][half]);
        to.top[row] = st.top[0][half];
        to.sum[row] = sum;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(float2 *)&to.out[row][8 * n + 2 * pair] =
                make_float2(st.out[0][n][half * 2], st.out[0][n][half * 2 + 1]);
    }
}

/* Eight columns of a row: the shares, each brought to the greatest top, over the sum of sums. */
template <typename T, int D, int SHARES>
__device__ __forceinline__ uint4 merge(const partial<D> *from, int row, int col)
{
    float top = NO_SCORE_YET, sum = 0, out[8] = {};
#pragma unroll
    for (int s = 0; s < SHARES; s++)
        top = fmaxf(top, from[s].top[row]);
#pragma unroll
    for (int s = 0; s < SHARES; s++) {
        float w = power_of_2(from[s].top[row] - top);
        sum += w * from[s].sum[row];
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] += w * from[s].out[row][col + i];
    }
    float w = inverse(sum);
    return make_uint4(pack2<T>(out[0] * w, out[1] * w), pack2<T>(out[2] * w, out[3] * w),
                      pack2<T>(out[4] * w, out[5] * w), pack2<T>(out[6] * w, out[7] * w));
}

template <typename T, int D, int SHARES, bool MASKED>
__global__ void __launch_bounds__(32 * SHARES) split_kernel(vt_cuda_attention a, unsigned groups)
{
    extern __shared__ __align__(512) char shared[];
    partial<D> *share = (partial<D> *)shared;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int row = (int)(blockIdx.x % groups) * 16;
    head_view<T> h = view_of<T>(a, blockIdx.x / groups);
    int first = warp * (int)groups / SHARES * 16, last = (warp + 1) * (int)groups / SHARES * 16;
    uint32_t keys = shared_address(share + SHARES) + first * 2 * rows_of<T, D>::BYTES;
    uint32_t values = keys + (last - first) * rows_of<T, D>::BYTES, on[1][2];
    after_previous();
    let_next_start();
    copy_rows<D, 32>(keys, h.k(), h, first, last - first, lane);
    copy_rows<D, 32>(values, h.v(), h, first, last - first, lane);
    end_of_copies();
    warp_state<T, D, 1> st;
    load_queries<true>(st, h, row);
    clear(st);
    await_copies<0>();
    __syncwarp();
    for (int key = first; key < last; key += 32) {
        int left = min(last, a.tokens) - key;
        uint32_t at = (key - first) * rows_of<T, D>::BYTES;
        if (MASKED)
            load_halves<1>(on, a, row, key, left);
        else
            all_words<1>(on, left);
        visit<T, D, 1, MASKED>(st, keys + at, values + at, on, left, a.scale * LOG2_E);
    }
    put_partial(share[warp], st);
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * (D / 8); i += 32 * SHARES) {
        int r = i / (D / 8), col = i % (D / 8) * 8;
        uint4 merged = merge<T, D, SHARES>(share, r, col);
        if (row + r < a.tokens && col < a.head_dim)
            *(uint4 *)(h.out + (size_t)(row + r) * h.width + col) = merged;
    }
}

template <typename T, int D, int SHARES>
static int run_split(const vt_cuda_attention *a, cudaStream_t stream)
{
    auto kernel = a->bits ? split_kernel<T, D, SHARES, true> : split_kernel<T, D, SHARES, false>;
    int groups = ceil_div(a->tokens, 16);
    size_t shared = sizeof(partial<D>) * SHARES + (size_t)groups * 16 * 2 * rows_of<T, D>::BYTES;
    int failed = allow_shared(kernel, shared);
    if (failed)
        return failed;
    return launch(kernel, (unsigned)(a->images * a->group_heads * groups), 32 * SHARES, shared,
                  stream, *a, (unsigned)groups);
}

/* ---- choice ---- */

static int count_multiprocessors(void)
{
    int device = 0, count = 132;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}

/* Heads of 40 to 64, the usual ones. */
template <typename T> static int run_64(const vt_cuda_attention *a, cudaStream_t stream)
{
    int n = a->tokens, heads = a->images * a->group_heads, processors = count_multiprocessors();
    if (n <= 272 && heads * ceil_div(n, 16) <= 2 * processors)
        return run_split<T, 64, 4>(a, stream);
    if (n <= 288) {
        int parts = 1, most = ceil_div(n, 64);
        while (parts < most && heads * (parts + 1) <= 3 * processors)
            parts++;
        return run_resident<T, 64>(a, parts, processors, stream);
    }
    if (heads * ceil_div(n, 128) < 2 * processors)
        return run_ring<T, 64, 1>(a, stream);
    return run_ring<T, 64, 2>(a, stream);
}

template <typename T> static int run_any(const vt_cuda_attention *a, cudaStream_t stream)
{
    int d = a->head_dim;
    return d <= 32                 ? run_ring<T, 32, 2>(a, stream)
           : d <= 64 && d % 8 == 0 ? run_64<T>(a, stream)
           : d <= 64               ? run_ring<T, 64, 2>(a, stream)
           : d <= 80               ? run_ring<T, 80, 1>(a, stream)
           : d <= 96               ? run_ring<T, 96, 1>(a, stream)
           : d <= 128              ? run_ring<T, 128, 1>(a, stream)
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
    return capability >= 80 && a->head_dim <= widest && a->scale > 0;
}

extern "C" int vt_cuda_attend_mma(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->type == VT_F32   ? run_tf32(a, stream)
           : a->type == VT_F16 ? run_any<__half>(a, stream)
                               : run_any<__nv_bfloat16>(a, stream);
}
