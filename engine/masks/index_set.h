/* Sets of layers or heads as configurations write them: "3", "0-7", "9,10", "8-", "all". */
#ifndef VT_INDEX_SET_H
#define VT_INDEX_SET_H

#include "kernels/status.h"

/* in[count]: which of `count` things called `what` ("layer", "head") the text names. An index at or
 * beyond count, a backward range and an index named twice are errors (VT_USAGE). */
int vt_index_set_read(const char *text, const char *what, int count, bool *in, vt_status *st);

/* The least count that holds every index named; 1 for a text that is no set. */
int vt_index_set_extent(const char *text);

/* The length of "SET:" at the head of a text, with the colon; 0 where there is none. */
size_t vt_index_set_prefix(const char *text);

#endif
