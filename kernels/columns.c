/* Builds the layout of columns.h from a mask's row function, in two sweeps over the rows: one
 * counts, one writes. No N^2 memory but the bits of blocks that are partly on.
 *
 * Queries come 64 to a half (a group is one half or two), in an order of query_order.h: in blocks
 * of the grid, or as they are where that lists fewer keys; row and column passes line by line.
 *
 * Keys of a group are listed by class, so that tiles are of one kind: those that all queries see
 * before those that some see, and at the end those that only one half sees; within a class by
 * token, so that equal patterns give equal blocks wherever they are. Where there are guests, what a group
 * of pass 0 sees of its own queries comes before all other keys, by class too.
 */
#include "kernels/columns.h"

#include "kernels/query_order.h"

#include <omp.h>
#include <string.h>

enum { TILE = VT_COLUMN_TILE, HALVES = 2, KINDS = 8, CLASSES = 2 * KINDS, SAMPLES = 32 };

/* Which pairs of a query a pass has; LEFT: those of guests that are in no group's own tiles. */
typedef enum { ALL, IN_ROW, IN_COLUMN, REST, LEFT } part;

const vt_columns_shape vt_columns_shapes[VT_COLUMNS_SHAPES] = {
    {64, false}, {128, false}, {64, true}, {128, true}};

/* ---- a group's keys ---- */

/* A key that a group sees: bit q of seen[h] says whether query q of half h does. */
typedef struct {
    uint64_t seen[HALVES];
    int32_t key, class;
} column;

typedef struct {         /* of one thread */
    uint64_t *rows;      /* [HALVES * TILE][words] */
    uint64_t *any, *all; /* [HALVES][words] keys that some, all queries of a half see */
    uint64_t *own;       /* [words] the group's queries, where they are listed first */
    column *columns;     /* [N], none while counting */
    bool *line;          /* [grid_h] */
} room;

typedef struct {
    const vt_mask *mask;
    int halves; /* of a group */
    int guests; /* prefix queries that are served in others' tiles */
    size_t words;
    uint64_t *served; /* [words] keys that stand first in their own group's list */
    uint64_t *guest;  /* [guests][words] rows */
    room *room;
    int threads;
} sweep;

static void close_sweep(sweep *s)
{
    for (int i = 0; s->room && i < s->threads; i++) {
        vt_free(s->room[i].rows);
        vt_free(s->room[i].columns);
        vt_free(s->room[i].line);
    }
    vt_free(s->room);
    vt_free(s->served);
}

static int read_guests(sweep *s, vt_status *st)
{
    const vt_mask *m = s->mask;
    s->guests = m->prefix <= VT_COLUMN_GUESTS && m->prefix < m->tokens ? m->prefix : 0;
    s->served = vt_alloc((size_t)s->guests + 1, s->words * sizeof *s->served, "mask rows", st);
    if (!s->served)
        return -1;
    s->guest = s->served + s->words;
    memset(s->served, 0, s->words * sizeof *s->served);
    for (int i = 0; i < s->guests; i++)
        m->row(m, i, s->guest + (size_t)i * s->words);
    return 0;
}

static int open_sweep(sweep *s, const vt_mask *mask, int halves, int threads, bool write,
                      vt_status *st)
{
    *s = (sweep){.mask = mask, .halves = halves, .words = vt_mask_words(mask->tokens)};
    s->threads = threads < 1 ? 1 : threads;
    if (read_guests(s, st))
        goto failed;
    s->room = vt_alloc((size_t)s->threads, sizeof *s->room, "columns", st);
    for (int i = 0; s->room && i < s->threads; i++) {
        room *r = &s->room[i];
        size_t n = HALVES * s->words;
        r->rows = vt_alloc(TILE + 3, n * sizeof *r->rows, "mask rows", st);
        r->columns = vt_alloc(write ? (size_t)mask->tokens : 0, sizeof *r->columns, "columns", st);
        r->line = vt_alloc((size_t)mask->grid_h, sizeof *r->line, "mask rows", st);
        if (!r->rows || !r->columns || !r->line)
            goto failed;
        r->any = r->rows + TILE * n;
        r->all = r->any + n;
        r->own = r->all + n;
    }
    if (s->room)
        return 0;
failed:
    close_sweep(s);
    return -1;
}

