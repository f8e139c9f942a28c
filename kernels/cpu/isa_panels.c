/* `dense` and `tiles`: one routine that walks a list of panels of 16 keys for some query rows.
 *
 * Layout in scratch, for one head of one image:
 *   K  [groups][head_dim][16]           a panel is a group of 16 key slots, transposed
 *   V  [blocks][groups * 16][width]     columns in blocks of two vectors (the last may be one)
 *   Q  [head_dim][rows]                 query rows taken together: 16 slots' (tiles), 24 (dense)
 *   S  [rows][128], O [rows][padded]    scores of 8 panels; the output so far
 * with Q and O for a few blocks of queries, which dense takes together (VT_QUERY_BLOCKS). Slots
 * follow the tile layout's token order (tiles) or the natural one (dense). Padding slots are zeros
 * in K and V and masked in S; rows that are padding are not computed at all.
 *
 * Q is scaled by scale log2 e when it is packed. For each block of 8 panels: S = Q K^T in register
 * tiles of some rows x 2 vectors, the bias, the mask (-inf), the row maximum, P = 2^(S - max),
 * O = O 2^(old max - max) + P V. Where a query is so short that, with the longest key, no score of
 * its row is far from 0 (NEAR), 0 takes the place of the maximum. The result of a row does not
 * depend on which thread computes it, or on which rows are taken with it. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

enum {
    COLS = VT_KEY_BLOCK * VT_TILE, /* of S */
    PAIR = 2 * VL,                 /* columns of a register tile */
#if defined(__AVX512F__) || defined(__aarch64__)
    ROWS = 8, /* 8 x 2 accumulators of 32 registers */
#else
    ROWS = 6, /* 6 x 2 of 16 */
#endif
    QUERIES = VT_QUERY_ROWS,
    SLOTS = (QUERIES + VL - 1) / VL * VL,
    /* |log2| of a weight whose row needs no maximum: times tokens and values it stays finite */
    NEAR = 64
};

typedef struct {
    const vt_attn_item *it;
    int groups, dims; /* key groups; head_dim rounded up to whole vectors */
    int step;         /* query rows taken together, the length of a row of Q */
    float scale;      /* of scores, times log2(e): the exponential is a power of 2 */
    float longest;    /* the greatest squared length of a key */
    float *k, *v, *s;
    uint16_t *valid; /* [groups] bit j: key slot j is a token */
} work;

/* Query rows in progress: those of some slots that are tokens, moved together. */
typedef struct {
    int rows;
    int token[QUERIES], slot[QUERIES]; /* of each row: its token; its slot of 16 */
    float *q, *o;
    bool near;                                    /* all rows are: their maxima stay 0 */
    float max[SLOTS], limit[SLOTS], decay[SLOTS]; /* limit: of max */
    float sum[QUERIES * VL];                      /* a row's in VL parts */
} queries;

/* A block of panels: which, and the mask of those that need one. */
typedef struct {
    int count, keys; /* keys: slots up to the last that may be a token */
    uint32_t group[VT_KEY_BLOCK];
    bool masked[VT_KEY_BLOCK];
    uint16_t mask[VT_KEY_BLOCK][QUERIES]; /* [panel][row] */
} block;

/* ---- packing ---- */

/* to [head_dim][stride] = factor * transpose of `count` tokens' rows, in fours; absent tokens are
 * 0. */
