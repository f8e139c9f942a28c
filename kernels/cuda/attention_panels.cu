/* Attention over exactly the allowed pairs, panel by panel: for masks without structure whose heads
 * are wide or whose rows are long enough that gathering keys row by row (attention_rows.cu) is
 * bound by the L2 cache.
 *
 *   s[q, k] = sum over panels of q . k                 for the allowed pairs only
 *   out[q]  = sum over keys of softmax(scale s)[q, k] v[k]
 *
 * A block has some queries of a head, all their allowed pairs and the pairs' scores in shared
 * memory. A panel is PANEL bytes of each of some consecutive keys ("tile") or their values: rows of
 * 128 bytes, so that 8 lanes read a row without bank conflicts, whichever it is. All panels of K
 * stream through two buffers, then all of V; each is read once from the L2 cache for all queries of
 * the block, and from shared memory once for each of its pairs.
 *
 * A query's pairs within a tile are a segment: quads of 4 pairs, the last filled up by repeating a
 * pair at score -inf. A warp has every 32nd query. Its 4 groups of 8 lanes take a quad each; the
 * lanes of a group share a row's 128 bytes. Tiles that no query of the block sees are left out.
 *
 * On compute capability 9.0 the copy engine brings the panels, so that no thread waits to hand in
 * copies; elsewhere each thread copies 16 bytes at a time.
 *
 * Serves heads of whole 16 bytes and masks whose rows fit in shared memory; rows without keys give
 * zeros. Rows that are much longer than others are attention_rows.cu's, in a launch of their own.
 * Which masks and shapes gain: vt_cuda_attend_panels_better.
 */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/kernels.h"

static const int WARPS = 32, THREADS = 32 * WARPS, PANEL = 128;
static const int WARP_QUERIES = (VT_CUDA_PANEL_QUERIES + WARPS - 1) / WARPS;

/* How a launch divides the work. */
struct panel_shape {
    int queries;     /* of a block */
    int tile, tiles; /* keys of a tile, a multiple of 32; tiles of a head */
    int box, boxes;  /* of the copy engine: keys, and how many make a tile */
    int quads;       /* room for so many */
    size_t bytes;    /* of shared memory */
};

/* Elements of T in 16 bytes, as a lane has them, and in a panel's row. */
template <typename T> struct panel_of {
    static const int VEC = 16 / sizeof(T), WIDTH = PANEL / sizeof(T);
};

template <typename T> struct alignas(16) chunk {
    T v[panel_of<T>::VEC];
};

template <typename T>
__device__ __forceinline__ void widen(float (&to)[panel_of<T>::VEC], const chunk<T> &from)
{
#pragma unroll
    for (int i = 0; i < panel_of<T>::VEC; i++)
        to[i] = to_f32(from.v[i]);
}

/* ---- what a block has in shared memory ---- */

template <typename T> struct panel_block {
    char *stage;       /* [2][tile][PANEL] */
    float4 *score;     /* [quads]; weights later */
    ushort4 *key;      /* [quads] rows of the tile */
    float *sum;        /* [queries][WIDTH] of the tiles so far, where there are several */
    float *inverse;    /* [queries] of the sum of weights; negative: a row that is not ours */
    uint16_t *segment; /* [queries * tiles + 1] first quad of query q in tile t: q * tiles + t */
    uint16_t *used;    /* [tiles] the tiles with pairs, ascending */
    int *count;        /* of them; at least 1 */
    uint32_t full;     /* two barriers: the panel is there */
    panel_shape shape;

    __host__ __device__ static size_t bytes(const panel_shape &s)
    {
        size_t several = s.tiles > 1 ? (size_t)s.queries * panel_of<T>::WIDTH * sizeof(float) : 0;
        return (size_t)2 * s.tile * PANEL + (size_t)s.quads * 24 + several + (size_t)s.queries * 4 +
               20 + ((size_t)s.queries * s.tiles + 1 + s.tiles) * 2;
    }

    __device__ __forceinline__ panel_block(char *at, const panel_shape &s) : shape(s)
    {
        stage = at;
        score = (float4 *)(stage + 2 * s.tile * PANEL);
        sum = (float *)(score + s.quads);
        key = (ushort4 *)(sum + (s.tiles > 1 ? s.queries * panel_of<T>::WIDTH : 0));
        full = (uint32_t)__cvta_generic_to_shared(key + s.quads);
        inverse = (float *)(key + s.quads + 2);
        count = (int *)(inverse + s.queries);
        segment = (uint16_t *)(count + 1);
        used = segment + s.queries * s.tiles + 1;
    }
};

