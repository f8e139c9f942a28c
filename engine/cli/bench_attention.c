/* vitrun bench --attention: one attention alone, every kernel that can serve it, for each of the given
 * masks and batch sizes.
 *
 * Kernels take turns, round by round, so that a change of the machine's pace touches all alike.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/cli/cli.h"

enum { MAX_KERNELS = 16, DEFAULT_RUNS = 20, LEAST_RUNS = 5, WARM_UP = 2, TIME_LIMIT_MS = 10000 };
static const uint64_t MOST_SCORES = UINT64_C(4) << 30; /* bytes of the reference's, unasked for */

typedef struct {
    const char *name;
    double predicted_ms; /* < 0: none */
    double *ms;          /* [runs] */
    int calls;           /* a run */
    vte_spread spread;
    uint64_t work_bytes, mask_bytes;
} timed_kernel;

typedef struct {
    const cli_options *o;
    vitrun_attention_options shape;
    vitrun_attention *attention;
    const vitrun_layer *layer;
    timed_kernel kernel[MAX_KERNELS];
    int kernels, runs; /* runs: done */
} duel;

/* "12x197x64" */
static int parse_shape(const char *text, vitrun_attention_options *shape, vitrun_error *err)
{
    int *field[] = {&shape->heads, &shape->tokens, &shape->head_dim};
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char number[16];
        size_t n = strcspn(at, "x");
        int is_last = i == 2;
        if (n >= sizeof number || (at[n] == '\0') != is_last)
            goto bad;
        memcpy(number, at, n);
        number[n] = '\0';
        if (cli_parse_int(number, 1, 1 << 20, field[i]) != 0)
            goto bad;
        at += n + !is_last;
    }
    return 0;
bad:
    return vte_fail(err, VITRUN_USAGE,
                    "--attention: bad value (expected HEADSxTOKENSxHEADDIM, found \"%.120s\")",
                    text);
}

static int check_options(const cli_options *o, vitrun_error *err)
{
    const struct {
        int given;
        const char *name;
    } model_only[] = {
        {cli_model_option(o) != NULL, cli_model_option(o)},
        {o->mask_config != NULL, "--mask-config"},
        {o->density_threshold >= 0, "--density-threshold"},
        {o->dispatch != NULL, "--dispatch"},
        {o->max_memory > 0, "--max-memory"},
        {o->end_to_end, "--end-to-end"},
        {o->images.count > 0, "IMAGE"},
    };
    for (size_t i = 0; i < sizeof model_only / sizeof *model_only; i++)
        if (model_only[i].given)
            return vte_fail(err, VITRUN_USAGE, "bench --attention runs no model: it takes no %s",
                            model_only[i].name);
    return 0;
}

static int open_shape(duel *d, int batch, const char *mask, vitrun_error *err)
{
    const cli_options *o = d->o;
    vitrun_attention_options_init(&d->shape);
    if (parse_shape(o->attention, &d->shape, err) != 0)
        return -1;
    d->shape.batch = batch;
    d->shape.grid_h = o->grid.h;
    d->shape.grid_w = o->grid.w;
    d->shape.mask = mask;
    d->shape.device = o->device ? o->device : "auto";
    d->shape.dtype = o->dtype;
    d->shape.threads = cli_threads(o);
    d->attention = vitrun_attention_open(&d->shape, err);
    return d->attention ? 0 : -1;
}

/* ---- timing ---- */
static void add_kernel(duel *d, const char *name, double predicted_ms, int most)
{
    for (int i = 0; i < d->kernels; i++)
        if (strcmp(d->kernel[i].name, name) == 0)
            return;
    if (d->kernels < MAX_KERNELS)
        d->kernel[d->kernels++] = (timed_kernel){.name = name,
                                                 .predicted_ms = predicted_ms,
                                                 .calls = 1,
                                                 .ms = cli_alloc((size_t)most, sizeof(double))};
}

/* The reference keeps all scores: at many tokens it would push everything else out of memory, and
 * take most of the time. */
static int is_too_big(const duel *d, const char *name)
{
    uint64_t work = 0, mask = 0;
    vitrun_error ignored;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (vitrun_attention_memory(d->attention, name, &work, &mask, &ignored) != 0)
        return 0;
    return work > MOST_SCORES ||
           (pages > 0 && page > 0 && work / 2 > (uint64_t)pages / 4 * (uint64_t)page);
}

