/* What a timm configuration document says: one table of model_args (the constructor's arguments),
 * one of pretrained_cfg, and for each key how its value is checked and where it goes.
 *
 * Keys without effect on an evaluation are accepted; keys that would need a part that vitrun lacks
 * are refused by the name of that part. The tables are walked in their own order, not the
 * document's: where two keys touch one fact (act_layer, act), the later one in the table wins.
 */
#include "weights_tools/timm_build.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/json_decode.h"

typedef struct key key;
typedef int take_fn(timm_build *b, const key *k, json_t *v);

struct key {
    const char *name;
    take_fn *take;
    fact_id fact;
    size_t at;           /* offset in timm_build */
    int min, max;        /* of an integer */
    const char *missing; /* the part that vitrun lacks */
};

/* ---- errors ---- */

int timm_bad(timm_build *b, const char *where, const char *fmt, ...)
{
    char text[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    bool option = b->origin == VT_FROM_OPTION;
    return vt_fail(b->st, option ? VT_USAGE : VT_INPUT, "%s: %s%s%s", b->source, where,
                   *where ? ": " : "", text);
}

static int unexpected(timm_build *b, const char *where, const char *expected, json_t *v)
{
    char *text = vt_json_encode(v, JSON_ENCODE_ANY | JSON_COMPACT);
    int rc =
        timm_bad(b, where, "expected %s, found %.60s", expected, text ? text : "something else");
    free(text);
    return rc;
}

static void *target(timm_build *b, const key *k)
{
    b->from[k->fact] = b->origin;
    return (char *)b + k->at;
}

/* ---- values ---- */

static int take_int(timm_build *b, const key *k, json_t *v)
{
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < k->min || n > k->max) {
        char expected[64];
        snprintf(expected, sizeof expected, "an integer from %d to %d", k->min, k->max);
        return unexpected(b, k->name, expected, v);
    }
    *(int *)target(b, k) = (int)n;
    return 0;
}

static int take_bool(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_boolean(v))
        return unexpected(b, k->name, "true or false", v);
    *(bool *)target(b, k) = json_is_true(v);
    return 0;
}

/* A positive number. */
static int take_real(timm_build *b, const key *k, json_t *v)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x > 0) || x > k->max)
        return unexpected(b, k->name, "a positive number", v);
    *(double *)target(b, k) = x;
    return 0;
}

static int take_crop_pct(timm_build *b, const key *k, json_t *v)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= 0.01 && x <= 10))
        return unexpected(b, k->name, "a number from 0.01 to 10", v);
    *(double *)target(b, k) = x;
    return 0;
}

/* N or [H, W], into two ints. */
static int take_size(timm_build *b, const key *k, json_t *v)
{
    json_t *h = json_is_array(v) ? json_array_get(v, 0) : v;
    json_t *w = json_is_array(v) ? json_array_get(v, 1) : v;
    bool whole =
        json_is_integer(h) && json_is_integer(w) && (!json_is_array(v) || json_array_size(v) == 2);
    json_int_t size[2] = {json_integer_value(h), json_integer_value(w)};
    if (!whole || size[0] < 1 || size[0] > k->max || size[1] < 1 || size[1] > k->max)
        return unexpected(b, k->name, "a size in pixels, N or [H, W]", v);
    int *to = target(b, k);
    to[0] = (int)size[0];
    to[1] = (int)size[1];
    return 0;
}

/* [C, H, W] */
static int take_input_size(timm_build *b, const key *k, json_t *v)
{
    json_int_t n[3] = {0};
    bool whole = json_array_size(v) == 3;
    for (size_t i = 0; i < 3 && whole; i++) {
        json_t *item = json_array_get(v, i);
        n[i] = json_integer_value(item);
        whole = json_is_integer(item) && n[i] >= 1 && n[i] <= k->max;
    }
    if (!whole)
        return unexpected(b, k->name, "[channels, height, width]", v);
    b->vit.channels = (int)n[0];
    b->from[FACT_IN_CHANS] = b->origin;
    int *to = target(b, k);
    to[0] = (int)n[1];
    to[1] = (int)n[2];
    return 0;
}

