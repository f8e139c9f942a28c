/* vitrun search: a mask for each layer out of --mask candidates, under a budget; --save writes the
 * configuration with the figures that were measured for it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"
#include "engine/experiments/search.h"

static const char *const unit[] = {"pairs", "bytes", "ms"};

static void on_bad(void *user, const char *message)
{
    cli_progress_clear(user);
    cli_print_error(message);
}

static void on_progress(void *user, size_t done, size_t total)
{
    cli_progress(user, done, total, "models, at most");
}

/* ---- what was found ---- */
static json_t *figures_json(const vte_figures *f, vte_cost cost)
{
    json_t *j = cli_object();
    cli_set(j, "top1", cli_real(f->top1));
    cli_set(j, "agreement_top1", cli_real(f->agreement));
    cli_set(j, "kl_to_dense", cli_real(f->kl));
    cli_set(j, unit[cost], cli_real(f->cost));
    return j;
}

static json_t *layers_json(const vte_search *s, const vte_search_result *r)
{
    json_t *layers = cli_object();
    for (int l = 0; l < r->layers; l++) {
        char *key = cli_format("%d", l);
        cli_set(layers, key, cli_text(r->choice[l] < 0 ? "dense" : s->candidate[r->choice[l]]));
        free(key);
    }
    return layers;
}

/* The mask configuration; "measured" is for people, and read over by vitrun. */
static json_t *config_json(const cli_options *o, const vte_search *s, const vte_search_result *r)
{
    const vitrun_info *i = vitrun_info_get(s->model);
    json_t *doc = cli_object(), *measured = cli_object();
    cli_set(measured, "weights", cli_text(o->weights));
    cli_set(measured, "data", cli_text(o->data));
    cli_set(measured, "images", cli_integer(s->data->count - r->bad_images));
    cli_set(measured, "device", cli_text(i->device));
    cli_set(measured, "dtype", cli_text(i->dtype));
    cli_set(measured, "batch", cli_integer((uint64_t)s->batch));
    cli_set(measured, "dense", figures_json(&r->dense, s->cost));
    cli_set(measured, "masked", figures_json(&r->found, s->cost));
    cli_set(doc, "version", cli_integer(1));
    cli_set(doc, "layers", layers_json(s, r));
    cli_set(doc, "measured", measured);
    return doc;
}

static int save(const cli_options *o, const json_t *config, vitrun_error *err)
{
    char *text = vte_json_encode(config, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    cli_protect(1);
    int bad = text ? vitrun_save_bytes(o->save, text, strlen(text), err)
                   : vte_fail(err, VITRUN_MACHINE, "out of memory (mask configuration)");
    cli_protect(0);
    free(text);
    return bad;
}

static void print_text(cli_io *io, const vte_search *s, const vte_search_result *r)
{
    cli_table *t = cli_table_new("rl");
    cli_cells(t, (const char *const[]){"layer", "mask", NULL});
    for (int l = 0; l < r->layers; l++) {
        cli_cell(t, "%d", l);
        cli_cell(t, "%s", r->choice[l] < 0 ? "dense" : s->candidate[r->choice[l]]);
    }
    cli_table_end(t, 2, io->out);
    fprintf(
        io->out,
        "top-1 %.2f %% -> %.2f %%, same class %.2f %%, KL %.4g nats; %s %.6g -> %.6g (%.1f %%); "
        "%zu models measured\n",
        100 * r->dense.top1, 100 * r->found.top1, 100 * r->found.agreement, r->found.kl,
        unit[s->cost], r->dense.cost, r->found.cost, 100 * r->found.cost / r->dense.cost,
        r->measured);
    if (!r->reached)
        fputs("the budget is not reached with these masks\n", io->out);
}

static int report(const cli_options *o, cli_io *io, const vte_search *s, const vte_search_result *r,
                  vitrun_error *err)
{
    json_t *config = config_json(o, s, r);
    int bad = o->save ? save(o, config, err) : 0;
    if (o->json) {
        cli_json_begin(io);
        report_head(io, vitrun_info_get(s->model));
        cli_json_put(io, "mask_config", json_incref(config));
        cli_json_put(io, "models", cli_integer(r->measured));
        cli_json_put(io, "reached", json_boolean(r->reached));
        cli_json_end(io);
    } else
        print_text(io, s, r);
    json_decref(config);
    return bad ? -1 : r->bad_images ? VITRUN_INPUT : 0;
}

/* ---- the whole ---- */
static int check_options(const cli_options *o, vitrun_error *err)
{
    if (!o->data || !o->masks.count)
        return vte_fail(err, VITRUN_USAGE, "--%s is missing (vitrun search --help)",
                        o->data ? "mask" : "data");
    if (o->max_ms >= 0 && o->max_bytes)
        return vte_fail(err, VITRUN_USAGE, "--max-ms and --max-bytes are two budgets: give one");
    if (o->max_lost < 0 && o->max_ms < 0 && !o->max_bytes)
        return vte_fail(err, VITRUN_USAGE,
                        "no budget: --max-lost, --max-bytes or --max-ms is missing");
    return 0;
}

static int run(const cli_options *o, cli_io *io, const vte_search *s, vitrun_error *err)
{
    vte_search_result r;
    if (vte_search_run(s, &r, err) != 0)
        return -1;
    int status = report(o, io, s, &r, err);
    vte_search_free(&r);
    return status;
}

int cmd_search(const cli_options *o, cli_io *io, vitrun_error *err)
{
    vitrun_options base;
    vte_dataset data = {0};
    int batch, status = -1;
    if (check_options(o, err) != 0 || cli_model_options(o, 0, &base, err) != 0)
        return -1;
    cli_options unmasked = *o;
    unmasked.masks.count = 0;
    vitrun_model *model = cli_open_fitting(&unmasked, SIZE_MAX, &batch, io, err);
    if (model && vte_dataset_open(&data, o->data, (size_t)o->limit, model, err) == 0) {
        vte_search s = {.model = model,
                        .base = &base,
                        .data = &data,
                        .batch = batch,
                        .runs = o->runs ? o->runs : VTE_RUNS,
                        .candidate = o->masks.item,
                        .candidates = o->masks.count,
                        .cost = o->max_ms >= 0 ? VTE_COST_MS
                                : o->max_bytes ? VTE_COST_BYTES
                                               : VTE_COST_PAIRS,
                        .max_lost = o->max_lost < 0 ? INFINITY : o->max_lost / 100,
                        .target_cost = o->max_ms >= 0 ? o->max_ms : (double)o->max_bytes,
                        .user = io,
                        .progress = on_progress,
                        .bad = on_bad};
        status = run(o, io, &s, err);
    }
    vte_dataset_close(&data);
    vitrun_close(model);
    return status;
}
