/* From a timm checkpoint's tensors to vit_model: which tensors the model is made of.
 *
 * One walk over the model names every tensor that the configuration calls for (vit_read.h). What can
 * be folded into a matrix is, in fp32: LayerScale into proj and fc2, queries, keys and values that
 * are saved apart into qkv, a gated MLP's halves into fc1, the parts of parallel blocks into those
 * of a plain one, the heads of differential attention into plain ones, the position embedding of
 * prefix tokens into those tokens, the average of a distilled model's two heads into their weights;
 * for devices whose products can normalise their input, gamma and beta of norm1 and norm2 into qkv
 * and fc1. Where timm's classes give one thing different names, the name that is there is taken.
 *
 * What the configuration says is not questioned here beyond shapes: weights_tools/timm_config.c.
 */
#include "models/vit_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/watch.h"

enum { SHOWN = 5 };

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

/* Prefix tokens that the saved position embedding covers. DINOv2's own files with registers have a
 * place for the class token, which timm adds to it. */
static size_t covered_prefix(const vit_walk *w)
{
    if (w->names.dinov2)
        return 1;
    return w->cfg->no_embed_class ? 0 : (size_t)w->m->prefix;
}

/* Reads the position embedding: its prefix rows are added to `prefix` [X, D], its grid goes, on the
 * model's grid, to m->pos. w->stage has room for both grids. */
static void position(vit_walk *w, const st_tensor *t, float *prefix)
{
    const vit_config *c = w->cfg;
    vit_model *m = w->m;
    size_t width = (size_t)c->width;
    size_t covered = covered_prefix(w);
    int old_h = c->saved_h / c->patch_h, old_w = c->saved_w / c->patch_w;
    size_t patches = (size_t)m->grid_h * (size_t)m->grid_w;
    if (!vit_read(w, t, 0, t->count, w->stage))
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
        m->pos = vit_to_device(w, grid, patches, c->width, "position embedding");
    vt_free(resampled);
}

static void prefix_token(vit_walk *w, const char *name, int count, float *to)
{
    uint64_t n = (uint64_t)count, d = (uint64_t)w->cfg->width;
    const st_tensor *t = count ? vit_find(w, VIT_SHAPE(1, n, d), "%s", name) : NULL;
    if (w->loading && t)
        vit_read(w, t, 0, n * d, to);
}

/* Prefix order: class, distillation, registers (timm's _pos_embed). */
static void tokens(vit_walk *w)
{
    const vit_config *c = w->cfg;
    int prefix = c->class_token + c->dist_token + c->reg_tokens;
    int old_patches = (c->saved_h / c->patch_h) * (c->saved_w / c->patch_w);
    int patches = (c->img_h / c->patch_h) * (c->img_w / c->patch_w);
    uint64_t covered = (uint64_t)old_patches + (uint64_t)covered_prefix(w);
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
        const st_tensor *t = vit_find(w, VIT_SHAPE(1, covered, d), "pos_embed");
        if (host && t && !w->failed)
            position(w, t, host);
        w->bytes += (size_t)patches * d * 4;
    }
    if (w->loading && prefix && !w->failed)
        w->m->prefix_tokens = vit_to_device(w, host, (size_t)prefix, c->width, "prefix tokens");
    w->bytes += (size_t)prefix * d * 4;
    vt_free(host);
}

/* ---- a block's attention ---- */

/* What the names of a block's tensors begin with. A parallel block has no parts of its own. */
typedef struct {
    char attn[VIT_NAME - 32], mlp[VIT_NAME - 32];
} names;

static names names_of(const vit_config *c, int layer, int branch)
{
    names n;
    bool plain = c->branches == 1;
    snprintf(n.attn, sizeof n.attn, "blocks.%d", layer);
    snprintf(n.mlp, sizeof n.mlp, "blocks.%d", layer);
    if (c->block == VIT_BLOCK_PARALLEL)
        return n;
    snprintf(n.attn, sizeof n.attn, plain ? "blocks.%d.attn" : "blocks.%d.attns.%d.attn", layer,
             branch);
    snprintf(n.mlp, sizeof n.mlp, plain ? "blocks.%d.mlp" : "blocks.%d.ffns.%d.mlp", layer, branch);
    return n;
}

