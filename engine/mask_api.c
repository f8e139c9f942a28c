/* Masks as a caller of the library sees them, with or without a model: numbers, rows, drawings,
 * files. What masks mean is engine/masks' business. */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "engine/image/image.h"

struct vitrun_masks {
    vt_masks *own;    /* NULL: the model's */
    vt_plans counted; /* where own */
    const vt_plans *plans;
    const vt_masks *masks;
    int tokens, heads, prefix, grid_h, grid_w;
    int threads;
};

void vitrun_mask_options_init(vitrun_mask_options *options)
{
    *options = (vitrun_mask_options){.size = sizeof *options, .threads = 1};
}

/* ---- opening ---- */

static int check_options(const vitrun_mask_options *o, vt_status *st)
{
    if (o->size != sizeof *o)
        return vt_fail(st, VT_USAGE, "vitrun_mask_options has size %zu (expected %zu)", o->size,
                       sizeof *o);
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

static int open_masks(vitrun_masks *m, const vitrun_mask_options *o, vt_status *st)
{
    vt_mask_shape shape = {.layers = o->layers,
                           .heads = o->heads,
                           .prefix = o->prefix,
                           .grid_h = o->grid_h,
                           .grid_w = o->grid_w};
    if (check_options(o, st))
        return -1;
    if ((!shape.layers || !shape.heads) &&
        vt_masks_extent(o->mask_config, o->masks, o->mask_count, &shape, st))
        return -1;
    m->threads = o->threads > 0 ? o->threads : 1;
    m->own = vt_masks_load(o->mask_config, o->masks, o->mask_count, &shape, m->threads, st);
    if (!m->own)
        return -1;
    m->heads = shape.heads, m->prefix = o->prefix, m->grid_h = o->grid_h, m->grid_w = o->grid_w;
    m->tokens = o->prefix + o->grid_h * o->grid_w;
    vt_plan_setup setup = {.heads = shape.heads, .head_dim = 1, .images = 1, .threads = m->threads};
    m->masks = m->own;
    m->plans = &m->counted;
    return vt_plans_build(&m->counted, m->own, shape.layers, m->tokens, &setup, st);
}

vitrun_masks *vitrun_masks_open(const vitrun_mask_options *options, vitrun_error *err)
{
    vt_status st = {0};
    vitrun_masks *m = vt_alloc(1, sizeof *m, "masks", &st);
    if (m && open_masks(m, options, &st)) {
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
    vitrun_masks *m = vt_alloc(1, sizeof *m, "masks", &st);
    if (!m) {
        vitrun_fail(err, &st);
        return NULL;
    }
    *m = (vitrun_masks){.plans = &model->plans,
                        .masks = model->masks,
                        .tokens = model->vit.tokens,
                        .heads = model->cfg.vit.heads,
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
    vt_free(m);
}

/* ---- looking ---- */

int vitrun_masks_count(const vitrun_masks *m)
{
    return m->plans->groups;
}

const vitrun_layer *vitrun_masks_at(const vitrun_masks *m, int i)
{
    return i >= 0 && i < m->plans->groups ? &m->plans->group[i].pub : NULL;
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

/* One layer as BOOL [N, N], or [heads, N, N] where its head groups differ. */
static int layer_tensor(const vitrun_masks *m, int first, int groups, st_entry *e, vt_status *st)
{
    size_t n = (size_t)m->tokens, heads = groups > 1 ? (size_t)m->heads : 1;
    size_t square;
    uint64_t *bits = vt_alloc(vt_mask_words(m->tokens), sizeof *bits, "mask row", st);
    uint8_t *data = NULL;
    if (bits && vt_mul(n, n, &square))
        data = vt_alloc(heads, square, "mask", st);
    for (int g = 0; data && g < groups; g++) {
        vt_mask full;
        const vt_mask *mask = mask_at(m, first + g, &full, st);
        const vt_attn_group *group = &m->plans->plan[m->plans->group[first].pub.layer].group[g];
        for (int h = 0; h < (groups > 1 ? group->heads : 1); h++)
            for (size_t q = 0; q < n; q++)
                unpack_row(mask, (int)q, bits,
                           data + ((groups > 1 ? group->head[h] : 0) * n + q) * n);
    }
    vt_free(bits);
    e->dtype = ST_BOOL;
    e->rank = groups > 1 ? 3 : 2;
    uint64_t shape[3] = {heads, n, n};
    memcpy(e->shape, groups > 1 ? shape : shape + 1, sizeof *shape * (size_t)e->rank);
    e->data = data;
    return data ? 0 : -1;
}

int vitrun_masks_save(const vitrun_masks *m, const char *path, vitrun_error *err)
{
    vt_status st = {0};
    size_t layers = (size_t)m->plans->layers, done = 0;
    st_entry *entry = vt_alloc(layers, sizeof *entry, "mask list", &st);
    char(*name)[16] = vt_alloc(layers, sizeof *name, "mask list", &st);
    int failed = entry && name ? 0 : -1;
    for (int g = 0; !failed && g < m->plans->groups;) {
        int layer = m->plans->group[g].pub.layer, groups = m->plans->plan[layer].groups;
        snprintf(name[done], sizeof *name, "layer%d", layer);
        entry[done].name = name[done];
        failed = layer_tensor(m, g, groups, &entry[done], &st);
        done += !failed;
        g += groups;
    }
    if (!failed)
        failed = st_write(path, entry, done, &st);
    for (size_t i = 0; entry && i < done; i++)
        vt_free((void *)entry[i].data);
    vt_free(entry);
    vt_free(name);
    return failed ? vitrun_fail(err, &st) : 0;
}
