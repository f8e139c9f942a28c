/* vitrun sensitivity: how much each layer suffers under each mask. Its points are a sweep's: each
 * mask on one layer (in), or on all but one (out). */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

static char *range_text(int first, int last)
{
    return first > last    ? cli_format("%s", "")
           : first == last ? cli_format("%d", first)
                           : cli_format("%d-%d", first, last);
}

/* "3", or all layers but 3: "0-2,4-11". */
static char *layers_text(int layer, int layers, int out)
{
    if (!out)
        return range_text(layer, layer);
    char *before = range_text(0, layer - 1), *after = range_text(layer + 1, layers - 1);
    char *text = cli_format("%s%s%s", before, *before && *after ? "," : "", after);
    free(before);
    free(after);
    return text;
}

static int add_points(cli_study *s, const vitrun_info *info, int out, vitrun_error *err)
{
    int bad = 0;
    for (int m = 0; m < s->o->masks.count && !bad; m++)
        for (int layer = 0; layer < info->layers && !bad; layer++) {
            const char *mask = s->o->masks.item[m];
            char *layers = layers_text(layer, info->layers, out);
            vte_setting point = {.name = mask,
                                 .mask = mask,
                                 .layers = layers,
                                 .kernel = s->o->kernel ? s->o->kernel : "auto",
                                 .img_size = "",
                                 .dtype = "",
                                 .threshold = -1, /* the option is every point's */
                                 .batch = s->o->batch};
            if (*layers)
                bad = vte_points_append(&s->points, &point, err);
            free(layers);
        }
    return bad;
}

static int make_points(cli_study *s, const vitrun_info *info, vitrun_error *err)
{
    const char *study = s->o->study ? s->o->study : "in";
    vte_setting dense = {.name = "dense",
                         .mask = "dense",
                         .layers = "all",
                         .kernel = "auto",
                         .img_size = "",
                         .dtype = "",
                         .threshold = -1,
                         .batch = s->o->batch};
    vte_points_open(&s->points);
    int bad = vte_points_append(&s->points, &dense, err);
    if (!bad && strcmp(study, "out") != 0)
        bad = add_points(s, info, 0, err);
    if (!bad && strcmp(study, "in") != 0)
        bad = add_points(s, info, 1, err);
    return bad;
}

/* ---- the table ---- */
static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

/* A bar of up to 20 blocks: `share` of the longest. */
static const char *bar(double share)
{
    static const char blocks[] = "████████████████████"; /* three bytes each */
    int n = share > 0 ? (int)(20 * (share < 1 ? share : 1) + 0.5) : 0;
    return blocks + 3 * (20 - n);
}

static void print_rows(const cli_study *s)
{
    double most = 1e-12, dense = number(json_array_get(s->rows, 0), "top1");
    size_t i;
    json_t *row;
    json_array_foreach(s->rows, i, row)
    {
        double kl = number(row, "kl_to_dense");
        most = kl > most ? kl : most;
    }
    cli_table *t = cli_table_new("llrrrrrl");
    cli_cells(t, (const char *const[]){"mask", "layers", "density", "top-1", "lost", "same class",
                                       "KL", "", NULL});
    json_array_foreach(s->rows, i, row)
    {
        cli_cell(t, "%s", json_string_value(json_object_get(row, "name")));
        cli_cell(t, "%s", json_string_value(json_object_get(row, "layers")));
        cli_cell(t, "%.1f %%", 100 * number(row, "density"));
        cli_cell(t, "%.2f %%", 100 * number(row, "top1"));
        cli_cell(t, "%.2f", 100 * (dense - number(row, "top1")));
        cli_cell(t, "%.2f %%", 100 * number(row, "agreement_top1"));
        cli_cell(t, "%.3g", number(row, "kl_to_dense"));
        cli_cell(t, "%s", bar(number(row, "kl_to_dense") / most));
    }
    cli_table_end(t, 2, s->io->out);
}

static int finish(const cli_study *s, vitrun_error *err)
{
    if (cli_study_write(s, err) != 0)
        return -1;
    s->o->json ? cli_study_json(s) : print_rows(s);
    return s->bad_images ? VITRUN_INPUT : 0;
}

/* Each mask is tried before anything runs. */
static int try_masks(const cli_study *s, const vitrun_model *model, vitrun_error *err)
{
    vitrun_options o;
    int bad = cli_model_options(s->o, s->o->batch, &o, err);
    for (int i = 0; i < s->o->masks.count && !bad; i++) {
        char *mask = cli_format("all: %s", s->o->masks.item[i]);
        o.masks = (const char *const *)&mask;
        o.mask_count = 1;
        vitrun_model *variant = vitrun_variant(model, &o, err);
        bad = variant ? 0 : -1;
        vitrun_close(variant);
        free(mask);
    }
    return bad;
}

int cmd_sensitivity(const cli_options *o, cli_io *io, vitrun_error *err)
{
    cli_study s = {.o = o, .io = io, .shard = 1, .shards = 1};
    if (!o->data || !o->masks.count)
        return vte_fail(err, VITRUN_USAGE, "--%s is missing (vitrun sensitivity --help)",
                        o->data ? "mask" : "data");
    cli_options unmasked = *o;
    unmasked.masks.count = 0;
    vitrun_model *model = cli_open(&unmasked, 1, io, err);
    int bad = -1;
    if (model) {
        cli_study_open(&s, o, io, "Sensitivity", model);
        bad = try_masks(&s, model, err) || make_points(&s, vitrun_info_get(model), err) ? -1 : 0;
    }
    vitrun_close(model);
    int status = bad || cli_study_run(&s, err) ? -1 : finish(&s, err);
    cli_study_close(&s);
    return status;
}