/* LayerScale of the attention (1) or the MLP (2); NULL where there is none. */
static const st_tensor *scale_of(vit_walk *w, int layer, int branch, int which)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width;
    if (!c->layer_scale || (which == 2 && c->attn_scale_only))
        return NULL;
    if (c->block == VIT_BLOCK_PARALLEL)
        return vit_find(w, VIT_SHAPE(d), "blocks.%d.ls.gamma", layer);
    if (c->branches > 1)
        return vit_find(w, VIT_SHAPE(d), "blocks.%d.%s.%d.ls.gamma", layer,
                        which == 1 ? "attns" : "ffns", branch);
    if (vit_peek(w, "blocks.%d.gamma_%d", layer, which))
        return vit_find(w, VIT_SHAPE(d), "blocks.%d.gamma_%d", layer, which);
    return vit_find(w, VIT_SHAPE(d), "blocks.%d.ls%d.gamma", layer, which);
}

/* Where the rows of queries, keys and values are. */
typedef struct {
    const st_tensor *weight[3], *bias[3];
    uint64_t first[3], bias_first[3];
    int kv_heads; /* fewer than heads: each serves several of them */
} qkv_tensors;

static const st_tensor *bias_of(vit_walk *w, bool present, uint64_t n, const char *prefix,
                                const char *name)
{
    return present ? vit_find(w, VIT_SHAPE(n), "%s.%s", prefix, name) : NULL;
}

/* One matrix of all rows, of which queries, keys, values begin at row `first`. */
static void find_packed(vit_walk *w, qkv_tensors *t, const char *prefix, const char *name,
                        uint64_t first)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width;
    char bias[32];
    snprintf(bias, sizeof bias, "%s.bias", name);
    const st_tensor *weight =
        vit_find(w, VIT_SHAPE(first + 3 * d, d), "%s.%s.weight", prefix, name);
    bool apart = c->qkv_bias && vit_peek(w, "%s.q_bias", prefix);
    const st_tensor *all = bias_of(w, c->qkv_bias && !apart, first + 3 * d, prefix, bias);
    for (uint64_t i = 0; i < 3; i++) {
        t->weight[i] = weight;
        t->bias[i] = i == 1 && w->names.dinov3 ? NULL : all;
        t->first[i] = first + i * d;
        t->bias_first[i] = apart ? 0 : t->first[i];
    }
    if (apart) { /* keys have none */
        t->bias[0] = bias_of(w, true, d, prefix, "q_bias");
        t->bias[2] = bias_of(w, true, d, prefix, "v_bias");
    }
}

static void find_split(vit_walk *w, qkv_tensors *t, const char *prefix)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width, head = d / (uint64_t)c->heads;
    const st_tensor *k = vit_peek(w, "%s.k_proj.weight", prefix);
    uint64_t kv_heads = k && k->rank == 2 ? k->shape[0] / head : (uint64_t)c->heads;
    if (kv_heads < 1 || (uint64_t)c->heads % kv_heads)
        kv_heads = (uint64_t)c->heads;
    t->kv_heads = (int)kv_heads;
    uint64_t kv = kv_heads * head;
    bool k_bias = c->qkv_bias && vit_peek(w, "%s.k_proj.bias", prefix);
    t->weight[0] = vit_find(w, VIT_SHAPE(d, d), "%s.q_proj.weight", prefix);
    t->weight[1] = vit_find(w, VIT_SHAPE(kv, d), "%s.k_proj.weight", prefix);
    t->weight[2] = vit_find(w, VIT_SHAPE(kv, d), "%s.v_proj.weight", prefix);
    t->bias[0] = bias_of(w, c->qkv_bias, d, prefix, "q_proj.bias");
    t->bias[1] = bias_of(w, k_bias, kv, prefix, "k_proj.bias");
    t->bias[2] = bias_of(w, c->qkv_bias, kv, prefix, "v_proj.bias");
}

static qkv_tensors find_qkv(vit_walk *w, const char *prefix)
{
    const vit_config *c = w->cfg;
    qkv_tensors t = {.kv_heads = c->heads};
    if (c->block == VIT_BLOCK_PARALLEL)
        find_packed(w, &t, prefix, "in_proj", (uint64_t)c->hidden);
    else if (vit_peek(w, "%s.q_proj.weight", prefix))
        find_split(w, &t, prefix);
    else
        find_packed(w, &t, prefix, "qkv", 0);
    return t;
}

