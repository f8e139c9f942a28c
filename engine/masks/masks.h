/* Mask configurations: JSON and expressions -> per layer and head group a vt_mask.
 *
 *   mask_config.c  the JSON document and '[LAYERS:] EXPR' texts -> specification per layer
 *   mask_expr.c    the expression language: names, constructor calls, | & ~ ( )
 *   index_set.c    sets of layers and heads: "0-7", "9,10", "8-", "all"
 *   json_where.c   line, column and path of things in a JSON text, for errors
 *   patterns.c     the pattern types: names, parameters, checks
 *   pattern_rows.c row functions of patterns and operators; pattern + prefix policy -> mask
 *   pattern_env.c  who owns patterns; what is equal is built once; operators
 *   random.c       exact-count random patterns from a counter-based generator
 *   mask_file.c    masks from safetensors, .npy, .png
 *   draw.c         pictures of masks
 * Equal expressions give the same vt_mask object; equality of rows is found later by hash.
 */
#ifndef VT_MASKS_H
#define VT_MASKS_H

#include "kernels/mask.h"

typedef enum { VT_PREFIX_FULL, VT_PREFIX_ROWS, VT_PREFIX_COLUMNS, VT_PREFIX_NONE } vt_prefix_policy;

typedef struct {        /* what masks must fit */
    int layers, heads;  /* 0 where no model says: as many as are named, at least 1 */
    int prefix;         /* X: class, distillation and register tokens */
    int grid_h, grid_w; /* patches */
} vt_mask_shape;

typedef struct {    /* heads of one layer that share a mask */
    uint16_t *head; /* [heads], ascending */
    int heads;
    const vt_mask *mask; /* NULL: dense, every pair on */
    char *text;          /* the expression as written, for reports; "dense" */
} vt_mask_group;

typedef struct {
    int groups;
    vt_mask_group *group;     /* ordered by first head; every head is in exactly one */
    double density_threshold; /* the layer's, else the document's, else < 0: not given */
    char *kernel;             /* forced kernel name or NULL */
} vt_layer_masks;

typedef struct vt_masks {
    int layers, heads;
    vt_layer_masks *layer;    /* [layers] */
    double density_threshold; /* of the document, < 0: not given */
    vt_mask **mask;           /* owned: every distinct mask object */
    int masks;
} vt_masks;

/* `config` is the path of a mask configuration or NULL; it is read once and may be a pipe. `texts`
 * are --mask options, which may use its named patterns and replace its entries for their layers, a
 * later text those of an earlier one. `version` may be left out; layers and heads that are not
 * named are dense; more than 65536 heads in all layers are refused. Errors of files are VT_INPUT
 * and name file, line, column and path inside the document; errors of texts are VT_USAGE. `threads`
 * for building random patterns. NULL with st set on failure. */
vt_masks *vt_masks_load(const char *config, const char *const *texts, int count,
                        const vt_mask_shape *shape, int threads, vt_status *st);
void vt_masks_free(vt_masks *m); /* NULL is fine */

/* Pictures: the N x N matrix (scaled down to at most `side` pixels a side when larger), and what
 * query token `query` sees on the patch grid. RGB, caller frees with vt_free. */
int vt_mask_draw_matrix(const vt_mask *mask, int side, uint8_t **rgb, int *width, int *height,
                        vt_status *st);
int vt_mask_draw_query(const vt_mask *mask, int query, int cell, uint8_t **rgb, int *width,
                       int *height, vt_status *st);

#endif
