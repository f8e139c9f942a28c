/* See sweep.h. */
#include "engine/experiments/sweep.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/evaluate.h"
#include "engine/experiments/measure.h"
#include "engine/experiments/store.h"

enum { CPU_BATCH = 8, GPU_BATCH = 64 };

typedef struct {
    vte_sweep *s;
    vitrun_model *model; /* unmasked, of the type and size below */
    const char *dtype, *img_size;
    vte_dataset data;
    float *dense; /* its logits */
    vte_scores dense_scores;
    int named_bad;      /* the bad pictures have been named */
    size_t done, to_do; /* pictures */
} runner;

static const char *text_of(const json_t *point, const char *key)
{
    const char *text = json_string_value(json_object_get(point, key));
    return text ? text : "";
}

static int is_mine(const vte_sweep *s, size_t index)
{
    return (int)(index % (size_t)s->shards) == s->shard - 1;
}

static int is_done(const vte_sweep *s, const json_t *point)
{
    return vte_row_find(s->rows, text_of(point, "options")) != NULL;
}

/* ---- the weights, the pictures, the unmasked logits ---- */
static void close_model(runner *r)
{
    vte_scores_free(&r->dense_scores);
    free(r->dense);
    r->dense = NULL;
    vte_dataset_close(&r->data);
    vitrun_close(r->model);
    r->model = NULL;
}

static int open_model(runner *r, const json_t *point, vitrun_error *err)
{
    vitrun_options o = r->s->base;
    r->dtype = text_of(point, "dtype"), r->img_size = text_of(point, "img_size");
    if (*r->dtype)
        o.dtype = r->dtype;
    if (*r->img_size) {
        char end;
        int n = sscanf(r->img_size, "%9dx%9d%c", &o.image_height, &o.image_width, &end);
        if (n == 1)
            o.image_width = o.image_height;
        if (n < 1 || n > 2 || o.image_height < 1 || o.image_width < 1)
            return vte_fail(err, VITRUN_INPUT, "image size \"%s\" (expected N or HxW)",
                            r->img_size);
    }
    r->model = vitrun_open(&o, err);
    return r->model ? vte_dataset_open(&r->data, r->s->data, r->s->limit, r->model, err) : -1;
}

static int is_open_for(const runner *r, const json_t *point)
{
    return r->model && strcmp(r->dtype, text_of(point, "dtype")) == 0 &&
           strcmp(r->img_size, text_of(point, "img_size")) == 0;
}

static int batch_of(const runner *r, const json_t *point)
{
    int batch = (int)json_integer_value(json_object_get(point, "batch"));
    int suits = strcmp(vitrun_info_get(r->model)->device, "cpu") == 0 ? CPU_BATCH : GPU_BATCH;
    return batch ? batch : suits;
}

static vitrun_model *open_point(const runner *r, const json_t *point, const char **mask,
                                vitrun_error *err)
{
    vitrun_options o = r->s->base;
    const char *kernel = text_of(point, "kernel"), *config = text_of(point, "mask_config");
    const json_t *threshold = json_object_get(point, "density_threshold");
    o.mask_config = *config ? config : NULL;
    o.masks = mask;
    o.mask_count = *mask ? 1 : 0;
    o.kernel = strcmp(kernel, "auto") == 0 ? NULL : kernel;
    if (json_is_number(threshold))
        o.density_threshold = json_number_value(threshold);
    o.batch = batch_of(r, point);
    return vitrun_variant(r->model, &o, err);
}

static void on_bad(void *user, const char *message)
{
    runner *r = user;
    if (!r->named_bad && r->s->bad)
        r->s->bad(r->s->user, message);
}

static void on_progress(void *user, size_t done, size_t total)
{
    runner *r = user;
    (void)total;
    if (r->s->progress)
        r->s->progress(r->s->user, r->done + done, r->to_do);
}

static int evaluate(runner *r, const vitrun_model *model, int batch, const float *dense,
                    float *logits, vte_scores *scores, vitrun_error *err)
{
    vte_evaluation e = {.model = model,
                        .batch = batch,
                        .data = &r->data,
                        .dense = dense,
                        .logits = logits,
                        .user = r,
                        .bad = on_bad,
                        .progress = on_progress};
    int bad = vte_evaluate(&e, scores, err);
    if (bad)
        return -1;
    r->named_bad = 1;
    r->done += r->data.count;
    r->s->bad_images = scores->bad > r->s->bad_images ? scores->bad : r->s->bad_images;
    return scores->images ? 0
                          : vte_fail(err, VITRUN_INPUT, "%s: none of its %zu images can be used",
                                     r->s->data, r->data.count);
}

static int run_dense(runner *r, int batch, vitrun_error *err)
{
    size_t classes = (size_t)vitrun_info_get(r->model)->classes;
    r->dense = calloc(r->data.count, classes * sizeof *r->dense);
    if (!r->dense)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (logits of %zu images)", r->data.count);
    return evaluate(r, r->model, batch, NULL, r->dense, &r->dense_scores, err);
}