/* ---- the pairs ---- */

struct row_list {
    vt_cuda_rows r;

    __device__ __forceinline__ int key(uint32_t i) const
    {
        return r.key16 ? r.key16[i] : (int)r.key32[i];
    }

    __device__ __forceinline__ bool is_long(int row) const
    {
        return r.start[row + 1] - r.start[row] > r.long_keys;
    }

    /* The first of the pairs from .. to - 1 whose key is `key` or more. */
    __device__ uint32_t search(uint32_t from, uint32_t to, int least) const
    {
        while (from < to) {
            uint32_t middle = from + (to - from) / 2;
            if (key(middle) < least)
                from = middle + 1;
            else
                to = middle;
        }
        return from;
    }
};

/* Inclusive sums of x[1 .. n] in place, x[0] = 0; by the first warp. */
__device__ void sum_up(uint16_t *x, int n)
{
    int lane = threadIdx.x % 32, total = 0;
    for (int i = lane; i - lane < n; i += 32) {
        int v = i < n ? x[i + 1] : 0;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            int other = __shfl_up_sync(0xffffffffu, v, d);
            v += lane >= d ? other : 0;
        }
        if (i < n)
            x[i + 1] = (uint16_t)(total + v);
        total += __shfl_sync(0xffffffffu, v, 31);
    }
    if (lane == 0)
        x[0] = 0;
}

/* Segments from the rows' lists; begin[i] = the first pair of segment i. */
template <typename T>
__device__ void measure_segments(const panel_block<T> &b, const row_list &rows, uint32_t *begin,
                                 int first, int queries)
{
    int n = queries * b.shape.tiles;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int q = first + i / b.shape.tiles, t = i % b.shape.tiles;
        uint32_t from = rows.r.start[q], to = rows.is_long(q) ? from : rows.r.start[q + 1];
        uint32_t here = rows.search(from, to, t * b.shape.tile);
        uint32_t next = rows.search(here, to, (t + 1) * b.shape.tile);
        begin[i] = here;
        b.segment[i + 1] = (uint16_t)((next - here + 3) / 4);
    }
    __syncthreads();
    if (threadIdx.x < 32)
        sum_up(b.segment, n);
    __syncthreads();
}

/* The pairs' keys, scores of 0, and which rows are not ours. */
template <typename T>
__device__ void fill_segments(const panel_block<T> &b, const row_list &rows, const uint32_t *begin,
                              int first, int queries)
{
    uint16_t *key = (uint16_t *)b.key;
    float *score = (float *)b.score;
    for (int q = threadIdx.x / 32; q < queries; q += WARPS) {
        uint32_t end = rows.r.start[first + q + 1];
        bool other = rows.is_long(first + q);
        if (threadIdx.x % 32 == 0)
            b.inverse[q] = other ? -1 : 0;
        for (uint32_t i = rows.r.start[first + q] + threadIdx.x % 32; i < end && !other; i += 32) {
            int k = rows.key(i), t = k / b.shape.tile, s = q * b.shape.tiles + t;
            uint32_t at = b.segment[s] * 4 + i - begin[s];
            key[at] = (uint16_t)(k - t * b.shape.tile);
            score[at] = 0;
            if (i + 1 == end || rows.key(i + 1) / b.shape.tile != t)
                for (uint32_t pad = at + 1; pad % 4; pad++) {
                    key[pad] = key[at];
                    score[pad] = -INFINITY;
                }
        }
    }
}

