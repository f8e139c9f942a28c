/* Puts a model's configuration together from its sources, weakest first:
 *
 *   timm's defaults < architecture table < vitrun.config in the weights < config.json < options
 *
 * The architecture's name comes first, because its row is what the rest overrides; then what
 * follows from the rest is worked out (hidden, fc_norm, sizes), checked for contradictions, and
 * listed with its origins for the model card.
 */
#include "weights_tools/file.h"
#include "weights_tools/timm_build.h"
#include "weights_tools/timm_names.h"
#include "weights_tools/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONFIG_LIMIT = 64 << 20,
    LABELS_LIMIT = 64 << 20,
    LARGEST_IMAGE = 1 << 16,
    MOST_TOKENS = 1 << 20
};

#define GENERIC "vision_transformer"

/* The documents at hand. */
typedef struct {
    const char *weights, *path; /* path: of config.json, or NULL */
    char *beside;               /* owned text behind path, where it was found, not given */
    char inside[300];           /* name of the metadata document in errors */
    json_t *file, *config;
} sources;

const char *vt_origin_name(vt_origin o)
{
    static const char *const names[] = {
        [VT_FROM_DEFAULT] = "timm's default", [VT_FROM_ARCH] = "architecture",
        [VT_FROM_FILE] = "weights metadata",  [VT_FROM_CONFIG] = "config.json",
        [VT_FROM_OPTION] = "command line",    [VT_FROM_SHAPES] = "tensor shapes",
    };
    return names[o];
}

/* ---- finding the documents ---- */

/* The path of a config.json beside the weights (in the folder, or next to the file), or NULL. */
static int find_beside(sources *s, vt_status *st)
{
    struct stat info = {0};
    if (stat(s->weights, &info) && errno != ENOENT && errno != ENOTDIR)
        return vt_fail(st, VT_MACHINE, "%s: cannot be examined: %s", s->weights, strerror(errno));
    bool folder = S_ISDIR(info.st_mode);
    char *place = vt_strdup(s->weights, st);
    if (!place)
        return -1;
    char *slash = strrchr(place, '/');
    if (!folder && slash)
        slash[slash == place] = 0;
    s->beside = vt_file_join(folder || slash ? place : ".", "config.json", st);
    vt_free(place);
    if (!s->beside)
        return -1;
    int there = vt_file_there(s->beside, st);
    s->path = there > 0 ? s->beside : NULL;
    return there < 0 ? -1 : 0;
}

static int load_object(json_t **out, const char *name, json_t *doc, vt_status *st)
{
    *out = doc;
    if (!doc)
        return -1;
    if (json_is_object(doc))
        return 0;
    return vt_fail(st, VT_INPUT, "%s: expected a JSON object", name);
}

static int load_sources(sources *s, const st_reader *r, const timm_options *opt, vt_status *st)
{
    s->path = opt->config;
    if (!s->path && find_beside(s, st))
        return -1;
    if (s->path && load_object(&s->config, s->path, vt_json_load(s->path, CONFIG_LIMIT, st), st))
        return -1;
    if (s->config && json_object_get(s->config, "architectures") &&
        !json_object_get(s->config, "architecture"))
        return vt_fail(st, VT_INPUT,
                       "%s: is a configuration of transformers, not of timm (no architecture; "
                       "export the model with weights_tools/export_timm.py)",
                       s->path);
    const char *text = r ? st_metadata(r, "vitrun.config") : NULL;
    snprintf(s->inside, sizeof s->inside, "%.200s: metadata vitrun.config", s->weights);
    if (!text)
        return 0;
    return load_object(&s->file, s->inside, vt_json_parse(s->inside, text, strlen(text), st), st);
}

static void free_sources(sources *s)
{
    json_decref(s->file);
    json_decref(s->config);
    vt_free(s->beside);
}

/* ---- the architecture ---- */

/* NAME and TAG of "NAME", "NAME.TAG", "timm/NAME.TAG", "hf_hub:timm/NAME". */
typedef struct {
    char name[80], tag[80];
} spelled;