/* mean, std: three numbers, or one for all channels. */
static int take_stats(timm_build *b, const key *k, json_t *v)
{
    double x[3];
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    bool good = n == 1 || n == 3;
    for (size_t i = 0; i < 3 && good; i++) {
        json_t *item = json_is_array(v) ? json_array_get(v, n == 1 ? 0 : i) : v;
        x[i] = json_number_value(item);
        good = json_is_number(item) && fabs(x[i]) < 1e6 && (k->fact == FACT_MEAN || x[i] > 0);
    }
    if (!good)
        return unexpected(b, k->name,
                          k->fact == FACT_MEAN ? "three numbers" : "three positive numbers", v);
    memcpy(target(b, k), x, sizeof x);
    return 0;
}

static int take_init_values(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_number(v) && !json_is_null(v) && !json_is_false(v))
        return unexpected(b, k->name, "a number or null", v);
    *(bool *)target(b, k) = json_number_value(v) != 0;
    return 0;
}

static int take_fc_norm(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_boolean(v) && !json_is_null(v))
        return unexpected(b, k->name, "true, false or null", v);
    *(int *)target(b, k) = json_is_null(v) ? -1 : json_is_true(v);
    return 0;
}

/* ---- words ---- */

typedef struct {
    const char *word;
    int value;
} choice;

/* The value of a word; else an error that lists the choices. */
static int choose(timm_build *b, const key *k, json_t *v, const choice *c, int *value)
{
    char list[160] = "";
    for (; c->word; c++) {
        if (json_is_string(v) && strcmp(json_string_value(v), c->word) == 0) {
            *value = c->value;
            return 0;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s\"%s\"", n ? ", " : "", c->word);
    }
    return unexpected(b, k->name, list, v);
}

static int take_pool(timm_build *b, const key *k, json_t *v)
{
    static const choice pools[] = {{"token", VT_POOL_TOKEN}, {"avg", VT_POOL_AVG},
                                   {"max", VT_POOL_MAX},     {"avgmax", VT_POOL_AVGMAX},
                                   {"map", VT_POOL_MAP},     {NULL, 0}};
    if (json_is_string(v) && strcmp(json_string_value(v), "prr") == 0)
        return timm_bad(b, k->name, "pooling by self-attention (\"prr\") is not supported");
    int value = 0;
    if (choose(b, k, v, pools, &value))
        return -1;
    *(vt_pool *)target(b, k) = (vt_pool)value;
    return 0;
}

static int take_pos_embed(timm_build *b, const key *k, json_t *v)
{
    static const choice kinds[] = {{"learn", 1}, {"none", 0}, {"", 0}, {NULL, 0}};
    int value = 0;
    if (choose(b, k, v, kinds, &value))
        return -1;
    *(bool *)target(b, k) = value;
    return 0;
}

static int take_interpolation(timm_build *b, const key *k, json_t *v)
{
    static const choice kinds[] = {
        {"bicubic", VT_INTERP_BICUBIC}, {"bilinear", VT_INTERP_BILINEAR}, {NULL, 0}};
    int value = 0;
    if (choose(b, k, v, kinds, &value))
        return -1;
    *(vt_interpolation *)target(b, k) = (vt_interpolation)value;
    return 0;
}

static int take_crop_mode(timm_build *b, const key *k, json_t *v)
{
    static const choice kinds[] = {{"center", VT_CROP_CENTER},
                                   {"squash", VT_CROP_SQUASH},
                                   {"border", VT_CROP_BORDER},
                                   {NULL, 0}};
    int value = 0;
    if (choose(b, k, v, kinds, &value))
        return -1;
    *(vt_crop_mode *)target(b, k) = (vt_crop_mode)value;
    return 0;
}

/* The last part of a dotted class name, in lower case: torch.nn.GELU is gelu. */
static void layer_word(json_t *v, char out[32])
{
    const char *s = json_is_string(v) ? json_string_value(v) : "?";
    const char *dot = strrchr(s, '.');
    snprintf(out, 32, "%s", dot ? dot + 1 : s);
    for (char *c = out; *c; c++)
        *c = (char)tolower((unsigned char)*c);
}