static void clear_bits(uint64_t *bits, int from, int to)
{
    for (; from < to && from % 64; from++)
        bits[from / 64] &= ~(1ull << from % 64);
    for (; from + 64 <= to; from += 64)
        bits[from / 64] = 0;
    for (; from < to; from++)
        bits[from / 64] &= ~(1ull << from % 64);
}

/* Leaves of a query's row its pairs in the same row of the grid, and with prefix tokens. */
static void keep_row(const vt_mask *m, int i, uint64_t *bits)
{
    int left = m->prefix + i * m->grid_w;
    clear_bits(bits, m->prefix, left);
    clear_bits(bits, left + m->grid_w, m->tokens);
}

/* Takes the pairs of grid column j out of a row; kept [grid_h] says which they were. */
static void take_column(const vt_mask *m, int j, uint64_t *bits, bool *kept)
{
    for (int y = 0, at = m->prefix + j; y < m->grid_h; y++, at += m->grid_w) {
        uint64_t bit = 1ull << at % 64;
        kept[y] = bits[at / 64] & bit;
        bits[at / 64] &= ~bit;
    }
}

/* Leaves of a query's row the pairs that the part has; prefix queries have them all in IN_ROW.
 * line [grid_h] is scratch. */
static void restrict_row(const sweep *s, part which, int token, uint64_t *bits, bool *line)
{
    const vt_mask *m = s->mask;
    for (size_t w = 0; which == LEFT && w < s->words; w++)
        bits[w] &= ~s->served[w];
    if (which == ALL || token < m->prefix)
        return;
    int i = (token - m->prefix) / m->grid_w, j = (token - m->prefix) % m->grid_w;
    if (which == IN_ROW) {
        keep_row(m, i, bits);
        return;
    }
    take_column(m, j, bits, line);
    if (which == REST) {
        clear_bits(bits, 0, m->prefix);
        clear_bits(bits, m->prefix + i * m->grid_w, m->prefix + (i + 1) * m->grid_w);
        return;
    }
    memset(bits, 0, vt_mask_words(m->tokens) * sizeof *bits);
    for (int y = 0, at = m->prefix + j; y < m->grid_h; y++, at += m->grid_w)
        if (line[y] && y != i)
            bits[at / 64] |= 1ull << at % 64;
}

/* The rows of a half's queries, and what some and all of them see. */
static void read_half(const sweep *s, room *r, int half, const int32_t *token, part which)
{
    uint64_t *any = r->any + (size_t)half * s->words, *all = r->all + (size_t)half * s->words;
    memset(any, 0, s->words * sizeof *any);
    memset(all, token[0] < 0 ? 0 : 0xff, s->words * sizeof *all);
    for (int q = 0; q < TILE; q++) {
        uint64_t *row = r->rows + (size_t)(half * TILE + q) * s->words;
        if (token[q] < 0) {
            memset(row, 0, s->words * sizeof *row);
            continue;
        }
        s->mask->row(s->mask, token[q], row);
        restrict_row(s, which, token[q], row, r->line);
        for (size_t w = 0; w < s->words; w++) {
            any[w] |= row[w];
            all[w] &= row[w];
        }
    }
}

/* What each half has of the keys of classes c and KINDS + c: 2 all pairs, 1 some, 0 none. In the
 * order of the list; the first KINDS classes are the group's own queries. */
static const int kind_has[KINDS][HALVES] = {{2, 2}, {2, 1}, {1, 2}, {1, 1},
                                            {2, 0}, {1, 0}, {0, 2}, {0, 1}};

static int has(int class, int half)
{
    return kind_has[class % KINDS][half];
}

