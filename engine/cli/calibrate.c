/* vitrun calibrate: where the attention goes, on average over pictures; what a mask would leave out
 * of it; masks made from it.
 *
 * The model runs without masks. --save writes one boolean tensor a layer, and beside it the mask
 * configuration that reads them.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"
#include "engine/experiments/calibrate.h"

typedef struct {
    const cli_options *o;
    cli_io *io;
    vitrun_model *model;
    vte_dataset data;
    vte_calibration found;
    vitrun_masks *masks; /* whose loss is asked for; NULL: none */
    double *lost;        /* [layers, heads] */
} state;

static void on_bad(void *user, const char *message)
{
    state *s = user;
    cli_progress_clear(s->io);
    cli_print_error(message);
}

static void on_progress(void *user, size_t done, size_t total)
{
    state *s = user;
    cli_progress(s->io, done, total, "images");
}

/* ---- what a mask would lose ---- */
static int open_masks(state *s, vitrun_error *err)
{
    const vitrun_info *i = vitrun_info_get(s->model);
    vitrun_mask_options o;
    if (!s->o->mask_config && !s->o->masks.count)
        return 0;
    vitrun_mask_options_init(&o);
    o.grid_h = i->grid_h, o.grid_w = i->grid_w, o.prefix = i->prefix_tokens;
    o.layers = i->layers, o.heads = i->heads, o.threads = i->threads;
    o.mask_config = s->o->mask_config;
    o.masks = s->o->masks.item, o.mask_count = s->o->masks.count;
    s->masks = vitrun_masks_open(&o, err);
    return s->masks ? 0 : -1;
}

static int lose_in_group(state *s, int group, vitrun_error *err)
{
    const vitrun_layer *l = vitrun_masks_at(s->masks, group);
    const char *list = l->heads;
    int first, last, bad = 0;
    while (!bad && vte_next_range(&list, &first, &last))
        for (int head = first; head <= last && !bad; head++)
            bad = vte_mass_lost(&s->found, s->masks, group, head,
                                &s->lost[l->layer * s->found.heads + head], err);
    return bad;
}

static int lose(state *s, vitrun_error *err)
{
    int bad = 0;
    s->lost = cli_alloc((size_t)s->found.layers * (size_t)s->found.heads, sizeof *s->lost);
    for (int g = 0; s->masks && g < vitrun_masks_count(s->masks) && !bad; g++)
        bad = lose_in_group(s, g, err);
    return bad;
}

/* ---- masks from the average ---- */
static int save_config(const state *s, const char *weights, vitrun_error *err)
{
    const char *slash = strrchr(weights, '/'), *name = slash ? slash + 1 : weights;
    char *path = cli_format("%.*s.json", (int)(strlen(weights) - strlen(".safetensors")), weights);
    json_t *layers = cli_object(), *doc = cli_object();
    for (int l = 0; l < s->found.layers; l++) {
        char *key = cli_format("%d", l);
        char *mask = cli_format("file(path=\"%s\", tensor=\"layer%d\")", name, l);
        cli_set(layers, key, cli_text(mask));
        free(key);
        free(mask);
    }
    cli_set(doc, "version", cli_integer(1));
    cli_set(doc, "layers", layers);
    char *text = vte_json_encode(doc, JSON_INDENT(2));
    int bad = text ? vitrun_save_bytes(path, text, strlen(text), err)
                   : vte_fail(err, VITRUN_MACHINE, "out of memory (mask configuration)");
    if (!bad)
        fprintf(s->io->notes, "masks in %s; --mask-config %s uses them\n", weights, path);
    free(text);
    json_decref(doc);
    free(path);
    return bad;
}

static int save_masks(const state *s, vitrun_error *err)
{
    const vte_calibration *c = &s->found;
    int per_head = s->o->per && strcmp(s->o->per, "head") == 0, heads = per_head ? c->heads : 1;
    size_t n = (size_t)c->tokens, size = (size_t)heads * n * n;
    uint8_t *mask = cli_alloc((size_t)c->layers, size);
    vitrun_tensor *t = cli_alloc((size_t)c->layers, sizeof *t);
    char **name = cli_alloc((size_t)c->layers, sizeof *name);
    int bad = 0;
    for (int l = 0; l < c->layers && !bad; l++) {
        uint8_t *own = mask + (size_t)l * size;
        name[l] = cli_format("layer%d", l);
        bad = vte_mask_from(c, l, per_head, s->o->keep_keys, s->o->keep_mass, own, err);
        t[l] = (vitrun_tensor){name[l], 1, 2, {n, n}, own};
        if (per_head)
            t[l] = (vitrun_tensor){name[l], 1, 3, {(uint64_t)heads, n, n}, own};
    }
    cli_protect(1);
    bad = bad || vitrun_save_tensors(s->o->save, t, c->layers, err) ||
          save_config(s, s->o->save, err);
    cli_protect(0);
    for (int l = 0; l < c->layers; l++)
        free(name[l]);
    free(name);
    free(t);
    free(mask);
    return bad ? -1 : 0;
}