/* Which of the model's heads (in units of the computed ones) head h of queries (0), keys, values (2)
 * is: see vit_shape. */
static int source_head(const vit_walk *w, const qkv_tensors *t, int which, int h)
{
    const vit_config *c = w->cfg;
    if (c->differential)
        return h / 4 * 2 + (which < 2 ? h % 4 / 2 : h % 2);
    return which == 0 ? h % c->heads : h % c->heads / (c->heads / t->kv_heads);
}

/* Head by head; neighbours in the file are read together. */
static void read_qkv(vit_walk *w, vt_linear **to, const qkv_tensors *t)
{
    const vit_model *m = w->m;
    uint64_t dim = (uint64_t)m->head_dim, d = (uint64_t)w->cfg->width;
    vit_part *part = vt_alloc(3 * (size_t)m->heads, sizeof *part, "parts of a matrix", w->st);
    int parts = 0;
    for (int i = 0; part && i < 3 * m->heads; i++) {
        int which = i / m->heads, h = i % m->heads, branch = h / w->cfg->heads;
        const qkv_tensors *from = t + (w->cfg->branches > 1 ? branch : 0);
        uint64_t row = (uint64_t)source_head(w, from, which, h) * dim;
        vit_part p = {.weight = from->weight[which],
                      .bias = from->bias[which],
                      .first = from->first[which] + row,
                      .bias_first = from->bias_first[which] + row,
                      .count = dim};
        if (w->cfg->branches > 1 || m->folds_norm) {
            p.gamma = w->norms + (size_t)branch * 2 * d;
            p.beta = w->cfg->rms_norm ? NULL : p.gamma + d;
        }
        vit_part *last = part + parts - 1;
        if (parts && last->weight == p.weight && last->bias == p.bias &&
            last->first + last->count == p.first)
            last->count += dim;
        else
            part[parts++] = p;
    }
    w->failed = w->failed || !part;
    if (part)
        vit_read_rows(w, to, (int)d, part, parts);
    vt_free(part);
}

/* lambda = exp(q1 k1) - exp(q2 k2) + its initial value, which depends on the layer; the norm of a
 * head carries the factor 1 - initial value. */
static void read_difference(vit_walk *w, int layer, vit_block *b, const char *prefix)
{
    static const char *const side[4] = {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"};
    uint64_t n = (uint64_t)w->m->head_dim;
    double init = 0.8 - 0.6 * exp(-0.3 * layer), dot[2] = {0};
    for (int i = 0; i < 4; i += 2) {
        const st_tensor *q = vit_find(w, VIT_SHAPE(n), "%s.%s", prefix, side[i]);
        const st_tensor *k = vit_find(w, VIT_SHAPE(n), "%s.%s", prefix, side[i + 1]);
        if (!w->loading || w->failed || !vit_read(w, q, 0, n, w->row) ||
            !vit_read(w, k, 0, n, w->bias))
            continue;
        for (uint64_t j = 0; j < n; j++)
            dot[i / 2] += (double)w->row[j] * w->bias[j];
    }
    const st_tensor *norm = vit_find(w, VIT_SHAPE(2 * n), "%s.sub_norm.weight", prefix);
    if (!w->loading || w->failed || !vit_read(w, norm, 0, 2 * n, w->row))
        return;
    b->lambda = (float)(exp(dot[0]) - exp(dot[1]) + init);
    for (uint64_t j = 0; j < 2 * n; j++)
        w->row[j] *= (float)(1 - init);
    b->head_norm.gamma = vit_to_device(w, w->row, 1, (int)(2 * n), "head norm");
}

static vit_part proj_part(vit_walk *w, int layer, int branch, const char *prefix)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width, f = (uint64_t)c->hidden;
    vit_part p = {.count = d, .scale = scale_of(w, layer, branch, 1)};
    const char *name = "proj";
    if (c->block == VIT_BLOCK_PARALLEL)
        name = vit_peek(w, "%s.out_proj.weight", prefix) ? "out_proj" : "attn_out_proj";
    uint64_t in = strcmp(name, "out_proj") ? d : d + f;
    p.weight = vit_find(w, VIT_SHAPE(d, in), "%s.%s.weight", prefix, name);
    if (c->proj_bias)
        p.bias = vit_find(w, VIT_SHAPE(d), "%s.%s.bias", prefix, name);
    return p;
}

