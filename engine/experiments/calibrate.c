/* See calibrate.h. */
#include "engine/experiments/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

/* ---- streaming ---- */
/* No other thread has the same rows. */
static void add_rows(void *user, const vitrun_attention_rows *r)
{
    vte_calibration *c = user;
    size_t n = (size_t)c->tokens;
    float *to =
        c->mean +
        (((size_t)r->layer * (size_t)c->heads + (size_t)r->head) * n + (size_t)r->first) * n;
    for (size_t i = 0; i < (size_t)r->rows * n; i++)
        to[i] += r->weights[i];
}

static void name_bad(const vte_calibrating *c, const vte_slot *slot, int count,
                     vte_calibration *out)
{
    for (int i = 0; i < count; i++) {
        out->bad += slot[i].row < 0;
        if (slot[i].row < 0 && c->bad)
            c->bad(c->user, slot[i].error.message);
    }
}

static int run_all(const vte_calibrating *c, vitrun_context *context, vte_slot *slot,
                   vte_calibration *out, vitrun_error *err)
{
    for (size_t first = 0; first < c->data->count; first += (size_t)c->batch) {
        size_t left = c->data->count - first;
        int count = left < (size_t)c->batch ? (int)left : c->batch;
        int good = vte_images_read(c->model, &c->data->file[first], count,
                                   vitrun_context_input(context), slot, err);
        if (good < 0 || (good > 0 && vitrun_attend(context, good, 0, out->tokens, add_rows, out,
                                                   NULL, err) != 0))
            return -1;
        name_bad(c, slot, count, out);
        out->images += (size_t)good;
        if (c->progress)
            c->progress(c->user, first + (size_t)count, c->data->count);
    }
    return out->images ? 0 : vte_fail(err, VITRUN_INPUT, "none of the images can be used");
}

static void divide(vte_calibration *c)
{
    size_t n = (size_t)c->tokens, count = (size_t)c->layers * (size_t)c->heads * n * n;
    float scale = 1 / (float)c->images;
    for (size_t i = 0; i < count; i++)
        c->mean[i] *= scale;
}

int vte_calibrate(const vte_calibrating *c, vte_calibration *out, vitrun_error *err)
{
    const vitrun_info *i = vitrun_info_get(c->model);
    *out = (vte_calibration){.layers = i->layers,
                             .heads = i->heads,
                             .tokens = i->tokens,
                             .prefix = i->prefix_tokens,
                             .grid_h = i->grid_h,
                             .grid_w = i->grid_w,
                             .threads = i->threads};
    size_t n = (size_t)i->tokens, rows = (size_t)i->layers * (size_t)i->heads * n;
    uint64_t available = vte_available_memory();
    if (available && (double)rows * (double)n * sizeof(float) > (double)available)
        return vte_fail(err, VITRUN_MACHINE,
                        "average attention of %d layers, %d heads, %d tokens takes %.4g MiB (free "
                        "%.4g MiB; a smaller --img-size needs less)",
                        i->layers, i->heads, i->tokens, (double)rows * (double)n * 4 / 1048576,
                        (double)available / 1048576);
    out->mean = calloc(rows, n * sizeof *out->mean);
    vte_slot *slot = calloc((size_t)c->batch, sizeof *slot);
    vitrun_context *context = NULL;
    if (out->mean && slot)
        context = vitrun_context_open(c->model, c->batch, err);
    else
        vte_fail(err, VITRUN_MACHINE, "out of memory (average attention)");
    int bad = context ? run_all(c, context, slot, out, err) : -1;
    vitrun_context_close(context);
    free(slot);
    if (bad)
        vte_calibration_free(out);
    else
        divide(out);
    return bad;
}

void vte_calibration_free(vte_calibration *c)
{
    free(c->mean);
    c->mean = NULL;
}

/* ---- one head ---- */
static const float *row_of(const vte_calibration *c, int layer, int head, int query)
{
    size_t n = (size_t)c->tokens;
    return c->mean + (((size_t)layer * (size_t)c->heads + (size_t)head) * n + (size_t)query) * n;
}

typedef struct {
    float weight;
    int key;
} weighted;

static int heavier_first(const void *a, const void *b)
{
    const weighted *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight)
                                  : x->key - y->key;
}

static double sort_row(weighted *w, const float *row, int n)
{
    double sum = 0;
    for (int k = 0; k < n; k++) {
        w[k] = (weighted){row[k], k};
        sum += row[k];
    }
    qsort(w, (size_t)n, sizeof *w, heavier_first);
    return sum;
}

/* The least number of keys that hold `mass` of the row; 0 where the row is empty. */
static int keys_for(const weighted *w, int n, double sum, double mass)
{
    double held = 0;
    int k = 0;
    while (k < n && sum > 0 && held < mass * sum * (1 - 1e-6))
        held += w[k++].weight;
    return k;
}

