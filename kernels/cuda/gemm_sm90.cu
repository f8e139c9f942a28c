/* y [m, n] = act(a [m, k] w [n, k]^T + bias), or y += a w^T + bias, on compute capability 9.0.
 *
 * Slices of 64 elements of k come by bulk tensor copies into a ring of shared memory, started by one
 * thread; warpgroups multiply them with wgmma. What lies outside a matrix arrives as zeros and is
 * not stored. Blocks of a cluster that need the same slice fetch a part each and send it to all.
 *
 * gemm_persistent, for many rows: one block per multiprocessor; two warpgroups take turns, each with
 * a tile of its own, so that one finishes its tile while the other multiplies. Tiles are 128 rows
 * high; the last ones 64, where that spreads the work better over the multiprocessors.
 *
 * gemm_split, for few rows: a tile of 64 rows per block; SPLIT blocks of a cluster share k, then
 * exchange sums: each finishes part of the columns, adding in a fixed order.
 *
 * Weights do not change: their first slices are fetched before the kernel ahead has finished.
 * The results of one variant are the same bits each time. It does not choose between variants.
 */
#include "kernels/cuda/gemm_epilogue.cuh"

#include <algorithm>

namespace
{

constexpr int SLICE = 64;           /* elements of k */
constexpr int ROW = SLICE * 2;      /* their bytes */
constexpr int HALF = 64;            /* rows of one wgmma */
constexpr int GROUP = 128;          /* threads of a warpgroup */
constexpr int SHARED_MOST = 232448; /* bytes a block may have */

/* ---- what both kernels do with slices ---- */

/* BLOCKS_M blocks of a cluster lie below each other and share w, BLOCKS_N beside and share a. */
template <int ROWS_, int COLS_, int STAGES_, int BLOCKS_M_, int BLOCKS_N_> struct tiling {
    static constexpr int ROWS = ROWS_, COLS = COLS_, STAGES = STAGES_;
    static constexpr int BLOCKS_M = BLOCKS_M_, BLOCKS_N = BLOCKS_N_, PEERS = BLOCKS_M * BLOCKS_N;
    static constexpr int A_BYTES = ROWS * ROW, W_BYTES = COLS * ROW, STAGE = A_BYTES + W_BYTES;
    static constexpr int A_BOX = HALF / BLOCKS_N, W_BOX = COLS / BLOCKS_M; /* rows of a copy */
    static_assert(A_BOX % 8 == 0 && W_BOX % 8 == 0, "whole swizzle atoms");
};

struct copies { /* kernel parameters */
    CUtensorMap a, w;
};

#if VT_SM90A

/* A ring of stages: `full` counts what arrived, `empty` who has read it. */
template <class S> struct ring {
    uint32_t stages, full, empty; /* offsets in shared memory */
    uint32_t peer, first_peer;    /* this block among those that share slices; rank of the first */

    __device__ ring(unsigned char *memory, uint32_t *barriers, uint32_t rank)
        : stages(shared_offset(memory)), full(shared_offset(barriers)), empty(full + 8 * S::STAGES),
          peer(rank % S::PEERS), first_peer(rank - peer)
    {
    }
    __device__ void init() const
    {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 4 * S::PEERS); /* each warp of each reader */
        }
        barrier_init_done();
    }
    __device__ uint32_t a(int stage) const
    {
        return stages + stage * S::STAGE;
    }
    __device__ uint32_t w(int stage) const
    {
        return a(stage) + S::A_BYTES;
    }
    __device__ void expect(int stage, int rows) const
    {
        barrier_expect(full + 8 * stage, rows * ROW + S::W_BYTES);
    }
    /* The part of w's slice that this block fetches, for the blocks above and below too. */
    __device__ void copy_w(int stage, const CUtensorMap *map, int k, int col) const
    {
        if constexpr (S::BLOCKS_M == 1) {
            copy_box(w(stage), map, k, col, full + 8 * stage);
        } else {
            uint32_t part = peer % S::BLOCKS_M, mask = (1u << S::BLOCKS_M) - 1;
            copy_box_to(w(stage) + part * S::W_BOX * ROW, map, k, col + part * S::W_BOX,
                        full + 8 * stage, (uint16_t)(mask << (first_peer + peer - part)));
        }
    }
    /* The part of a's slice that this block fetches, for the blocks beside too. */
    __device__ void copy_a(int stage, const CUtensorMap *map, int k, int row, int rows) const
    {
        for (int r = 0; r < rows; r += HALF) {
            if constexpr (S::BLOCKS_N == 1) {
                copy_box(a(stage) + r * ROW, map, k, row + r, full + 8 * stage);
            } else {
                uint32_t part = peer / S::BLOCKS_M, mask = 0;
                for (int i = 0; i < S::BLOCKS_N; i++)
                    mask |= 1u << i * S::BLOCKS_M;
                copy_box_to(a(stage) + (r + part * S::A_BOX) * ROW, map, k,
                            row + r + part * S::A_BOX, full + 8 * stage,
                            (uint16_t)(mask << (first_peer + peer % S::BLOCKS_M)));
            }
        }
    }
    /* A warp has read the stage: tells all who write to it. */
    __device__ void release(int stage) const
    {
        uint32_t lane = threadIdx.x % 32;
        if (lane < S::PEERS)
            barrier_arrive_at(empty + 8 * stage, first_peer + lane);
    }
};

