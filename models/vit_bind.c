/* From a timm checkpoint's tensors to vit_model: names, shapes, conversion, folding.
 *
 * One walk over the model names every tensor that the configuration calls for. It runs twice: first
 * it only checks (all names there, all shapes right, nothing left over), then it reads and packs.
 * Folded on the way, in fp32: LayerScale into proj and fc2, the position embedding of prefix tokens
 * into those tokens, the average of a distilled model's two heads into their weights.
 *
 * What the configuration says is not questioned here beyond shapes: weights_tools/timm_config.c.
 */
#include "models/vit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 96, SHOWN = 5 };

typedef struct {
    const st_reader *r;
    const char *path;
    const vit_config *cfg;
    vt_dtype dtype;
    bool loading; /* false: check names and shapes only */
    vt_status *st;
    bool failed;

    /* checking */
    const st_tensor **used; /* tensors called for and found */
    size_t used_count;      /* no name is asked for twice: at most all of the file's */
    char missing[400];      /* the first few absent names */
    int absent;
    uint64_t parameters;
    size_t bytes;   /* device memory, about */
    size_t largest; /* elements of the largest tensor */

    /* loading */
    vt_device *dev;
    vit_model *m;
    size_t rows; /* of a typical product */
    float *stage, *bias, *gamma;
} walk;

/* ---- finding and checking one tensor ---- */

static void shape_text(char *out, size_t room, int rank, const uint64_t *shape)
{
    size_t n = (size_t)snprintf(out, room, "[");
    for (int i = 0; i < rank && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)shape[i]);
    if (n < room)
        snprintf(out + n, room - n, "]");
}

static void note_missing(walk *w, const char *name)
{
    size_t n = strlen(w->missing);
    if (w->absent++ < SHOWN)
        snprintf(w->missing + n, sizeof w->missing - n, "%s\"%s\"", n ? ", " : "", name);
}

/* A convolution's kernel may be stored flat, [D, C * ph * pw], by old exporters. */
static bool same_shape(const st_tensor *t, int rank, const uint64_t *shape)
{
    if (t->rank == 2 && rank == 4)
        return t->shape[0] == shape[0] && t->count == shape[0] * shape[1] * shape[2] * shape[3];
    if (t->rank != rank)
        return false;
    for (int i = 0; i < rank; i++)
        if (t->shape[i] != shape[i])
            return false;
    return true;
}

/* The tensor, or NULL: absent or failed. */
static const st_tensor *find(walk *w, const char *name, int rank, const uint64_t *shape)
{
    if (w->failed)
        return NULL;
    const st_tensor *t = st_find(w->r, name);
    if (w->loading)
        return t;
    if (!t) {
        note_missing(w, name);
        return NULL;
    }
    if (!same_shape(t, rank, shape)) {
        char found[160], expected[160];
        shape_text(found, sizeof found, t->rank, t->shape);
        shape_text(expected, sizeof expected, rank, shape);
        vt_fail(w->st, VT_INPUT, "%s: tensor \"%s\" does not fit %s (expected %s, found %s)",
                w->path, name, w->cfg->architecture, expected, found);
        w->failed = true;
        return NULL;
    }
    if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16) {
        vt_fail(w->st, VT_INPUT, "%s: tensor \"%s\" has type %s (expected F32, F16 or BF16)",
                w->path, name, st_dtype_name(t->dtype));
        w->failed = true;
        return NULL;
    }
    w->used[w->used_count++] = t;
    w->parameters += t->count;
    w->largest = t->count > w->largest ? (size_t)t->count : w->largest;
    return t;
}

/* ---- reading one tensor ---- */

/* Whole tensor to fp32, slices on all threads: conversion and the check for finite values keep
 * pace with the page cache. */
static bool read_f32(walk *w, const st_tensor *t, float *out)
{
    const uint64_t slice = 1 << 19;
    int64_t slices = (int64_t)((t->count + slice - 1) / slice);
    vt_status first = {0};
#pragma omp parallel for schedule(dynamic) num_threads(w->dev->threads)
    for (int64_t i = 0; i < slices; i++) {
        uint64_t begin = (uint64_t)i * slice, left = t->count - begin;
        vt_status st = {0};
        if (st_read_f32(w->r, t, begin, left < slice ? left : slice, out + begin, &st))
#pragma omp critical(vit_bind_error)
            if (first.code == VT_OK)
                first = st;
    }
    if (first.code != VT_OK) {
        *w->st = first;
        w->failed = true;
    }
    return !w->failed;
}