static double distance(const vte_calibration *c, int query, int key)
{
    int a = query - c->prefix, b = key - c->prefix;
    return hypot(a / c->grid_w - b / c->grid_w, a % c->grid_w - b % c->grid_w);
}

static void add_row(const vte_calibration *c, const float *row, int query, vte_concentration *out)
{
    double patches = 0, far = 0;
    for (int k = 0; k < c->tokens; k++) {
        out->entropy -= row[k] > 0 ? row[k] * log((double)row[k]) : 0;
        out->prefix += k < c->prefix ? row[k] : 0;
        if (query >= c->prefix && k >= c->prefix) {
            patches += row[k];
            far += row[k] * distance(c, query, k);
        }
    }
    out->distance += patches > 0 ? far / patches : 0;
}

int vte_concentration_of(const vte_calibration *c, int layer, int head, vte_concentration *out,
                         vitrun_error *err)
{
    int n = c->tokens;
    weighted *w = malloc((size_t)n * sizeof *w);
    *out = (vte_concentration){0};
    if (!w)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (row of attention)");
    for (int q = 0; q < n; q++) {
        const float *row = row_of(c, layer, head, q);
        double sum = sort_row(w, row, n);
        out->keys50 += keys_for(w, n, sum, 0.5);
        out->keys90 += keys_for(w, n, sum, 0.9);
        out->keys99 += keys_for(w, n, sum, 0.99);
        add_row(c, row, q, out);
    }
    free(w);
    out->keys50 /= n, out->keys90 /= n, out->keys99 /= n;
    out->entropy /= n, out->prefix /= n;
    out->distance /= n - c->prefix;
    return 0;
}

int vte_concentrations(const vte_calibration *c, vte_concentration *out, vitrun_error *err)
{
    int bad = 0;
#pragma omp parallel for schedule(dynamic) num_threads(c->threads) reduction(| : bad)
    for (int at = 0; at < c->layers * c->heads; at++) {
        vitrun_error unused;
        bad |= vte_concentration_of(c, at / c->heads, at % c->heads, &out[at], &unused) != 0;
    }
    return bad ? vte_fail(err, VITRUN_MACHINE, "out of memory (rows of attention)") : 0;
}

int vte_mass_lost(const vte_calibration *c, const vitrun_masks *masks, int i, int head,
                  double *lost, vitrun_error *err)
{
    int n = c->tokens, layer = vitrun_masks_at(masks, i)->layer, bad = 0;
    uint8_t *allowed = malloc((size_t)n);
    double kept = 0, all = 0;
    if (!allowed)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (row of a mask)");
    for (int q = 0; q < n && !bad; q++) {
        const float *row = row_of(c, layer, head, q);
        bad = vitrun_masks_row(masks, i, q, allowed, err);
        for (int k = 0; k < n && !bad; k++) {
            kept += allowed[k] ? row[k] : 0;
            all += row[k];
        }
    }
    free(allowed);
    *lost = all > 0 ? (all - kept) / all : 0;
    return bad;
}

/* ---- masks ---- */
static void mean_row(const vte_calibration *c, int layer, int query, float *to)
{
    memset(to, 0, (size_t)c->tokens * sizeof *to);
    for (int h = 0; h < c->heads; h++)
        for (int k = 0; k < c->tokens; k++)
            to[k] += row_of(c, layer, h, query)[k] / (float)c->heads;
}

/* Row `at` of the masks, with room for a row in `w` and `row`. */
static void choose_keys(const vte_calibration *c, int layer, int per_head, int at, int keys,
                        double mass, weighted *w, float *row, uint8_t *to)
{
    int n = c->tokens;
    if (!per_head)
        mean_row(c, layer, at, row);
    double sum = sort_row(w, per_head ? row_of(c, layer, at / n, at % n) : row, n);
    int count = keys ? keys : keys_for(w, n, sum, mass);
    memset(to, 0, (size_t)n);
    for (int k = 0; k < count && k < n; k++)
        to[w[k].key] = 1;
}

int vte_mask_from(const vte_calibration *c, int layer, int per_head, int keys, double mass,
                  uint8_t *mask, vitrun_error *err)
{
    int rows = (per_head ? c->heads : 1) * c->tokens, bad = 0;
    size_t n = (size_t)c->tokens;
#pragma omp parallel num_threads(c->threads) reduction(| : bad)
    {
        weighted *w = malloc(n * sizeof *w);
        float *row = malloc(n * sizeof *row);
        bad = !w || !row;
#pragma omp for schedule(dynamic, 16)
        for (int at = 0; at < rows; at++)
            if (!bad)
                choose_keys(c, layer, per_head, at, keys, mass, w, row, mask + (size_t)at * n);
        free(w);
        free(row);
    }
    return bad ? vte_fail(err, VITRUN_MACHINE, "out of memory (rows of a mask)") : 0;
}