static void choose_kernels(duel *d, int most, cli_io *io)
{
    const vitrun_layer *l = d->layer;
    if (d->o->kernel) { /* one that cannot serve is refused when it runs */
        double predicted = -1;
        for (int i = 0; i < l->candidate_count; i++)
            if (strcmp(d->o->kernel, l->candidates[i].kernel) == 0)
                predicted = l->candidates[i].predicted_ms;
        add_kernel(d, d->o->kernel, predicted, most);
        return;
    }
    for (int i = 0; i < l->candidate_count; i++)
        if (l->candidates[i].predicted_ms >= 0)
            add_kernel(d, l->candidates[i].kernel, l->candidates[i].predicted_ms, most);
    add_kernel(d, "dense", -1, most);
    if (is_too_big(d, "reference"))
        cli_warn(io,
                 "the reference kernel needs too much memory here: left out (--kernel reference "
                 "times it alone)");
    else
        add_kernel(d, "reference", -1, most);
}

/* A run of a short kernel is many calls, so that starting and waiting are not what is timed. */
static int calls_for(double ms)
{
    const double most = 100, run_ms = 1;
    return ms * most < run_ms ? (int)most : ms < run_ms ? (int)(run_ms / ms) : 1;
}

static int run_round(duel *d, int at, vitrun_error *err)
{
    for (int i = 0; i < d->kernels; i++) {
        double ms;
        timed_kernel *k = &d->kernel[i];
        if (vitrun_attention_run(d->attention, k->name, k->calls, &ms, err) != 0)
            return -1;
        if (at >= 0)
            k->ms[at] = ms;
        else
            k->calls = calls_for(ms);
    }
    return 0;
}

static int time_kernels(duel *d, int most, cli_io *io, vitrun_error *err)
{
    double begin = vte_now_ms();
    for (int i = 0; i < WARM_UP; i++)
        if (run_round(d, -1, err) != 0)
            return -1;
    while (d->runs < most) {
        if (!d->o->runs && d->runs >= LEAST_RUNS && vte_now_ms() - begin > TIME_LIMIT_MS)
            break;
        if (run_round(d, d->runs++, err) != 0)
            return -1;
        cli_progress(io, (size_t)d->runs, (size_t)most, "rounds");
    }
    cli_progress_clear(io);
    for (int i = 0; i < d->kernels; i++) {
        timed_kernel *k = &d->kernel[i];
        k->spread = vte_spread_of(k->ms, d->runs);
        if (vitrun_attention_memory(d->attention, k->name, &k->work_bytes, &k->mask_bytes, err) !=
            0)
            return -1;
    }
    return 0;
}

/* ---- reports ---- */
/* How long the kernel takes, as a share of the dense kernel's time; < 0 where that was not timed. */
static double ratio(const duel *d, const timed_kernel *k)
{
    for (int i = 0; i < d->kernels; i++)
        if (strcmp(d->kernel[i].name, "dense") == 0)
            return k->spread.median / d->kernel[i].spread.median;
    return -1;
}

static json_t *shape_json(const duel *d)
{
    const vitrun_layer *l = d->layer;
    json_t *shape = cli_object();
    cli_set(shape, "heads", cli_integer((uint64_t)d->shape.heads));
    cli_set(shape, "tokens", cli_integer((uint64_t)d->shape.tokens));
    cli_set(shape, "prefix_tokens", cli_integer((uint64_t)vitrun_attention_prefix(d->attention)));
    cli_set(shape, "head_dim", cli_integer((uint64_t)d->shape.head_dim));
    cli_set(shape, "batch", cli_integer((uint64_t)d->shape.batch));
    cli_set(shape, "mask", cli_text(l->mask));
    cli_set(shape, "nnz", cli_integer((uint64_t)l->nnz));
    cli_set(shape, "density", cli_real(l->density));
    cli_set(shape, "kernel", cli_text(l->kernel));
    cli_set(shape, "reason", cli_text(l->reason));
    return shape;
}

static json_t *kernel_json(const duel *d, const timed_kernel *k)
{
    double r = ratio(d, k);
    json_t *kernel = cli_object();
    cli_set(kernel, "kernel", cli_text(k->name));
    cli_set(kernel, "runs", cli_integer((uint64_t)k->spread.count));
    cli_set(kernel, "median_ms", cli_real(k->spread.median));
    cli_set(kernel, "min_ms", cli_real(k->spread.min));
    cli_set(kernel, "p90_ms", cli_real(k->spread.p90));
    cli_set(kernel, "ratio_to_dense", r < 0 ? json_null() : cli_real(r));
    cli_set(kernel, "predicted_ms", k->predicted_ms < 0 ? json_null() : cli_real(k->predicted_ms));
    cli_set(kernel, "mask_bytes", cli_integer(k->mask_bytes));
    cli_set(kernel, "work_bytes", cli_integer(k->work_bytes));
    return kernel;
}

