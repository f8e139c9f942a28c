/* LayerNorm of rows: y = (x - mean) / sqrt(var + eps) * gamma + beta, over the columns of a token
 * or over each head of q and k. A warp has a row; the row stays in registers, so that the mean
 * comes first and then the mean of squared distances from it: no cancellation where |mean| is
 * large. RMSNorm, where beta alone is NULL, is the same with 0 for the mean. Sums are fp32. Bytes
 * are the cost: each value is read and written once. Also what products want that normalise their
 * input themselves: moments of its rows, sums of the weights' rows.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int WARPS = 4; /* rows of a block, at most */

__device__ __forceinline__ float warp_sum(float v)
{
    for (int i = 16; i; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

/* ---- eight neighbours at a time ---- */

__device__ __forceinline__ void load8(float (&v)[8], const float *p)
{
    float4 u[2] = {reinterpret_cast<const float4 *>(p)[0], reinterpret_cast<const float4 *>(p)[1]};
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = reinterpret_cast<const float *>(u)[i];
}
template <typename T> __device__ __forceinline__ void load8(float (&v)[8], const T *p)
{
    uint4 u = *reinterpret_cast<const uint4 *>(p);
    const T *t = reinterpret_cast<const T *>(&u);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = to_f32(t[i]);
}
__device__ __forceinline__ void store8(float *p, const float (&v)[8])
{
    reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
template <typename T> __device__ __forceinline__ void store8(T *p, const float (&v)[8])
{
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]),
                                               pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}

/* ---- rows whose width is a multiple of 8, VECS * 256 at most ---- */

/* Lane `lane` has the values 8 (lane + 32 i) and on; what is not there, and all without x, is
 * `none`. */
template <typename X, int VECS>
__device__ __forceinline__ void load_row(float (&v)[VECS][8], const X *x, int lane, int vecs,
                                         float none)
{
#pragma unroll
    for (int i = 0; i < VECS; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[i][j] = none;
        if (x && lane + 32 * i < vecs)
            load8(v[i], x + 8 * (lane + 32 * i));
    }
}

/* gamma and beta are weights: they are fetched while the kernel before is still at work. Without
 * both, where not AFFINE, more rows fit into a multiprocessor. */
template <typename X, typename Y, int VECS, bool AFFINE>
__global__ void __launch_bounds__(32 * WARPS)
    norm_kernel(Y *y, const X *x, size_t rows, int cols, const float *gamma, const float *beta,
                float eps)
{
    size_t row = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32, vecs = cols / 8;
    float v[VECS][8], g[VECS][8], b[VECS][8], sum = 0, squares = 0;
    load_row(g, AFFINE ? gamma : NULL, lane, vecs, 1);
    load_row(b, AFFINE ? beta : NULL, lane, vecs, 0);
    after_previous();
    let_next_start();
    if (row >= rows)
        return;
    load_row(v, x + row * cols, lane, vecs, 0);
#pragma unroll
    for (int i = 0; i < VECS; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum += v[i][j];
    float mean = beta || !AFFINE ? warp_sum(sum) / cols : 0.0f;
#pragma unroll
    for (int i = 0; i < VECS; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            v[i][j] -= mean;
            squares += lane + 32 * i < vecs ? v[i][j] * v[i][j] : 0;
        }
    float scale = rsqrtf(warp_sum(squares) / cols + eps);
    y += row * cols;
#pragma unroll
    for (int i = 0; i < VECS; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[i][j] = v[i][j] * scale * g[i][j] + b[i][j];
        if (lane + 32 * i < vecs)
            store8(y + 8 * (lane + 32 * i), v[i]);
    }
}

/* ---- any width: three passes over the row, value by value; y may be x ---- */

template <typename X, typename Y>
__device__ void norm_row(Y *y, const X *x, int cols, const float *gamma, const float *beta,
                         float eps)
{
    int lane = threadIdx.x % 32;
    float sum = 0, squares = 0;
    for (int i = lane; i < cols; i += 32)
        sum += to_f32(x[i]);
    float mean = beta || !gamma ? warp_sum(sum) / cols : 0.0f;
    for (int i = lane; i < cols; i += 32) {
        float d = to_f32(x[i]) - mean;
        squares += d * d;
    }
    float scale = rsqrtf(warp_sum(squares) / cols + eps);
    for (int i = lane; i < cols; i += 32)
        y[i] = from_f32<Y>((to_f32(x[i]) - mean) * scale * (gamma ? gamma[i] : 1.0f) +
                           (beta ? beta[i] : 0.0f));
}

template <typename X, typename Y>
__global__ void __launch_bounds__(32 * WARPS)
    norm_any_kernel(Y *y, const X *x, size_t rows, int cols, const float *gamma, const float *beta,
                    float eps)
{
    size_t row = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    after_previous();
    let_next_start();
    if (row < rows)
        norm_row(y + row * cols, x + row * cols, cols, gamma, beta, eps);
}

/* ---- moments, and sums of rows ---- */

/* Eight lanes have a part. */
__device__ __forceinline__ float part_sum(float v)
{
    for (int i = VT_MOMENTS / 16; i; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    moments_kernel(float2 *moments, const T *x, size_t rows, int cols)
{
    size_t row = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    after_previous();
    let_next_start();
    if (row >= rows)
        return;
    for (int first = 0; first < cols; first += 256) {
        int col = first + 8 * lane;
        float v[8] = {}, sum = 0, squares = 0;
        if (col < cols)
            load8(v, x + row * cols + col);
        for (int i = 0; i < 8; i++)
            sum += v[i];
        float mean = part_sum(sum) / VT_MOMENTS;
        for (int i = 0; i < 8; i++)
            squares += (v[i] - mean) * (v[i] - mean);
        squares = part_sum(squares);
        if (lane % 8 == 0 && col < cols)
            moments[(row * cols + col) / VT_MOMENTS] = make_float2(mean, squares);
    }
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    row_sums_kernel(float *sums, const T *w, size_t rows, int cols)
{
    size_t row = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    float sum = 0;
    after_previous();
    let_next_start();
    if (row >= rows)
        return;
    for (int i = lane; i < cols; i += 32)
        sum += to_f32(w[row * cols + i]);
    sum = warp_sum(sum);
    if (lane == 0)
        sums[row] = sum;
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    qk_norm_kernel(T *qkv, size_t rows, int heads, int head_dim, const float *q_gamma,
                   const float *q_beta, const float *k_gamma, const float *k_beta, float eps)
{
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / 32, row = i / (2 * heads);
    int head = (int)(i % (2 * heads)); /* q's heads, then k's */
    after_previous();
    let_next_start();
    if (row >= rows)
        return;
    T *p = qkv + row * 3 * heads * head_dim + (size_t)head * head_dim;
    norm_row(p, p, head_dim, head < heads ? q_gamma : k_gamma, head < heads ? q_beta : k_beta, eps);
}

/* ---- launching ---- */

static unsigned blocks_for(size_t rows, int warps)
{
    return (unsigned)((rows + warps - 1) / warps);
}

template <typename X, typename Y>
using norm_function = void (*)(Y *, const X *, size_t, int, const float *, const float *, float);

template <typename X, typename Y, bool AFFINE> static norm_function<X, Y> norm_of(int cols)
{
    return cols % 8 || cols > 2048 ? norm_any_kernel<X, Y>
           : cols <= 512           ? norm_kernel<X, Y, 2, AFFINE>
           : cols <= 768           ? norm_kernel<X, Y, 3, AFFINE>
           : cols <= 1024          ? norm_kernel<X, Y, 4, AFFINE>
                                   : norm_kernel<X, Y, 8, AFFINE>;
}

template <typename X, typename Y>
static int norm(vt_mat y, vt_mat x, const float *gamma, const float *beta, float eps,
                cudaStream_t stream)
{
    int warps = x.rows < 2048 ? 1 : WARPS; /* few rows: over all multiprocessors */
    return launch(gamma ? norm_of<X, Y, true>(x.cols) : norm_of<X, Y, false>(x.cols),
                  blocks_for(x.rows, warps), 32 * warps, 0, stream, (Y *)y.p, (const X *)x.p,
                  x.rows, x.cols, gamma, beta, eps);
}

extern "C" int vt_cuda_norm(vt_mat y, vt_mat x, const float *gamma, const float *beta, float eps,
                            cudaStream_t stream)
{
    if (x.type == VT_F32 && y.type == VT_F32)
        return norm<float, float>(y, x, gamma, beta, eps, stream);
    if (x.type == VT_F32 && y.type == VT_F16)
        return norm<float, __half>(y, x, gamma, beta, eps, stream);
    if (x.type == VT_F32)
        return norm<float, __nv_bfloat16>(y, x, gamma, beta, eps, stream);
    if (x.type == VT_F16 && y.type == VT_F16)
        return norm<__half, __half>(y, x, gamma, beta, eps, stream);
    if (x.type == VT_F16)
        return norm<__half, float>(y, x, gamma, beta, eps, stream);
    if (y.type == VT_BF16)
        return norm<__nv_bfloat16, __nv_bfloat16>(y, x, gamma, beta, eps, stream);
    return norm<__nv_bfloat16, float>(y, x, gamma, beta, eps, stream);
}

extern "C" int vt_cuda_moments(float *moments, vt_mat x, cudaStream_t stream)
{
    int warps = x.rows < 2048 ? 1 : WARPS;
    unsigned blocks = blocks_for(x.rows, warps);
    if (x.type == VT_F16)
        return launch(moments_kernel<__half>, blocks, 32 * warps, 0, stream, (float2 *)moments,
                      (const __half *)x.p, x.rows, x.cols);
    return launch(moments_kernel<__nv_bfloat16>, blocks, 32 * warps, 0, stream, (float2 *)moments,
                  (const __nv_bfloat16 *)x.p, x.rows, x.cols);
}

extern "C" int vt_cuda_row_sums(float *sums, vt_mat w, cudaStream_t stream)
{
    unsigned blocks = blocks_for(w.rows, WARPS);
    if (w.type == VT_F16)
        return launch(row_sums_kernel<__half>, blocks, 32 * WARPS, 0, stream, sums,
                      (const __half *)w.p, w.rows, w.cols);
    return launch(row_sums_kernel<__nv_bfloat16>, blocks, 32 * WARPS, 0, stream, sums,
                  (const __nv_bfloat16 *)w.p, w.rows, w.cols);
}

template <typename T>
static int qk_norm(vt_mat qkv, int heads, int head_dim, const float *q_gamma, const float *q_beta,
                   const float *k_gamma, const float *k_beta, float eps, cudaStream_t stream)
{
    return launch(qk_norm_kernel<T>, blocks_for(qkv.rows * 2 * heads, WARPS), 32 * WARPS, 0, stream,
                  (T *)qkv.p, qkv.rows, heads, head_dim, q_gamma, q_beta, k_gamma, k_beta, eps);
}

extern "C" int vt_cuda_qk_norm(vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                               const float *q_beta, const float *k_gamma, const float *k_beta,
                               float eps, cudaStream_t stream)
{
    auto run = qkv.type == VT_F32   ? qk_norm<float>
               : qkv.type == VT_F16 ? qk_norm<__half>
                                    : qk_norm<__nv_bfloat16>;
    return run(qkv, heads, head_dim, q_gamma, q_beta, k_gamma, k_beta, eps, stream);
}
