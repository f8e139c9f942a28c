/* The model card: each fact of a finished configuration as text, with its origin. */
#include "weights_tools/timm_build.h"

#include <stdio.h>

typedef enum { NUMBER, PAIR, FLAG, OTHER } fact_kind;

#define AT(member) offsetof(timm_config, member)

static const struct {
    const char *name; /* timm's, where it has one */
    fact_kind kind;
    size_t at;
} card[FACTS] = {
    [FACT_ARCHITECTURE] = {"architecture", OTHER, 0},
    [FACT_IMG_SIZE] = {"img_size", PAIR, AT(vit.img_h)},
    [FACT_SAVED_SIZE] = {"saved_img_size", PAIR, AT(vit.saved_h)},
    [FACT_PATCH_SIZE] = {"patch_size", PAIR, AT(vit.patch_h)},
    [FACT_IN_CHANS] = {"in_chans", NUMBER, AT(vit.channels)},
    [FACT_EMBED_DIM] = {"embed_dim", NUMBER, AT(vit.width)},
    [FACT_DEPTH] = {"depth", NUMBER, AT(vit.layers)},
    [FACT_NUM_HEADS] = {"num_heads", NUMBER, AT(vit.heads)},
    [FACT_HIDDEN] = {"mlp_hidden", NUMBER, AT(vit.hidden)},
    [FACT_NUM_CLASSES] = {"num_classes", NUMBER, AT(vit.classes)},
    [FACT_CLASS_TOKEN] = {"class_token", FLAG, AT(vit.class_token)},
    [FACT_DISTILLED] = {"distilled", FLAG, AT(vit.dist_token)},
    [FACT_REG_TOKENS] = {"reg_tokens", NUMBER, AT(vit.reg_tokens)},
    [FACT_POS_EMBED] = {"pos_embed", FLAG, AT(vit.pos_embed)},
    [FACT_NO_EMBED_CLASS] = {"no_embed_class", FLAG, AT(vit.no_embed_class)},
    [FACT_PRE_NORM] = {"pre_norm", FLAG, AT(vit.pre_norm)},
    [FACT_FINAL_NORM] = {"final_norm", FLAG, AT(vit.final_norm)},
    [FACT_FC_NORM] = {"fc_norm", FLAG, AT(vit.fc_norm)},
    [FACT_QKV_BIAS] = {"qkv_bias", FLAG, AT(vit.qkv_bias)},
    [FACT_PROJ_BIAS] = {"proj_bias", FLAG, AT(vit.proj_bias)},
    [FACT_QK_NORM] = {"qk_norm", FLAG, AT(vit.qk_norm)},
    [FACT_LAYER_SCALE] = {"layer_scale", FLAG, AT(vit.layer_scale)},
    [FACT_GLOBAL_POOL] = {"global_pool", OTHER, 0},
    [FACT_POOL_INCLUDE_PREFIX] = {"pool_include_prefix", FLAG, AT(vit.pool_include_prefix)},
    [FACT_ACT] = {"act", OTHER, 0},
    [FACT_NORM_EPS] = {"norm_eps", OTHER, 0},
    [FACT_NORM_LAYER] = {"norm_layer", OTHER, 0},
    [FACT_PATCH_NORM] = {"patch_embed.norm", FLAG, AT(vit.patch_norm)},
    [FACT_ATTN_NORM] = {"attn.norm", FLAG, AT(vit.attn_norm)},
    [FACT_MLP_NORM] = {"mlp.norm", FLAG, AT(vit.mlp_norm)},
    [FACT_GATED_MLP] = {"swiglu_mlp", FLAG, AT(vit.gated_mlp)},
    [FACT_BLOCK] = {"block", OTHER, 0},
    [FACT_BRANCHES] = {"branches", NUMBER, AT(vit.branches)},
    [FACT_DIFFERENTIAL] = {"differential", FLAG, AT(vit.differential)},
    [FACT_ROPE] = {"rope", OTHER, 0},
    [FACT_REL_POS] = {"rel_pos_bias", OTHER, 0},
    [FACT_POOL_HEADS] = {"attn_pool_heads", NUMBER, AT(vit.pool_heads)},
    [FACT_INTERPOLATION] = {"interpolation", OTHER, 0},
    [FACT_CROP_MODE] = {"crop_mode", OTHER, 0},
    [FACT_CROP_PCT] = {"crop_pct", OTHER, 0},
    [FACT_MEAN] = {"mean", OTHER, 0},
    [FACT_STD] = {"std", OTHER, 0},
    [FACT_LABELS] = {"label_names", OTHER, 0},
};

static void word_text(const timm_config *c, fact_id f, char *out, size_t n)
{
    static const char *const pools[] = {"token", "avg", "max", "avgmax", "map"};
    static const char *const acts[] = {"silu", "gelu", "gelu_tanh", "quick_gelu"};
    static const char *const crops[] = {"center", "squash", "border"};
    static const char *const blocks[] = {"pre_norm", "post_norm", "parallel"};
    static const char *const biases[] = {"none", "table", "mlp", "mlp-swin"};
    static const char *const interpolations[] = {"bicubic", "bilinear"};
    const char *word = c->vit.architecture;
    if (f == FACT_GLOBAL_POOL)
        word = pools[c->vit.pool];
    else if (f == FACT_ACT)
        word = acts[c->vit.act];
    else if (f == FACT_NORM_LAYER)
        word = c->vit.rms_norm ? "rmsnorm" : "layernorm";
    else if (f == FACT_BLOCK)
        word = blocks[c->vit.block];
    else if (f == FACT_REL_POS)
        word = biases[c->vit.rel_pos];
    else if (f == FACT_CROP_MODE)
        word = crops[c->pre.crop_mode];
    else if (f == FACT_INTERPOLATION)
        word = interpolations[c->pre.interpolation];
    snprintf(out, n, "%.64s", word);
}