VT_INLINE void transpose_tokens(float *to, int stride, float factor, const vt_attn_item *it,
                                const void *base, const int *token, int count, vt_dtype type)
{
    int d = it->head_dim;
    for (int j = 0; j < count; j += 4, to += 4) {
        size_t at[4];
        bool all = true;
        for (int l = 0; l < 4; l++) {
            all = all && token[j + l] >= 0;
            at[l] = token[j + l] >= 0 ? (size_t)token[j + l] * it->step : 0;
        }
        int i = 0;
        for (; all && i + 4 <= d; i += 4) {
            v4 a = v4_get(base, type, at[0] + (size_t)i) * factor;
            v4 b = v4_get(base, type, at[1] + (size_t)i) * factor;
            v4 c = v4_get(base, type, at[2] + (size_t)i) * factor;
            v4 e = v4_get(base, type, at[3] + (size_t)i) * factor;
            v4 ab0 = V4_PICK(a, b, 0, 4, 1, 5), ab1 = V4_PICK(a, b, 2, 6, 3, 7);
            v4 ce0 = V4_PICK(c, e, 0, 4, 1, 5), ce1 = V4_PICK(c, e, 2, 6, 3, 7);
            v4_store(to + i * stride, V4_PICK(ab0, ce0, 0, 1, 4, 5));
            v4_store(to + (i + 1) * stride, V4_PICK(ab0, ce0, 2, 3, 6, 7));
            v4_store(to + (i + 2) * stride, V4_PICK(ab1, ce1, 0, 1, 4, 5));
            v4_store(to + (i + 3) * stride, V4_PICK(ab1, ce1, 2, 3, 6, 7));
        }
        for (; i < d; i++)
            for (int l = 0; l < 4; l++)
                to[i * stride + l] =
                    token[j + l] < 0 ? 0 : get1(base, type, (long)at[l] + i) * factor;
    }
}

/* Column block b of V begins at column b * PAIR and has this many columns. */
VT_INLINE int block_width(int dims, int b)
{
    return dims - b * PAIR < PAIR ? VL : PAIR;
}

VT_INLINE float *block_base(const work *w, int b)
{
    return w->v + (size_t)b * PAIR * (size_t)w->groups * VT_TILE;
}

VT_INLINE void pack_value(const work *w, size_t slot, int token, vt_dtype type)
{
    const vt_attn_item *it = w->it;
    int d = it->head_dim;
    const char *row = (const char *)it->v;
    if (token >= 0)
        row += (size_t)token * it->step * vt_dtype_bytes(type);
    for (int c = 0; c < w->dims; c += VL) {
        int b = c / PAIR;
        float *to = block_base(w, b) + slot * (size_t)block_width(w->dims, b) + c % PAIR;
        if (token >= 0 && c + VL <= d)
            v_store(to, v_get(row, type, c));
        else
            for (int i = 0; i < VL; i++)
                to[i] = token >= 0 && c + i < d ? get1(row, type, c + i) : 0;
    }
}

/* The token of a slot; negative: padding. */
VT_INLINE int token_of(const vt_attn_item *it, int slot)
{
    if (it->group->kernel == VT_ATTN_TILES)
        return it->group->tiles->token[slot];
    return slot < it->tokens ? slot : -1;
}

VT_INLINE void tokens_of_group(const vt_attn_item *it, int group, int *token)
{
    for (int j = 0; j < VT_TILE; j++)
        token[j] = token_of(it, group * VT_TILE + j);
}

/* Rows of tokens lie far apart in qkv, where the machine's own prefetcher does not follow. */
static void fetch_group(const work *w, int group)
{
    const vt_attn_item *it = w->it;
    size_t size = vt_dtype_bytes(it->type), bytes = (size_t)it->head_dim * size;
    int token[VT_TILE];
    if (group >= w->groups)
        return;
    tokens_of_group(it, group, token);
    for (int j = 0; j < VT_TILE; j++)
        for (size_t b = 0; token[j] >= 0 && b < bytes; b += 64) {
            size_t at = (size_t)token[j] * it->step * size + b;
            __builtin_prefetch((const char *)it->k + at);
            __builtin_prefetch((const char *)it->v + at);
        }
}

VT_INLINE void pack_group(work *w, int group, vt_dtype type)
{
    const vt_attn_item *it = w->it;
    int token[VT_TILE];
    fetch_group(w, group + 1);
    tokens_of_group(it, group, token);
    float *k = w->k + (size_t)group * VT_TILE * (size_t)it->head_dim;
    transpose_tokens(k, VT_TILE, 1, it, it->k, token, VT_TILE, type);
    w->valid[group] = 0;
    for (int j = 0; j < VT_TILE; j++) {
        w->valid[group] |= (uint16_t)((token[j] >= 0) << j);
        pack_value(w, (size_t)group * VT_TILE + (size_t)j, token[j], type);
    }
}

