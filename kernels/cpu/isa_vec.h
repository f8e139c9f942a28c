/* Vectors for isa_*.c: one float type of VL lanes for whatever the file is compiled for, in the
 * vector extensions that gcc and clang share. Intrinsics stand only where the extensions have no
 * word for a thing (maximum), each with a plain form beside it. */
#ifndef VT_ISA_VEC_H
#define VT_ISA_VEC_H

#ifndef VT_ISA
#error "compiled once for each instruction set: -DVT_ISA=generic|avx2|avx512"
#endif

#include "kernels/tensor.h"

#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define VT_PASTE2(a, b) a##_##b
#define VT_PASTE(a, b)  VT_PASTE2(a, b)
#define VT_NAME(f)      VT_PASTE(f, VT_ISA) /* f_avx2 and so on */

/* Before loops over registers: arrays of vectors stay in registers only when fully unrolled.
 * V_UNROLL_4: before a loop whose counting is worth sharing among four steps. */
#if defined(__clang__)
#define V_UNROLL   _Pragma("clang loop unroll(full)")
#define V_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define V_UNROLL   _Pragma("GCC unroll 16")
#define V_UNROLL_4 _Pragma("GCC unroll 4")
#endif

#define VT_INLINE static inline __attribute__((always_inline))

/* Lanes of a vector, and rows of a register tile of the matrix product: rows * 2 accumulators, two
 * vectors of weights and one of x must fit the registers (32; 16). */
#if defined(__AVX512F__)
enum { VL = 16, VT_GEMM_ROWS = 12 };
#elif defined(__AVX2__)
enum { VL = 8, VT_GEMM_ROWS = 6 };
#elif defined(__aarch64__)
enum { VL = 4, VT_GEMM_ROWS = 12 };
#else
enum { VL = 4, VT_GEMM_ROWS = 6 };
#endif

enum { V_EXP2 = 2 }; /* vectors whose exponentials are taken together, at most */

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

VT_INLINE vf v_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

VT_INLINE void v_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

VT_INLINE vf v_splat(float x)
{
    return x - (vf){0}; /* x - 0 is x, for -0 and NaN too */
}

VT_INLINE vi v_splat_i(int32_t x)
{
    return x - (vi){0};
}

