/* Average attention of a model over pictures, per layer and head, and masks made from it.
 *
 * Sums are streamed row by row: layers x heads x tokens^2 floats in all, none of it per picture.
 */
#ifndef VTE_CALIBRATE_H
#define VTE_CALIBRATE_H

#include "engine/experiments/dataset.h"

typedef struct {
    int layers, heads, tokens, prefix, grid_h, grid_w;
    size_t images, bad;
    float *mean; /* [layers, heads, tokens, tokens]: each row's sum is 1 */
    int threads; /* at least 1: that the functions below may use */
} vte_calibration;

typedef struct {
    const vitrun_model *model; /* unmasked, or the masked one that is to be looked at */
    int batch;
    const vte_dataset *data;
    void *user;
    void (*bad)(void *user, const char *message); /* each may be NULL */
    void (*progress)(void *user, size_t done, size_t total);
} vte_calibrating;

int vte_calibrate(const vte_calibrating *c, vte_calibration *out, vitrun_error *err);
void vte_calibration_free(vte_calibration *c);

/* How concentrated a head is, each the mean over its queries. */
typedef struct {
    double keys50, keys90, keys99; /* least number of keys that hold this share of the attention */
    double entropy;                /* in nats */
    double prefix;                 /* share that goes to prefix tokens */
    double distance;               /* of patches to the patches that they attend to, in patches */
} vte_concentration;
int vte_concentration_of(const vte_calibration *c, int layer, int head, vte_concentration *out,
                         vitrun_error *err);
/* Those of all heads: out [layers, heads]. */
int vte_concentrations(const vte_calibration *c, vte_concentration *out, vitrun_error *err);

/* Share of the attention of `head` that the i-th mask of `masks` leaves out, mean over queries. */
int vte_mass_lost(const vte_calibration *c, const vitrun_masks *masks, int i, int head,
                  double *lost, vitrun_error *err);

/* Of each row the `keys` largest, or (keys 0) the smallest set that holds `mass` of it; of equal
 * ones the first. mask [heads or 1, tokens, tokens] of bytes 0 / 1; one for all heads is made from
 * their mean. */
int vte_mask_from(const vte_calibration *c, int layer, int per_head, int keys, double mass,
                  uint8_t *mask, vitrun_error *err);

#endif