struct position { /* in the ring, of step number `step` */
    int stage;
    uint32_t parity;
};

template <class S> __device__ __forceinline__ position position_of(uint32_t step)
{
    return {(int)(step % S::STAGES), step / S::STAGES & 1};
}

template <class S> __device__ __forceinline__ void advance(position &p)
{
    if (++p.stage == S::STAGES)
        p = {0, p.parity ^ 1};
}

/* acc = the next `steps` >= 1 slices' products, HALVES times 64 rows. Once all products are under way, arrives
 * at the named barrier `then` if that is not 0. */
template <class T, class S, int HALVES, int ACC>
__device__ __forceinline__ void multiply(float (&acc)[ACC][S::COLS / 2], const ring<S> &r,
                                         position p, int steps, int then)
{
    static_assert(HALVES <= ACC, "");
    int before = -1; /* the stage before, which may still be read */
    do {
        barrier_wait(r.full + 8 * p.stage, p.parity);
        uint32_t a = slice(r.a(p.stage)), w = slice(r.w(p.stage));
        products_begin();
#pragma unroll
        for (int k = 0; k < SLICE / 16; k++)
#pragma unroll
            for (int h = 0; h < HALVES; h++)
                product<T, S::COLS>::add(acc[h], a + h * (HALF * ROW >> 4) + 2 * k, w + 2 * k,
                                         k > 0 || before >= 0);
        products_commit();
        products_wait<1>();
        if (before >= 0)
            r.release(before);
        before = p.stage;
        advance<S>(p);
    } while (--steps > 0);
    if (then)
        named_arrive(then, 2 * GROUP);
    products_wait<0>();
    r.release(before);
}

#endif

/* ---- many rows ---- */

/* Tiles of all the cluster: first `tall` ones of 128 rows a block, then ones of 64 from row `below`;
 * `across` of them fill the columns. */
struct schedule {
    int k, across, tall, below, tiles;
};

template <class S> struct persistent {
    static constexpr int PIECE = 64, PIECES = S::COLS / PIECE; /* columns of a slab */
    static constexpr int SLAB = 16 * slab_of<PIECE>::ROW_BYTES, SLABS = 8 * SLAB;
    static constexpr int SHARED = 1024 + S::STAGES * S::STAGE + SLABS + 16 * S::STAGES;
    static constexpr int THREADS = 3 * GROUP, COPIER = 24, WORKER = 240; /* registers of a thread */
    static_assert(SHARED <= SHARED_MOST && S::ROWS == 2 * HALF, "");
};

#if VT_SM90A

struct place {
    int row, col, rows;
};

template <class S> __device__ __forceinline__ place place_of(const schedule &s, int tile, int peer)
{
    bool tall = tile < s.tall;
    int i = tall ? tile : tile - s.tall, rows = tall ? S::ROWS : HALF;
    return {(tall ? 0 : s.below) + (i / s.across * S::BLOCKS_M + peer % S::BLOCKS_M) * rows,
            (i % s.across * S::BLOCKS_N + peer / S::BLOCKS_M) * S::COLS, rows};
}

