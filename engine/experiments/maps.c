/* See maps.h. Pictures show the model's own input, scaled to 0 ... 255, under a heat map whose
 * scale is the map's own largest patch. */
#include "engine/experiments/maps.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/experiments/measure.h"

enum { LEAST_SIDE = 224 }; /* smaller pictures are enlarged */

typedef struct {
    const vitrun_info *info;
    const vte_map_options *o;
    float *row;  /* [layers, heads, tokens] of the query */
    float *mean; /* [layers, tokens, tokens], NULL: no rollout */
} maps;

/* Heads of a layer come side by side: each adds its part to the mean. */
static void on_rows(void *user, const vitrun_attention_rows *r)
{
    maps *m = user;
    size_t n = (size_t)m->info->tokens, heads = (size_t)m->info->heads;
    int at = m->o->query - r->first;
    if (at >= 0 && at < r->rows)
        memcpy(m->row + ((size_t)r->layer * heads + (size_t)r->head) * n,
               r->weights + (size_t)at * n, n * sizeof *m->row);
    float *mean = m->mean ? m->mean + ((size_t)r->layer * n + (size_t)r->first) * n : NULL;
    for (size_t i = 0; mean && i < (size_t)r->rows * n; i++) {
        float part = r->weights[i] / (float)heads;
#pragma omp atomic
        mean[i] += part;
    }
}

/* From the last layer back to the first: a row times a matrix each. */
static void roll_out(const maps *m, float *out, float *next)
{
    size_t n = (size_t)m->info->tokens;
    memset(out, 0, n * sizeof *out);
    out[m->o->query] = 1;
    for (int l = m->info->layers - 1; l >= 0; l--) {
        const float *a = m->mean + (size_t)l * n * n;
        for (size_t k = 0; k < n; k++)
            next[k] = 0.5f * out[k];
        for (size_t q = 0; q < n; q++)
            for (size_t k = 0; k < n; k++)
                next[k] += 0.5f * out[q] * a[q * n + k];
        memcpy(out, next, n * sizeof *out);
    }
}

/* ---- pictures ---- */
typedef struct {
    int h, w, times; /* of the input; enlarged by */
    uint8_t *rgb;    /* [h * times, w * times, 3] */
    uint8_t *grey;   /* [h, w] the model's input */
} canvas;

/* Black, violet, red, orange, yellow. */
static void heat(float x, float rgb[3])
{
    static const float stop[5][3] = {
        {0, 0, 4}, {87, 16, 110}, {188, 55, 84}, {249, 142, 9}, {252, 255, 164}};
    float at = (x < 0 ? 0 : x > 1 ? 1 : x) * 4;
    int i = at >= 4 ? 3 : (int)at;
    for (int c = 0; c < 3; c++)
        rgb[c] = stop[i][c] + (at - (float)i) * (stop[i + 1][c] - stop[i][c]);
}

static int open_canvas(canvas *c, const vitrun_info *i, const float *input)
{
    size_t pixels = (size_t)i->image_height * (size_t)i->image_width;
    float low = INFINITY, high = -INFINITY;
    int side = i->image_height < i->image_width ? i->image_height : i->image_width;
    c->h = i->image_height, c->w = i->image_width;
    c->times = (LEAST_SIDE + side - 1) / side;
    c->grey = malloc(pixels);
    c->rgb = malloc(pixels * 3 * (size_t)c->times * (size_t)c->times);
    if (!c->grey || !c->rgb)
        return -1;
    for (size_t p = 0; p < pixels * (size_t)i->channels; p++) {
        low = input[p] < low ? input[p] : low;
        high = input[p] > high ? input[p] : high;
    }
    for (size_t p = 0; p < pixels; p++) {
        float sum = 0;
        for (size_t ch = 0; ch < (size_t)i->channels; ch++)
            sum += input[ch * pixels + p] - low;
        sum /= (float)i->channels * (high > low ? high - low : 1);
        c->grey[p] = (uint8_t)(255 * sum);
    }
    return 0;
}

/* The map's value between the middles of patches, by bilinear interpolation. */
static float value_at(const float *map, int gh, int gw, float y, float x)
{
    y = y < 0 ? 0 : y > (float)(gh - 1) ? (float)(gh - 1) : y;
    x = x < 0 ? 0 : x > (float)(gw - 1) ? (float)(gw - 1) : x;
    int i = (int)y, j = (int)x, i1 = i + 1 < gh ? i + 1 : i, j1 = j + 1 < gw ? j + 1 : j;
    float v = y - (float)i, u = x - (float)j;
    return (1 - v) * ((1 - u) * map[i * gw + j] + u * map[i * gw + j1]) +
           v * ((1 - u) * map[i1 * gw + j] + u * map[i1 * gw + j1]);
}