static int class_of(int a, int b, bool own)
{
    static const int of[3][3] = {{-1, 7, 6}, {5, 3, 2}, {4, 1, 0}};
    return of[a][b] + (own ? 0 : KINDS);
}

/* The keys of word w that are of class c. */
static uint64_t of_class(const sweep *s, const room *r, size_t w, int c)
{
    uint64_t keys = c < KINDS ? r->own[w] : ~r->own[w];
    for (int h = 0; h < HALVES; h++) {
        uint64_t any = h < s->halves ? r->any[(size_t)h * s->words + w] : 0;
        uint64_t all = h < s->halves ? r->all[(size_t)h * s->words + w] : 0;
        keys &= has(c, h) == 2 ? all : has(c, h) == 1 ? any & ~all : ~any;
    }
    return keys;
}

static void count_classes(const sweep *s, const room *r, int count[CLASSES])
{
    memset(count, 0, CLASSES * sizeof *count);
    for (size_t w = 0; w < s->words; w++) {
        uint64_t some = r->any[w] | (s->halves > 1 ? r->any[s->words + w] : 0);
        for (int c = some & r->own[w] ? 0 : KINDS; some && c < CLASSES; c++)
            count[c] += __builtin_popcountll(of_class(s, r, w, c));
    }
}

/* What block (tile, half) is: VT_BLOCK_FULL, VT_BLOCK_EMPTY, or 0: it needs bits. */
static uint32_t kind_of(const int count[CLASSES], int tile, int half)
{
    int from = tile * TILE, begin = 0, keys = 0, full = 0, some = 0;
    for (int c = 0; c < CLASSES; begin += count[c++]) {
        int lo = begin > from ? begin : from, hi = begin + count[c];
        hi = hi < from + TILE ? hi : from + TILE;
        if (hi <= lo)
            continue;
        keys += hi - lo;
        full += has(c, half) == 2 ? hi - lo : 0;
        some += has(c, half) ? hi - lo : 0;
    }
    return some == 0 ? VT_BLOCK_EMPTY : full == TILE && keys == TILE ? VT_BLOCK_FULL : 0;
}

typedef struct {
    uint32_t columns;
    uint32_t blocks, partial; /* of 64 x 64: with a pair; and of them, not full */
} group_count;

static group_count count_group(const sweep *s, const room *r)
{
    int count[CLASSES];
    group_count g = {0, 0, 0};
    count_classes(s, r, count);
    for (int c = 0; c < CLASSES; c++)
        g.columns += (uint32_t)count[c];
    for (int t = 0; t * TILE < (int)g.columns; t++)
        for (int h = 0; h < s->halves; h++) {
            uint32_t kind = kind_of(count, t, h);
            g.blocks += kind != VT_BLOCK_EMPTY;
            g.partial += kind == 0;
        }
    return g;
}

static void mark_own(const sweep *s, room *r, const int32_t *token, part which)
{
    memset(r->own, 0, s->words * sizeof *r->own);
    if (!s->guests || (which != ALL && which != IN_ROW))
        return;
    for (int q = 0; q < s->halves * TILE; q++)
        if (token[q] >= s->mask->prefix)
            r->own[token[q] / 64] |= 1ull << token[q] % 64;
}

static group_count read_group(const sweep *s, const int32_t *token, part which)
{
    room *r = &s->room[omp_get_thread_num()];
    for (int h = 0; h < s->halves; h++)
        read_half(s, r, h, token + h * TILE, which);
    mark_own(s, r, token, which);
    return count_group(s, r);
}

/* ---- which order, which cut ---- */

/* Keys that some of the halves list, in some evenly spaced groups, scaled up to all. */
static double sample(const sweep *s, vt_query_list *q, vt_query_order how, part which)
{
    vt_query_list_fill(q, s->mask, how, false, s->halves);
    int groups = q->halves / s->halves, step = (groups + SAMPLES - 1) / SAMPLES;
    int64_t columns = 0, sampled = 0;
#pragma omp parallel for num_threads(s->threads) reduction(+ : columns, sampled)
    for (int g = step / 2; g < groups; g += step) {
        group_count c = read_group(s, q->token + (size_t)g * (size_t)s->halves * TILE, which);
        columns += (c.columns + TILE - 1) / TILE * TILE;
        sampled++;
    }
    return sampled ? (double)columns / (double)sampled * groups : 0;
}

