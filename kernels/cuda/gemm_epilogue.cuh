/* From sums in registers to y: bias, activation, residual, and the store.
 *
 * Sums go through a slab of shared memory, from wgmma's layout to rows, so that each lane gets
 * neighbouring columns and stores 16 bytes. That also keeps the code short: registers cannot be
 * indexed, so without the slab every step below would be there once for every register. Where y has
 * a 16-bit type and nothing is added to it, bias and activation come first, in registers
 * (finish_packed): the slab then holds half the bytes, and the steps of many elements overlap.
 *
 * The three GELUs are x sigmoid(x p(x^2)): quick GELU by its definition, the tanh form because
 * (1 + tanh z) / 2 = sigmoid(2 z), and the exact one because log(Phi / (1 - Phi)) is odd, with a
 * polynomial fitted to it. So each is x / (1 + 2^(x q(x^2))), q = -p log2 e: two special functions
 * and one multiply-add per coefficient, without a branch.
 */
#ifndef VT_CUDA_GEMM_EPILOGUE_CUH
#define VT_CUDA_GEMM_EPILOGUE_CUH

#include "kernels/cuda/gemm_ptx.cuh"
#include "kernels/cuda/kernels.h"

struct output {
    void *y;
    const float *bias; /* NULL: none */
    int m, n;
    vt_activation act;
    bool wide, add; /* wide: y is fp32 */
};

/* Rows of COLS sums, as chunks of 4. Even chunks come before odd ones, those turned by 4, and rows
 * are a chunk longer: then neither wgmma's pairs nor rows meet a bank twice where COLS is 64. */
template <int COLS> struct slab_of {
    static constexpr int HALF = COLS / 8, STRIDE = COLS + 4, ROW_BYTES = STRIDE * 4;
};

/* The shape of what is finished: rows and columns of a slab, by how many threads. */
template <int ROWS_, int COLS_, int THREADS_> struct finishing {
    static constexpr int ROWS = ROWS_, COLS = COLS_, THREADS = THREADS_;
    static constexpr int SLAB = ROWS * slab_of<COLS>::STRIDE; /* floats */
};

/* The slab of finish_packed, for a warp, its bias included. */
constexpr int PACKED = 64, PACKED_ROW = PACKED * 2 + 16, PACKED_SLAB = 16 * PACKED_ROW + PACKED * 4;

/* q for the exact GELU: a minimax fit of the result over |x| <= 6.5, weighted with what an error of
 * q does to it; beyond, q keeps its sign and the result is x or 0. Error with the
 * arithmetic in fp32, over every third finite float, on a CPU: below 2e-7 max(1, |x|). */
__device__ constexpr float gelu_q[] = {-2.3022072f,    -0.104838585f,   9.55954799e-5f,
                                       0.00015938858f, -1.14523056e-5f, 3.8503664e-7f,
                                       -5.20970628e-9f};
/* -2 sqrt(2 / pi) log2 e (1 + 0.044715 x^2) */
__device__ constexpr float tanh_q[] = {-2.30220820f, -0.102943240f};
/* -1.702 log2 e */
__device__ constexpr float quick_q[] = {-2.45546696f};

#if VT_SM90A

/* All at once, step by step: one alone would wait for each of its own steps. */
template <int N, int TERMS>
__device__ __forceinline__ void gelu_all(float (&x)[N], const float (&q)[TERMS])
{
    float square[N], sum[N];
#pragma unroll
    for (int i = 0; i < N; i++)
        square[i] = x[i] * x[i], sum[i] = q[TERMS - 1];
#pragma unroll
    for (int term = TERMS - 2; term >= 0; term--)
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = fmaf(sum[i], square[i], q[term]);
#pragma unroll
    for (int i = 0; i < N; i++)
        sum[i] = exp2_fast(x[i] * sum[i]);
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] *= reciprocal_fast(1 + sum[i]);
}

