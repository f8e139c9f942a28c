/* The seam between model and device: a table of operations sized to a ViT.
 *
 * vt_device  where weights live: immutable after loading, shared by all streams and threads.
 * vt_stream  where one forward pass runs at a time: scratch memory, the sticky error, the profile.
 *
 * Errors are sticky: after a failure each operation does nothing, and finish reports the first.
 * Buffers come from alloc, sized before the run; an operation allocates nothing.
 * Operations are called through ops.h only, which checks shapes and times them.
 *
 * Types: operands of matrix products (normalised tokens, qkv, attention output, MLP hidden) have
 * the device's type: fp32 or bf16 on the CPU, fp16 as well on a GPU. The residual stream (x) and
 * the embedded patches have the device's residual type: fp32 on the CPU, on a GPU its type, because
 * there reading and writing them is what an addition costs. Features and logits are fp32.
 *
 * A function that says "may be NULL" is absent where a device has no need of it; ops.h has
 * stand-ins (vt_...) for callers.
 */
#ifndef VT_BACKEND_H
#define VT_BACKEND_H

#include "kernels/attention.h"
#include "kernels/tensor.h"

typedef struct vt_device vt_device;
typedef struct vt_stream vt_stream;
typedef struct vt_watch vt_watch;   /* watch.h */
typedef struct vt_linear vt_linear; /* a weight matrix with bias in the device's own layout */

/* Moments of rows: for each part of VT_MOMENTS columns of a row its mean, and the sum of the
 * squares of the distances from that; fp32 [rows, columns / VT_MOMENTS, 2]. */
enum { VT_MOMENTS = 64 };

typedef enum { VT_ACT_NONE, VT_ACT_GELU, VT_ACT_GELU_TANH, VT_ACT_QUICK_GELU } vt_activation;

/* A product whose input is normalised on the way, N(x) = (x - mean) / sqrt(variance + eps) of each
 * row; LayerNorm's gamma and beta are in W and b. For at most the device's `fold_rows` rows. */
typedef struct {
    float eps;
    const float *moments; /* of x */
    vt_mat room;          /* for N(x), of x's shape and type: a device takes the moments or it */
} vt_input_norm;

/* y = act(x W^T + b), or y += x W^T + b where `add` (no activation then). */
typedef struct {
    vt_activation act;
    bool add;
    const vt_input_norm *norm; /* NULL: x is taken as it is */
    float *moments;            /* where those of y go, where `add`; NULL: nowhere */
} vt_epilogue;

/* VT_POOL_MAP, attention pooling, is not of `pool` but of `latent_pool` and some products. */
typedef enum { VT_POOL_TOKEN, VT_POOL_AVG, VT_POOL_MAX, VT_POOL_AVGMAX, VT_POOL_MAP } vt_pool;

/* What becomes of the two halves of a row: silu(a) * b, the gated hidden layer; a - factor * b. */
typedef enum { VT_HALVES_SWIGLU, VT_HALVES_DIFFERENCE } vt_halves;

/* Rotary position embedding: pairs of columns of each query and key turn by the angle of their
 * patch. Pair i is columns 2i and 2i + 1, or, where `half`, i and i + head_dim / 2:
 *   (a, b) -> (a cos - b sin, b cos + a sin) */
typedef struct {
    const float *table; /* [heads, patches, head_dim / 2, 2]: cos, sin; NULL: no such embedding */
    int heads;          /* 1: all heads share a table */
    bool half;
} vt_rope;

