/* vitrun bench: latency of whole forward passes, per batch size.
 *
 * Each size is planned, warmed up and timed by itself: the model is opened anew for it, because the
 * choice of kernels may depend on the batch. Times are of a batch. The table per operation comes
 * from separate, profiled passes, so that the clock's own cost is not in the latency.
 *
 * Where there are masks, the same model without them is timed, too, for what they can gain at most:
 * if the attention that they are on took no time, the model would be 1 / (1 - share) times as fast,
 * with that attention's share of the time without masks (Amdahl's law).
 */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

enum { DEFAULT_RUNS = 20, LEAST_RUNS = 5, WARM_UP = 2, PROFILED = 3, TIME_LIMIT_MS = 10000 };

typedef struct {
    const cli_options *o;
    cli_io *io;
    json_t *runs, *layers; /* of a JSON report */
    cli_table *table;      /* of a text report: a row a batch size */
    FILE *details;         /* and what follows it */
    char *details_text;
    size_t details_size;
} bench_state;

typedef struct {
    vitrun_model *model;
    vitrun_context *context;
    const char *path; /* of the image, or NULL */
    vitrun_image synthetic;
    float *logits; /* [batch, outputs] */
    int batch, end_to_end;
} workload;

/* What the model takes without masks. */
typedef struct {
    double median, share; /* milliseconds; of what masks are on elsewhere, in its attention */
} unmasked;

/* ---- the work that is timed ---- */
/* Bytes that look like noise, the same in every run. */
static uint8_t noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u; /* the constants of Numerical Recipes */
    return (uint8_t)(*state >> 24);
}

static int prepare_slot(const workload *w, float *slot, vitrun_error *err)
{
    return w->path ? vte_image_read(w->model, w->path, slot, err)
                   : vitrun_preprocess(w->model, &w->synthetic, slot, err);
}

static int prepare(const workload *w, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(w->model);
    size_t size = (size_t)info->channels * (size_t)info->image_height * (size_t)info->image_width;
    for (int i = 0; i < w->batch; i++)
        if (prepare_slot(w, vitrun_context_input(w->context) + (size_t)i * size, err) != 0)
            return -1;
    return 0;
}

/* One piece of work and how long it took: a forward pass on the device, or all from image to
 * logits. */
static int work(const workload *w, double *ms, vitrun_error *err)
{
    vitrun_outputs out = {.logits = w->logits};
    if (!w->end_to_end)
        return vitrun_time(w->context, ms, err);
    double start = vte_now_ms();
    if (prepare(w, err) != 0 || vitrun_forward(w->context, w->batch, &out, err) != 0)
        return -1;
    *ms = vte_now_ms() - start;
    return 0;
}

/* The whole way once, so that the device has its input and everything is ready. */
static int warm_up(const workload *w, vitrun_error *err)
{
    vitrun_outputs out = {.logits = w->logits};
    double ms;
    if (vitrun_forward(w->context, w->batch, &out, err) != 0)
        return -1;
    for (int i = 0; i < WARM_UP; i++)
        if (work(w, &ms, err) != 0)
            return -1;
    return 0;
}

/* Times `runs` (0: as many as is sensible) pieces of work into a new array. */
static double *sample(const workload *w, int runs, int *count, cli_io *io, vitrun_error *err)
{
    int most = runs ? runs : DEFAULT_RUNS;
    double *ms = cli_alloc((size_t)most, sizeof *ms), begin = vte_now_ms();
    if (warm_up(w, err) != 0)
        goto fail;
    for (*count = 0; *count < most; ++*count) {
        if (!runs && *count >= LEAST_RUNS && vte_now_ms() - begin > TIME_LIMIT_MS)
            break;
        if (work(w, &ms[*count], err) != 0)
            goto fail;
        cli_progress(io, (size_t)*count + 1, (size_t)most, "runs");
    }
    cli_progress_clear(io);
    return ms;
fail:
    free(ms);
    return NULL;
}