/* ---- one row ---- */
static int set(json_t *row, const char *key, json_t *value)
{
    return json_object_set_new(row, key, value);
}

static json_t *real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static int put_scores(json_t *row, const vte_scores *v)
{
    return set(row, "images", json_integer((json_int_t)v->images)) ||
           set(row, "bad_images", json_integer((json_int_t)v->bad)) ||
           set(row, "top1", real(v->top1)) || set(row, "top5", real(v->top5)) ||
           set(row, "loss", real(v->loss)) || set(row, "ece", real(v->ece)) ||
           set(row, "agreement_top1", real(v->agreement)) || set(row, "kl_to_dense", real(v->kl)) ||
           set(row, "cosine_to_dense", real(v->cosine)) ||
           set(row, "eval_images_per_s", real(v->images_per_s));
}

static int put_memory(json_t *row, const vitrun_memory *m)
{
    return set(row, "mask_bytes", json_integer((json_int_t)m->masks_bytes)) ||
           set(row, "attention_bytes", json_integer((json_int_t)m->attention_bytes)) ||
           set(row, "activation_bytes", json_integer((json_int_t)m->activations_bytes)) ||
           set(row, "weights_bytes", json_integer((json_int_t)m->weights_bytes)) ||
           set(row, "peak_bytes", json_integer((json_int_t)m->peak_bytes));
}

static int heads_in(const char *list)
{
    int count = 0, first, last;
    while (vte_next_range(&list, &first, &last))
        count += last - first + 1;
    return count;
}

/* Per layer: the mean density of its heads, its kernels; and their sums. */
static int put_layers(json_t *row, const vitrun_model *model)
{
    const vitrun_info *info = vitrun_info_get(model);
    json_t *densities = json_array(), *kernels = json_array();
    double total = 0, nnz = 0;
    int bad = 0;
    for (int i = 0, groups = vitrun_layer_count(model); i < groups && !bad;) {
        int layer = vitrun_layer_at(model, i)->layer;
        double density = 0;
        char text[96] = "";
        for (; i < groups && vitrun_layer_at(model, i)->layer == layer; i++) {
            const vitrun_layer *l = vitrun_layer_at(model, i);
            int heads = heads_in(l->heads);
            size_t n = strlen(text);
            density += l->density * heads / info->heads;
            nnz += (double)l->nnz * heads;
            if (!strstr(text, l->kernel))
                snprintf(text + n, sizeof text - n, "%s%s", n ? "+" : "", l->kernel);
        }
        total += density / info->layers;
        bad = json_array_append_new(densities, json_real(density)) ||
              json_array_append_new(kernels, json_string(text));
    }
    bad |= set(row, "layers_density", densities) | set(row, "layers_kernel", kernels);
    return bad || set(row, "density", json_real(total)) || set(row, "nnz", json_real(nnz));
}

/* Median time of a forward pass, on the pictures of the first batch. */
static int put_times(const runner *r, const vitrun_model *model, int batch, json_t *row,
                     vitrun_error *err)
{
    size_t size = vte_input_size(vitrun_info_get(model));
    double *ms = calloc((size_t)r->s->runs, sizeof *ms), unused;
    vitrun_outputs none = {0};
    vitrun_context *c = ms ? vitrun_context_open(model, batch, err) : NULL;
    int bad = c ? 0 : -1;
    for (int i = 0; i < batch && !bad; i++) {
        float *to = vitrun_context_input(c) + (size_t)i * size;
        vitrun_error ignored;
        if (vte_image_read(model, r->data.file[(size_t)i % r->data.count].path, to, &ignored) != 0)
            memset(to, 0, size * sizeof *to);
    }
    bad = bad || vitrun_forward(c, batch, &none, err) || vitrun_time(c, &unused, err) ? -1 : 0;
    for (int i = 0; i < r->s->runs && !bad; i++)
        bad = vitrun_time(c, &ms[i], err);
    if (!bad) {
        vte_spread t = vte_spread_of(ms, r->s->runs);
        bad = set(row, "ms", real(t.median)) || set(row, "ms_min", real(t.min)) ||
              set(row, "images_per_s", real(1e3 * batch / t.median));
        if (bad)
            vte_fail(err, VITRUN_MACHINE, "out of memory (row)");
    } else if (!ms)
        vte_fail(err, VITRUN_MACHINE, "out of memory (times)");
    vitrun_context_close(c);
    free(ms);
    return bad ? -1 : 0;
}

static int measure(runner *r, const vitrun_model *model, int batch, json_t *row, vitrun_error *err)
{
    vitrun_memory memory;
    vte_scores scores = {0};
    if (vitrun_memory_plan(model, batch, &memory, err) != 0 ||
        evaluate(r, model, batch, r->dense, NULL, &scores, err) != 0)
        return -1;
    int bad = put_scores(row, &scores) || set(row, "batch", json_integer(batch)) ||
              put_layers(row, model) || put_memory(row, &memory);
    vte_scores_free(&scores);
    if (bad)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (row)");
    return r->s->runs ? put_times(r, model, batch, row, err) : 0;
}