enum { BRANCHES = 2 };

/* norm1 or norm2, where it is folded into what reads it: to the place of the first branch's. */
static void read_folded_norm(vit_walk *w, int layer, int which)
{
    size_t d = (size_t)w->cfg->width;
    for (int i = 0; i < 2; i++) {
        const st_tensor *t =
            vit_find(w, VIT_SHAPE(d), "blocks.%d.norm%d.%s", layer, which, i ? "bias" : "weight");
        if (!w->failed)
            vit_read(w, t, 0, d, w->norms + (size_t)i * d);
    }
}

/* The norms of the branches, folded into what reads them. */
static void read_branch_norms(vit_walk *w, int layer, const char *branches)
{
    size_t d = (size_t)w->cfg->width;
    for (int j = 0; j < w->cfg->branches; j++)
        for (int i = 0; i < (w->cfg->rms_norm ? 1 : 2); i++) {
            const st_tensor *t = vit_find(w, VIT_SHAPE(d), "blocks.%d.%s.%d.norm.%s", layer,
                                          branches, j, i ? "bias" : "weight");
            if (w->loading && !w->failed)
                vit_read(w, t, 0, d, w->norms + ((size_t)j * 2 + (size_t)i) * d);
        }
}

static void walk_attention(vit_walk *w, int layer, vit_block *b)
{
    const vit_config *c = w->cfg;
    qkv_tensors qkv[BRANCHES] = {0};
    vit_part proj[BRANCHES];
    int head = c->width / c->heads;
    names n = names_of(c, layer, 0);
    if (c->branches > 1)
        read_branch_norms(w, layer, "attns");
    if (w->m->folds_norm)
        read_folded_norm(w, layer, 1);
    for (int j = 0; j < c->branches; j++) {
        n = names_of(c, layer, j);
        qkv[j] = find_qkv(w, n.attn);
        proj[j] = proj_part(w, layer, j, n.attn);
    }
    read_qkv(w, &b->qkv, qkv);
    vit_read_norm(w, &b->q_norm, c->differential ? head / 2 : head, c->qk_norm, "%s.q_norm",
                  n.attn);
    vit_read_norm(w, &b->k_norm, c->differential ? head / 2 : head, c->qk_norm, "%s.k_norm",
                  n.attn);
    vit_read_norm(w, &b->attn_norm, c->width, c->attn_norm, "%s.norm", n.attn);
    if (c->rope != VIT_ROPE_NONE)
        vit_read_rope(w, layer, b);
    if (c->rel_pos != VIT_BIAS_NONE)
        vit_read_bias(w, layer, b);
    if (c->differential)
        read_difference(w, layer, b, n.attn);
    vit_read_columns(w, &b->proj, c->width, proj, c->branches);
}

/* ---- a block's MLP ---- */

/* Rows of NAME.weight, and of NAME.bias where `bias`. */
static vit_part rows_of(vit_walk *w, bool bias, uint64_t rows, const char *prefix, const char *name)
{
    uint64_t d = (uint64_t)w->cfg->width;
    vit_part p = {.weight = vit_find(w, VIT_SHAPE(rows, d), "%s.%s.weight", prefix, name),
                  .count = rows};
    if (bias)
        p.bias = vit_find(w, VIT_SHAPE(rows), "%s.%s.bias", prefix, name);
    return p;
}

/* The part of the projection in that is the MLP's; its bias is one of its own where queries, keys and
 * values have none. */
static vit_part parallel_fc1(vit_walk *w, const char *prefix)
{
    const vit_config *c = w->cfg;
    uint64_t f = (uint64_t)c->hidden, d = (uint64_t)c->width;
    vit_part p = rows_of(w, c->qkv_bias, f + 3 * d, prefix, "in_proj");
    if (!c->qkv_bias)
        p.bias = vit_find(w, VIT_SHAPE(f), "%s.mlp_bias", prefix);
    p.count = f;
    return p;
}

