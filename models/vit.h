/* The plain Vision Transformer: configuration, weights, activations, the forward pass.
 *
 *   vit_bind.c   tensor names -> fields: the walk over the model
 *   vit_read.c   finding, checking, reading tensors; putting matrices together from parts of them
 *   positions.c  rotary position embeddings, relative position biases
 *   resample.c   position embeddings for another grid
 *   vit.c        activation buffers and the one forward pass, for every device
 *
 * Letters: B images, N tokens (X prefix + P patches), D width, H heads, F hidden width of the MLP.
 * Vectors (float *) live in the device's memory. Masks and kernels come in as attention plans.
 */
#ifndef VT_VIT_H
#define VT_VIT_H

#include "kernels/ops.h"
#include "weights_tools/timm_config.h"

typedef struct {
    float *gamma, *beta; /* [n]; gamma NULL: the model has no such norm; beta NULL: RMSNorm */
} vit_norm;

/* LayerScale is folded into proj and fc2. Branches side by side (vit_config.branches) are one
 * attention with the heads of all, one MLP with the hidden units of all; their norms are folded
 * into qkv and fc1. Where the device's products can normalise their input (folds_norm), so are
 * gamma and beta of norm1 and norm2. */
typedef struct {
    vit_norm norm1, norm2;   /* [D]; a parallel block's only norm is norm2 */
    vit_norm q_norm, k_norm; /* [head_dim] */
    vit_norm head_norm;      /* of differential attention [D / heads] */
    vit_norm attn_norm;      /* [D] */
    vit_norm mlp_norm;       /* [F] */
    vt_linear *qkv;          /* [3A, D] */
    vt_linear *proj;         /* [D, A], or [D, D] behind differential attention */
    vt_linear *fc1;          /* [F, D]; a gated MLP's [2F, D] */
    vt_linear *fc2;          /* [D, F] */
    vt_rope rope;
    vt_attn_bias bias;
    float lambda; /* of differential attention */
} vit_block;

/* Attention pooling (global_pool "map"). */
typedef struct {
    float *query;    /* [D]: the latent, projected */
    vt_linear *kv;   /* [2D, D] */
    vt_linear *proj; /* [D, D] */
    vit_norm norm;
    vt_linear *fc1, *fc2;
} vit_attn_pool;

typedef struct {
    vit_config cfg;
    vt_device *dev;
    int grid_h, grid_w, prefix, tokens;
    int heads, head_dim;  /* of the attention that is computed: see vit_shape */
    int head_copies;      /* of them, how many stand for one of the model's (vit_model_heads) */
    int attn_width;       /* A = heads * head_dim: D, but for differential attention and branches */
    int hidden;           /* F of all branches */
    int mlp_columns;      /* of the MLP's buffers */
    bool folds_norm;      /* gamma and beta of norm1 and norm2 are in qkv and fc1 */
    int outputs;          /* of the logits: classes, or D where there is no head */
    vt_linear *patch;     /* [D, C * ph * pw] */
    float *prefix_tokens; /* [X, D], position embedding added where it covers them; NULL if X = 0 */
    float *pos;           /* [P, D] or NULL */
    vit_norm patch_norm, norm_pre, norm, fc_norm; /* [D] */
    vit_attn_pool attn_pool;
    float *rope;        /* tables of all layers, or of each */
    float *bias_places; /* rows and columns of relative position biases */
    vit_block *block;   /* [layers] */
    vt_linear *head;    /* [classes, D]; a distilled model's two heads each carry the half */
    vt_linear *head_dist;
    uint64_t parameters;
    size_t bytes; /* device memory that the weights take */
} vit_model;

typedef struct {
    uint64_t parameters; /* in the checkpoint's own count */
    size_t bytes;        /* device memory that the weights will take, about */
    size_t largest;      /* elements of the largest tensor */
} vit_needs;

/* Checks that the checkpoint holds exactly the tensors that cfg calls for, in their shapes, without
 * reading any, and says what loading them takes. */