static bool is_plane(const vt_mask *m)
{
    return m->grid_h > 1 && m->grid_w > 1;
}

static vt_query_order best_order(const sweep *s, vt_query_list *q, part which, double *columns)
{
    double natural = sample(s, q, VT_ORDER_NATURAL, which), blocks = natural;
    if (is_plane(s->mask))
        blocks = sample(s, q, VT_ORDER_BLOCKS, which);
    *columns = natural < blocks ? natural : blocks;
    return natural <= blocks ? VT_ORDER_NATURAL : VT_ORDER_BLOCKS;
}

/* Does cutting the mask into rows, columns and the rest list fewer keys? A pass costs each query
 * about as much as a tile does a group. */
static bool cut_pays(const sweep *s, vt_query_list *q)
{
    double plain, rest;
    if (!is_plane(s->mask))
        return false;
    best_order(s, q, ALL, &plain);
    double cut = sample(s, q, VT_ORDER_ROWS, IN_ROW) + sample(s, q, VT_ORDER_COLUMNS, IN_COLUMN);
    best_order(s, q, REST, &rest);
    int passes = rest > 0 ? 2 : 1;
    return cut + rest + (double)passes * s->mask->tokens < plain;
}

/* ---- passes ---- */

typedef struct {
    vt_query_list list;
    part which;
    int groups;
    group_count *count; /* [groups] */
} pass;

typedef struct {
    sweep sweep;
    int passes;
    pass pass[VT_COLUMN_PASSES + 1]; /* pass[passes], where there are guests: what is left */
} draft;

static int all_passes(const draft *d)
{
    return d->passes + (d->sweep.guests > 0);
}

static void close_draft(draft *d)
{
    for (int p = 0; p <= VT_COLUMN_PASSES; p++) {
        vt_free(d->pass[p].list.token);
        vt_free(d->pass[p].count);
    }
    close_sweep(&d->sweep);
}

/* Notes which of a group's keys stand in its own tiles. */
static void mark_served(const sweep *s, const room *r)
{
    for (size_t w = 0; w < s->words; w++) {
        uint64_t keys = r->own[w] & (r->any[w] | (s->halves > 1 ? r->any[s->words + w] : 0));
        if (keys) {
#pragma omp atomic
            s->served[w] |= keys;
        }
    }
}

/* Counts every group; those of later passes that have nothing go. */
static void count_pass(const draft *d, pass *p)
{
    const sweep *s = &d->sweep;
    size_t slots = (size_t)s->halves * TILE;
#pragma omp parallel for num_threads(s->threads) schedule(dynamic, 2)
    for (int g = 0; g < p->groups; g++) {
        p->count[g] = read_group(s, p->list.token + (size_t)g * slots, p->which);
        mark_served(s, &s->room[omp_get_thread_num()]);
    }
    if (p->which == ALL || p->which == IN_ROW || p->which == LEFT)
        return;
    int kept = 0;
    for (int g = 0; g < p->groups; g++) {
        if (!p->count[g].columns)
            continue;
        memmove(p->list.token + (size_t)kept * slots, p->list.token + (size_t)g * slots,
                slots * sizeof *p->list.token);
        p->count[kept++] = p->count[g];
    }
    p->groups = kept;
}

static int room_for_pass(draft *d, pass *p, part which, vt_status *st)
{
    size_t halves = vt_query_halves_at_most(d->sweep.mask);
    p->which = which;
    p->list.token = vt_alloc(halves, TILE * sizeof *p->list.token, "query order", st);
    p->count = vt_alloc(halves, sizeof *p->count, "query groups", st);
    return p->list.token && p->count ? 0 : -1;
}

