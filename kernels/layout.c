/* Builds the sparse layouts of layout.h from a mask's row function.
 *
 * Nothing here needs N^2 memory beyond the layout itself: rows are asked for 16 at a time, once to
 * count and once to write.
 *
 * Token orders for tiles. Prefix tokens come first in groups of their own, because they see and are
 * seen by (nearly) everything and would fill any group that they share. Then the patches, in
 * whichever of these orders gives the fewest tiles, the earlier where they tie:
 *   natural   row-major, as the tokens are
 *   strips    strips of 4 grid rows, column by column inside a strip: 16 neighbours are a 4 x 4
 *             block, so a window of the grid touches few groups
 *   padded    the same, each strip filled up to a multiple of 16 slots, so that no group holds
 *             the right end of one strip and the left end of the next
 */
#include "kernels/layout.h"

#include <omp.h>
#include <string.h>

enum { STRIP = 4 }; /* grid rows: VT_TILE slots are then a STRIP x STRIP block */

typedef enum { NATURAL, STRIPS, PADDED, ORDERS } order;

static int at_most(int threads, int jobs)
{
    threads = threads < jobs ? threads : jobs;
    return threads < 1 ? 1 : threads;
}

/* ---- bitmap ---- */

vt_bitmap *vt_bitmap_build(const vt_mask *mask, int threads, vt_status *st)
{
    int n = mask->tokens;
    size_t words = vt_mask_words(n), stride = ((size_t)n + 7) / 8;
    threads = at_most(threads, n);
    vt_bitmap *b = vt_alloc(1, sizeof *b, "bitmap", st);
    uint64_t *rows = vt_alloc((size_t)threads * words, sizeof *rows, "mask rows", st);
    size_t bytes = (size_t)n * stride + 64; /* a vector load may run past the last row */
    uint8_t *bits = b && rows ? vt_alloc(bytes, 1, "bitmap", st) : NULL;
    if (!bits) {
        vt_free(rows);
        vt_free(b);
        return NULL;
    }
    *b = (vt_bitmap){.tokens = n, .stride = stride, .bits = bits, .bytes = sizeof *b + bytes};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < n; i++) {
        uint64_t *row = rows + (size_t)omp_get_thread_num() * words;
        mask->row(mask, i, row);
        memcpy(bits + (size_t)i * stride, row, stride);
    }
    vt_free(rows);
    return b;
}

void vt_bitmap_free(vt_bitmap *b)
{
    if (b)
        vt_free(b->bits);
    vt_free(b);
}

/* ---- compressed rows ---- */

/* Turns counts at [1 .. n] into starts at [0 .. n]; false where a start leaves 32 bits. */
static bool accumulate(uint32_t *start, int n)
{
    uint64_t sum = 0;
    for (int i = 1; i <= n; i++) {
        sum += start[i];
        if (sum > UINT32_MAX)
            return false;
        start[i] = (uint32_t)sum;
    }
    return true;
}

static void count_rows(const vt_mask *mask, int threads, uint64_t *rows, uint32_t *start)
{
    size_t words = vt_mask_words(mask->tokens);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < mask->tokens; i++) {
        uint64_t *row = rows + (size_t)omp_get_thread_num() * words;
        uint32_t on = 0;
        mask->row(mask, i, row);
        for (size_t w = 0; w < words; w++)
            on += (uint32_t)__builtin_popcountll(row[w]);
        start[i + 1] = on;
    }
}

static void write_keys(const vt_csr *c, uint32_t at, const uint64_t *row, size_t words)
{
    for (size_t w = 0; w < words; w++)
        for (uint64_t bits = row[w]; bits; bits &= bits - 1, at++) {
            size_t key = w * 64 + (size_t)__builtin_ctzll(bits);
            if (c->key16)
                c->key16[at] = (uint16_t)key;
            else
                c->key32[at] = (uint32_t)key;
        }
}

static int fill_csr(vt_csr *c, const vt_mask *mask, int threads, uint64_t *rows, vt_status *st)
{
    int n = mask->tokens;
    size_t words = vt_mask_words(n), wide = n <= 65536 ? sizeof *c->key16 : sizeof *c->key32;
    count_rows(mask, threads, rows, c->start);
    if (!accumulate(c->start, n))
        return vt_fail(st, VT_MACHINE, "sparse rows: more than 2^32 - 1 allowed pairs (%d tokens)",
                       n);
    void *keys = vt_alloc(c->start[n], wide, "sparse rows", st);
    if (!keys)
        return -1;
    c->key16 = n <= 65536 ? keys : NULL;
    c->key32 = n <= 65536 ? NULL : keys;
    c->bytes = sizeof *c + ((size_t)n + 1) * sizeof *c->start + c->start[n] * wide;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < n; i++) {
        uint64_t *row = rows + (size_t)omp_get_thread_num() * words;
        mask->row(mask, i, row);
        write_keys(c, c->start[i], row, words);
    }
    return 0;
}