static int profile(const workload *w, vitrun_error *err)
{
    vitrun_profile(w->context, 1);
    vitrun_outputs out = {.logits = w->logits};
    for (int i = 0; i < PROFILED; i++)
        if (vitrun_forward(w->context, w->batch, &out, err) != 0)
            return -1;
    return 0;
}

/* ---- reports ---- */
static int is_masked(const cli_options *o)
{
    return o->mask_config || o->masks.count > 0;
}

static json_t *layers_json(const workload *w)
{
    json_t *layers = cli_array();
    for (int i = 0; i < vitrun_layer_count(w->model); i++) {
        const vitrun_layer *l = vitrun_layer_at(w->model, i);
        json_t *layer = report_layer(l);
        double ms = report_attention_ms(w->context, w->model, l);
        cli_set(layer, "ms", ms < 0 ? json_null() : cli_real(ms));
        cli_append(layers, layer);
    }
    return layers;
}

/* The document's beginning comes from the first batch size, and so do its layers. */
static void begin_json(bench_state *s, const workload *w)
{
    const vitrun_info *info = vitrun_info_get(w->model);
    cli_json_begin(s->io);
    report_head(s->io, info);
    cli_json_put(s->io, "model", report_model(info));
    cli_json_put(s->io, "end_to_end", json_boolean(w->end_to_end));
    s->runs = cli_array();
    s->layers = layers_json(w);
}

static json_t *unmasked_json(const unmasked *u, double median)
{
    json_t *dense = cli_object();
    cli_set(dense, "median_ms", cli_real(u->median));
    cli_set(dense, "attention_share", cli_real(u->share));
    cli_set(dense, "most_speedup", cli_real(1 / (1 - u->share)));
    cli_set(dense, "speedup", cli_real(u->median / median));
    return dense;
}

static void add_json(bench_state *s, const workload *w, const vte_spread *t,
                     const vitrun_memory *memory)
{
    json_t *run = cli_object();
    cli_set(run, "batch", cli_integer((uint64_t)w->batch));
    cli_set(run, "runs", cli_integer((uint64_t)t->count));
    cli_set(run, "median_ms", cli_real(t->median));
    cli_set(run, "min_ms", cli_real(t->min));
    cli_set(run, "p90_ms", cli_real(t->p90));
    cli_set(run, "images_per_s", cli_real(1e3 * w->batch / t->median));
    cli_set(run, "peak_bytes", cli_integer(memory->peak_bytes));
    cli_set(run, "memory", report_memory(memory));
    cli_set(run, "operations", report_profile(w->context, PROFILED));
    cli_set(run, "layers", layers_json(w));
    cli_append(s->runs, run);
}

static void begin_text(bench_state *s, const workload *w)
{
    const vitrun_info *i = vitrun_info_get(w->model);
    fprintf(s->io->out, "%s on %s %s, %d thread%s, %s\n", i->architecture, i->device, i->dtype,
            i->threads, i->threads == 1 ? "" : "s",
            !w->end_to_end ? "forward pass only"
            : w->path      ? "from the image file to logits"
                           : "from a decoded 640x480 picture to logits");
    s->table = cli_table_new("rrrrrrrr");
    cli_cells(s->table, (const char *const[]){"batch", "median", "min", "p90", "images/s",
                                              "planned", "resident", "runs", NULL});
}

