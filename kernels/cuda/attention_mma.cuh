/* The pieces of fused attention with mma.sync: fp16 or bf16 (m16n8k16), or fp32 rounded to tf32
 * (m16n8k8), sums in fp32; compute capability 8.0 and later. A warp has M groups of 16 query rows
 * of one head and sees the keys in tiles of 32 which lie in shared memory with their values:
 *
 *   scores      s = q k^T                   queries in registers, keys through ldmatrix
 *   forbid      s = -inf where a bit is 0
 *   weigh       p = 2^(scale s - top)       top: about the row's maximum so far; sum += p
 *   add_values  out += p v
 *
 * and, at the end, out / sum. Where tiles come from and in which order is the kernels' matter:
 * attention_mma.cu.
 *
 * Accumulators of a warp: lane l has rows l / 4 and l / 4 + 8 of a group, and of each 8 columns the
 * two at 2 (l % 4). Packed in pairs, p has the layout that mma wants for 16-bit types; for tf32 it
 * has it too, if the keys of 8 are taken in the order 0, 2, 4, 6, 1, 3, 5, 7.
 *
 * Both kinds of mma take 32 bytes of a key's row in a step, so they share all but the loading of
 * queries, add_values and the rounding.
 *
 * `top` follows the row's maximum lazily: it is raised only when a score exceeds it by more than
 * SLACK, so p stays below 2^SLACK, where the types are as precise as below 1, and `out` is seldom
 * rescaled. It starts at a finite value below every score, so that rows without keys need no case
 * of their own: their weights are 2^-inf = 0, and so is their sum.
 */
#ifndef VT_CUDA_ATTENTION_MMA_CUH
#define VT_CUDA_ATTENTION_MMA_CUH

#include "kernels/cuda/attention_tokens.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const float NO_SCORE_YET = -3e38f, SLACK = 8;

