/* What each instruction set provides, and the names under which isa_*.c define it. */
#ifndef VT_CPU_ISA_H
#define VT_CPU_ISA_H

#include "kernels/tensor.h"

typedef struct {
    const char *name;
    /* y = LayerNorm(x) over n columns, for one row; y may be x where the types are equal. */
    void (*norm_row)(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,
                     const float *gamma, const float *beta, float eps);
} vt_isa;

#define VT_ISA_DECLARE(isa)                                                                        \
    extern const vt_isa vt_isa_##isa;                                                              \
    void vt_norm_row_##isa(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,        \
                           const float *gamma, const float *beta, float eps);

VT_ISA_DECLARE(generic)
#if defined(__x86_64__)
VT_ISA_DECLARE(avx2)
VT_ISA_DECLARE(avx512)
#endif

#endif
