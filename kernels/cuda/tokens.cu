/* Operations that move tokens: casts, patches of images, prefix tokens and positions, pooling, and
 * activations that a product's library has not got. All are bound by bytes; a thread moves four
 * neighbours (16 bytes of fp32) where the shapes allow it, else one.
 */
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int THREADS = 256;

static unsigned blocks_for(size_t items)
{
    size_t blocks = (items + THREADS - 1) / THREADS, most = 132 * 32;
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

/* Every thread of the grid takes items i, i + threads of the grid, ... */
#define GRID_STRIDE(i, n)                                                                          \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x,                                 \
                i##_step = (size_t)gridDim.x * blockDim.x;                                         \
         i < (n); i += i##_step)

template <typename T, int V> struct alignas(sizeof(T) * V) vec {
    T v[V];
};

/* ---- cast ---- */

template <typename Y, typename X, int V>
__global__ void __launch_bounds__(THREADS) cast_kernel(Y *y, const X *x, size_t n)
{
    after_previous();
    let_next_start();
    GRID_STRIDE(i, n / V)
    {
        vec<X, V> in = reinterpret_cast<const vec<X, V> *>(x)[i];
        vec<Y, V> out;
#pragma unroll
        for (int j = 0; j < V; j++)
            out.v[j] = from_f32<Y>(to_f32(in.v[j]));
        reinterpret_cast<vec<Y, V> *>(y)[i] = out;
    }
}

template <typename Y, typename X>
static int cast(void *y, const void *x, size_t n, cudaStream_t stream)
{
    if (n % 4 || ((uintptr_t)x | (uintptr_t)y) % 16)
        return launch(cast_kernel<Y, X, 1>, blocks_for(n), THREADS, 0, stream, (Y *)y, (const X *)x,
                      n);
    return launch(cast_kernel<Y, X, 4>, blocks_for(n / 4), THREADS, 0, stream, (Y *)y, (const X *)x,
                  n);
}

extern "C" int vt_cuda_cast(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, size_t n,
                            cudaStream_t stream)
{
    if (y_type == VT_F32)
        return x_type == VT_F32   ? cast<float, float>(y, x, n, stream)
               : x_type == VT_F16 ? cast<float, __half>(y, x, n, stream)
                                  : cast<float, __nv_bfloat16>(y, x, n, stream);
    if (y_type == VT_F16)
        return x_type == VT_F32 ? cast<__half, float>(y, x, n, stream)
                                : cast<__half, __half>(y, x, n, stream);
    return x_type == VT_F32 ? cast<__nv_bfloat16, float>(y, x, n, stream)
                            : cast<__nv_bfloat16, __nv_bfloat16>(y, x, n, stream);
}

/* ---- patches: cols[(b, gy, gx), (c, y, x)] = image[b, c, gy ph + y, gx pw + x] ---- */

typedef struct {
    int channels, height, width, patch_h, patch_w;
} picture;

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    patches_kernel(T *cols, const T *images, picture p, size_t n)
{
    int grid_w = p.width / p.patch_w, grid_h = p.height / p.patch_h;
    after_previous();
    let_next_start();
    GRID_STRIDE(i, n / V)
    {
        size_t at = i * V;
        int x = (int)(at % p.patch_w);
        at /= p.patch_w;
        int y = (int)(at % p.patch_h);
        at /= p.patch_h;
        int c = (int)(at % p.channels);
        at /= p.channels;
        int gx = (int)(at % grid_w);
        at /= grid_w;
        int gy = (int)(at % grid_h);
        size_t row = (at / grid_h * p.channels + c) * p.height + gy * p.patch_h + y;
        reinterpret_cast<vec<T, V> *>(cols)[i] =
            *reinterpret_cast<const vec<T, V> *>(images + row * p.width + gx * p.patch_w + x);
    }
}

template <typename T> static int patches(vt_mat cols, vt_mat images, picture p, cudaStream_t stream)
{
    size_t n = cols.rows * cols.cols;
    bool wide = p.patch_w % 4 == 0 && p.width % 4 == 0;
    return launch(wide ? patches_kernel<T, 4> : patches_kernel<T, 1>, blocks_for(wide ? n / 4 : n),
                  THREADS, 0, stream, (T *)cols.p, (const T *)images.p, p, n);
}

extern "C" int vt_cuda_patches(vt_mat cols, vt_mat images, int channels, int height, int width,
                               int patch_h, int patch_w, cudaStream_t stream)
{
    picture p = {channels, height, width, patch_h, patch_w};
    return cols.type == VT_F32   ? patches<float>(cols, images, p, stream)
           : cols.type == VT_F16 ? patches<__half>(cols, images, p, stream)
                                 : patches<__nv_bfloat16>(cols, images, p, stream);
}

/* ---- tokens: x[b, t] = prefix[t], or patches[b, t - prefix_tokens] + pos[t - prefix_tokens] ---- */

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    tokens_kernel(T *x, const T *patches, const float *prefix, const float *pos, int tokens,
                  int prefix_tokens, int width, size_t n)
{
    after_previous();
    let_next_start();
    GRID_STRIDE(i, n / V)
    {
        size_t row = i * V / width, b = row / tokens;
        int col = (int)(i * V % width), t = (int)(row % tokens), p = t - prefix_tokens;
        vec<T, V> out;
        if (p < 0) {
#pragma unroll
            for (int j = 0; j < V; j++)
                out.v[j] = from_f32<T>(prefix[(size_t)t * width + col + j]);
        } else {
            size_t from = b * (tokens - prefix_tokens) + p;
            vec<T, V> in = *reinterpret_cast<const vec<T, V> *>(patches + from * width + col);
#pragma unroll
            for (int j = 0; j < V; j++)
                out.v[j] =
                    from_f32<T>(to_f32(in.v[j]) + (pos ? pos[(size_t)p * width + col + j] : 0.0f));
        }
        reinterpret_cast<vec<T, V> *>(x)[i] = out;
    }
}

template <typename T>
static int tokens(vt_mat x, vt_mat from, const float *prefix, int prefix_tokens, const float *pos,
                  int images, cudaStream_t stream)
{
    size_t n = x.rows * x.cols;
    bool wide = x.cols % 4 == 0;
    return launch(wide ? tokens_kernel<T, 4> : tokens_kernel<T, 1>, blocks_for(wide ? n / 4 : n),
                  THREADS, 0, stream, (T *)x.p, (const T *)from.p, prefix, pos,
                  (int)(x.rows / images), prefix_tokens, x.cols, n);
}

extern "C" int vt_cuda_tokens(vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                              const float *pos, int images, cudaStream_t stream)
{
    auto run = x.type == VT_F32   ? tokens<float>
               : x.type == VT_F16 ? tokens<__half>
                                  : tokens<__nv_bfloat16>;
    return run(x, patches, prefix, prefix_tokens, pos, images, stream);
}

/* ---- pooling: a block has 32 columns of an image, its eight warps every eighth token ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    pool_kernel(float *y, const T *x, int tokens, int width, vt_pool how, int first)
{
    __shared__ float sums[8][32], maxima[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, col = (int)blockIdx.x * 32 + lane;
    size_t image = blockIdx.y;
    after_previous();
    let_next_start();
    x += image * tokens * width + col;
    int last = how == VT_POOL_TOKEN ? first + 1 : tokens;
    float sum = 0, max = -INFINITY;
    bool nan = false; /* fmaxf would lose it */
    for (int t = first + warp; col < width && t < last; t += 8) {
        float v = to_f32(x[(size_t)t * width]);
        sum += v;
        max = fmaxf(max, v);
        nan |= isnan(v);
    }
    sums[warp][lane] = sum;
    maxima[warp][lane] = nan ? NAN : max;
    __syncthreads();
    if (warp || col >= width)
        return;
    for (int w = 1; w < 8; w++) {
        float v = maxima[w][lane];
        nan |= isnan(v);
        sum += sums[w][lane];
        max = fmaxf(max, v);
    }
    float mean = sum / (last - first);
    max = nan ? NAN : max;
    y[image * width + col] = how == VT_POOL_MAX      ? max
                             : how == VT_POOL_AVGMAX ? 0.5f * (mean + max)
                                                     : mean;
}