static void pack(work *w)
{
    if (w->it->type == VT_F32)
        for (int g = 0; g < w->groups; g++)
            pack_group(w, g, VT_F32);
    else
        for (int g = 0; g < w->groups; g++)
            pack_group(w, g, VT_BF16);
}

/* Of the keys, all of them: lengths are squared, sums over head_dim. */
static float longest_key(const work *w)
{
    vf most = {0};
    for (int g = 0; g < w->groups; g++)
        for (int c = 0; c < VT_TILE; c += VL) {
            const float *k = w->k + (size_t)g * VT_TILE * (size_t)w->it->head_dim + c;
            vf square = {0};
            for (int i = 0; i < w->it->head_dim; i++, k += VT_TILE)
                square += v_load(k) * v_load(k);
            most = v_max(square, most);
        }
    return v_max_all(most);
}

/* Which rows have all their scores near 0: |q k| <= |q| |k|. What is read beyond the rows, even
 * beyond a row of Q, says nothing. */
static void find_near(const work *w, queries *y)
{
    vf sum[SLOTS / VL] = {{0}};
    int d = w->it->head_dim, i = d % 2;
    for (int c = 0; i && c < SLOTS / VL; c++)
        sum[c] = v_load(y->q + c * VL) * v_load(y->q + c * VL);
    for (; i < d; i += 2) /* in twos, which wait for the sum before only once */
        V_UNROLL
    for (int c = 0; c < SLOTS / VL; c++) {
        vf a = v_load(y->q + i * w->step + c * VL), b = v_load(y->q + (i + 1) * w->step + c * VL);
        sum[c] += a * a + b * b;
    }
    for (int c = 0; c < SLOTS / VL; c++) {
        vi near = sum[c] * w->longest <= v_splat(w->it->bias ? -1 : NEAR * NEAR);
        v_store(y->max + c * VL, v_select(near, (vf){0}, v_splat(-INFINITY)));
        v_store(y->limit + c * VL, v_select(near, (vf){0}, v_splat(INFINITY)));
    }
    y->near = true;
    for (int r = 0; r < y->rows; r++)
        y->near = y->near && y->max[r] == 0;
}

/* The rows of slots first .. last. */
static void load_queries(const work *w, queries *y, int first, int last)
{
    const vt_attn_item *it = w->it;
    y->rows = 0;
    for (int slot = first; slot < last; slot++)
        if (token_of(it, slot) >= 0) {
            y->token[y->rows] = token_of(it, slot);
            y->slot[y->rows++] = slot % VT_TILE;
        }
    for (int r = y->rows; r < QUERIES; r++)
        y->token[r] = -1;
    if (it->type == VT_F32)
        transpose_tokens(y->q, w->step, w->scale, it, it->q, y->token, y->rows, VT_F32);
    else
        transpose_tokens(y->q, w->step, w->scale, it, it->q, y->token, y->rows, VT_BF16);
    for (int r = 0; r < SLOTS; r++)
        y->decay[r] = 1;
    find_near(w, y);
    memset(y->sum, 0, sizeof y->sum);
    memset(y->o, 0, (size_t)y->rows * (size_t)w->dims * sizeof *y->o);
}

/* ---- register tiles ---- */

/* s [rows][COLS] = Q K^T for `rows` rows and `vectors` (1 or 2) vectors of keys at k0 and k1, both
 * with rows of 16 floats; Q has rows of `step`. rows and vectors are constants where this is
 * inlined. */
VT_INLINE void score_tile(int rows, int vectors, const float *q, int step, const float *k0,
                          const float *k1, int d, float *s0, float *s1)
{
    vf a[ROWS], b[ROWS];
    V_UNROLL
    for (int r = 0; r < rows; r++)
        a[r] = b[r] = (vf){0};
    V_UNROLL_4
    for (int i = 0; i < d; i++, q += step, k0 += VT_TILE, k1 += VT_TILE) {
        vf x = v_load(k0), y = x;
        if (vectors == 2)
            y = v_load(k1);
        V_UNROLL
        for (int r = 0; r < rows; r++) {
            vf f = v_splat(q[r]);
            a[r] += f * x;
            if (vectors == 2)
                b[r] += f * y;
        }
    }
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        v_store(s0 + r * COLS, a[r]);
        if (vectors == 2)
            v_store(s1 + r * COLS, b[r]);
    }
}

