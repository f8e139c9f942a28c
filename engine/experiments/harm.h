/* What masks on one layer at a time do: rows of a study (sweep.h) in which exactly one layer is masked,
 * or all but one, put together mask by mask.
 */
#ifndef VTE_HARM_H
#define VTE_HARM_H

#include <jansson.h>

typedef struct {
    const char *name;  /* of the mask: the rows' */
    double *kl, *lost; /* [layers]: KL to the unmasked model, points of top-1 lost; NAN: no row */
    int rows, but_one; /* how many of these there are; of all layers but one */
} vte_harm_mask;

typedef struct {
    int layers, masks;
    vte_harm_mask *mask;
    double *values; /* what kl and lost of all masks point into */
} vte_harm;

/* Masks with at least three such rows. The unmasked row is dense. Valid as long as the rows. -1 where
 * memory is short. */
int vte_harm_of(vte_harm *h, const json_t *rows, const json_t *dense);
void vte_harm_free(vte_harm *h);

/* Whether the row is one of those. */
int vte_harm_has(const vte_harm *h, const json_t *row);

#endif