static int spell(spelled *out, const char *text, const char *source, vt_code code, vt_status *st)
{
    const char *slash = strrchr(text, '/');
    const char *name = slash ? slash + 1 : text;
    size_t n = strcspn(name, ".");
    const char *tag = name[n] ? name + n + 1 : "";
    if (n == 0 || n >= sizeof out->name || strlen(tag) >= sizeof out->tag)
        return vt_fail(st, code, "%s: architecture \"%.80s\": not a name", source, text);
    snprintf(out->name, sizeof out->name, "%.*s", (int)n, name);
    snprintf(out->tag, sizeof out->tag, "%s", tag);
    return 0;
}

/* The architecture that a document names; name is empty where it names none. */
static int spell_document(spelled *out, json_t *doc, const char *source, vt_status *st)
{
    json_t *v = json_object_get(doc, "architecture");
    *out = (spelled){0};
    if (!v)
        return 0;
    if (!json_is_string(v))
        return vt_fail(st, VT_INPUT, "%s: architecture: expected a string", source);
    return spell(out, json_string_value(v), source, VT_INPUT, st);
}

static const char *nearest_arch(const char *name)
{
    const char *found = NULL;
    for (int i = 0; i < timm_arch_count && !found; i += 60) { /* in handfuls: no allocation */
        const char *names[61] = {NULL};
        for (int j = 0; j < 60 && i + j < timm_arch_count; j++)
            names[j] = timm_archs[i + j].name;
        found = vt_nearest(name, names);
    }
    return found;
}

/* The row of the table; NULL without an error for the generic one. */
static int find_arch(const spelled *s, const char *source, vt_code code, const timm_arch **arch,
                     vt_status *st)
{
    *arch = NULL;
    if (strcmp(s->name, GENERIC) == 0)
        return 0;
    *arch = timm_arch_find(s->name);
    if (!*arch) {
        const char *near = nearest_arch(s->name);
        return vt_fail(st, code,
                       "%s: unknown architecture \"%s\"%s%s%s (\"" GENERIC
                       "\" with model_args describes any plain ViT)",
                       source, s->name, near ? ", did you mean \"" : "", near ? near : "",
                       near ? "\"?" : "");
    }
    if ((*arch)->unsupported)
        return vt_fail(st, code, "%s: architecture %s: not supported: %s", source, s->name,
                       (*arch)->unsupported);
    return 0;
}

/* Of the two documents' names one, unless they contradict each other. */
static int agree(const spelled *config, const spelled *file, const sources *s, vt_status *st)
{
    if (*config->name && *file->name && strcmp(config->name, file->name) != 0)
        return vt_fail(st, VT_INPUT, "%s: architecture is %s, but %s says %s (--arch NAME decides)",
                       s->path, config->name, s->inside, file->name);
    return 0;
}

static vt_preprocess preprocess_of(timm_build *b, const timm_arch *arch, const spelled *s)
{
    const timm_tag *tag =
        arch ? timm_tag_find(arch->name, *s->tag ? s->tag : arch->default_tag) : NULL;
    if (!tag)
        return timm_default_preprocess();
    for (int f = FACT_INTERPOLATION; f <= FACT_STD; f++)
        b->from[f] = VT_FROM_ARCH;
    b->input_h = tag->pre.height;
    b->input_w = tag->pre.width;
    b->fixed_input = true;
    b->vit.classes = tag->classes;
    return tag->pre;
}

/* Constructor defaults of timm's VisionTransformer. */
static vit_config generic_vit(void)
{
    return (vit_config){.architecture = GENERIC,
                        .saved_h = 224,
                        .saved_w = 224,
                        .patch_h = 16,
                        .patch_w = 16,
                        .channels = 3,
                        .width = 768,
                        .layers = 12,
                        .heads = 12,
                        .hidden = 3072,
                        .classes = 1000,
                        .class_token = true,
                        .pos_embed = true,
                        .final_norm = true,
                        .qkv_bias = true,
                        .proj_bias = true,
                        .pool = VT_POOL_TOKEN,
                        .act = VT_ACT_GELU,
                        .branches = 1,
                        .rope_temperature = 1e4,
                        .norm_eps = 1e-6};
}

