/* vitrun eval: accuracy over labelled images, and agreement with the unmasked model.
 *
 * Where layers are masked, the unmasked model runs first, on the same weights, and its logits are
 * kept; images/s and memory are of the masked run alone.
 */
#include <math.h>
#include <stdlib.h>

#include "engine/cli/cli.h"

typedef struct {
    const cli_options *o;
    cli_io *io;
    const vitrun_model *model;
    const vitrun_info *info;
    vte_dataset data;
    int batch;
    const char *phase; /* of the progress */
    json_t *bad;       /* [{"image", "error"}] */
    int reports_bad;   /* not in the second run over the same images */
    vte_scores scores, dense;
    int has_dense; /* `dense` is another run's */
} eval_state;

static void on_bad(void *user, const char *message)
{
    eval_state *s = user;
    if (!s->reports_bad)
        return;
    cli_progress_clear(s->io);
    cli_print_error(message);
    cli_append(s->bad, cli_text(message));
}

static void on_progress(void *user, size_t done, size_t total)
{
    eval_state *s = user;
    cli_progress(s->io, done, total, s->phase);
}

static int evaluate(eval_state *s, const vitrun_model *model, const float *dense, float *logits,
                    vte_scores *scores, vitrun_error *err)
{
    vte_evaluation e = {.model = model,
                        .batch = s->batch,
                        .data = &s->data,
                        .dense = dense,
                        .logits = logits,
                        .user = s,
                        .bad = on_bad,
                        .progress = on_progress};
    int bad = vte_evaluate(&e, scores, err);
    s->reports_bad = 0;
    return bad;
}

static int is_masked(const vitrun_model *model)
{
    for (int i = 0; i < vitrun_layer_count(model); i++)
        if (vitrun_layer_at(model, i)->density < 1)
            return 1;
    return 0;
}

/* The unmasked model's logits over all images, to be freed. */
static float *run_dense(eval_state *s, vitrun_error *err)
{
    vitrun_options options;
    if (cli_model_options(s->o, s->batch, &options, err) != 0)
        return NULL;
    options.mask_config = options.kernel = NULL;
    options.mask_count = 0;
    vitrun_model *model = vitrun_variant(s->model, &options, err);
    if (!model)
        return NULL;
    float *logits = cli_alloc(s->data.count, (size_t)s->info->classes * sizeof *logits);
    s->phase = "images, unmasked";
    if (evaluate(s, model, NULL, logits, &s->dense, err) != 0) {
        free(logits);
        logits = NULL;
    }
    vitrun_close(model);
    s->has_dense = logits != NULL;
    return logits;
}

/* ---- reports ---- */
static void scores_json(json_t *to, const vte_scores *v)
{
    cli_set(to, "top1", cli_real(v->top1));
    cli_set(to, "top5", cli_real(v->top5));
    cli_set(to, "loss", cli_real(v->loss));
    cli_set(to, "ece", cli_real(v->ece));
}

static json_t *classes_json(const eval_state *s)
{
    json_t *classes = cli_array();
    for (int i = 0; classes && i < s->info->classes; i++) {
        const vte_class_score *c = &s->scores.per_class[i];
        if (!c->images && !c->predicted)
            continue;
        json_t *entry = cli_object();
        cli_set(entry, "class", cli_integer((uint64_t)i));
        cli_set(entry, "label", cli_text(vitrun_label(s->model, i)));
        cli_set(entry, "images", cli_integer(c->images));
        cli_set(entry, "right", cli_integer(c->right));
        cli_set(entry, "predicted", cli_integer(c->predicted));
        if (s->has_dense)
            cli_set(entry, "right_dense", cli_integer(s->dense.per_class[i].right));
        cli_append(classes, entry);
    }
    return classes;
}

static void put_scores(cli_io *io, const vte_scores *v)
{
    cli_json_put(io, "images", cli_integer(v->images));
    cli_json_put(io, "bad_images", cli_integer(v->bad));
    cli_json_put(io, "top1", cli_real(v->top1));
    cli_json_put(io, "top5", cli_real(v->top5));
    cli_json_put(io, "loss", cli_real(v->loss));
    cli_json_put(io, "ece", cli_real(v->ece));
    cli_json_put(io, "agreement_top1", cli_real(v->agreement));
    cli_json_put(io, "kl_to_dense", cli_real(v->kl));
    cli_json_put(io, "cosine_to_dense", cli_real(v->cosine));
    cli_json_put(io, "images_per_s", cli_real(v->images_per_s));
}

static void print_json(eval_state *s, const vitrun_memory *memory)
{
    cli_io *io = s->io;
    cli_json_begin(io);
    report_head(io, s->info);
    cli_json_put(io, "batch", cli_integer((uint64_t)s->batch));
    cli_json_put(io, "model", report_model(s->info));
    put_scores(io, &s->scores);
    if (s->has_dense) {
        json_t *dense = cli_object();
        scores_json(dense, &s->dense);
        cli_set(dense, "images_per_s", cli_real(s->dense.images_per_s));
        cli_json_put(io, "dense", dense);
    }
    cli_json_put(io, "classes", classes_json(s));
    cli_json_put(io, "errors", json_incref(s->bad));
    report_layers(io, s->model, NULL);
    cli_json_put(io, "memory", report_memory(memory));
    json_t *times = cli_object();
    cli_set(times, "load", cli_real(s->info->load_ms));
    cli_set(times, "preprocess", cli_real(s->scores.preprocess_ms));
    cli_set(times, "forward", cli_real(s->scores.forward_ms));
    cli_set(times, "images", cli_real(s->scores.wall_ms));
    cli_set(times, "total", cli_real(vte_now_ms() - io->start_ms));
    cli_json_put(io, "time_ms", times);
    cli_json_end(io);
}

