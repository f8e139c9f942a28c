/* Row functions of patterns: for patch t = (i, j), the patches (i', j') that it sees, as ranges of
 * bits; and the composition of a pattern with the prefix tokens into a mask.
 *
 * Row functions OR into a span that the caller has cleared, so a union needs no memory. `&` and `~`
 * keep one or two spans on the stack; vt_pattern_combine bounds how deep they nest. Nothing here
 * allocates or fails.
 */
#include "engine/masks/pattern.h"

#include <string.h>

/* Bits [from, to), as far as they lie in the span. */
static void set_range(vt_span s, int from, int to)
{
    from = (from > s.first ? from : s.first) - s.first;
    to = (to < s.end ? to : s.end) - s.first;
    if (from >= to)
        return;
    int w = from / 64, last = (to - 1) / 64;
    uint64_t head = UINT64_MAX << from % 64, tail = UINT64_MAX >> (63 - (to - 1) % 64);
    if (w == last) {
        s.bits[w] |= head & tail;
        return;
    }
    s.bits[w++] |= head;
    while (w < last)
        s.bits[w++] = UINT64_MAX;
    s.bits[last] |= tail;
}

/* Bits from, from + step ... below to. */
static void set_every(vt_span s, int from, int to, int step)
{
    int64_t b = from;
    if (b < s.first)
        b += (s.first - b + step - 1) / step * step;
    for (; b < to && b < s.end; b += step)
        s.bits[(b - s.first) / 64] |= (uint64_t)1 << b % 64;
}

static void clear_span(vt_span s)
{
    memset(s.bits, 0, vt_mask_words(s.end - s.first) * sizeof *s.bits);
}

void vt_row_all(const vt_pattern *p, int t, vt_span s)
{
    (void)t;
    set_range(s, 0, p->size);
}

/* ---- on the grid ---- */

/* |j - j'| <= half[|i - i'|]; a negative half: nothing. All balls, bands and crosses. */
void vt_row_ball(const vt_pattern *p, int t, vt_span s)
{
    int i = t / p->grid_w, j = t % p->grid_w;
    for (int y = s.first / p->grid_w; y < p->grid_h && y * p->grid_w < s.end; y++) {
        int half = p->half[y < i ? i - y : y - i];
        if (half < 0)
            continue;
        int left = j > half ? j - half : 0;
        int right = half < p->grid_w - 1 - j ? j + half : p->grid_w - 1;
        set_range(s, y * p->grid_w + left, y * p->grid_w + right + 1);
    }
}

/* The range [from, to) of the window of side `window` that holds x, windows starting at -shift. */
static void window_of(int x, int window, int shift, int size, int *from, int *to)
{
    int64_t start = ((int64_t)x + shift) / window * window - shift;
    *from = start > 0 ? (int)start : 0;
    *to = start + window < size ? (int)(start + window) : size;
}

/* window, shift in [0, window): floor((x + shift) / window) is equal for both coordinates. */
void vt_row_swin(const vt_pattern *p, int t, vt_span s)
{
    int top, bottom, left, right;
    window_of(t / p->grid_w, p->window, p->shift, p->grid_h, &top, &bottom);
    window_of(t % p->grid_w, p->window, p->shift, p->grid_w, &left, &right);
    for (int y = top; y < bottom; y++)
        set_range(s, y * p->grid_w + left, y * p->grid_w + right);
}

/* window = k: both coordinates equal modulo k. */
void vt_row_dilated(const vt_pattern *p, int t, vt_span s)
{
    int i = t / p->grid_w, j = t % p->grid_w;
    for (int64_t y = i % p->window; y < p->grid_h; y += p->window)
        set_every(s, (int)y * p->grid_w + j % p->window, ((int)y + 1) * p->grid_w, p->window);
}

/* ---- on the sequence ---- */

/* |t - t'| <= window. */
void vt_row_local_1d(const vt_pattern *p, int t, vt_span s)
{
    int from = t > p->window ? t - p->window : 0;
    int to = p->window < p->size - t ? t + p->window + 1 : p->size;
    set_range(s, from, to);
}

void vt_row_causal_1d(const vt_pattern *p, int t, vt_span s)
{
    (void)p;
    set_range(s, 0, t + 1);
}

