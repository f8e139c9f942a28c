/* Layouts of columns.h on the device: copies of their lists, and the items that their groups are
 * cut into, one for each block of a kernel.
 *
 * Groups that are much longer than others (the prefix tokens', or those of tokens that see all) are
 * shared out over several items, so that no block works on when all others have ended. There are
 * two schedules: one with prefix queries in groups like all others, one where they are guests.
 */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = VT_COLUMN_TILE, SHORT = 8 /* tiles: not worth sharing out */ };

/* ---- items ---- */

typedef struct {
    const vt_columns *c;
    bool hosting;
    vt_cuda_item *item; /* none while counting */
    int items;
    int slots;
} item_list;

static int tiles_of(const vt_columns *c, int group)
{
    return (int)(c->start[group + 1] - c->start[group]);
}

static int halves_of(const vt_columns *c)
{
    return c->shape.rows / TILE;
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static int real_rows(const vt_columns *c, int group)
{
    int rows = c->shape.rows;
    while (rows && c->query[(size_t)group * (size_t)c->shape.rows + (size_t)rows - 1] < 0)
        rows--;
    return rows;
}

/* Tiles of an item of pass p, at most: twice what groups have on average. */
static int longest_item(const vt_columns *c, int p)
{
    int groups = c->pass[p + 1] - c->pass[p];
    int64_t tiles = (int64_t)c->start[c->pass[p + 1]] - c->start[c->pass[p]];
    int twice = groups ? (int)(2 * tiles / groups) : 0;
    return twice < SHORT ? SHORT : twice;
}

/* Prefix queries are in no later pass; other queries may be. */
static bool is_over(const vt_columns *c, int pass, int group)
{
    return pass == c->passes - 1 || c->query[(size_t)group * (size_t)c->shape.rows] == 0;
}

static int parts_of(const vt_columns *c, int pass, int group)
{
    int tiles = tiles_of(c, group);
    return tiles && is_over(c, pass, group) ? ceil_div(tiles, longest_item(c, pass)) : 1;
}

static void put_item(item_list *l, vt_cuda_item item)
{
    if (l->item)
        l->item[l->items] = item;
    l->items++;
}

/* Item `part` of `parts`. */
static void put_part(item_list *l, int group, int part, int parts, vt_cuda_item item)
{
    int tiles = tiles_of(l->c, group), from = part * tiles / parts, to = (part + 1) * tiles / parts;
    item.first = (int)l->c->start[group] + from;
    item.tiles = to - from;
    item.narrow = to < tiles ? TILE : (int)l->c->columns[group] - (tiles - 1) * TILE;
    put_item(l, item);
}

/* How many of a group's tiles have guests. */
static int hosts(const item_list *l, int group)
{
    int tiles = tiles_of(l->c, group), halves = halves_of(l->c);
    bool any = false;
    for (int h = 0; l->hosting && h < halves; h++)
        for (int i = 0; i < l->c->guests; i++)
            any = any || l->c->guest[group * halves + h][i];
    return !any ? 0 : tiles < halves ? tiles : halves;
}

/* The last phase's item of a group whose states were given to l->slots - parts * rows and on. */
static void put_together(item_list *last, const item_list *l, int group, int pass, int parts)
{
    int rows = real_rows(l->c, group);
    vt_cuda_item item = {.group = group, .rows = rows, .pass = pass, .give = -1, .guests = -1};
    item.parts = parts;
    item.slot = l->slots - parts * rows;
    put_item(last, item);
}

static void cut_group(item_list *l, item_list *last, int pass, int group, int guests)
{
    int parts = parts_of(l->c, pass, group);
    vt_cuda_item item = {.group = group, .pass = pass, .give = -1, .guests = guests};
    item.rows = real_rows(l->c, group);
    for (int part = 0; part < parts; part++, item.guests = -1) {
        item.give = parts > 1 ? l->slots : -1;
        l->slots += parts > 1 ? item.rows : 0;
        put_part(l, group, part, parts, item);
    }
    if (parts > 1)
        put_together(last, l, group, pass, parts);
}

/* What the guests find nowhere, which is always given; room for what hosts give; and both put
 * together. Returns the slot of the first host. */
static int cut_guests(item_list *l, item_list *last)
{
    int group = l->c->groups, guests = l->c->guests;
    int parts = ceil_div(tiles_of(l->c, group), longest_item(l->c, 0));
    vt_cuda_item item = {.group = group, .rows = guests, .guests = -1};
    for (int part = 0; part < parts; part++) {
        item.give = l->slots;
        l->slots += guests;
        put_part(l, group, part, parts, item);
    }
    int first = l->slots;
    for (int g = 1; g < l->c->pass[1]; g++) {
        int given = hosts(l, g);
        l->slots += given * guests;
        parts += given;
    }
    put_together(last, l, group, 0, parts);
    return first;
}

static void cut_pass(item_list *l, item_list *last, int p)
{
    bool hosting = l->hosting && p == 0; /* group 0 has the guests */
    int slot = hosting ? cut_guests(l, last) : 0;
    for (int g = l->c->pass[p] + hosting; g < l->c->pass[p + 1]; g++) {
        int given = hosting ? hosts(l, g) : 0;
        cut_group(l, last, p, g, given ? slot : -1);
        slot += given * l->c->guests;
    }
}

static int longer_first(const void *a, const void *b)
{
    const vt_cuda_item *x = a, *y = b;
    if (x->tiles != y->tiles)
        return x->tiles > y->tiles ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Fills `s`, but for s->item: into `items` what that shall be, unless it is NULL. */
static void cut_items(const vt_columns *c, bool hosting, vt_cuda_item *items, vt_cuda_schedule *s)
{
    item_list l = {.c = c, .hosting = hosting && c->guests, .item = items}, last = l;
    last.item = items ? items + s->first[c->passes] : NULL;
    for (int p = 0; p < c->passes; p++) {
        s->first[p] = l.items;
        cut_pass(&l, &last, p);
        if (items)
            qsort(items + s->first[p], (size_t)(l.items - s->first[p]), sizeof *items,
                  longer_first);
    }
    s->phases = c->passes + (last.items > 0);
    for (int p = c->passes; p <= VT_CUDA_PHASES; p++)
        s->first[p] = l.items + (p > c->passes ? last.items : 0);
    s->slots = l.slots;
}

/* ---- on the device ---- */

void *vt_cuda_columns_load(vt_device *dev, const vt_columns *c, vt_cuda_columns *out, size_t *bytes,
                           vt_status *st)
{
    size_t groups = (size_t)(c->groups + (c->guests > 0)), rows = (size_t)c->shape.rows;
    size_t tiles = c->start[groups], own = c->guests ? (size_t)c->pass[1] * (rows / TILE) : 0;
    *out = (vt_cuda_columns){.rows = c->shape.rows, .passes = c->passes, .guests = c->guests};
    vt_cuda_schedule *schedule[] = {&out->plain, &out->hosting};
    vt_cuda_item *item[2] = {NULL, NULL};
    size_t items[2];
    void *block = NULL;
    for (int i = 0; i < 2; i++) {
        cut_items(c, i, NULL, schedule[i]);
        items[i] = (size_t)schedule[i]->first[VT_CUDA_PHASES];
        item[i] = vt_alloc(items[i], sizeof **item, "mask items", st);
        if (!item[i])
            goto failed;
        cut_items(c, i, item[i], schedule[i]);
    }
    const vt_cuda_piece pieces[] = {
        {c->query, groups * rows * sizeof *c->query, (const void **)&out->query},
        {c->key, tiles * TILE * sizeof *c->key, (const void **)&out->key},
        {c->block, tiles * (rows / TILE) * sizeof *c->block, (const void **)&out->block},
        {c->bits, c->blocks * sizeof *c->bits, (const void **)&out->bits},
        {c->guest, own * sizeof *c->guest, (const void **)&out->guest},
        {item[0], items[0] * sizeof **item, (const void **)&out->plain.item},
        {item[1], items[1] * sizeof **item, (const void **)&out->hosting.item}};
    block = vt_cuda_pieces_load(dev, pieces, 7, bytes, st);
failed:
    vt_free(item[0]);
    vt_free(item[1]);
    return block;
}

/* ---- scratch ---- */

/* Floats are read in pairs. */
static size_t even(size_t n)
{
    return n + n % 2;
}

static size_t lse_floats(int passes, const vt_cuda_attention *a)
{
    return passes > 1 ? even((size_t)a->tokens) : 0;
}

bool vt_cuda_columns_scratch(const vt_columns *c, const vt_cuda_attention *a, size_t *bytes,
                             size_t *counters)
{
    size_t pairs, slots, phases;
    vt_cuda_schedule plain, hosting;
    cut_items(c, false, NULL, &plain);
    cut_items(c, true, NULL, &hosting);
    slots = (size_t)(plain.slots > hosting.slots ? plain.slots : hosting.slots);
    phases = (size_t)(plain.phases > hosting.phases ? plain.phases : hosting.phases);
    *counters = 0;
    return vt_mul((size_t)a->images, (size_t)a->group_heads, &pairs) &&
           vt_mul(pairs, phases, counters) && vt_add(*counters, 2, counters) &&
           vt_mul(pairs,
                  (lse_floats(c->passes, a) + slots * ((size_t)a->head_dim + 2)) * sizeof(float),
                  bytes);
}

void vt_cuda_columns_place(vt_cuda_columns *c, const vt_cuda_attention *a, void *scratch,
                           uint32_t *counters)
{
    c->lse = scratch;
    c->state = c->lse + (size_t)a->images * (size_t)a->group_heads * lse_floats(c->passes, a);
    c->schedule = counters;
    c->done = counters + 2;
}