static void score_row(cli_table *t, const char *name, const char *format, double factor,
                      const double *value, int count)
{
    cli_cell(t, "%s", name);
    for (int i = 0; i < count; i++) {
        char text[CLI_AMOUNT];
        snprintf(text, sizeof text, "%.*f%s", *format - '0', factor * value[i], format + 1);
        cli_cell(t, "%s", text);
    }
}

static void print_scores(const eval_state *s)
{
    const vte_scores *v = &s->scores, *d = &s->dense;
    int columns = s->has_dense ? 2 : 1;
    cli_table *t = cli_table_new(columns == 2 ? "lrr" : "lr");
    if (columns == 2)
        cli_cells(t, (const char *const[]){"", "masked", "unmasked", NULL});
    score_row(t, "top-1", "2 %", 100, (double[]){v->top1, d->top1}, columns);
    score_row(t, "top-5", "2 %", 100, (double[]){v->top5, d->top5}, columns);
    score_row(t, "loss", "4", 1, (double[]){v->loss, d->loss}, columns);
    score_row(t, "calibration error", "2 %", 100, (double[]){v->ece, d->ece}, columns);
    score_row(t, "images/s", "1", 1, (double[]){v->images_per_s, d->images_per_s}, columns);
    cli_table_end(t, 2, s->io->out);
    if (s->has_dense)
        fprintf(s->io->out, "same class as unmasked %.2f %%, KL %.4g nats, cosine %.6f\n",
                100 * v->agreement, v->kl, v->cosine);
}

static void print_memory(FILE *f, const vitrun_memory *m)
{
    char n[6][CLI_AMOUNT];
    fprintf(f, "memory %s: weights %s, activations %s, masks %s, attention %s, other %s\n",
            cli_bytes(n[0], m->peak_bytes), cli_bytes(n[1], m->weights_bytes),
            cli_bytes(n[2], m->activations_bytes), cli_bytes(n[3], m->masks_bytes),
            cli_bytes(n[4], m->attention_bytes), cli_bytes(n[5], m->scratch_bytes));
}

static void print_classes(const eval_state *s)
{
    cli_table *t = cli_table_new(s->has_dense ? "rlrrrr" : "rlrrr");
    cli_cells(t, (const char *const[]){"class", "label", "images", "right", NULL});
    if (s->has_dense)
        cli_cell(t, "unmasked");
    cli_cell(t, "predicted");
    for (int i = 0; i < s->info->classes; i++) {
        const vte_class_score *c = &s->scores.per_class[i];
        const char *label = vitrun_label(s->model, i);
        double n = c->images ? (double)c->images : 1;
        if (!c->images && !c->predicted)
            continue;
        cli_cell(t, "%d", i);
        cli_cell(t, "%s", label ? label : "");
        cli_cell(t, "%zu", c->images);
        cli_cell(t, "%.1f %%", 100 * (double)c->right / n);
        if (s->has_dense)
            cli_cell(t, "%.1f %%", 100 * (double)s->dense.per_class[i].right / n);
        cli_cell(t, "%zu", c->predicted);
    }
    cli_table_end(t, 2, s->io->out);
}

static void print_text(eval_state *s, const vitrun_memory *memory)
{
    FILE *f = s->io->out;
    const vitrun_info *i = s->info;
    fprintf(f, "%s on %s %s, %d thread%s, batch %d: %zu images", i->architecture, i->device,
            i->dtype, i->threads, i->threads == 1 ? "" : "s", s->batch, s->scores.images);
    if (s->scores.bad)
        fprintf(f, ", %zu bad ones left out", s->scores.bad);
    fputc('\n', f);
    print_scores(s);
    print_memory(f, memory);
    fputc('\n', f);
    print_classes(s);
    if (is_masked(s->model)) {
        fputs("\nattention\n", f);
        report_layers_text(f, s->model, NULL);
    }
}

/* ---- the whole run ---- */
static int eval_images(eval_state *s, vitrun_error *err)
{
    vitrun_memory memory;
    int masked = is_masked(s->model);
    float *dense = NULL;
    s->reports_bad = 1;
    if (vitrun_memory_plan(s->model, s->batch, &memory, err) != 0 ||
        (masked && !s->o->no_agreement && !(dense = run_dense(s, err))))
        return -1;
    s->phase = masked ? "images, masked" : "images";
    int bad = evaluate(s, s->model, dense, NULL, &s->scores, err);
    free(dense);
    if (bad)
        return -1;
    if (s->scores.images == 0)
        return vte_fail(err, VITRUN_INPUT, "%s: none of its %zu images can be used", s->o->data,
                        s->data.count);
    if (!masked)
        s->scores.agreement = s->scores.cosine = 1, s->scores.kl = 0;
    s->o->json ? print_json(s, &memory) : print_text(s, &memory);
    return s->scores.bad ? VITRUN_INPUT : 0;
}

int cmd_eval(const cli_options *o, cli_io *io, vitrun_error *err)
{
    if (!o->data)
        return vte_fail(err, VITRUN_USAGE,
                        "--data is missing (a folder of one folder a class, or "
                        "a CSV file of path,label)");
    eval_state s = {.o = o, .io = io, .bad = cli_array()};
    vitrun_model *model = cli_open_fitting(o, SIZE_MAX, &s.batch, io, err);
    int status = -1;
    if (model && vte_dataset_open(&s.data, o->data, (size_t)o->limit, model, err) == 0) {
        s.model = model;
        s.info = vitrun_info_get(model);
        status = eval_images(&s, err);
        vte_scores_free(&s.scores);
        vte_scores_free(&s.dense);
        vte_dataset_close(&s.data);
    }
    vitrun_close(model);
    json_decref(s.bad);
    return status;
}
