/* The table of one instruction set. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

/* 12 independent chains: enough for two pipes of five cycles. None may start where it would stay
 * for ever, at y / (1 - x): the compiler would see that and drop it. */
double VT_NAME(vt_fma_loop)(long steps)
{
    vf a[12], x = v_splat(0.5f), y = v_splat(0.3f);
    V_UNROLL
    for (int i = 0; i < 12; i++)
        a[i] = v_splat((float)i);
    for (long n = 0; n < steps; n++)
        V_UNROLL
    for (int i = 0; i < 12; i++)
        a[i] = a[i] * x + y;
    vf sum = a[0];
    for (int i = 1; i < 12; i++)
        sum += a[i];
    return v_sum(sum) != 0 ? (double)steps * 12 * 2 * VL : 0; /* keeps the loop alive */
}

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
    .halves_row = VT_NAME(vt_halves_row),
    .latent_head = VT_NAME(vt_latent_head),
    .reference_scores = VT_NAME(vt_reference_scores),
    .reference_softmax = VT_NAME(vt_reference_softmax),
    .reference_product = VT_NAME(vt_reference_product),
    .attention_weights = VT_NAME(vt_attention_weights),
    .gemm_rows = VT_GEMM_ROWS,
    .gemm_columns = 2 * VL,
    .pack_strip = VT_NAME(vt_pack_strip),
    .pack_panel = VT_NAME(vt_pack_panel),
    .gemm_tile = VT_NAME(vt_gemm_tile),
    .fma_loop = VT_NAME(vt_fma_loop),
};
