/* What several commands say about a model, its layers, its memory and its time, as JSON and text. */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

/* ---- JSON ---- */
json_t *report_model(const vitrun_info *info)
{
    json_t *grid = json_pack("[ii]", info->grid_h, info->grid_w);
    json_t *model = cli_object();
    cli_set(model, "architecture", cli_text(info->architecture));
    cli_set(model, "layers", cli_integer((uint64_t)info->layers));
    cli_set(model, "heads", cli_integer((uint64_t)info->heads));
    cli_set(model, "width", cli_integer((uint64_t)info->width));
    cli_set(model, "tokens", cli_integer((uint64_t)info->tokens));
    cli_set(model, "prefix_tokens", cli_integer((uint64_t)info->prefix_tokens));
    cli_set(model, "grid", grid);
    cli_set(model, "num_classes", cli_integer((uint64_t)info->classes));
    cli_set(model, "parameters", cli_integer(info->parameters));
    return model;
}

json_t *report_memory(const vitrun_memory *m)
{
    json_t *memory = cli_object();
    cli_set(memory, "peak_bytes", cli_integer(m->peak_bytes));
    cli_set(memory, "weights_bytes", cli_integer(m->weights_bytes));
    cli_set(memory, "activations_bytes", cli_integer(m->activations_bytes));
    cli_set(memory, "masks_bytes", cli_integer(m->masks_bytes));
    cli_set(memory, "attention_bytes", cli_integer(m->attention_bytes));
    cli_set(memory, "scratch_bytes", cli_integer(m->scratch_bytes));
    return memory;
}

json_t *report_layer(const vitrun_layer *l)
{
    json_t *layer = cli_object(), *candidates = cli_array();
    cli_set(layer, "layer", cli_integer((uint64_t)l->layer));
    cli_set(layer, "heads", cli_text(l->heads));
    cli_set(layer, "mask", cli_text(l->mask));
    cli_set(layer, "density", cli_real(l->density));
    cli_set(layer, "nnz", cli_integer((uint64_t)l->nnz));
    cli_set(layer, "threshold", cli_real(l->threshold));
    cli_set(layer, "kernel", cli_text(l->kernel));
    cli_set(layer, "reason", cli_text(l->reason));
    cli_set(layer, "predicted_ms", l->predicted_ms < 0 ? json_null() : cli_real(l->predicted_ms));
    for (int i = 0; candidates && i < l->candidate_count; i++) {
        const vitrun_candidate *c = &l->candidates[i];
        json_t *candidate = cli_object();
        cli_set(candidate, "kernel", cli_text(c->kernel));
        cli_set(candidate, "predicted_ms",
                c->predicted_ms < 0 ? json_null() : cli_real(c->predicted_ms));
        cli_append(candidates, candidate);
    }
    cli_set(layer, "candidates", candidates);
    cli_set(layer, "mask_bytes", cli_integer(l->mask_bytes));
    cli_set(layer, "work_bytes", cli_integer(l->work_bytes));
    return layer;
}

json_t *report_mask(const vitrun_layer *l)
{
    static const char *const side[] = {"16", "32", "64"};
    json_t *mask = cli_object(), *row = cli_object(), *occupancy = cli_object();
    cli_set(row, "min", cli_integer((uint64_t)l->row_min));
    cli_set(row, "mean", cli_real(l->row_mean));
    cli_set(row, "max", cli_integer((uint64_t)l->row_max));
    for (int i = 0; i < 3; i++)
        cli_set(occupancy, side[i], cli_real(l->occupancy[i]));
    cli_set(mask, "layer", cli_integer((uint64_t)l->layer));
    cli_set(mask, "heads", cli_text(l->heads));
    cli_set(mask, "mask", cli_text(l->mask));
    cli_set(mask, "tokens", cli_integer((uint64_t)l->tokens));
    cli_set(mask, "nnz", cli_integer((uint64_t)l->nnz));
    cli_set(mask, "density", cli_real(l->density));
    cli_set(mask, "empty_rows", cli_integer((uint64_t)l->empty_rows));
    cli_set(mask, "row_nnz", row);
    cli_set(mask, "tile_occupancy", occupancy);
    return mask;
}

void report_head(cli_io *io, const vitrun_info *info)
{
    cli_json_put(io, "vitrun", cli_text(vitrun_version()));
    cli_json_put(io, "device", cli_text(info->device));
    cli_json_put(io, "dtype", cli_text(info->dtype));
    cli_json_put(io, "threads", cli_integer((uint64_t)info->threads));
}

