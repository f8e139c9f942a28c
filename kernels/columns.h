/* The layout of the `columns` attention kernels (row-group column compaction): queries are put into
 * groups of 64 or 128 that lie close together on the grid, and each group lists the keys that any
 * of its queries may see, 64 to a tile. A kernel gathers those keys and values, multiplies them as
 * a dense tile, and switches pairs off by bits.
 *
 * A mask may be cut into disjoint parts with groups of their own, one pass each, whose results are
 * merged by their log-sum-exp: pairs of one grid row (queries row by row), pairs of one grid column
 * (queries column by column), and the rest. An axial mask is then as cheap as its pairs are few.
 *
 *   bits    Block (tile, half) has 64 queries x 64 keys. Word t belongs to thread t of a warpgroup,
 *           in the order of the accumulators of mma.m16n8k16 and wgmma.m64n64k16: bit
 *           4 j + 2 r + c is query 16 (t / 32) + t % 32 / 4 + 8 r, key 8 j + 2 (t % 4) + c.
 *           Equal blocks are stored once: a window's blocks are the same all over the grid.
 *   guests  Prefix queries see most keys, so that their group reads them all once more. Where there
 *           are few of them, they can be served from tiles that are there anyway: what a group of
 *           pass 0 sees of its own queries stands in its first tiles, and guest[] says which keys
 *           of these tiles a prefix query takes there. What it finds in no group is listed once
 *           more, in a group of its own: a kernel takes either group 0, or guests and that one.
 */
#ifndef VT_COLUMNS_H
#define VT_COLUMNS_H

#include "kernels/mask.h"

enum { VT_COLUMN_TILE = 64, VT_COLUMN_PASSES = 3, VT_COLUMN_GUESTS = 8 };
#define VT_BLOCK_FULL  UINT32_MAX       /* every pair of real queries and keys is on */
#define VT_BLOCK_EMPTY (UINT32_MAX - 1) /* none is */

typedef struct {
    int rows;   /* queries of a group: 64 or 128 */
    bool axial; /* cut into row, column and rest */
} vt_columns_shape;

typedef struct {
    int tokens;
    vt_columns_shape shape;
    int passes;                     /* 1 to VT_COLUMN_PASSES */
    int pass[VT_COLUMN_PASSES + 1]; /* pass p has the groups pass[p] .. pass[p + 1] - 1 */
    int groups;                     /* of all passes */
    int guests;                     /* prefix queries that may be served as guests: all or 0. If
                                       any, group `groups` has what they find nowhere: `all` in
                                       the following is groups + (guests > 0) */
    int32_t *query;                 /* [all * rows] tokens, each 64 first the real ones, then -1.
                                       Pass 0 has every token once, later passes those with pairs */
    uint32_t *columns;              /* [all] how many keys the group sees; may be 0 */
    uint32_t *start;                /* [all + 1] its first tile; it has ceil(columns / 64) */
    int32_t *key;                   /* [start[all] * 64] tokens, -1 after the last of a group */
    uint32_t *block;                /* [start[all] * rows / 64] index into bits, FULL or EMPTY */
    uint32_t (*bits)[128];          /* [blocks] distinct blocks */
    uint64_t (*guest)[VT_COLUMN_GUESTS]; /* guests > 0: [pass[1] * rows / 64] bit k of
                                            guest[g * rows / 64 + h][i]: prefix query i takes key k
                                            of tile start[g] + h. 0 where g has no such tile */
    size_t blocks;
    size_t bytes; /* memory that this layout takes */
} vt_columns;

/* What a layout of a shape would have, for the cost model. */
typedef struct {
    int64_t groups, tiles, columns;    /* of all passes */
    int64_t blocks;                    /* of 64 x 64, that are not empty */
    int64_t longest[VT_COLUMN_PASSES]; /* tiles of a pass's longest group, but for prefix groups */
    int64_t prefix;                    /* tiles of the longest prefix group */
    int64_t merged;                    /* groups of passes after the first */
    int64_t spared;                    /* tiles fewer, of it, where prefix queries are guests */
    int passes;
} vt_columns_count;

enum { VT_COLUMNS_SHAPES = 4 };
extern const vt_columns_shape vt_columns_shapes[VT_COLUMNS_SHAPES]; /* 64, 128, axial 64, 128 */

/* Counts for all shapes, in one sweep over the rows where possible; nothing outlives the call. */
int vt_columns_count_all(const vt_mask *mask, int threads, vt_columns_count out[VT_COLUMNS_SHAPES],
                         vt_status *st);

/* NULL with st set on failure. The caller frees. */
vt_columns *vt_columns_build(const vt_mask *mask, vt_columns_shape shape, int threads,
                             vt_status *st);
void vt_columns_free(vt_columns *c); /* NULL is fine */

#endif