static void add_text(bench_state *s, const workload *w, const vte_spread *t,
                     const vitrun_memory *memory)
{
    char n[CLI_AMOUNT];
    cli_cell(s->table, "%d", w->batch);
    cli_cell(s->table, "%s", cli_time(n, t->median));
    cli_cell(s->table, "%s", cli_time(n, t->min));
    cli_cell(s->table, "%s", cli_time(n, t->p90));
    double rate = 1e3 * w->batch / t->median;
    cli_cell(s->table, "%.*f", rate < 100, rate);
    cli_cell(s->table, "%s", cli_bytes(n, memory->peak_bytes));
    cli_cell(s->table, "%s", cli_bytes(n, vte_resident_peak()));
    cli_cell(s->table, "%d", t->count);
    fprintf(s->details, "\nbatch %d, milliseconds a forward pass\n", w->batch);
    report_profile_text(s->details, w->context, PROFILED);
    if (is_masked(s->o)) {
        fprintf(s->details, "\nbatch %d, attention\n", w->batch);
        report_layers_text(s->details, w->model, w->context);
    }
}

static void finish(bench_state *s)
{
    if (s->o->json) {
        cli_json_put(s->io, "runs", s->runs);
        cli_json_put(s->io, "layers", s->layers);
        cli_json_end(s->io);
        return;
    }
    cli_table_end(s->table, 2, s->io->out);
    if (fflush(s->details) != 0 || ferror(s->details))
        cli_out_of_memory();
    fwrite(s->details_text, 1, s->details_size, s->io->out);
    s->table = NULL;
}

/* ---- one batch size ---- */
static int time_and_profile(const bench_state *s, const workload *w, vte_spread *spread,
                            vitrun_error *err)
{
    int count;
    double *ms = prepare(w, err) != 0 ? NULL : sample(w, s->o->runs, &count, s->io, err);
    if (!ms)
        return -1;
    *spread = vte_spread_of(ms, count);
    free(ms);
    return profile(w, err);
}

static int measure(bench_state *s, const workload *w, int is_first, double *median,
                   vitrun_error *err)
{
    vitrun_memory memory;
    vte_spread spread;
    if (vitrun_memory_plan(w->model, w->batch, &memory, err) != 0 ||
        time_and_profile(s, w, &spread, err) != 0)
        return -1;
    *median = spread.median;
    if (is_first)
        s->o->json ? begin_json(s, w) : begin_text(s, w);
    s->o->json ? add_json(s, w, &spread, &memory) : add_text(s, w, &spread, &memory);
    return 0;
}

static int open_workload(const bench_state *s, workload *w, const cli_options *o, cli_io *warnings,
                         vitrun_error *err)
{
    vitrun_model *model = cli_open(o, w->batch, warnings, err);
    if (!model)
        return -1;
    w->model = model;
    w->end_to_end = s->o->end_to_end;
    w->path = s->o->images.count ? s->o->images.item[0] : NULL;
    w->context = vitrun_context_open(model, w->batch, err);
    w->logits =
        cli_alloc((size_t)w->batch * (size_t)vitrun_info_get(model)->outputs, sizeof(float));
    return w->context ? 0 : -1;
}

static void close_workload(workload *w)
{
    free(w->logits);
    vitrun_context_close(w->context);
    vitrun_close(w->model);
}