typedef struct {
    const char *name; /* "cpu" */

    /* ---- life of a device; the others are set when it is opened ---- */
    void (*close)(vt_device *dev);

    /* ---- memory: zeroed, 64-byte aligned; upload and download copy whole matrices of equal shape,
     *      converting between fp32 on the host and the matrix's type ---- */
    void *(*alloc)(vt_device *dev, size_t bytes, const char *what, vt_status *st);
    void (*free)(vt_device *dev, void *p);
    /* Takes at once what the next allocations will cut from. May be NULL: then each is for itself. */
    int (*reserve)(vt_device *dev, size_t bytes, const char *what, vt_status *st);
    int (*upload)(vt_device *dev, vt_mat to, const float *from, vt_status *st);
    int (*download)(vt_device *dev, float *to, vt_mat from, vt_status *st);
    /* Memory of the host that the device reads and writes fast; zeroed. */
    void *(*host_alloc)(vt_device *dev, size_t bytes, const char *what, vt_status *st);
    void (*host_free)(vt_device *dev, void *p);
    size_t (*free_memory)(vt_device *dev); /* bytes to be had; may be NULL: who knows */

    /* ---- weights: W [out, in] row-major fp32 on the host, bias [out] or NULL; converted and packed
     *      once, for products of about `rows` rows; the caller's memory is free afterwards ---- */
    vt_linear *(*linear_load)(vt_device *dev, const float *w, const float *bias, int out, int in,
                              size_t rows, vt_status *st);
    void (*linear_free)(vt_device *dev, vt_linear *w);
    size_t (*linear_bytes)(const vt_linear *w);
    bool (*linear_fits)(const vt_linear *w, int in, int out); /* is W [out, in]? */

    /* ---- the cost model's built-in constants for this device and type, and heads of this size
     *      (dispatch.h) ---- */
    const struct vt_attn_costs *(*attention_costs)(const vt_device *dev, int head_dim);
    /* Is there such a kernel for heads of this size, and with a bias if `biased`? */
    bool (*attention_serves)(const vt_device *dev, vt_attn_kernel kernel, int head_dim,
                             bool biased);
    /* Brings what a group's kernel reads (list of heads, layout) to where the device reads it, into
     * g->own; equal layouts are shared. May be NULL: host memory serves. */
    int (*group_load)(vt_device *dev, vt_attn_group *g, vt_status *st);
    void (*group_free)(vt_device *dev, vt_attn_group *g);

    /* ---- streams. prepare_... tells of a product or plan that will run; what it needs is allocated
     *      then, and stream_bytes says how much there is by now. The matrices are those of the run (of
     *      shape and type only while dry); their contents may be overwritten ---- */
    vt_stream *(*stream_open)(vt_device *dev, vt_status *st);
    void (*stream_close)(vt_stream *s);
    int (*prepare_linear)(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e,
                          vt_status *st);
    int (*prepare_attention)(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                             int images, vt_status *st);
    int (*prepare_latent_pool)(vt_stream *s, vt_mat kv, vt_status *st); /* may be NULL */
    size_t (*attention_scratch)(const vt_device *dev, const vt_attn_plan *plan, int images);
    size_t (*stream_bytes)(const vt_stream *s);
    /* Between host memory from host_alloc and the device, in order with the operations; the memory
     * must stay until finish. feed: fp32 into the matrix's type; fetch: fp32 matrices. */
    void (*feed)(vt_stream *s, vt_mat to, const float *from);
    void (*fetch)(vt_stream *s, float *to, vt_mat from);
    int (*finish)(vt_stream *s, vt_status *st); /* waits; 0, or the first failure */
    /* The time that the device spends between the two, in milliseconds; stop waits. May be NULL:
     * then that of the calls. */
    void (*clock_start)(vt_stream *s);
    double (*clock_stop)(vt_stream *s);
    /* What is called between record_begin and record_end is not run but recorded, for a forward of
     * s->images images; replay runs it. May be NULL, all four. */
    bool (*recorded)(vt_stream *s);
    void (*record_begin)(vt_stream *s);
    void (*record_end)(vt_stream *s);
    void (*replay)(vt_stream *s);

    /* ---- operations; B images, N tokens, D width ---- */
    /* cols [B*P, C*ph*pw] = the patches of images [B, C*H*W] in the device's input type,
     * channel-major as the convolution's kernel is. */
    void (*patches)(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height, int width,
                    int patch_h, int patch_w);
    void (*linear)(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e);
    /* x [B*N, D] = prefix tokens (from prefix [X, D], position added already) then patches
     * [B*P, D] + pos [P, D], for each of B images; pos may be NULL. x and patches have the residual
     * type, the others are fp32. */
    void (*tokens)(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                   const float *pos);
    /* y = LayerNorm(x) * gamma + beta over the columns, biased variance, eps inside the root; where
     * beta is NULL, RMSNorm: y = x / sqrt(mean of x^2 + eps) * gamma. x fp32 or the device's type,
     * y either; y may alias x when the types are equal. Where fold_rows is set, gamma and beta may
     * be NULL both: 1 and 0. */
    void (*norm)(vt_stream *s, vt_mat y, vt_mat x, const float *gamma, const float *beta,
                 float eps);
    /* Those of x, whose columns are a multiple of VT_MOMENTS, in the device's type. May be NULL
     * where fold_rows is 0. */
    void (*moments)(vt_stream *s, float *moments, vt_mat x);
    /* In place on heads of qkv: q and k of each head normalised over head_dim (qk_norm); betas may
     * be NULL as above. */
    void (*qk_norm)(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                    const float *q_beta, const float *k_gamma, const float *k_beta, float eps);
    /* In place on q and k of qkv [B*N, 3 * heads * head_dim]: turns all tokens but the first
     * `prefix` of each image of `tokens`. */
    void (*rope)(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
                 const vt_rope *rope);
    void (*attention)(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan);
    /* y [R, n] from the halves of x [R, 2n]; both in the device's type. they do not overlap. */
    void (*halves)(vt_stream *s, vt_mat y, vt_mat x, vt_halves how, float factor);
    /* y += x, elementwise, of either type each. */
    void (*add)(vt_stream *s, vt_mat y, vt_mat x);
    /* y [B, D] = attention of one query q [D], the same for all images, to the tokens first .. N-1 of
     * kv [B*N, 2D] (k, then v), by heads of D / heads columns, scores scaled by the root of that.
     * y and kv in the device's type, q fp32. */
    void (*latent_pool)(vt_stream *s, vt_mat y, vt_mat kv, const float *q, int heads, int first);
    /* y [B, D], fp32, from x [B*N, D]: token `first`, or the mean/max over tokens first .. N-1. */
    void (*pool)(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first);
    /* y [B, n] = row `first` of each image's rows of x [B*N, n], both of one type. */
    void (*take)(vt_stream *s, vt_mat y, vt_mat x, int tokens, int first);
    /* y = x in y's type. */
    void (*cast)(vt_stream *s, vt_mat y, vt_mat x);
} vt_backend_ops;

