/* From masks to attention plans: each distinct mask is counted once, a kernel is chosen for each
 * layer and head group, and each layout that a chosen kernel reads is built once and shared.
 *
 * Equal masks are found by the hash of their rows, so that equal recipes under different names, on
 * different layers and heads, cost memory once.
 */
#ifndef VT_PLAN_H
#define VT_PLAN_H

#include "engine/masks/masks.h"
#include "engine/vitrun.h"
#include "kernels/ops.h"
#include "kernels/dispatch.h"

typedef struct { /* a distinct mask */
    const vt_mask *mask;
    vt_mask_stats stats;
    int64_t tiles;
    vt_bitmap *bitmap; /* each NULL until a kernel asks for it */
    vt_tiles *sparse;
    vt_csr *csr;
    vt_columns *columns[VT_COLUMNS_SHAPES];
    vt_columns_count columns_count[VT_COLUMNS_SHAPES];
} vt_planned_mask;

typedef struct { /* a layer's head group, as the public interface shows it, with its texts */
    vitrun_layer pub;
    char *heads, *mask_text; /* "0-3,5" */
    char reason[192];
    vitrun_candidate candidate[VT_ATTN_KERNELS];
    int mask; /* index of its distinct mask, -1: dense */
} vt_planned_group;

typedef struct {
    int layers;
    vt_device *dev;          /* that the groups are loaded for, NULL: none */
    vt_attn_plan *plan;      /* [layers] */
    const vt_attn_plan **of; /* [layers] what vit_forward takes */
    vt_planned_group *group; /* [groups] in order of layer, then first head */
    int groups;
    vt_planned_mask *mask; /* [masks] */
    int masks;
    uint64_t mask_bytes; /* of all layouts */
    vt_attn_costs costs; /* the cost model's constants in use */
    bool measured;       /* on this device, by vitrun tune; else they are the built-in ones */
} vt_plans;

typedef struct {
    int heads, head_dim, images;
    int head_copies;          /* heads of the kernels that stand for one of `heads`; 0: 1 */
    vt_device *dev;           /* NULL: only count the masks (no kernels, no plans) */
    vt_attn_wish wish;        /* layers' own thresholds and kernels override, where allowed */
    bool wish_threshold_wins; /* the command line's beats a layer's */
    int threads;
    vt_watch *watch; /* told of the layers while masks are counted; NULL: none */
    bool biased;     /* scores get a relative position bias, which not every kernel adds */
} vt_plan_setup;

/* masks may be NULL where tokens > 0 and all layers are dense (then `layers` counts). On failure
 * *out is left freed. `masks` must outlive *out. */
int vt_plans_build(vt_plans *out, const vt_masks *masks, int layers, int tokens,
                   const vt_plan_setup *setup, vt_status *st);
void vt_plans_free(vt_plans *p);

/* What the cost model is told of some heads that share a mask (NULL: none). */
vt_attn_work vt_planned_work(const vt_planned_mask *m, int heads, int tokens,
                             const vt_plan_setup *setup);

/* A copy of a layer's relative position bias (plan->bias, not NULL) in the host's memory, in *floats,
 * which the caller frees, also after a failure. */
int vt_plan_fetch_bias(vt_device *dev, const vt_attn_plan *plan, vt_attn_bias *host, float **floats,
                       vt_status *st);

/* Builds (once) what `kernel` reads of the mask; adds its bytes to *bytes (may be NULL) then. */
int vt_planned_layout(vt_planned_mask *m, vt_attn_kernel kernel, int threads, uint64_t *bytes,
                      vt_status *st);
/* Points a group at what `kernel` reads of the mask (NULL: no mask). */
void vt_group_use(vt_attn_group *g, vt_attn_kernel kernel, const vt_planned_mask *m);
uint64_t vt_layout_bytes(const vt_planned_mask *m, vt_attn_kernel kernel);
void vt_planned_layouts_free(vt_planned_mask *m);

#endif
