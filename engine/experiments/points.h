/* A sweep's specification -> its points, in a fixed order.
 *
 *     {
 *       "version": 1,
 *       "patterns": {"axial": "axial_2d()", "near": "local_2d(distance=$d)"},
 *       "parameters": {"d": [2, 3, 5]},
 *       "layers": ["all", "0-4", "5-9"],
 *       "mask_configs": ["masks/heads.json"],
 *       "density_thresholds": [0.3], "kernels": ["auto", "dense"],
 *       "batches": [8], "img_sizes": [112], "dtypes": ["fp32"],
 *       "limit": 1000, "runs": 10
 *     }
 *
 * Every key may be left out. Points are the product of the axes: dtypes, image sizes and batches
 * (each begins with an unmasked point), then thresholds, kernels, then patterns with the values of
 * the parameters that they name, on each set of layers, then mask configurations (paths relative to
 * the specification's folder).
 *
 * A point is a JSON object: "name", "mask" (the expression; "dense"), "layers", "mask_config" (or
 * null), "density_threshold" (or null), "kernel" ("auto"), "batch" (0: as suits), "img_size" ("" or
 * "HxW"), "dtype" (""), "options" (all of this as options of vitrun eval: what tells points apart).
 */
#ifndef VTE_POINTS_H
#define VTE_POINTS_H

#include <jansson.h>
#include <stdio.h>

#include "engine/vitrun.h"

typedef struct {
    json_t *point; /* array */
    json_t *seen;  /* object whose keys are the points' options */
    size_t limit;  /* pictures; 0: all */
    int runs;      /* timed forward passes a point */
} vte_points;

enum { VTE_MOST_POINTS = 10000, VTE_RUNS = 10 };

void vte_points_open(vte_points *p); /* without points; limit and runs stay */
/* Errors name file, line, column and path. With a model, every mask is tried on it. */
int vte_points_read(vte_points *p, const char *path, const vitrun_model *model, vitrun_error *err);
void vte_points_free(vte_points *p);

/* One point, with its "options" written; mask_config may be NULL. Consumes nothing. NULL where
 * memory is short. */
typedef struct {
    const char *name, *mask, *layers, *mask_config, *kernel, *img_size, *dtype;
    double threshold; /* < 0: not given */
    int batch;
} vte_setting;
json_t *vte_point_new(const vte_setting *s);
/* Adds a point, unless one with the same options is there. */
int vte_points_append(vte_points *p, const vte_setting *s, vitrun_error *err);

/* " --NAME VALUE", the value as one word of a shell's command line; nothing where it is NULL. */
void vte_put_option(FILE *f, const char *name, const char *value);

#endif