template <typename T>
static int pool(vt_mat y, vt_mat x, int tokens, vt_pool how, int first, cudaStream_t stream)
{
    dim3 grid((unsigned)(x.cols + 31) / 32, (unsigned)y.rows);
    return launch(pool_kernel<T>, grid, THREADS, 0, stream, (float *)y.p, (const T *)x.p, tokens,
                  x.cols, how, first);
}

extern "C" int vt_cuda_pool(vt_mat y, vt_mat x, int tokens, vt_pool how, int first,
                            cudaStream_t stream)
{
    auto run = x.type == VT_F32   ? pool<float>
               : x.type == VT_F16 ? pool<__half>
                                  : pool<__nv_bfloat16>;
    return run(y, x, tokens, how, first, stream);
}

/* ---- one row of each image ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    take_kernel(T *y, const T *x, int tokens, int width, int first)
{
    size_t image = blockIdx.y;
    int col = (int)(blockIdx.x * THREADS + threadIdx.x);
    after_previous();
    let_next_start();
    if (col < width)
        y[image * width + col] = x[(image * tokens + first) * width + col];
}

template <typename T>
static int take(vt_mat y, vt_mat x, int tokens, int first, cudaStream_t stream)
{
    dim3 grid((unsigned)(x.cols + THREADS - 1) / THREADS, (unsigned)y.rows);
    return launch(take_kernel<T>, grid, THREADS, 0, stream, (T *)y.p, (const T *)x.p, tokens,
                  x.cols, first);
}

extern "C" int vt_cuda_take(vt_mat y, vt_mat x, int tokens, int first, cudaStream_t stream)
{
    return x.type == VT_F32 ? take<uint32_t>(y, x, tokens, first, stream)
                            : take<uint16_t>(y, x, tokens, first, stream);
}

/* ---- activations in place ---- */

