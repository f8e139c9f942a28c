/* What a timm checkpoint is: every switch of the forward pass, the preprocessing, the class names,
 * and for each fact where it was learnt from.
 *
 * Sources, first wins: the command line (--arch, --set, --img-size, --labels); config.json; the
 * `vitrun.config` entry of the safetensors metadata; the built-in architecture table
 * (timm_archs.h); timm's own defaults. Tensor shapes are the cross-check (models/vit_bind.c), never
 * a source of what shapes can't tell; what nothing tells is an error that names the option to give.
 */
#ifndef VT_TIMM_CONFIG_H
#define VT_TIMM_CONFIG_H

#include "kernels/backend.h"
#include "weights_tools/safetensors.h"

typedef enum { VT_INTERP_BICUBIC, VT_INTERP_BILINEAR } vt_interpolation;
typedef enum { VT_CROP_CENTER, VT_CROP_SQUASH, VT_CROP_BORDER } vt_crop_mode;

/* timm's eval transform. */
typedef struct {
    int height, width; /* the network's input */
    vt_interpolation interpolation;
    vt_crop_mode crop_mode;
    double crop_pct;
    double mean[3], std[3];
} vt_preprocess;

/* Where a fact came from; printed by `vitrun info`. */
typedef enum {
    VT_FROM_DEFAULT, /* timm's default */
    VT_FROM_ARCH,    /* the built-in architecture table */
    VT_FROM_FILE,    /* metadata of the weights file */
    VT_FROM_CONFIG,  /* config.json */
    VT_FROM_OPTION,  /* the command line */
    VT_FROM_SHAPES /* the tensors themselves (counts and presence, where nothing else is needed) */
} vt_origin;

/* How attention and MLP are joined to the residual stream x:
 *   PRE       x += attn(norm1(x));  x += mlp(norm2(x))
 *   POST      x += norm1(attn(x));  x += norm2(mlp(x))
 *   PARALLEL  x += attn(norm(x)) + mlp(norm(x)) */
typedef enum { VIT_BLOCK_PRE, VIT_BLOCK_POST, VIT_BLOCK_PARALLEL } vit_block_kind;

/* Rotary position embedding by timm's names: cat, mixed, dinov3 (positions.c has the angles). */
typedef enum { VIT_ROPE_NONE, VIT_ROPE_AXIAL, VIT_ROPE_MIXED, VIT_ROPE_CENTERED } vit_rope_kind;

/* Relative position bias: a learnt table, or an MLP of the distances' logarithms (timm's `mlp`, and
 * `mlp-swin` with its own scale of distances and a bounded result). */
typedef enum { VIT_BIAS_NONE, VIT_BIAS_TABLE, VIT_BIAS_MLP, VIT_BIAS_SWIN } vit_bias_kind;

typedef struct {
    char architecture[80];
    int img_h, img_w;     /* pixels that the model runs at */
    int saved_h, saved_w; /* pixels that its position embedding was saved for */
    int patch_h, patch_w;
    int channels; /* in_chans: 1 or 3 */
    int width;    /* embed_dim */
    int layers;   /* depth */
    int heads;
    int hidden;  /* int(width * mlp_ratio), of each of a gated MLP's halves */
    int classes; /* 0: no head, features are the result */
    bool class_token;
    bool dist_token; /* distilled: two heads, averaged */
    int reg_tokens;
    bool pos_embed;      /* false: none */
    bool no_embed_class; /* position embedding covers patches only */
    bool pre_norm;       /* norm_pre present, and then no patch bias */
    bool final_norm;
    bool fc_norm; /* norm after pooling instead of before */
    bool qkv_bias;
    bool proj_bias;
    bool qk_norm;
    bool layer_scale; /* init_values */
    vt_pool pool;
    bool pool_include_prefix;
    vt_activation act;
    double norm_eps;
    bool rms_norm;        /* RMSNorm in place of every LayerNorm */
    bool patch_norm;      /* norm after the patch embedding */
    bool attn_norm;       /* norm before attention's projection */
    bool mlp_norm;        /* norm of the hidden layer */
    bool gated_mlp;       /* SwiGLU: silu(x W_g) * (x W_x) */
    bool attn_scale_only; /* layer scale, but none of the MLP */
    bool differential;    /* differential attention */
    vit_block_kind block;
    int branches; /* attentions and MLPs side by side in a block; 1, or timm's "things" 2 */
    vit_rope_kind rope;
    double rope_temperature, rope_offset;
    int rope_ref_h, rope_ref_w; /* the grid that positions are scaled to; 0: they are not */
    bool rope_xy;               /* columns before rows */
    bool rope_half;
    vit_bias_kind rel_pos;
    int pool_heads, pool_hidden; /* of attention pooling */
} vit_config;

typedef struct {
    vit_config vit;
    vt_preprocess pre;
    char **label; /* [labels] or NULL */
    int labels;
    /* Where each fact came from, for the model card: name, value as text, origin. */
    struct vt_fact {
        char name[24];
        char value[72];
        vt_origin origin;
    } * fact;
    int facts;
} timm_config;

typedef struct {
    const char *config;     /* path of a config.json, or NULL: the one beside the weights, if any */
    const char *arch;       /* --arch, or NULL */
    const char *const *set; /* KEY=VALUE texts */
    int sets;
    int img_h, img_w;   /* --img-size; 0: the model's */
    const char *labels; /* --labels FILE, or NULL */
} timm_options;

/* `weights` is the path that `reader` was opened from. Fills *out, whose memory timm_config_free
 * gives back (also after a failure). */
int timm_config_load(timm_config *out, const char *weights, const st_reader *reader,
                     const timm_options *opt, vt_status *st);
void timm_config_free(timm_config *c);

/* What a model has beyond timm's original ViT, or lacks of it, in words: "4 registers, SwiGLU"; what
 * does not fit is cut. */
void timm_parts(const vit_config *v, char *out, size_t room);

const char *vt_origin_name(vt_origin o); /* "config.json", "command line", ... */

/* The closest of `names` (NULL-terminated list) to a mistyped one, or NULL if none is near. */
const char *vt_nearest(const char *typo, const char *const *names);

#endif
