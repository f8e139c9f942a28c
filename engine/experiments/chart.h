/* Charts as SVG, written to a stream: they stand alone as files and inside HTML, take the text's
 * colour from around them (currentColor), and need no script and no font of their own.
 */
#ifndef VTE_CHART_H
#define VTE_CHART_H

#include <stdint.h>
#include <stdio.h>

#include "engine/experiments/harm.h"

typedef enum { VTE_UNIT_PERCENT, VTE_UNIT_BYTES, VTE_UNIT_MS } vte_unit;

typedef struct {
    const char *name;   /* of the point, shown where there is room and in its tooltip */
    const char *series; /* colour: points of equal text share one; "dense" is grey */
    const char *shape;  /* marker: the same, where there are few enough; the first is a circle */
    double x, y;
} vte_chart_point;

typedef struct {
    const char *title, *x_label, *y_label;
    vte_unit x_unit, y_unit; /* x: bytes are drawn on a logarithmic axis where they spread widely */
    const vte_chart_point *point;
    int points;
} vte_chart;

/* Points, their names, and the Pareto front: no other point is both less in x and more in y. */
int vte_chart_scatter(FILE *f, const vte_chart *c); /* -1: without memory, and then no chart */

/* Whether the i-th point is on the front. */
int vte_chart_on_front(const vte_chart *c, int i);

/* Rows x layers: colour is the density, the letters the kernel's first. `rows` as in sweep.h. */
void vte_chart_layers(FILE *f, const json_t *rows);

/* Masks x layers: colour is the harm, the number how many points of top-1 are lost. */
void vte_chart_harm(FILE *f, const vte_harm *h);

/* A matrix of shares 0 to 1, [side, side], as squares of five depths. */
void vte_chart_matrix(FILE *f, const char *title, const float *share, int side);

/* What one query sees: cells [h, w] of 0 / 1, the query's own outlined (-1: none). */
void vte_chart_grid(FILE *f, const char *title, const uint8_t *cell, int h, int w, int query);

void vte_escape(FILE *f, const char *text);            /* for HTML, XML and their attributes */
void vte_put_amount(FILE *f, vte_unit unit, double x); /* "12.5 %", "3.4 MiB", "0.25 ms" */

#endif