static void walk_fc1(vit_walk *w, vit_block *b, int layer)
{
    const vit_config *c = w->cfg;
    uint64_t f = (uint64_t)c->hidden;
    vit_part part[BRANCHES];
    int parts = 0;
    for (int j = 0; j < c->branches; j++) {
        names n = names_of(c, layer, j);
        if (c->block == VIT_BLOCK_PARALLEL) {
            part[parts++] = parallel_fc1(w, n.mlp);
        } else if (c->gated_mlp && vit_peek(w, "%s.fc1_g.weight", n.mlp)) {
            part[parts++] = rows_of(w, c->proj_bias, f, n.mlp, "fc1_g");
            part[parts++] = rows_of(w, c->proj_bias, f, n.mlp, "fc1_x");
        } else {
            part[parts++] = rows_of(w, c->proj_bias, c->gated_mlp ? 2 * f : f, n.mlp, "fc1");
        }
    }
    for (int i = 0; i < parts && (c->branches > 1 || w->m->folds_norm); i++) {
        size_t branch = (size_t)(c->branches > 1 ? i : 0); /* of one part each, or one of all */
        part[i].gamma = w->norms + branch * 2 * (size_t)c->width;
        part[i].beta = c->rms_norm ? NULL : part[i].gamma + c->width;
    }
    vit_read_rows(w, &b->fc1, c->width, part, parts);
}

static vit_part fc2_part(vit_walk *w, int layer, int branch, const char *prefix)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width, f = (uint64_t)c->hidden;
    vit_part p = {.count = f, .scale = scale_of(w, layer, branch, 2)};
    const char *name = c->block == VIT_BLOCK_PARALLEL ? "mlp_out_proj" : "fc2";
    if (c->block == VIT_BLOCK_PARALLEL && vit_peek(w, "%s.out_proj.weight", prefix)) {
        p.weight = vit_find(w, VIT_SHAPE(d, d + f), "%s.out_proj.weight", prefix);
        p.first = d; /* behind the attention's, which has the bias */
        return p;
    }
    p.weight = vit_find(w, VIT_SHAPE(d, f), "%s.%s.weight", prefix, name);
    if (c->proj_bias)
        p.bias = vit_find(w, VIT_SHAPE(d), "%s.%s.bias", prefix, name);
    return p;
}

static void walk_mlp(vit_walk *w, int layer, vit_block *b)
{
    const vit_config *c = w->cfg;
    vit_part fc2[BRANCHES];
    names n = names_of(c, layer, 0);
    if (c->branches > 1)
        read_branch_norms(w, layer, "ffns");
    if (w->m->folds_norm)
        read_folded_norm(w, layer, 2);
    walk_fc1(w, b, layer);
    vit_read_norm(w, &b->mlp_norm, c->hidden, c->mlp_norm, "%s.norm", n.mlp);
    for (int j = 0; j < c->branches; j++)
        fc2[j] = fc2_part(w, layer, j, names_of(c, layer, j).mlp);
    vit_read_columns(w, &b->fc2, c->width, fc2, c->branches);
}

/* ---- the walk ---- */

/* Branches have norms of their own; what they share is to centre and to scale. */
static void shared_norms(vit_walk *w, vit_block *b)
{
    size_t d = (size_t)w->cfg->width;
    vit_norm *norm[] = {&b->norm1, &b->norm2};
    w->bytes += 4 * d * sizeof(float);
    for (int i = 0; i < 2 && w->loading && !w->failed; i++) {
        for (size_t j = 0; j < d; j++)
            w->row[j] = 1, w->bias[j] = 0;
        norm[i]->gamma = vit_to_device(w, w->row, 1, (int)d, "norm");
        if (!w->failed && !w->cfg->rms_norm)
            norm[i]->beta = vit_to_device(w, w->bias, 1, (int)d, "norm");
    }
}

static void walk_block(vit_walk *w, int layer, vit_block *b)
{
    const vit_config *c = w->cfg;
    bool parallel = c->block == VIT_BLOCK_PARALLEL, apart = c->branches > 1;
    bool folded = w->m->folds_norm;
    if (apart)
        shared_norms(w, b);
    vit_read_norm(w, &b->norm1, c->width, !apart && !parallel && !folded, "blocks.%d.norm1", layer);
    vit_read_norm(w, &b->norm2, c->width, !apart && !folded,
                  parallel ? "blocks.%d.in_norm" : "blocks.%d.norm2", layer);
    walk_attention(w, layer, b);
    walk_mlp(w, layer, b);
}

