/* The table of one instruction set. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#define VT_TEXT2(x) #x
#define VT_TEXT(x)  VT_TEXT2(x)

const vt_isa VT_NAME(vt_isa) = {
#if defined(__aarch64__)
    .name = "neon",
#else
    .name = VT_TEXT(VT_ISA),
#endif
    .norm_row = VT_NAME(vt_norm_row),
    .attend_panels = VT_NAME(vt_attend_panels),
    .attend_rows = VT_NAME(vt_attend_rows),
    .reference_scores = VT_NAME(vt_reference_scores),
    .reference_softmax = VT_NAME(vt_reference_softmax),
    .reference_product = VT_NAME(vt_reference_product),
};