static int take_act(timm_build *b, const key *k, json_t *v)
{
    static const choice acts[] = {{"gelu", VT_ACT_GELU},
                                  {"gelu_tanh", VT_ACT_GELU_TANH},
                                  {"gelutanh", VT_ACT_GELU_TANH},
                                  {"quick_gelu", VT_ACT_QUICK_GELU},
                                  {"quickgelu", VT_ACT_QUICK_GELU},
                                  {"silu", VT_ACT_NONE}, /* the gate's */
                                  {NULL, 0}};
    char word[32] = "gelu"; /* what timm makes of null */
    if (!json_is_null(v))
        layer_word(v, word);
    for (const choice *c = acts; c->word; c++) {
        if (strcmp(c->word, word) == 0) {
            *(vt_activation *)target(b, k) = (vt_activation)c->value;
            return 0;
        }
    }
    return unexpected(b, k->name,
                      "an activation that is supported (gelu, gelu_tanh, quick_gelu, silu)", v);
}

static int take_norm_layer(timm_build *b, const key *k, json_t *v)
{
    char word[32] = "layernorm";
    if (!json_is_null(v))
        layer_word(v, word);
    bool rms = strcmp(word, "rmsnorm") == 0 || strcmp(word, "rmsnormfp32") == 0;
    if (!rms && strcmp(word, "layernorm") != 0 && strcmp(word, "layernormfp32") != 0)
        return unexpected(b, k->name, "a norm that is supported (layernorm, rmsnorm)", v);
    *(bool *)target(b, k) = rms;
    b->vit.norm_eps = 1e-6; /* timm's, of both */
    b->from[FACT_NORM_EPS] = b->origin;
    return 0;
}

/* Without effect on an evaluation. */
static int take_nothing(timm_build *b, const key *k, json_t *v)
{
    (void)b, (void)k, (void)v;
    return 0;
}

/* A norm's name: of the kind that the others are. */
static int take_embed_norm(timm_build *b, const key *k, json_t *v)
{
    char word[32];
    layer_word(v, word);
    bool norm = strncmp(word, "layernorm", 9) == 0 || strncmp(word, "rmsnorm", 7) == 0;
    if (!norm && !json_is_null(v))
        return unexpected(b, k->name, "a norm that is supported (layernorm, rmsnorm)", v);
    if (norm && b->vit.rms_norm != (*word == 'r'))
        return timm_bad(b, k->name, "another norm than norm_layer is not supported");
    *(bool *)target(b, k) = norm;
    return 0;
}

static int take_mlp(timm_build *b, const key *k, json_t *v)
{
    static const choice mlps[] = {
        {"mlp", 0}, {"swiglu", 1}, {"swiglupacked", 2}, {"glumlp", 2}, {NULL, 0}};
    char word[32] = "mlp";
    if (!json_is_null(v))
        layer_word(v, word);
    for (const choice *c = mlps; c->word; c++) {
        if (strcmp(c->word, word) != 0)
            continue;
        *(bool *)target(b, k) = c->value > 0;
        b->packed_gate = c->value == 2;
        return 0;
    }
    return unexpected(b, k->name, "an MLP that is supported (Mlp, SwiGLU, SwiGLUPacked)", v);
}

static int take_swiglu(timm_build *b, const key *k, json_t *v)
{
    b->packed_gate = 0;
    return take_bool(b, k, v);
}

static int take_block(timm_build *b, const key *k, json_t *v)
{
    enum { BRANCHES = 8, DIFFERENTIAL = 16 };
    static const choice blocks[] = {{"block", VIT_BLOCK_PRE},
                                    {"respostblock", VIT_BLOCK_POST},
                                    {"parallelscalingblock", VIT_BLOCK_PARALLEL},
                                    {"diffparallelscalingblock", VIT_BLOCK_PARALLEL | DIFFERENTIAL},
                                    {"parallelthingsblock", VIT_BLOCK_PRE | BRANCHES},
                                    {NULL, 0}};
    char word[32] = "block";
    if (!json_is_null(v))
        layer_word(v, word);
    for (const choice *c = blocks; c->word; c++) {
        if (strcmp(c->word, word) != 0)
            continue;
        *(vit_block_kind *)target(b, k) = (vit_block_kind)(c->value & 3);
        b->vit.branches = c->value & BRANCHES ? 2 : 1;
        b->from[FACT_BRANCHES] = b->origin;
        if (c->value & DIFFERENTIAL)
            b->vit.differential = true;
        return 0;
    }
    return timm_bad(b, k->name, "block %.31s is not supported", word);
}

