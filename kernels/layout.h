/* Sparse layouts: what the attention kernels read instead of the row function. Each is built once,
 * when a model is opened, and then only read.
 *
 *   bitmap  N rows of ceil(N / 8) bytes, key k = bit k % 8 of byte k / 8: what the dense kernel and
 *           `reference` read. N * ceil(N / 8) bytes (and a little padding at the end).
 *   tiles   2-D structure. Tokens are put into an order in which 16 neighbours form a compact patch
 *           of the grid (prefix tokens first, in groups of their own); each group of 16 queries
 *           lists the groups of 16 keys that any of its queries sees, with 16 x 16 bits for the
 *           tiles that are only partly on.
 *   csr     row_start[N + 1], keys[nnz] ascending in each row: for masks without structure.
 */
#ifndef VT_LAYOUT_H
#define VT_LAYOUT_H

#include "kernels/mask.h"

enum { VT_TILE = 16, VT_TILE_FULL = 1 << 30 };

typedef struct {
    int tokens;
    size_t stride; /* bytes a row: ceil(N / 8) */
    uint8_t *bits;
    size_t bytes; /* memory that this layout takes */
} vt_bitmap;

typedef struct {
    int tokens;
    int groups;      /* of VT_TILE slots; the same groups serve queries and keys */
    int32_t *token;  /* [groups * VT_TILE] the token in each slot, -1 for padding */
    uint32_t *start; /* [groups + 1] first tile of each query group */
    uint32_t *tile;  /* [start[groups]] key group; | VT_TILE_FULL: every pair of real slots is on */
    uint32_t *bits_at; /* [start[groups]] index into bits, meaningless for full tiles */
    uint16_t (
        *bits)[VT_TILE]; /* partial tiles: bit k of bits[t][q] = query slot q sees key slot k */
    size_t partial;      /* number of partial tiles */
    size_t bytes;
} vt_tiles;

typedef struct {
    int tokens;
    uint32_t *start; /* [N + 1] */
    uint16_t *key16; /* [nnz], where N <= 65536; else NULL */
    uint32_t *key32; /* [nnz], where N > 65536; else NULL */
    size_t bytes;
} vt_csr;

/* NULL with st set on failure (no memory; more than 2^32 - 1 pairs). The caller frees. */
vt_bitmap *vt_bitmap_build(const vt_mask *mask, int threads, vt_status *st);
vt_tiles *vt_tiles_build(const vt_mask *mask, int threads, vt_status *st);
vt_csr *vt_csr_build(const vt_mask *mask, int threads, vt_status *st);

/* *tiles = how many vt_tiles_build would list (of at least ceil(N/16)^2 that a full mask has),
 * without building anything that outlives the call: for the cost model. */
int vt_tiles_count(const vt_mask *mask, int threads, int64_t *tiles, vt_status *st);

void vt_bitmap_free(vt_bitmap *b); /* NULL is fine for all three */
void vt_tiles_free(vt_tiles *t);
void vt_csr_free(vt_csr *c);

#endif
