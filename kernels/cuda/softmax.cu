/* Softmax of rows of scores in memory, in place, as scores.c wants it between its two products:
 *
 *   s[k] = scale (score[k] + bias[k])                     fp32, rows of `pitch` floats
 *   weight[k] = exp(s[k] - max) / sum, 0 where k is off   of the attention's type, from the row's
 *                                                         beginning on
 *
 * fp16's weights are 2^15 times as large, so that those of many keys keep their digits; where the
 * second product may round to tf32, weights are rounded to the nearest here, because it may cut
 * them off. Rows without keys become zeros. A block has a row and reads it twice.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int WARPS = 8, SPAN = 4 * 32; /* columns that a warp reads at a time */
static const float LOG2_E = 1.44269504f, NO_SCORE_YET = -3e38f;

struct score_row {
    const vt_cuda_attention &a;
    const float *score;
    const float *bias;    /* of the head and query; NULL: none */
    const uint32_t *bits; /* of the query; NULL: none */

    __device__ score_row(const vt_cuda_attention &of, const vt_cuda_scores &s, unsigned index)
        : a(of), score(s.scores + (size_t)index * s.pitch), bias(NULL), bits(NULL)
    {
        int q = s.query + (int)(index % s.rows),
            head = s.head + (int)(index / s.rows) * s.head_step;
        if (a.bias.table)
            bias = a.bias.table + head * a.bias.stride + a.bias.row[q];
        if (a.bits)
            bits = a.bits + (size_t)q * a.words;
    }

    /* s log2(e) of columns k .. k + 3, k a multiple of 4; -inf where off. */
    __device__ __forceinline__ void load(float (&to)[4], int k) const
    {
        uint32_t on = k + 4 <= a.tokens ? 15 : k < a.tokens ? (1u << (a.tokens - k)) - 1 : 0;
        float4 v = on ? *(const float4 *)(score + k) : make_float4(0, 0, 0, 0);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        if (bits && on)
            on &= bits[k / 32] >> k % 32;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (bias && on >> i & 1)
                to[i] += bias[a.bias.col[k + i]];
            to[i] = on >> i & 1 ? to[i] * (a.scale * LOG2_E) : -INFINITY;
        }
    }
};

/* The maximum and the sum of exp2(s - max) of two parts of a row. */
struct part_sum {
    float max, sum;

    __device__ __forceinline__ void add(float other_max, float other_sum)
    {
        float both = fmaxf(max, other_max);
        sum = sum * exp2f(max - both) + other_sum * exp2f(other_max - both);
        max = both;
    }

    /* Of all lanes, in all of them. */
    __device__ __forceinline__ void add_lanes()
    {
#pragma unroll
        for (int i = 16; i; i /= 2)
            add(__shfl_xor_sync(0xffffffffu, max, i), __shfl_xor_sync(0xffffffffu, sum, i));
    }
};

template <typename T> __device__ __forceinline__ void put(T *to, const float (&w)[4], bool tf32);

template <> __device__ __forceinline__ void put<float>(float *to, const float (&w)[4], bool tf32)
{
    float4 v = make_float4(w[0], w[1], w[2], w[3]);
    if (tf32) {
        float *each = &v.x;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t rounded;
            asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(w[i]));
            each[i] = __uint_as_float(rounded);
        }
    }
    *(float4 *)to = v;
}
template <> __device__ __forceinline__ void put<__half>(__half *to, const float (&w)[4], bool)
{
    *(uint2 *)to = make_uint2(pack2<__half>(w[0], w[1]), pack2<__half>(w[2], w[3]));
}
template <>
__device__ __forceinline__ void put<__nv_bfloat16>(__nv_bfloat16 *to, const float (&w)[4], bool)
{
    *(uint2 *)to = make_uint2(pack2<__nv_bfloat16>(w[0], w[1]), pack2<__nv_bfloat16>(w[2], w[3]));
}

/* 16-bit weights take the first half of their row: what lies there has been read by then. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    softmax_kernel(vt_cuda_attention a, vt_cuda_scores scores, float factor)
{
    unsigned index = blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = 4 * (int)(threadIdx.x % 32);
    after_previous();
    let_next_start();
    if (index >= (unsigned)scores.count * (unsigned)scores.rows)
        return;
    score_row row(a, scores, index);
    part_sum of = {NO_SCORE_YET, 0};
    float s[4];
#pragma unroll 4
    for (int k = lane; k < a.tokens; k += SPAN) {
        row.load(s, k);
        float max = fmaxf(fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3])), NO_SCORE_YET);
        of.add(max, exp2f(s[0] - max) + exp2f(s[1] - max) + exp2f(s[2] - max) + exp2f(s[3] - max));
    }
    of.add_lanes();
    float inverse = of.sum > 0 ? factor / of.sum : 0;
    T *to = (T *)(scores.scores + (size_t)index * scores.pitch);
    for (int k = lane; k - lane < a.tokens; k += SPAN) {
        row.load(s, k);
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[i] = exp2f(s[i] - of.max) * inverse;
        __syncwarp();
        if (k < a.tokens)
            put<T>(to + k, s, a.tf32);
    }
}

extern "C" int vt_cuda_softmax(const vt_cuda_attention *a, const vt_cuda_scores *s,
                               cudaStream_t stream)
{
    unsigned blocks = ((unsigned)s->count * (unsigned)s->rows + WARPS - 1) / WARPS;
    return a->type == VT_F32
               ? launch(softmax_kernel<float>, blocks, 32 * WARPS, 0, stream, *a, *s, 1.0f)
           : a->type == VT_F16
               ? launch(softmax_kernel<__half>, blocks, 32 * WARPS, 0, stream, *a, *s,
                        VT_CUDA_HALF_WEIGHT)
               : launch(softmax_kernel<__nv_bfloat16>, blocks, 32 * WARPS, 0, stream, *a, *s, 1.0f);
}