static int take_post_norm(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_boolean(v))
        return unexpected(b, k->name, "true or false", v);
    *(vit_block_kind *)target(b, k) = json_is_true(v) ? VIT_BLOCK_POST : VIT_BLOCK_PRE;
    return 0;
}

static int take_attn_layer(timm_build *b, const key *k, json_t *v)
{
    char word[32] = "attn";
    if (!json_is_null(v))
        layer_word(v, word);
    bool differential = strncmp(word, "diff", 4) == 0;
    if (!differential && strcmp(word, "attn") != 0 && strcmp(word, "attention") != 0 && *word)
        return timm_bad(b, k->name, "attention %.31s is not supported", word);
    b->vit.differential = differential || (b->vit.differential && b->vit.block);
    b->from[k->fact] = b->origin;
    return 0;
}

static int take_rope(timm_build *b, const key *k, json_t *v)
{
    static const choice kinds[] = {{"none", VIT_ROPE_NONE},       {"", VIT_ROPE_NONE},
                                   {"cat", VIT_ROPE_AXIAL},       {"mixed", VIT_ROPE_MIXED},
                                   {"dinov3", VIT_ROPE_CENTERED}, {NULL, 0}};
    int value = 0;
    if (!json_is_null(v) && choose(b, k, v, kinds, &value))
        return -1;
    *(vit_rope_kind *)target(b, k) = (vit_rope_kind)value;
    return 0;
}

/* Whether there is a rotary embedding; its kind may follow. */
static int take_use_rope(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_boolean(v))
        return unexpected(b, k->name, "true or false", v);
    vit_rope_kind *rope = target(b, k);
    if (!json_is_true(v))
        *rope = VIT_ROPE_NONE;
    else if (*rope == VIT_ROPE_NONE)
        *rope = VIT_ROPE_AXIAL;
    return 0;
}

static int take_indexing(timm_build *b, const key *k, json_t *v)
{
    static const choice orders[] = {{"ij", 0}, {"xy", 1}, {NULL, 0}};
    int value = 0;
    if (choose(b, k, v, orders, &value))
        return -1;
    *(bool *)target(b, k) = value;
    return 0;
}

/* The grid that positions are scaled to; null: none. */
static int take_reference(timm_build *b, const key *k, json_t *v)
{
    int *to = (int *)target(b, k);
    to[0] = to[1] = 0;
    return json_is_null(v) ? 0 : take_size(b, k, v);
}

static int take_number(timm_build *b, const key *k, json_t *v)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || !(fabs(x) <= k->max))
        return unexpected(b, k->name, "a number", v);
    *(double *)target(b, k) = x;
    return 0;
}

static int take_rel_pos(timm_build *b, const key *k, json_t *v)
{
    static const choice kinds[] = {{"none", VIT_BIAS_NONE}, {"bias", VIT_BIAS_TABLE},
                                   {"mlp", VIT_BIAS_MLP},   {"mlp-swin", VIT_BIAS_SWIN},
                                   {"swin", VIT_BIAS_SWIN}, {NULL, 0}};
    int value = 0;
    if (choose(b, k, v, kinds, &value))
        return -1;
    *(vit_bias_kind *)target(b, k) = (vit_bias_kind)value;
    return 0;
}

/* BEiT's: a learnt table, or none of this kind. */
static int take_rel_pos_bias(timm_build *b, const key *k, json_t *v)
{
    if (!json_is_boolean(v))
        return unexpected(b, k->name, "true or false", v);
    if (json_is_true(v))
        *(vit_bias_kind *)target(b, k) = VIT_BIAS_TABLE;
    return 0;
}

/* Eva's: none, where fc_norm is none either. */
static int take_post_transformer_norm(timm_build *b, const key *k, json_t *v)
{
    return json_is_null(v) || json_is_true(v) ? 0 : take_bool(b, k, v);
}

