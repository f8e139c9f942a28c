/* A timm configuration in the making: shared by timm_config.c (which sources, in which order),
 * timm_json.c (what a document says), timm_set.c (KEY=VALUE) and timm_card.c (the list of facts).
 * Nobody else includes this.
 *
 * Sources are applied from the weakest to the strongest, each overwriting what it speaks of and
 * leaving its mark in `from`.
 */
#ifndef VT_TIMM_BUILD_H
#define VT_TIMM_BUILD_H

#include "weights_tools/json.h"
#include "weights_tools/timm_archs.h"

/* The facts of a model card, in its order. */
typedef enum {
    FACT_ARCHITECTURE,
    FACT_IMG_SIZE,
    FACT_SAVED_SIZE,
    FACT_PATCH_SIZE,
    FACT_IN_CHANS,
    FACT_EMBED_DIM,
    FACT_DEPTH,
    FACT_NUM_HEADS,
    FACT_HIDDEN,
    FACT_NUM_CLASSES,
    FACT_CLASS_TOKEN,
    FACT_DISTILLED,
    FACT_REG_TOKENS,
    FACT_POS_EMBED,
    FACT_NO_EMBED_CLASS,
    FACT_PRE_NORM,
    FACT_FINAL_NORM,
    FACT_FC_NORM,
    FACT_QKV_BIAS,
    FACT_PROJ_BIAS,
    FACT_QK_NORM,
    FACT_LAYER_SCALE,
    FACT_GLOBAL_POOL,
    FACT_POOL_INCLUDE_PREFIX,
    FACT_ACT,
    FACT_NORM_EPS,
    FACT_NORM_LAYER,
    FACT_PATCH_NORM,
    FACT_ATTN_NORM,
    FACT_MLP_NORM,
    FACT_GATED_MLP,
    FACT_BLOCK,
    FACT_BRANCHES,
    FACT_DIFFERENTIAL,
    FACT_ROPE,
    FACT_REL_POS,
    FACT_POOL_HEADS,
    FACT_INTERPOLATION,
    FACT_CROP_MODE,
    FACT_CROP_PCT,
    FACT_MEAN,
    FACT_STD,
    FACT_LABELS,
    FACTS
} fact_id;

typedef struct {
    vit_config vit;
    vt_preprocess pre;
    double mlp_ratio, pool_ratio; /* of the MLP; of attention pooling's, 0: the same */
    int packed_gate;              /* mlp_ratio counts both halves of a gated MLP */
    int align_hidden;          /* a gated MLP's hidden units are rounded up to a multiple; 0: no */
    int fc_norm;               /* 1, 0, or -1: as the pooling asks for */
    int img_h, img_w;          /* model_args.img_size: what the model was built for; 0: not said */
    int input_h, input_w;      /* pretrained_cfg.input_size; 0: not said */
    bool fixed_input;          /* input_size is what the model was built for */
    bool dynamic;              /* it takes other sizes by itself */
    bool preprocessed;         /* a document has described the preprocessing */
    json_t *labels;            /* borrowed */
    vt_origin from[FACTS + 1]; /* the last: of what is on no card */

    const char *source; /* of the document in hand, for errors: a file, or --set KEY=VALUE */
    vt_origin origin;   /* of the document in hand */
    vt_status *st;
} timm_build;

/* Fails with the source in hand: VT_USAGE for an option, VT_INPUT for a file. */
int timm_bad(timm_build *b, const char *where, const char *fmt, ...) VT_PRINTF(3, 4);

/* timm's preprocessing where a pretrained_cfg is silent. */
vt_preprocess timm_default_preprocess(void);

/* The document's pretrained_cfg; NULL where it has none or null. */
json_t *timm_pretrained(json_t *doc);

/* Applies a config.json: its model_args (unless `args` is false), pretrained_cfg and root. */
int timm_apply_document(timm_build *b, json_t *doc, bool args);

/* The model card: fills fact and facts from the rest of *c. `from` has FACTS origins. */
int timm_card(timm_config *c, const vt_origin *from, vt_status *st);

/* Applies "KEY=VALUE". */
int timm_apply_set(timm_build *b, const char *text);

/* Applies one key of model_args or pretrained_cfg; an unknown one is an error. */
int timm_apply_key(timm_build *b, const char *key, json_t *value);

#endif