/* o [rows][stride] = o * decay + P V for `rows` rows and `vectors` vectors of columns; V is
 * [keys][vectors * VL] in each panel. */
VT_INLINE void product_tile(int rows, int vectors, const float *p, const float *v, const block *bl,
                            float *o, size_t stride, const float *decay)
{
    vf a[ROWS], b[ROWS];
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        vf f = v_splat(decay[r]);
        a[r] = v_load(o + (size_t)r * stride) * f;
        b[r] = vectors == 2 ? v_load(o + (size_t)r * stride + VL) * f : f;
    }
    for (int n = 0, left = bl->keys; n < bl->count; n++, p += VT_TILE, left -= VT_TILE) {
        const float *panel = v + (size_t)bl->group[n] * VT_TILE * (size_t)vectors * VL;
        int end = left < VT_TILE ? left : VT_TILE;
        V_UNROLL_4
        for (int k = 0; k < end; k++, panel += vectors * VL) {
            vf x = v_load(panel), y = x;
            if (vectors == 2)
                y = v_load(panel + VL);
            V_UNROLL
            for (int r = 0; r < rows; r++) {
                vf f = v_splat(p[r * COLS + k]);
                a[r] += f * x;
                if (vectors == 2)
                    b[r] += f * y;
            }
        }
    }
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        v_store(o + (size_t)r * stride, a[r]);
        if (vectors == 2)
            v_store(o + (size_t)r * stride + VL, b[r]);
    }
}

/* Expands to calls of TILE(rows) with a constant: whole tiles with NEXT after each, then a last one
 * of what is left of `rows`. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define MORE_ROWS(TILE)                                                                            \
    case 6:                                                                                        \
        TILE(6);                                                                                   \
        break;                                                                                     \
    case 7:                                                                                        \
        TILE(7);                                                                                   \
        break;
#else
#define MORE_ROWS(TILE)
#endif
#define FOR_ROWS(rows, TILE, NEXT)                                                                 \
    for (; rows >= ROWS; rows -= ROWS, NEXT)                                                       \
        TILE(ROWS);                                                                                \
    switch (rows) {                                                                                \
    case 1:                                                                                        \
        TILE(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        TILE(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        TILE(3);                                                                                   \
        break;                                                                                     \
    case 4:                                                                                        \
        TILE(4);                                                                                   \
        break;                                                                                     \
    case 5:                                                                                        \
        TILE(5);                                                                                   \
        break;                                                                                     \
        MORE_ROWS(TILE)                                                                            \
    }

/* The tiles of all rows. */
static void score_rows(int rows, int vectors, const float *q, int step, const float *k0,
                       const float *k1, int d, float *s)
{
#define PAIR_OF(n) score_tile(n, 2, q, step, k0, k1, d, s, s + VL)
#define ONE_OF(n)  score_tile(n, 1, q, step, k0, k1, d, s, s + VL)
#define NEXT       q += ROWS, s += ROWS * COLS
    if (vectors == 2) {
        FOR_ROWS(rows, PAIR_OF, NEXT)
    } else {
        FOR_ROWS(rows, ONE_OF, NEXT)
    }
#undef PAIR_OF
#undef ONE_OF
#undef NEXT
}

static void product_rows(int rows, int vectors, const float *p, const float *v, const block *bl,
                         float *o, size_t stride, const float *decay)
{
#define PAIR_OF(n) product_tile(n, 2, p, v, bl, o, stride, decay)
#define ONE_OF(n)  product_tile(n, 1, p, v, bl, o, stride, decay)
#define NEXT       p += ROWS * COLS, o += ROWS * stride, decay += ROWS
    if (vectors == 2) {
        FOR_ROWS(rows, PAIR_OF, NEXT)
    } else {
        FOR_ROWS(rows, ONE_OF, NEXT)
    }
#undef PAIR_OF
#undef ONE_OF
#undef NEXT
}

