/* Masks as a caller of the library sees them, with or without a model: numbers, rows, drawings,
 * files. What masks mean is engine/masks' business. */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "engine/image/image.h"

struct vitrun_masks {
    const vitrun_model *model; /* held, where the masks are its */
    vt_masks *own;             /* NULL: the model's */
    vt_plans counted;          /* where own */
    const vt_plans *plans;
    const vt_masks *masks;
    int tokens, heads, prefix, grid_h, grid_w;
    int threads;
};

void vitrun_mask_options_init(vitrun_mask_options *options)
{
    if (options)
        *options = (vitrun_mask_options){.size = sizeof *options, .threads = 1};
}

/* ---- opening ---- */

static int check_options(const vitrun_mask_options *o, vt_status *st)
{
    if (o->size != sizeof *o)
        return vt_fail(st, VT_USAGE, "vitrun_mask_options has size %zu (expected %zu)", o->size,
                       sizeof *o);
    if (vitrun_check_list(o->masks, o->mask_count, "masks", st))
        return -1;
    if (o->threads < 0 || o->threads > 1024)
        return vt_fail(st, VT_USAGE, "%d threads (expected 1 to 1024)", o->threads);
    int64_t patches = (int64_t)o->grid_h * o->grid_w;
    if (o->grid_h < 1 || o->grid_w < 1 || o->prefix < 0 || patches + o->prefix > 1 << 20)
        return vt_fail(
            st, VT_USAGE,
            "grid %dx%d with %d prefix tokens (expected at least 1x1, at most %d tokens)",
            o->grid_h, o->grid_w, o->prefix, 1 << 20);
    if (o->layers < 0 || o->heads < 0 || o->heads > UINT16_MAX)
        return vt_fail(st, VT_USAGE, "%d layers of %d heads", o->layers, o->heads);
    if (!o->mask_config && !o->mask_count)
        return vt_fail(st, VT_USAGE, "no mask (expected --mask-config or --mask)");
    return 0;
}

static int open_masks(vitrun_masks *m, const vitrun_mask_options *o, vt_watch *watch, vt_status *st)
{
    vt_mask_shape shape = {.layers = o->layers,
                           .heads = o->heads,
                           .prefix = o->prefix,
                           .grid_h = o->grid_h,
                           .grid_w = o->grid_w};
    m->threads = o->threads > 0 ? o->threads : 1;
    if (check_options(o, st) || vitrun_check_process(m->threads > 1, st))
        return -1;
    m->own = vt_masks_load(o->mask_config, o->masks, o->mask_count, &shape, m->threads, st);
    if (!m->own)
        return -1;
    m->heads = m->own->heads, m->prefix = o->prefix, m->grid_h = o->grid_h, m->grid_w = o->grid_w;
    m->tokens = o->prefix + o->grid_h * o->grid_w;
    vt_plan_setup setup = {
        .heads = m->heads, .head_dim = 1, .images = 1, .threads = m->threads, .watch = watch};
    m->masks = m->own;
    m->plans = &m->counted;
    return vt_plans_build(&m->counted, m->own, m->own->layers, m->tokens, &setup, st);
}

vitrun_masks *vitrun_masks_open(const vitrun_mask_options *options, vitrun_error *err)
{
    vt_status st = {0};
    vt_watch watch;
    if (vitrun_need(options, "options", err))
        return NULL;
    vitrun_masks *m = vt_alloc(1, sizeof *m, "masks", &st);
    vt_watch_open(&watch, options->progress, options->progress_user);
    int failed = m && open_masks(m, options, &watch, &st);
    vt_watch_close(&watch);
    if (failed) {
        vitrun_masks_free(m);
        m = NULL;
    }
    if (!m)
        vitrun_fail(err, &st);
    return m;
}

