/* y [m, n] = act(a [m, k] w [n, k]^T + bias), or y += a w^T + bias: for any types, shapes and
 * alignments, in plain fp32 arithmetic. A block of 16 x 16 threads has a tile of 64 x 64, a thread
 * 4 x 4 of it, 16 apart; slices of 16 of k pass through shared memory. Not made to be fast: it
 * serves products whose rows are not aligned as cuBLASLt and our own tiles want them.
 */
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int TILE = 64, SLICE = 16, SIDE = 16, EACH = TILE / SIDE;

/* to[slice of k][row] = rows first .. first + TILE of from [rows, k], zeros outside. */
template <typename T>
__device__ void load_slice(float (&to)[SLICE][TILE + 1], const T *from, int first, int rows, int k0,
                           int k)
{
    for (int i = threadIdx.x; i < TILE * SLICE; i += SIDE * SIDE) {
        int row = first + i / SLICE, col = k0 + i % SLICE;
        to[i % SLICE][i / SLICE] = row < rows && col < k ? to_f32(from[(size_t)row * k + col]) : 0;
    }
}

template <typename T, typename Y>
__global__ void __launch_bounds__(SIDE *SIDE) any_kernel(vt_cuda_gemm g)
{
    __shared__ float a[SLICE][TILE + 1], w[SLICE][TILE + 1];
    int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
    int row0 = (int)blockIdx.x * TILE, col0 = (int)blockIdx.y * TILE;
    float sum[EACH][EACH] = {};
    after_previous();
    let_next_start();
    for (int k0 = 0; k0 < g.k; k0 += SLICE) {
        load_slice(a, (const T *)g.a, row0, g.m, k0, g.k);
        load_slice(w, (const T *)g.w, col0, g.n, k0, g.k);
        __syncthreads();
        for (int k = 0; k < SLICE; k++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum[i][j] += a[k][ty + SIDE * i] * w[k][tx + SIDE * j];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            int row = row0 + ty + SIDE * i, col = col0 + tx + SIDE * j;
            if (row >= g.m || col >= g.n)
                continue;
            Y *y = (Y *)g.y + (size_t)row * g.n + col;
            float v = activate(sum[i][j] + (g.bias ? g.bias[col] : 0.0f), g.act);
            *y = from_f32<Y>(g.add ? to_f32(*y) + v : v);
        }
}

extern "C" int vt_cuda_gemm_any(const vt_cuda_gemm *g, cudaStream_t stream)
{
    dim3 grid((unsigned)(g->m + TILE - 1) / TILE, (unsigned)(g->n + TILE - 1) / TILE);
    bool same = g->type == g->y_type;
    auto kernel = g->type == VT_F32 ? any_kernel<float, float>
                  : g->type == VT_F16
                      ? (same ? any_kernel<__half, __half> : any_kernel<__half, float>)
                  : same ? any_kernel<__nv_bfloat16, __nv_bfloat16>
                         : any_kernel<__nv_bfloat16, float>;
    return launch(kernel, grid, SIDE * SIDE, 0, stream, *g);
}