static void linear(vit_walk *w, vt_linear **to, int out, int in, const char *prefix)
{
    uint64_t rows = (uint64_t)out, columns = (uint64_t)in;
    vit_part p = {.count = rows};
    p.weight = vit_find(w, VIT_SHAPE(rows, columns), "%s.weight", prefix);
    p.bias = vit_find(w, VIT_SHAPE(rows), "%s.bias", prefix);
    vit_read_rows(w, to, in, &p, 1);
}

static void walk_patches(vit_walk *w, vit_model *m)
{
    const vit_config *c = w->cfg;
    uint64_t d = (uint64_t)c->width, channels = (uint64_t)c->channels;
    uint64_t h = (uint64_t)c->patch_h, width = (uint64_t)c->patch_w;
    vit_part p = {.count = d};
    p.weight = vit_find(w, VIT_SHAPE(d, channels, h, width), "patch_embed.proj.weight");
    if (!c->pre_norm)
        p.bias = vit_find(w, VIT_SHAPE(d), "patch_embed.proj.bias");
    vit_read_rows(w, &m->patch, c->channels * c->patch_h * c->patch_w, &p, 1);
    vit_read_norm(w, &m->patch_norm, c->width, c->patch_norm, "patch_embed.norm");
}

#define PACKED_POOL "attn_pool.attn.in_proj_" /* Perception Encoder's own files */

/* The latent is a parameter, and so its query is one vector for all images. */
static void read_query(vit_walk *w)
{
    uint64_t d = (uint64_t)w->cfg->width;
    const st_tensor *latent = vit_find(w, VIT_SHAPE(1, 1, d), "attn_pool.latent");
    bool packed = vit_peek(w, PACKED_POOL "weight"); /* behind the query are kv's rows */
    const st_tensor *weight = packed ? vit_find(w, VIT_SHAPE(3 * d, d), PACKED_POOL "weight")
                                     : vit_find(w, VIT_SHAPE(d, d), "attn_pool.q.weight");
    const st_tensor *bias = packed ? vit_find(w, VIT_SHAPE(3 * d), PACKED_POOL "bias")
                                   : vit_find(w, VIT_SHAPE(d), "attn_pool.q.bias");
    w->bytes += d * sizeof(float);
    if (!w->loading || w->failed || !vit_read(w, latent, 0, d, w->row) ||
        !vit_read(w, weight, 0, d * d, w->stage) || !vit_read(w, bias, 0, d, w->bias))
        return;
    for (uint64_t o = 0; o < d; o++) {
        double sum = w->bias[o];
        for (uint64_t i = 0; i < d; i++)
            sum += (double)w->stage[o * d + i] * w->row[i];
        w->gamma[o] = (float)sum;
    }
    w->m->attn_pool.query = vit_to_device(w, w->gamma, 1, (int)d, "query of attention pooling");
}

static void read_kv(vit_walk *w, vt_linear **to)
{
    uint64_t d = (uint64_t)w->cfg->width;
    if (!vit_peek(w, PACKED_POOL "weight")) {
        linear(w, to, 2 * w->cfg->width, w->cfg->width, "attn_pool.kv");
        return;
    }
    vit_part p = {.first = d, .count = 2 * d, .bias_first = d};
    p.weight = vit_find(w, VIT_SHAPE(3 * d, d), PACKED_POOL "weight");
    p.bias = vit_find(w, VIT_SHAPE(3 * d), PACKED_POOL "bias");
    vit_read_rows(w, to, w->cfg->width, &p, 1);
}

static void walk_attn_pool(vit_walk *w, vit_attn_pool *p)
{
    const vit_config *c = w->cfg;
    read_query(w);
    read_kv(w, &p->kv);
    linear(w, &p->proj, c->width, c->width, "attn_pool.proj");
    vit_read_norm(w, &p->norm, c->width, true, "attn_pool.norm");
    linear(w, &p->fc1, c->pool_hidden, c->width, "attn_pool.mlp.fc1");
    linear(w, &p->fc2, c->width, c->pool_hidden, "attn_pool.mlp.fc2");
}

