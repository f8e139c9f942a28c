/* Which attention kernel serves a mask: a pure function of the mask's statistics, the shape, the
 * user's rule and the device's measured constants. Touches no memory, no device, no clock.
 *
 * The cost of a kernel on one (image, head), in nanoseconds of one thread:
 *   dense  pack N d + tile (d + soft) T^2     T = ceil(N / 16); pack: what a query costs by itself
 *          under a mask + mask T^2; where skip > 0, or the less of that and of a kernel that visits
 *          tiles of 64 x 64 with a pair: skip in place of tile for their share, T = 4 ceil(N / 64);
 *          tile 0: there is no other
 *   tiles  pack N d + (tile (d + soft)) tiles + mask tiles + group T
 *   rows   widen N d + (pair (d + pair_soft)) nnz + row N
 *   columns, axial   of the layout, for 64 or 128 queries: columns_group groups +
 *          columns_tile tiles + columns_block blocks + columns_merge for groups of passes after the
 *          first
 * summed over images and heads and divided by the threads, plus `launch`. Constants of a GPU are
 * those of the whole device, whose threads count as one: the sums are right while all of it is
 * busy. What they leave out there is that a block's work is not shared out:
 *   dense  is at least walk_start + walk N, and walk_mask N under a mask, for each turn of
 *          walk_blocks blocks of walk_rows queries, where there are more than walk_least tokens:
 *          another kernel serves fewer; walk_blocks 0: once, because few blocks visit all keys
 *   rows   at least longest row_max, because one warp has the longest row
 *   columns   + columns_start, columns_pass for each pass after the first and for putting the
 *          prefix group's parts together, columns_step for each tile of the longest item of each
 *          pass: what is there even if there is but one item; and columns_late of the time that
 *          such an item takes while all of the device, or all items, are busy: blocks do not end
 *          together
 * columns' terms are for heads of 64, and times (d + soft) / (64 + soft) for others. `reference` is
 * never chosen by itself.
 */
#ifndef VT_DISPATCH_H
#define VT_DISPATCH_H

#include "kernels/attention.h"

typedef struct vt_attn_costs { /* of one device, type, instruction set; see the formulas above */
    double pack, tile, soft, mask, skip, group;
    double widen, pair, pair_soft, row;
    double reference; /* per pair and head_dim */
    double launch, longest, walk, walk_mask, walk_start;
    double columns_group[2], columns_tile[2], columns_block[2], columns_merge[2]; /* of 64, of 128
                                                                                     queries */
    double columns_start, columns_pass, columns_step, columns_late;
    /* Facts about the kernels, not to be fitted: */
    double walk_rows, walk_blocks; /* queries of a block of the dense kernel, blocks at a time */
    double walk_least;             /* tokens that are too few for it */
    double columns_blocks[2];      /* blocks at a time */
    double columns_guests;         /* 1: prefix queries are served as guests, where they may be */
} vt_attn_costs;

typedef struct { /* one layer's head group */
    int images, heads, tokens, head_dim, threads;
    bool masked;
    int64_t nnz, tiles; /* allowed pairs; tiles that the tiles layout lists */
    int row_max;        /* allowed keys of the fullest row */
    double occupied;    /* share of 64 x 64 tiles, in the tokens' order, that hold a pair */
    vt_columns_count columns[VT_COLUMNS_SHAPES]; /* passes 0: not counted, and no candidate */
    bool serves[VT_ATTN_KERNELS]; /* which kernels the device has for this head_dim */
} vt_attn_work;

typedef enum { VT_RULE_AUTO, VT_RULE_DENSITY } vt_rule;

/* What the user wants. */
typedef struct {
    vt_rule rule;
    double threshold;   /* density below which a sparse kernel may step in */
    const char *kernel; /* forced: a kernel's name or "sparse"; NULL: by rule */
} vt_attn_wish;

typedef struct {
    vt_attn_kernel kernel;
    double ms[VT_ATTN_KERNELS]; /* predicted for each; INFINITY: cannot serve */
    char reason[192];
} vt_attn_choice;

double vt_attn_predict(const vt_attn_costs *c, vt_attn_kernel kernel, const vt_attn_work *w);

/* Fails (VT_USAGE) where wish->kernel names no kernel, and where the kernel that it or the rule
 * names cannot serve. */
int vt_attn_choose(vt_attn_choice *out, const vt_attn_wish *wish, const vt_attn_work *w,
                   const vt_attn_costs *c, vt_status *st);

bool vt_attn_known_kernel(const char *name); /* including "sparse" */
#define VT_ATTN_KERNEL_NAMES                 /* for messages */                                    \
    "reference, dense, sparse, tiles, rows, columns64, columns128, axial64 or axial128"

/* What "sparse" stands for: the sparse kernel with the smallest predicted time; the first where none
 * has one. */
vt_attn_kernel vt_attn_fastest_sparse(const double ms[VT_ATTN_KERNELS]);

#endif
