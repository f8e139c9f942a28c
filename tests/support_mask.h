/* A mask for tests whose row function reads a table of booleans: nothing to get wrong. */
#ifndef TESTS_SUPPORT_MASK_H
#define TESTS_SUPPORT_MASK_H

#include "kernels/mask.h"

typedef struct {
    vt_mask mask;
    bool *on; /* [N, N] */
} table_mask;

/* All pairs off. The caller sets t->on and frees with vt_mask_free(&t->mask). */
table_mask *table_mask_new(int prefix, int grid_h, int grid_w);

/* Each pair on with probability `density`, from a generator seeded by `seed`. */
table_mask *table_mask_random(int prefix, int grid_h, int grid_w, double density, unsigned seed);

/* Whether query sees key, by the row function of any mask. */
bool mask_pair(const vt_mask *mask, int query, int key);

#endif