template <vt_activation ACT, int N> __device__ __forceinline__ void activate(float (&x)[N])
{
    if (ACT == VT_ACT_GELU)
        gelu_all(x, gelu_q);
    else if (ACT == VT_ACT_GELU_TANH)
        gelu_all(x, tanh_q);
    else if (ACT == VT_ACT_QUICK_GELU)
        gelu_all(x, quick_q);
}

/* Four neighbouring elements of a vector of n, zeros where there are none. */
__device__ __forceinline__ float4 four_of(const float *v, int col, int n)
{
    if (!v || col >= n)
        return make_float4(0, 0, 0, 0);
    return __ldg(reinterpret_cast<const float4 *>(v + col));
}

/* A lane's part of 16 rows of wgmma's sums to the slab at a shared offset. */
template <int COLS> __device__ __forceinline__ void put_sums(const float *acc, uint32_t slab)
{
    using s = slab_of<COLS>;
    int lane = threadIdx.x % 32, odd = lane / 2 % 2;
    slab += lane / 4 * s::ROW_BYTES + lane % 2 * 8;
    uint32_t before = slab + odd * (s::HALF + 4) * 16, after = slab + odd * 64; /* the turn */
#pragma unroll
    for (int j = 0; j < s::HALF; j++) {
        uint32_t to = (j < s::HALF - 4 ? before : after) + j * 16;
        shared_store(to, acc[4 * j], acc[4 * j + 1]);
        shared_store(to + 8 * s::ROW_BYTES, acc[4 * j + 2], acc[4 * j + 3]);
    }
}

/* Where chunk number `chunk` of a row of a slab is, in floats. */
template <int COLS> __device__ __forceinline__ int place_of_chunk(int chunk)
{
    constexpr int HALF = slab_of<COLS>::HALF;
    return 4 * (chunk % 2 ? HALF + (chunk / 2 + 4) % HALF : chunk / 2);
}

/* A warp's 16 rows of COLS sums as y of a 16-bit type, 64 columns at a time through a slab of rows
 * of PACKED_ROW bytes, which meet every bank once; lane l has bias 4 l and on. */
template <class T, int COLS, vt_activation ACT>
__device__ __forceinline__ void finish_packed(const output &o, const float (&acc)[COLS / 2],
                                              float4 bias, int row, int col, float *slab)
{
    int lane = threadIdx.x % 32, rows = min(16, o.m - row);
    unsigned char *packed = reinterpret_cast<unsigned char *>(slab);
    float *bias_row = reinterpret_cast<float *>(packed + 16 * PACKED_ROW);
    uint32_t put = shared_offset(packed) + lane / 4 * PACKED_ROW + lane % 4 * 4;
#pragma unroll
    for (int part = 0; part < COLS / PACKED; part++) {
        if (lane / (PACKED / 4) == part)
            reinterpret_cast<float4 *>(bias_row)[lane % (PACKED / 4)] = bias;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < PACKED / 8; j += 2) { /* 16 columns */
            const float *a = &acc[part * (PACKED / 2) + 4 * j];
            const float2 *b = reinterpret_cast<const float2 *>(bias_row + 8 * j + lane % 4 * 2);
            float x[8] = {a[0] + b[0].x, a[1] + b[0].y, a[2] + b[0].x, a[3] + b[0].y,
                          a[4] + b[4].x, a[5] + b[4].y, a[6] + b[4].x, a[7] + b[4].y};
            activate<ACT>(x);
            shared_store(put + j * 16, pack2<T>(x[0], x[1]));
            shared_store(put + j * 16 + 8 * PACKED_ROW, pack2<T>(x[2], x[3]));
            shared_store(put + j * 16 + 16, pack2<T>(x[4], x[5]));
            shared_store(put + j * 16 + 16 + 8 * PACKED_ROW, pack2<T>(x[6], x[7]));
        }
        __syncwarp();
        int to = col + part * PACKED + lane % 8 * 8;
        T *y = static_cast<T *>(o.y) + (size_t)(row + lane / 8) * o.n + to;
#pragma unroll
        for (int r = lane / 8; r < 16; r += 4, y += 4 * (size_t)o.n)
            if (r < rows && to < o.n)
                *reinterpret_cast<uint4 *>(y) =
                    *reinterpret_cast<const uint4 *>(packed + r * PACKED_ROW + lane % 8 * 16);
        __syncwarp();
    }
}

