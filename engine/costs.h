/* Which constants the cost model takes for a device: those that `vitrun tune` measured on it, where
 * it did, else the built-in ones of kernels/. They are kept for each arithmetic type and head size,
 * and for this version of vitrun, whose kernels they describe. */
#ifndef VT_ENGINE_COSTS_H
#define VT_ENGINE_COSTS_H

#include "kernels/backend.h"
#include "kernels/costs.h"

/* Fills *costs; true where they were measured. Never fails: what cannot be read is not there. */
bool vt_costs_of(const vt_device *dev, int head_dim, vt_attn_costs *costs);

/* Keeps measured constants for the next runs; path [room] says where. Fails (VT_MACHINE) where the
 * file cannot be written. */
int vt_costs_keep(const vt_device *dev, int head_dim, const vt_attn_costs *costs, char *path,
                  size_t room, vt_status *st);

#endif