static int take_optional_int(timm_build *b, const key *k, json_t *v)
{
    return json_is_null(v) ? 0 : take_int(b, k, v);
}

static int take_optional_real(timm_build *b, const key *k, json_t *v)
{
    return json_is_null(v) ? 0 : take_real(b, k, v);
}

/* Refused unless it is off, or what it is anyway. */
static int take_missing(timm_build *b, const key *k, json_t *v)
{
    static const char *const plain[] = {"", "?", "patchembed"};
    char word[32] = "";
    bool off = json_is_null(v) || json_is_false(v);
    if (json_is_string(v))
        layer_word(v, word);
    for (size_t i = 0; json_is_string(v) && !off && i < sizeof plain / sizeof *plain; i++)
        off = strcmp(word, plain[i]) == 0;
    if (off)
        return 0;
    return timm_bad(b, k->name, "%s is not supported", k->missing);
}

/* ---- the tables ---- */

#define TO(member) offsetof(timm_build, member)
#define INT(name, fact, member, min, max)                                                          \
    {                                                                                              \
        name, take_int, fact, TO(member), min, max, NULL                                           \
    }
#define VALUE(name, take, fact, member)                                                            \
    {                                                                                              \
        name, take, fact, TO(member), 0, 1 << 16, NULL                                             \
    }
#define NOTHING(name)                                                                              \
    {                                                                                              \
        name, take_nothing, FACTS, 0, 0, 0, NULL                                                   \
    }
#define MISSING(name, part)                                                                        \
    {                                                                                              \
        name, take_missing, FACTS, 0, 0, 0, part                                                   \
    }