template <class T> __device__ __forceinline__ void add_old(float (&x)[8], const T *y)
{
    uint4 packed = *reinterpret_cast<const uint4 *>(y);
    const T *old = reinterpret_cast<const T *>(&packed);
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] += to_f32(old[i]);
}

/* y (16-bit) for 8 neighbouring columns. */
template <class T> __device__ __forceinline__ void store(const output &o, float (&x)[8], T *y)
{
    if (o.add)
        add_old(x, y);
    *reinterpret_cast<uint4 *>(y) = make_uint4(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]),
                                               pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7]));
}

/* y (fp32) for 4. */
__device__ __forceinline__ void store(const output &o, const float (&x)[4], float *y)
{
    float4 v = make_float4(x[0], x[1], x[2], x[3]);
    if (o.add)
        add_to(y, v);
    else
        *reinterpret_cast<float4 *>(y) = v;
}

/* y, of elements E, N columns by each thread; the slab's first sum belongs to y[row, col], bias is
 * the columns' in shared memory. */
template <class E, int N, class F, vt_activation ACT>
__device__ __forceinline__ void finish_by(const output &o, const float *slab, const float *bias,
                                          int thread, int row, int col)
{
    constexpr int ACROSS = F::COLS / N, DOWN = F::THREADS / ACROSS;
    constexpr int STRIDE = slab_of<F::COLS>::STRIDE;
    int right = thread % ACROSS, down = thread / ACROSS;
    int rows = min(F::ROWS, o.m - row);
    if (down >= DOWN || col + right * N >= o.n)
        return;
    float4 b[N / 4];
    const float *from[N / 4];
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        b[i] = *reinterpret_cast<const float4 *>(bias + right * N + 4 * i);
        from[i] = slab + down * STRIDE + place_of_chunk<F::COLS>(right * (N / 4) + i);
    }
    E *y = static_cast<E *>(o.y) + (size_t)(row + down) * o.n + col + right * N;
#pragma unroll 2
    for (int r = down; r < rows; r += DOWN, y += (size_t)DOWN * o.n) {
        float x[N];
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            float4 v = *reinterpret_cast<const float4 *>(from[i]);
            x[4 * i] = v.x + b[i].x, x[4 * i + 1] = v.y + b[i].y;
            x[4 * i + 2] = v.z + b[i].z, x[4 * i + 3] = v.w + b[i].w;
            from[i] += DOWN * STRIDE;
        }
        activate<ACT>(x);
        store(o, x, y);
    }
}

template <class T, class F, vt_activation ACT>
__device__ __forceinline__ void finish_as(const output &o, const float *slab, const float *bias,
                                          int thread, int row, int col)
{
    if (o.wide)
        finish_by<float, 4, F, ACT>(o, slab, bias, thread, row, col);
    else
        finish_by<T, 8, F, ACT>(o, slab, bias, thread, row, col);
}

template <class T, class F>
__device__ __forceinline__ void finish(const output &o, const float *slab, const float *bias,
                                       int thread, int row, int col)
{
    if (o.act == VT_ACT_NONE)
        finish_as<T, F, VT_ACT_NONE>(o, slab, bias, thread, row, col);
    else if (o.act == VT_ACT_GELU)
        finish_as<T, F, VT_ACT_GELU>(o, slab, bias, thread, row, col);
    else if (o.act == VT_ACT_GELU_TANH)
        finish_as<T, F, VT_ACT_GELU_TANH>(o, slab, bias, thread, row, col);
    else
        finish_as<T, F, VT_ACT_QUICK_GELU>(o, slab, bias, thread, row, col);
}

#endif
#endif