static float *device_vector(walk *w, const float *host, size_t rows, int cols, const char *name)
{
    vt_mat v = {NULL, VT_F32, rows, cols};
    v.p = w->dev->ops->alloc(w->dev, vt_mat_bytes(v), name, w->st);
    if (!v.p || w->dev->ops->upload(w->dev, v, host, w->st)) {
        if (v.p)
            w->dev->ops->free(w->dev, v.p);
        w->failed = true;
        return NULL;
    }
    w->m->bytes += vt_mat_bytes(v);
    return v.p;
}

/* ---- the kinds of parameters ---- */

static void vector(walk *w, float **to, int n, const char *name)
{
    const st_tensor *t = find(w, name, 1, (uint64_t[]){(uint64_t)n});
    w->bytes += (size_t)n * 4;
    if (w->loading && t && read_f32(w, t, w->stage))
        *to = device_vector(w, w->stage, 1, n, name);
}

static void norm(walk *w, vit_norm *to, int n, bool present, const char *fmt, ...) VT_PRINTF(5, 6);
static void norm(walk *w, vit_norm *to, int n, bool present, const char *fmt, ...)
{
    char prefix[NAME], name[NAME + 8];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    if (!present)
        return;
    snprintf(name, sizeof name, "%s.weight", prefix);
    vector(w, &to->gamma, n, name);
    snprintf(name, sizeof name, "%s.bias", prefix);
    vector(w, &to->beta, n, name);
}

typedef struct {
    bool bias;
    const char *gamma;  /* name of the LayerScale vector to fold in, or NULL */
    double factor;      /* a constant to fold in; 1: none */
    int rank;           /* of the weight: 2, or 4 for the patch convolution */
    uint64_t kernel[3]; /* rank 4: channels, height, width */
} linear_kind;

/* y = g * (W x + b) = (g W) x + g b, one factor an output row. */
static void fold(walk *w, int out, int in, const linear_kind *k, bool has_gamma)
{
    for (int o = 0; o < out; o++) {
        float g = (has_gamma ? w->gamma[o] : 1.0f) * (float)k->factor;
        for (int i = 0; i < in; i++)
            w->stage[(size_t)o * (size_t)in + (size_t)i] *= g;
        w->bias[o] *= g;
    }
}

static void linear(walk *w, vt_linear **to, int out, int in, linear_kind k, const char *prefix)
{
    char name[NAME + 8];
    uint64_t shape[4] = {(uint64_t)out, (uint64_t)in, 0, 0};
    if (k.rank == 4)
        memcpy(shape + 1, k.kernel, sizeof k.kernel);
    snprintf(name, sizeof name, "%s.weight", prefix);
    const st_tensor *weight = find(w, name, k.rank == 4 ? 4 : 2, shape), *bias = NULL, *g = NULL;
    snprintf(name, sizeof name, "%s.bias", prefix);
    if (k.bias)
        bias = find(w, name, 1, shape);
    if (k.gamma)
        g = find(w, k.gamma, 1, shape);
    w->bytes += (size_t)out * (size_t)in * vt_dtype_bytes(w->dtype) + (size_t)out * 4;
    if (!w->loading || w->failed)
        return;
    if (!read_f32(w, weight, w->stage) || (bias && !read_f32(w, bias, w->bias)) ||
        (g && !read_f32(w, g, w->gamma)))
        return;
    if (g || k.factor != 1)
        fold(w, out, in, &k, g);
    *to =
        w->dev->ops->linear_load(w->dev, w->stage, bias ? w->bias : NULL, out, in, w->rows, w->st);
    w->failed = !*to;
    if (*to)
        w->m->bytes += w->dev->ops->linear_bytes(*to);
}

/* ---- tokens and positions ---- */

/* timm's choice by name (vision_transformer.py, _create_vision_transformer). */
static vit_resampling resampling(const char *architecture)
{
    if (strstr(architecture, "radio_v3"))
        return VIT_BILINEAR_CORNERS;
    if (strstr(architecture, "flexi") || strstr(architecture, "radio"))
        return VIT_BILINEAR;
    return VIT_BICUBIC_ANTIALIAS;
}

/* Reads the position embedding: its prefix rows are added to `prefix` [X, D], its grid goes, on the
 * model's grid, to m->pos. w->stage has room for both grids. */
