/* vitrun check: one image through every kernel that can serve each layer, compared with reference. */
#include "engine/cli/cli.h"

static int agrees(const vitrun_check_pair *p)
{
    return p->max_error <= p->allowed; /* false for NaN */
}

static void print_json(const vitrun_check *check, const vitrun_info *info, cli_io *io)
{
    cli_json_begin(io);
    report_head(io, info);
    cli_json_put(io, "ok", json_boolean(vitrun_check_ok(check)));
    cli_json_array(io, "pairs");
    for (int i = 0; i < vitrun_check_count(check); i++) {
        const vitrun_check_pair *p = vitrun_check_at(check, i);
        json_t *pair = cli_object();
        cli_set(pair, "layer", cli_integer((uint64_t)p->layer));
        cli_set(pair, "heads", cli_text(p->heads));
        cli_set(pair, "a", cli_text(p->a));
        cli_set(pair, "b", cli_text(p->b));
        cli_set(pair, "max_error", cli_real(p->max_error));
        cli_set(pair, "allowed", cli_real(p->allowed));
        cli_set(pair, "ok", json_boolean(agrees(p)));
        cli_json_element(io, pair);
    }
    cli_json_array_end(io);
    cli_json_end(io);
}

static void print_text(const vitrun_check *check, FILE *f)
{
    cli_table *t = cli_table_new("rllrrl");
    cli_cells(t, (const char *const[]){"layer", "heads", "kernels", "largest error", "allowed", "",
                                       NULL});
    for (int i = 0; i < vitrun_check_count(check); i++) {
        const vitrun_check_pair *p = vitrun_check_at(check, i);
        cli_cell(t, "%d", p->layer);
        cli_cell(t, "%s", p->heads);
        cli_cell(t, "%s, %s", p->a, p->b);
        cli_cell(t, p->max_error == p->max_error ? "%.2e" : "not a number", p->max_error);
        cli_cell(t, "%.2e", p->allowed);
        cli_cell(t, "%s", agrees(p) ? "ok" : "DIFFERS");
    }
    cli_table_end(t, 2, f);
    if (vitrun_check_ok(check))
        fputs("all kernels agree\n", f);
}

static int report(const cli_options *o, const vitrun_check *check, const vitrun_info *info,
                  cli_io *io, vitrun_error *err)
{
    o->json ? print_json(check, info, io) : print_text(check, io->out);
    if (vitrun_check_ok(check))
        return 0;
    for (int i = 0; i < vitrun_check_count(check); i++) {
        const vitrun_check_pair *p = vitrun_check_at(check, i);
        if (agrees(p))
            continue;
        if (cli_commit(io, err) != 0)
            return -1;
        return vte_fail(err, VITRUN_MACHINE,
                        "layer %d, heads %s: kernel %s differs from %s by %.2e (allowed %.2e)",
                        p->layer, p->heads, p->b, p->a, p->max_error, p->allowed);
    }
    return vte_fail(err, VITRUN_MACHINE, "the kernels do not agree");
}

static int check_image(const cli_options *o, const vitrun_model *model, vitrun_context *context,
                       cli_io *io, vitrun_error *err)
{
    if (vte_image_read(model, o->images.item[0], vitrun_context_input(context), err) != 0)
        return -1;
    vitrun_check *check = vitrun_check_run(context, 1, err);
    if (!check)
        return -1;
    int status = report(o, check, vitrun_info_get(model), io, err);
    vitrun_check_free(check);
    return status;
}

int cmd_check(const cli_options *o, cli_io *io, vitrun_error *err)
{
    if (o->weights && o->images.count == 0)
        return vte_fail(err, VITRUN_USAGE, "check needs one IMAGE");
    vitrun_model *model = cli_open(o, 1, io, err);
    if (!model)
        return -1;
    vitrun_context *context = vitrun_context_open(model, 1, err);
    int status = context ? check_image(o, model, context, io, err) : -1;
    vitrun_context_close(context);
    vitrun_close(model);
    return status;
}