template <typename T, int V, vt_activation ACT>
__global__ void __launch_bounds__(THREADS) activate_kernel(T *y, size_t n)
{
    after_previous();
    let_next_start();
    GRID_STRIDE(i, n / V)
    {
        vec<T, V> v = reinterpret_cast<vec<T, V> *>(y)[i];
#pragma unroll
        for (int j = 0; j < V; j++)
            v.v[j] = from_f32<T>(activate(to_f32(v.v[j]), ACT));
        reinterpret_cast<vec<T, V> *>(y)[i] = v;
    }
}

template <typename T, vt_activation ACT> static int activate_as(vt_mat y, cudaStream_t stream)
{
    size_t n = y.rows * y.cols;
    bool wide = n % 4 == 0;
    return launch(wide ? activate_kernel<T, 4, ACT> : activate_kernel<T, 1, ACT>,
                  blocks_for(wide ? n / 4 : n), THREADS, 0, stream, (T *)y.p, n);
}

template <typename T> static int activate_type(vt_mat y, vt_activation act, cudaStream_t stream)
{
    return act == VT_ACT_GELU        ? activate_as<T, VT_ACT_GELU>(y, stream)
           : act == VT_ACT_GELU_TANH ? activate_as<T, VT_ACT_GELU_TANH>(y, stream)
                                     : activate_as<T, VT_ACT_QUICK_GELU>(y, stream);
}

extern "C" int vt_cuda_activate(vt_mat y, vt_activation act, cudaStream_t stream)
{
    if (act == VT_ACT_NONE)
        return 0;
    return y.type == VT_F32   ? activate_type<float>(y, act, stream)
           : y.type == VT_F16 ? activate_type<__half>(y, act, stream)
                              : activate_type<__nv_bfloat16>(y, act, stream);
}