static const key model_args[] = {
    VALUE("img_size", take_size, FACT_SAVED_SIZE, img_h),
    VALUE("patch_size", take_size, FACT_PATCH_SIZE, vit.patch_h),
    INT("in_chans", FACT_IN_CHANS, vit.channels, 1, 1024),
    INT("num_classes", FACT_NUM_CLASSES, vit.classes, 0, 10000000),
    VALUE("global_pool", take_pool, FACT_GLOBAL_POOL, vit.pool),
    INT("embed_dim", FACT_EMBED_DIM, vit.width, 1, 1 << 16),
    INT("depth", FACT_DEPTH, vit.layers, 1, 1024),
    INT("num_heads", FACT_NUM_HEADS, vit.heads, 1, 1024),
    VALUE("mlp_ratio", take_real, FACT_HIDDEN, mlp_ratio),
    VALUE("qkv_bias", take_bool, FACT_QKV_BIAS, vit.qkv_bias),
    VALUE("qk_norm", take_bool, FACT_QK_NORM, vit.qk_norm),
    VALUE("proj_bias", take_bool, FACT_PROJ_BIAS, vit.proj_bias),
    VALUE("init_values", take_init_values, FACT_LAYER_SCALE, vit.layer_scale),
    VALUE("class_token", take_bool, FACT_CLASS_TOKEN, vit.class_token),
    VALUE("distilled", take_bool, FACT_DISTILLED, vit.dist_token),
    VALUE("pos_embed", take_pos_embed, FACT_POS_EMBED, vit.pos_embed),
    VALUE("no_embed_class", take_bool, FACT_NO_EMBED_CLASS, vit.no_embed_class),
    INT("reg_tokens", FACT_REG_TOKENS, vit.reg_tokens, 0, 1024),
    VALUE("pre_norm", take_bool, FACT_PRE_NORM, vit.pre_norm),
    VALUE("final_norm", take_bool, FACT_FINAL_NORM, vit.final_norm),
    VALUE("fc_norm", take_fc_norm, FACT_FC_NORM, fc_norm),
    VALUE("pool_include_prefix", take_bool, FACT_POOL_INCLUDE_PREFIX, vit.pool_include_prefix),
    VALUE("norm_layer", take_norm_layer, FACT_NORM_LAYER, vit.rms_norm),
    VALUE("norm_eps", take_real, FACT_NORM_EPS, vit.norm_eps),
    VALUE("act_layer", take_act, FACT_ACT, vit.act),
    VALUE("act", take_act, FACT_ACT, vit.act),
    VALUE("dynamic_img_size", take_bool, FACTS, dynamic),
    NOTHING("dynamic_img_pad"),
    NOTHING("drop_rate"),
    NOTHING("pos_drop_rate"),
    NOTHING("patch_drop_rate"),
    NOTHING("proj_drop_rate"),
    NOTHING("attn_drop_rate"),
    NOTHING("drop_path_rate"),
    NOTHING("weight_init"),
    NOTHING("fix_init"),
    NOTHING("pretrained"),
    NOTHING("pretrained_strict"),
    VALUE("embed_norm_layer", take_embed_norm, FACT_PATCH_NORM, vit.patch_norm),
    VALUE("scale_attn_norm", take_bool, FACT_ATTN_NORM, vit.attn_norm),
    VALUE("scale_attn_inner", take_bool, FACT_ATTN_NORM, vit.attn_norm),
    VALUE("scale_mlp_norm", take_bool, FACT_MLP_NORM, vit.mlp_norm),
    VALUE("scale_mlp", take_bool, FACT_MLP_NORM, vit.mlp_norm),
    VALUE("mlp_layer", take_mlp, FACT_GATED_MLP, vit.gated_mlp),
    VALUE("swiglu_mlp", take_swiglu, FACT_GATED_MLP, vit.gated_mlp),
    INT("swiglu_align_to", FACT_HIDDEN, align_hidden, 0, 1 << 16),
    VALUE("block_fn", take_block, FACT_BLOCK, vit.block),
    VALUE("use_post_norm", take_post_norm, FACT_BLOCK, vit.block),
    VALUE("attn_layer", take_attn_layer, FACT_DIFFERENTIAL, vit.differential),
    VALUE("attn_only_layer_scale", take_bool, FACT_LAYER_SCALE, vit.attn_scale_only),
    VALUE("use_rot_pos_emb", take_use_rope, FACT_ROPE, vit.rope),
    VALUE("rope_type", take_rope, FACT_ROPE, vit.rope),
    VALUE("rope_temperature", take_real, FACT_ROPE, vit.rope_temperature),
    VALUE("rope_grid_offset", take_number, FACT_ROPE, vit.rope_offset),
    VALUE("rope_grid_indexing", take_indexing, FACT_ROPE, vit.rope_xy),
    VALUE("rope_rotate_half", take_bool, FACT_ROPE, vit.rope_half),
    VALUE("ref_feat_shape", take_reference, FACT_ROPE, vit.rope_ref_h),
    VALUE("rel_pos_type", take_rel_pos, FACT_REL_POS, vit.rel_pos),
    VALUE("use_rel_pos_bias", take_rel_pos_bias, FACT_REL_POS, vit.rel_pos),
    VALUE("use_shared_rel_pos_bias", take_rel_pos_bias, FACT_REL_POS, vit.rel_pos),
    {"attn_pool_num_heads", take_optional_int, FACT_POOL_HEADS, TO(vit.pool_heads), 1, 1024, NULL},
    VALUE("attn_pool_mlp_ratio", take_optional_real, FACT_POOL_HEADS, pool_ratio),
    VALUE("use_abs_pos_emb", take_bool, FACT_POS_EMBED, vit.pos_embed),
    INT("num_reg_tokens", FACT_REG_TOKENS, vit.reg_tokens, 0, 1024),
    VALUE("use_pre_transformer_norm", take_bool, FACT_PRE_NORM, vit.pre_norm),
    VALUE("use_post_transformer_norm", take_post_transformer_norm, FACT_FINAL_NORM, vit.final_norm),
    VALUE("use_fc_norm", take_fc_norm, FACT_FC_NORM, fc_norm),
    NOTHING("attn_type"),
    NOTHING("qkv_fused"),
    NOTHING("qkv_bias_separate"),
    NOTHING("num_kv_heads"),
    NOTHING("shared_rel_pos"),
    NOTHING("rel_pos_dim"),
    NOTHING("head_init_scale"),
    NOTHING("rope_shift_coords"),
    NOTHING("rope_jitter_coords"),
    NOTHING("rope_rescale_coords"),
    MISSING("embed_layer", "another patch embedding"),
    MISSING("gated_attn", "gated attention"),
    MISSING("attn_head_dim", "heads of another width"),
    MISSING("rope_mrope_section", "rotary position embedding by sections"),
    MISSING("use_naflex", "NaFlexViT"),
    MISSING("features_only", "a feature pyramid"),
};