static void position(walk *w, const st_tensor *t, float *prefix)
{
    const vit_config *c = w->cfg;
    vit_model *m = w->m;
    size_t width = (size_t)c->width;
    size_t covered = c->no_embed_class ? 0 : (size_t)m->prefix;
    int old_h = c->saved_h / c->patch_h, old_w = c->saved_w / c->patch_w;
    size_t patches = (size_t)m->grid_h * (size_t)m->grid_w;
    if (!read_f32(w, t, w->stage))
        return;
    for (size_t i = 0; i < covered * width; i++)
        prefix[i] += w->stage[i];
    float *grid = w->stage + covered * width, *resampled = NULL;
    if (old_h != m->grid_h || old_w != m->grid_w) {
        resampled = vt_alloc(patches * width, sizeof *resampled, "position embedding", w->st);
        if (!resampled || vit_resample_grid(resampled, m->grid_h, m->grid_w, grid, old_h, old_w,
                                            c->width, resampling(c->architecture), w->st))
            w->failed = true;
        grid = resampled;
    }
    if (!w->failed)
        m->pos = device_vector(w, grid, patches, c->width, "position embedding");
    vt_free(resampled);
}

static void prefix_token(walk *w, const char *name, int count, float *to)
{
    uint64_t shape[3] = {1, (uint64_t)count, (uint64_t)w->cfg->width};
    const st_tensor *t = count ? find(w, name, 3, shape) : NULL;
    if (w->loading && t)
        read_f32(w, t, to);
}

/* Prefix order: class, distillation, registers (timm's _pos_embed). */
static void tokens(walk *w)
{
    const vit_config *c = w->cfg;
    int prefix = c->class_token + c->dist_token + c->reg_tokens;
    int old_patches = (c->saved_h / c->patch_h) * (c->saved_w / c->patch_w);
    int patches = (c->img_h / c->patch_h) * (c->img_w / c->patch_w);
    uint64_t covered = (uint64_t)old_patches + (c->no_embed_class ? 0 : (uint64_t)prefix);
    float *host = NULL;
    if (w->loading) {
        host = vt_alloc((size_t)prefix * (size_t)c->width, sizeof *host, "prefix tokens", w->st);
        if (!host) {
            w->failed = true;
            return;
        }
    }
    size_t d = (size_t)c->width;
    prefix_token(w, "cls_token", c->class_token, host);
    prefix_token(w, "dist_token", c->dist_token, host ? host + c->class_token * d : NULL);
    prefix_token(w, "reg_token", c->reg_tokens,
                 host ? host + (size_t)(c->class_token + c->dist_token) * d : NULL);
    if (c->pos_embed) {
        const st_tensor *t = find(w, "pos_embed", 3, (uint64_t[]){1, covered, d});
        if (w->loading && t && !w->failed)
            position(w, t, host);
        w->bytes += (size_t)patches * d * 4;
    }
    if (w->loading && prefix && !w->failed)
        w->m->prefix_tokens = device_vector(w, host, (size_t)prefix, c->width, "prefix tokens");
    w->bytes += (size_t)prefix * d * 4;
    vt_free(host);
}

/* ---- the walk ---- */

static void walk_block(walk *w, int i, vit_block *b)
{
    const vit_config *c = w->cfg;
    int d = c->width;
    char name[NAME], gamma1[NAME], gamma2[NAME];
    snprintf(gamma1, sizeof gamma1, "blocks.%d.ls1.gamma", i);
    snprintf(gamma2, sizeof gamma2, "blocks.%d.ls2.gamma", i);
    linear_kind qkv = {.bias = c->qkv_bias, .factor = 1};
    linear_kind fc1 = {.bias = c->proj_bias, .factor = 1}, proj = fc1, fc2 = fc1;
    proj.gamma = c->layer_scale ? gamma1 : NULL;
    fc2.gamma = c->layer_scale ? gamma2 : NULL;

    norm(w, &b->norm1, d, true, "blocks.%d.norm1", i);
    snprintf(name, sizeof name, "blocks.%d.attn.qkv", i);
    linear(w, &b->qkv, 3 * d, d, qkv, name);
    norm(w, &b->q_norm, d / c->heads, c->qk_norm, "blocks.%d.attn.q_norm", i);
    norm(w, &b->k_norm, d / c->heads, c->qk_norm, "blocks.%d.attn.k_norm", i);
    snprintf(name, sizeof name, "blocks.%d.attn.proj", i);
    linear(w, &b->proj, d, d, proj, name);
    norm(w, &b->norm2, d, true, "blocks.%d.norm2", i);
    snprintf(name, sizeof name, "blocks.%d.mlp.fc1", i);
    linear(w, &b->fc1, c->hidden, d, fc1, name);
    snprintf(name, sizeof name, "blocks.%d.mlp.fc2", i);
    linear(w, &b->fc2, d, c->hidden, fc2, name);
}