/* Which tiles have pairs. */
template <typename T> __device__ void list_tiles(const panel_block<T> &b, int queries)
{
    int count = 0;
    for (int t = 0; t < b.shape.tiles; t++) {
        bool some = false;
        for (int q = threadIdx.x; q < queries; q += THREADS) {
            const uint16_t *s = b.segment + q * b.shape.tiles + t;
            some |= s[0] != s[1];
        }
        if (__syncthreads_or(some)) {
            if (threadIdx.x == 0)
                b.used[count] = (uint16_t)t;
            count++;
        }
    }
    if (threadIdx.x == 0) {
        *b.count = max(count, 1);
        if (!count)
            b.used[0] = 0;
    }
    __syncthreads();
}

/* ---- streaming ---- */

/* One head of one image. */
template <typename T> struct panel_head {
    const T *q; /* of its first token; k and v are width and 2 width further */
    T *out;
    int width, tokens, dim;
    int image, head, heads; /* of the layer */
};

template <typename T>
__device__ __forceinline__ panel_head<T> panel_head_of(const vt_cuda_attention &a, unsigned index)
{
    size_t image = index / (unsigned)a.group_heads;
    int head = (int)(index % (unsigned)a.group_heads), width = a.heads * a.head_dim;
    if (a.head)
        head = a.head[head];
    size_t row = image * a.tokens, column = (size_t)head * a.head_dim;
    return {(const T *)a.qkv + row * 3 * width + column,
            (T *)a.out + row * width + column,
            width,
            a.tokens,
            a.head_dim,
            (int)image,
            head,
            a.heads};
}

/* The steps of a block: tile by tile within panel by panel within K, V. */
struct panel_step {
    int value, column, place, tile; /* of V?; first column; which of the used tiles; that tile */
    bool last;                      /* of the used tiles */
};

template <typename T>
__device__ __forceinline__ panel_step step_at(const panel_block<T> &b, int i, int panels, int used)
{
    panel_step s;
    s.value = i >= panels * used;
    i -= s.value * panels * used;
    s.place = i % used;
    s.tile = b.used[s.place];
    s.column = i / used * panel_of<T>::WIDTH;
    s.last = s.place == used - 1;
    return s;
}

/* The panel of a tile's keys or values, zeros beyond tokens and head: by all threads. */
template <typename T>
__device__ __forceinline__ void copy_panel(char *to, const panel_head<T> &h, const panel_step &s,
                                           int keys)
{
    const T *from = h.q + (1 + s.value) * h.width;
    int first = s.tile * keys, column = s.column + threadIdx.x % 8 * panel_of<T>::VEC;
    int real = column < h.dim ? min(keys, h.tokens - first) : 0;
    size_t pitch = (size_t)3 * h.width;
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to) + threadIdx.x * 16;
    int row = threadIdx.x / 8;
    from += real ? (size_t)(first + min(row, real - 1)) * pitch + column : 0;
#pragma unroll 4
    for (; row < keys; row += THREADS / 8) {
        asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                     "r"(row < real ? 16 : 0)
                     : "memory");
        at += THREADS * 16;
        from += row + THREADS / 8 < real ? THREADS / 8 * pitch : 0;
    }
}

#if VT_SM90A

/* The same by the copy engine; one thread calls it. */
template <typename T>
__device__ __forceinline__ void copy_boxes(char *to, const CUtensorMap *map, uint32_t barrier,
                                           const panel_head<T> &h, const panel_step &s,
                                           const panel_shape &shape)
{
    barrier_expect(barrier, shape.tile * PANEL);
    for (int i = 0; i < shape.boxes; i++)
        asm volatile(
            "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
            "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_offset(to) + i * shape.box * PANEL),
            "l"(map), "r"(s.column), "r"((1 + s.value) * h.heads + h.head),
            "r"(s.tile * shape.tile + i * shape.box), "r"(h.image), "r"(barrier)
            : "memory");
}

#endif

