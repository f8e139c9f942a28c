/* Accuracy of a model over labelled pictures, and its agreement with the unmasked model.
 *
 *   loss       mean of -log softmax(logits)[label]
 *   ECE        expected calibration error: sum over 15 equal bins of confidence of
 *              share * |accuracy - mean confidence| (Guo et al. 2017)
 *   KL         mean of sum_c p_dense(c) log(p_dense(c) / p(c)), in nats
 *   cosine     mean of dense . logits / (|dense| |logits|)
 * All in double precision. Of equal logits the lower class counts as the larger. Pictures that
 * cannot be used are counted and left out of every figure.
 */
#ifndef VTE_EVALUATE_H
#define VTE_EVALUATE_H

#include "engine/experiments/dataset.h"

enum { VTE_BINS = 15 };

typedef struct {
    size_t images, right, predicted; /* of the class; right among these; predicted as it */
} vte_class_score;

typedef struct {
    size_t images, bad;           /* used; left out */
    double top1, top5, loss, ece; /* shares, nats */
    double agreement, kl, cosine; /* with the dense logits; NAN without them */
    double wall_ms, preprocess_ms, forward_ms, images_per_s; /* of the whole run */
    vte_class_score *per_class;                              /* [classes] owned */
} vte_scores;

typedef struct {
    const vitrun_model *model;
    int batch;
    const vte_dataset *data;
    const float *dense; /* [data->count, classes] of the unmasked model, or NULL; the rows of bad
                           pictures are NAN */
    float *logits;      /* the same of this run, or NULL */
    void *user;
    void (*bad)(void *user, const char *message); /* each may be NULL */
    void (*progress)(void *user, size_t done, size_t total);
} vte_evaluation;

/* Opens its contexts (two on a GPU, where there is memory), so that reading and computing overlap.
 * On failure *s owns nothing. */
int vte_evaluate(const vte_evaluation *e, vte_scores *s, vitrun_error *err);
void vte_scores_free(vte_scores *s);

/* A second context lets one batch be read while another computes. NULL, not a failure, on the CPU,
 * whose cores are busy anyway, for a single batch, and where memory is short. */
vitrun_context *vte_second_context(const vitrun_model *model, int batch, size_t images);

#endif
