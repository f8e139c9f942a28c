/* How timm_archs.c writes its rows: one macro call an architecture or a pretrained tag. Included by
 * that file only.
 */
#ifndef VT_TIMM_ROWS_H
#define VT_TIMM_ROWS_H

#include "weights_tools/timm_archs.h"

/* What an architecture has beyond, or lacks of, the plain ViT: position embedding for all tokens,
 * final norm before pooling, biases everywhere. */
enum {
    CLS = 1 << 0,          /* class token */
    DIST = 1 << 1,         /* distillation token and head */
    SCALE = 1 << 2,        /* layer scale */
    PRE_NORM = 1 << 3,     /* norm before the blocks, and then no patch bias */
    FC_NORM = 1 << 4,      /* final norm after pooling */
    QK_NORM = 1 << 5,      /* norm of queries and keys */
    PATCH_POS = 1 << 6,    /* position embedding for the patches only */
    POOL_ALL = 1 << 7,     /* pooling includes the prefix tokens */
    NO_POS = 1 << 8,       /* no position embedding */
    NO_NORM = 1 << 9,      /* no final norm */
    NO_QKV_BIAS = 1 << 10, /* no bias of queries, keys, values */
    NO_PROJ_BIAS = 1 << 11 /* no bias in attention's projection and the MLP */
};

#define TOKEN      VT_POOL_TOKEN
#define AVG        VT_POOL_AVG
#define MAX        VT_POOL_MAX
#define AVGMAX     VT_POOL_AVGMAX
#define GELU       VT_ACT_GELU
#define GELU_TANH  VT_ACT_GELU_TANH
#define QUICK_GELU VT_ACT_QUICK_GELU
#define BICUBIC    VT_INTERP_BICUBIC
#define BILINEAR   VT_INTERP_BILINEAR
#define CENTER     VT_CROP_CENTER
#define SQUASH     VT_CROP_SQUASH
#define BORDER     VT_CROP_BORDER

#define VIT(arch, default_tag_, image, patch, width_, layers_, heads_, hidden_, classes_, pool_,   \
            act_, eps, registers, flags)                                                           \
    {                                                                                              \
        .name = arch, .default_tag = default_tag_,                                                 \
        .vit = {                                                                                   \
            .architecture = arch,                                                                  \
            .img_h = image,                                                                        \
            .img_w = image,                                                                        \
            .saved_h = image,                                                                      \
            .saved_w = image,                                                                      \
            .patch_h = patch,                                                                      \
            .patch_w = patch,                                                                      \
            .channels = 3,                                                                         \
            .width = width_,                                                                       \
            .layers = layers_,                                                                     \
            .heads = heads_,                                                                       \
            .hidden = hidden_,                                                                     \
            .classes = classes_,                                                                   \
            .class_token = ((flags) & CLS) != 0,                                                   \
            .dist_token = ((flags) & DIST) != 0,                                                   \
            .reg_tokens = registers,                                                               \
            .pos_embed = !((flags) & NO_POS),                                                      \
            .no_embed_class = ((flags) & PATCH_POS) != 0,                                          \
            .pre_norm = ((flags) & PRE_NORM) != 0,                                                 \
            .final_norm = !((flags) & NO_NORM),                                                    \
            .fc_norm = ((flags) & FC_NORM) != 0,                                                   \
            .qkv_bias = !((flags) & NO_QKV_BIAS),                                                  \
            .proj_bias = !((flags) & NO_PROJ_BIAS),                                                \
            .qk_norm = ((flags) & QK_NORM) != 0,                                                   \
            .layer_scale = ((flags) & SCALE) != 0,                                                 \
            .pool = pool_,                                                                         \
            .pool_include_prefix = ((flags) & POOL_ALL) != 0,                                      \
            .act = act_,                                                                           \
            .norm_eps = eps,                                                                       \
        },                                                                                         \
    }

#define NOT(arch, default_tag_, missing)                                                           \
    {                                                                                              \
        .name = arch, .default_tag = default_tag_, .unsupported = missing                          \
    }

#define HALF     {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}
#define IMAGENET {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}
#define CLIP     {0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}
#define UNIT     {0, 0, 0}, {1, 1, 1}

#define TAG(arch, tag, image, interpolation, crop_mode, crop_pct, stats, classes)                  \
    {                                                                                              \
        arch, tag, {image, image, interpolation, crop_mode, crop_pct, stats}, classes              \
    }

#endif
