/* Measured or built-in constants: see costs.h. Text and disk are kernels/costs.c's and tuned.c's. */
#include "engine/costs.h"

#include <stdio.h>

#include "engine/vitrun.h"
#include "kernels/tuned.h"

static vt_tuned *open_store(const vt_device *dev, vt_status *st)
{
    char name[128];
    snprintf(name, sizeof name, "%s attention", dev->hardware);
    return vt_tuned_open(name, st);
}

static void key_of(const vt_device *dev, int head_dim, char key[64])
{
    snprintf(key, 64, "%s %s %d", VITRUN_VERSION, dev->arithmetic, head_dim);
}

bool vt_costs_of(const vt_device *dev, int head_dim, vt_attn_costs *costs)
{
    char key[64];
    vt_status ignored;
    *costs = *dev->ops->attention_costs(dev, head_dim);
    vt_tuned *store = open_store(dev, &ignored);
    if (!store)
        return false;
    key_of(dev, head_dim, key);
    const char *text = vt_tuned_get(store, key);
    bool measured = text && vt_costs_read(costs, text);
    vt_tuned_close(store);
    return measured;
}

int vt_costs_keep(const vt_device *dev, int head_dim, const vt_attn_costs *costs, char *path,
                  size_t room, vt_status *st)
{
    char key[64], text[VT_COSTS_TEXT];
    vt_tuned *store = open_store(dev, st);
    if (!store)
        return -1;
    key_of(dev, head_dim, key);
    vt_costs_write(costs, text);
    bool kept = vt_tuned_put(store, key, text);
    snprintf(path, room, "%s", vt_tuned_path(store));
    vt_tuned_close(store);
    return kept ? 0
                : vt_fail(st, VT_MACHINE, "%s: cannot write the measured constants",
                          path[0] ? path : "cache folder (neither XDG_CACHE_HOME nor HOME is set)");
}