static bool pool_wants_fc_norm(vt_pool pool)
{
    return pool != VT_POOL_TOKEN && pool != VT_POOL_MAP;
}

static void start_from(timm_build *b, const timm_arch *arch, const spelled *s)
{
    b->vit = arch ? arch->vit : generic_vit();
    for (int f = 0; f < FACTS; f++)
        b->from[f] = arch ? VT_FROM_ARCH : VT_FROM_DEFAULT;
    b->from[FACT_LABELS] = VT_FROM_DEFAULT;
    for (int f = FACT_INTERPOLATION; f <= FACT_STD; f++)
        b->from[f] = VT_FROM_DEFAULT;
    b->pre = preprocess_of(b, arch, s);
    b->mlp_ratio = (double)b->vit.hidden / b->vit.width;
    b->pool_ratio = (double)b->vit.pool_hidden / b->vit.width;
    /* an architecture whose norm is not where its pooling would put it has said so itself */
    b->fc_norm = b->vit.fc_norm == pool_wants_fc_norm(b->vit.pool) ? -1 : b->vit.fc_norm;
}

/* Decides on the architecture and starts from it. *file_args, *config_args: whether the documents'
 * model_args speak of that architecture. */
static int choose_arch(timm_build *b, const sources *s, const timm_options *opt, bool *file_args,
                       bool *config_args)
{
    spelled chosen = {0}, file, config;
    vt_status *st = b->st;
    const char *source = s->config ? s->path : s->inside;
    vt_code code = VT_INPUT;
    vt_origin origin = VT_FROM_CONFIG;
    if (spell_document(&config, s->config, s->path, st) ||
        spell_document(&file, s->file, s->inside, st))
        return -1;
    if (opt->arch) {
        source = "--arch", code = VT_USAGE, origin = VT_FROM_OPTION;
        if (spell(&chosen, opt->arch, source, code, st))
            return -1;
    } else if (agree(&config, &file, s, st)) {
        return -1;
    } else if (*config.name) {
        chosen = config;
    } else if (*file.name) {
        chosen = file, source = s->inside, origin = VT_FROM_FILE;
    } else {
        return vt_fail(st, VT_USAGE,
                       "%s: nothing tells the architecture (no timm config.json beside it, no "
                       "vitrun.config inside; give --arch NAME or --config FILE)",
                       s->weights);
    }
    const timm_arch *arch;
    if (find_arch(&chosen, source, code, &arch, st))
        return -1;
    json_t *doc = opt->arch ? NULL : *config.name ? s->config : s->file;
    if (arch && *chosen.tag && !timm_tag_find(arch->name, chosen.tag) && !timm_pretrained(doc))
        return vt_fail(st, code, "%s: %s has no known tag \"%s\", and no pretrained_cfg", source,
                       arch->name, chosen.tag);
    *file_args = !*file.name || strcmp(file.name, chosen.name) == 0;
    *config_args = !*config.name || strcmp(config.name, chosen.name) == 0;
    start_from(b, arch, &chosen);
    b->from[FACT_ARCHITECTURE] = origin;
    return 0;
}

/* ---- what follows ---- */

/* By timm's name; NULL: absent, or no file. */
static const st_tensor *find_tensor(const st_reader *r, const char *name)
{
    timm_names names;
    if (!r)
        return NULL;
    timm_names_open(&names, r);
    return timm_names_find(&names, name);
}

/* Patches in the saved position embedding, 0 where there is none to look at. */
static uint64_t saved_patches(const vit_config *v, const st_reader *r)
{
    const st_tensor *t = v->pos_embed ? find_tensor(r, "pos_embed") : NULL;
    uint64_t prefix =
        v->no_embed_class ? 0 : (uint64_t)v->class_token + v->dist_token + (uint64_t)v->reg_tokens;
    return t && t->rank == 3 && t->shape[1] > prefix ? t->shape[1] - prefix : 0;
}