/* ---- a block of panels ---- */

/* Columns c .. c + PAIR of S: within one panel, or, where a vector is a whole panel, two panels. */
static void scores(const work *w, const queries *y, const block *bl, int cols)
{
    int d = w->it->head_dim;
    for (int c = 0; c < cols; c += PAIR) {
        const float *key[2];
        int vectors = c + VL < cols ? 2 : 1;
        for (int h = 0; h < vectors; h++) {
            int col = c + h * VL;
            size_t panel = bl->group[col / VT_TILE];
            key[h] = w->k + panel * VT_TILE * (size_t)d + col % VT_TILE;
        }
        score_rows(y->rows, vectors, y->q, w->step, key[0], key[vectors - 1], d, w->s + c);
    }
}

/* -inf where the row's bit for a key is not set. */
static void apply_mask(float *s, uint16_t bits)
{
    vi lane_bit, all = v_splat_i(bits);
    for (int c = 0; c < VT_TILE; c += VL) {
        for (int i = 0; i < VL; i++)
            lane_bit[i] = 1 << (c + i);
        v_store(s + c, v_select((all & lane_bit) != 0, v_load(s + c), v_splat(-INFINITY)));
    }
}

/* The greatest score of each row of S in this block; VL rows at a time, any rows after the last. */
static void row_maxima(const work *w, const queries *y, int cols, float *top)
{
    for (int r0 = 0; r0 < y->rows; r0 += VL) {
        const float *s = w->s + r0 * COLS;
        vf a[VL];
        V_UNROLL
        for (int r = 0; r < VL; r++)
            a[r] = v_load(s + r * COLS);
        for (int c = VL; c < cols; c += VL)
            V_UNROLL
        for (int r = 0; r < VL; r++)
            a[r] = v_max(v_load(s + r * COLS + c), a[r]);
        v_store(top + r0, v_reduce_each(a, false));
    }
}

/* What was summed under an older maximum decays. While a row has seen no key at all its maximum is
 * taken as 0: weights are 2^-inf, that is 0, and nothing is ever infinity - infinity. */
static void move_maxima(const work *w, queries *y, int cols, float *base)
{
    float top[SLOTS];
    row_maxima(w, y, cols, top);
    for (int r = 0; r < y->rows; r += VL) {
        vf old = v_load(y->max + r), limit = v_load(y->limit + r);
        vf max = v_min(v_max(v_load(top + r), old), limit);
        vf from = v_select(max == v_splat(-INFINITY), (vf){0}, max);
        v_store(y->max + r, max);
        v_store(base + r, from);
        v_store(y->decay + r, v_exp2(old - from));
    }
}

/* n vectors (a constant) of scores become weights; the result is `sum` and them. near: all scores
 * are, and the maximum is 0. */
VT_INLINE vf weights(float *s, int n, vf max, bool near, vf sum)
{
    vf p[V_EXP2];
    V_UNROLL
    for (int i = 0; i < n; i++)
        p[i] = near ? v_load(s + i * VL) : v_load(s + i * VL) - max;
    if (near)
        v_exp2_within(p, n);
    else
        v_exp2_each(p, n);
    V_UNROLL
    for (int i = 0; i < n; i++) {
        v_store(s + i * VL, p[i]);
        sum += p[i];
    }
    return sum;
}

VT_INLINE void soften_rows(const work *w, queries *y, int cols, const float *base, bool near)
{
    for (int r = 0; r < y->rows; r++) {
        float *s = w->s + r * COLS;
        vf m = v_splat(base[r]), total = v_load(y->sum + r * VL) * y->decay[r];
        int c = 0;
        for (; c + V_EXP2 * VL <= cols; c += V_EXP2 * VL)
            total = weights(s + c, V_EXP2, m, near, total);
        for (; c < cols; c += VL)
            total = weights(s + c, 1, m, near, total);
        v_store(y->sum + r * VL, total);
    }
}

