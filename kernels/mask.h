/* A mask, as kernels see it: a function from a query token to the set of key tokens that it may
 * attend to. This row function is the truth; bitmaps, CSR and tile lists (layout.h) are built from
 * it and tested against it. The tokens are the model's N, prefix tokens (class, distillation,
 * registers) first, then the patches of the grid in row-major order.
 *
 * Bit k of a row is bit k % 64 of word k / 64; bits at N and beyond are zero.
 * A row with no bit set is legal: attention gives zeros there.
 *
 * Where masks come from (patterns, expressions, files) is engine/masks' business.
 */
#ifndef VT_MASK_H
#define VT_MASK_H

#include "kernels/status.h"

typedef struct vt_mask vt_mask;

struct vt_mask {
    int tokens;         /* N */
    int prefix;         /* tokens before the patches */
    int grid_h, grid_w; /* patches; prefix + grid_h * grid_w == tokens */

    /* Writes all vt_mask_words(tokens) words of row `query`. Pure and safe to call from several
     * threads at once. */
    void (*row)(const vt_mask *mask, int query, uint64_t *bits);
    void (*destroy)(vt_mask *mask); /* frees mask and what it owns */
};

static inline size_t vt_mask_words(int tokens)
{
    return ((size_t)tokens + 63) / 64;
}

/* What is counted once per distinct mask; everything that dispatch and reports need. */
typedef struct {
    int tokens;
    int64_t nnz;          /* allowed pairs */
    double density;       /* nnz / N^2 */
    int empty_rows;       /* rows with no allowed key */
    int row_min, row_max; /* allowed keys of the barest and the fullest row */
    double row_mean;
    double occupancy[3]; /* share of 16x16, 32x32, 64x64 tiles in token order that hold a pair */
    uint64_t hash[2];    /* of all rows: equal masks have equal hashes */
} vt_mask_stats;

extern const int vt_occupancy_tile[3]; /* 16, 32, 64 */

/* One sweep over the rows, on `threads` threads. Allocates O(N) and gives it back. */
int vt_mask_count(const vt_mask *mask, int threads, vt_mask_stats *stats, vt_status *st);

void vt_mask_free(vt_mask *mask); /* NULL is fine */

#endif