/* ---- instructions ---- */

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, zeros instead where !valid (`from` is not read then). */
__device__ __forceinline__ void copy16_async(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void end_of_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most `pending` of this thread's latest groups of copies are under way. */
template <int pending> __device__ __forceinline__ void await_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ uint32_t load_word(uint32_t from)
{
    uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
    return word;
}

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1);
template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                   uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<float>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t to_tf32(float x)
{
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- one head of one image ---- */

template <typename T> struct head_view {
    static const int CHUNK = 16 / sizeof(T); /* elements in 16 bytes */
    const T *q; /* of the image's first token; k and v lie `width` and 2 `width` further */
    T *out;
    int width, tokens, dim; /* width: heads * dim; a token is 3 `width` after the one before */

    __device__ __forceinline__ bool whole() const /* are heads whole chunks? */
    {
        return dim % CHUNK == 0;
    }
    __device__ __forceinline__ const T *k() const
    {
        return q + width;
    }
    __device__ __forceinline__ const T *v() const
    {
        return q + 2 * width;
    }
};

/* The index'th pair of image and listed head. */
template <typename T>
__device__ __forceinline__ head_view<T> view_of(const vt_cuda_attention &a, unsigned index)
{
    size_t image = index / (unsigned)a.group_heads;
    int head = (int)(index % (unsigned)a.group_heads), width = a.heads * a.head_dim;
    if (a.head)
        head = a.head[head];
    size_t row = image * a.tokens, column = (size_t)head * a.head_dim;
    return {(const T *)a.qkv + row * 3 * width + column, (T *)a.out + row * width + column, width,
            a.tokens, a.head_dim};
}

/* ---- rows of D columns in shared memory, in chunks of 16 bytes ---- */

/* Eight rows' equal chunks lie in different banks: by xor where rows fill whole lines of 128 bytes,
 * else because rows are an odd number of chunks apart. Tiles begin at multiples of rows then. */
template <typename T, int D> struct rows_of {
    static const int CHUNKS = D * (int)sizeof(T) / 16, STRIDE = CHUNKS % 8 ? CHUNKS | 1 : CHUNKS,
                     BYTES = STRIDE * 16;

    __device__ static __forceinline__ uint32_t at(int row, int chunk)
    {
        return (uint32_t)(row * STRIDE + (CHUNKS % 8 ? chunk : chunk ^ (row & 7))) * 16;
    }

    /* From the address of a chunk (0 or 1 of a row) to that of the chunk `chunks` (even) further. */
    __device__ static __forceinline__ uint32_t further(uint32_t address, int chunks)
    {
        return CHUNKS % 8 ? address + chunks * 16 : address ^ chunks * 16;
    }
};

/* Asynchronously: tokens' rows of a head's k or v, by THREADS threads; zeros where there is no
 * token and beyond the head. Heads are whole chunks. A thread keeps to one column. */
template <int D, int THREADS, typename T, typename Tokens>
__device__ __forceinline__ void copy_rows(uint32_t to, const T *from, const head_view<T> &h,
                                          Tokens tokens, int rows, int thread)
{
    const int CHUNKS = rows_of<T, D>::CHUNKS, STEP = THREADS / CHUNKS;
    int row = thread / CHUNKS, chunk = thread % CHUNKS;
    bool real = chunk * h.CHUNK < h.dim;
    const T *source = from + chunk * h.CHUNK;
    if (row >= STEP)
        return;
#pragma unroll 4
    for (; row < rows; row += STEP)
        copy16_async(to + rows_of<T, D>::at(row, chunk),
                     source + (size_t)tokens.at(row) * (3 * h.width), real && tokens.real(row));
}

/* The same at once, for heads that are not whole chunks; `to` is generic. */
template <int D, int THREADS, typename T, typename Tokens>
__device__ void copy_rows_slowly(char *to, const T *from, const head_view<T> &h, Tokens tokens,
                                 int rows, int thread)
{
    for (int i = thread; i < rows * D; i += THREADS) {
        int row = i / D, col = i % D;
        T *element = (T *)(to + rows_of<T, D>::at(row, col / h.CHUNK)) + col % h.CHUNK;
        bool real = tokens.real(row) && col < h.dim;
        *element = real ? from[(size_t)tokens.at(row) * (3 * h.width) + col] : from_f32<T>(0);
        if constexpr (sizeof(T) == 4)
            *element = __uint_as_float(to_tf32(*element));
    }
}

/* Rounds to tf32 what this thread has copied with copy_rows. */
template <int D, int THREADS>
__device__ __forceinline__ void round_rows(char *rows, int count, int thread)
{
    const int CHUNKS = rows_of<float, D>::CHUNKS, STEP = THREADS / CHUNKS;
#pragma unroll 4
    for (int row = thread / CHUNKS; row < count && thread < STEP * CHUNKS; row += STEP) {
        uint4 *at = (uint4 *)(rows + rows_of<float, D>::at(row, thread % CHUNKS)), v = *at;
        *at = make_uint4(to_tf32(__uint_as_float(v.x)), to_tf32(__uint_as_float(v.y)),
                         to_tf32(__uint_as_float(v.z)), to_tf32(__uint_as_float(v.w)));
    }
}

/* ---- what a warp holds ---- */

template <typename T, int D, int M> struct warp_state {
    static const int STEPS = D * (int)sizeof(T) / 32;
    uint32_t q[M][STEPS][4];
    float out[M][D / 8][4];
    float top[M][2], sum[M][2]; /* of rows l / 4 and l / 4 + 8; sum: of this lane's columns */
};

template <typename T, int D, int M> __device__ __forceinline__ void clear(warp_state<T, D, M> &st)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int i = 0; i < 4 * (D / 8); i++)
            st.out[m][i / 4][i % 4] = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            st.top[m][half] = NO_SCORE_YET;
            st.sum[m][half] = 0;
        }
    }
}

/* What a lane has of a chunk of a query: two neighbouring columns, or one in tf32; zeros beyond the
 * head. */
template <bool WHOLE, typename T>
__device__ __forceinline__ uint32_t query_part(const T *row, int chunk, int dim)
{
    int col = chunk * 8 + threadIdx.x % 4 * 2;
    if (WHOLE)
        return col < dim ? *reinterpret_cast<const uint32_t *>(row + col) : 0;
    return pack2<T>(col < dim ? to_f32(row[col]) : 0.0f,
                    col + 1 < dim ? to_f32(row[col + 1]) : 0.0f);
}
template <bool WHOLE>
__device__ __forceinline__ uint32_t query_part(const float *row, int chunk, int dim)
{
    int col = chunk * 4 + threadIdx.x % 4;
    return to_tf32(col < dim ? row[col] : 0.0f);
}

