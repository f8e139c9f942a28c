/* Operations that only some families of models use: rotary positions, the halves of a gated MLP and of
 * differential attention, addition, attention pooling. All but the last are bound by bytes.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int THREADS = 256, WARPS = THREADS / 32;

template <typename T, int V> struct alignas(sizeof(T) * V) vec {
    T v[V];
};

static unsigned blocks_for(size_t items)
{
    size_t blocks = (items + THREADS - 1) / THREADS, most = 132 * 32;
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

#define GRID_STRIDE(i, n)                                                                          \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x,                                 \
                i##_step = (size_t)gridDim.x * blockDim.x;                                         \
         i < (n); i += i##_step)

/* ---- rotary positions: a block has a token, its threads pairs of columns of q and k ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(T *qkv, vt_rope r, int heads, int pairs, int tokens, int prefix)
{
    int token = (int)(blockIdx.x % (unsigned)tokens), patch = token - prefix;
    int apart = r.half ? pairs : 1, step = r.half ? 1 : 2;
    after_previous();
    let_next_start();
    if (patch < 0)
        return;
    qkv += (size_t)blockIdx.x * 6 * heads * pairs;
    for (int i = threadIdx.x; i < 2 * heads * pairs; i += THREADS) {
        int head = i / pairs, pair = i % pairs;
        size_t table = r.heads == 1 ? 0 : (size_t)(head % heads) * (tokens - prefix);
        float2 turn = ((const float2 *)r.table)[(table + patch) * pairs + pair];
        T *at = qkv + (size_t)head * 2 * pairs + pair * step;
        float a = to_f32(at[0]), b = to_f32(at[apart]);
        at[0] = from_f32<T>(a * turn.x - b * turn.y);
        at[apart] = from_f32<T>(b * turn.x + a * turn.y);
    }
}

template <typename T>
static int rope(vt_mat qkv, int heads, int head_dim, int tokens, int prefix, const vt_rope *r,
                cudaStream_t stream)
{
    return launch(rope_kernel<T>, (unsigned)qkv.rows, THREADS, 0, stream, (T *)qkv.p, *r, heads,
                  head_dim / 2, tokens, prefix);
}

extern "C" int vt_cuda_rope(vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
                            const vt_rope *r, cudaStream_t stream)
{
    auto run = qkv.type == VT_F32   ? rope<float>
               : qkv.type == VT_F16 ? rope<__half>
                                    : rope<__nv_bfloat16>;
    return run(qkv, heads, head_dim, tokens, prefix, r, stream);
}

/* ---- halves ---- */