static void rope_text(const vit_config *v, char *out, size_t n)
{
    static const char *const kinds[] = {"none", "cat", "mixed", "dinov3"};
    size_t at = (size_t)snprintf(out, n, "%s", kinds[v->rope]);
    if (v->rope == VIT_ROPE_AXIAL || v->rope == VIT_ROPE_CENTERED)
        at += (size_t)vt_format(out + at, n - at, ", temperature %g", v->rope_temperature);
    if (v->rope_ref_h)
        at += (size_t)snprintf(out + at, n - at, ", reference %dx%d", v->rope_ref_h, v->rope_ref_w);
    if (v->rope != VIT_ROPE_NONE)
        snprintf(out + at, n - at, "%s%s%s", v->rope_offset != 0 ? ", offset" : "",
                 v->rope_xy ? ", xy" : "", v->rope_half ? ", half" : "");
}

static void other_text(const timm_config *c, fact_id f, char *out, size_t n)
{
    const double *x = f == FACT_MEAN ? c->pre.mean : c->pre.std;
    if (f == FACT_MEAN || f == FACT_STD)
        vt_format(out, n, "%.9g, %.9g, %.9g", x[0], x[1], x[2]);
    else if (f == FACT_NORM_EPS || f == FACT_CROP_PCT)
        vt_format(out, n, "%.9g", f == FACT_NORM_EPS ? c->vit.norm_eps : c->pre.crop_pct);
    else if (f == FACT_LABELS)
        snprintf(out, n, c->labels ? "%.40s%s" : "none", c->labels ? c->label[0] : "",
                 c->labels > 1 ? ", ..." : "");
    else if (f == FACT_ROPE)
        rope_text(&c->vit, out, n);
    else
        word_text(c, f, out, n);
}

void timm_parts(const vit_config *v, char *out, size_t room)
{
    static const char *const pools[] = {"", "mean of tokens", "maximum of tokens",
                                        "mean and maximum of tokens", "attention pooling"};
    static const char *const ropes[] = {"", "rope", "mixed rope", "dinov3 rope"};
    char registers[24];
    snprintf(registers, sizeof registers, "%d register%s", v->reg_tokens,
             v->reg_tokens == 1 ? "" : "s");
    const struct {
        bool there;
        const char *text;
    } parts[] = {{!v->class_token, "no class token"},
                 {v->dist_token, "distillation token"},
                 {v->reg_tokens > 0, registers},
                 {!v->pos_embed, "no position embedding"},
                 {v->rope != VIT_ROPE_NONE, ropes[v->rope]},
                 {v->rel_pos == VIT_BIAS_TABLE, "relative position bias"},
                 {v->rel_pos > VIT_BIAS_TABLE, "relative position MLP"},
                 {v->rms_norm, "RMSNorm"},
                 {v->patch_norm, "norm of patches"},
                 {v->pre_norm, "norm before the blocks"},
                 {v->block == VIT_BLOCK_POST, "norm behind attention and MLP"},
                 {v->block == VIT_BLOCK_PARALLEL, "attention beside the MLP"},
                 {v->branches > 1, "two attentions, two MLPs"},
                 {v->differential, "differential attention"},
                 {v->qk_norm, "norm of q and k"},
                 {v->attn_norm, "norm before proj"},
                 {v->mlp_norm, "norm inside the MLP"},
                 {v->gated_mlp, "SwiGLU"},
                 {v->act == VT_ACT_GELU_TANH, "GELU by tanh"},
                 {v->act == VT_ACT_QUICK_GELU, "QuickGELU"},
                 {v->layer_scale, "layer scale"},
                 {v->pool != VT_POOL_TOKEN, pools[v->pool]},
                 {!v->final_norm, "no final norm"}};
    size_t at = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && at < room; i++)
        if (parts[i].there)
            at += (size_t)snprintf(out + at, room - at, "%s%s", at ? ", " : "", parts[i].text);
}

int timm_card(timm_config *c, const vt_origin *from, vt_status *st)
{
    c->fact = vt_alloc(FACTS, sizeof *c->fact, "model card", st);
    if (!c->fact)
        return -1;
    c->facts = FACTS;
    for (int f = 0; f < FACTS; f++) {
        struct vt_fact *fact = c->fact + f;
        const char *at = (const char *)c + card[f].at;
        const int *pair = (const int *)(const void *)at;
        snprintf(fact->name, sizeof fact->name, "%s", card[f].name);
        fact->origin = from[f];
        if (card[f].kind == NUMBER)
            snprintf(fact->value, sizeof fact->value, "%d", *pair);
        else if (card[f].kind == PAIR)
            snprintf(fact->value, sizeof fact->value, "%dx%d", pair[0], pair[1]);
        else if (card[f].kind == FLAG)
            snprintf(fact->value, sizeof fact->value, "%s", *(const bool *)at ? "yes" : "no");
        else
            other_text(c, (fact_id)f, fact->value, sizeof fact->value);
    }
    return 0;
}
