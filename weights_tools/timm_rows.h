/* How timm_archs.c writes its rows: one macro call an architecture or a pretrained tag. Included by
 * that file only.
 */
#ifndef VT_TIMM_ROWS_H
#define VT_TIMM_ROWS_H

#include "weights_tools/timm_archs.h"

/* What an architecture has beyond, or lacks of, the plain ViT: position embedding for all tokens,
 * final norm before pooling, biases everywhere. */
enum {
    CLS = 1 << 0,           /* class token */
    DIST = 1 << 1,          /* distillation token and head */
    SCALE = 1 << 2,         /* layer scale */
    PRE_NORM = 1 << 3,      /* norm before the blocks, and then no patch bias */
    FC_NORM = 1 << 4,       /* final norm after pooling */
    QK_NORM = 1 << 5,       /* norm of queries and keys */
    PATCH_POS = 1 << 6,     /* position embedding for the patches only */
    POOL_ALL = 1 << 7,      /* pooling includes the prefix tokens */
    NO_POS = 1 << 8,        /* no position embedding */
    NO_NORM = 1 << 9,       /* no final norm */
    NO_QKV_BIAS = 1 << 10,  /* no bias of queries, keys, values */
    NO_PROJ_BIAS = 1 << 11, /* no bias in attention's projection and the MLP */
    RMS = 1 << 12,          /* RMSNorm in place of LayerNorm */
    PATCH_NORM = 1 << 13,   /* norm after the patch embedding */
    ATTN_NORM = 1 << 14,    /* norm before attention's projection */
    MLP_NORM = 1 << 15,     /* norm of the MLP's hidden layer */
    GATED = 1 << 16,        /* gated MLP (SwiGLU) */
    SCALE_ATTN = 1 << 17,   /* layer scale of the attention only */
    DIFFERENTIAL = 1 << 18, /* differential attention */
    BRANCHES = 1 << 19      /* two attentions and two MLPs side by side */
};

#define TOKEN      VT_POOL_TOKEN
#define AVG        VT_POOL_AVG
#define MAX        VT_POOL_MAX
#define MAP        VT_POOL_MAP
#define AVGMAX     VT_POOL_AVGMAX
#define GELU       VT_ACT_GELU
#define GELU_TANH  VT_ACT_GELU_TANH
#define QUICK_GELU VT_ACT_QUICK_GELU
#define SILU       VT_ACT_NONE /* the gate's; no activation of a plain MLP */
#define POST       VIT_BLOCK_POST
#define PARALLEL   VIT_BLOCK_PARALLEL
#define BIAS_TABLE VIT_BIAS_TABLE
#define BIAS_MLP   VIT_BIAS_MLP
#define BIAS_SWIN  VIT_BIAS_SWIN
#define BICUBIC    VT_INTERP_BICUBIC
#define BILINEAR   VT_INTERP_BILINEAR
#define CENTER     VT_CROP_CENTER
#define SQUASH     VT_CROP_SQUASH
#define BORDER     VT_CROP_BORDER

/* Rotary embeddings: temperature, side of the reference grid (0: none), offset, order of axes. */
#define IJ                false
#define XY                true
#define ROPE_MIXED(order) .rope = VIT_ROPE_MIXED, .rope_xy = order
#define ROPE_DINOV3(t)    .rope = VIT_ROPE_CENTERED, .rope_temperature = t, .rope_half = true
#define ROPE_CAT(t, reference, offset, order)                                                      \
    .rope = VIT_ROPE_AXIAL, .rope_temperature = t, .rope_ref_h = reference,                        \
    .rope_ref_w = reference, .rope_offset = offset, .rope_xy = order

/* Behind the flags: further fields of vit_config, with their names. */
#define VIT(arch, default_tag_, img_height, img_width, patch, width_, layers_, heads_, hidden_,    \
            classes_, pool_, eps, registers, flags, ...)                                           \
    {                                                                                              \
        .name = arch, .default_tag = default_tag_,                                                 \
        .vit = {                                                                                   \
            .architecture = arch,                                                                  \
            .img_h = img_height,                                                                   \
            .img_w = img_width,                                                                    \
            .saved_h = img_height,                                                                 \
            .saved_w = img_width,                                                                  \
            .patch_h = patch,                                                                      \
            .patch_w = patch,                                                                      \
            .channels = 3,                                                                         \
            .width = width_,                                                                       \
            .layers = layers_,                                                                     \
            .heads = heads_,                                                                       \
            .hidden = hidden_,                                                                     \
            .classes = classes_,                                                                   \
            .class_token = ((flags)&CLS) != 0,                                                     \
            .dist_token = ((flags)&DIST) != 0,                                                     \
            .reg_tokens = registers,                                                               \
            .pos_embed = !((flags)&NO_POS),                                                        \
            .no_embed_class = ((flags)&PATCH_POS) != 0,                                            \
            .pre_norm = ((flags)&PRE_NORM) != 0,                                                   \
            .final_norm = !((flags)&NO_NORM),                                                      \
            .fc_norm = ((flags)&FC_NORM) != 0,                                                     \
            .qkv_bias = !((flags)&NO_QKV_BIAS),                                                    \
            .proj_bias = !((flags)&NO_PROJ_BIAS),                                                  \
            .qk_norm = ((flags)&QK_NORM) != 0,                                                     \
            .layer_scale = ((flags)&SCALE) != 0,                                                   \
            .pool = pool_,                                                                         \
            .pool_include_prefix = ((flags)&POOL_ALL) != 0,                                        \
            .norm_eps = eps,                                                                       \
            .rms_norm = ((flags)&RMS) != 0,                                                        \
            .patch_norm = ((flags)&PATCH_NORM) != 0,                                               \
            .attn_norm = ((flags)&ATTN_NORM) != 0,                                                 \
            .mlp_norm = ((flags)&MLP_NORM) != 0,                                                   \
            .gated_mlp = ((flags)&GATED) != 0,                                                     \
            .attn_scale_only = ((flags)&SCALE_ATTN) != 0,                                          \
            .differential = ((flags)&DIFFERENTIAL) != 0,                                           \
            .branches = (flags)&BRANCHES ? 2 : 1,                                                  \
            __VA_ARGS__,                                                                           \
        },                                                                                         \
    }

#define NOT(arch, default_tag_, missing)                                                           \
    {                                                                                              \
        .name = arch, .default_tag = default_tag_, .unsupported = missing                          \
    }

/* clang-format off */
#define HALF      {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}
#define IMAGENET  {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}
#define CLIP      {0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}
#define UNIT      {0, 0, 0}, {1, 1, 1}
#define SATELLITE {0.43, 0.411, 0.296}, {0.213, 0.156, 0.143}
/* clang-format on */

#define TAG(arch, tag, img_height, img_width, interpolation, crop_mode, crop_pct, stats, classes)  \
    {                                                                                              \
        arch, tag, {img_height, img_width, interpolation, crop_mode, crop_pct, stats}, classes     \
    }

#endif
