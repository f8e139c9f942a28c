/* vitrun run: images -> the likeliest classes (or features), as text or JSON, and feature files.
 *
 * On a terminal text appears batch by batch. Elsewhere, as JSON, and where features are to be
 * saved, results appear when the run is complete: one that fails half way writes none.
 * Probabilities are softmax(logits) in double precision.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cli/cli.h"

typedef struct {
    const cli_options *o;
    cli_io *io;
    const vitrun_model *model;
    const vitrun_info *info;
    const cli_files *files;
    vitrun_context *context; /* the first: the profile counts in it */
    int batch;
    size_t good, bad;
    int streams;            /* results do not wait for the end */
    struct scored *order;   /* [outputs] */
    cli_features *features; /* NULL: not asked for */
} run_state;

/* ---- classes ---- */
struct scored {
    float logit;
    int class;
};

static int by_logit(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->class - y->class;
}

/* Sorts the classes, likeliest first; returns the softmax's denominator relative to the largest. */
static double rank(struct scored *order, const float *logits, int classes)
{
    double sum = 0;
    for (int i = 0; i < classes; i++)
        order[i] = (struct scored){logits[i], i};
    qsort(order, (size_t)classes, sizeof *order, by_logit);
    for (int i = classes - 1; i >= 0; i--) /* small terms first */
        sum += exp((double)order[i].logit - (double)order[0].logit);
    return sum;
}

static double probability(const struct scored *order, int i, double sum)
{
    return exp((double)order[i].logit - (double)order[0].logit) / sum;
}

/* ---- one image ---- */
static json_t *result_json(run_state *s, const vte_result *r)
{
    json_t *result = cli_object();
    cli_set(result, "image", cli_text(s->files->file[r->index].path));
    if (r->error) {
        cli_set(result, "error", cli_text(r->error));
        return result;
    }
    int classes = s->info->classes, k = s->o->topk < classes ? s->o->topk : classes;
    double sum = classes > 0 ? rank(s->order, r->logits, classes) : 0;
    json_t *top = cli_array();
    for (int i = 0; i < k; i++) {
        json_t *entry = cli_object();
        cli_set(entry, "class", cli_integer((uint64_t)s->order[i].class));
        cli_set(entry, "label", cli_text(vitrun_label(s->model, s->order[i].class)));
        cli_set(entry, "probability", cli_real(probability(s->order, i, sum)));
        cli_append(top, entry);
    }
    cli_set(result, "top", top);
    if (s->o->logits) {
        json_t *logits = cli_array();
        for (int i = 0; i < s->info->outputs; i++)
            cli_append(logits, cli_real(r->logits[i]));
        cli_set(result, "logits", logits);
    }
    return result;
}

static void result_text(run_state *s, const vte_result *r)
{
    FILE *f = s->io->out;
    int classes = s->info->classes, k = s->o->topk < classes ? s->o->topk : classes;
    fputs(s->good ? "\n" : "", f);
    cli_puts_escaped(s->files->file[r->index].path, f);
    fputc('\n', f);
    double sum = classes > 0 ? rank(s->order, r->logits, classes) : 0;
    for (int i = 0; i < k; i++) {
        const char *label = vitrun_label(s->model, s->order[i].class);
        fprintf(f, "  %5.1f %%  ", 100 * probability(s->order, i, sum));
        if (label)
            cli_puts_escaped(label, f);
        fprintf(f, label ? " (%d)\n" : "class %d\n", s->order[i].class);
    }
    if (classes > 0)
        return;
    double norm = 0;
    for (int i = 0; i < s->info->outputs; i++)
        norm += (double)r->logits[i] * (double)r->logits[i];
    fprintf(f, "  %d features, norm %.6g:", s->info->outputs, sqrt(norm));
    for (int i = 0; i < s->info->outputs && i < 4; i++)
        fprintf(f, " %.6g", (double)r->logits[i]);
    fputs(s->info->outputs > 4 ? " ...\n" : "\n", f);
}

static int on_result(void *user, const vte_result *r, vitrun_error *err)
{
    run_state *s = user;
    if (s->o->json && (!r->error || s->files->count > 1))
        cli_json_element(s->io, result_json(s, r));
    if (r->error) {
        s->bad++;
        if (s->streams && cli_commit(s->io, err) != 0) /* so that a terminal shows them in order */
            return -1;
        cli_progress_clear(s->io);
        cli_print_error(r->error);
        return 0;
    }
    if (s->features)
        cli_features_put(s->features, r);
    if (!s->o->json)
        result_text(s, r);
    s->good++;
    return 0;
}