/* The tokens of this lane's rows, l / 4 and l / 4 + 8 of each group; -1: none. */
template <int M> struct lane_tokens {
    int at[M][2];

    /* Consecutive ones. */
    __device__ __forceinline__ void range(int first, int tokens)
    {
#pragma unroll
        for (int i = 0; i < 2 * M; i++) {
            int row = first + 8 * i + (int)(threadIdx.x % 32) / 4;
            at[i / 2][i % 2] = row < tokens ? row : -1;
        }
    }
};

/* Straight from global memory. WHOLE: heads are whole chunks. */
template <bool WHOLE, typename T, int D, int M>
__device__ __forceinline__ void load_queries(warp_state<T, D, M> &st, const head_view<T> &h,
                                             const lane_tokens<M> &tokens)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int token = tokens.at[m][half];
            const T *q = h.q + (size_t)max(token, 0) * (3 * h.width);
            int dim = token < 0 ? 0 : h.dim;
#pragma unroll
            for (int i = 0; i < 2 * st.STEPS; i++)
                st.q[m][i / 2][i % 2 * 2 + half] = query_part<WHOLE>(q, i, dim);
        }
}

/* ---- a tile of 8 NT keys ---- */

template <typename T, int D, int M, int NT>
__device__ __forceinline__ void scores(float (&s)[M][NT][4], const warp_state<T, D, M> &st,
                                       uint32_t keys)
{
    int lane = threadIdx.x % 32;
    uint32_t mine = keys + rows_of<T, D>::at(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < M * NT * 4; i++)
        s[i / 4 / NT][i / 4 % NT][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < st.STEPS; step++)
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t b[4]; /* keys 8n .. 8n + 7: both chunks of the step; then 8 more keys */
            load_matrices(b, rows_of<T, D>::further(mine, 2 * step) + n * 8 * rows_of<T, D>::BYTES);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma<T>(s[m][n], st.q[m][step], b[0], b[1]);
                mma<T>(s[m][n + 1], st.q[m][step], b[2], b[3]);
            }
        }
}

/* Switches off what the mask does not allow: see "masks". */
template <typename Mask, int M, int NT>
__device__ __forceinline__ void forbid(float (&s)[M][NT][4], const Mask &mask)
{
    Mask mine = mask.of_lane();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4 * NT; i++)
            if (!mine.allows(m, i))
                s[m][i / 4][i % 4] = -INFINITY;
}

/* Raises `top` to the maximum of itself and the tile's scores; each lane brings the maxima of its
 * columns. */
template <typename T, int D, int M>
__device__ __forceinline__ void raise(warp_state<T, D, M> &st, const float (&most)[M][2])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = fmaxf(st.top[m][half], most[m][half]);
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float shrink = power_of_2(st.top[m][half] - top);
            st.top[m][half] = top;
            st.sum[m][half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                st.out[m][n][half * 2] *= shrink;
                st.out[m][n][half * 2 + 1] *= shrink;
            }
        }
}

/* s becomes the weights p. scale includes log2 e and is positive. */
template <typename T, int D, int M, int NT>
__device__ __forceinline__ void weigh(float (&s)[M][NT][4], warp_state<T, D, M> &st, float scale)
{
    float most[M][2];
    bool high = false;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = s[m][0][half * 2];
#pragma unroll
            for (int i = 1; i < 2 * NT; i++)
                max = fmaxf(max, s[m][i / 2][half * 2 + i % 2]);
            most[m][half] = max * scale;
            high |= most[m][half] > st.top[m][half] + SLACK;
        }
    if (__any_sync(0xffffffffu, high))
        raise(st, most);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4 * NT; i++) {
            float &p = s[m][i / 4][i % 4];
            p = power_of_2(fmaf(p, scale, -st.top[m][i % 4 / 2]));
            st.sum[m][i % 4 / 2] += p;
        }
}