static void walk_model(walk *w)
{
    const vit_config *c = w->cfg;
    vit_model none = {0}, *m = w->m ? w->m : &none;
    vit_block unused;
    memset(&unused, 0, sizeof unused);
    int d = c->width;
    linear_kind patch = {
        .bias = !c->pre_norm,
        .factor = 1,
        .rank = 4,
        .kernel = {(uint64_t)c->channels, (uint64_t)c->patch_h, (uint64_t)c->patch_w}};
    linear_kind head = {.bias = true, .factor = c->dist_token ? 0.5 : 1};

    linear(w, &m->patch, d, c->channels * c->patch_h * c->patch_w, patch, "patch_embed.proj");
    tokens(w);
    norm(w, &m->norm_pre, d, c->pre_norm, "norm_pre");
    for (int i = 0; i < c->layers && !w->failed; i++)
        walk_block(w, i, m->block ? &m->block[i] : &unused);
    norm(w, &m->norm, d, c->final_norm && !c->fc_norm, "norm");
    norm(w, &m->fc_norm, d, c->final_norm && c->fc_norm, "fc_norm");
    if (c->classes)
        linear(w, &m->head, c->classes, d, head, "head");
    if (c->classes && c->dist_token)
        linear(w, &m->head_dist, c->classes, d, head, "head_dist");
}

/* ---- checking ---- */

/* What timm itself drops when it loads a checkpoint; its SigLIP models without attention pooling
 * are cut from checkpoints that have one. */
static bool dropped_by_timm(const walk *w, const char *name)
{
    bool siglip = strstr(w->cfg->architecture, "siglip");
    return strstr(name, "pre_logits") || !strcmp(name, "mask_token") ||
           (siglip && !strncmp(name, "attn_pool.", 10));
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const st_tensor *const *)a,
              y = (uintptr_t) * (const st_tensor *const *)b;
    return (x > y) - (x < y);
}

/* Every tensor of the file was called for, or is one that timm drops. */
static int none_left_over(walk *w)
{
    qsort(w->used, w->used_count, sizeof *w->used, by_address);
    for (size_t i = 0; i < st_count(w->r); i++) {
        const st_tensor *t = st_at(w->r, i);
        if (dropped_by_timm(w, t->name) ||
            bsearch(&t, w->used, w->used_count, sizeof *w->used, by_address))
            continue;
        return vt_fail(w->st, VT_INPUT,
                       "%s: tensor \"%.64s\" has no place in %s: its forward pass would be wrong "
                       "without it (is the architecture right? see --arch and --set)",
                       w->path, t->name, w->cfg->architecture);
    }
    return 0;
}

/* Wrapped models save "module.patch_embed.proj.weight" and the like: the length of what stands
 * before the name of a tensor that every model has, 0 where nothing does. */
static int foreign_prefix(const walk *w, const char **name)
{
    static const char known[] = ".patch_embed.proj.weight";
    for (size_t i = 0; i < st_count(w->r) && !st_find(w->r, known + 1); i++) {
        *name = st_at(w->r, i)->name;
        size_t n = strlen(*name), m = strlen(known);
        if (n > m && strcmp(*name + n - m, known) == 0)
            return (int)(n - m) + 1;
    }
    return 0;
}

static int fail_missing(const walk *w)
{
    const char *name = "", *more = w->absent > SHOWN ? ", ..." : "";
    int prefix = foreign_prefix(w, &name);
    if (prefix)
        return vt_fail(w->st, VT_INPUT,
                       "%s: the names of its tensors begin with \"%.*s\", which vitrun does not "
                       "strip (expected %s%s)",
                       w->path, prefix < 80 ? prefix : 80, name, w->missing, more);
    return vt_fail(w->st, VT_INPUT, "%s: %d tensor%s of %s %s missing: %s%s", w->path, w->absent,
                   w->absent == 1 ? "" : "s", w->cfg->architecture, w->absent == 1 ? "is" : "are",
                   w->missing, more);
}

static int check(walk *w)
{
    w->used = vt_alloc(st_count(w->r), sizeof *w->used, "tensor list", w->st);
    if (!w->used)
        return -1;
    walk_model(w);
    int failed = w->failed ? -1 : 0;
    if (!failed && w->absent)
        failed = fail_missing(w);
    if (!failed)
        failed = none_left_over(w);
    vt_free(w->used);
    w->used = NULL;
    return failed;
}