vitrun_masks *vitrun_masks_of(const vitrun_model *model, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(model, "model", err))
        return NULL;
    vitrun_masks *m = vt_alloc(1, sizeof *m, "masks", &st);
    if (!m) {
        vitrun_fail(err, &st);
        return NULL;
    }
    *m = (vitrun_masks){.model = vitrun_hold(model),
                        .plans = &model->plans,
                        .masks = model->masks,
                        .tokens = model->vit.tokens,
                        .heads = model->vit.heads / model->vit.head_copies,
                        .prefix = model->vit.prefix,
                        .grid_h = model->vit.grid_h,
                        .grid_w = model->vit.grid_w,
                        .threads = model->dev->threads};
    return m;
}

void vitrun_masks_free(vitrun_masks *m)
{
    if (!m)
        return;
    if (m->own)
        vt_plans_free(&m->counted);
    vt_masks_free(m->own);
    vitrun_close((vitrun_model *)(uintptr_t)m->model);
    vt_free(m);
}

/* ---- looking ---- */

int vitrun_masks_count(const vitrun_masks *m)
{
    return m ? m->plans->groups : 0;
}

const vitrun_layer *vitrun_masks_at(const vitrun_masks *m, int i)
{
    return m && i >= 0 && i < m->plans->groups ? &m->plans->group[i].pub : NULL;
}

/* Every pair on: stands in for the mask of a dense group. */
static void full_row(const vt_mask *mask, int query, uint64_t *bits)
{
    (void)query;
    size_t words = vt_mask_words(mask->tokens);
    memset(bits, 0xff, words * sizeof *bits);
    if (mask->tokens % 64)
        bits[words - 1] = (UINT64_C(1) << mask->tokens % 64) - 1;
}

/* The i-th mask, or `full` filled in for a dense one; NULL: no such. */
static const vt_mask *mask_at(const vitrun_masks *m, int i, vt_mask *full, vt_status *st)
{
    if (i < 0 || i >= m->plans->groups) {
        vt_fail(st, VT_USAGE, "mask %d (expected 0 to %d)", i, m->plans->groups - 1);
        return NULL;
    }
    int mask = m->plans->group[i].mask;
    *full = (vt_mask){.tokens = m->tokens,
                      .prefix = m->prefix,
                      .grid_h = m->grid_h,
                      .grid_w = m->grid_w,
                      .row = full_row};
    return mask < 0 ? full : m->plans->mask[mask].mask;
}

static void unpack_row(const vt_mask *mask, int query, uint64_t *bits, uint8_t *row)
{
    mask->row(mask, query, bits);
    for (int k = 0; k < mask->tokens; k++)
        row[k] = bits[k / 64] >> k % 64 & 1;
}

static int check_query(const vitrun_masks *m, int query, vt_status *st)
{
    if (query < 0 || query >= m->tokens)
        return vt_fail(st, VT_USAGE, "query token %d (expected 0 to %d)", query, m->tokens - 1);
    return 0;
}

int vitrun_masks_row(const vitrun_masks *m, int i, int query, uint8_t *row, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(m, "masks", err) || vitrun_need(row, "row", err))
        return -1;
    vt_mask full;
    const vt_mask *mask = mask_at(m, i, &full, &st);
    uint64_t *bits = NULL;
    if (mask && check_query(m, query, &st) == 0)
        bits = vt_alloc(vt_mask_words(m->tokens), sizeof *bits, "mask row", &st);
    if (!bits)
        return vitrun_fail(err, &st);
    unpack_row(mask, query, bits, row);
    vt_free(bits);
    return 0;
}

/* ---- drawings ---- */

enum { MATRIX_SIDE = 1024, QUERY_CELL = 16 };

static int write_drawing(const char *path, uint8_t *rgb, int width, int height, vt_status *st)
{
    int failed = vt_png_write(path, rgb, width, height, st);
    vt_free(rgb);
    return failed;
}

int vitrun_masks_draw_matrix(const vitrun_masks *m, int i, const char *path, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(m, "masks", err) || vitrun_need(path, "path", err))
        return -1;
    vt_mask full;
    const vt_mask *mask = mask_at(m, i, &full, &st);
    uint8_t *rgb;
    int width, height;
    if (!mask || vt_mask_draw_matrix(mask, MATRIX_SIDE, &rgb, &width, &height, &st) ||
        write_drawing(path, rgb, width, height, &st))
        return vitrun_fail(err, &st);
    return 0;
}