static int on_batch(void *user, size_t done, vitrun_error *err)
{
    run_state *s = user;
    if (s->streams && cli_commit(s->io, err) != 0)
        return -1;
    if (!s->streams) /* else the results themselves show it */
        cli_progress(s->io, done, s->files->count, "images");
    if (!s->o->profile &&
        vitrun_profile_count(s->context) > 0) /* one batch tells how long it takes */
        vitrun_profile(s->context, 0);
    return 0;
}

/* ---- the whole run ---- */
static int check_options(const cli_options *o, vitrun_error *err)
{
    if (!o->weights)
        return vte_fail(err, VITRUN_USAGE,
                        "--weights is missing (a .safetensors file or a folder; see --help)");
    if (o->images.count == 0)
        return vte_fail(err, VITRUN_USAGE,
                        "no IMAGE given (a file, a folder, or - for standard "
                        "input)");
    if (o->logits && !o->json)
        return vte_fail(err, VITRUN_USAGE, "--logits needs --json");
    if ((o->rollout || o->query >= 0) && !o->maps)
        return vte_fail(err, VITRUN_USAGE, "--%s needs --attention DIR",
                        o->rollout ? "rollout" : "query");
    for (int i = 0; o->maps && i < o->images.count; i++)
        if (strcmp(o->images.item[i], "-") == 0)
            return vte_fail(err, VITRUN_USAGE,
                            "--attention reads its IMAGE twice: it must be a file");
    return cli_features_check(o, err);
}

/* Not under --profile, which counts in one context, nor under --max-memory, which is for one. */
static vitrun_context *open_second(const run_state *s)
{
    if (s->o->profile || s->o->max_memory)
        return NULL;
    return vte_second_context(s->model, s->batch, s->files->count);
}

static int finish_json(run_state *s, const vitrun_context *context, const vte_batches *b,
                       vitrun_error *err)
{
    vitrun_memory memory;
    if (vitrun_memory_plan(s->model, s->batch, &memory, err) != 0)
        return -1;
    cli_json_array_end(s->io);
    report_layers(s->io, s->model, context);
    cli_json_put(s->io, "memory", report_memory(&memory));
    json_t *times = cli_object();
    cli_set(times, "load", cli_real(s->info->load_ms));
    cli_set(times, "preprocess", cli_real(b->preprocess_ms));
    cli_set(times, "forward", cli_real(b->forward_ms));
    cli_set(times, "total", cli_real(vte_now_ms() - s->io->start_ms));
    cli_json_put(s->io, "time_ms", times);
    cli_json_end(s->io);
    return 0;
}

/* One line of what ran where, and for how long. */
static void note_run(run_state *s, const vte_batches *b)
{
    FILE *f = s->io->notes;
    char load[CLI_AMOUNT], images[CLI_AMOUNT], forward[CLI_AMOUNT], memory[CLI_AMOUNT];
    double ms = b->preprocess_ms + b->forward_ms, rate = ms > 0 ? 1e3 * (double)s->good / ms : 0;
    fprintf(f, "%s %s, %d thread%s; attention: ", s->info->device, s->info->dtype, s->info->threads,
            s->info->threads == 1 ? "" : "s");
    report_kernels(f, s->model);
    fprintf(f, "; load %s, images %s, forward %s (%.*f images/s), peak %s\n",
            cli_time(load, s->info->load_ms), cli_time(images, b->preprocess_ms),
            cli_time(forward, b->forward_ms), rate < 100, rate,
            cli_bytes(memory, vte_resident_peak()));
}

static void note_profile(run_state *s, const vitrun_context *context)
{
    long batches = (long)((s->good + (size_t)s->batch - 1) / (size_t)s->batch);
    fprintf(s->io->notes, "time per operation, milliseconds of %ld forward pass%s\n", batches,
            batches == 1 ? "" : "es");
    report_profile_text(s->io->notes, context, 1);
    report_layers_text(s->io->notes, s->model, context);
}

