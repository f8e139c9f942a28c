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
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
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
    static const choice pools[] = {{"token", VT_POOL_TOKEN},
                                   {"avg", VT_POOL_AVG},
                                   {"max", VT_POOL_MAX},
                                   {"avgmax", VT_POOL_AVGMAX},
                                   {NULL, 0}};
    const char *word = json_is_string(v) ? json_string_value(v) : "?";
    if (strcmp(word, "map") == 0 || strcmp(word, "prr") == 0)
        return timm_bad(b, k->name, "attention pooling (\"%s\") is not supported", word);
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
    return unexpected(b, k->name, "an activation that is supported (gelu, gelu_tanh, quick_gelu)",
                      v);
}

static int take_norm_layer(timm_build *b, const key *k, json_t *v)
{
    char word[32] = "layernorm";
    if (!json_is_null(v))
        layer_word(v, word);
    if (strncmp(word, "rmsnorm", 7) == 0)
        return timm_bad(b, k->name, "RMSNorm is not supported");
    if (strcmp(word, "layernorm") != 0 && strcmp(word, "layernormfp32") != 0)
        return unexpected(b, k->name, "a norm that is supported (layernorm)", v);
    *(double *)target(b, k) = 1e-6; /* timm's LayerNorm */
    return 0;
}

/* Without effect on an evaluation. */
static int take_nothing(timm_build *b, const key *k, json_t *v)
{
    (void)b, (void)k, (void)v;
    return 0;
}

/* Refused unless it is off, or what it is anyway. */
static int take_missing(timm_build *b, const key *k, json_t *v)
{
    static const char *const plain[] = {"", "?", "attn", "attention", "block", "mlp", "patchembed"};
    char word[32] = "";
    bool off = json_is_null(v) || json_is_false(v);
    if (json_is_string(v))
        layer_word(v, word);
    for (size_t i = 0; json_is_string(v) && !off && i < sizeof plain / sizeof *plain; i++)
        off = strcmp(word, plain[i]) == 0;
    if (off)
        return 0;
    if (strncmp(word, "swiglu", 6) == 0 || strcmp(word, "glumlp") == 0)
        return timm_bad(b, k->name, "SwiGLU is not supported");
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
    VALUE("norm_layer", take_norm_layer, FACT_NORM_EPS, vit.norm_eps),
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
    MISSING("scale_attn_norm", "norm on the attention output (attn.norm)"),
    MISSING("scale_mlp_norm", "norm inside the MLP (mlp.norm)"),
    MISSING("embed_layer", "another patch embedding"),
    MISSING("embed_norm_layer", "norm after the patch embedding (patch_embed.norm)"),
    MISSING("block_fn", "another block"),
    MISSING("mlp_layer", "another MLP"),
    MISSING("attn_layer", "another attention"),
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