/* How panels come to the two stages: start() begins a step's, await() returns when it is there. */
template <typename T> struct panel_stream {
    const panel_block<T> &b;
    const panel_head<T> &h;
    const CUtensorMap *map;

    __device__ __forceinline__ char *stage(int i) const
    {
        return b.stage + i % 2 * b.shape.tile * PANEL;
    }

    /* All threads; a __syncthreads() comes between this and start(). */
    __device__ __forceinline__ void init() const
    {
#if VT_SM90A
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* stages were written to */
        if (threadIdx.x == 0) {
            barrier_init(b.full, 1);
            barrier_init(b.full + 8, 1);
            barrier_init_done();
        }
#endif
    }

    __device__ __forceinline__ void start(int i, const panel_step &s) const
    {
#if VT_SM90A
        if (threadIdx.x == 0)
            copy_boxes(stage(i), map, b.full + i % 2 * 8, h, s, b.shape);
#else
        copy_panel(stage(i), h, s, b.shape.tile);
#endif
    }

    __device__ __forceinline__ void await(int i) const
    {
#if VT_SM90A
        barrier_wait(b.full + i % 2 * 8, i / 2 & 1);
#else
        asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    }
};

/* ---- arithmetic ---- */

template <typename T>
__device__ __forceinline__ float dot(const float (&q)[panel_of<T>::VEC], const char *row)
{
    float k[panel_of<T>::VEC], sum = 0;
    widen<T>(k, *reinterpret_cast<const chunk<T> *>(row));
#pragma unroll
    for (int i = 0; i < panel_of<T>::VEC; i++)
        sum = fmaf(q[i], k[i], sum);
    return sum;
}

/* The sum over the 8 lanes of a group of d[lane / 2 % 4], in both lanes. */
__device__ __forceinline__ float group_sums(const float (&d)[4], int lane)
{
    bool high = lane & 4, odd = lane & 2;
    float a = (high ? d[2] : d[0]) + __shfl_xor_sync(0xffffffffu, high ? d[0] : d[2], 4);
    float b = (high ? d[3] : d[1]) + __shfl_xor_sync(0xffffffffu, high ? d[1] : d[3], 4);
    float c = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 2);
    return c + __shfl_xor_sync(0xffffffffu, c, 1);
}

/* A lane's chunk of a panel of each of the warp's queries; zeros beyond the head. */
template <typename T> struct query_chunks {
    chunk<T> of[WARP_QUERIES];

    __device__ __forceinline__ void load(const panel_head<T> &h, int column, int first, int queries)
    {
        int warp = threadIdx.x / 32;
        column += threadIdx.x % 8 * panel_of<T>::VEC;
        const T *from = h.q + (size_t)(first + warp) * 3 * h.width + column;
#pragma unroll
        for (int n = 0; n < WARP_QUERIES; n++) {
            of[n] = {};
            if (column < h.dim && warp + n * WARPS < queries)
                of[n] = *reinterpret_cast<const chunk<T> *>(from + (size_t)n * WARPS * 3 * h.width);
        }
    }
};

/* Adds a panel's share to the scores of a query's pairs with a tile. */
template <typename T>
__device__ __forceinline__ void add_scores(const panel_block<T> &b, const chunk<T> &mine,
                                           const char *stage, int segment)
{
    int lane = threadIdx.x % 32, group = lane / 8;
    const char *rows = stage + lane % 8 * 16;
    float *score = (float *)b.score, query[panel_of<T>::VEC];
    int begin = b.segment[segment], end = b.segment[segment + 1];
    widen<T>(query, mine);
#pragma unroll 2
    for (int i = begin; i < end; i += 4) {
        int at = min(i + group, end - 1);
        ushort4 key = b.key[at];
        const float d[4] = {
            dot<T>(query, rows + key.x * PANEL), dot<T>(query, rows + key.y * PANEL),
            dot<T>(query, rows + key.z * PANEL), dot<T>(query, rows + key.w * PANEL)};
        float sum = group_sums(d, lane);
        if (i + group < end && lane % 2 == 0)
            score[4 * at + lane / 2 % 4] += sum;
    }
}

