/* Layouts of columns.h on the device: copies of their lists, and the items that their groups are
 * cut into, one for each block of a kernel.
 *
 * Groups that are much longer than others (the prefix tokens') are shared out over several items,
 * so that no block works on when all others have ended.
 */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = VT_COLUMN_TILE, SHORT = 8 /* tiles: not worth sharing out */ };

/* ---- items ---- */

typedef struct {
    vt_cuda_item *item;
    int items;
    int slots, chains;
} item_list;

static int tiles_of(const vt_columns *c, int group)
{
    return (int)(c->start[group + 1] - c->start[group]);
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* Tiles of an item of pass p, at most: twice what groups have on average. */
static int longest_item(const vt_columns *c, int p)
{
    int groups = c->pass[p + 1] - c->pass[p];
    int64_t tiles = (int64_t)c->start[c->pass[p + 1]] - c->start[c->pass[p]];
    int twice = groups ? (int)(2 * tiles / groups) : 0;
    return twice < SHORT ? SHORT : twice;
}

static int real_rows(const vt_columns *c, int group)
{
    int rows = c->shape.rows;
    while (rows && c->query[(size_t)group * (size_t)c->shape.rows + (size_t)rows - 1] < 0)
        rows--;
    return rows;
}

static int parts_of(const vt_columns *c, int pass, int group)
{
    int tiles = tiles_of(c, group);
    return tiles ? ceil_div(tiles, longest_item(c, pass)) : 1;
}

static int count_items(const vt_columns *c)
{
    int items = 0;
    for (int p = 0; p < c->passes; p++)
        for (int g = c->pass[p]; g < c->pass[p + 1]; g++)
            items += parts_of(c, p, g);
    return items;
}

static void cut_group(item_list *l, const vt_columns *c, int pass, int group)
{
    int tiles = tiles_of(c, group), parts = parts_of(c, pass, group);
    vt_cuda_item item = {.group = group, .parts = parts, .rows = real_rows(c, group)};
    if (parts > 1) {
        item.slot = l->slots;
        item.chain = l->chains++;
        l->slots += parts * item.rows;
    }
    for (item.part = 0; item.part < parts; item.part++) {
        int from = item.part * tiles / parts, to = (item.part + 1) * tiles / parts;
        item.first = (int)c->start[group] + from;
        item.tiles = to - from;
        item.narrow = to < tiles ? TILE : (int)c->columns[group] - (tiles - 1) * TILE;
        l->item[l->items++] = item;
    }
}

static int longer_first(const void *a, const void *b)
{
    const vt_cuda_item *x = a, *y = b;
    if (x->tiles != y->tiles)
        return x->tiles > y->tiles ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int cut_items(item_list *l, const vt_columns *c, int first[VT_COLUMN_PASSES + 1],
                     vt_status *st)
{
    *l = (item_list){.items = 0};
    l->item = vt_alloc((size_t)count_items(c), sizeof *l->item, "mask items", st);
    if (!l->item)
        return -1;
    for (int p = 0; p < VT_COLUMN_PASSES; p++) {
        first[p] = l->items;
        for (int g = c->pass[p]; g < c->pass[p + 1]; g++)
            cut_group(l, c, p, g);
        qsort(l->item + first[p], (size_t)(l->items - first[p]), sizeof *l->item, longer_first);
    }
    first[VT_COLUMN_PASSES] = l->items;
    return 0;
}

/* ---- on the device ---- */

void *vt_cuda_columns_load(vt_device *dev, const vt_columns *c, vt_cuda_columns *out, size_t *bytes,
                           vt_status *st)
{
    item_list l;
    size_t groups = (size_t)c->groups, tiles = c->start[c->groups], rows = (size_t)c->shape.rows;
    *out = (vt_cuda_columns){.rows = c->shape.rows, .passes = c->passes};
    if (cut_items(&l, c, out->first, st))
        return NULL;
    for (int p = 0; p < VT_COLUMN_PASSES; p++)
        out->groups[p] = c->pass[p + 1] - c->pass[p];
    out->slots = l.slots;
    out->chains = l.chains;
    const vt_cuda_piece pieces[] = {
        {c->query, groups * rows * sizeof *c->query, (const void **)&out->query},
        {c->key, tiles * TILE * sizeof *c->key, (const void **)&out->key},
        {c->block, tiles * (rows / TILE) * sizeof *c->block, (const void **)&out->block},
        {c->bits, c->blocks * sizeof *c->bits, (const void **)&out->bits},
        {l.item, (size_t)l.items * sizeof *l.item, (const void **)&out->item}};
    void *block = vt_cuda_pieces_load(dev, pieces, 5, bytes, st);
    vt_free(l.item);
    return block;
}

/* ---- scratch ---- */

/* As cut_group counts them. */
static void count_parts(const vt_columns *c, size_t *slots, size_t *chains)
{
    *slots = *chains = 0;
    for (int p = 0; p < c->passes; p++)
        for (int g = c->pass[p]; g < c->pass[p + 1]; g++) {
            int parts = parts_of(c, p, g);
            *slots += parts > 1 ? (size_t)parts * (size_t)real_rows(c, g) : 0;
            *chains += parts > 1;
        }
}

/* Floats are read in pairs. */
static size_t even(size_t n)
{
    return n + n % 2;
}

bool vt_cuda_columns_scratch(const vt_columns *c, const vt_cuda_attention *a, size_t *bytes,
                             size_t *counters)
{
    size_t pairs, slots, chains;
    count_parts(c, &slots, &chains);
    size_t lse = c->passes > 1 ? even((size_t)a->tokens) : 0,
           part = slots * ((size_t)a->head_dim + 2);
    *counters = 0;
    return vt_mul((size_t)a->images, (size_t)a->group_heads, &pairs) &&
           vt_mul(pairs, chains + (c->passes > 1 ? (size_t)c->passes : 0), counters) &&
           vt_add(*counters, 2, counters) && vt_mul(pairs, (lse + part) * sizeof(float), bytes);
}

void vt_cuda_columns_place(vt_cuda_columns *c, const vt_cuda_attention *a, void *scratch,
                           uint32_t *counters)
{
    size_t pairs = (size_t)a->images * (size_t)a->group_heads;
    c->lse = scratch;
    c->part = c->lse + (c->passes > 1 ? pairs * even((size_t)a->tokens) : 0);
    c->schedule = counters;
    c->arrived = counters + 2;
    c->done = c->arrived + pairs * (size_t)c->chains;
}
