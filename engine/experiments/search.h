/* Chooses a mask for each layer out of candidates, within a budget, greedily:
 *
 *   1. each candidate is put on each layer alone; its harm is the Kullback-Leibler divergence from
 *      the unmasked model, its benefit what it saves of the cost
 *   2. in order of benefit / harm, each is added to what has been chosen (in place of the layer's
 *      earlier choice where it saves more), measured together with it, and kept if the budget holds
 *
 * Greedy: the best combination is not promised. All figures are measured on the same pictures.
 */
#ifndef VTE_SEARCH_H
#define VTE_SEARCH_H

#include "engine/experiments/dataset.h"

typedef enum {
    VTE_COST_PAIRS, /* allowed pairs of all heads and layers */
    VTE_COST_BYTES, /* scratch and masks of attention, planned */
    VTE_COST_MS     /* median of forward passes of a batch */
} vte_cost;

typedef struct {
    double top1, agreement, kl, cost;
} vte_figures;

typedef struct {
    const vitrun_model *model;  /* unmasked */
    const vitrun_options *base; /* threshold, dispatch, kernel, of what is tried */
    const vte_dataset *data;
    int batch, runs;
    const char *const *candidate;
    int candidates;
    vte_cost cost;
    double max_lost;    /* share of top-1 that may be lost; INFINITY: any */
    double target_cost; /* stops when it is reached; 0: goes on as long as max_lost holds */
    void *user;
    void (*progress)(void *user, size_t done, size_t total); /* may be NULL; models measured */
    void (*bad)(void *user, const char *message);            /* may be NULL; a picture */
} vte_search;

typedef struct {
    int layers;
    int *choice; /* [layers] candidate, or -1: dense */
    vte_figures dense, found;
    size_t measured; /* models */
    int reached;     /* target_cost, where there is one */
    size_t bad_images;
} vte_search_result;

int vte_search_run(const vte_search *s, vte_search_result *out, vitrun_error *err);
void vte_search_free(vte_search_result *r);

#endif