static int draw(canvas *c, const vitrun_info *info, const float *map, const char *path,
                vitrun_error *err)
{
    int gh = info->grid_h, gw = info->grid_w, h = c->h * c->times, w = c->w * c->times;
    float most = 0;
    for (int p = 0; p < gh * gw; p++)
        most = map[p] > most ? map[p] : most;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float rgb[3], gy = ((float)y + 0.5f) * (float)gh / (float)h - 0.5f,
                          gx = ((float)x + 0.5f) * (float)gw / (float)w - 0.5f;
            heat(most > 0 ? value_at(map, gh, gw, gy, gx) / most : 0, rgb);
            float under = c->grey[y / c->times * c->w + x / c->times];
            for (int k = 0; k < 3; k++)
                c->rgb[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)k] =
                    (uint8_t)(0.4f * under + 0.6f * rgb[k]);
        }
    return vitrun_png_write(path, c->rgb, w, h, err);
}

/* ---- files ---- */
static int draw_all(const maps *m, canvas *c, const float *rollout, const char *dir,
                    vitrun_error *err)
{
    const vitrun_info *i = m->info;
    char path[4096];
    int bad = 0;
    for (int l = 0; l < i->layers && !bad; l++)
        for (int h = 0; h < i->heads && !bad; h++) {
            snprintf(path, sizeof path, "%s/layer%02d_head%02d.png", dir, l, h);
            const float *row = m->row + (size_t)(l * i->heads + h) * (size_t)i->tokens;
            bad = draw(c, i, row + i->prefix_tokens, path, err);
        }
    if (!bad && rollout) {
        snprintf(path, sizeof path, "%s/rollout.png", dir);
        bad = draw(c, i, rollout + i->prefix_tokens, path, err);
    }
    return bad;
}

static int save(const maps *m, canvas *c, float *rollout, const char *dir, vitrun_error *err)
{
    const vitrun_info *i = m->info;
    char path[4096];
    uint64_t shape[] = {(uint64_t)i->layers, (uint64_t)i->heads, (uint64_t)i->tokens};
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return vte_fail(err, VITRUN_MACHINE, "%s: %s", dir, strerror(errno));
    snprintf(path, sizeof path, "%s/attention.npy", dir);
    if (vitrun_save_f32(path, "attention", m->row, shape, 3, err) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/rollout.npy", dir);
    if (rollout && vitrun_save_f32(path, "rollout", rollout, shape + 2, 1, err) != 0)
        return -1;
    return draw_all(m, c, rollout, dir, err);
}

int vte_map_query(const vitrun_info *info)
{
    return info->prefix_tokens ? 0 : info->grid_h / 2 * info->grid_w + info->grid_w / 2;
}

int vte_maps_write(const vitrun_model *model, vitrun_context *context, const vte_map_options *o,
                   const char *dir, vitrun_error *err)
{
    const vitrun_info *i = vitrun_info_get(model);
    size_t n = (size_t)i->tokens, layers = (size_t)i->layers;
    maps m = {.info = i, .o = o, .row = calloc(layers * (size_t)i->heads * n, sizeof(float))};
    float *rollout = o->rollout ? calloc(2 * n, sizeof *rollout) : NULL;
    canvas c = {0};
    m.mean = o->rollout ? calloc(layers * n, n * sizeof *m.mean) : NULL;
    int bad = 0;
    if (strlen(dir) > 4000)
        bad = vte_fail(err, VITRUN_USAGE, "the folder's name is too long");
    else if (!m.row || (o->rollout && (!rollout || !m.mean)) ||
             open_canvas(&c, i, vitrun_context_input(context)) != 0)
        bad = vte_fail(err, VITRUN_MACHINE, "out of memory (attention maps)");
    if (!bad)
        bad = vitrun_attend(context, 1, o->rollout ? 0 : o->query, o->rollout ? i->tokens : 1,
                            on_rows, &m, NULL, err);
    if (!bad && rollout)
        roll_out(&m, rollout, rollout + n);
    if (!bad)
        bad = save(&m, &c, rollout, dir, err);
    free(c.grey);
    free(c.rgb);
    free(m.row);
    free(m.mean);
    free(rollout);
    return bad;
}