int vitrun_masks_draw_query(const vitrun_masks *m, int i, int query, const char *path,
                            vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(m, "masks", err) || vitrun_need(path, "path", err))
        return -1;
    vt_mask full;
    const vt_mask *mask = mask_at(m, i, &full, &st);
    uint8_t *rgb;
    int width, height;
    if (!mask || check_query(m, query, &st) ||
        vt_mask_draw_query(mask, query, QUERY_CELL, &rgb, &width, &height, &st) ||
        write_drawing(path, rgb, width, height, &st))
        return vitrun_fail(err, &st);
    return 0;
}

/* ---- files ---- */

/* A layer's tensor: BOOL [N, N], or [heads, N, N] where its head groups differ. */
typedef struct {
    int layer;
    int first, groups; /* among all groups */
    char name[16];
} saved_layer;

typedef struct {
    const vitrun_masks *m;
    const saved_layer *layer;
    size_t layers;
} saved;

/* The group of a head, among all groups. */
static int group_of(const vitrun_masks *m, const saved_layer *s, int head)
{
    const vt_attn_plan *plan = &m->plans->plan[s->layer];
    int copies = plan->heads / m->heads;
    for (int g = 0; g < s->groups; g++)
        for (int h = 0; h < plan->group[g].heads; h++)
            if (plan->group[g].head[h] / copies == head)
                return s->first + g;
    return s->first;
}

static int put_mask(const vitrun_masks *m, int i, vt_output *out, vt_status *st)
{
    vt_mask full;
    const vt_mask *mask = mask_at(m, i, &full, st);
    uint64_t *bits = mask ? vt_alloc(vt_mask_words(m->tokens), sizeof *bits, "mask row", st) : NULL;
    uint8_t *row = bits ? vt_alloc((size_t)m->tokens, 1, "mask row", st) : NULL;
    for (int q = 0; row && q < m->tokens && !out->error; q++) {
        unpack_row(mask, q, bits, row);
        vt_put(out, row, (size_t)m->tokens);
    }
    int failed = row ? 0 : -1;
    vt_free(bits);
    vt_free(row);
    return failed;
}

/* Row by row: large masks have more bytes than most machines. */
static int put_layers(const void *what, vt_output *out, vt_status *st)
{
    const saved *s = what;
    for (size_t i = 0; i < s->layers; i++)
        for (int h = 0; h < (s->layer[i].groups > 1 ? s->m->heads : 1); h++)
            if (put_mask(s->m, group_of(s->m, &s->layer[i], h), out, st))
                return -1;
    return 0;
}

static void describe(const vitrun_masks *m, int first, saved_layer *s, st_entry *e)
{
    uint64_t n = (uint64_t)m->tokens, shape[3] = {(uint64_t)m->heads, n, n};
    s->layer = m->plans->group[first].pub.layer;
    s->first = first;
    s->groups = m->plans->plan[s->layer].groups;
    snprintf(s->name, sizeof s->name, "layer%d", s->layer);
    *e = (st_entry){.name = s->name, .dtype = ST_BOOL, .rank = s->groups > 1 ? 3 : 2};
    memcpy(e->shape, shape + 3 - e->rank, sizeof *shape * (size_t)e->rank);
}

int vitrun_masks_save(const vitrun_masks *m, const char *path, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(m, "masks", err) || vitrun_need(path, "path", err))
        return -1;
    size_t layers = (size_t)m->plans->layers, done = 0;
    st_entry *entry = vt_alloc(layers, sizeof *entry, "mask list", &st);
    saved_layer *layer = entry ? vt_alloc(layers, sizeof *layer, "mask list", &st) : NULL;
    for (int g = 0; layer && g < m->plans->groups; g += layer[done++].groups)
        describe(m, g, &layer[done], &entry[done]);
    saved all = {m, layer, done};
    int failed = layer ? st_write_from(path, entry, done, put_layers, &all, &st) : -1;
    vt_free(entry);
    vt_free(layer);
    return failed ? vitrun_fail(err, &st) : 0;
}
