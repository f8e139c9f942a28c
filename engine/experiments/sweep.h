/* Runs points (points.h) over labelled pictures: a row of figures each.
 *
 * Points that share a type and an image size share one loading of the weights and one unmasked run,
 * whose logits are kept to compare with. A row is its point and
 *   "index", "images", "bad_images", "top1", "top5", "loss", "ece", "agreement_top1",
 *   "kl_to_dense", "cosine_to_dense", "density" (mean over heads of layers), "nnz" (sum over
 *   these), "mask_bytes", "attention_bytes", "activation_bytes", "weights_bytes", "peak_bytes",
 *   "batch" (the one that ran), "ms" (median of a forward pass of the batch), "ms_min",
 *   "images_per_s" (by that median), "eval_images_per_s" (from files), "layers_density",
 *   "layers_kernel": one entry a layer, that of head groups averaged and joined with "+".
 * Everything but times and kernels is the same in every run on one device.
 */
#ifndef VTE_SWEEP_H
#define VTE_SWEEP_H

#include <jansson.h>

#include "engine/experiments/dataset.h"

typedef struct {
    vitrun_options
        base; /* weights, device, threads ...: without masks, kernel, batch, size, type */
    const char *data;
    size_t limit;
    int runs;             /* timed forward passes a point; 0: no times */
    const json_t *points; /* array */
    int shard, shards;    /* only points whose index is shard - 1 modulo shards */
    json_t *rows;         /* in: those that are done; out: all that belong to the shard */
    void *user;           /* the callbacks may be NULL */
    void (*bad)(void *user, const char *message);            /* a picture, named once */
    void (*progress)(void *user, size_t done, size_t total); /* pictures of all points to come */
    /* A row is there: -1 with err set stops. */
    int (*row)(void *user, const json_t *row, vitrun_error *err);
    size_t bad_images; /* out */
} vte_sweep;

int vte_sweep_run(vte_sweep *s, vitrun_error *err);

/* `rows` in the order of `points`; those of no point are left out. A new array; NULL without memory. */
json_t *vte_rows_in_order(const json_t *rows, const json_t *points);

/* The columns of rows as CSV (RFC 4180, "\n"), to be freed; NULL where memory is short. */
char *vte_rows_csv(const json_t *rows, size_t *size);

#endif