static void walk_head(vit_walk *w, vt_linear **to, const char *name)
{
    const vit_config *c = w->cfg;
    uint64_t classes = (uint64_t)c->classes, d = (uint64_t)c->width;
    vit_part p = {.count = classes, .factor = c->dist_token ? 0.5 : 0};
    p.transposed = w->names.clip && !vit_peek(w, "%s.weight", name);
    if (p.transposed) { /* CLIP's projection, which has no bias */
        p.weight = vit_find(w, VIT_SHAPE(d, classes), "proj");
    } else {
        p.weight = vit_find(w, VIT_SHAPE(classes, d), "%s.weight", name);
        p.bias = vit_find(w, VIT_SHAPE(classes), "%s.bias", name);
    }
    vit_read_rows(w, to, c->width, &p, 1);
}

static void walk_model(vit_walk *w)
{
    const vit_config *c = w->cfg;
    vit_model *m = w->m;
    int d = c->width;
    walk_patches(w, m);
    tokens(w);
    vit_read_norm(w, &m->norm_pre, d, c->pre_norm, "norm_pre");
    vt_watch_begin(w->watch, "weights", (uint64_t)c->layers);
    for (int i = 0; i < c->layers && !w->failed; i++) {
        vit_block unused = {0};
        walk_block(w, i, m->block ? &m->block[i] : &unused);
        vt_watch_step(w->watch, !w->failed);
        if (!w->failed && vt_watch_stopped(w->watch, w->st))
            w->failed = true;
    }
    vit_read_norm(w, &m->norm, d, c->final_norm && !c->fc_norm, "norm");
    if (c->pool == VT_POOL_MAP)
        walk_attn_pool(w, &m->attn_pool);
    vit_read_norm(w, &m->fc_norm, d, c->final_norm && c->fc_norm, "fc_norm");
    if (c->classes)
        walk_head(w, &m->head, "head");
    if (c->classes && c->dist_token)
        walk_head(w, &m->head_dist, "head_dist");
}

/* ---- checking ---- */