/* Of the warp's queries. */
template <typename T>
__device__ __forceinline__ void add_scores(const panel_block<T> &b, const query_chunks<T> &q,
                                           const char *stage, int tile, int queries)
{
#pragma unroll
    for (int n = 0; n < WARP_QUERIES; n++) {
        int query = threadIdx.x / 32 + n * WARPS;
        if (query < queries)
            add_scores(b, q.of[n], stage, query * b.shape.tiles + tile);
    }
    __syncwarp();
}

/* Scores become weights, 2^(to_log2 (s - max)); to_log2 = scale * log2 e. */
template <typename T> __device__ void weigh(const panel_block<T> &b, float to_log2, int queries)
{
    float *score = (float *)b.score;
    int lane = threadIdx.x % 32, tiles = b.shape.tiles;
    for (int q = threadIdx.x / 32; q < queries; q += WARPS) {
        int begin = 4 * b.segment[q * tiles], end = 4 * b.segment[(q + 1) * tiles];
        float max = -INFINITY, sum = 0;
        for (int i = begin + lane; i < end; i += 32)
            max = fmaxf(max, score[i]);
        for (int d = 16; d; d /= 2)
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, d));
        for (int i = begin + lane; i < end; i += 32) {
            float weight = exp2f((score[i] - max) * to_log2);
            score[i] = weight;
            sum += weight;
        }
        for (int d = 16; d; d /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (lane == 0 && sum > 0)
            b.inverse[q] = 1 / sum;
    }
    __syncwarp();
}

template <typename T>
__device__ __forceinline__ void add_row(float (&sum)[panel_of<T>::VEC], float weight,
                                        const char *row)
{
    float v[panel_of<T>::VEC];
    widen<T>(v, *reinterpret_cast<const chunk<T> *>(row));
#pragma unroll
    for (int i = 0; i < panel_of<T>::VEC; i++)
        sum[i] = fmaf(weight, v[i], sum[i]);
}

/* Sums over the groups: a lane has those of VEC / 4 elements, from element lane / 16 * VEC / 2 +
 * lane / 8 % 2 * VEC / 4 of its chunk on. */
template <int VEC>
__device__ __forceinline__ void over_groups(float (&to)[VEC / 4], const float (&sum)[VEC], int lane)
{
    float half[VEC / 2];
    bool high = lane & 16, odd = lane & 8;
#pragma unroll
    for (int i = 0; i < VEC / 2; i++)
        half[i] = (high ? sum[VEC / 2 + i] : sum[i]) +
                  __shfl_xor_sync(0xffffffffu, high ? sum[i] : sum[VEC / 2 + i], 16);
#pragma unroll
    for (int i = 0; i < VEC / 4; i++)
        to[i] = (odd ? half[VEC / 4 + i] : half[i]) +
                __shfl_xor_sync(0xffffffffu, odd ? half[i] : half[VEC / 4 + i], 8);
}

/* Weighted sums of a panel of values for the warp's queries, and the results with the last tile. */
template <typename T>
__device__ void add_values(const panel_block<T> &b, const panel_head<T> &h, const char *stage,
                           const panel_step &s, int first, int queries)
{
    const int VEC = panel_of<T>::VEC, PART = VEC / 4;
    int lane = threadIdx.x % 32, group = lane / 8;
    int mine = lane % 8 * VEC + lane / 16 * (VEC / 2) + group % 2 * PART;
    const char *rows = stage + lane % 8 * 16;
    for (int q = threadIdx.x / 32; q < queries; q += WARPS) {
        const uint16_t *segment = b.segment + q * b.shape.tiles + s.tile;
        int begin = segment[0], end = segment[1];
        float sum[VEC] = {}, part[PART];
#pragma unroll 2
        for (int i = begin; i < end; i += 4) {
            int at = min(i + group, end - 1);
            ushort4 key = b.key[at];
            float4 weight = b.score[at];
            if (i + group >= end)
                weight = make_float4(0, 0, 0, 0);
            add_row<T>(sum, weight.x, rows + key.x * PANEL);
            add_row<T>(sum, weight.y, rows + key.y * PANEL);
            add_row<T>(sum, weight.z, rows + key.z * PANEL);
            add_row<T>(sum, weight.w, rows + key.w * PANEL);
        }
        over_groups<VEC>(part, sum, lane);
        float *total = b.sum + q * panel_of<T>::WIDTH + mine;
        T *to = h.out + (size_t)(first + q) * h.width + s.column + mine;
#pragma unroll
        for (int i = 0; i < PART; i++) {
            if (s.place > 0)
                part[i] += total[i];
            if (!s.last)
                total[i] = part[i];
            else if (s.column + mine < h.dim && b.inverse[q] >= 0)
                to[i] = from_f32<T>(part[i] * b.inverse[q]);
        }
    }
}