static int draft_pass(draft *d, part which, vt_status *st)
{
    static const vt_query_order orders[] = {
        [IN_ROW] = VT_ORDER_ROWS, [IN_COLUMN] = VT_ORDER_COLUMNS};
    pass *p = &d->pass[d->passes];
    double columns;
    if (room_for_pass(d, p, which, st))
        return -1;
    vt_query_order how = which == ALL || which == REST
                             ? best_order(&d->sweep, &p->list, which, &columns)
                             : orders[which];
    vt_query_list_fill(&p->list, d->sweep.mask, how, which == ALL || which == IN_ROW,
                       d->sweep.halves);
    p->groups = p->list.halves / d->sweep.halves;
    count_pass(d, p);
    if (p->groups || d->passes == 0) {
        d->passes++;
        return 0;
    }
    vt_free(p->list.token);
    vt_free(p->count);
    *p = (pass){.groups = 0};
    return 0;
}

/* The guests' group, after all passes. */
static int draft_left(draft *d, vt_status *st)
{
    pass *p = &d->pass[d->passes];
    if (room_for_pass(d, p, LEFT, st))
        return -1;
    p->groups = 1;
    memcpy(p->list.token, d->pass[0].list.token,
           (size_t)d->sweep.halves * TILE * sizeof *p->list.token);
    count_pass(d, p);
    return 0;
}

/* The passes of a shape, counted. write: there will be a second sweep, which writes. */
static int open_draft(draft *d, const vt_mask *mask, vt_columns_shape shape, int threads,
                      bool write, vt_status *st)
{
    *d = (draft){.passes = 0};
    if (open_sweep(&d->sweep, mask, shape.rows / TILE, threads, write, st))
        return -1;
    int failed = draft_pass(d, shape.axial ? IN_ROW : ALL, st);
    if (!failed && shape.axial)
        failed = draft_pass(d, IN_COLUMN, st) || draft_pass(d, REST, st);
    if (!failed && d->sweep.guests)
        failed = draft_left(d, st);
    if (failed)
        close_draft(d);
    return failed ? -1 : 0;
}

/* ---- counting ---- */

static int64_t tiles_of(group_count g)
{
    return (g.columns + TILE - 1) / TILE;
}

static void add_up(const draft *d, vt_columns_count *out)
{
    *out = (vt_columns_count){.passes = d->passes};
    for (int p = 0; p < d->passes; p++) {
        const pass *from = &d->pass[p];
        int prefix = p ? 0 : from->list.prefix_halves / d->sweep.halves;
        out->groups += from->groups;
        out->merged += p ? from->groups : 0;
        for (int g = 0; g < from->groups; g++) {
            int64_t tiles = tiles_of(from->count[g]);
            int64_t *most = g < prefix ? &out->prefix : &out->longest[p];
            out->tiles += tiles;
            out->columns += from->count[g].columns;
            out->blocks += from->count[g].blocks;
            *most = tiles > *most ? tiles : *most;
        }
    }
    if (d->sweep.guests)
        out->spared = tiles_of(d->pass[0].count[0]) - tiles_of(d->pass[d->passes].count[0]);
}

int vt_columns_count_all(const vt_mask *mask, int threads, vt_columns_count out[VT_COLUMNS_SHAPES],
                         vt_status *st)
{
    bool cut = false;
    for (int i = 0; i < VT_COLUMNS_SHAPES; i++) {
        vt_columns_shape shape = vt_columns_shapes[i];
        draft d;
        out[i] = (vt_columns_count){.passes = 0};
        if (shape.axial && !cut)
            continue;
        if (open_draft(&d, mask, shape, threads, false, st))
            return -1;
        add_up(&d, &out[i]);
        if (i == 0)
            cut = cut_pays(&d.sweep, &d.pass[0].list);
        close_draft(&d);
    }
    return 0;
}

/* ---- writing ---- */