/* Every tensor of the file was called for, or is one that timm drops. */
static int none_left_over(vit_walk *w)
{
    for (size_t i = 0; i < st_count(w->r); i++) {
        const st_tensor *t = st_at(w->r, i);
        if (w->used[i] || timm_names_dropped(&w->names, w->cfg, t->name))
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
static int foreign_prefix(const vit_walk *w, const char **name)
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

static int fail_missing(const vit_walk *w)
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

static int check(vit_walk *w)
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
    vit_model shape;
    vit_walk w = {.r = r, .path = path, .cfg = cfg, .m = &shape, .dtype = dtype, .st = st};
    vit_shape(&shape, cfg, NULL);
    timm_names_open(&w.names, r);
    if (check(&w))
        return -1;
    *needs = (vit_needs){.parameters = w.parameters, .bytes = w.bytes, .largest = w.largest};
    return 0;
}

/* ---- loading ---- */

static int longest(int a, int b)
{
    return a > b ? a : b;
}

/* Room to put any one matrix together, and for the vectors that go with its rows or columns. */
static int stages(vit_walk *w)
{
    const vit_config *c = w->cfg;
    bool pieces = c->branches > 1 || c->block == VIT_BLOCK_PARALLEL || w->names.clip;
    int side = longest(3 * w->m->attn_width, 2 * w->m->hidden);
    side = longest(longest(side, c->classes), longest(c->pool_hidden, 2 * c->width));
    w->stage = vt_alloc(w->largest, sizeof *w->stage, "weight staging", w->st);
    w->source = vt_alloc(pieces ? w->largest : 0, sizeof *w->source, "weight staging", w->st);
    w->bias = vt_alloc((size_t)side, sizeof *w->bias, "bias staging", w->st);
    w->row = vt_alloc((size_t)side, sizeof *w->row, "bias staging", w->st);
    w->gamma = vt_alloc((size_t)side, sizeof *w->gamma, "LayerScale staging", w->st);
    w->norms = vt_alloc(BRANCHES * 2 * (size_t)c->width, sizeof *w->norms, "norms", w->st);
    return w->stage && w->source && w->bias && w->row && w->gamma && w->norms ? 0 : -1;
}

void vit_shape(vit_model *m, const vit_config *c, vt_device *dev)
{
    *m = (vit_model){.cfg = *c, .dev = dev};
    m->grid_h = c->img_h / c->patch_h;
    m->grid_w = c->img_w / c->patch_w;
    m->prefix = c->class_token + c->dist_token + c->reg_tokens;
    m->tokens = m->prefix + m->grid_h * m->grid_w;
    m->head_copies = c->differential ? 4 : 1;
    m->heads = c->heads * c->branches * m->head_copies;
    m->head_dim = c->width / c->heads / (c->differential ? 2 : 1);
    m->attn_width = m->heads * m->head_dim;
    m->hidden = c->hidden * c->branches;
    m->mlp_columns = c->gated_mlp ? 3 * m->hidden : m->hidden; /* both halves, what they make */
    m->folds_norm = dev && dev->fold_rows && c->width % VT_MOMENTS == 0 &&
                    c->block == VIT_BLOCK_PRE && c->branches == 1 && !c->differential &&
                    !c->rms_norm;
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
             vt_device *dev, int images, const vit_needs *needs, vt_watch *watch, vt_status *st)
{
    vit_walk w = {
        .r = r, .path = path, .cfg = cfg, .m = m, .dtype = dev->dtype, .st = st, .dev = dev};
    vit_shape(m, cfg, dev);
    timm_names_open(&w.names, r);
    w.loading = true;
    w.watch = watch;
    w.largest = needs->largest;
    w.rows = (size_t)images * (size_t)m->tokens;
    m->parameters = needs->parameters;
    m->block = vt_alloc((size_t)cfg->layers, sizeof *m->block, "blocks", st);
    if (!m->block || stages(&w) || reserve(dev, needs, st_count(r), st))
        w.failed = true;
    else
        walk_model(&w);
    float *staging[] = {w.stage, w.source, w.bias, w.row, w.gamma, w.norms};
    for (int i = 0; i < 6; i++)
        vt_free(staging[i]);
    if (!w.failed && st_unchanged(r, st))
        w.failed = true;
    if (w.failed)
        vit_free(m);
    return w.failed ? -1 : 0;
}

/* ---- freeing ---- */

static void free_vector(vt_device *dev, const void *p)
{
    if (p)
        dev->ops->free(dev, (void *)(uintptr_t)p);
}

static void free_norm(vt_device *dev, const vit_norm *n)
{
    free_vector(dev, n->gamma);
    free_vector(dev, n->beta);
}

static void free_linear(vt_device *dev, vt_linear *l)
{
    if (l)
        dev->ops->linear_free(dev, l);
}

static void free_block(vt_device *dev, vit_block *b)
{
    vt_linear *linears[] = {b->qkv, b->proj, b->fc1, b->fc2};
    const vit_norm *norms[] = {&b->norm1,     &b->norm2,     &b->q_norm,  &b->k_norm,
                               &b->head_norm, &b->attn_norm, &b->mlp_norm};
    for (int i = 0; i < 4; i++)
        free_linear(dev, linears[i]);
    for (int i = 0; i < 7; i++)
        free_norm(dev, norms[i]);
    free_vector(dev, b->bias.table);
}

void vit_free(vit_model *m)
{
    vt_device *dev = m->dev;
    vit_attn_pool *p = &m->attn_pool;
    vt_linear *linears[] = {m->patch, m->head, m->head_dist, p->kv, p->proj, p->fc1, p->fc2};
    const vit_norm *norms[] = {&m->patch_norm, &m->norm_pre, &m->norm, &m->fc_norm, &p->norm};
    const float *vectors[] = {m->prefix_tokens, m->pos, p->query, m->rope, m->bias_places};
    for (int i = 0; i < 7; i++)
        free_linear(dev, linears[i]);
    for (int i = 0; i < 5; i++) {
        free_norm(dev, norms[i]);
        free_vector(dev, vectors[i]);
    }
    for (int i = 0; m->block && i < m->cfg.layers; i++)
        free_block(dev, &m->block[i]);
    vt_free(m->block);
    *m = (vit_model){0};
}
