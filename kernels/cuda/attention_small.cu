/* Fused attention for few tokens (to 272) and heads of 64, 16-bit types, compute capability 9.0,
 * whose tensor cores multiply 64 rows at a time (wgmma).
 *
 * A block is one warpgroup. It has all keys and values of one head in shared memory, brought by the
 * bulk tensor copy, and takes the queries by 64: warp w has rows 16 w to 16 w + 15 of them. Their
 * scores with all keys are in registers, so the softmax is the plain one:
 *
 *   s = q k^T;  top = max s;  p = 2^(scale (s - top));  out = p v / sum p
 *
 * Products with v run while the next weights are computed, and several blocks share a
 * multiprocessor: one copies or multiplies while another takes powers. `parts` blocks may share a
 * head's queries, where there are few heads.
 *
 * Keys and values past the last token are zeros; their pairs, and those whose bit is off, are -inf
 * before the maximum. A row without keys gives zeros.
 */
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_map.cuh"
#include "kernels/cuda/attention_small.cuh"
#include "kernels/cuda/hopper.cuh"

static const int THREADS = 128, D = 64, ROWS = 64;
static const int ROW_BYTES = D * 2, Q_BYTES = ROWS * ROW_BYTES;

/* For more than LEAST and at most A + B + C keys, whose scores are products of these widths. */
template <typename Type, int LEAST_, int A_, int B_, int C_, bool MASKED_> struct small_config {
    typedef Type T;
    static const int LEAST = LEAST_, A = A_, B = B_, C = C_, KEYS = A + B + C;
    static const bool MASKED = MASKED_;
    static const int BOX = KEYS > 256 ? KEYS / 2 : KEYS;                 /* rows in one copy */
    static const int Q_AT = 0, K_AT = Q_BYTES, BYTES = KEYS * ROW_BYTES; /* of k, and of v */
    static const int V_AT = K_AT + BYTES, SHARED = V_AT + BYTES + 1024;  /* to align */
    static const int BLOCKS = KEYS > 208 ? 2 : KEYS > 64 ? 3 : 6;        /* on a multiprocessor */
};

#if VT_SM90A

struct small_shared {
    uint32_t q, k, v, q_here, k_here, v_here; /* the last three are barriers */
};

/* ---- copies, by one thread ---- */

template <typename C>
__device__ __forceinline__ void copy_all(uint32_t to, uint32_t barrier, const CUtensorMap *map,
                                         int column, int image)
{
    barrier_expect(barrier, C::BYTES);
    for (int row = 0; row < C::KEYS; row += C::BOX)
        copy_box(to + row * ROW_BYTES, map, column, row, image, barrier);
}

__device__ __forceinline__ void copy_queries(const small_shared &m, const CUtensorMap *map,
                                             int column, int row, int image)
{
    barrier_expect(m.q_here, Q_BYTES);
    copy_box(m.q, map, column, row, image, m.q_here);
}

/* ---- 64 queries ---- */

template <typename C>
__device__ __forceinline__ void begin_scores(float (&s)[C::KEYS / 2], const small_shared &m)
{
    typedef typename C::T T;
    products_touch(s);
    products_begin();
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint64_t q = operand(m.q + 32 * step);
        uint32_t k = m.k + 32 * step;
        product<C::A, T>::both(s, q, operand(k), step > 0);
        if constexpr (C::B > 0)
            product<C::B, T>::both(s + C::A / 2, q, operand(k + C::A * ROW_BYTES), step > 0);
        if constexpr (C::C > 0)
            product<C::C, T>::both(s + (C::A + C::B) / 2, q, operand(k + (C::A + C::B) * ROW_BYTES),
                                   step > 0);
    }
    products_commit();
}

/* Of the keys from 32 w on, those that this lane's rows may see; one bit each. */
template <typename C>
__device__ __forceinline__ void load_on(uint32_t (&on)[2][C::KEYS / 32 + 1],
                                        const vt_cuda_attention &a, int row)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t *bits = a.bits + (size_t)(row + 8 * half) * a.words;
#pragma unroll
        for (int w = 0; w <= C::KEYS / 32; w++)
            on[half][w] = 32 * w < a.tokens && row + 8 * half < a.tokens ? bits[w] : 0;
    }
}