template <class S>
__device__ void copy_tiles(const copies &c, const schedule &s, const ring<S> &r, int first,
                           int next)
{
    int steps = (s.k + SLICE - 1) / SLICE, ahead = min(steps, S::STAGES);
    place at = place_of<S>(s, first, r.peer);
    for (int i = 0; i < ahead; i++) {
        r.expect(i, at.rows);
        r.copy_w(i, &c.w, i * SLICE, at.col);
    }
    after_previous();
    for (int i = 0; i < ahead; i++)
        r.copy_a(i, &c.a, i * SLICE, at.row, at.rows);
    position p = position_of<S>(ahead);
    for (int tile = first, i = ahead; tile < s.tiles; tile += next, i = 0) {
        at = place_of<S>(s, tile, r.peer);
        for (; i < steps; i++, advance<S>(p)) {
            barrier_wait(r.empty + 8 * p.stage, p.parity ^ 1);
            r.expect(p.stage, at.rows);
            r.copy_w(p.stage, &c.w, i * SLICE, at.col);
            r.copy_a(p.stage, &c.a, i * SLICE, at.row, at.rows);
        }
    }
}

/* A warp's rows of a tile, piece by piece through its slab. */
template <class T, class S>
__device__ __forceinline__ void finish_tile(const output &o, const float (&acc)[2][S::COLS / 2],
                                            const place &at, float *slab)
{
    using traits = persistent<S>;
    constexpr int SUMS = traits::PIECE / 2;
    int row = at.row + threadIdx.x % GROUP / 32 * 16;
#ifdef VT_ROLLED
#pragma unroll 1
    for (int piece = 0; piece < at.rows / HALF * traits::PIECES; piece++) {
#pragma unroll
        for (int i = 0; i < 2 * traits::PIECES; i++)
            if (i == piece)
                put_sums<traits::PIECE>(&acc[i / traits::PIECES][i % traits::PIECES * SUMS],
                                        shared_offset(slab), shared_store);
#else
#pragma unroll
    for (int piece = 0; piece < 2 * traits::PIECES; piece++) {
        if (piece / traits::PIECES * HALF >= at.rows)
            break;
        put_sums<traits::PIECE>(&acc[piece / traits::PIECES][piece % traits::PIECES * SUMS],
                                        shared_offset(slab), shared_store);
#endif
        __syncwarp();
        finish<T, finishing<16, traits::PIECE, 1, 32>>(
            o, slab, 0, threadIdx.x % 32, row + piece / traits::PIECES * HALF,
            at.col + piece % traits::PIECES * traits::PIECE);
        __syncwarp();
    }
}

/* Group 0 or 1: every other tile of the block, its products after the other's. */
template <class T, class S>
__device__ void work_on_tiles(const output &o, const schedule &s, const ring<S> &r, int first,
                              int next, int group, float *slab)
{
    int steps = (s.k + SLICE - 1) / SLICE;
    float acc[2][S::COLS / 2];
    after_previous();
    for (int tile = first + group * next, i = group; tile < s.tiles; tile += 2 * next, i += 2) {
        place at = place_of<S>(s, tile, r.peer);
        position p = position_of<S>((uint32_t)i * steps);
        int then = tile + next < s.tiles ? 2 - group : 0;
        if (i > 0)
            named_wait(1 + group, 2 * GROUP);
        if (at.rows == S::ROWS)
            multiply<T, S, 2>(acc, r, p, steps, then);
        else
            multiply<T, S, 1>(acc, r, p, steps, then);
        finish_tile<T, S>(o, acc, at, slab);
    }
}

#endif

template <class T, class S>
__global__ void __launch_bounds__(persistent<S>::THREADS, 1)
    gemm_persistent(const __grid_constant__ copies c, const output o, const schedule s)
{
#if VT_SM90A
    extern __shared__ unsigned char raw[];
    unsigned char *memory = raw + (-shared_offset(raw) & 1023);
    unsigned char *slabs = memory + S::STAGES * S::STAGE;
    using traits = persistent<S>;
    ring<S> r(memory, reinterpret_cast<uint32_t *>(slabs + traits::SLABS),
              S::PEERS > 1 ? cluster_rank() : 0);
    int first = blockIdx.x / S::PEERS, next = gridDim.x / S::PEERS;
    let_next_start();
    if (threadIdx.x == 0) {
        prefetch_map(&c.a);
        prefetch_map(&c.w);
        r.init();
    }
    if (S::PEERS > 1)
        cluster_meet();
    else
        __syncthreads();
    int group = warp_number() / 4;
    if (group == 2) {
        give_registers<traits::COPIER>();
        if (threadIdx.x == 2 * GROUP)
            copy_tiles<S>(c, s, r, first, next);
        __syncwarp();
    } else {
        take_registers<traits::WORKER>();
        work_on_tiles<T, S>(o, s, r, first, next, group,
                            reinterpret_cast<float *>(slabs + threadIdx.x / 32 * traits::SLAB));
    }
    if (S::PEERS > 1)
        cluster_meet(); /* nobody leaves while others send */
#endif
}

/* ---- few rows ---- */

template <class S, int SPLIT> struct shared_k {
    static constexpr int PART = HALF / SPLIT; /* rows that a block finishes */
    static constexpr int SLAB = PART * slab_of<S::COLS>::ROW_BYTES, SLABS = SPLIT * SLAB;
    static constexpr int SHARED = 1024 + S::STAGES * S::STAGE + SLABS + 16 * S::STAGES;
    static constexpr int THREADS = GROUP + 32, CLUSTER = S::PEERS * SPLIT;
    static_assert(SHARED <= SHARED_MOST && S::ROWS == HALF && PART % 16 == 0 && CLUSTER <= 8, "");
};

#if VT_SM90A

template <class S>
__device__ void copy_slices(const copies &c, const ring<S> &r, int row, int col, int begin, int end)
{
    int ahead = min(end - begin, S::STAGES);
    for (int i = 0; i < ahead; i++) {
        r.expect(i, HALF);
        r.copy_w(i, &c.w, (begin + i) * SLICE, col);
    }
    for (int i = begin + ahead; i < end; i++)
        prefetch_box(&c.w, i * SLICE, col + r.peer % S::BLOCKS_M * S::W_BOX);
    after_previous();
    for (int i = 0; i < ahead; i++)
        r.copy_a(i, &c.a, (begin + i) * SLICE, row, HALF);
    position p = position_of<S>(ahead);
    for (int i = begin + ahead; i < end; i++, advance<S>(p)) {
        barrier_wait(r.empty + 8 * p.stage, p.parity ^ 1);
        r.expect(p.stage, HALF);
        r.copy_w(p.stage, &c.w, i * SLICE, col);
        r.copy_a(p.stage, &c.a, i * SLICE, row, HALF);
    }
}

/* Every warp's 16 rows to the block that finishes them, into the slab for what this one sends. */
template <class S, int SPLIT>
__device__ __forceinline__ void send_sums(const float (&acc)[S::COLS / 2], uint32_t slabs, int mine,
                                          int peer)
{
    using traits = shared_k<S, SPLIT>;
    int row = threadIdx.x / 32 * 16;
    uint32_t to = slabs + mine * traits::SLAB + row % traits::PART * slab_of<S::COLS>::ROW_BYTES;
    if (SPLIT > 1)
        put_sums<S::COLS>(acc, cluster_offset(to, row / traits::PART * S::PEERS + peer),
                          cluster_store);
    else
        put_sums<S::COLS>(acc, to, shared_store);
}

#endif

template <class T, class S, int SPLIT>
__global__ void __launch_bounds__(shared_k<S, SPLIT>::THREADS, 2)
    gemm_split(const __grid_constant__ copies c, const output o, int k, int across)
{
#if VT_SM90A
    extern __shared__ unsigned char raw[];
    using traits = shared_k<S, SPLIT>;
    unsigned char *memory = raw + (-shared_offset(raw) & 1023);
    unsigned char *slabs = memory + S::STAGES * S::STAGE;
    uint32_t rank = traits::CLUSTER > 1 ? cluster_rank() : 0;
    ring<S> r(memory, reinterpret_cast<uint32_t *>(slabs + traits::SLABS), rank);
    int tile = blockIdx.x / traits::CLUSTER, mine = rank / S::PEERS;
    int row = (tile / across * S::BLOCKS_M + r.peer % S::BLOCKS_M) * HALF;
    int col = (tile % across * S::BLOCKS_N + r.peer / S::BLOCKS_M) * S::COLS;
    int steps = (k + SLICE - 1) / SLICE;
    int begin = steps * mine / SPLIT, end = steps * (mine + 1) / SPLIT;
    if (begin == end) /* nothing left: a slice of zeros, from beyond the matrices */
        begin = steps, end = steps + 1;
    let_next_start();
    if (threadIdx.x == GROUP) {
        prefetch_map(&c.a);
        prefetch_map(&c.w);
        r.init();
    }
    if (traits::CLUSTER > 1)
        cluster_meet();
    else
        __syncthreads();
    int warp = warp_number();
    if (warp < 4) {
        float acc[1][S::COLS / 2];
        multiply<T, S, 1>(acc, r, position_of<S>(0), end - begin, 0);
        send_sums<S, SPLIT>(acc[0], shared_offset(slabs), mine, r.peer);
    } else if (threadIdx.x == GROUP) {
        copy_slices<S>(c, r, row, col, begin, end);
    }
    __syncwarp();
    if (traits::CLUSTER > 1)
        cluster_sync(); /* sums have arrived; nobody leaves while others send */
    else
        __syncthreads();
    if (warp < 4) {
        after_previous();
        finish<T, finishing<traits::PART, S::COLS, SPLIT, GROUP>>(
            o, reinterpret_cast<float *>(slabs), traits::SLAB / 4, threadIdx.x,
            row + mine * traits::PART, col);
    }
#endif
}

/* ---- host ---- */

typedef CUresult (*encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                    const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                    const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's, found at run time: the program starts without a driver. */
encode_function find_encoder()
{
    void *f = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                     cudaEnableDefault, &found);
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (encode_function)f : nullptr;
}

/* Boxes of `box` rows, 64 elements wide, of a matrix [rows, k]. */
int encode(CUtensorMap *map, const void *p, vt_dtype type, int rows, int k, int box)
{
    static const encode_function encoder = find_encoder();
    if (!encoder)
        return (int)cudaErrorNotSupported;
    cuuint64_t sizes[] = {(cuuint64_t)k, (cuuint64_t)rows}, pitch[] = {(cuuint64_t)k * 2};
    cuuint32_t boxes[] = {SLICE, (cuuint32_t)box}, steps[] = {1, 1};
    CUresult e = encoder(
        map, type == VT_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
        const_cast<void *>(p), sizes, pitch, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? 0 : (int)cudaErrorInvalidValue;
}

template <class S> int encode_both(copies *c, const vt_cuda_gemm *g)
{
    int e = encode(&c->a, g->a, g->type, g->m, g->k, S::A_BOX);
    return e ? e : encode(&c->w, g->w, g->type, g->n, g->k, S::W_BOX);
}

output output_of(const vt_cuda_gemm *g)
{
    return {g->y, g->bias, g->m, g->n, g->act, g->y_type == VT_F32, g->add};
}

template <typename... Params, typename... Args>
int launch_clusters(void (*kernel)(Params...), int clusters, int cluster, int threads, int shared,
                    cudaStream_t stream, Args... args)
{
    int e = allow_shared(kernel, (size_t)shared);
    if (e)
        return e;
    cudaLaunchAttribute attributes[2];
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)cluster;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(clusters * cluster));
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = (size_t)shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = cluster > 1 ? 2 : 1;
    return (int)cudaLaunchKernelEx(&config, kernel, args...);
}