/* ---- reports ---- */
static void print_head(const state *s, cli_table *t, int layer, int head,
                       const vte_concentration *v)
{
    cli_cell(t, "%d", layer);
    cli_cell(t, "%d", head);
    cli_cell(t, "%.1f", v->keys50);
    cli_cell(t, "%.1f", v->keys90);
    cli_cell(t, "%.1f", v->keys99);
    cli_cell(t, "%.2f", v->entropy);
    cli_cell(t, "%.1f %%", 100 * v->prefix);
    cli_cell(t, "%.2f", v->distance);
    if (s->masks)
        cli_cell(t, "%.1f %%", 100 * s->lost[layer * s->found.heads + head]);
}

static json_t *head_json(const state *s, int layer, int head, const vte_concentration *v)
{
    json_t *j = cli_object();
    cli_set(j, "layer", cli_integer((uint64_t)layer));
    cli_set(j, "head", cli_integer((uint64_t)head));
    cli_set(j, "keys50", cli_real(v->keys50));
    cli_set(j, "keys90", cli_real(v->keys90));
    cli_set(j, "keys99", cli_real(v->keys99));
    cli_set(j, "entropy", cli_real(v->entropy));
    cli_set(j, "prefix_share", cli_real(v->prefix));
    cli_set(j, "distance", cli_real(v->distance));
    if (s->masks)
        cli_set(j, "mass_lost", cli_real(s->lost[layer * s->found.heads + head]));
    return j;
}

static int report(state *s, vitrun_error *err)
{
    const vte_calibration *c = &s->found;
    cli_table *t = cli_table_new(s->masks ? "rrrrrrrrr" : "rrrrrrrr");
    vte_concentration *v = cli_alloc((size_t)c->layers * (size_t)c->heads, sizeof *v);
    json_t *heads = cli_array();
    int bad = vte_concentrations(c, v, err);
    cli_cells(t, (const char *const[]){"layer", "head", "keys 50 %", "90 %", "99 %", "entropy",
                                       "to prefix", "distance", NULL});
    if (s->masks)
        cli_cell(t, "%s", "mask loses");
    for (int at = 0; at < c->layers * c->heads && !bad; at++) {
        print_head(s, t, at / c->heads, at % c->heads, &v[at]);
        cli_append(heads, head_json(s, at / c->heads, at % c->heads, &v[at]));
    }
    free(v);
    if (s->o->json) {
        cli_json_begin(s->io);
        report_head(s->io, vitrun_info_get(s->model));
        cli_json_put(s->io, "model", report_model(vitrun_info_get(s->model)));
        cli_json_put(s->io, "images", cli_integer(c->images));
        cli_json_put(s->io, "bad_images", cli_integer(c->bad));
        cli_json_put(s->io, "heads", heads);
        cli_json_end(s->io);
        cli_table_drop(t);
        return bad;
    }
    json_decref(heads);
    fprintf(s->io->out, "average attention over %zu images\n", c->images);
    cli_table_end(t, 2, s->io->out);
    return bad;
}

/* ---- the whole ---- */
static int check_options(const cli_options *o, vitrun_error *err)
{
    int keeps = (o->keep_keys > 0) + (o->keep_mass > 0);
    if (!o->data)
        return vte_fail(err, VITRUN_USAGE, "--data is missing (vitrun calibrate --help)");
    if ((o->save != NULL) != (keeps == 1))
        return vte_fail(err, VITRUN_USAGE, "--save goes with --keep-keys or --keep-mass");
    if (o->save && !cli_ends_with(o->save, ".safetensors"))
        return vte_fail(err, VITRUN_USAGE,
                        "--save: bad value (expected a name ending in .safetensors, found "
                        "\"%.120s\")",
                        o->save);
    return 0;
}

static int run(state *s, vitrun_error *err)
{
    int batch;
    cli_options unmasked = *s->o;
    unmasked.masks.count = 0;
    unmasked.mask_config = NULL;
    s->model = cli_open_fitting(&unmasked, SIZE_MAX, &batch, s->io, err);
    if (!s->model || open_masks(s, err) != 0 ||
        vte_dataset_open(&s->data, s->o->data, (size_t)s->o->limit, s->model, err) != 0)
        return -1;
    vte_calibrating c = {.model = s->model,
                         .batch = batch,
                         .data = &s->data,
                         .user = s,
                         .bad = on_bad,
                         .progress = on_progress};
    if (vte_calibrate(&c, &s->found, err) != 0 || lose(s, err) != 0 || report(s, err) != 0 ||
        (s->o->save && save_masks(s, err) != 0))
        return -1;
    return s->found.bad ? VITRUN_INPUT : 0;
}

int cmd_calibrate(const cli_options *o, cli_io *io, vitrun_error *err)
{
    state s = {.o = o, .io = io};
    int status = check_options(o, err) == 0 ? run(&s, err) : -1;
    free(s.lost);
    vte_calibration_free(&s.found);
    vte_dataset_close(&s.data);
    vitrun_masks_free(s.masks);
    vitrun_close(s.model);
    return status;
}