vt_csr *vt_csr_build(const vt_mask *mask, int threads, vt_status *st)
{
    int n = mask->tokens;
    threads = at_most(threads, n);
    vt_csr *c = vt_alloc(1, sizeof *c, "sparse rows", st);
    if (!c)
        return NULL;
    c->tokens = n;
    c->start = vt_alloc((size_t)n + 1, sizeof *c->start, "sparse rows", st);
    uint64_t *rows =
        c->start ? vt_alloc((size_t)threads * vt_mask_words(n), sizeof *rows, "mask rows", st)
                 : NULL;
    if (!rows || fill_csr(c, mask, threads, rows, st) < 0) {
        vt_csr_free(c);
        c = NULL;
    }
    vt_free(rows);
    return c;
}

void vt_csr_free(vt_csr *c)
{
    if (c) {
        vt_free(c->start);
        vt_free(c->key16);
        vt_free(c->key32);
    }
    vt_free(c);
}

/* ---- tiles ---- */

/* An order of the tokens and the room that its sweeps work in. */
typedef struct {
    const vt_mask *mask;
    int threads, groups;
    int32_t *token;  /* [groups * VT_TILE], -1 for padding */
    int32_t *slot;   /* [N] the slot of each token */
    uint16_t *real;  /* [groups] bit s: slot s of the group is a token */
    uint64_t *rows;  /* [threads][2][words]: a row, the OR of a group's rows */
    int32_t *marked; /* [threads][groups]: key groups that a query group sees, in any order */
    uint8_t *seen;   /* [threads][groups]: the key groups in `marked` */
    uint16_t (*bits)[VT_TILE]; /* [threads][groups]: the tiles of a query group */
} plan;

static size_t slots_at_most(const vt_mask *mask)
{
    size_t strips = (size_t)(mask->grid_h - 1) / STRIP + 1;
    return (size_t)mask->tokens + VT_TILE * (strips + 2);
}

static void close_plan(plan *p)
{
    vt_free(p->token);
    vt_free(p->slot);
    vt_free(p->real);
    vt_free(p->rows);
    vt_free(p->marked);
    vt_free(p->seen);
    vt_free(p->bits);
}

/* Room for any order; with_bits: also for the bits of one query group a thread. */
static int open_plan(plan *p, const vt_mask *mask, int threads, bool with_bits, vt_status *st)
{
    size_t slots = slots_at_most(mask), groups = slots / VT_TILE + 1;
    size_t n = (size_t)mask->tokens;
    *p = (plan){.mask = mask, .threads = at_most(threads, (int)groups)};
    size_t t = (size_t)p->threads;
    p->token = vt_alloc(slots + VT_TILE, sizeof *p->token, "token order", st);
    p->slot = vt_alloc(n, sizeof *p->slot, "token order", st);
    p->real = vt_alloc(groups, sizeof *p->real, "token order", st);
    p->rows = vt_alloc(t * 2, vt_mask_words(mask->tokens) * sizeof *p->rows, "mask rows", st);
    p->marked = vt_alloc(t, groups * sizeof *p->marked, "key groups", st);
    p->seen = vt_alloc(t, groups, "key groups", st);
    p->bits = vt_alloc(with_bits ? t : 0, groups * sizeof *p->bits, "tile bits", st);
    if (p->token && p->slot && p->real && p->rows && p->marked && p->seen && p->bits)
        return 0;
    close_plan(p);
    return -1;
}

static int pad(plan *p, int slots)
{
    while (slots % VT_TILE)
        p->token[slots++] = -1;
    return slots;
}

/* The natural order is that of strips one row high. */
static void put_in_order(plan *p, order how)
{
    const vt_mask *m = p->mask;
    int slots = 0, high = how == NATURAL ? 1 : STRIP;
    for (int t = 0; t < m->prefix; t++)
        p->token[slots++] = t;
    slots = pad(p, slots);
    for (int top = 0; top < m->grid_h; top += high) {
        int bottom = m->grid_h - top < high ? m->grid_h : top + high;
        for (int j = 0; j < m->grid_w; j++)
            for (int i = top; i < bottom; i++)
                p->token[slots++] = m->prefix + i * m->grid_w + j;
        if (how == PADDED)
            slots = pad(p, slots);
    }
    slots = pad(p, slots);
    p->groups = slots / VT_TILE;
    memset(p->real, 0, (size_t)p->groups * sizeof *p->real);
    for (int s = 0; s < slots; s++)
        if (p->token[s] >= 0) {
            p->slot[p->token[s]] = s;
            p->real[s / VT_TILE] |= (uint16_t)(1u << s % VT_TILE);
        }
}