static bool fits(int h, int w, const vit_config *v, uint64_t patches)
{
    return h > 0 && (uint64_t)(h / v->patch_h) * (uint64_t)(w / v->patch_w) == patches;
}

/* The size that the position embedding was saved for, then the size to run at. input_size is the
 * former only where it is said to be fixed, or where the tensor has as many positions. */
static void settle_sizes(timm_build *b, const st_reader *r, const timm_options *opt)
{
    vit_config *v = &b->vit;
    uint64_t patches = saved_patches(v, r);
    vt_origin input = b->from[FACT_IMG_SIZE];
    if (b->img_h) {
        v->saved_h = b->img_h;
        v->saved_w = b->img_w;
    } else if (b->input_h && (b->fixed_input || fits(b->input_h, b->input_w, v, patches))) {
        v->saved_h = b->input_h;
        v->saved_w = b->input_w;
        b->from[FACT_SAVED_SIZE] = input;
    }
    vt_origin saved = b->from[FACT_SAVED_SIZE];
    bool as_input = b->input_h && (!b->img_h || input > saved || (b->dynamic && input == saved));
    v->img_h = as_input ? b->input_h : v->saved_h;
    v->img_w = as_input ? b->input_w : v->saved_w;
    b->from[FACT_IMG_SIZE] = as_input ? input : saved;
    if (opt->img_h) {
        v->img_h = opt->img_h;
        v->img_w = opt->img_w;
        b->from[FACT_IMG_SIZE] = VT_FROM_OPTION;
    }
    b->pre.height = v->img_h;
    b->pre.width = v->img_w;
}

static int hidden_units(double width, double ratio)
{
    double hidden = width * ratio;
    return hidden < 1 << 24 ? (int)hidden : 1 << 24;
}

static void settle_mlp(timm_build *b)
{
    vit_config *v = &b->vit;
    v->hidden = hidden_units(v->width, b->mlp_ratio);
    if (v->gated_mlp && b->packed_gate)
        v->hidden /= 2;
    if (v->gated_mlp && b->align_hidden && v->hidden % b->align_hidden)
        v->hidden += b->align_hidden - v->hidden % b->align_hidden;
    if (v->gated_mlp)
        v->act = VT_ACT_NONE; /* the gate has its own */
    if (v->pool != VT_POOL_MAP)
        v->pool_heads = v->pool_hidden = 0;
    else
        v->pool_hidden = hidden_units(v->width, b->pool_ratio > 0 ? b->pool_ratio : b->mlp_ratio);
    if (v->pool == VT_POOL_MAP && !v->pool_heads)
        v->pool_heads = v->heads;
}

static void settle(timm_build *b, const st_reader *r, const timm_options *opt)
{
    vit_config *v = &b->vit;
    settle_mlp(b);
    if (b->fc_norm < 0)
        b->from[FACT_FC_NORM] = b->from[FACT_GLOBAL_POOL];
    v->fc_norm = v->final_norm && (b->fc_norm < 0 ? pool_wants_fc_norm(v->pool) : b->fc_norm);
    settle_sizes(b, r, opt);
    const st_tensor *head = find_tensor(r, "head.weight");
    if (b->from[FACT_NUM_CLASSES] <= VT_FROM_ARCH && head && head->rank == 2 &&
        head->shape[0] <= 10000000) {
        v->classes = (int)head->shape[0];
        b->from[FACT_NUM_CLASSES] = VT_FROM_SHAPES;
    }
}

/* ---- contradictions ---- */

/* Blames the stronger of two facts' sources. */
static int clash(timm_build *b, const sources *s, fact_id one, fact_id other, const char *fmt,
                 int x, int y)
{
    vt_origin o = b->from[one] > b->from[other] ? b->from[one] : b->from[other];
    char text[200];
    snprintf(text, sizeof text, fmt, x, y);
    const char *source = o == VT_FROM_CONFIG ? s->path : o == VT_FROM_FILE ? s->inside : s->weights;
    return vt_fail(b->st, o == VT_FROM_OPTION ? VT_USAGE : VT_INPUT, "%s: %s", source, text);
}