int vit_check(vit_needs *needs, const vit_config *cfg, const st_reader *r, const char *path,
              vt_dtype dtype, vt_status *st);

/* Fills cfg, dev and the sizes that follow from cfg; no weights.
 *
 * Differential attention of h heads is computed as one of 4h heads of half the size: (q1, k1) and
 * (q2, k2) of each head, each with either half of v. So every kernel and every mask serves it. */
void vit_shape(vit_model *m, const vit_config *cfg, vt_device *dev);

/* Reads, converts and packs all weights of a checkpoint that vit_check found right, for products of
 * about `images` images a forward, tensor by tensor: never two copies of the weights at a time.
 * `watch` (NULL: none) is told of each block. On failure *m is left freed. */
int vit_load(vit_model *m, const vit_config *cfg, const st_reader *r, const char *path,
             vt_device *dev, int images, const vit_needs *needs, vt_watch *watch, vt_status *st);
void vit_free(vit_model *m);

/* How timm resamples a model's position embedding. Bilinear is without antialiasing; CORNERS aligns
 * the corner tokens (align_corners). */
typedef enum { VIT_BICUBIC_ANTIALIAS, VIT_BILINEAR, VIT_BILINEAR_CORNERS } vit_resampling;

/* out [out_h * out_w, width] = the position embedding in [in_h * in_w, width] on another grid, as
 * timm's resample_abs_pos_embed gives it. */
int vit_resample_grid(float *out, int out_h, int out_w, const float *in, int in_h, int in_w,
                      int width, vit_resampling how, vt_status *st);

/* ---- running ---- */
/* Blocks whose outputs are kept: as they leave the block, or under the model's final norm. And
 * whether the tokens that are not pooled are wanted of the last block: else it leaves them out. */
typedef struct {
    const int *layer; /* [count], ascending */
    int count;
    bool norm;
    bool tokens;
} vit_intermediates;

/* Buffers of one stream, for up to `images` images, of which `slice` (S) go through the model at a
 * time, as many as the device's cache likes (vt_device.slice_tokens): together, or, where the
 * device has lanes, a part in each, whose part of every buffer for a slice begins where the part
 * before ends. Buffers whose lives do not overlap share memory: `wide` is cols and embed, then qkv,
 * then hid, in turn; `narrow` is xn, then att. */
typedef struct {
    int images, slice;
    void *input;  /* [B, C, H, W] in the device's input type */
    void *x;      /* [B * N, D] in the device's residual type: the residual stream */
    void *narrow; /* [S * N, D] in the device's type */
    void *wide;
    float *pooled;  /* [B, D] */
    float *pooled2; /* [B, D], distilled models: the distillation token's */
    void *
        operand; /* [S, D] in the device's type, for the head; before, the last block's attention */
    void *last;  /* [S, D] in the device's residual type: x, where the last block gives no more */
    float *moments; /* of x's rows, where products normalise their input */
    float *logits;  /* [B, outputs] */
    void *kept;     /* [want.count, B * N, D] in the device's residual type */
    vit_intermediates want;
    void *block; /* of `bytes` bytes, in which all of these lie */
    size_t bytes;
} vit_acts;

/* How many of `images` images go through the model at a time: at least as many as the device has
 * lanes, where there are so many, and then a multiple of it. */
int vit_slice(const vit_model *m, int images);

/* Bytes that vit_acts_alloc takes, without taking them. */
size_t vit_acts_bytes(const vit_model *m, int images, vit_intermediates want);
/* The list in `want` must outlive the buffers. */
int vit_acts_alloc(vit_acts *a, const vit_model *m, int images, vit_intermediates want,
                   vt_status *st);
void vit_acts_free(vit_acts *a, vt_device *dev);

/* One forward pass of s->images images from a->input, slice by slice, or lane beside lane where
 * nobody looks on: a->logits, a->pooled
 * (features), a->x (all tokens after the final norm) and a->kept hold the results. plan: [layers].
 * Errors are sticky in s. */
void vit_forward(vt_stream *s, const vit_model *m, const vit_acts *a,
                 const vt_attn_plan *const *plan);

#endif