void report_layers(cli_io *io, const vitrun_model *model, const vitrun_context *context)
{
    cli_json_array(io, "layers");
    for (int i = 0; i < vitrun_layer_count(model); i++) {
        const vitrun_layer *l = vitrun_layer_at(model, i);
        json_t *layer = report_layer(l);
        double ms = context ? report_attention_ms(context, model, l) : -1;
        if (context)
            cli_set(layer, "ms", ms < 0 ? json_null() : cli_real(ms));
        cli_json_element(io, layer);
    }
    cli_json_array_end(io);
}

/* ---- times ---- */
static int groups_of(const vitrun_model *model, int layer)
{
    int groups = 0;
    for (int i = 0; i < vitrun_layer_count(model); i++)
        groups += vitrun_layer_at(model, i)->layer == layer;
    return groups;
}

double report_attention_ms(const vitrun_context *context, const vitrun_model *model,
                           const vitrun_layer *layer)
{
    int alone = groups_of(model, layer->layer) == 1;
    for (int i = 0; i < vitrun_profile_count(context); i++) {
        vitrun_profile_entry e;
        vitrun_profile_at(context, i, &e);
        if (strcmp(e.op, "attention") == 0 && e.layer == layer->layer && e.calls > 0 &&
            (alone || strcmp(e.name, layer->heads) == 0))
            return e.ms / (double)e.calls;
    }
    return -1;
}

enum { MAX_OPERATIONS = 64 };

typedef struct {
    const char *op, *name;
    double ms;
    long calls;
} operation;

/* Sums the profile over layers, in the order of first appearance. */
static int sum_profile(const vitrun_context *context, operation *sum)
{
    int count = 0;
    for (int i = 0; i < vitrun_profile_count(context); i++) {
        vitrun_profile_entry e;
        vitrun_profile_at(context, i, &e);
        int is_attention = strcmp(e.op, "attention") == 0, k = 0; /* its names are head groups */
        while (k < count && (strcmp(sum[k].op, e.op) != 0 ||
                             (!is_attention && strcmp(sum[k].name, e.name) != 0)))
            k++;
        if (k == MAX_OPERATIONS)
            break;
        if (k == count)
            sum[count++] = (operation){e.op, is_attention ? "" : e.name, 0, 0};
        sum[k].ms += e.ms;
        sum[k].calls += e.calls;
    }
    return count;
}

json_t *report_profile(const vitrun_context *context, long forwards)
{
    operation sum[MAX_OPERATIONS];
    int count = sum_profile(context, sum);
    json_t *array = cli_array();
    for (int i = 0; i < count; i++) {
        json_t *entry = cli_object();
        cli_set(entry, "op", cli_text(sum[i].op));
        cli_set(entry, "name", cli_text(sum[i].name));
        cli_set(entry, "ms", cli_real(sum[i].ms / (double)forwards));
        cli_set(entry, "calls", cli_real((double)sum[i].calls / (double)forwards));
        cli_append(array, entry);
    }
    return array;
}

void report_profile_text(FILE *f, const vitrun_context *context, long forwards)
{
    operation sum[MAX_OPERATIONS];
    int count = sum_profile(context, sum);
    double total = 0;
    for (int i = 0; i < count; i++)
        total += sum[i].ms;
    cli_table *t = cli_table_new("llrrr");
    cli_cells(t, (const char *const[]){"operation", "", "calls", "ms", "share", NULL});
    for (int i = 0; i < count; i++) {
        cli_cell(t, "%s", sum[i].op);
        cli_cell(t, "%s", strcmp(sum[i].op, sum[i].name) ? sum[i].name : "");
        cli_cell(t, "%.0f", (double)sum[i].calls / (double)forwards);
        cli_cell(t, "%.3f", sum[i].ms / (double)forwards);
        cli_cell(t, "%.1f %%", total > 0 ? 100 * sum[i].ms / total : 0.0);
    }
    cli_cells(t, (const char *const[]){"sum", "", "", NULL});
    cli_cell(t, "%.3f", total / (double)forwards);
    cli_cell(t, "%s", "");
    cli_table_end(t, 2, f);
}