static const key pretrained_cfg[] = {
    VALUE("input_size", take_input_size, FACT_IMG_SIZE, input_h),
    VALUE("fixed_input_size", take_bool, FACTS, fixed_input),
    VALUE("interpolation", take_interpolation, FACT_INTERPOLATION, pre.interpolation),
    VALUE("crop_pct", take_crop_pct, FACT_CROP_PCT, pre.crop_pct),
    VALUE("crop_mode", take_crop_mode, FACT_CROP_MODE, pre.crop_mode),
    VALUE("mean", take_stats, FACT_MEAN, pre.mean),
    VALUE("std", take_stats, FACT_STD, pre.std),
    INT("num_classes", FACT_NUM_CLASSES, vit.classes, 0, 10000000),
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* Further keys of config.json and of pretrained_cfg: first those that are read elsewhere, then
 * those without effect here. */
enum { READ_KEYS = 6 };
static const char *const other_keys[] = {
    "architecture",  "model_args",   "pretrained_cfg",  "label_names",
    "labels",        "global_pool",  "num_features",    "label_descriptions",
    "tag",           "custom_load",  "test_input_size", "min_input_size",
    "test_crop_pct", "label_offset", "pool_size",       "test_pool_size",
    "first_conv",    "classifier",   "license",         "description",
    "origin_url",    "paper_name",   "paper_ids",       "notes",
    "url",           "file",         "hf_hub_id",       "hf_hub_filename",
    "source",        "state_dict"};

/* ---- documents ---- */

static const key *find_key(const key *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0)
            return table + i;
    return NULL;
}

/* The key nearest to a mistyped one, or NULL: of model_args and pretrained_cfg; or, for one that
 * stands elsewhere in a document, of what is read there. */
static const char *nearest_key(const char *name, bool elsewhere)
{
    const char *names[COUNT(model_args) + COUNT(pretrained_cfg) + READ_KEYS + 1];
    size_t n = 0;
    for (size_t i = 0; !elsewhere && i < COUNT(model_args); i++)
        names[n++] = model_args[i].name;
    for (size_t i = 0; i < COUNT(pretrained_cfg); i++)
        names[n++] = pretrained_cfg[i].name;
    for (size_t i = 0; elsewhere && i < READ_KEYS; i++)
        names[n++] = other_keys[i];
    names[n] = NULL;
    return vt_nearest(name, names);
}

static int unknown_key(timm_build *b, const char *where, const char *name)
{
    const char *near = nearest_key(name, false);
    return timm_bad(b, where, "unknown key \"%.60s\"%s%s%s", name, near ? " (did you mean \"" : "",
                    near ? near : "", near ? "\"?)" : "");
}

int timm_apply_key(timm_build *b, const char *name, json_t *value)
{
    const key *k = find_key(model_args, COUNT(model_args), name);
    if (!k)
        k = find_key(pretrained_cfg, COUNT(pretrained_cfg), name);
    return k ? k->take(b, k, value) : unknown_key(b, "", name);
}

static int apply_table(timm_build *b, const key *table, size_t n, json_t *doc, const char *where)
{
    for (size_t i = 0; i < n; i++) {
        json_t *v = json_object_get(doc, table[i].name);
        if (!v || (table == pretrained_cfg && json_is_null(v)))
            continue;
        key k = table[i];
        char path[96];
        snprintf(path, sizeof path, "%s%s", where, k.name);
        k.name = path;
        if (k.take(b, &k, v))
            return -1;
    }
    return 0;
}

static int apply_model_args(timm_build *b, json_t *args)
{
    if (!json_is_object(args))
        return unexpected(b, "model_args", "an object", args);
    const char *name;
    json_t *v;
    json_object_foreach(args, name, v) if (!find_key(model_args, COUNT(model_args),
                                                     name)) return unknown_key(b, "model_args",
                                                                               name);
    return apply_table(b, model_args, COUNT(model_args), args, "model_args.");
}