VT_INLINE vf v_load_bf16(const uint16_t *p)
{
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

/* Rounds to nearest even; NaN stays NaN. */
VT_INLINE void v_store_bf16(uint16_t *p, vf v)
{
    vu u = (vu)v, nan = (vu)(v != v);
    vu rounded = u + 0x7fff + (u >> 16 & 1);
    vh h = __builtin_convertvector(((rounded & ~nan) | ((u | 0x400000) & nan)) >> 16, vh);
    memcpy(p, &h, sizeof h);
}

/* mask: all ones or all zeros in each lane. */
VT_INLINE vf v_select(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

VT_INLINE vf v_max(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_select(a > b, a, b);
#endif
}

VT_INLINE vf v_min(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_select(a < b, a, b);
#endif
}

/* Four lanes, whatever VL is, and the lanes of two of them by number (4..7 from b). */
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
#if defined(__clang__)
#define V4_PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define V4_PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (v4i){i, j, k, l})
#endif

VT_INLINE v4 v4_load(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

VT_INLINE v4 v4_load_bf16(const uint16_t *p)
{
    typedef uint16_t h4 __attribute__((vector_size(8)));
    typedef uint32_t u4 __attribute__((vector_size(16)));
    h4 h;
    memcpy(&h, p, sizeof h);
    return (v4)(__builtin_convertvector(h, u4) << 16);
}

VT_INLINE void v4_store(float *p, v4 v)
{
    memcpy(p, &v, sizeof v);
}

/* The sum of all lanes, always in the same order. */
VT_INLINE float v_sum(vf v)
{
    float a[VL];
    v_store(a, v);
    v4 s = v4_load(a);
    for (int i = 4; i < VL; i += 4)
        s += v4_load(a + i);
    s += V4_PICK(s, s, 2, 3, 0, 1);
    return s[0] + s[1];
}

VT_INLINE float v_max_all(vf v)
{
    float a[VL];
    v_store(a, v);
    v4 s = v4_load(a);
    for (int i = 4; i < VL; i += 4) {
        v4 t = v4_load(a + i);
        s = (v4)(((v4i)s & (s > t)) | ((v4i)t & ~(s > t)));
    }
    float x = s[0] > s[1] ? s[0] : s[1], y = s[2] > s[3] ? s[2] : s[3];
    return x > y ? x : y;
}

/* Lanes of a and b by number, b's from VL on. */
#if defined(__clang__)
#define V_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define V_PICK(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Halving steps of a reduction of several vectors at once. Within each quarter of four lanes:
 * *x = (a0, a2, b0, b2), *y = (a1, a3, b1, b3); the step's result is op(*x, *y). */
VT_INLINE void v_pair_lanes(vf a, vf b, vf *x, vf *y)
{
#if defined(__AVX512F__)
    *x = V_PICK(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
    *y = V_PICK(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif defined(__AVX2__)
    *x = V_PICK(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
    *y = V_PICK(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
    *x = V_PICK(a, b, 0, 2, 4, 6);
    *y = V_PICK(a, b, 1, 3, 5, 7);
#endif
}

/* The same with whole quarters in place of lanes. */
VT_INLINE void v_pair_quarters(vf a, vf b, vf *x, vf *y)
{
#if defined(__AVX512F__)
    *x = V_PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    *y = V_PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif defined(__AVX2__)
    *x = V_PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    *y = V_PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    *x = a, *y = b;
#endif
}

VT_INLINE vf v_reduce_step(vf a, vf b, bool lanes, bool sum)
{
    vf x, y;
    if (lanes)
        v_pair_lanes(a, b, &x, &y);
    else
        v_pair_quarters(a, b, &x, &y);
    return sum ? x + y : v_max(x, y);
}

/* Lane i of the result: the sum, or the maximum, of all lanes of a[i]; VL vectors. */
VT_INLINE vf v_reduce_each(const vf *a, bool sum)
{
    vf q[VL / 4];
    V_UNROLL
    for (int i = 0; i < VL / 4; i++)
        q[i] = v_reduce_step(v_reduce_step(a[4 * i], a[4 * i + 1], true, sum),
                             v_reduce_step(a[4 * i + 2], a[4 * i + 3], true, sum), true, sum);
#if defined(__AVX512F__)
    return v_reduce_step(v_reduce_step(q[0], q[1], false, sum),
                         v_reduce_step(q[2], q[3], false, sum), false, sum);
#elif defined(__AVX2__)
    return v_reduce_step(q[0], q[1], false, sum);
#else
    return q[0];
#endif
}

/* x[i] = 2^x[i] for |x[i]| <= 126, within 1e-7 of the result; NaN for NaN. n vectors (a constant, at
 * most V_EXP2) side by side: alone, each step would wait for the one before.
 * x = n + f with n whole and |f| <= 1/2; 2^f by a polynomial fitted to it; n goes into the exponent
 * bits. Adding 1.5 * 2^23 rounds to whole numbers and leaves n in the low bits. */
VT_INLINE void v_exp2_within(vf *x, int n)
{
    const float magic = 12582912.0f, c[] = {1.3398874e-3f, 9.6184374e-3f, 5.5503324e-2f,
                                            2.4022648e-1f, 6.9314720e-1f, 1.0f};
    vf shifted[V_EXP2], p[V_EXP2];
    V_UNROLL
    for (int i = 0; i < n; i++)
        shifted[i] = x[i] + magic;
    V_UNROLL
    for (int i = 0; i < n; i++)
        x[i] = x[i] - (shifted[i] - magic);
    V_UNROLL
    for (int i = 0; i < n; i++)
        p[i] = v_splat(1.5353361e-4f);
    V_UNROLL
    for (int k = 0; k < 6; k++)
        V_UNROLL
    for (int i = 0; i < n; i++)
        p[i] = p[i] * x[i] + c[k];
    V_UNROLL
    for (int i = 0; i < n; i++)
        x[i] = (vf)((vi)p[i] + ((vi)shifted[i] << 23));
}

/* x[i] = 2^x[i] for x[i] <= 126; at most 2^-125 below -125 and exactly 0 below -127, where n takes
 * the exponent bits of 2^0 to 0: so for -inf. NaN for NaN. */
VT_INLINE void v_exp2_each(vf *x, int n)
{
    V_UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_max(v_splat(-127.0f), x[i]); /* in this order it hands NaN on */
    v_exp2_within(x, n);
}

VT_INLINE vf v_exp2(vf x)
{
    v_exp2_each(&x, 1);
    return x;
}

/* Element i of a row of either type. */
VT_INLINE vf v_get(const void *p, vt_dtype type, long i)
{
    return type == VT_F32 ? v_load((const float *)p + i) : v_load_bf16((const uint16_t *)p + i);
}

VT_INLINE v4 v4_get(const void *p, vt_dtype type, size_t i)
{
    return type == VT_F32 ? v4_load((const float *)p + i) : v4_load_bf16((const uint16_t *)p + i);
}

VT_INLINE void v_put(void *p, vt_dtype type, long i, vf v)
{
    if (type == VT_F32)
        v_store((float *)p + i, v);
    else
        v_store_bf16((uint16_t *)p + i, v);
}

VT_INLINE float get1(const void *p, vt_dtype type, long i)
{
    return type == VT_F32 ? ((const float *)p)[i] : vt_bf16_to_f32(((const uint16_t *)p)[i]);
}

VT_INLINE void put1(void *p, vt_dtype type, long i, float v)
{
    if (type == VT_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = vt_f32_to_bf16(v);
}

#endif
