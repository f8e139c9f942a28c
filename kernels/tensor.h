/* A typed row-major view of memory that somebody else owns: the argument of every operation. */
#ifndef VT_TENSOR_H
#define VT_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum { VT_F32, VT_F16, VT_BF16 } vt_dtype;

static inline size_t vt_dtype_bytes(vt_dtype t)
{
    return t == VT_F32 ? 4 : 2;
}

typedef struct {
    void *p; /* [rows, cols], rows contiguous; host memory or the device's */
    vt_dtype type;
    size_t rows;
    int cols;
} vt_mat;

static inline size_t vt_mat_bytes(vt_mat m)
{
    return m.rows * (size_t)m.cols * vt_dtype_bytes(m.type);
}

/* bfloat16: the upper half of a float, rounded to nearest even; NaN stays NaN. */
static inline float vt_bf16_to_f32(uint16_t b)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)b << 16};
    return v.f;
}

static inline uint16_t vt_f32_to_bf16(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {f};
    if ((v.u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(v.u >> 16 | 0x40);
    return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1)) >> 16);
}

#endif