/* values: of the tile's first key. */
template <typename T, int D, int M, int NT>
__device__ __forceinline__ void add_values(warp_state<T, D, M> &st, const float (&p)[M][NT][4],
                                           uint32_t values)
{
    int lane = threadIdx.x % 32;
    uint32_t mine = values + rows_of<T, D>::at(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < NT / 2; step++) { /* of 16 keys */
        uint32_t a[M][4];
#pragma unroll
        for (int i = 0; i < 4 * M; i++) {
            const float *two = &p[i / 4][2 * step + i % 4 / 2][i % 2 * 2];
            a[i / 4][i % 4] = pack2<T>(two[0], two[1]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4]; /* columns 8n .. 8n + 7: keys 0-7, 8-15; then 8 more columns */
            load_transposed(b, rows_of<T, D>::further(mine, n) + step * 16 * rows_of<T, D>::BYTES);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma<T>(st.out[m][n], a[m], b[0], b[1]);
                mma<T>(st.out[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <int D, int M, int NT>
__device__ __forceinline__ void add_values(warp_state<float, D, M> &st, const float (&p)[M][NT][4],
                                           uint32_t values)
{
    typedef rows_of<float, D> R;
    int lane = threadIdx.x % 32, column = lane / 4;
#pragma unroll
    for (int step = 0; step < NT; step++) { /* of 8 keys: lanes have keys 2 (l % 4) and the next */
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            a[m][0] = to_tf32(p[m][step][0]), a[m][1] = to_tf32(p[m][step][2]);
            a[m][2] = to_tf32(p[m][step][1]), a[m][3] = to_tf32(p[m][step][3]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            int key = lane % 4 * 2, chunk = 2 * n + column / 4;
            uint32_t at = values + step * 8 * R::BYTES + column % 4 * 4;
            uint32_t b0 = load_word(at + R::at(key, chunk)),
                     b1 = load_word(at + R::at(key + 1, chunk));
#pragma unroll
            for (int m = 0; m < M; m++)
                mma<float>(st.out[m][n], a[m], b0, b1);
        }
    }
}

/* Where a tile lies in a relative position bias: of a head, from a query and a key on. */
struct bias_view {
    const float *table; /* of the head */
    const int32_t *row, *col;
    int tokens, query, key;
};

/* Entries beyond the tokens take any bias. */
template <int M, int NT>
__device__ __forceinline__ void add_bias(float (&s)[M][NT][4], const bias_view &b)
{
    int lane = threadIdx.x % 32, last = b.tokens - 1, col[2 * NT];
#pragma unroll
    for (int i = 0; i < 2 * NT; i++)
        col[i] = b.col[min(b.key + i / 2 * 8 + lane % 4 * 2 + i % 2, last)];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *bias = b.table + b.row[min(b.query + 16 * m + 8 * half + lane / 4, last)];
#pragma unroll
            for (int i = 0; i < 2 * NT; i++)
                s[m][i / 2][half * 2 + i % 2] += bias[col[i]];
        }
}

template <bool MASK, bool BIAS, typename T, int D, int M, typename Mask>
__device__ __forceinline__ void take_tile(warp_state<T, D, M> &st, uint32_t keys, uint32_t values,
                                          const Mask &mask, float scale, const bias_view &bias)
{
    float s[M][4][4];
    scores<T>(s, st, keys);
    if (BIAS)
        add_bias(s, bias);
    if (MASK)
        forbid(s, mask);
    weigh(s, st, scale);
    add_values(st, s, values);
}

/* ---- masks: which pairs of a lane's rows and 32 keys are on ---- */

/* As the bitmap has them: a word for each row, bit j for key j. */
template <int M> struct row_words {
    uint32_t on[M][2];

    /* The bitmap's for keys `key` to `key` + 31, or ones up to the last token; row: the first of
     * the warp's. Zeros beyond the tokens. */
    __device__ __forceinline__ void load(const vt_cuda_attention &a, int first, int key)
    {
        int left = a.tokens - key;
#pragma unroll
        for (int i = 0; i < 2 * M; i++) {
            int row = first + 8 * i + (int)(threadIdx.x % 32) / 4;
            uint32_t &word = on[i / 2][i % 2];
            if (a.bits)
                word = row < a.tokens ? a.bits[(size_t)row * a.words + key / 32] : 0;
            else
                word = left >= 32 ? 0xffffffffu : left > 0 ? (1u << left) - 1 : 0;
        }
    }

    __device__ __forceinline__ bool some() const
    {
        uint32_t any = 0;
#pragma unroll
        for (int i = 0; i < 2 * M; i++)
            any |= on[i / 2][i % 2];
        return any;
    }

    __device__ __forceinline__ bool all() const
    {
        uint32_t every = 0xffffffffu;
#pragma unroll
        for (int i = 0; i < 2 * M; i++)
            every &= on[i / 2][i % 2];
        return every == 0xffffffffu;
    }

    /* Shifted to the lane's columns; allows() wants that. */
    __device__ __forceinline__ row_words of_lane() const
    {
        row_words w;
#pragma unroll
        for (int i = 0; i < 2 * M; i++)
            w.on[i / 2][i % 2] = on[i / 2][i % 2] >> threadIdx.x % 4 * 2;
        return w;
    }

    __device__ __forceinline__ bool allows(int m, int i) const
    {
        return on[m][i % 4 / 2] >> (i / 4 * 8 + i % 2) & 1;
    }
};

/* In the accumulators' order, as columns.h has them: bit i for element i % 4 of columns i / 4. */
template <int M> struct lane_words {
    uint32_t on[M]; /* 16 bits */

    __device__ __forceinline__ bool some() const
    {
        uint32_t any = 0;
#pragma unroll
        for (int m = 0; m < M; m++)
            any |= on[m];
        return any;
    }

    __device__ __forceinline__ bool all() const
    {
        uint32_t every = 0xffff;
#pragma unroll
        for (int m = 0; m < M; m++)
            every &= on[m];
        return every == 0xffff;
    }

    __device__ __forceinline__ lane_words of_lane() const
    {
        return *this;
    }

    __device__ __forceinline__ bool allows(int m, int i) const
    {
        return on[m] >> i & 1;
    }
};

/* A tile of 32 keys: not at all, without a test of bits, or with one. */
template <bool BIAS, typename T, int D, int M, typename Mask>
__device__ __forceinline__ void visit(warp_state<T, D, M> &st, uint32_t keys, uint32_t values,
                                      const Mask &mask, float scale, const bias_view &bias)
{
    if (__all_sync(0xffffffffu, mask.all()))
        take_tile<false, BIAS>(st, keys, values, mask, scale, bias);
    else if (__any_sync(0xffffffffu, mask.some()))
        take_tile<true, BIAS>(st, keys, values, mask, scale, bias);
}

/* ---- the end ---- */

/* A row's sum, from its four lanes. */
__device__ __forceinline__ float whole_sum(float sum)
{
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

__device__ __forceinline__ float inverse(float sum)
{
    return sum > 0 ? 1.0f / sum : 0.0f;
}

/* Columns 8n .. 8n + 15 of a row, by its four lanes: neighbours swap pairs, so that each lane
 * writes 8 bytes and the four a whole sector. */
template <typename T>
__device__ __forceinline__ void store_16(T *row, int n, int dim, const float (&v)[2][2])
{
    int odd = threadIdx.x % 2, col = 8 * (n + odd) + threadIdx.x % 4 / 2 * 4;
    uint32_t first = pack2<T>(v[0][0], v[0][1]), second = pack2<T>(v[1][0], v[1][1]);
    uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
    if (col < dim)
        *reinterpret_cast<uint2 *>(row + col) = make_uint2(odd ? got : first, odd ? second : got);
}

__device__ __forceinline__ void store_16(float *row, int n, int dim, const float (&v)[2][2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int col = 8 * (n + i) + threadIdx.x % 4 * 2;
        if (col < dim)
            *reinterpret_cast<float2 *>(row + col) = make_float2(v[i][0], v[i][1]);
    }
}

template <typename T>
__device__ __forceinline__ void store_16_slowly(T *row, int n, int dim, const float (&v)[2][2])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int col = 8 * (n + i / 2) + threadIdx.x % 4 * 2 + i % 2;
        if (col < dim)
            row[col] = from_f32<T>(v[i / 2][i % 2]);
    }
}

/* out times weight. */
template <bool WHOLE, typename T, int D, int M>
__device__ __forceinline__ void store(const warp_state<T, D, M> &st, const head_view<T> &h,
                                      const lane_tokens<M> &tokens, const float (&weight)[M][2])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float w = weight[m][half];
            int token = tokens.at[m][half], dim = token < 0 ? 0 : h.dim;
            T *to = h.out + (size_t)max(token, 0) * h.width;
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                const float(&a)[4] = st.out[m][n], (&b)[4] = st.out[m][n + 1];
                const float v[2][2] = {{a[half * 2] * w, a[half * 2 + 1] * w},
                                       {b[half * 2] * w, b[half * 2 + 1] * w}};
                if (WHOLE)
                    store_16(to, n, dim, v);
                else
                    store_16_slowly(to, n, dim, v);
            }
        }
}

template <typename T, int D, int M>
__device__ __forceinline__ void inverse_sums(float (&weight)[M][2], const warp_state<T, D, M> &st)
{
#pragma unroll
    for (int i = 0; i < 2 * M; i++)
        weight[i / 2][i % 2] = inverse(whole_sum(st.sum[i / 2][i % 2]));
}

#endif