/* How many key groups query group g sees. */
static uint32_t see_groups(const plan *p, int g, int thread)
{
    size_t words = vt_mask_words(p->mask->tokens);
    uint64_t *row = p->rows + (size_t)thread * 2 * words, *any = row + words;
    int32_t *marked = p->marked + (size_t)thread * (size_t)p->groups;
    uint8_t *seen = p->seen + (size_t)thread * (size_t)p->groups;
    uint32_t n = 0;
    memset(any, 0, words * sizeof *any);
    for (int q = 0; q < VT_TILE; q++) {
        int32_t token = p->token[g * VT_TILE + q];
        if (token < 0)
            continue;
        p->mask->row(p->mask, token, row);
        for (size_t w = 0; w < words; w++)
            any[w] |= row[w];
    }
    for (size_t w = 0; w < words; w++)
        for (uint64_t bits = any[w]; bits; bits &= bits - 1) {
            int32_t k = p->slot[w * 64 + (size_t)__builtin_ctzll(bits)] / VT_TILE;
            if (!seen[k])
                marked[n++] = k;
            seen[k] = 1;
        }
    for (uint32_t i = 0; i < n; i++)
        seen[marked[i]] = 0;
    return n;
}

static int64_t count_tiles(const plan *p)
{
    int64_t tiles = 0;
#pragma omp parallel for num_threads(p->threads) schedule(dynamic, 4) reduction(+ : tiles)
    for (int g = 0; g < p->groups; g++)
        tiles += see_groups(p, g, omp_get_thread_num());
    return tiles;
}

/* Leaves the plan in the order with the fewest tiles and returns their number. */
static int64_t best_order(plan *p)
{
    int64_t best = INT64_MAX;
    order chosen = NATURAL, last = NATURAL;
    for (order how = NATURAL; how < ORDERS; how++) {
        if (how != NATURAL && p->mask->grid_w == 1)
            break; /* strips of one column are the natural order */
        put_in_order(p, last = how);
        int64_t tiles = count_tiles(p);
        if (tiles < best) {
            best = tiles;
            chosen = how;
        }
    }
    if (chosen != last)
        put_in_order(p, chosen);
    return best;
}

int vt_tiles_count(const vt_mask *mask, int threads, int64_t *tiles, vt_status *st)
{
    plan p;
    if (open_plan(&p, mask, threads, false, st) < 0)
        return -1;
    *tiles = best_order(&p);
    close_plan(&p);
    return 0;
}

/* The tiles of query group g: bits of every key group that it sees in p->bits of this thread, and
 * p->seen = 1 for these. clear_group takes both back. */
static void group_bits(const plan *p, int g, int thread)
{
    size_t words = vt_mask_words(p->mask->tokens);
    uint64_t *row = p->rows + (size_t)thread * 2 * words;
    uint8_t *seen = p->seen + (size_t)thread * (size_t)p->groups;
    uint16_t(*tile)[VT_TILE] = p->bits + (size_t)thread * (size_t)p->groups;
    for (int q = 0; q < VT_TILE; q++) {
        int32_t token = p->token[g * VT_TILE + q];
        if (token < 0)
            continue;
        p->mask->row(p->mask, token, row);
        for (size_t w = 0; w < words; w++)
            for (uint64_t bits = row[w]; bits; bits &= bits - 1) {
                int32_t slot = p->slot[w * 64 + (size_t)__builtin_ctzll(bits)];
                tile[slot / VT_TILE][q] |= (uint16_t)(1u << slot % VT_TILE);
                seen[slot / VT_TILE] = 1;
            }
    }
}

static void clear_group(const plan *p, int thread)
{
    size_t groups = (size_t)p->groups;
    memset(p->seen + (size_t)thread * groups, 0, groups);
    memset(p->bits + (size_t)thread * groups, 0, groups * sizeof *p->bits);
}

static bool tile_is_full(const plan *p, int g, int k, const uint16_t bits[VT_TILE])
{
    for (int q = 0; q < VT_TILE; q++)
        if ((p->real[g] >> q & 1) && bits[q] != p->real[k])
            return false;
    return true;
}

