/* vitrun mask: what the masks of a configuration or an expression look like, without running. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/cli/cli.h"

static int check_options(const cli_options *o, vitrun_error *err)
{
    if (!o->weights == !o->grid.h)
        return vte_fail(err, VITRUN_USAGE, "mask needs %s",
                        o->weights ? "either --weights or --grid, not both"
                                   : "--weights PATH or --grid HxW");
    if (!o->mask_config && o->masks.count == 0)
        return vte_fail(err, VITRUN_USAGE, "mask needs --mask-config FILE or --mask EXPR");
    const char *of_model = o->device ? "--device" : cli_model_option(o);
    if (o->grid.h && of_model)
        return vte_fail(err, VITRUN_USAGE, "mask --grid opens no model: it takes no %s", of_model);
    if (o->weights && o->prefix >= 0)
        return vte_fail(err, VITRUN_USAGE, "--prefix needs --grid (the weights know their own)");
    if (o->query >= 0 && !o->png)
        return vte_fail(err, VITRUN_USAGE, "--query needs --png DIR");
    if (o->save && !cli_ends_with(o->save, ".safetensors"))
        return vte_fail(err, VITRUN_USAGE,
                        "--save: bad value (expected a name ending in .safetensors, found "
                        "\"%.120s\")",
                        o->save);
    return 0;
}

/* *model is the one whose masks these are, or NULL. */
static vitrun_masks *open_masks(const cli_options *o, cli_io *io, vitrun_model **model,
                                vitrun_error *err)
{
    if (o->weights) {
        *model = cli_open(o, 1, io, err);
        return *model ? vitrun_masks_of(*model, err) : NULL;
    }
    vitrun_mask_options options;
    vitrun_mask_options_init(&options);
    options.grid_h = o->grid.h;
    options.grid_w = o->grid.w;
    options.prefix = o->prefix > 0 ? o->prefix : 0;
    options.mask_config = o->mask_config;
    options.masks = o->masks.item;
    options.mask_count = o->masks.count;
    options.threads = cli_threads(o);
    return vitrun_masks_open(&options, err);
}

/* ---- drawings ---- */
static int make_folder(const char *path, vitrun_error *err)
{
    struct stat st;
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return 0;
    vte_fail(err, VITRUN_MACHINE, "cannot be made a folder: %s", strerror(errno));
    return vte_prefix(err, path);
}

/* "FOLDER/layer00_heads0-3". A list of heads that is too long for a file's name is cut, and the
 * number of the mask keeps it apart. */
static char *drawing(const vitrun_masks *masks, int i, const char *folder)
{
    enum { LONGEST = 64 };
    const vitrun_layer *l = vitrun_masks_at(masks, i);
    if (strlen(l->heads) <= LONGEST)
        return cli_format("%s/layer%02d_heads%s", folder, l->layer, l->heads);
    int shown = LONGEST;
    while (shown > 0 && l->heads[shown] != ',')
        shown--;
    return cli_format("%s/layer%02d_heads%.*s_and_more_mask%d", folder, l->layer, shown, l->heads,
                      i);
}

static int draw(const vitrun_masks *masks, int i, const char *folder, int query, vitrun_error *err)
{
    char *name = drawing(masks, i, folder);
    char *matrix = cli_format("%s_matrix.png", name);
    char *seen = cli_format("%s_query%d.png", name, query);
    cli_protect(1);
    int bad = vitrun_masks_draw_matrix(masks, i, matrix, err) ||
              vitrun_masks_draw_query(masks, i, query, seen, err);
    cli_protect(0);
    free(name);
    free(matrix);
    free(seen);
    return bad ? -1 : 0;
}

static int draw_all(const cli_options *o, const vitrun_masks *masks, const vitrun_model *model,
                    vitrun_error *err)
{
    const vitrun_info *info = model ? vitrun_info_get(model) : NULL;
    int h = info ? info->grid_h : o->grid.h, w = info ? info->grid_w : o->grid.w;
    int prefix = info ? info->prefix_tokens : o->prefix > 0 ? o->prefix : 0;
    int tokens = prefix + h * w;
    int query = o->query >= 0 ? o->query : prefix + h / 2 * w + w / 2;
    if (query >= tokens)
        return vte_fail(err, VITRUN_USAGE, "--query: no such token (expected 0 to %d, found %d)",
                        tokens - 1, query);
    if (make_folder(o->png, err) != 0)
        return -1;
    for (int i = 0; i < vitrun_masks_count(masks); i++)
        if (draw(masks, i, o->png, query, err) != 0)
            return -1;
    return 0;
}

/* ---- numbers ---- */
static void print_json(const vitrun_masks *masks, cli_io *io)
{
    cli_json_begin(io);
    cli_json_array(io, "layers");
    for (int i = 0; i < vitrun_masks_count(masks); i++)
        cli_json_element(io, report_mask(vitrun_masks_at(masks, i)));
    cli_json_array_end(io);
    cli_json_end(io);
}

static void print_text(const vitrun_masks *masks, FILE *f)
{
    char n[CLI_AMOUNT];
    cli_table *t = cli_table_new("rlrrrrrrrrrrl");
    cli_cells(t, (const char *const[]){"layer", "heads", "tokens", "nnz", "density", "empty rows",
                                       "row min", "mean", "max", "tiles 16", "32", "64", "mask",
                                       NULL});
    for (int i = 0; i < vitrun_masks_count(masks); i++) {
        const vitrun_layer *l = vitrun_masks_at(masks, i);
        cli_cell(t, "%d", l->layer);
        cli_cell(t, "%s", l->heads);
        cli_cell(t, "%d", l->tokens);
        cli_cell(t, "%s", cli_count(n, (uint64_t)l->nnz));
        cli_cell(t, "%.2f %%", 100 * l->density);
        cli_cell(t, "%d", l->empty_rows);
        cli_cell(t, "%d", l->row_min);
        cli_cell(t, "%.1f", l->row_mean);
        cli_cell(t, "%d", l->row_max);
        for (int k = 0; k < 3; k++)
            cli_cell(t, "%.1f %%", 100 * l->occupancy[k]);
        cli_cell(t, "%s", l->mask);
    }
    cli_table_end(t, 0, f);
}

static int save(const cli_options *o, const vitrun_masks *masks, vitrun_error *err)
{
    cli_protect(1);
    int bad = vitrun_masks_save(masks, o->save, err);
    cli_protect(0);
    return bad;
}

int cmd_mask(const cli_options *o, cli_io *io, vitrun_error *err)
{
    if (check_options(o, err) != 0)
        return -1;
    vitrun_model *model = NULL;
    vitrun_masks *masks = open_masks(o, io, &model, err);
    int status = masks ? 0 : -1;
    if (masks && o->json)
        print_json(masks, io);
    else if (masks)
        print_text(masks, io->out);
    if (status == 0 && o->png)
        status = draw_all(o, masks, model, err);
    if (status == 0 && o->save)
        status = save(o, masks, err);
    vitrun_masks_free(masks);
    vitrun_close(model);
    return status;
}