/* ---- a block ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    panels_kernel(vt_cuda_attention a, row_list rows, panel_shape shape, unsigned blocks,
                  const __grid_constant__ CUtensorMap map)
{
    extern __shared__ __align__(128) char shared[];
    panel_block<T> b(shared, shape);
    int first = (int)(blockIdx.x % blocks) * shape.queries;
    int queries = min(shape.queries, a.tokens - first);
    uint32_t *begin = (uint32_t *)b.stage;
    measure_segments(b, rows, begin, first, queries);
    fill_segments(b, rows, begin, first, queries);
    list_tiles(b, queries);
    panel_head<T> h = panel_head_of<T>(a, blockIdx.x / blocks);
    panel_stream<T> stream = {b, h, &map};
    stream.init();
    int panels = (a.head_dim + panel_of<T>::WIDTH - 1) / panel_of<T>::WIDTH;
    int used = *b.count, steps = 2 * panels * used;
    after_previous();
    __syncthreads();
    panel_step s = step_at(b, 0, panels, used), next = s;
    stream.start(0, s);
    query_chunks<T> q;
    for (int i = 0; i < steps; i++, s = next) {
        if (!s.value && s.place == 0)
            q.load(h, s.column, first, queries);
        stream.await(i);
        __syncthreads(); /* nobody reads the other stage any more */
        next = step_at(b, min(i + 1, steps - 1), panels, used);
        if (i + 1 < steps)
            stream.start(i + 1, next);
        if (s.value) {
            add_values(b, h, stream.stage(i), s, first, queries);
            continue;
        }
        add_scores(b, q, stream.stage(i), s.tile, queries);
        if (next.value)
            weigh(b, a.scale * 1.44269504f, queries);
    }
}

/* ---- choice ---- */

static int attribute(cudaDeviceAttr which)
{
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, which, device);
    return value;
}

static void size_tiles(panel_shape *s, int tokens)
{
    s->tile = ((tokens + s->tiles - 1) / s->tiles + 31) / 32 * 32;
    s->boxes = (s->tile + 255) / 256;
    while (s->tile % s->boxes)
        s->boxes++;
    s->box = s->tile / s->boxes;
}