static bool too_many_tokens(const vit_config *v, int h, int w)
{
    int64_t patches = (int64_t)(h / v->patch_h) * (w / v->patch_w);
    return patches + v->class_token + v->dist_token + v->reg_tokens > MOST_TOKENS;
}

/* A model's own size may leave a rest at the right and below, which the convolution skips (384 with
 * patches of 14); a size that is asked for may not. */
static int check_sizes(timm_build *b, const sources *s)
{
    const vit_config *v = &b->vit;
    bool own = v->img_h == v->saved_h && v->img_w == v->saved_w &&
               b->from[FACT_IMG_SIZE] != VT_FROM_OPTION;
    int side = v->img_h % v->patch_h ? v->img_h : v->img_w;
    int patch = v->img_h % v->patch_h ? v->patch_h : v->patch_w;
    if (v->img_h < 1 || v->img_w < 1 || v->img_h > LARGEST_IMAGE || v->img_w > LARGEST_IMAGE)
        return clash(b, s, FACT_IMG_SIZE, FACT_IMG_SIZE, "image size %dx%d is out of range",
                     v->img_h, v->img_w);
    if (side % patch && !own)
        return clash(b, s, FACT_IMG_SIZE, FACT_PATCH_SIZE,
                     "image size %d is no multiple of the patch size %d", side, patch);
    if (v->saved_h < v->patch_h || v->saved_w < v->patch_w || v->img_h < v->patch_h ||
        v->img_w < v->patch_w)
        return clash(b, s, FACT_IMG_SIZE, FACT_PATCH_SIZE,
                     "image size %d is smaller than a patch of %d", v->img_h, v->patch_h);
    if (too_many_tokens(v, v->img_h, v->img_w))
        return clash(b, s, FACT_IMG_SIZE, FACT_PATCH_SIZE,
                     "image size %dx%d makes more than 1048576 tokens", v->img_h, v->img_w);
    if (too_many_tokens(v, v->saved_h, v->saved_w))
        return clash(b, s, FACT_SAVED_SIZE, FACT_PATCH_SIZE,
                     "saved image size %dx%d makes more than 1048576 tokens", v->saved_h,
                     v->saved_w);
    return 0;
}

/* No tensor's shape shows the heads: a model without a name that is not timm's default one must say
 * how many. */
static int check_heads_told(timm_build *b, const sources *s)
{
    if (b->from[FACT_NUM_HEADS] != VT_FROM_DEFAULT || b->from[FACT_EMBED_DIM] == VT_FROM_DEFAULT)
        return 0;
    return vt_fail(b->st, VT_USAGE,
                   "%s: nothing tells num_heads of this " GENERIC
                   ", and shapes cannot (give --set num_heads=N, or num_heads in model_args)",
                   s->weights);
}

/* What the parts of a block can be at the same time. */
static int check_block(timm_build *b, const sources *s)
{
    const vit_config *v = &b->vit;
    int head = v->width / v->heads;
    bool positions = v->rope != VIT_ROPE_NONE || v->rel_pos != VIT_BIAS_NONE;
    bool plain = v->block == VIT_BLOCK_PRE && !v->gated_mlp && !v->attn_norm && !v->mlp_norm;
    if (v->branches > 1 && (!plain || v->qk_norm || v->differential || positions))
        return clash(b, s, FACT_BRANCHES, FACT_BLOCK,
                     "branches side by side have other parts than plain ones", 0, 0);
    if (v->block == VIT_BLOCK_PARALLEL && (v->gated_mlp || v->attn_norm || v->mlp_norm))
        return clash(b, s, FACT_BLOCK, FACT_GATED_MLP,
                     "a parallel block has a gate or a norm inside", 0, 0);
    if (v->differential && (head % 2 || positions || v->block == VIT_BLOCK_POST))
        return clash(b, s, FACT_DIFFERENTIAL, FACT_NUM_HEADS,
                     "differential attention with heads of %d, a rotary or relative position, or "
                     "norms behind",
                     head, 0);
    if (v->rope != VIT_ROPE_NONE && head % 4)
        return clash(b, s, FACT_ROPE, FACT_NUM_HEADS,
                     "a rotary position embedding needs heads of a multiple of 4 (they have %d)",
                     head, 0);
    if (v->rel_pos != VIT_BIAS_NONE && v->dist_token + v->reg_tokens > 0)
        return clash(b, s, FACT_REL_POS, FACT_REG_TOKENS,
                     "a relative position bias knows a class token only (there are %d others)",
                     v->dist_token + v->reg_tokens, 0);
    if (!v->gated_mlp && v->act == VT_ACT_NONE)
        return clash(b, s, FACT_ACT, FACT_GATED_MLP, "activation silu needs a gated MLP", 0, 0);
    if (v->pool == VT_POOL_MAP && (v->width % v->pool_heads || v->pool_hidden < 1))
        return clash(b, s, FACT_POOL_HEADS, FACT_EMBED_DIM,
                     "attention pooling by %d heads of a width of %d", v->pool_heads, v->width);
    return 0;
}