/* window = stride. */
void vt_row_strided_1d(const vt_pattern *p, int t, vt_span s)
{
    set_every(s, t % p->window, p->size, p->window);
}

static void or_words(const uint64_t *row, vt_span s)
{
    const uint64_t *from = row + s.first / 64;
    size_t n = vt_mask_words(s.end - s.first);
    for (size_t w = 0; w < n; w++)
        s.bits[w] |= from[w];
}

/* bits: one row, the set of global tokens. */
void vt_row_global(const vt_pattern *p, int t, vt_span s)
{
    if (p->bits[t / 64] >> t % 64 & 1)
        vt_row_all(p, t, s);
    else
        or_words(p->bits, s);
}

/* bits: all rows. */
void vt_row_bits(const vt_pattern *p, int t, vt_span s)
{
    or_words(p->bits + (size_t)t * p->words, s);
}

/* ---- blocks of `block` patches in sequence; block row r = t / block, block column c ---- */

/* Block columns [from, to). */
static void set_blocks(const vt_pattern *p, vt_span s, int from, int to)
{
    int64_t end = (int64_t)to * p->block;
    if (from < to)
        set_range(s, from * p->block, end < p->size ? (int)end : p->size);
}

/* bits: blocks rows of `words` words. */
void vt_row_blocks(const vt_pattern *p, int t, vt_span s)
{
    const uint64_t *row = p->bits + (size_t)(t / p->block) * p->words;
    for (int c = 0; c < p->blocks; c++)
        if (row[c / 64] >> c % 64 & 1)
            set_blocks(p, s, c, c + 1);
}

/* |r - c| <= 1 or r = 0 or c = 0. */
void vt_row_longformer(const vt_pattern *p, int t, vt_span s)
{
    int r = t / p->block;
    if (r == 0) {
        vt_row_all(p, t, s);
        return;
    }
    set_blocks(p, s, 0, 1);
    set_blocks(p, s, r - 1, r + 2 < p->blocks ? r + 2 : p->blocks);
}

/* The i-th of the numbers 0 .. n-1 in an order drawn by `key`: a Feistel network over the next
 * even power of two, walked until it lands below n. A bijection, so i = 0, 1 ... never repeat. */
static int shuffled(int i, int n, uint64_t key)
{
    int half = 1;
    while ((int64_t)1 << 2 * half < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t left = x >> half, right = x & mask;
            x = right << half | (left ^ (vt_random_mix(key ^ round << 56 ^ right) & mask));
        }
    } while (x >= (uint64_t)n);
    return (int)x;
}

/* longformer or one of random_blocks distinct block columns, drawn for each r by `seed`. */
void vt_row_bigbird(const vt_pattern *p, int t, vt_span s)
{
    int r = t / p->block;
    uint64_t key = vt_random_key(p->seed, (uint64_t)r);
    vt_row_longformer(p, t, s);
    for (int i = 0; i < p->random_blocks && r > 0; i++) {
        int c = shuffled(i, p->blocks, key);
        set_blocks(p, s, c, c + 1);
    }
}

static void set_window_blocks(const vt_pattern *p, int r, vt_span s)
{
    int64_t from = r / p->window * (int64_t)p->window, to = from + p->window;
    set_blocks(p, s, (int)from, to < p->blocks ? (int)to : p->blocks);
}

/* r div window = c div window or c mod window = window - 1. */
void vt_row_fixed(const vt_pattern *p, int t, vt_span s)
{
    set_window_blocks(p, t / p->block, s);
    for (int64_t c = (int64_t)p->window - 1; c < p->blocks; c += p->window)
        set_blocks(p, s, (int)c, (int)c + 1);
}

/* r div window = c div window or c = 0. */
void vt_row_variable(const vt_pattern *p, int t, vt_span s)
{
    set_window_blocks(p, t / p->block, s);
    set_blocks(p, s, 0, 1);
}

/* ---- operators ---- */

void vt_row_or(const vt_pattern *p, int t, vt_span s)
{
    for (int c = 0; c < p->children; c++)
        p->child[c]->row(p->child[c], t, s);
}