/* Scores become weights relative to the greatest score so far, or to 0. */
static void soften(const work *w, queries *y, int cols, bool masked)
{
    float base[SLOTS] = {0};
    if (!y->near)
        move_maxima(w, y, cols, base);
    if (y->near && !masked)
        soften_rows(w, y, cols, base, true);
    else
        soften_rows(w, y, cols, base, false);
}

/* Onto the scores of the panels, slots that are tokens. */
static void add_bias(const work *w, const queries *y, const block *bl)
{
    const vt_attn_item *it = w->it;
    const int32_t *slots = it->group->kernel == VT_ATTN_TILES ? it->group->tiles->token : NULL;
    for (int p = 0; p < bl->count; p++) {
        int32_t col[VT_TILE];
        int first = (int)bl->group[p] * VT_TILE;
        for (int i = 0; i < VT_TILE; i++) {
            int token = slots ? slots[first + i] : first + i;
            col[i] = token >= 0 && token < it->tokens ? it->col[token] : it->col[0];
        }
        for (int r = 0; r < y->rows; r++) {
            const float *bias = it->bias + it->row[y->token[r]];
            float *s = w->s + r * COLS + p * VT_TILE;
            for (int i = 0; i < VT_TILE; i++)
                s[i] += bias[col[i]] * w->scale;
        }
    }
}

static void one_block(const work *w, queries *y, const block *bl)
{
    int cols = (bl->keys + VL - 1) / VL * VL; /* of S */
    scores(w, y, bl, cols);
    if (w->it->bias)
        add_bias(w, y, bl);
    bool masked = false;
    for (int p = 0; p < bl->count; p++) {
        masked = masked || bl->masked[p];
        for (int r = 0; bl->masked[p] && r < y->rows; r++)
            apply_mask(w->s + r * COLS + p * VT_TILE, bl->mask[p][r]);
    }
    soften(w, y, cols, masked);
    for (int b = 0; b * PAIR < w->dims; b++)
        product_rows(y->rows, block_width(w->dims, b) / VL, w->s, block_base(w, b), bl,
                     y->o + b * PAIR, (size_t)w->dims, y->decay);
}

/* ---- which panels ---- */

static void mask_from_bitmap(const work *w, const queries *y, const vt_bitmap *map, block *bl,
                             int p)
{
    size_t byte = 2 * (size_t)bl->group[p];
    for (int r = 0; r < y->rows; r++) {
        const uint8_t *bits = map->bits + (size_t)y->token[r] * map->stride;
        unsigned high = byte + 1 < map->stride ? bits[byte + 1] : 0;
        bl->mask[p][r] = (uint16_t)((bits[byte] | high << 8) & w->valid[bl->group[p]]);
    }
}

static void mask_from_tile(const work *w, const queries *y, const uint16_t *bits, block *bl, int p)
{
    for (int r = 0; r < y->rows; r++)
        bl->mask[p][r] = bits[y->slot[r]] & w->valid[bl->group[p]];
}

static void mask_padding(const work *w, const queries *y, block *bl, int p)
{
    bl->masked[p] = w->valid[bl->group[p]] != 0xffff;
    for (int r = 0; bl->masked[p] && r < y->rows; r++)
        bl->mask[p][r] = w->valid[bl->group[p]];
}

/* All panels, for some blocks of queries: a block of panels serves them in turn while near. */
static void all_panels(const work *w, queries *y, int count)
{
    const vt_bitmap *map = w->it->group->bitmap;
    block bl;
    for (int g = 0; g < w->groups; g += bl.count) {
        int left = w->it->tokens - g * VT_TILE;
        bl.keys = left < COLS ? left : COLS;
        bl.count = (bl.keys + VT_TILE - 1) / VT_TILE;
        for (int i = 0; i < count; i++) {
            for (int p = 0; p < bl.count; p++) {
                bl.group[p] = (uint32_t)(g + p);
                bl.masked[p] = map != NULL;
                if (map)
                    mask_from_bitmap(w, &y[i], map, &bl, p);
                else
                    mask_padding(w, &y[i], &bl, p);
            }
            one_block(w, &y[i], &bl);
        }
    }
}

