/* Studies: points run one after the other, kept row by row, written as CSV, JSON and a report.
 * What a point measures is sweep.h's matter, where rows are kept store.h's. */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"
#include "engine/experiments/report.h"
#include "engine/experiments/store.h"

typedef struct {
    cli_study *s;
    vte_store *store; /* NULL: rows are kept in memory only */
} sink;

/* The command that every point's options are added to: of eval, which gives a row's accuracy and
 * bytes, or of bench, which gives its times. */
static char *base_command(const cli_study *s, const vitrun_info *info, int is_eval)
{
    const cli_options *o = s->o;
    char *text = NULL;
    size_t size;
    FILE *f = cli_memory_stream(&text, &size);
    fprintf(f, "vitrun %s", is_eval ? "eval" : "bench");
    vte_put_option(f, "weights", o->weights);
    vte_put_option(f, "config", o->config);
    vte_put_option(f, "arch", o->arch);
    for (int i = 0; i < o->set.count; i++)
        vte_put_option(f, "set", o->set.item[i]);
    vte_put_option(f, "device", o->device ? o->device : info->device);
    vte_put_option(f, "dtype", info->dtype);
    vte_put_option(f, "dispatch", o->dispatch);
    if (o->img_size.h)
        fprintf(f, " --img-size %dx%d", o->img_size.h, o->img_size.w);
    if (o->density_threshold >= 0)
        fprintf(f, " --density-threshold %.9g", o->density_threshold);
    if (is_eval) {
        vte_put_option(f, "labels", o->labels);
        vte_put_option(f, "data", o->data);
    }
    if (is_eval && s->points.limit)
        fprintf(f, " --limit %zu", s->points.limit);
    if (!is_eval)
        fprintf(f, " --runs %d", s->points.runs);
    if (!vte_text_end(f, &text))
        cli_out_of_memory();
    return text;
}

void cli_study_open(cli_study *s, const cli_options *o, cli_io *io, const char *title,
                    const vitrun_model *model)
{
    const vitrun_info *info = vitrun_info_get(model);
    char *command, *bench;
    s->o = o, s->io = io, s->title = title;
    s->rows = cli_array();
    if (!s->shards)
        s->shard = s->shards = 1;
    if (o->limit)
        s->points.limit = (size_t)o->limit;
    if (!s->points.runs)
        s->points.runs = o->runs ? o->runs : VTE_RUNS;
    command = base_command(s, info, 1);
    bench = base_command(s, info, 0);
    s->common = cli_object();
    cli_set(s->common, "vitrun", cli_text(vitrun_version()));
    cli_set(s->common, "build", cli_text(vitrun_build_info()));
    cli_set(s->common, "title", cli_text(title));
    cli_set(s->common, "command", cli_text(command));
    cli_set(s->common, "bench_command", cli_text(bench));
    cli_set(s->common, "device", cli_text(info->device));
    cli_set(s->common, "dtype", cli_text(info->dtype));
    cli_set(s->common, "threads", cli_integer((uint64_t)info->threads));
    cli_set(s->common, "runs", cli_integer((uint64_t)s->points.runs));
    cli_set(s->common, "model", report_model(info));
    free(command);
    free(bench);
}

void cli_study_close(cli_study *s)
{
    vte_points_free(&s->points);
    json_decref(s->common);
    json_decref(s->rows);
}

/* ---- running ---- */
static void on_bad(void *user, const char *message)
{
    sink *k = user;
    cli_progress_clear(k->s->io);
    cli_print_error(message);
}

static void on_progress(void *user, size_t done, size_t total)
{
    sink *k = user;
    cli_progress(k->s->io, done, total, "images of all points");
}

static int on_row(void *user, const json_t *row, vitrun_error *err)
{
    sink *k = user;
    if (!k->store)
        return 0;
    cli_protect(1);
    int bad = vte_store_append(k->store, row, err);
    cli_protect(0);
    return bad;
}

int cli_study_run(cli_study *s, vitrun_error *err)
{
    sink k = {.s = s};
    vte_sweep sweep = {.data = s->o->data,
                       .limit = s->points.limit,
                       .runs = s->points.runs,
                       .points = s->points.point,
                       .shard = s->shard,
                       .shards = s->shards,
                       .rows = s->rows,
                       .user = &k,
                       .bad = on_bad,
                       .progress = on_progress,
                       .row = on_row};
    if (cli_model_options(s->o, 0, &sweep.base, err) != 0)
        return -1;
    cli_set(s->common, "points", cli_integer(json_array_size(s->points.point)));
    sweep.base.mask_config = sweep.base.kernel = NULL;
    sweep.base.mask_count = 0;
    if (s->o->out &&
        !(k.store = vte_store_open(s->o->out, s->shard, s->shards, s->common, s->rows, err)))
        return -1;
    int bad = vte_sweep_run(&sweep, err);
    vte_store_close(k.store);
    s->bad_images = sweep.bad_images;
    if (bad)
        return -1;
    json_t *ordered = vte_rows_in_order(s->rows, s->points.point);
    if (!ordered)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (rows)");
    json_decref(s->rows);
    s->rows = ordered;
    return 0;
}

/* ---- writing ---- */
static json_t *document(const cli_study *s)
{
    json_t *d = cli_object();
    if (json_object_update(d, s->common) != 0)
        cli_out_of_memory();
    cli_set(d, "rows", json_incref(s->rows));
    return d;
}

void cli_study_json(const cli_study *s)
{
    const char *key;
    json_t *value, *d = document(s);
    cli_json_begin(s->io);
    json_object_foreach(d, key, value)
    {
        cli_json_put(s->io, key, json_incref(value));
    }
    cli_json_end(s->io);
    json_decref(d);
}

static int save(const cli_study *s, const char *name, const char *text, size_t size,
                vitrun_error *err)
{
    char *path = cli_format("%s/%s", s->o->out, name);
    int bad = text ? vitrun_save_bytes(path, text, size, err)
                   : vte_fail(err, VITRUN_MACHINE, "out of memory (%s)", name);
    free(path);
    return bad;
}

int cli_study_write(const cli_study *s, vitrun_error *err)
{
    if (!s->o->out)
        return 0;
    size_t size = 0;
    json_t *d = document(s);
    char *csv = vte_rows_csv(s->rows, &size);
    char *json = vte_json_encode(d, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    cli_protect(1);
    int bad = save(s, "results.csv", csv, size, err) ||
              save(s, "results.json", json, json ? strlen(json) : 0, err) ||
              vte_report_write(d, s->o->out, err);
    cli_protect(0);
    free(csv);
    free(json);
    json_decref(d);
    return bad ? -1 : 0;
}