/* Every device and stream begins with these; the back ends extend them. */
struct vt_device {
    const vt_backend_ops *ops;
    vt_dtype dtype;         /* of the operands of matrix products */
    bool tf32;              /* products may round fp32 operands to tf32 */
    char hardware[96];      /* "NVIDIA H100 80GB HBM3": equal names are equally fast */
    const char *arithmetic; /* "fp32", "tf32", "bf16", "fp16" */
    vt_dtype input;         /* of images */
    vt_dtype residual;      /* of the residual stream */
    size_t fold_rows;       /* products of at most so many rows normalise their input faster than a
                               pass before them does; 0: none do */
    bool host_memory;       /* its memory is the host's: the host may read and write it */
    int slice_tokens; /* about how many tokens a forward takes through the model at a time, so that
                         they stay in its cache; 0: all */
    int wave_rows; /* rows of a product that keep every part of the device busy to the end, whatever its
                      columns; 0: any number does */
    int threads; /* CPU threads that operations may use */
    int lanes;   /* slices that may go through the model side by side; 0, 1: one after the other */
};

typedef struct vt_profile_entry {
    const char *op; /* "linear", "norm", ... */
    char name[32];  /* "qkv", "fc1", ... as the model calls it */
    int layer;      /* -1 outside the blocks */
    double ms;
    long calls;
} vt_profile_entry;

struct vt_stream {
    vt_device *dev;
    vt_status error; /* the first failure; code VT_OK while there is none */

    /* for ops.c */
    bool preparing;  /* operations prepare for their shapes and compute nothing */
    bool dry;        /* preparing only adds up the memory that it would take, in stream_bytes */
    int images;      /* of the forward in progress; within vit_forward, of the slice in progress */
    int first;       /* the slice's first image */
    vt_watch *watch; /* of the caller that waits; NULL: none. The lanes have their stream's */
    vt_stream *
        *lane;    /* [dev->lanes] streams of one thread each, for slices side by side; or NULL */
    double clock; /* of vt_clock_start */
    int layer;    /* the block in progress, -1 outside */
    bool profiling;
    vt_profile_entry *profile; /* entries in order of first appearance */
    int profile_count, profile_room;
    /* called after every operation: its name, what it wrote, and what it read */
    void (*observe)(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat x);
    void *observe_user;
};

/* NULL with st set where the type is not to be had. threads >= 1. */
vt_device *vt_cpu_open(vt_dtype dtype, int threads, vt_status *st);

/* GPU number `index`. Fails with VT_MACHINE where there is no such GPU, no driver, no cuBLASLt.
 * Only in builds with CUDA (VT_CUDA). */
vt_device *vt_cuda_open(vt_dtype dtype, bool tf32, int index, int threads, vt_status *st);

/* What the CPU backend found: "avx512", "avx2", "neon", "generic"; and the matrix library. */
const char *vt_cpu_isa(void);
const char *vt_cpu_matmul(const vt_device *dev); /* "oneDNN 2.6.3", "built-in" */

#endif