/* Counts the tiles of group g into start[g + 1] and its partial ones into partial[g + 1]. */
static void count_group(const plan *p, int g, uint32_t *start, uint32_t *partial)
{
    int thread = omp_get_thread_num();
    size_t base = (size_t)thread * (size_t)p->groups;
    group_bits(p, g, thread);
    for (int k = 0; k < p->groups; k++)
        if (p->seen[base + (size_t)k]) {
            start[g + 1]++;
            partial[g + 1] += !tile_is_full(p, g, k, p->bits[base + (size_t)k]);
        }
    clear_group(p, thread);
}

static void write_group(const plan *p, int g, vt_tiles *t, uint32_t bits_at)
{
    int thread = omp_get_thread_num();
    size_t base = (size_t)thread * (size_t)p->groups, at = t->start[g];
    group_bits(p, g, thread);
    for (int k = 0; k < p->groups; k++) {
        const uint16_t *bits = p->bits[base + (size_t)k];
        if (!p->seen[base + (size_t)k])
            continue;
        t->tile[at] = (uint32_t)k;
        if (tile_is_full(p, g, k, bits)) {
            t->tile[at] |= VT_TILE_FULL;
        } else {
            memcpy(t->bits[bits_at], bits, sizeof t->bits[bits_at]);
            t->bits_at[at] = bits_at++;
        }
        at++;
    }
    clear_group(p, thread);
}

/* start and token of t are allocated already; first_bits [groups + 1] is scratch. */
static int fill_tiles(vt_tiles *t, const plan *p, uint32_t *first_bits, vt_status *st)
{
#pragma omp parallel for num_threads(p->threads) schedule(dynamic, 4)
    for (int g = 0; g < p->groups; g++)
        count_group(p, g, t->start, first_bits);
    if (!accumulate(t->start, p->groups) || !accumulate(first_bits, p->groups))
        return vt_fail(st, VT_MACHINE, "tiles: more than 2^32 - 1 tiles (%d tokens)", t->tokens);
    size_t tiles = t->start[p->groups], groups = (size_t)p->groups;
    t->partial = first_bits[p->groups];
    t->tile = vt_alloc(tiles, sizeof *t->tile, "tiles", st);
    t->bits_at = t->tile ? vt_alloc(tiles, sizeof *t->bits_at, "tiles", st) : NULL;
    t->bits = t->bits_at ? vt_alloc(t->partial, sizeof *t->bits, "tile bits", st) : NULL;
    if (!t->bits)
        return -1;
    t->bytes = sizeof *t + groups * VT_TILE * sizeof *t->token + (groups + 1) * sizeof *t->start +
               tiles * (sizeof *t->tile + sizeof *t->bits_at) + t->partial * sizeof *t->bits;
#pragma omp parallel for num_threads(p->threads) schedule(dynamic, 4)
    for (int g = 0; g < p->groups; g++)
        write_group(p, g, t, first_bits[g]);
    return 0;
}

static vt_tiles *tiles_of_plan(plan *p, vt_status *st)
{
    best_order(p);
    size_t groups = (size_t)p->groups;
    vt_tiles *t = vt_alloc(1, sizeof *t, "tiles", st);
    if (!t)
        return NULL;
    t->tokens = p->mask->tokens;
    t->groups = p->groups;
    t->token = vt_alloc(groups * VT_TILE, sizeof *t->token, "token order", st);
    t->start = t->token ? vt_alloc(groups + 1, sizeof *t->start, "tiles", st) : NULL;
    uint32_t *first_bits = t->start ? vt_alloc(groups + 1, sizeof *first_bits, "tiles", st) : NULL;
    if (first_bits)
        memcpy(t->token, p->token, groups * VT_TILE * sizeof *t->token);
    if (!first_bits || fill_tiles(t, p, first_bits, st) < 0) {
        vt_tiles_free(t);
        t = NULL;
    }
    vt_free(first_bits);
    return t;
}

vt_tiles *vt_tiles_build(const vt_mask *mask, int threads, vt_status *st)
{
    plan p;
    if (open_plan(&p, mask, threads, true, st) < 0)
        return NULL;
    vt_tiles *t = tiles_of_plan(&p, st);
    close_plan(&p);
    return t;
}

void vt_tiles_free(vt_tiles *t)
{
    if (t) {
        vt_free(t->token);
        vt_free(t->start);
        vt_free(t->tile);
        vt_free(t->bits_at);
        vt_free(t->bits);
    }
    vt_free(t);
}