/* ---- layers ---- */
void report_layers_text(FILE *f, const vitrun_model *model, const vitrun_context *context)
{
    char mask[CLI_AMOUNT], work[CLI_AMOUNT], nnz[CLI_AMOUNT];
    cli_table *t = cli_table_new(context ? "rlrrlrrrrl" : "rlrrlrrrl");
    cli_cells(
        t, (const char *const[]){"layer", "heads", "density", "nnz", "kernel", "predicted", NULL});
    if (context)
        cli_cell(t, "measured");
    cli_cells(t, (const char *const[]){"mask", "work", "reason", NULL});
    for (int i = 0; i < vitrun_layer_count(model); i++) {
        const vitrun_layer *l = vitrun_layer_at(model, i);
        double ms = context ? report_attention_ms(context, model, l) : -1;
        cli_cell(t, "%d", l->layer);
        cli_cell(t, "%s", l->heads);
        cli_cell(t, "%.1f %%", 100 * l->density);
        cli_cell(t, "%s", cli_count(nnz, (uint64_t)l->nnz));
        cli_cell(t, "%s", l->kernel);
        cli_cell(t, l->predicted_ms < 0 ? "-" : "%.3f ms", l->predicted_ms);
        if (context)
            cli_cell(t, ms < 0 ? "-" : "%.3f ms", ms);
        cli_cell(t, "%s", cli_bytes(mask, l->mask_bytes));
        cli_cell(t, "%s", cli_bytes(work, l->work_bytes));
        cli_cell(t, "%s", l->reason);
    }
    cli_table_end(t, 2, f);
}

/* ---- candidates ---- */

static int has_choice(const vitrun_layer *l)
{
    return l->density < 1 && l->candidate_count > 0;
}

static int same_prediction(const vitrun_layer *a, const vitrun_layer *b)
{
    if (strcmp(a->mask, b->mask) != 0 || strcmp(a->heads, b->heads) != 0 ||
        strcmp(a->kernel, b->kernel) != 0 || a->candidate_count != b->candidate_count)
        return 0;
    for (int i = 0; i < a->candidate_count; i++)
        if (a->candidates[i].predicted_ms != b->candidates[i].predicted_ms)
            return 0;
    return 1;
}

/* "0-2,7": the layers whose group is predicted like group i. */
static char *layers_like(const vitrun_model *model, int i)
{
    char *text = NULL;
    size_t size;
    FILE *f = cli_memory_stream(&text, &size);
    const vitrun_layer *l = vitrun_layer_at(model, i);
    int last = -2, open = 0;
    for (; i < vitrun_layer_count(model); i++) {
        const vitrun_layer *other = vitrun_layer_at(model, i);
        if (!same_prediction(l, other))
            continue;
        if (other->layer == last + 1)
            open = 1;
        else {
            if (open)
                fprintf(f, "-%d", last);
            fprintf(f, "%s%d", last < 0 ? "" : ",", other->layer);
            open = 0;
        }
        last = other->layer;
    }
    if (open)
        fprintf(f, "-%d", last);
    if (!vte_text_end(f, &text))
        cli_out_of_memory();
    return text;
}

static int is_first_of_its_kind(const vitrun_model *model, int i)
{
    for (int k = 0; k < i; k++)
        if (same_prediction(vitrun_layer_at(model, k), vitrun_layer_at(model, i)))
            return 0;
    return has_choice(vitrun_layer_at(model, i));
}

void report_candidates_text(FILE *f, const vitrun_model *model)
{
    char columns[32] = "ll";
    cli_table *t = NULL;
    for (int i = 0; i < vitrun_layer_count(model); i++) {
        const vitrun_layer *l = vitrun_layer_at(model, i);
        if (!is_first_of_its_kind(model, i))
            continue;
        if (!t) { /* a device has the same candidates for all masks */
            memset(columns + 2, 'r', (size_t)l->candidate_count);
            t = cli_table_new(columns);
            cli_cells(t, (const char *const[]){"layers", "heads", NULL});
            for (int k = 0; k < l->candidate_count; k++)
                cli_cell(t, "%s", l->candidates[k].kernel);
        }
        char *layers = layers_like(model, i);
        cli_cell(t, "%s", layers);
        cli_cell(t, "%s", l->heads);
        free(layers);
        for (int k = 0; k < l->candidate_count; k++) {
            const vitrun_candidate *c = &l->candidates[k];
            const char *mark = strcmp(c->kernel, l->kernel) == 0 ? "*" : "";
            cli_cell(t, c->predicted_ms < 0 ? "%s-" : "%s%.3f", mark, c->predicted_ms);
        }
    }
    if (!t)
        return;
    fputs("\nmilliseconds predicted for each kernel (* is taken)\n", f);
    cli_table_end(t, 2, f);
}

void report_kernels(FILE *f, const vitrun_model *model)
{
    const char *name[16];
    int uses[16], names = 0;
    for (int i = 0; i < vitrun_layer_count(model); i++) {
        const char *kernel = vitrun_layer_at(model, i)->kernel;
        int k = 0;
        while (k < names && strcmp(name[k], kernel) != 0)
            k++;
        if (k == 16)
            break;
        if (k == names) {
            name[names] = kernel;
            uses[names++] = 0;
        }
        uses[k]++;
    }
    for (int k = 0; k < names; k++)
        fprintf(f, "%s%s x%d", k ? ", " : "", name[k], uses[k]);
}