int ceil_div(int a, int b)
{
    return (a - 1) / b + 1;
}

/* What the busiest of `clusters` has to do when they take tiles in turns, in halves of a tile; low
 * tiles do the same work for more copies. */
float busiest(int tall, int low, int clusters)
{
    float most = 0;
    for (int c : {0, tall % clusters, (tall + low) % clusters}) { /* where the load changes */
        int t = tall / clusters + (c < tall % clusters);
        int all = (tall + low) / clusters + (c < (tall + low) % clusters);
        most = std::max(most, 2.0f * t + 1.25f * (all - t));
    }
    return most;
}

template <class S> schedule schedule_of(const vt_cuda_gemm *g, int clusters)
{
    int across = ceil_div(g->n, S::COLS * S::BLOCKS_N), halves = ceil_div(g->m, HALF * S::BLOCKS_M);
    int best = 0;
    float least = 3e38f;
    for (int pairs = (halves + 1) / 2, i = 0; pairs >= 0 && i < 64; pairs--, i++) {
        int low = std::max(0, halves - 2 * pairs);
        float load = busiest(pairs * across, low * across, clusters);
        if (load < least)
            least = load, best = pairs;
    }
    int low = std::max(0, halves - 2 * best);
    return {g->k, across, best * across, best * S::ROWS * S::BLOCKS_M, (best + low) * across};
}

