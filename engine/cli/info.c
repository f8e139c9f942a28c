/* vitrun info: the model card, the list of architectures. */
#include <stdlib.h>

#include "engine/cli/cli.h"

/* ---- --list ---- */
static json_t *architecture_json(const vitrun_architecture *a)
{
    json_t *entry = cli_object();
    cli_set(entry, "architecture", cli_text(a->name));
    cli_set(entry, "layers", cli_integer((uint64_t)a->layers));
    cli_set(entry, "heads", cli_integer((uint64_t)a->heads));
    cli_set(entry, "width", cli_integer((uint64_t)a->width));
    cli_set(entry, "image", json_pack("[ii]", a->image_height, a->image_width));
    cli_set(entry, "patch", cli_integer((uint64_t)a->patch));
    cli_set(entry, "parts", cli_text(a->parts));
    return entry;
}

static int next_supported(int i, vitrun_architecture *a)
{
    while (vitrun_architecture_at(i, a) == 0) {
        if (!a->missing) /* the others are known by name so that they can be refused by name */
            return i + 1;
        i++;
    }
    return -1;
}

static void list_json(cli_io *io)
{
    vitrun_architecture a;
    cli_json_begin(io);
    cli_json_array(io, "architectures");
    for (int i = 0; (i = next_supported(i, &a)) > 0;)
        cli_json_element(io, architecture_json(&a));
    cli_json_array_end(io);
    cli_json_end(io);
}

static void list_text(FILE *f)
{
    vitrun_architecture a;
    cli_table *t = cli_table_new("lrrrrrl");
    cli_cells(t, (const char *const[]){"architecture", "layers", "heads", "width", "image", "patch",
                                       "beside the plain ViT", NULL});
    for (int i = 0; (i = next_supported(i, &a)) > 0;) {
        cli_cell(t, "%s", a.name);
        cli_cell(t, "%d", a.layers);
        cli_cell(t, "%d", a.heads);
        cli_cell(t, "%d", a.width);
        cli_cell(t, "%dx%d", a.image_height, a.image_width);
        cli_cell(t, "%d", a.patch);
        cli_cell(t, "%s", a.parts);
    }
    cli_table_end(t, 0, f);
}

/* ---- the model card ---- */
static int is_masked(const cli_options *o)
{
    return o->mask_config || o->masks.count > 0;
}

static int info_json(const cli_options *o, const cli_ints *batches, const vitrun_model *model,
                     cli_io *io, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(model);
    cli_json_begin(io);
    report_head(io, info);
    cli_json_put(io, "build", cli_text(vitrun_build_info()));
    cli_json_put(io, "model", report_model(info));
    cli_json_put(io, "image",
                 json_pack("[iii]", info->channels, info->image_height, info->image_width));
    cli_json_put(io, "labels", json_boolean(vitrun_label(model, 0) != NULL));
    cli_json_array(io, "facts");
    for (int i = 0; i < info->fact_count; i++) {
        json_t *fact = cli_object();
        cli_set(fact, "name", cli_text(info->facts[i].name));
        cli_set(fact, "value", cli_text(info->facts[i].value));
        cli_set(fact, "origin", cli_text(info->facts[i].origin));
        cli_json_element(io, fact);
    }
    cli_json_array_end(io);
    cli_json_array(io, "memory");
    for (int i = 0; i < batches->count; i++) {
        vitrun_memory m;
        if (vitrun_memory_plan(model, batches->value[i], &m, err) != 0)
            return -1;
        json_t *entry = report_memory(&m);
        cli_set(entry, "batch", cli_integer((uint64_t)batches->value[i]));
        cli_json_element(io, entry);
    }
    cli_json_array_end(io);
    if (is_masked(o)) {
        cli_json_put(io, "density_threshold", cli_real(info->density_threshold));
        cli_json_put(io, "measured_costs", json_boolean(info->measured_costs));
        report_layers(io, model, NULL);
    }
    cli_json_end(io);
    return 0;
}

static void card_row(cli_table *t, const char *name, char *value)
{
    cli_cell(t, "%s", name);
    cli_cell(t, "%s", value);
    free(value);
}