static json_t *kernels_json(const duel *d)
{
    json_t *kernels = cli_array();
    for (int i = 0; i < d->kernels; i++)
        cli_append(kernels, kernel_json(d, &d->kernel[i]));
    return kernels;
}

/* The document's beginning, which is also that of the first attention. */
static void begin_json(const duel *d, cli_io *io)
{
    const char *dtype, *device = vitrun_attention_device(d->attention, &dtype);
    cli_json_begin(io);
    cli_json_put(io, "vitrun", cli_text(vitrun_version()));
    cli_json_put(io, "device", cli_text(device));
    cli_json_put(io, "dtype", cli_text(dtype));
    cli_json_put(io, "threads", cli_integer((uint64_t)d->shape.threads));
    cli_json_put(io, "attention", shape_json(d));
    cli_json_put(io, "kernels", kernels_json(d));
}

static void print_text(const duel *d, FILE *f)
{
    const vitrun_layer *l = d->layer;
    char n[CLI_AMOUNT];
    const char *dtype, *device = vitrun_attention_device(d->attention, &dtype);
    fprintf(f,
            "%s %s, %d heads, %d tokens (%d prefix), head width %d, batch %d; mask %s, density "
            "%.2f %%\n",
            device, dtype, d->shape.heads, d->shape.tokens, vitrun_attention_prefix(d->attention),
            d->shape.head_dim, d->shape.batch, l->mask, 100 * l->density);
    cli_table *t = cli_table_new("lrrrrrrr");
    cli_cells(t, (const char *const[]){"kernel", "median", "min", "p90", "of dense", "predicted",
                                       "mask", "work", NULL});
    for (int i = 0; i < d->kernels; i++) {
        const timed_kernel *k = &d->kernel[i];
        double r = ratio(d, k);
        cli_cell(t, "%s", k->name);
        cli_cell(t, "%s", cli_time(n, k->spread.median));
        cli_cell(t, "%s", cli_time(n, k->spread.min));
        cli_cell(t, "%s", cli_time(n, k->spread.p90));
        cli_cell(t, r < 0 ? "-" : "%.2f x", r);
        cli_cell(t, "%s", k->predicted_ms < 0 ? "-" : cli_time(n, k->predicted_ms));
        cli_cell(t, "%s", cli_bytes(n, k->mask_bytes));
        cli_cell(t, "%s", cli_bytes(n, k->work_bytes));
    }
    cli_table_end(t, 2, f);
    fprintf(f, "auto takes %s: %s\n", l->kernel, l->reason);
}

/* For the next batch size all is opened anew; other masks go with the inputs that are there. */
static int run_duel(duel *d, int batch, const char *mask, cli_io *io, vitrun_error *err)
{
    int most = d->o->runs ? d->o->runs : DEFAULT_RUNS;
    if (d->attention ? vitrun_attention_set_mask(d->attention, mask, err)
                     : open_shape(d, batch, mask, err))
        return -1;
    d->layer = vitrun_attention_layer(d->attention);
    choose_kernels(d, most, io);
    return time_kernels(d, most, io, err);
}

static void forget_times(duel *d)
{
    for (int i = 0; i < d->kernels; i++)
        free(d->kernel[i].ms);
    d->kernels = d->runs = 0;
}

/* Into *runs and, from the first one, into the document's beginning; or as text. */
static void report(const duel *d, json_t *runs, cli_io *io)
{
    if (!d->o->json) {
        print_text(d, io->out);
        return;
    }
    if (json_array_size(runs) == 0)
        begin_json(d, io);
    json_t *run = cli_object();
    cli_set(run, "attention", shape_json(d));
    cli_set(run, "kernels", kernels_json(d));
    cli_append(runs, run);
}

int cmd_bench_attention(const cli_options *o, cli_io *io, vitrun_error *err)
{
    int masks = o->masks.count ? (int)o->masks.count : 1;
    int batches = o->batches.count ? o->batches.count : 1;
    int status = check_options(o, err);
    json_t *runs = cli_array();
    for (int b = 0; b < batches && status == 0; b++) {
        duel d = {.o = o};
        for (int m = 0; m < masks && status == 0; m++) {
            status = run_duel(&d, o->batches.count ? o->batches.value[b] : 1,
                              o->masks.count ? o->masks.item[m] : NULL, io, err);
            if (status == 0)
                report(&d, runs, io);
            forget_times(&d);
        }
        vitrun_attention_close(d.attention);
    }
    if (o->json && status == 0) {
        cli_json_put(io, "runs", runs);
        cli_json_end(io);
    } else
        json_decref(runs);
    return status;
}