static int run_point(runner *r, const json_t *point, size_t index, vitrun_error *err)
{
    if (!is_open_for(r, point)) {
        close_model(r);
        if (open_model(r, point, err) != 0 || run_dense(r, batch_of(r, point), err) != 0)
            return -1;
    }
    char *mask = NULL;
    const char *expr = text_of(point, "mask"), *layers = text_of(point, "layers");
    if (*expr && strcmp(expr, "dense") != 0 && asprintf(&mask, "%s: %s", layers, expr) < 0)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (mask)");
    json_t *row = json_deep_copy(point);
    const char *masks = mask;
    if (!row)
        vte_fail(err, VITRUN_MACHINE, "out of memory (row)");
    vitrun_model *model = row ? open_point(r, point, &masks, err) : NULL;
    int bad = model ? measure(r, model, batch_of(r, point), row, err) : -1;
    vitrun_close(model);
    free(mask);
    if (!bad &&
        (set(row, "index", json_integer((json_int_t)index)) || json_array_append(r->s->rows, row)))
        bad = vte_fail(err, VITRUN_MACHINE, "out of memory (row)");
    if (!bad && r->s->row)
        bad = r->s->row(r->s->user, row, err);
    json_decref(row);
    return bad;
}

/* ---- all rows ---- */
/* Pictures still to run, once the first model has told how many there are. */
static size_t pictures_to_do(const vte_sweep *s, size_t pictures)
{
    size_t i, points = 1; /* the unmasked run */
    json_t *point;
    json_array_foreach(s->points, i, point) points += is_mine(s, i) && !is_done(s, point);
    return points * pictures;
}

int vte_sweep_run(vte_sweep *s, vitrun_error *err)
{
    runner r = {.s = s};
    size_t i;
    json_t *point;
    int bad = 0;
    json_array_foreach(s->points, i, point)
    {
        if (bad || !is_mine(s, i) || is_done(s, point))
            continue;
        if (!r.model && (bad = open_model(&r, point, err)) == 0) {
            r.to_do = pictures_to_do(s, r.data.count);
            bad = run_dense(&r, batch_of(&r, point), err);
        }
        bad = bad || run_point(&r, point, i, err) ? -1 : 0;
    }
    close_model(&r);
    return bad;
}

json_t *vte_rows_in_order(const json_t *rows, const json_t *points)
{
    json_t *ordered = json_array(), *point;
    size_t i;
    int bad = !ordered;
    json_array_foreach(points, i, point)
    {
        json_t *row = vte_row_find(rows, text_of(point, "options"));
        if (row && !bad)
            bad = json_array_append(ordered, row);
    }
    if (!bad)
        return ordered;
    json_decref(ordered);
    return NULL;
}

/* ---- CSV ---- */
static void csv_text(FILE *f, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text; text++)
        *text == '"' ? fputs("\"\"", f) : fputc(*text, f);
    fputc('"', f);
}

static void csv_value(FILE *f, const json_t *value)
{
    size_t i;
    json_t *item;
    if (json_is_string(value))
        csv_text(f, json_string_value(value));
    else if (json_is_integer(value))
        fprintf(f, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        fprintf(f, "%.9g", json_real_value(value));
    json_array_foreach(value, i, item)
    {
        fputs(i ? " " : "", f);
        csv_value(f, item);
    }
}

char *vte_rows_csv(const json_t *rows, size_t *size)
{
    static const char *const column[] = {"index",
                                         "name",
                                         "mask",
                                         "layers",
                                         "mask_config",
                                         "kernel",
                                         "batch",
                                         "img_size",
                                         "dtype",
                                         "density_threshold",
                                         "images",
                                         "bad_images",
                                         "top1",
                                         "top5",
                                         "loss",
                                         "ece",
                                         "agreement_top1",
                                         "kl_to_dense",
                                         "cosine_to_dense",
                                         "density",
                                         "nnz",
                                         "mask_bytes",
                                         "attention_bytes",
                                         "activation_bytes",
                                         "weights_bytes",
                                         "peak_bytes",
                                         "ms",
                                         "ms_min",
                                         "images_per_s",
                                         "eval_images_per_s",
                                         "layers_density",
                                         "layers_kernel",
                                         "options"};
    enum { COLUMNS = sizeof column / sizeof *column };
    char *text = NULL;
    size_t i;
    json_t *row;
    FILE *f = open_memstream(&text, size);
    for (int c = 0; f && c < COLUMNS; c++)
        fprintf(f, "%s%s", c ? "," : "", column[c]);
    json_array_foreach(rows, i, row) for (int c = 0; f && c < COLUMNS; c++)
    {
        fputs(c ? "," : "\n", f);
        csv_value(f, json_object_get(row, column[c]));
    }
    if (!f)
        return NULL;
    fputc('\n', f);
    return vte_text_end(f, &text);
}