static void print_card(const vitrun_model *model, FILE *f)
{
    const vitrun_info *i = vitrun_info_get(model);
    char n[CLI_AMOUNT];
    const char *first = vitrun_label(model, 0);
    fprintf(f, "%s\n", i->architecture);
    cli_table *t = cli_table_new("ll");
    card_row(t, "layers", cli_format("%d", i->layers));
    card_row(t, "heads", cli_format("%d of width %d", i->heads, i->head_dim));
    card_row(t, "width", cli_format("%d, MLP %d", i->width, i->hidden));
    card_row(t, "image",
             cli_format("%d x %d x %d (channels, height, width)", i->channels, i->image_height,
                        i->image_width));
    card_row(t, "tokens",
             cli_format("%d: %d x %d patches and %d prefix", i->tokens, i->grid_h, i->grid_w,
                        i->prefix_tokens));
    card_row(t, "classes",
             i->classes ? cli_format("%d", i->classes)
                        : cli_format("none: %d features", i->outputs));
    if (i->classes)
        card_row(t, "labels",
                 first ? cli_format("known (0 is %s)", first)
                       : cli_format("unknown (--labels FILE supplies them)"));
    card_row(t, "parameters", cli_format("%s", cli_count(n, i->parameters)));
    card_row(t, "runs on",
             cli_format("%s, %s, %d thread%s", i->device, i->dtype, i->threads,
                        i->threads == 1 ? "" : "s"));
    card_row(t, "build", cli_format("%s", vitrun_build_info()));
    cli_table_end(t, 2, f);
}

static void print_facts(const vitrun_info *info, FILE *f)
{
    fputs("\nforward pass and preprocessing, and where each was learnt from\n", f);
    cli_table *t = cli_table_new("lll");
    for (int i = 0; i < info->fact_count; i++) {
        cli_cell(t, "%s", info->facts[i].name);
        cli_cell(t, "%s", info->facts[i].value);
        cli_cell(t, "%s", info->facts[i].origin);
    }
    cli_table_end(t, 2, f);
}

static int print_memory(const cli_ints *batches, const vitrun_model *model, FILE *f,
                        vitrun_error *err)
{
    cli_table *t = cli_table_new("rrrrrrr");
    int bad = 0;
    cli_cells(t, (const char *const[]){"batch", "weights", "activations", "masks", "attention",
                                       "scratch", "sum", NULL});
    for (int i = 0; i < batches->count && !bad; i++) {
        vitrun_memory m;
        char n[CLI_AMOUNT];
        bad = vitrun_memory_plan(model, batches->value[i], &m, err);
        if (bad)
            break;
        const uint64_t part[] = {m.weights_bytes,   m.activations_bytes, m.masks_bytes,
                                 m.attention_bytes, m.scratch_bytes,     m.peak_bytes};
        cli_cell(t, "%d", batches->value[i]);
        for (int k = 0; k < 6; k++)
            cli_cell(t, "%s", cli_bytes(n, part[k]));
    }
    fputs("\nplanned memory\n", f);
    cli_table_end(t, 2, f);
    return bad;
}

static int info_text(const cli_options *o, const cli_ints *batches, const vitrun_model *model,
                     FILE *f, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(model);
    print_card(model, f);
    print_facts(info, f);
    if (print_memory(batches, model, f, err) != 0)
        return -1;
    if (is_masked(o)) {
        fprintf(
            f, "\nattention, density threshold %g, planned for batch %d; times predicted from %s\n",
            info->density_threshold, batches->value[0],
            info->measured_costs ? "what vitrun tune measured here"
                                 : "built-in constants (vitrun tune measures this device's)");
        report_layers_text(f, model, NULL);
        report_candidates_text(f, model);
    }
    return 0;
}

int cmd_info(const cli_options *o, cli_io *io, vitrun_error *err)
{
    if (o->list) {
        o->json ? list_json(io) : list_text(io->out);
        return 0;
    }
    cli_ints batches = o->batches;
    if (batches.count == 0)
        batches = (cli_ints){.value = {1, 8, 32}, .count = 3};
    vitrun_model *model = cli_open(o, batches.value[0], io, err);
    if (!model)
        return -1;
    int status = o->json ? info_json(o, &batches, model, io, err)
                         : info_text(o, &batches, model, io->out, err);
    vitrun_close(model);
    return status;
}