template <class T, class S> int run_persistent(const vt_cuda_gemm *g, cudaStream_t stream)
{
    using traits = persistent<S>;
    copies c;
    int device, processors, e = encode_both<S>(&c, g);
    if (!e)
        e = (int)cudaGetDevice(&device);
    if (!e)
        e = (int)cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (e)
        return e;
    int clusters = processors / S::PEERS;
    schedule s = schedule_of<S>(g, clusters);
    return launch_clusters(gemm_persistent<T, S>, std::min(clusters, s.tiles), S::PEERS,
                           traits::THREADS, traits::SHARED, stream, c, output_of(g), s);
}

template <class T, class S, int SPLIT> int run_split(const vt_cuda_gemm *g, cudaStream_t stream)
{
    using traits = shared_k<S, SPLIT>;
    copies c;
    int e = encode_both<S>(&c, g);
    if (e)
        return e;
    int across = ceil_div(g->n, S::COLS * S::BLOCKS_N);
    int tiles = across * ceil_div(g->m, HALF * S::BLOCKS_M);
    return launch_clusters(gemm_split<T, S, SPLIT>, tiles, traits::CLUSTER, traits::THREADS,
                           traits::SHARED, stream, c, output_of(g), g->k, across);
}

/* ---- variants ---- */

typedef int (*run_function)(const vt_cuda_gemm *g, cudaStream_t stream);

