/* By which names a checkpoint holds the tensors that timm calls by its own: what timm's loaders map
 * (checkpoint_filter_fn) is mapped here, the other way round.
 *
 *   prefixes    of a wrapped or compiled model (module., _orig_mod.), of one tower among several
 *               (visual., visual.trunk., vision_encoder.), whose other tensors are not looked at
 *   CLIP        OpenAI's names, which Perception Encoder's originals have too
 *   DINOv2, v3  register_tokens, storage_tokens, w12, w3
 *   EVA         w1, w2, w3, ffn_ln, inner_attn_ln, q_bias beside q_proj
 *
 * What differs in more than a name (a matrix transposed, a bias masked, a position that is added to
 * the class token) is vit_bind.c's.
 */
#ifndef VT_TIMM_NAMES_H
#define VT_TIMM_NAMES_H

#include "weights_tools/timm_config.h"

typedef struct {
    const st_reader *r;
    const char *prefix;
    bool tower;  /* tensors without the prefix are another model's */
    bool clip;   /* OpenAI's names */
    bool dinov2; /* registers that the position embedding does not know, but the class token */
    bool dinov3; /* biases of keys that are masked, not absent */
} timm_names;

void timm_names_open(timm_names *n, const st_reader *r);

/* The tensor that timm calls `name`, NULL: absent. */
const st_tensor *timm_names_find(const timm_names *n, const char *name);

/* Is it one that timm itself drops, given its name in the file? */
bool timm_names_dropped(const timm_names *n, const vit_config *c, const char *name);

#endif