/* Stray keys are common in the wild and timm skips them. One that is mistyped, or a model argument
 * in the wrong place, is not skipped. */
static int check_strays(timm_build *b, json_t *doc, bool root)
{
    const char *where = root ? "" : "pretrained_cfg", *name;
    json_t *v;
    json_object_foreach(doc, name, v)
    {
        bool arg = find_key(model_args, COUNT(model_args), name);
        bool known = find_key(pretrained_cfg, COUNT(pretrained_cfg), name);
        for (size_t i = 0; !known && i < COUNT(other_keys); i++)
            known = strcmp(name, other_keys[i]) == 0;
        if (known)
            continue;
        if (arg && root)
            return timm_bad(b, where, "key \"%s\" belongs into model_args", name);
        const char *near = arg ? NULL : nearest_key(name, true);
        if (near)
            return timm_bad(b, where, "unknown key \"%.60s\" (did you mean \"%s\"?)", name, near);
    }
    return 0;
}

vt_preprocess timm_default_preprocess(void)
{
    return (vt_preprocess){.interpolation = VT_INTERP_BICUBIC,
                           .crop_mode = VT_CROP_CENTER,
                           .crop_pct = 0.875,
                           .mean = {0.485, 0.456, 0.406},
                           .std = {0.229, 0.224, 0.225}};
}

json_t *timm_pretrained(json_t *doc)
{
    json_t *cfg = json_object_get(doc, "pretrained_cfg");
    return json_is_null(cfg) ? NULL : cfg;
}

/* A pretrained_cfg, or the root of a document of the older kind that has none. The first one sets
 * what it is silent about to timm's defaults. */
static int apply_pretrained(timm_build *b, json_t *doc)
{
    json_t *cfg = timm_pretrained(doc);
    bool speaks = cfg != NULL;
    if (!cfg)
        cfg = doc;
    for (size_t i = 0; i < COUNT(pretrained_cfg) - 1; i++) /* the last is a root key as well */
        speaks |= json_object_get(cfg, pretrained_cfg[i].name) != NULL;
    if (speaks && !b->preprocessed) {
        b->preprocessed = true;
        b->pre = timm_default_preprocess();
        b->input_h = b->input_w = 0;
        b->fixed_input = false;
        for (int f = FACT_INTERPOLATION; f <= FACT_STD; f++)
            b->from[f] = VT_FROM_DEFAULT;
    }
    return apply_table(b, pretrained_cfg, COUNT(pretrained_cfg), cfg,
                       cfg == doc ? "" : "pretrained_cfg.");
}

static int take_labels(timm_build *b, json_t *v)
{
    size_t i;
    json_t *item;
    if (!json_is_array(v))
        return unexpected(b, "label_names", "a list of strings", v);
    json_array_foreach(v, i, item) if (!json_is_string(item)) return unexpected(
        b, "label_names", "a list of strings", item);
    b->labels = v;
    b->from[FACT_LABELS] = b->origin;
    return 0;
}

int timm_apply_document(timm_build *b, json_t *doc, bool args)
{
    json_t *cfg = timm_pretrained(doc);
    if (cfg && !json_is_object(cfg))
        return unexpected(b, "pretrained_cfg", "an object", cfg);
    if (check_strays(b, doc, true) || (cfg && check_strays(b, cfg, false)) ||
        apply_pretrained(b, doc))
        return -1;
    static const char *const label_keys[] = {"labels", "label_names"};
    for (int i = 0; i < 4; i++) {
        json_t *v = json_object_get(i < 2 ? cfg : doc, label_keys[i % 2]);
        if (v && !json_is_null(v) && take_labels(b, v))
            return -1;
    }
    static const char *const root_args[] = {"num_classes", "global_pool"};
    for (int i = 0; i < 2; i++) {
        json_t *v = json_object_get(doc, root_args[i]);
        if (v && (args || i == 0) && timm_apply_key(b, root_args[i], v))
            return -1;
    }
    json_t *model = json_object_get(doc, "model_args");
    return args && model && !json_is_null(model) ? apply_model_args(b, model) : 0;
}