void vt_row_and(const vt_pattern *p, int t, vt_span s)
{
    uint64_t all[VT_SPAN_WORDS], one[VT_SPAN_WORDS];
    vt_span first = {all, s.first, s.end}, next = {one, s.first, s.end};
    size_t n = vt_mask_words(s.end - s.first);
    clear_span(first);
    p->child[0]->row(p->child[0], t, first);
    for (int c = 1; c < p->children; c++) {
        clear_span(next);
        p->child[c]->row(p->child[c], t, next);
        for (size_t w = 0; w < n; w++)
            all[w] &= one[w];
    }
    for (size_t w = 0; w < n; w++)
        s.bits[w] |= all[w];
}

void vt_row_not(const vt_pattern *p, int t, vt_span s)
{
    uint64_t off[VT_SPAN_WORDS];
    vt_span inner = {off, s.first, s.end};
    size_t n = vt_mask_words(s.end - s.first);
    clear_span(inner);
    p->child[0]->row(p->child[0], t, inner);
    if ((s.end - s.first) % 64)
        off[n - 1] |= UINT64_MAX << (s.end - s.first) % 64;
    for (size_t w = 0; w < n; w++)
        s.bits[w] |= ~off[w];
}

/* ---- masks ---- */

typedef struct {
    vt_mask mask;
    const vt_pattern *pattern;
    vt_prefix_policy policy;
} composed;

/* ORs the span into `bits`, moved up by `by`. */
static void or_shifted(uint64_t *bits, vt_span s, int by)
{
    size_t n = vt_mask_words(s.end - s.first);
    int shift = (s.first + by) % 64;
    bits += (s.first + by) / 64;
    if (shift == 0) {
        for (size_t w = 0; w < n; w++)
            bits[w] |= s.bits[w];
        return;
    }
    bits[0] |= s.bits[0] << shift;
    for (size_t w = 1; w < n; w++)
        bits[w] |= s.bits[w] << shift | s.bits[w - 1] >> (64 - shift);
    if (s.bits[n - 1] >> (64 - shift)) /* else the row may end here */
        bits[n] |= s.bits[n - 1] >> (64 - shift);
}

static void or_pattern_row(const vt_pattern *p, int t, uint64_t *bits, int by)
{
    uint64_t room[VT_SPAN_WORDS];
    for (int first = 0; first < p->size; first += VT_SPAN_WORDS * 64) {
        bool last = p->size - first <= VT_SPAN_WORDS * 64;
        vt_span s = {room, first, last ? p->size : first + VT_SPAN_WORDS * 64};
        clear_span(s);
        p->row(p, t, s);
        or_shifted(bits, s, by);
        if (last)
            break;
    }
}

static void composed_row(const vt_mask *mask, int query, uint64_t *bits)
{
    const composed *c = (const composed *)mask;
    vt_span row = {bits, 0, mask->tokens};
    clear_span(row);
    if (c->pattern->whole) {
        or_pattern_row(c->pattern, query, bits, 0);
        return;
    }
    bool is_prefix = query < mask->prefix;
    bool others = c->policy == VT_PREFIX_FULL ||
                  c->policy == (is_prefix ? VT_PREFIX_ROWS : VT_PREFIX_COLUMNS);
    if (is_prefix || others)
        set_range(row, 0, mask->prefix);
    if (!is_prefix)
        or_pattern_row(c->pattern, query - mask->prefix, bits, mask->prefix);
    else if (others)
        set_range(row, mask->prefix, mask->tokens);
}

static void composed_destroy(vt_mask *mask)
{
    vt_free(mask);
}

vt_mask *vt_mask_compose(const vt_pattern *p, int prefix, vt_prefix_policy policy, vt_status *st)
{
    composed *c = vt_alloc(1, sizeof *c, "mask", st);
    if (!c)
        return NULL;
    c->mask = (vt_mask){
        .tokens = p->whole ? p->size : prefix + p->size,
        .prefix = prefix,
        .grid_h = p->grid_h,
        .grid_w = p->grid_w,
        .row = composed_row,
        .destroy = composed_destroy,
    };
    c->pattern = p;
    c->policy = policy;
    return &c->mask;
}