/* Bit k of a[q] to bit q of a[k]. */
static void transpose(uint64_t a[64])
{
    uint64_t low = 0x00000000ffffffffull;
    for (int half = 32; half; half >>= 1, low ^= low << half)
        for (int i = 0; i < 64; i = (i + half + 1) & ~half) {
            uint64_t swap = (a[i] >> half ^ a[i + half]) & low;
            a[i] ^= swap << half;
            a[i + half] ^= swap;
        }
}

/* The keys of word w into the list, unsorted. */
static uint32_t list_word(const sweep *s, room *r, size_t w, uint32_t n)
{
    uint64_t seen[HALVES][64], some = 0;
    for (int h = 0; h < s->halves; h++) {
        some |= r->any[(size_t)h * s->words + w];
        for (int q = 0; q < TILE; q++)
            seen[h][q] = r->rows[(size_t)(h * TILE + q) * s->words + w];
        transpose(seen[h]);
    }
    for (; some; some &= some - 1, n++) {
        int k = __builtin_ctzll(some), state[HALVES] = {0, 0};
        column *c = &r->columns[n];
        c->key = (int32_t)(w * 64 + (size_t)k);
        for (int h = 0; h < HALVES; h++) {
            c->seen[h] = h < s->halves ? seen[h][k] : 0;
            if (c->seen[h])
                state[h] = r->all[(size_t)h * s->words + w] >> k & 1 ? 2 : 1;
        }
        c->class = class_of(state[0], state[1], r->own[w] >> k & 1);
    }
    return n;
}

/* Word t of the block whose query q sees the keys row[q]: columns.h. */
static uint32_t fragment(const uint64_t row[TILE], int t)
{
    uint32_t word = 0;
    for (int r = 0; r < 2; r++) {
        uint64_t x = row[t / 32 * 16 + t % 32 / 4 + 8 * r] >> t % 4 * 2 & 0x0303030303030303ull;
        x = (x | x >> 4) & 0x00ff00ff00ff00ffull;
        x = (x | x >> 8) & 0x0000ffff0000ffffull;
        word |= (uint32_t)(x | x >> 16) << 2 * r;
    }
    return word;
}

static void write_bits(uint32_t to[128], uint64_t seen[TILE])
{
    transpose(seen);
    for (int t = 0; t < 128; t++)
        to[t] = fragment(seen, t);
}

/* Keys by class into their places, and the blocks of all tiles; partial blocks from index `at`. */
static void write_group(const sweep *s, room *r, vt_columns *l, int g, uint32_t at)
{
    int count[CLASSES], next[CLASSES], sum = 0;
    uint32_t n = 0, *slot = (uint32_t *)r->rows; /* the rows are read by then */
    count_classes(s, r, count);
    for (int c = 0; c < CLASSES; sum += count[c++])
        next[c] = sum;
    for (size_t w = 0; w < s->words; w++)
        if (r->any[w] | (s->halves > 1 ? r->any[s->words + w] : 0))
            n = list_word(s, r, w, n);
    for (uint32_t i = 0; i < n; i++)
        slot[next[r->columns[i].class]++] = i;
    int32_t *key = l->key + (size_t)l->start[g] * TILE;
    uint32_t tiles = l->start[g + 1] - l->start[g];
    uint32_t *block = l->block + (size_t)l->start[g] * (size_t)s->halves;
    for (uint32_t i = 0; i < tiles * TILE; i++)
        key[i] = i < n ? r->columns[slot[i]].key : -1;
    for (uint32_t t = 0; t < tiles; t++)
        for (int h = 0; h < s->halves; h++, block++) {
            *block = kind_of(count, (int)t, h);
            if (*block)
                continue;
            uint64_t seen[TILE] = {0};
            for (uint32_t i = 0; i < TILE && t * TILE + i < n; i++)
                seen[i] = r->columns[slot[t * TILE + i]].seen[h];
            write_bits(l->bits[at], seen);
            *block = at++;
        }
}