struct variant {
    const char *name;
    run_function f16, bf16;
    int split; /* 0: persistent */
};

template <class S> constexpr variant make_persistent(const char *name)
{
    return {name, run_persistent<__half, S>, run_persistent<__nv_bfloat16, S>, 0};
}

template <class S, int SPLIT> constexpr variant make_split(const char *name)
{
    return {name, run_split<__half, S, SPLIT>, run_split<__nv_bfloat16, S, SPLIT>, SPLIT};
}

const variant variants[] = {
    make_persistent<tiling<128, 192, 4, 2, 1>>("128x192m2"),
    make_persistent<tiling<128, 192, 4, 1, 2>>("128x192n2"),
    make_persistent<tiling<128, 128, 5, 2, 1>>("128x128m2"),
    make_split<tiling<64, 96, 4, 1, 4>, 1>("64x96n4"),
    make_split<tiling<64, 96, 4, 4, 1>, 1>("64x96m4"),
    make_split<tiling<64, 96, 4, 1, 1>, 4>("64x96s4"),
    make_split<tiling<64, 96, 4, 1, 2>, 4>("64x96n2s4"),
};

} // namespace

extern "C" int vt_cuda_gemm_variants(void)
{
    return (int)(sizeof variants / sizeof *variants);
}

extern "C" const char *vt_cuda_gemm_name(int variant)
{
    return variants[variant].name;
}

extern "C" bool vt_cuda_gemm_serves(int variant, const vt_cuda_gemm *g, int capability)
{
    if (variant < 0 || variant >= vt_cuda_gemm_variants() || capability != 90)
        return false;
    if (g->type == VT_F32 || (g->y_type != g->type && g->y_type != VT_F32))
        return false;
    if (g->m < 1 || g->n < 8 || g->k < 8 || g->n % 8 || g->k % 8 || (g->add && g->act))
        return false;
    const int most = 1 << 21; /* rows of a launch: keeps all counts of tiles in an int */
    return g->m <= most && g->n <= most;
}

extern "C" int vt_cuda_gemm_run(int variant, const vt_cuda_gemm *g, cudaStream_t stream)
{
    const auto &v = variants[variant];
    return (g->type == VT_F16 ? v.f16 : v.bf16)(g, stream);
}
