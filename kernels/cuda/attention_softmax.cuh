/* The online softmax of the attention kernels that multiply by warpgroups (wgmma): a consumer
 * thread's share of 64 query rows, tile of keys after tile.
 *
 *   P = 2^(c S - m)  c = scale * log2(e), m the row's maximum so far, times c
 *   O = O + P V
 *
 * with O rescaled when m grows. m may lag behind the true maximum by up to LAG: weights are then at
 * most 2^LAG, which fp16 holds, and O is hardly ever rescaled. A row without any allowed key so far
 * has m = -inf and sums of zero.
 *
 * A thread has rows lane / 4 and 8 further of its warp's 16, and of 8 columns two: product<> in
 * hopper.cuh. Products and masks are the callers' business.
 */
#ifndef VT_CUDA_ATTENTION_SOFTMAX_CUH
#define VT_CUDA_ATTENTION_SOFTMAX_CUH

#include "kernels/cuda/hopper.cuh"

#if VT_SM90A

__device__ __forceinline__ float exp2_unit(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_unit(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal_unit(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <typename T, int KEYS, int D, bool MASKED> struct softmax_rows {
    static constexpr int S = KEYS / 2; /* scores of a tile in this thread */
    static constexpr int LAG = 8;

    float max[2], sum[2];
    float out[D / 2];
    uint32_t p[KEYS / 4];

    __device__ __forceinline__ softmax_rows() : max{}, sum{}, out{}, p{}
    {
    }

    __device__ __forceinline__ void clear_out()
    {
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            out[i] = 0;
    }

    __device__ __forceinline__ void start_sums()
    {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0;
    }

    __device__ __forceinline__ void start_rows()
    {
        clear_out();
        start_sums();
    }

    /* Takes a tile into the maxima. Returns how much what was summed before must shrink. */
    template <int WIDTH>
    __device__ __forceinline__ bool grow(const float *s, float to_log2, float (&shrink)[2])
    {
        float top[2], grown[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
            for (int i = 4; i < WIDTH / 2; i += 4)
                a = fmaxf(a, s[i + 2 * r]), b = fmaxf(b, s[i + 2 * r + 1]);
            top[r] = fmaxf(max[r], quad_max(fmaxf(a, b)));
            grown[r] = (top[r] - max[r]) * to_log2; /* NaN where both are -inf: nothing grew */
        }
        bool grew = grown[0] > LAG || grown[1] > LAG;
        if (!__any_sync(0xffffffffu, grew))
            return false;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            shrink[r] = top[r] > max[r] ? exp2_unit(-grown[r]) : 1.0f;
            max[r] = top[r];
            sum[r] *= shrink[r];
        }
        return true;
    }

    __device__ __forceinline__ void shrink_out(const float (&shrink)[2])
    {
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            out[i] *= shrink[i / 2 % 2];
    }

    /* s = 2^(c s - m), and into the sums. */
    template <int WIDTH> __device__ __forceinline__ void weigh(float *s, float to_log2)
    {
        float m[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            m[r] = MASKED && max[r] == -INFINITY ? 0.0f : -max[r] * to_log2;
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++)
            s[i] = exp2_unit(fmaf(s[i], to_log2, m[i / 2 % 2]));
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
            for (int i = 4; i < WIDTH / 2; i += 4)
                a += s[i + 2 * r], b += s[i + 2 * r + 1];
            sum[r] += a + b;
        }
    }

    template <int WIDTH> __device__ __forceinline__ void pack(const float *s)
    {
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i += 2)
            p[i / 2] = pack2<T>(s[i], s[i + 1]);
    }
};

#endif
#endif