static int check(timm_build *b, const sources *s)
{
    const vit_config *v = &b->vit;
    if (check_heads_told(b, s))
        return -1;
    if (v->channels != 1 && v->channels != 3)
        return clash(b, s, FACT_IN_CHANS, FACT_IN_CHANS,
                     "in_chans is %d: images of 1 or 3 channels are supported", v->channels, 0);
    if (v->width % v->heads)
        return clash(b, s, FACT_EMBED_DIM, FACT_NUM_HEADS,
                     "embed_dim %d is no multiple of num_heads %d", v->width, v->heads);
    if (v->hidden < 1 || v->hidden >= 1 << 24)
        return clash(b, s, FACT_HIDDEN, FACT_EMBED_DIM,
                     "mlp_ratio gives an MLP of %d hidden units for embed_dim %d", v->hidden,
                     v->width);
    if (v->pool == VT_POOL_TOKEN && !v->class_token)
        return clash(b, s, FACT_GLOBAL_POOL, FACT_CLASS_TOKEN,
                     "global_pool \"token\" needs a class token", 0, 0);
    if (v->dist_token && (!v->class_token || v->pool != VT_POOL_TOKEN || v->reg_tokens))
        return clash(b, s, FACT_DISTILLED, FACT_GLOBAL_POOL,
                     "a distilled model has a class token, pools by token and has no registers", 0,
                     0);
    return check_block(b, s) ? -1 : check_sizes(b, s);
}

/* ---- class names ---- */

/* One block: pointers, then texts. */
static int alloc_labels(timm_config *c, size_t count, size_t bytes, char **text, vt_status *st)
{
    size_t size;
    if (!vt_mul(count, sizeof *c->label, &size) || !vt_add(size, bytes, &size))
        return vt_fail(st, VT_MACHINE, "class names: size overflows");
    c->label = vt_alloc(size, 1, "class names", st);
    if (!c->label)
        return -1;
    c->labels = (int)count;
    *text = (char *)(c->label + count);
    return 0;
}

static void put_label(timm_config *c, size_t i, char **text, const char *s, size_t n)
{
    c->label[i] = *text;
    memcpy(*text, s, n);
    *text += n + 1; /* the block is zeroed */
}

static int labels_from_json(timm_config *c, json_t *list, vt_status *st)
{
    size_t i, bytes = 0;
    json_t *item;
    char *text = NULL;
    json_array_foreach(list, i, item) bytes += json_string_length(item) + 1;
    if (alloc_labels(c, json_array_size(list), bytes, &text, st))
        return -1;
    json_array_foreach(list, i, item)
        put_label(c, i, &text, json_string_value(item), json_string_length(item));
    return 0;
}

static int imagenet_labels(timm_config *c, vt_status *st)
{
    size_t bytes = 0;
    char *text = NULL;
    for (int i = 0; i < 1000; i++)
        bytes += strlen(vt_imagenet_labels[i]) + 1;
    if (alloc_labels(c, 1000, bytes, &text, st))
        return -1;
    for (size_t i = 0; i < 1000; i++)
        put_label(c, i, &text, vt_imagenet_labels[i], strlen(vt_imagenet_labels[i]));
    return 0;
}