static void listed_panels(const work *w, queries *y, int group)
{
    const vt_tiles *t = w->it->group->tiles;
    uint32_t end = t->start[group + 1];
    block bl;
    for (uint32_t i = t->start[group]; i < end; i += (uint32_t)bl.count) {
        bl.count = end - i < VT_KEY_BLOCK ? (int)(end - i) : VT_KEY_BLOCK;
        bl.keys = bl.count * VT_TILE;
        for (int p = 0; p < bl.count; p++) {
            uint32_t tile = t->tile[i + (uint32_t)p];
            bl.group[p] = tile & ~(uint32_t)VT_TILE_FULL;
            bl.masked[p] = true;
            if (tile & VT_TILE_FULL)
                mask_padding(w, y, &bl, p);
            else
                mask_from_tile(w, y, t->bits[t->bits_at[i + (uint32_t)p]], &bl, p);
        }
        one_block(w, y, &bl);
    }
}

/* ---- one item ---- */

VT_INLINE void store_row(const work *w, const queries *y, int r, vt_dtype type)
{
    const vt_attn_item *it = w->it;
    const float *o = y->o + r * w->dims;
    char *out = (char *)it->out + (size_t)y->token[r] * it->out_step * vt_dtype_bytes(type);
    float sum = v_sum(v_load(y->sum + r * VL)), scale = sum == 0 ? 0 : 1.0f / sum;
    int i = 0;
    for (; i + VL <= it->head_dim; i += VL)
        v_put(out, type, i, v_load(o + i) * scale);
    for (; i < it->head_dim; i++)
        put1(out, type, i, o[i] * scale);
}

static void store_queries(const work *w, const queries *y)
{
    for (int r = 0; r < y->rows; r++)
        if (w->it->type == VT_F32)
            store_row(w, y, r, VT_F32);
        else
            store_row(w, y, r, VT_BF16);
}

static void attend_dense(const work *w, queries *y)
{
    int last = w->it->last * VT_TILE;
    last = last < w->it->tokens ? last : w->it->tokens;
    for (int slot = w->it->first * VT_TILE; slot < last;) {
        int count = 0;
        for (; count < VT_QUERY_BLOCKS && slot < last; count++, slot += w->step)
            load_queries(w, &y[count], slot, slot + w->step < last ? slot + w->step : last);
        all_panels(w, y, count);
        for (int i = 0; i < count; i++)
            store_queries(w, &y[i]);
    }
}

/* Lists differ from group to group. */
static void attend_tiles(const work *w, queries *y)
{
    for (int g = w->it->first; g < w->it->last; g++) {
        load_queries(w, y, g * VT_TILE, (g + 1) * VT_TILE);
        listed_panels(w, y, g);
        store_queries(w, y);
    }
}

void VT_NAME(vt_attend_panels)(const vt_attn_item *it)
{
    const float log2e = 1.44269504f;
    const vt_tiles *tiles = it->group->kernel == VT_ATTN_TILES ? it->group->tiles : NULL;
    size_t padded = vt_attn_padded(it->head_dim);
    work w = {.it = it, .scale = it->scale * log2e, .step = tiles ? VT_TILE : QUERIES};
    queries y[VT_QUERY_BLOCKS];
    w.groups = tiles ? tiles->groups : (it->tokens + VT_TILE - 1) / VT_TILE;
    w.dims = (it->head_dim + VL - 1) / VL * VL;
    w.k = it->scratch;
    w.v = w.k + (size_t)w.groups * VT_TILE * padded;
    w.s = w.v + (size_t)w.groups * VT_TILE * padded;
    float *next = w.s + VT_SCORE_ROWS * COLS;
    for (int i = 0; i < VT_QUERY_BLOCKS; i++, next += QUERIES * 2 * padded) {
        y[i].q = next;
        y[i].o = next + QUERIES * padded;
    }
    w.valid = (uint16_t *)next;
    pack(&w);
    w.longest = longest_key(&w);
    if (tiles)
        attend_tiles(&w, y);
    else
        attend_dense(&w, y);
}
