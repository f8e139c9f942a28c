/* y [m, n] = act(a [m, k] w [n, k]^T + bias), or y += a w^T + bias, on compute capability 9.0.
 *
 * Slices of 64 elements of k come by bulk tensor copies into a ring of shared memory, started by
 * one thread; warpgroups multiply them with wgmma, each 64 rows. What lies outside a matrix arrives
 * as zeros and is not stored. Blocks of a cluster lie below each other: each fetches a part of w's
 * slice and sends it to all.
 *
 * gemm_persistent, for many rows: one block per multiprocessor, with two pairs of warpgroups that
 * take turns, each with a tile of 128 rows of its own: while one multiplies, the other finishes.
 * The last tiles are 64 rows high where that spreads the work better over the multiprocessors.
 *
 * gemm_small, for few rows: one tile of 64 rows per block, finished by gemm_boxes.cuh.
 *
 * Weights do not change: their first slices are fetched before the kernel ahead has finished.
 * The results of one variant are the same bits each time. It does not choose between variants.
 */
#include "kernels/cuda/gemm_boxes.cuh"

#include <algorithm>

namespace
{

constexpr int SLICE = 64;           /* elements of k */
constexpr int ROW = SLICE * 2;      /* their bytes */
constexpr int HALF = 64;            /* rows of one wgmma */
constexpr int GROUP = 128;          /* threads of a warpgroup */
constexpr int SHARED_MOST = 232448; /* bytes a block may have */

/* ---- what both kernels do with slices ---- */

/* PEERS blocks of a cluster share w. */
template <int ROWS_, int COLS_, int STAGES_, int PEERS_> struct tiling {
    static constexpr int ROWS = ROWS_, COLS = COLS_, STAGES = STAGES_, PEERS = PEERS_;
    static constexpr int WARPS = ROWS / 16; /* that read a stage */
    static constexpr int A_BYTES = ROWS * ROW, W_BYTES = COLS * ROW, STAGE = A_BYTES + W_BYTES;
    static constexpr int W_BOX = COLS / PEERS; /* rows of w in a copy; of a, HALF */
    static_assert(PEERS > 1 && W_BOX % 8 == 0, "whole swizzle atoms");
};

struct copies { /* kernel parameters */
    CUtensorMap a, w;
};

struct all_copies : copies { /* of gemm_small */
    CUtensorMap y;
};

#if VT_SM90A

/* A ring of stages: `full` counts what arrived, `empty` who has read it. */
template <class S> struct ring {
    uint32_t stages, full, empty; /* offsets in shared memory */
    uint32_t peer;                /* this block's place in the cluster */

    __device__ ring(unsigned char *memory, uint32_t *barriers)
        : stages(shared_offset(memory)), full(shared_offset(barriers)), empty(full + 8 * S::STAGES),
          peer(cluster_rank())
    {
    }
    __device__ void init() const
    {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, S::WARPS * S::PEERS); /* all that read */
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
    /* The part of w's slice that this block fetches, for all of the cluster. */
    __device__ void copy_w(int stage, const CUtensorMap *map, int k, int col) const
    {
        uint32_t part = peer * S::W_BOX;
        copy_box_to(w(stage) + part * ROW, map, k, col + part, full + 8 * stage,
                    (uint16_t)((1u << S::PEERS) - 1));
    }
    __device__ void copy_a(int stage, const CUtensorMap *map, int k, int row, int rows) const
    {
        for (int r = 0; r < rows; r += HALF)
            copy_box(a(stage) + r * ROW, map, k, row + r, full + 8 * stage);
    }
    /* A warp has read the stage: tells all who write to it. */
    __device__ void release(int stage) const
    {
        uint32_t lane = threadIdx.x % 32;
        if (lane < S::PEERS)
            barrier_arrive_at(empty + 8 * stage, lane);
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

/* acc += the products of the next `steps` >= 1 slices, for rows 64 * half and on of the tile. Once
 * all are under way, arrives at the named barrier `then` if that is not 0. */
template <class T, class S>
__device__ __forceinline__ void multiply(float (&acc)[S::COLS / 2], const ring<S> &r, position p,
                                         int steps, int half, int then)
{
    int before = -1; /* the stage before, which may still be read */
    do {
        barrier_wait(r.full + 8 * p.stage, p.parity);
        uint32_t a = slice(r.a(p.stage)) + half * (HALF * ROW >> 4), w = slice(r.w(p.stage));
        products_begin();
#pragma unroll
        for (int k = 0; k < SLICE / 16; k++)
            slice_product<T, S::COLS>::add(acc, a + 2 * k, w + 2 * k);
        products_commit();
        products_wait<1>();
        if (before >= 0)
            r.release(before);
        before = p.stage;
        advance<S>(p);
    } while (--steps > 0);
    if (then)
        named_arrive(then, 4 * GROUP);
    products_wait<0>();
    r.release(before);
}

/* The same for a warpgroup without rows. */
template <class S>
__device__ __forceinline__ void pass(const ring<S> &r, position p, int steps, int then)
{
    if (then)
        named_arrive(then, 4 * GROUP);
    for (; steps > 0; steps--, advance<S>(p)) {
        barrier_wait(r.full + 8 * p.stage, p.parity);
        r.release(p.stage);
    }
}

#endif

/* ---- many rows ---- */

/* Tiles of all the cluster: first `tall` ones of 128 rows a block, then ones of 64 from row
 * `below`; `across` of them fill the columns. */
struct schedule {
    int k, across, tall, below, tiles;
};

template <class S, int PIECE> struct persistent {
    using finishing_of = finishing<16, PIECE, 32>; /* a warp's rows, by pieces */
    static constexpr int SLAB = std::max(finishing_of::SLAB * 4 + PIECE * 4, PACKED_SLAB);
    static constexpr int SLABS = 4 * 4 * SLAB;
    static constexpr int SHARED = 1024 + S::STAGES * S::STAGE + SLABS + 16 * S::STAGES;
    static constexpr int THREADS = 2 * S::WARPS * 32 + GROUP; /* two pairs and the copier's group */
    static_assert(SHARED <= SHARED_MOST && S::ROWS == 2 * HALF && S::COLS == 4 * 32, "");
};

#if VT_SM90A

constexpr int COPIER = 24, WORKER = 112; /* registers of a thread */

struct place {
    int row, col, rows;
};

template <class S> __device__ __forceinline__ place place_of(const schedule &s, int tile, int peer)
{
    bool tall = tile < s.tall;
    int i = tall ? tile : tile - s.tall, rows = tall ? S::ROWS : HALF;
    return {(tall ? 0 : s.below) + (i / s.across * S::PEERS + peer) * rows, i % s.across * S::COLS,
            rows};
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

/* A warp's 16 rows of a tile, as fp32 piece by piece through its slab; lane l has bias 4 l and on. */
template <class T, class S, int PIECE>
__device__ __forceinline__ void finish_pieces(const output &o, const float (&acc)[S::COLS / 2],
                                              float4 bias, int row, int col, float *slab)
{
    using shape = typename persistent<S, PIECE>::finishing_of;
    float *bias_row = slab + shape::SLAB;
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int piece = 0; piece < S::COLS / PIECE; piece++) {
        put_sums<PIECE>(&acc[piece * (PIECE / 2)], shared_offset(slab));
        if (lane / (PIECE / 4) == piece)
            reinterpret_cast<float4 *>(bias_row)[lane % (PIECE / 4)] = bias;
        __syncwarp();
        finish<T, shape>(o, slab, bias_row, lane, row, col + piece * PIECE);
        __syncwarp();
    }
}

template <class T, class S, int PIECE>
__device__ __forceinline__ void finish_tile(const output &o, const float (&acc)[S::COLS / 2],
                                            float4 bias, int row, int col, float *slab)
{
    if (o.wide || o.add)
        finish_pieces<T, S, PIECE>(o, acc, bias, row, col, slab);
    else if (o.act == VT_ACT_NONE)
        finish_packed<T, S::COLS, VT_ACT_NONE>(o, acc, bias, row, col, slab);
    else if (o.act == VT_ACT_GELU)
        finish_packed<T, S::COLS, VT_ACT_GELU>(o, acc, bias, row, col, slab);
    else if (o.act == VT_ACT_GELU_TANH)
        finish_packed<T, S::COLS, VT_ACT_GELU_TANH>(o, acc, bias, row, col, slab);
    else
        finish_packed<T, S::COLS, VT_ACT_QUICK_GELU>(o, acc, bias, row, col, slab);
}

/* A warpgroup: half of every other tile of the block, its products after the other pair's. */
template <class T, class S, int PIECE>
__device__ void work_on_tiles(const output &o, const schedule &s, const ring<S> &r, int first,
                              int next, int group, float *slab)
{
    int steps = (s.k + SLICE - 1) / SLICE, pair = group / 2, half = group % 2;
    after_previous();
    for (int tile = first + pair * next, i = pair; tile < s.tiles; tile += 2 * next, i += 2) {
        place at = place_of<S>(s, tile, r.peer);
        position p = position_of<S>((uint32_t)i * steps);
        float4 bias = four_of(o.bias, at.col + threadIdx.x % 32 * 4, o.n);
        float acc[S::COLS / 2] = {};
        int then = tile + next < s.tiles ? 2 - pair : 0;
        if (i > 0)
            named_wait(1 + pair, 4 * GROUP);
        if (half * HALF < at.rows) {
            multiply<T, S>(acc, r, p, steps, half, then);
            finish_tile<T, S, PIECE>(
                o, acc, bias, at.row + half * HALF + threadIdx.x % GROUP / 32 * 16, at.col, slab);
        } else {
            pass<S>(r, p, steps, then);
        }
    }
}

#endif

template <class T, class S, int PIECE>
__global__ void __launch_bounds__(persistent<S, PIECE>::THREADS, 1)
    gemm_persistent(const __grid_constant__ copies c, const output o, const schedule s)
{
#if VT_SM90A
    extern __shared__ unsigned char raw[];
    unsigned char *memory = raw + (-shared_offset(raw) & 1023);
    unsigned char *slabs = memory + S::STAGES * S::STAGE;
    using traits = persistent<S, PIECE>;
    ring<S> r(memory, reinterpret_cast<uint32_t *>(slabs + traits::SLABS));
    int first = blockIdx.x / S::PEERS, next = gridDim.x / S::PEERS;
    let_next_start();
    if (threadIdx.x == 0) {
        prefetch_map(&c.a);
        prefetch_map(&c.w);
        r.init();
    }
    cluster_meet();
    int warp = warp_number();
    if (warp >= 16) {
        fewer_registers<COPIER>();
        if (threadIdx.x == 4 * GROUP)
            copy_tiles<S>(c, s, r, first, next);
        __syncwarp();
    } else {
        more_registers<WORKER>();
        work_on_tiles<T, S, PIECE>(o, s, r, first, next, warp / 4,
                                   reinterpret_cast<float *>(slabs + warp * traits::SLAB));
    }
    cluster_meet(); /* nobody leaves while others send */
#endif
}

/* ---- few rows ---- */

/* Warps that multiply, one that copies, and those that find the facts. Behind the stages the warps'
 * slabs, the facts, the ring's barriers, each warp's for fetch_old, and one for the facts. */
template <class S> struct small {
    static constexpr int COPIER = S::WARPS, FINDER = COPIER + 1;
    static constexpr int THREADS = FINDER * 32 + FINDERS;
    using of_tile = facts<S::ROWS, S::COLS>;
    static constexpr int SLAB = slab_of_tile<S::COLS>::BYTES;
    static constexpr int SLABS = S::STAGES * S::STAGE, FACTS = SLABS + S::WARPS * SLAB;
    static constexpr int RING = FACTS + sizeof(of_tile), OLD = RING + 16 * S::STAGES;
    static constexpr int FOUND = OLD + 8 * S::WARPS, SHARED = 1024 + FOUND + 8;
    static_assert(SHARED <= SHARED_MOST && S::ROWS == HALF && S::COLS <= 4 * 32, "");
};

#if VT_SM90A

template <class S>
__device__ void copy_slices(const copies &c, const ring<S> &r, int row, int col, int steps)
{
    int ahead = min(steps, S::STAGES);
    for (int i = 0; i < ahead; i++) {
        r.expect(i, S::ROWS);
        r.copy_w(i, &c.w, i * SLICE, col);
    }
    for (int i = ahead; i < steps; i++)
        prefetch_box(&c.w, i * SLICE, col + r.peer * S::W_BOX);
    after_previous();
    for (int i = 0; i < ahead; i++)
        r.copy_a(i, &c.a, i * SLICE, row, S::ROWS);
    position p = position_of<S>(ahead);
    for (int i = ahead; i < steps; i++, advance<S>(p)) {
        barrier_wait(r.empty + 8 * p.stage, p.parity ^ 1);
        r.expect(p.stage, S::ROWS);
        r.copy_w(p.stage, &c.w, i * SLICE, col);
        r.copy_a(p.stage, &c.a, i * SLICE, row, S::ROWS);
    }
}

#endif

template <class T, class S>
__global__ void __launch_bounds__(small<S>::THREADS, 1)
    gemm_small(const __grid_constant__ all_copies c, const box_output o, int across)
{
#if VT_SM90A
    extern __shared__ unsigned char raw[];
    using L = small<S>;
    unsigned char *memory = raw + (-shared_offset(raw) & 1023);
    ring<S> r(memory, reinterpret_cast<uint32_t *>(memory + L::RING));
    typename L::of_tile *f = reinterpret_cast<typename L::of_tile *>(memory + L::FACTS);
    int tile = blockIdx.x / S::PEERS, steps = (o.k + SLICE - 1) / SLICE;
    int row = (tile / across * S::PEERS + r.peer) * S::ROWS, col = tile % across * S::COLS;
    uint32_t old = shared_offset(memory) + L::OLD, found = shared_offset(memory) + L::FOUND;
    let_next_start();
    if (threadIdx.x == 32 * L::COPIER) {
        prefetch_map(&c.a);
        prefetch_map(&c.w);
        prefetch_map(&c.y);
        for (int i = 0; i < S::WARPS; i++)
            barrier_init(old + 8 * i, 1);
        barrier_init(found, FINDERS);
        r.init();
    }
    cluster_meet();
    int warp = warp_number();
    if (warp < S::WARPS) {
        float acc[S::COLS / 2] = {};
        unsigned char *slab = memory + L::SLABS + warp * L::SLAB;
        after_previous();
        fetch_old<S::COLS>(o, &c.y, row + warp * 16, col, slab, old + 8 * warp);
        multiply<T, S>(acc, r, position_of<S>(0), steps, 0, 0);
        barrier_wait(found, 0);
        finish_rows<T>(o, &c.y, f, warp * 16, acc, row + warp * 16, col, slab, old + 8 * warp, 0);
        stores_wait_read();
    } else if (warp == L::COPIER) {
        if (threadIdx.x % 32 == 0)
            copy_slices<S>(c, r, row, col, steps);
        __syncwarp();
    } else {
        int finder = (int)threadIdx.x - 32 * L::FINDER;
        put_columns(o, col, f, finder);
        after_previous();
        put_rows(o, row, f, finder);
        barrier_arrive(found);
    }
    cluster_meet(); /* nobody leaves while others send */
#endif
}

/* ---- host ---- */

/* Boxes of `box` rows, `wide` elements wide, of a matrix [rows, columns], in the swizzle that such
 * a row fills. */
int encode(CUtensorMap *map, const void *p, vt_dtype type, int rows, int columns, int box, int wide)
{
    const cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t pitch[] = {(cuuint64_t)columns * 2};
    const cuuint32_t boxes[] = {(cuuint32_t)wide, (cuuint32_t)box};
    return tensor_map(map, type, 2, p, sizes, pitch, boxes,
                      wide == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B);
}

template <class S> int encode_both(copies *c, const vt_cuda_gemm *g)
{
    int e = encode(&c->a, g->a, g->type, g->m, g->k, HALF, SLICE);
    return e ? e : encode(&c->w, g->w, g->type, g->n, g->k, S::W_BOX, SLICE);
}

template <class S> int encode_all(all_copies *c, const vt_cuda_gemm *g)
{
    int e = encode_both<S>(c, g);
    c->y = c->w; /* an fp32 y takes another way */
    if (!e && g->y_type != VT_F32)
        e = encode(&c->y, g->y, g->type, g->m, g->n, 16, slab_of_tile<S::COLS>::PART);
    return e;
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

/* What the busiest of `clusters` has to do when they take tiles in turns, in halves of a tile. A
 * low tile is assumed to take 1.25 halves: it needs as much of w as a tall one. */
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
    int across = ceil_div(g->n, S::COLS), halves = ceil_div(g->m, HALF * S::PEERS);
    int best = 0;
    float least = 3e38f;
    for (int pairs = (halves + 1) / 2, i = 0; pairs >= 0 && i < 64; pairs--, i++) {
        int low = std::max(0, halves - 2 * pairs);
        float load = busiest(pairs * across, low * across, clusters);
        if (load < least)
            least = load, best = pairs;
    }
    int low = std::max(0, halves - 2 * best);
    return {g->k, across, best * across, best * S::ROWS * S::PEERS, (best + low) * across};
}

template <class T, class S, int PIECE>
int run_persistent(const vt_cuda_gemm *g, cudaStream_t stream)
{
    using traits = persistent<S, PIECE>;
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
    return launch_clusters(gemm_persistent<T, S, PIECE>, std::min(clusters, s.tiles), S::PEERS,
                           traits::THREADS, traits::SHARED, stream, c, output_of(g), s);
}

template <class T, class S> int run_small(const vt_cuda_gemm *g, cudaStream_t stream)
{
    using traits = small<S>;
    all_copies c;
    int e = encode_all<S>(&c, g);
    if (e)
        return e;
    int across = ceil_div(g->n, S::COLS), tiles = across * ceil_div(g->m, S::ROWS * S::PEERS);
    box_output o = {output_of(g), g->a_moments ? g->w_sums : NULL, g->a_moments, g->y_moments, g->k,
                    g->eps};
    return launch_clusters(gemm_small<T, S>, tiles, S::PEERS, traits::THREADS, traits::SHARED,
                           stream, c, o, across);
}

/* ---- variants ---- */

typedef int (*run_function)(const vt_cuda_gemm *g, cudaStream_t stream);

struct variant {
    const char *name;
    run_function f16, bf16;
    int rows, cols; /* of a tile of gemm_small, else 0 */
};

template <class S, int PIECE> constexpr variant make_persistent(const char *name)
{
    return {name, run_persistent<__half, S, PIECE>, run_persistent<__nv_bfloat16, S, PIECE>, 0, 0};
}

template <class S> constexpr variant make_small(const char *name)
{
    return {name, run_small<__half, S>, run_small<__nv_bfloat16, S>, S::ROWS, S::COLS};
}

/* The tile and the stages of the ring. */
const variant variants[] = {
    make_persistent<tiling<128, 128, 4, 2>, 64>("128x128x4"),
    make_persistent<tiling<128, 128, 5, 2>, 32>("128x128x5"),
    make_small<tiling<64, 64, 6, 4>>("64x64x6"), /* two blocks fit into a multiprocessor */
    make_small<tiling<64, 64, 12, 4>>("64x64x12"),
    make_small<tiling<64, 96, 4, 4>>("64x96x4"), /* two blocks fit into a multiprocessor */
    make_small<tiling<64, 96, 8, 4>>("64x96x8"),
};

} // namespace

extern "C" int vt_cuda_gemm_variants(void)
{
    return (int)(sizeof variants / sizeof *variants);
}

extern "C" const char *vt_cuda_gemm_name(int number)
{
    return variants[number].name;
}

extern "C" bool vt_cuda_gemm_serves(int number, const vt_cuda_gemm *g, int capability)
{
    if (number < 0 || number >= vt_cuda_gemm_variants() || capability != 90)
        return false;
    if (g->type == VT_F32 || (g->y_type != g->type && g->y_type != VT_F32))
        return false;
    if (g->m < 1 || g->n < 8 || g->k < 8 || g->n % 8 || g->k % 8 || (g->add && g->act))
        return false;
    const variant &v = variants[number];
    bool plain = !g->a_moments && !g->y_moments;
    if (!plain && (!v.rows || g->y_type == VT_F32))
        return false;
    if (g->a_moments && (g->k % VT_MOMENTS || !g->w_sums || g->add))
        return false;
    if (g->y_moments && (g->n % VT_MOMENTS || v.cols % VT_MOMENTS || !g->add))
        return false;
    if (g->m > 1 << 24 || g->n > 1 << 20 || (double)g->m * g->n > 1e12)
        return false; /* counts of tiles are ints */
    return !v.rows || (double)ceil_div(g->m, v.rows) * ceil_div(g->n, v.cols) <= 600;
}

extern "C" int vt_cuda_gemm_run(int number, const vt_cuda_gemm *g, cudaStream_t stream)
{
    const variant &v = variants[number];
    return (g->type == VT_F16 ? v.f16 : v.bf16)(g, stream);
}