/* Under a mask pairs whose bit is off, else those of keys past the last token. */
template <typename C>
__device__ __forceinline__ void forbid_all(float (&s)[C::KEYS / 2],
                                           const uint32_t (&on)[2][C::KEYS / 32 + 1], int tokens)
{
    int shift = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = C::MASKED ? 0 : C::LEAST / 2; i < C::KEYS / 2; i++) {
        int key = i / 4 * 8 + i % 2; /* and shift */
        bool allowed =
            C::MASKED ? on[i % 4 / 2][key / 32] >> shift >> key % 32 & 1 : key < tokens - shift;
        s[i] = allowed ? s[i] : -INFINITY;
    }
}

/* The maximum of a row's scores times scale; 0 where there are none. */
template <int N>
__device__ __forceinline__ float row_top(const float (&s)[N], int half, float scale)
{
    float most[2] = {s[half * 2], s[half * 2 + 1]};
#pragma unroll
    for (int i = 4; i < N; i += 4) {
        most[0] = fmaxf(most[0], s[i + half * 2]);
        most[1] = fmaxf(most[1], s[i + half * 2 + 1]);
    }
    float top = fmaxf(most[0], most[1]);
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    return top == -INFINITY ? 0.0f : top * scale;
}

/* The weights of 16 keys, packed as a product wants them. */
template <typename T>
__device__ __forceinline__ void weigh_16(uint32_t (&p)[4], const float *s, float (&sum)[2],
                                         const float (&top)[2], float scale)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float first = power_of_2(fmaf(s[2 * i], scale, -top[i % 2]));
        float second = power_of_2(fmaf(s[2 * i + 1], scale, -top[i % 2]));
        sum[i % 2] += first + second;
        p[i] = pack2<T>(first, second);
    }
}

template <typename T>
__device__ __forceinline__ void store_rows(const float (&out)[D / 2], const float (&sum)[2],
                                           const head_view<T> &h, int row)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float w = inverse(whole_sum(sum[half]));
        T *to = h.out + (size_t)(row + 8 * half) * h.width;
        int dim = row + 8 * half < h.tokens ? D : 0;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            const float *a = out + 4 * n + 2 * half, *b = a + 4;
            const float v[2][2] = {{a[0] * w, a[1] * w}, {b[0] * w, b[1] * w}};
            store_16(to, n, dim, v);
        }
    }
}

/* Weights and products with the values, 64 keys at a time; a warp past the last row has only the
 * latter to do, as wgmma is the four warps' together. */
template <typename C>
__device__ __forceinline__ void finish_rows(float (&s)[C::KEYS / 2], const small_shared &m,
                                            const head_view<typename C::T> &h, int row, float scale)
{
    typedef typename C::T T;
    const int STEPS = C::KEYS / 16;
    bool any = row - (int)threadIdx.x % 32 / 4 < h.tokens;
    float out[D / 2], sum[2] = {0, 0}, top[2] = {0, 0};
    uint32_t p[STEPS][4];
    if (any)
        top[0] = row_top(s, 0, scale), top[1] = row_top(s, 1, scale);
    barrier_wait(m.v_here, 0);
#pragma unroll
    for (int first = 0; first < STEPS; first += 4) {
#pragma unroll
        for (int i = first; i < first + 4 && i < STEPS; i++)
            p[i][0] = p[i][1] = p[i][2] = p[i][3] = 0;
        if (any)
#pragma unroll
            for (int i = first; i < first + 4 && i < STEPS; i++)
                weigh_16<T>(p[i], s + 8 * i, sum, top, scale);
#pragma unroll
        for (int i = first; i < first + 4 && i < STEPS; i++)
            products_touch(p[i]);
        products_begin();
#pragma unroll
        for (int i = first; i < first + 4 && i < STEPS; i++)
            product<D, T>::template left<1>(out, p[i], operand(m.v + i * 16 * ROW_BYTES), i > 0);
        products_commit();
    }
    products_wait<0>();
    products_touch(out);
    store_rows<T>(out, sum, h, row);
}

#endif