int vit_check(vit_needs *needs, const vit_config *cfg, const st_reader *r, const char *path,
              vt_dtype dtype, vt_status *st)
{
    walk w = {.r = r, .path = path, .cfg = cfg, .dtype = dtype, .st = st};
    if (check(&w))
        return -1;
    *needs = (vit_needs){.parameters = w.parameters, .bytes = w.bytes, .largest = w.largest};
    return 0;
}

/* ---- loading ---- */

/* Room to read any one tensor, and the per-row vectors that go with a matrix. */
static int stages(walk *w)
{
    const vit_config *c = w->cfg;
    size_t out = 3 * (size_t)c->width;
    out = (size_t)c->hidden > out ? (size_t)c->hidden : out;
    out = (size_t)c->classes > out ? (size_t)c->classes : out;
    w->stage = vt_alloc(w->largest, sizeof *w->stage, "weight staging", w->st);
    w->bias = vt_alloc(out, sizeof *w->bias, "bias staging", w->st);
    w->gamma = vt_alloc((size_t)c->width, sizeof *w->gamma, "LayerScale staging", w->st);
    return w->stage && w->bias && w->gamma ? 0 : -1;
}

void vit_shape(vit_model *m, const vit_config *c, vt_device *dev)
{
    *m = (vit_model){.cfg = *c, .dev = dev};
    m->grid_h = c->img_h / c->patch_h;
    m->grid_w = c->img_w / c->patch_w;
    m->prefix = c->class_token + c->dist_token + c->reg_tokens;
    m->tokens = m->prefix + m->grid_h * m->grid_w;
    m->head_dim = c->width / c->heads;
    m->outputs = c->classes ? c->classes : c->width;
}

/* What the device takes for its padding comes on top: some bytes a tensor. */
static int reserve(vt_device *dev, const vit_needs *needs, size_t tensors, vt_status *st)
{
    enum { PADDING = 2048 };
    if (!dev->ops->reserve)
        return 0;
    return dev->ops->reserve(dev, needs->bytes + tensors * PADDING, "weights", st);
}

int vit_load(vit_model *m, const vit_config *cfg, const st_reader *r, const char *path,
             vt_device *dev, int images, const vit_needs *needs, vt_status *st)
{
    walk w = {.r = r, .path = path, .cfg = cfg, .dtype = dev->dtype, .st = st, .dev = dev, .m = m};
    vit_shape(m, cfg, dev);
    w.loading = true;
    w.largest = needs->largest;
    w.rows = (size_t)images * (size_t)m->tokens;
    m->parameters = needs->parameters;
    m->block = vt_alloc((size_t)cfg->layers, sizeof *m->block, "blocks", st);
    if (!m->block || stages(&w) || reserve(dev, needs, st_count(r), st))
        w.failed = true;
    else
        walk_model(&w);
    vt_free(w.stage);
    vt_free(w.bias);
    vt_free(w.gamma);
    if (!w.failed && st_unchanged(r, st))
        w.failed = true;
    if (w.failed)
        vit_free(m);
    return w.failed ? -1 : 0;
}

/* ---- freeing ---- */

static void free_norm(vt_device *dev, vit_norm *n)
{
    if (n->gamma)
        dev->ops->free(dev, n->gamma);
    if (n->beta)
        dev->ops->free(dev, n->beta);
}

static void free_block(vt_device *dev, vit_block *b)
{
    vt_linear *linears[] = {b->qkv, b->proj, b->fc1, b->fc2};
    vit_norm *norms[] = {&b->norm1, &b->norm2, &b->q_norm, &b->k_norm};
    for (int i = 0; i < 4; i++) {
        if (linears[i])
            dev->ops->linear_free(dev, linears[i]);
        free_norm(dev, norms[i]);
    }
}

void vit_free(vit_model *m)
{
    vt_device *dev = m->dev;
    vt_linear *linears[] = {m->patch, m->head, m->head_dist};
    vit_norm *norms[] = {&m->norm_pre, &m->norm, &m->fc_norm};
    for (int i = 0; i < 3; i++) {
        if (linears[i])
            dev->ops->linear_free(dev, linears[i]);
        free_norm(dev, norms[i]);
    }
    for (int i = 0; m->block && i < m->cfg.layers; i++)
        free_block(dev, &m->block[i]);
    vt_free(m->block);
    if (m->prefix_tokens)
        dev->ops->free(dev, m->prefix_tokens);
    if (m->pos)
        dev->ops->free(dev, m->pos);
    *m = (vit_model){0};
}