/* Lines without their ends; a last line without an end counts. */
static int labels_from_lines(timm_config *c, const char *path, const char *s, size_t n,
                             vt_status *st)
{
    size_t lines = 0;
    char *text = NULL;
    for (size_t i = 0; i < n; i++)
        lines += s[i] == '\n' || i + 1 == n;
    if (alloc_labels(c, lines, n + 1 + lines, &text, st))
        return -1;
    for (size_t i = 0; i < lines; i++) {
        const char *end = memchr(s, '\n', n);
        size_t len = end ? (size_t)(end - s) : n;
        size_t kept = len && s[len - 1] == '\r' ? len - 1 : len;
        if (!vt_utf8_valid(s, kept) || memchr(s, 0, kept))
            return vt_fail(st, VT_INPUT, "%s: not text in UTF-8 (line %zu)", path, i + 1);
        put_label(c, i, &text, s, kept);
        s += len + 1;
        n -= end ? len + 1 : len;
    }
    return 0;
}

static int labels_from_file(timm_config *c, const char *path, vt_status *st)
{
    size_t n;
    char *s = vt_file_text(path, LABELS_LIMIT, &n, st);
    if (!s)
        return -1;
    size_t mark = n >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* of the byte order */
    int rc = labels_from_lines(c, path, s + mark, n - mark, st);
    vt_free(s);
    return rc;
}

static int settle_labels(timm_build *b, timm_config *c, const sources *s, const timm_options *opt)
{
    const char *where = opt->labels;
    int rc = 0;
    if (opt->labels) {
        b->from[FACT_LABELS] = VT_FROM_OPTION;
        rc = labels_from_file(c, opt->labels, b->st);
    } else if (b->labels) {
        where = b->from[FACT_LABELS] == VT_FROM_CONFIG ? s->path : s->inside;
        rc = labels_from_json(c, b->labels, b->st);
    } else if (b->vit.classes == 1000) {
        return imagenet_labels(c, b->st);
    }
    if (rc == 0 && where && c->labels != b->vit.classes)
        return vt_fail(b->st, VT_INPUT, "%s: %d class names, but the model has %d classes (%s)",
                       where, c->labels, b->vit.classes, vt_origin_name(b->from[FACT_NUM_CLASSES]));
    return rc;
}

/* ---- all of it ---- */

static int apply_all(timm_build *b, const sources *s, const timm_options *opt)
{
    bool file_args = true, config_args = true;
    if (choose_arch(b, s, opt, &file_args, &config_args))
        return -1;
    b->source = s->inside;
    b->origin = VT_FROM_FILE;
    if (s->file && timm_apply_document(b, s->file, file_args))
        return -1;
    b->source = s->path;
    b->origin = VT_FROM_CONFIG;
    if (s->config && timm_apply_document(b, s->config, config_args))
        return -1;
    for (int i = 0; i < opt->sets; i++)
        if (timm_apply_set(b, opt->set[i]))
            return -1;
    return 0;
}

int timm_config_load(timm_config *out, const char *weights, const st_reader *reader,
                     const timm_options *opt, vt_status *st)
{
    *out = (timm_config){0};
    sources s = {.weights = weights};
    timm_build b = {.st = st};
    int rc = load_sources(&s, reader, opt, st);
    if (rc == 0)
        rc = apply_all(&b, &s, opt);
    if (rc == 0) {
        settle(&b, reader, opt);
        rc = check(&b, &s);
    }
    out->vit = b.vit;
    out->pre = b.pre;
    if (rc == 0)
        rc = settle_labels(&b, out, &s, opt);
    if (rc == 0)
        rc = timm_card(out, b.from, st);
    free_sources(&s);
    return rc;
}

void timm_config_free(timm_config *c)
{
    vt_free(c->label);
    vt_free(c->fact);
    *c = (timm_config){0};
}