template <typename C>
__global__ void __launch_bounds__(THREADS, C::BLOCKS)
    small_kernel(const __grid_constant__ CUtensorMap queries,
                 const __grid_constant__ CUtensorMap keys, vt_cuda_attention a, unsigned parts)
{
#if VT_SM90A
    extern __shared__ char shared[];
    __shared__ uint64_t barrier[3];
    uint32_t base = (shared_offset(shared) + 1023) & ~1023u, b = shared_offset(barrier);
    small_shared m = {base + C::Q_AT, base + C::K_AT, base + C::V_AT, b, b + 8, b + 16};
    unsigned index = blockIdx.x / parts;
    head_view<typename C::T> h = view_of<typename C::T>(a, index);
    int column = (int)((h.q - (const typename C::T *)a.qkv) % (3 * h.width));
    int image = (int)(index / a.group_heads), first = (int)(blockIdx.x % parts) * ROWS;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; i++)
            barrier_init(b + 8 * i, 1);
        barrier_init_done();
    }
    __syncthreads();
    after_previous();
    let_next_start();
    if (threadIdx.x == 0) {
        copy_queries(m, &queries, column, first, image);
        copy_all<C>(m.k, m.k_here, &keys, column + h.width, image);
        copy_all<C>(m.v, m.v_here, &keys, column + 2 * h.width, image);
    }
    barrier_wait(m.k_here, 0);
    for (int phase = 0; first < a.tokens; phase ^= 1) {
        int row = first + (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
        float s[C::KEYS / 2];
        uint32_t on[2][C::KEYS / 32 + 1];
        barrier_wait(m.q_here, phase);
        begin_scores<C>(s, m);
        if (C::MASKED)
            load_on<C>(on, a, row);
        products_wait<0>();
        products_touch(s);
        __syncthreads(); /* the queries have been read */
        first += (int)parts * ROWS;
        if (threadIdx.x == 0 && first < a.tokens)
            copy_queries(m, &queries, column, first, image);
        forbid_all<C>(s, on, a.tokens);
        finish_rows<C>(s, m, h, row, a.scale * 1.44269504f);
    }
#endif
}

/* ---- launching ---- */

/* Among how many blocks to divide a head: the estimate counts, for the multiprocessor with most
 * blocks, their groups of 64 queries, half a group for each block's beginning, and half of what one
 * block takes by itself. */
template <typename C> static int choose_parts(const vt_cuda_attention *a, int processors)
{
    int groups = (a->tokens + ROWS - 1) / ROWS, best = 1;
    int64_t least = INT64_MAX;
    for (int parts = 1; parts <= groups; parts++) {
        int64_t blocks = (int64_t)a->images * a->group_heads * parts,
                mine = (groups + parts - 1) / parts;
        int64_t most = (blocks + processors - 1) / processors;
        if (most > C::BLOCKS)
            most = (most + C::BLOCKS - 1) / C::BLOCKS * C::BLOCKS;
        int64_t cost = most * (2 * mine + 1) + mine;
        if (cost <= least)
            best = parts, least = cost;
    }
    return best;
}

template <typename C> static int run(const vt_cuda_attention *a, cudaStream_t stream)
{
    CUtensorMap queries, keys;
    int device, processors = 0;
    int failed = cudaGetDevice(&device);
    if (!failed)
        failed = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (!failed)
        failed = map_rows(&queries, a, ROWS);
    if (!failed)
        failed = map_rows(&keys, a, C::BOX);
    if (!failed)
        failed = allow_shared(small_kernel<C>, C::SHARED);
    if (failed)
        return failed;
    unsigned parts = (unsigned)choose_parts<C>(a, processors);
    return launch(small_kernel<C>, (unsigned)(a->images * a->group_heads) * parts, THREADS,
                  C::SHARED, stream, queries, keys, *a, parts);
}

template <typename T, bool MASKED>
static int run_masked(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->tokens <= 64    ? run<small_config<T, 0, 64, 0, 0, MASKED>>(a, stream)
           : a->tokens <= 144 ? run<small_config<T, 64, 128, 16, 0, MASKED>>(a, stream)
           : a->tokens <= 208 ? run<small_config<T, 144, 128, 64, 16, MASKED>>(a, stream)
                              : run<small_config<T, 208, 128, 128, 16, MASKED>>(a, stream);
}

template <typename T> static int run_type(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->bits ? run_masked<T, true>(a, stream) : run_masked<T, false>(a, stream);
}

extern "C" bool vt_cuda_attend_small_serves(const vt_cuda_attention *a, int capability)
{
    return capability == 90 && a->type != VT_F32 && a->head_dim == D && a->tokens <= 272 &&
           a->scale > 0 && !a->bias.table;
}

extern "C" int vt_cuda_attend_small(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->type == VT_F16 ? run_type<__half>(a, stream) : run_type<__nv_bfloat16>(a, stream);
}