/* Boxes of a panel's width of a head and `keys` tokens: (column, q, k, v of heads, token, image). */
static int map_panels(CUtensorMap *map, const vt_cuda_attention *a, int keys)
{
    CUtensorMapDataType type = a->type == VT_F32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                               : a->type == VT_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                   : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    cuuint64_t size = a->type == VT_F32 ? 4 : 2, head = (cuuint64_t)a->head_dim * size;
    cuuint64_t row = 3 * a->heads * head;
    cuuint64_t extent[4] = {(cuuint64_t)a->head_dim, (cuuint64_t)3 * a->heads,
                            (cuuint64_t)a->tokens, (cuuint64_t)a->images};
    cuuint64_t stride[3] = {head, row, row * (cuuint64_t)a->tokens};
    cuuint32_t box[4] = {(cuuint32_t)(PANEL / size), 1, (cuuint32_t)keys, 1},
               every[4] = {1, 1, 1, 1};
    vt_encode_tiled encode = tensor_map_encoder();
    if (!encode)
        return cudaErrorNotSupported;
    CUresult e = encode(map, type, 4, (void *)a->qkv, extent, stride, box, every,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* The largest tiles that fit; false: none of a useful size does. */
template <typename T>
static bool fit(panel_shape *s, const vt_cuda_attention *a, const vt_cuda_rows *r, int level,
                size_t room)
{
    s->queries = VT_CUDA_PANEL_QUERIES >> level;
    for (s->tiles = 1; s->tiles <= 64; s->tiles++) {
        size_tiles(s, a->tokens);
        s->quads = (int)(r->most[level] / 4) + s->queries * s->tiles;
        s->bytes = panel_block<T>::bytes(*s);
        if (s->bytes <= room && s->quads < 65536 &&
            (size_t)s->queries * s->tiles * 4 <= (size_t)2 * s->tile * PANEL)
            return s->tiles == 1 || s->tile >= 128;
    }
    return false;
}

/* As many queries a block as fit, fewer where blocks would be fewer than multiprocessors. */
template <typename T>
static bool choose(panel_shape *s, const vt_cuda_attention *a, const vt_cuda_rows *r)
{
    size_t room = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
    int64_t heads = (int64_t)a->images * a->group_heads;
    bool found = false;
    panel_shape fits;
    for (int level = 0; level < VT_CUDA_PANEL_LEVELS; level++) {
        if (!fit<T>(&fits, a, r, level, room))
            continue;
        *s = fits;
        found = true;
        if (heads * ((a->tokens + fits.queries - 1) / fits.queries) >= processors * 9 / 10)
            break;
    }
    return found;
}

template <typename T>
static int run(const vt_cuda_attention *a, const vt_cuda_rows *r, cudaStream_t stream)
{
    panel_shape s;
    if (!choose<T>(&s, a, r))
        return cudaErrorNotSupported;
    unsigned blocks = (unsigned)((a->tokens + s.queries - 1) / s.queries);
    CUtensorMap map = {};
    row_list rows = {*r};
    int failed = allow_shared(panels_kernel<T>, s.bytes);
    if (!failed && attribute(cudaDevAttrComputeCapabilityMajor) == 9)
        failed = map_panels(&map, a, s.box);
    if (!failed)
        failed = launch(panels_kernel<T>, blocks * (unsigned)a->images * (unsigned)a->group_heads,
                        THREADS, s.bytes, stream, *a, rows, s, blocks, map);
    return failed || !r->long_rows ? failed : vt_cuda_attend_long_rows(a, r, stream);
}

extern "C" bool vt_cuda_attend_panels_serves(const vt_cuda_attention *a, const vt_cuda_rows *r)
{
    panel_shape s;
    if (!(a->scale > 0) || a->bias.table)
        return false;
    return a->type == VT_F32 ? a->head_dim % 4 == 0 && choose<float>(&s, a, r)
                             : a->head_dim % 8 == 0 && choose<__half>(&s, a, r);
}

extern "C" int vt_cuda_attend_panels(const vt_cuda_attention *a, const vt_cuda_rows *r,
                                     cudaStream_t stream)
{
    return a->type == VT_F32   ? run<float>(a, r, stream)
           : a->type == VT_F16 ? run<__half>(a, r, stream)
                               : run<__nv_bfloat16>(a, r, stream);
}

/* One panel is streamed for all of a block's queries, whether they see its keys or not, so that gain
 * begins where they see enough: on an H100, with uniformly random masks (tests/bench_sparse_cuda.c),
 * at 3 to 5 % of the pairs for heads of 128 to 1024. Narrower ones are better gathered. */
extern "C" bool vt_cuda_attend_panels_better(const vt_cuda_attention *a, const vt_cuda_rows *r)
{
    bool many = 25 * (uint64_t)r->pairs > (uint64_t)a->tokens * (uint64_t)a->tokens;
    return a->head_dim >= 128 && many && vt_cuda_attend_panels_serves(a, r);
}
