/* Orders in which queries are put into groups of 64 (halves of columns.h): those that are to share
 * keys stand together.
 *
 *   BLOCKS   blocks of 8 x 8 patches, or as near as the grid allows: a window of the grid sees few
 *            keys then
 *   NATURAL  tokens as they are
 *   ROWS     whole rows of the grid, or pieces of one
 *   COLUMNS  likewise columns
 *
 * Prefix tokens come first, in halves of their own.
 */
#ifndef VT_QUERY_ORDER_H
#define VT_QUERY_ORDER_H

#include "kernels/mask.h"

typedef enum { VT_ORDER_BLOCKS, VT_ORDER_NATURAL, VT_ORDER_ROWS, VT_ORDER_COLUMNS } vt_query_order;

typedef struct {
    int32_t *token; /* [halves * 64], -1 for padding */
    int halves, prefix_halves;
} vt_query_list;

/* Room that a list needs in any order. */
size_t vt_query_halves_at_most(const vt_mask *m);

/* All patches (prefix: those tokens, too), a multiple of `halves` for the prefix and the rest. */
void vt_query_list_fill(vt_query_list *q, const vt_mask *m, vt_query_order how, bool prefix,
                        int halves);

#endif