/* Which keys of a group's own tiles guests take. */
static void write_guests(const sweep *s, const room *r, vt_columns *l, int g)
{
    int count[CLASSES], own = 0;
    uint64_t(*to)[VT_COLUMN_GUESTS] = l->guest + (size_t)g * (size_t)s->halves;
    const int32_t *key = l->key + (size_t)l->start[g] * TILE;
    memset(to, 0, (size_t)s->halves * sizeof *to);
    count_classes(s, r, count);
    for (int c = 0; c < KINDS; c++)
        own += count[c];
    for (int k = 0; k < own; k++)
        for (int i = 0; i < s->guests; i++) {
            uint64_t sees = s->guest[(size_t)i * s->words + (size_t)key[k] / 64] >> key[k] % 64;
            to[k / TILE][i] |= (sees & 1) << k % TILE;
        }
}

static void write_pass(const draft *d, const pass *p, int first, vt_columns *l,
                       const uint32_t *first_bits)
{
    const sweep *s = &d->sweep;
    size_t slots = (size_t)s->halves * TILE;
#pragma omp parallel for num_threads(s->threads) schedule(dynamic, 2)
    for (int g = 0; g < p->groups; g++) {
        room *r = &s->room[omp_get_thread_num()];
        read_group(s, p->list.token + (size_t)g * slots, p->which);
        write_group(s, r, l, first + g, first_bits[first + g]);
        if (s->guests && first + g < l->pass[1])
            write_guests(s, r, l, first + g);
    }
}

/* ---- equal blocks ---- */

static uint64_t hash_block(const uint32_t *words)
{
    uint64_t hash = 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 128; i++)
        hash = (hash ^ words[i]) * 0xff51afd7ed558ccdull;
    return hash ^ hash >> 29;
}

static int all_groups(const vt_columns *l)
{
    return l->groups + (l->guests > 0);
}

/* Keeps one of each in l->bits and has l->block name it. */
static int merge_blocks(vt_columns *l, size_t blocks, vt_status *st)
{
    size_t places = 16, kept = 0,
           count = (size_t)l->start[all_groups(l)] * (size_t)l->shape.rows / TILE;
    while (places < 2 * blocks)
        places *= 2;
    uint32_t *table = vt_alloc(places, sizeof *table, "mask blocks", st); /* 1 + index */
    if (!table)
        return -1;
    for (size_t i = 0; i < count; i++) {
        uint32_t *block = &l->block[i];
        if (*block >= VT_BLOCK_EMPTY)
            continue;
        size_t at = hash_block(l->bits[*block]) & (places - 1);
        while (table[at] && memcmp(l->bits[table[at] - 1], l->bits[*block], sizeof *l->bits) != 0)
            at = (at + 1) & (places - 1);
        if (!table[at]) {
            memmove(l->bits[kept], l->bits[*block], sizeof *l->bits);
            table[at] = (uint32_t)++kept;
        }
        *block = table[at] - 1;
    }
    vt_free(table);
    l->blocks = kept;
    return 0;
}

/* Into memory of their size, where that saves much. */
static void shrink_bits(vt_columns *l, size_t blocks)
{
    vt_status ignored;
    if (l->blocks > blocks / 4 * 3)
        return;
    uint32_t(*bits)[128] = vt_alloc(l->blocks, sizeof *bits, "mask bits", &ignored);
    if (!bits)
        return;
    memcpy(bits, l->bits, l->blocks * sizeof *bits);
    vt_free(l->bits);
    l->bits = bits;
}

/* ---- the layout ---- */

