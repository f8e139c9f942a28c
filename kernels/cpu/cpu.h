/* The inside of the CPU back end: what its files share. Nothing outside kernels/cpu and its tests
 * includes this.
 *
 * Vector code is written once, in isa_*.c, and compiled once for each instruction set; each gives a
 * table of functions on plain memory (vt_isa). Everything else (threads, types, sizes, scratch) is
 * ordinary C in backend.c, linear.c, onednn.c, attention.c and tokens.c.
 */
#ifndef VT_CPU_H
#define VT_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

typedef struct {
    vt_device base;
    const vt_isa *isa;
    bool onednn; /* oneDNN does the products */
} cpu_device;

typedef struct {
    vt_stream base;
    char *scratch; /* for attention: the most that any prepared plan needs */
    size_t scratch_bytes;
} cpu_stream;

static inline const cpu_device *vt_cpu(const vt_stream *s)
{
    return (const cpu_device *)s->dev;
}

/* vt_cpu_open with the instruction set named ("generic", "avx2", "avx512"; NULL: the best) and the
 * matrix library chosen (0: built-in, 1: oneDNN, -1: whichever is faster here). Fails with VT_USAGE
 * where the machine or the build has not got it. */
vt_device *vt_cpu_open_as(vt_dtype dtype, int threads, const char *isa, int onednn, vt_status *st);

/* linear.c */
vt_linear *vt_cpu_linear_load(vt_device *dev, const float *w, const float *bias, int out, int in,
                              size_t rows, vt_status *st);
void vt_cpu_linear_free(vt_device *dev, vt_linear *w);
size_t vt_cpu_linear_bytes(const vt_linear *w);
bool vt_cpu_linear_fits(const vt_linear *w, int in, int out);
int vt_cpu_prepare_linear(vt_stream *s, const vt_linear *w, size_t rows, vt_dtype x, vt_dtype y,
                          vt_epilogue e, vt_status *st);
void vt_cpu_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e);

/* attention.c */
const struct vt_attn_costs *vt_cpu_attention_costs(const vt_device *dev);
int vt_cpu_prepare_attention(vt_stream *s, const vt_attn_plan *plan, int images, vt_status *st);
size_t vt_cpu_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images);
void vt_cpu_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan);

/* tokens.c */
void vt_cpu_patches(vt_stream *s, vt_mat cols, const float *images, int channels, int height,
                    int width, int patch_h, int patch_w);
void vt_cpu_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                   const float *pos);
void vt_cpu_cast(vt_stream *s, vt_mat y, vt_mat x);
void vt_cpu_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first);

#endif
