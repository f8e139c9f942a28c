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

typedef struct vt_dnn vt_dnn;                 /* oneDNN's engine */
typedef struct vt_dnn_weights vt_dnn_weights; /* a matrix in oneDNN's layout */
typedef struct vt_dnn_product vt_dnn_product; /* a product prepared for its shapes */

typedef struct cpu_device {
    vt_device base;
    const vt_isa *isa;
    vt_dnn *dnn;              /* NULL: the built-in product */
    struct cpu_device *alone; /* the same with one thread, for lanes; NULL: it has only one */
} cpu_device;

typedef struct cpu_stream {
    vt_stream base;
    struct cpu_stream *owner; /* of a lane: it lends a part of its scratch; else NULL */
    int number;               /* of a lane */
    char *scratch; /* of the operation in progress: the most that any prepared one needs */
    size_t scratch_bytes;
    size_t lane_bytes;        /* of the scratch, lent to each lane */
    vt_dnn_product *products; /* a list */
    size_t product_bytes;
} cpu_stream;

/* Threads for a pass over m: starting a team costs microseconds, which a small matrix does not
 * repay. */
static inline int vt_team(const vt_stream *s, vt_mat m)
{
    return m.rows * (size_t)m.cols < 1 << 15 ? 1 : s->dev->threads;
}

static inline const cpu_device *vt_cpu(const vt_stream *s)
{
    return (const cpu_device *)s->dev;
}

static inline char *vt_scratch(const cpu_stream *s)
{
    const cpu_stream *owner = s->owner;
    return owner ? owner->scratch + (size_t)s->number * owner->lane_bytes : s->scratch;
}

/* Makes scratch at least so large. */
int vt_cpu_need_scratch(vt_stream *s, size_t bytes, const char *what, vt_status *st);

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
int vt_cpu_prepare_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e,
                          vt_status *st);
void vt_cpu_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e);

/* onednn.c. Without oneDNN in the build vt_dnn_open fails and the others are never called. They
 * return 0 or -1 with st set; scratch comes from the stream. */
vt_dnn *vt_dnn_open(vt_status *st);
void vt_dnn_close(vt_dnn *dnn);
const char *vt_dnn_version(void); /* "oneDNN 2.6.3" */
vt_dnn_weights *vt_dnn_load(vt_device *dev, const float *w, int out, int in, size_t rows,
                            vt_status *st);
void vt_dnn_free(vt_dnn_weights *w);
size_t vt_dnn_bytes(const vt_dnn_weights *w);
int vt_dnn_prepare(vt_stream *s, const vt_dnn_weights *w, size_t rows, vt_dtype x, vt_dtype y,
                   vt_epilogue e, vt_status *st);
int vt_dnn_run(vt_stream *s, vt_mat y, vt_mat x, const vt_dnn_weights *w, const float *bias,
               vt_epilogue e, vt_status *st);
void vt_dnn_free_products(vt_dnn_product *list);

/* attention.c */
const struct vt_attn_costs *vt_cpu_attention_costs(const vt_device *dev, int head_dim);
bool vt_cpu_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim,
                             bool biased);
int vt_cpu_prepare_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                             int images, vt_status *st);
size_t vt_cpu_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images);
void vt_cpu_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan);
int vt_cpu_prepare_latent_pool(vt_stream *s, vt_mat kv, vt_status *st);
void vt_cpu_latent_pool(vt_stream *s, vt_mat y, vt_mat kv, const float *q, int heads, int first);

/* tokens.c */
void vt_cpu_patches(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height, int width,
                    int patch_h, int patch_w);
void vt_cpu_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                   const float *pos);
void vt_cpu_cast(vt_stream *s, vt_mat y, vt_mat x);
void vt_cpu_add(vt_stream *s, vt_mat y, vt_mat x);
void vt_cpu_rope(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
                 const vt_rope *rope);
void vt_cpu_take(vt_stream *s, vt_mat y, vt_mat x, int tokens, int first);
void vt_cpu_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first);

#endif