/* Copies queries and adds up tiles; first_bits[g] = the first partial block of group g. */
static int place_groups(vt_columns *l, const draft *d, uint32_t *first_bits, size_t *blocks,
                        vt_status *st)
{
    uint64_t tiles = 0, partial = 0;
    size_t slots = (size_t)l->shape.rows;
    for (int p = 0, g = 0; p < all_passes(d); p++) {
        const pass *from = &d->pass[p];
        if (p < d->passes)
            l->pass[p] = g;
        memcpy(l->query + (size_t)g * slots, from->list.token,
               (size_t)from->groups * slots * sizeof *l->query);
        for (int i = 0; i < from->groups; i++, g++) {
            l->columns[g] = from->count[i].columns;
            l->start[g] = (uint32_t)tiles;
            first_bits[g] = (uint32_t)partial;
            tiles += (from->count[i].columns + TILE - 1) / TILE;
            partial += from->count[i].partial;
        }
    }
    for (int p = d->passes; p <= VT_COLUMN_PASSES; p++)
        l->pass[p] = l->groups;
    l->start[all_groups(l)] = (uint32_t)tiles;
    *blocks = (size_t)partial;
    if (tiles <= INT32_MAX / TILE && partial < INT32_MAX)
        return 0;
    return vt_fail(st, VT_MACHINE, "columns: more than 2^31 - 1 listed keys (%d tokens)",
                   l->tokens);
}

static int fill(vt_columns *l, const draft *d, uint32_t *first_bits, vt_status *st)
{
    size_t halves = (size_t)l->shape.rows / TILE, blocks;
    if (place_groups(l, d, first_bits, &blocks, st))
        return -1;
    size_t tiles = l->start[all_groups(l)], groups = (size_t)all_groups(l);
    size_t own = l->guests ? (size_t)l->pass[1] * halves : 0;
    l->guest = vt_alloc(own, sizeof *l->guest, "mask guests", st);
    l->key = vt_alloc(tiles, TILE * sizeof *l->key, "listed keys", st);
    l->block = l->key ? vt_alloc(tiles, halves * sizeof *l->block, "mask blocks", st) : NULL;
    l->bits = l->block ? vt_alloc(blocks, sizeof *l->bits, "mask bits", st) : NULL;
    if (!l->bits || !l->guest)
        return -1;
    for (int p = 0; p < all_passes(d); p++)
        write_pass(d, &d->pass[p], p < d->passes ? l->pass[p] : l->groups, l, first_bits);
    if (merge_blocks(l, blocks, st))
        return -1;
    shrink_bits(l, blocks);
    l->bytes = sizeof *l + groups * ((size_t)l->shape.rows * sizeof *l->query + 8) +
               tiles * (TILE * sizeof *l->key + halves * sizeof *l->block) +
               l->blocks * sizeof *l->bits + own * sizeof *l->guest;
    return 0;
}

vt_columns *vt_columns_build(const vt_mask *mask, vt_columns_shape shape, int threads,
                             vt_status *st)
{
    draft d;
    if (open_draft(&d, mask, shape, threads, true, st))
        return NULL;
    vt_columns *l = vt_alloc(1, sizeof *l, "columns", st);
    uint32_t *first_bits = NULL;
    bool ok = false;
    if (l) {
        *l = (vt_columns){.tokens = mask->tokens, .shape = shape, .passes = d.passes};
        l->guests = d.sweep.guests;
        for (int p = 0; p < d.passes; p++)
            l->groups += d.pass[p].groups;
        size_t groups = (size_t)all_groups(l);
        l->query = vt_alloc(groups, (size_t)shape.rows * sizeof *l->query, "query order", st);
        l->columns = l->query ? vt_alloc(groups, sizeof *l->columns, "query groups", st) : NULL;
        l->start = l->columns ? vt_alloc(groups + 1, sizeof *l->start, "query groups", st) : NULL;
        first_bits = l->start ? vt_alloc(groups, sizeof *first_bits, "query groups", st) : NULL;
        ok = first_bits && !fill(l, &d, first_bits, st);
    }
    vt_free(first_bits);
    close_draft(&d);
    if (!ok) {
        vt_columns_free(l);
        l = NULL;
    }
    return l;
}

void vt_columns_free(vt_columns *l)
{
    if (l) {
        vt_free(l->query);
        vt_free(l->columns);
        vt_free(l->start);
        vt_free(l->key);
        vt_free(l->block);
        vt_free(l->bits);
        vt_free(l->guest);
    }
    vt_free(l);
}
