/* Guests of attention_columns.cuh: the attention of up to 8 prefix queries over those keys of a
 * tile that are allowed to them, by a warpgroup whose own products with the tile's values are under way.
 *
 *   S^T = K Q^T    each warp 16 of the 64 keys x 8 guests, mma.m16n8k16; to shared memory
 *   P = 2^(c (S - m)),  m the maximum over the tile: each warp all of them, as the next product's
 *                  operand has them
 *   O^T = V^T P^T  each warp 16 of the 64 dimensions x 8 guests
 *
 * O, m and the sum of a guest's weights go to memory, as the states of items do.
 */
#ifndef VT_CUDA_ATTENTION_COLUMNS_GUESTS_CUH
#define VT_CUDA_ATTENTION_COLUMNS_GUESTS_CUH

#include "kernels/cuda/attention_columns.cuh"

#if VT_SM90A

/* Four matrices of 8 x 8 from rows of 16 bytes, one row a lane; turned: each transposed. */
template <bool TURNED> __device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t row)
{
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(row)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(row)
                     : "memory");
}

/* Likewise into rows of 16 bytes. */
__device__ __forceinline__ void store_matrices(uint32_t row, const uint32_t (&x)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
                 "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
}

/* d [16, 8] += a [16, 16] b [16, 8] */
template <typename T>
__device__ __forceinline__ void multiply_8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1);
#define VT_MULTIPLY_8(T, type)                                                                     \
    template <>                                                                                    \
    __device__ __forceinline__ void multiply_8<T>(float(&d)[4], const uint32_t(&a)[4],             \
                                                  uint32_t b0, uint32_t b1)                        \
    {                                                                                              \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));              \
    }
VT_MULTIPLY_8(__half, "f16")
VT_MULTIPLY_8(__nv_bfloat16, "bf16")

template <typename T> struct tile_guests {
    uint32_t q, k, v; /* [8], [64], [64] rows of 128 bytes, swizzled */
    uint32_t bits, s; /* [8] of 64 bits; 8 rows of 64 scores, for the warps to exchange */
    int warp, lane;   /* of the warpgroup */
    int barrier;      /* of the warpgroup's 128 threads */

    /* Chunk of 16 bytes of a row of a swizzled tile. */
    static __device__ __forceinline__ uint32_t chunk(uint32_t tile, int row, int at)
    {
        return tile + row * 128 + ((at ^ row) & 7) * 16;
    }

    static const int ROW = (64 + 4) * 4; /* of scores: a warp's accesses spread over the banks */

    /* Which of the warp's keys guest i takes. */
    __device__ __forceinline__ uint32_t allowed(int i) const
    {
        return load_shared(bits + i * 8 + warp / 2 * 4) >> warp % 2 * 16;
    }

    __device__ __forceinline__ void put_scores() const
    {
        float d[4] = {0, 0, 0, 0};
        uint32_t from_q = chunk(q, lane % 8, lane / 8);
        uint32_t from_k = chunk(k, 16 * warp + lane % 16, lane / 16);
#pragma unroll
        for (int half = 0; half < 2; half++) { /* of the dimensions: chunks 4 half and on */
            uint32_t b[4], a[4];
            load_matrices<false>(b, from_q ^ 64 * half);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_matrices<false>(a, from_k ^ (64 * half + 32 * i));
                multiply_8<T>(d, a, b[2 * i], b[2 * i + 1]);
            }
        }
        uint32_t to = s + lane % 4 * 2 * ROW + (16 * warp + lane / 4) * 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t on = allowed(lane % 4 * 2 + i) >> lane / 4;
            store_shared(to + i * ROW, __float_as_uint(on & 1 ? d[i] : -INFINITY));
            store_shared(to + i * ROW + 32, __float_as_uint(on & 256 ? d[i + 2] : -INFINITY));
        }
    }

    /* Of guest lane / 4: weights with keys 16 j + 2 (lane % 4) + 0, 1, 8, 9, packed in pairs; *top
     * and *sum are those of all keys. */
    __device__ __forceinline__ void weigh(uint32_t (&p)[4][2], float to_log2, float *top,
                                          float *sum) const
    {
        float x[16], most = -INFINITY, all = 0;
#pragma unroll
        for (int i = 0; i < 16; i += 2) {
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                         : "=f"(x[i]), "=f"(x[i + 1])
                         : "r"(s + lane / 4 * ROW + lane % 4 * 8 + i / 2 * 32)
                         : "memory");
            most = fmaxf(most, fmaxf(x[i], x[i + 1]));
        }
        *top = quad_max(most);
        float m = *top == -INFINITY ? 0 : -*top * to_log2;
#pragma unroll
        for (int i = 0; i < 16; i++)
            all += x[i] = exp2_unit(fmaf(x[i], to_log2, m));
        *sum = quad_sum(all);
#pragma unroll
        for (int i = 0; i < 16; i += 2)
            p[i / 4][i / 2 % 2] = pack2<T>(x[i], x[i + 1]);
    }

    /* States of `count` guests to `to`, each D + 2 floats. */
    __device__ __forceinline__ void attend(float *to, int count, float to_log2) const
    {
        const int D = 64;
        uint32_t p[4][2];
        float top, sum, d[4] = {0, 0, 0, 0};
        put_scores();
        named_wait(barrier, 128);
        weigh(p, to_log2, &top, &sum);
        uint32_t from = chunk(v, lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t a[4];
            load_matrices<true>(a, from + 2048 * j);
            multiply_8<T>(d, a, p[j][0], p[j][1]);
        }
        int first = lane % 4 * 2; /* of two guests */
        float *at = to + first * (D + 2) + 16 * warp + lane / 4;
        if (first < count)
            at[0] = d[0], at[8] = d[2];
        if (first + 1 < count)
            at[D + 2] = d[1], at[D + 2 + 8] = d[3];
        if (warp == 0 && lane % 4 == 0 && lane / 4 < count)
            *reinterpret_cast<float2 *>(to + lane / 4 * (D + 2) + D) = make_float2(top, sum);
    }
};

#endif
#endif
