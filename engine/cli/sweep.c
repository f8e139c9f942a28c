/* vitrun sweep: every point of a specification's axes, kept row by row; --merge joins shares. */
#include <string.h>

#include "engine/cli/cli.h"
#include "engine/experiments/store.h"

static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

static void print_rows(const cli_study *s)
{
    char bytes[2][CLI_AMOUNT], time[CLI_AMOUNT];
    cli_table *t = cli_table_new("llrrrrrrr");
    cli_cells(t, (const char *const[]){"mask", "layers", "density", "top-1", "same class", "KL",
                                       "attention", "masks", "forward", NULL});
    size_t i;
    json_t *row;
    json_array_foreach(s->rows, i, row)
    {
        cli_cell(t, "%s", json_string_value(json_object_get(row, "name")));
        cli_cell(t, "%s", json_string_value(json_object_get(row, "layers")));
        cli_cell(t, "%.1f %%", 100 * number(row, "density"));
        cli_cell(t, "%.2f %%", 100 * number(row, "top1"));
        cli_cell(t, "%.2f %%", 100 * number(row, "agreement_top1"));
        cli_cell(t, "%.3g", number(row, "kl_to_dense"));
        cli_cell(t, "%s", cli_bytes(bytes[0], (uint64_t)number(row, "attention_bytes")));
        cli_cell(t, "%s", cli_bytes(bytes[1], (uint64_t)number(row, "mask_bytes")));
        cli_cell(t, "%s", cli_time(time, number(row, "ms")));
    }
    cli_table_end(t, 2, s->io->out);
}

static int finish(const cli_study *s, vitrun_error *err)
{
    if (s->shards == 1 && cli_study_write(s, err) != 0)
        return -1;
    s->o->json ? cli_study_json(s) : print_rows(s);
    if (s->shards > 1)
        fprintf(s->io->notes, "share %d of %d; vitrun sweep --merge --out DIR joins the shares\n",
                s->shard, s->shards);
    return s->bad_images ? VITRUN_INPUT : 0;
}

/* Rows of shares come in any order: back to that of the specification. */
static json_t *by_index(const json_t *rows)
{
    json_t *ordered = cli_array(), *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        size_t at = json_array_size(ordered);
        while (at > 0 && number(json_array_get(ordered, at - 1), "index") > number(row, "index"))
            at--;
        if (json_array_insert(ordered, at, row) != 0)
            cli_out_of_memory();
    }
    return ordered;
}

/* Of a share that has not run to its end, or whose file is not there, points are missing. */
static void note_missing(const cli_study *s)
{
    size_t points = (size_t)number(s->common, "points"), rows = json_array_size(s->rows);
    if (rows < points)
        fprintf(s->io->notes, "%s: %zu of %zu points are there\n", s->o->out, rows, points);
}

static int merge(cli_study *s, vitrun_error *err)
{
    json_t *rows = cli_array();
    int bad = vte_store_read_all(s->o->out, &s->common, rows, err);
    s->rows = by_index(rows);
    json_decref(rows);
    if (bad)
        return -1;
    note_missing(s);
    return finish(s, err);
}

static int parse_shard(cli_study *s, vitrun_error *err)
{
    char end;
    s->shard = s->shards = 1;
    if (!s->o->shard)
        return 0;
    if (sscanf(s->o->shard, "%9d/%9d%c", &s->shard, &s->shards, &end) == 2 && s->shard >= 1 &&
        s->shard <= s->shards)
        return 0;
    return vte_fail(err, VITRUN_USAGE,
                    "--shard: bad value (expected I/N with I from 1 to N, found \"%.40s\")",
                    s->o->shard);
}

static int run(cli_study *s, vitrun_error *err)
{
    if (parse_shard(s, err) != 0)
        return -1;
    vitrun_model *model = cli_open(s->o, 1, s->io, err);
    int bad = model ? vte_points_read(&s->points, s->o->spec, model, err) : -1;
    if (!bad)
        cli_study_open(s, s->o, s->io, "Sweep", model);
    vitrun_close(model);
    return bad || cli_study_run(s, err) ? -1 : finish(s, err);
}

int cmd_sweep(const cli_options *o, cli_io *io, vitrun_error *err)
{
    cli_study s = {.o = o, .io = io, .shard = 1, .shards = 1};
    if (!o->out)
        return vte_fail(err, VITRUN_USAGE, "--out is missing (the folder for rows and report)");
    if (!o->merge && (!o->spec || !o->data))
        return vte_fail(err, VITRUN_USAGE, "--%s is missing (vitrun sweep --help)",
                        o->spec ? "data" : "spec");
    int status = o->merge ? merge(&s, err) : run(&s, err);
    cli_study_close(&s);
    return status;
}