/* ---- attention maps ---- */
/* DIR/0003-name of the picture without its ending */
static char *map_folder(const run_state *s, size_t index)
{
    const char *path = s->files->file[index].path, *slash = strrchr(path, '/');
    const char *name = strcmp(path, "-") == 0 ? "stdin" : slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    int length = dot && dot > name ? (int)(dot - name) : (int)strlen(name);
    return cli_format("%s/%04zu-%.*s", s->o->maps, index, length, name);
}

/* Of every picture that can be read (the others have been named), a forward of its own. */
static int write_maps(const run_state *s, vitrun_context *context, vitrun_error *err)
{
    vte_map_options o = {.query = s->o->query >= 0 ? s->o->query : vte_map_query(s->info),
                         .rollout = s->o->rollout};
    int bad = 0;
    if (o.query >= s->info->tokens)
        return vte_fail(err, VITRUN_USAGE, "--query: bad value (expected 0 to %d, found %d)",
                        s->info->tokens - 1, o.query);
    if (mkdir(s->o->maps, 0777) != 0 && errno != EEXIST)
        return vte_fail(err, VITRUN_MACHINE, "%s: %s", s->o->maps, strerror(errno));
    for (size_t i = 0; i < s->files->count && !bad; i++) {
        char *folder = map_folder(s, i);
        bad = vte_image_read(s->model, s->files->file[i].path, vitrun_context_input(context), err);
        if (!bad) {
            cli_protect(1);
            bad = vte_maps_write(s->model, context, &o, folder, err);
            cli_protect(0);
        } else if (err->code == VITRUN_INPUT)
            bad = 0;
        free(folder);
        cli_progress(s->io, i + 1, s->files->count, "attention maps");
    }
    return bad;
}

static int run_images(run_state *s, vitrun_context *context, vitrun_context *second,
                      vitrun_error *err)
{
    const cli_options *o = s->o;
    vte_batches b = {.model = s->model,
                     .context = {context, second},
                     .batch = s->batch,
                     .user = s,
                     .want_features = o->features && !o->tokens && !o->intermediate,
                     .want_tokens = o->tokens,
                     .each = on_result,
                     .after = on_batch};
    s->context = context;
    vitrun_profile(context, o->json || o->profile);
    if (o->json) {
        cli_json_begin(s->io);
        report_head(s->io, s->info);
        cli_json_put(s->io, "model", report_model(s->info));
        cli_json_array(s->io, "results");
    }
    if (vte_batches_run(&b, s->files->file, s->files->count, err) != 0)
        return -1;
    if (s->good == 0 && s->files->count == 1) { /* nothing but its error, which is printed */
        rewind(s->io->out);
        return VITRUN_INPUT;
    }
    if (o->json && finish_json(s, context, &b, err) != 0)
        return -1;
    if (s->features && cli_features_save(s->features, err) != 0)
        return -1;
    if (o->maps && s->good > 0 && write_maps(s, context, err) != 0)
        return -1;
    if (o->profile)
        note_profile(s, context);
    note_run(s, &b);
    return s->bad ? VITRUN_INPUT : 0;
}

static int run_model(run_state *s, vitrun_error *err)
{
    const cli_options *o = s->o;
    vitrun_model *model = cli_open_fitting(o, s->files->count, &s->batch, s->io, err);
    if (!model)
        return -1;
    s->model = model;
    s->info = vitrun_info_get(model);
    vitrun_context *context = vitrun_context_open(model, s->batch, err);
    vitrun_context *second = context ? open_second(s) : NULL;
    int status = -1;
    if (context) {
        s->order = cli_alloc((size_t)s->info->outputs, sizeof *s->order);
        if (o->features)
            s->features = cli_features_new(o, s->info, s->files->count, err);
        if (s->features || !o->features)
            status = run_images(s, context, second, err);
    }
    free(s->order);
    cli_features_free(s->features);
    vitrun_context_close(second);
    vitrun_context_close(context);
    vitrun_close(model);
    return status;
}

int cmd_run(const cli_options *o, cli_io *io, vitrun_error *err)
{
    if (check_options(o, err) != 0)
        return -1;
    cli_files files;
    int status = cli_files_open(&files, &o->images, err);
    if (status == 0) {
        run_state s = {.o = o, .io = io, .files = &files};
        s.streams = !o->json && !o->features && isatty(STDOUT_FILENO);
        status = run_model(&s, err);
    }
    cli_files_close(&files);
    return status;
}
