/* See harm.h. */
#include "engine/experiments/harm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_ROWS = 3 };

static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

/* The one layer of the row that is masked, or that is not (*but_one); -1: neither. */
static int lone_layer(const json_t *row, int *but_one)
{
    const json_t *densities = json_object_get(row, "layers_density");
    int layers = (int)json_array_size(densities), masked = 0, layer[2] = {-1, -1};
    for (int i = 0; i < layers; i++) {
        int is_masked = json_number_value(json_array_get(densities, (size_t)i)) < 1;
        masked += is_masked;
        layer[is_masked] = i;
    }
    *but_one = masked != 1;
    return masked == 1 ? layer[1] : masked == layers - 1 ? layer[0] : -1;
}

/* The mask that the row is of; NULL: none yet. */
static vte_harm_mask *find(const vte_harm *h, const char *name, int but_one)
{
    for (int i = 0; i < h->masks; i++)
        if (h->mask[i].but_one == but_one && strcmp(h->mask[i].name, name) == 0)
            return &h->mask[i];
    return NULL;
}

static const char *name_of(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    return name ? name : "";
}

/* There is room for one a row. */
static vte_harm_mask *add_mask(vte_harm *h, const char *name, int but_one)
{
    size_t layers = (size_t)h->layers;
    vte_harm_mask *m = &h->mask[h->masks];
    m->name = name;
    m->but_one = but_one;
    m->kl = h->values + 2 * layers * (size_t)h->masks;
    m->lost = m->kl + layers;
    for (size_t i = 0; i < 2 * layers; i++)
        m->kl[i] = NAN;
    h->masks++;
    return m;
}

static void add_row(vte_harm *h, const json_t *row, const json_t *dense)
{
    int but_one, layer = lone_layer(row, &but_one);
    if (layer < 0 || layer >= h->layers)
        return;
    vte_harm_mask *m = find(h, name_of(row), but_one);
    if (!m)
        m = add_mask(h, name_of(row), but_one);
    m->rows += isnan(m->kl[layer]);
    m->kl[layer] = number(row, "kl_to_dense");
    m->lost[layer] = 100 * (number(dense, "top1") - number(row, "top1"));
}

static void drop_short(vte_harm *h)
{
    int kept = 0;
    for (int i = 0; i < h->masks; i++)
        if (h->mask[i].rows >= LEAST_ROWS)
            h->mask[kept++] = h->mask[i];
    h->masks = kept;
}

int vte_harm_of(vte_harm *h, const json_t *rows, const json_t *dense)
{
    size_t i, most = json_array_size(rows) + 1;
    json_t *row;
    *h = (vte_harm){.layers = (int)json_array_size(json_object_get(dense, "layers_density"))};
    h->mask = calloc(most, sizeof *h->mask);
    h->values = calloc(most * 2 * (size_t)h->layers + 1, sizeof *h->values);
    if (!h->mask || !h->values) {
        vte_harm_free(h);
        return -1;
    }
    json_array_foreach(rows, i, row)
    {
        add_row(h, row, dense);
    }
    drop_short(h);
    return 0;
}

void vte_harm_free(vte_harm *h)
{
    free(h->mask);
    free(h->values);
    *h = (vte_harm){0};
}

int vte_harm_has(const vte_harm *h, const json_t *row)
{
    int but_one, layer = lone_layer(row, &but_one);
    return layer >= 0 && find(h, name_of(row), but_one) != NULL;
}