__device__ __forceinline__ float combine(float a, float b, vt_halves how, float factor)
{
    return how == VT_HALVES_SWIGLU ? a / (1.0f + __expf(-a)) * b : a - factor * b;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    halves_kernel(T *y, const T *x, int n, size_t vecs, vt_halves how, float factor)
{
    int columns = n / V;
    after_previous();
    let_next_start();
    GRID_STRIDE(i, vecs)
    {
        size_t row = i / columns;
        const vec<T, V> *from = (const vec<T, V> *)x + row * 2 * columns + i % columns;
        vec<T, V> a = from[0], b = from[columns], out;
#pragma unroll
        for (int j = 0; j < V; j++)
            out.v[j] = from_f32<T>(combine(to_f32(a.v[j]), to_f32(b.v[j]), how, factor));
        ((vec<T, V> *)y)[i] = out;
    }
}

template <typename T>
static int halves(vt_mat y, vt_mat x, vt_halves how, float factor, cudaStream_t stream)
{
    const int V = 16 / sizeof(T);
    size_t n = y.rows * y.cols;
    bool wide = y.cols % V == 0;
    return launch(wide ? halves_kernel<T, V> : halves_kernel<T, 1>, blocks_for(wide ? n / V : n),
                  THREADS, 0, stream, (T *)y.p, (const T *)x.p, y.cols, wide ? n / V : n, how,
                  factor);
}

extern "C" int vt_cuda_halves(vt_mat y, vt_mat x, vt_halves how, float factor, cudaStream_t stream)
{
    return y.type == VT_F32   ? halves<float>(y, x, how, factor, stream)
           : y.type == VT_F16 ? halves<__half>(y, x, how, factor, stream)
                              : halves<__nv_bfloat16>(y, x, how, factor, stream);
}

/* ---- addition ---- */

template <typename Y, typename X>
__global__ void __launch_bounds__(THREADS) add_kernel(Y *y, const X *x, size_t n)
{
    after_previous();
    let_next_start();
    GRID_STRIDE(i, n) y[i] = from_f32<Y>(to_f32(y[i]) + to_f32(x[i]));
}

template <typename Y, typename X> static int add(vt_mat y, vt_mat x, cudaStream_t stream)
{
    size_t n = y.rows * y.cols;
    return launch(add_kernel<Y, X>, blocks_for(n), THREADS, 0, stream, (Y *)y.p, (const X *)x.p, n);
}

extern "C" int vt_cuda_add(vt_mat y, vt_mat x, cudaStream_t stream)
{
    if (y.type == VT_F32)
        return x.type == VT_F32   ? add<float, float>(y, x, stream)
               : x.type == VT_F16 ? add<float, __half>(y, x, stream)
                                  : add<float, __nv_bfloat16>(y, x, stream);
    if (y.type == VT_F16)
        return x.type == VT_F32 ? add<__half, float>(y, x, stream)
                                : add<__half, __half>(y, x, stream);
    return x.type == VT_F32 ? add<__nv_bfloat16, float>(y, x, stream)
                            : add<__nv_bfloat16, __nv_bfloat16>(y, x, stream);
}

/* ---- attention pooling: a block has a head of an image, a warp every eighth token ---- */

static const int COLUMNS =
    256; /* of values summed at a time; a wider head's scores are computed again */

struct pooling {
    int tokens, first, width, dim;
    float scale; /* with log2 e */
};

/* What the warps have found, each over its tokens. */
struct found {
    float top[WARPS], sum[WARPS], value[WARPS][COLUMNS];
};

template <typename T>
__device__ __forceinline__ float score(const float *q, const T *k, const pooling &p)
{
    float dot = 0;
    for (int i = threadIdx.x % 32; i < p.dim; i += 32)
        dot += q[i] * to_f32(k[i]);
    for (int i = 16; i; i /= 2)
        dot += __shfl_xor_sync(0xffffffffu, dot, i);
    return dot * p.scale;
}

/* Columns col .. col + COLUMNS of the head's values, over this warp's tokens. */
template <typename T>
__device__ __forceinline__ void gather(found &f, const float *q, const T *keys, const pooling &p,
                                       int col)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float value[COLUMNS / 32] = {}, top = -INFINITY, sum = 0;
    for (int t = p.first + warp; t < p.tokens; t += WARPS) {
        const T *k = keys + (size_t)t * 2 * p.width, *v = k + p.width + col;
        float s = score(q, k, p), higher = fmaxf(top, s);
        float shrink = exp2f(top - higher), weight = exp2f(s - higher);
        top = higher;
        sum = sum * shrink + weight;
#pragma unroll
        for (int j = 0; j < COLUMNS / 32; j++)
            if (col + lane + 32 * j < p.dim)
                value[j] = value[j] * shrink + weight * to_f32(v[lane + 32 * j]);
    }
    f.top[warp] = top;
    f.sum[warp] = sum;
#pragma unroll
    for (int j = 0; j < COLUMNS / 32; j++)
        f.value[warp][lane + 32 * j] = value[j];
}

/* This thread's column of all of them. */
__device__ __forceinline__ float together(const found &f)
{
    float top = f.top[0], sum = 0, value = 0;
    for (int w = 1; w < WARPS; w++)
        top = fmaxf(top, f.top[w]);
    for (int w = 0; w < WARPS; w++) {
        float weight = exp2f(f.top[w] - top);
        sum += weight * f.sum[w];
        value += weight * f.value[w][threadIdx.x];
    }
    return value / sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    latent_kernel(T *y, const T *kv, const float *q, pooling p)
{
    __shared__ found f;
    size_t image = blockIdx.y, column = (size_t)blockIdx.x * p.dim;
    after_previous();
    let_next_start();
    kv += image * p.tokens * 2 * p.width + column;
    y += image * p.width + column;
    for (int col = 0; col < p.dim; col += COLUMNS) {
        gather(f, q + column, kv, p, col);
        __syncthreads();
        if (col + (int)threadIdx.x < p.dim)
            y[col + threadIdx.x] = from_f32<T>(together(f));
        __syncthreads();
    }
}

template <typename T>
static int latent_pool(vt_mat y, vt_mat kv, const float *q, int heads, int first,
                       cudaStream_t stream)
{
    pooling p = {(int)(kv.rows / y.rows), first, y.cols, y.cols / heads, 0};
    p.scale = 1.44269504f / sqrtf((float)p.dim);
    return launch(latent_kernel<T>, dim3((unsigned)heads, (unsigned)y.rows), THREADS, 0, stream,
                  (T *)y.p, (const T *)kv.p, q, p);
}

extern "C" int vt_cuda_latent_pool(vt_mat y, vt_mat kv, const float *q, int heads, int first,
                                   cudaStream_t stream)
{
    auto run = y.type == VT_F32   ? latent_pool<float>
               : y.type == VT_F16 ? latent_pool<__half>
                                  : latent_pool<__nv_bfloat16>;
    return run(y, kv, q, heads, first, stream);
}
