/* Attention maps of pictures: what one query token attends to, per layer and head, as arrays and
 * laid over the picture; and attention rollout (Abnar and Zuidema 2020):
 *
 *   R = row `query` of (A_L + I)/2 ... (A_1 + I)/2,  A_l the mean over heads of layer l
 *
 * Rollout keeps the mean of every layer, layers x tokens^2 floats; the maps alone one row each.
 */
#ifndef VTE_MAPS_H
#define VTE_MAPS_H

#include "engine/vitrun.h"

typedef struct {
    int query;   /* token, from 0, prefix tokens first */
    int rollout; /* also that */
} vte_map_options;

/* The class token, or the patch in the middle where there is none. */
int vte_map_query(const vitrun_info *info);

/* Runs the picture in row 0 of the context's input and writes into the folder DIR, which is made:
 * attention.npy [layers, heads, tokens], layerLL_headHH.png, and where asked for rollout.npy
 * [tokens] and rollout.png. */
int vte_maps_write(const vitrun_model *model, vitrun_context *context, const vte_map_options *o,
                   const char *dir, vitrun_error *err);

#endif