/* ---- the same without masks ---- */
/* How many heads "0-3,5" are. */
static int count_heads(const char *text)
{
    int count = 0;
    for (char *end; *text; text = *end ? end + 1 : end) {
        long first = strtol(text, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        count += (int)(last - first) + 1;
    }
    return count;
}

/* The share of each layer's heads that are under masks. */
static double *masked_heads(const vitrun_model *model)
{
    const vitrun_info *info = vitrun_info_get(model);
    double *share = cli_alloc((size_t)info->layers, sizeof *share);
    for (int i = 0; i < vitrun_layer_count(model); i++) {
        const vitrun_layer *l = vitrun_layer_at(model, i);
        if (strcmp(l->mask, "dense") != 0)
            share[l->layer] += (double)count_heads(l->heads) / info->heads;
    }
    return share;
}

/* The share of all time that is in the attention of those heads. */
static double attention_share(const vitrun_context *context, const double *heads)
{
    double attention = 0, all = 0;
    for (int i = 0; i < vitrun_profile_count(context); i++) {
        vitrun_profile_entry e;
        vitrun_profile_at(context, i, &e);
        all += e.ms;
        if (strcmp(e.op, "attention") == 0)
            attention += e.ms * heads[e.layer];
    }
    return all > 0 ? attention / all : 0;
}

static void add_unmasked(bench_state *s, const unmasked *u, double median)
{
    char dense[CLI_AMOUNT];
    if (s->o->json)
        cli_set(json_array_get(s->runs, json_array_size(s->runs) - 1), "dense",
                unmasked_json(u, median));
    else
        fprintf(s->details,
                "  without masks %s, of which %.1f %% in that attention: if it took no time, %.2f "
                "times as fast; with masks %.2f times\n",
                cli_time(dense, u->median), 100 * u->share, 1 / (1 - u->share), u->median / median);
}

static int measure_unmasked(bench_state *s, int batch, const vitrun_image *synthetic,
                            const double *heads, double median, vitrun_error *err)
{
    cli_options plain = *s->o;
    workload w = {.synthetic = *synthetic, .batch = batch};
    vte_spread spread;
    plain.mask_config = NULL;
    plain.masks.count = 0;
    int status = open_workload(s, &w, &plain, NULL, err);
    if (status == 0 && (status = time_and_profile(s, &w, &spread, err)) == 0) {
        unmasked u = {spread.median, attention_share(w.context, heads)};
        add_unmasked(s, &u, median);
    }
    close_workload(&w);
    return status;
}

static int bench_batch(bench_state *s, int index, int batch, const vitrun_image *synthetic,
                       vitrun_error *err)
{
    workload w = {.synthetic = *synthetic, .batch = batch};
    double median = 0, *heads = NULL;
    /* the first size's warnings are everyone's */
    int status = open_workload(s, &w, s->o, index == 0 ? s->io : NULL, err);
    if (status == 0)
        status = measure(s, &w, index == 0, &median, err);
    if (status == 0 && is_masked(s->o))
        heads = masked_heads(w.model);
    close_workload(&w); /* before the next, for the sake of memory */
    if (heads)
        status = measure_unmasked(s, batch, synthetic, heads, median, err);
    free(heads);
    return status;
}

static int bench_all(bench_state *s, const vitrun_image *synthetic, vitrun_error *err)
{
    cli_ints batches = s->o->batches;
    if (batches.count == 0)
        batches = (cli_ints){.value = {1}, .count = 1};
    int status = 0;
    for (int i = 0; i < batches.count && status == 0; i++)
        status = bench_batch(s, i, batches.value[i], synthetic, err);
    if (status == 0)
        finish(s);
    else if (s->o->json) {
        json_decref(s->runs);
        json_decref(s->layers);
    } else if (s->table)
        cli_table_end(s->table, 0, s->details); /* which nobody reads: to free it */
    return status;
}

static int check_options(const cli_options *o, vitrun_error *err)
{
    if (o->grid.h)
        return vte_fail(err, VITRUN_USAGE, "--grid needs --attention (the weights know their own)");
    if (o->images.count && strcmp(o->images.item[0], "-") == 0)
        return vte_fail(err, VITRUN_USAGE, "bench reads its IMAGE often: it must be a file");
    return 0;
}

int cmd_bench(const cli_options *o, cli_io *io, vitrun_error *err)
{
    enum { WIDTH = 640, HEIGHT = 480 };
    if (o->attention)
        return cmd_bench_attention(o, io, err);
    if (check_options(o, err) != 0)
        return -1;
    bench_state s = {.o = o, .io = io};
    s.details = cli_memory_stream(&s.details_text, &s.details_size);
    vitrun_image synthetic = {WIDTH, HEIGHT, cli_alloc(WIDTH * HEIGHT, 3)};
    uint32_t state = 1;
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
        synthetic.rgb[i] = noise(&state);
    int status = bench_all(&s, &synthetic, err);
    free(synthetic.rgb);
    fclose(s.details);
    free(s.details_text);
    return status;
}
