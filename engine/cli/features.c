/* --features: what is kept of each image, and the file that it ends in.
 *
 * A file holds parts, each an array over the images: pooled features, tokens, or what some blocks
 * give. A .safetensors file has a tensor a part; a .npy file has one array, of several parts stacked
 * with the layer first, as np.stack makes it of timm's list. Bad images leave no row.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

enum { MOST_DIMS = 3 };

typedef struct {
    char name[32];
    int dims;
    uint64_t shape[MOST_DIMS]; /* of one image's */
    size_t floats;             /* of one image's */
    float *data;               /* [room, floats] */
    /* From an image's tokens [N, D]: those from `first` on, perhaps channels first. */
    int layer, first; /* layer: the place among the blocks that were asked for; -1: no block's */
    int channels_first;
} part;

struct cli_features {
    const cli_options *o;
    const vitrun_info *info;
    size_t room, images; /* images that there is memory for, that were put */
    int parts;
    part *part;
    float *data; /* of all parts, one after the other */
};

/* ---- which parts ---- */
static void add(cli_features *f, part p)
{
    p.floats = 1;
    for (int i = 0; i < p.dims; i++)
        p.floats *= (size_t)p.shape[i];
    f->part[f->parts++] = p;
}

static void add_block(cli_features *f, int k)
{
    const vitrun_info *i = f->info;
    uint64_t h = (uint64_t)i->grid_h, w = (uint64_t)i->grid_w, d = (uint64_t)i->width;
    part patches = {.layer = k, .first = i->prefix_tokens, .channels_first = f->o->reshape};
    part prefix = {.layer = k, .dims = 2, .shape = {(uint64_t)i->prefix_tokens, d}};
    snprintf(patches.name, sizeof patches.name, "layer%d", i->intermediates[k]);
    snprintf(prefix.name, sizeof prefix.name, "layer%d.prefix", i->intermediates[k]);
    patches.dims = f->o->reshape ? 3 : 2;
    if (f->o->reshape)
        patches.shape[0] = d, patches.shape[1] = h, patches.shape[2] = w;
    else
        patches.shape[0] = h * w, patches.shape[1] = d;
    add(f, patches);
    if (f->o->prefix_tokens && i->prefix_tokens)
        add(f, prefix);
}

static void add_parts(cli_features *f)
{
    uint64_t n = (uint64_t)f->info->tokens, d = (uint64_t)f->info->width;
    if (f->o->tokens)
        add(f, (part){.name = "tokens", .dims = 2, .shape = {n, d}, .layer = -1});
    else if (!f->o->intermediate)
        add(f, (part){.name = "features", .dims = 1, .shape = {d}, .layer = -1});
    for (int k = 0; f->o->intermediate && k < f->info->intermediate_count; k++)
        add_block(f, k);
}

int cli_features_check(const cli_options *o, vitrun_error *err)
{
    const struct {
        int given;
        const char *name;
    } of_blocks[] = {
        {o->norm, "norm"}, {o->reshape, "reshape"}, {o->prefix_tokens, "prefix-tokens"}};
    int safetensors = o->features && cli_ends_with(o->features, ".safetensors");
    for (size_t i = 0; i < sizeof of_blocks / sizeof *of_blocks; i++)
        if (of_blocks[i].given && !o->intermediate)
            return vte_fail(err, VITRUN_USAGE, "--%s needs --intermediate LAYERS",
                            of_blocks[i].name);
    if ((o->tokens || o->intermediate) && !o->features)
        return vte_fail(err, VITRUN_USAGE, "--%s needs --features FILE",
                        o->tokens ? "tokens" : "intermediate");
    if (o->tokens && o->intermediate)
        return vte_fail(err, VITRUN_USAGE, "--tokens and --intermediate: a file has room for one");
    if (o->features && !safetensors && !cli_ends_with(o->features, ".npy"))
        return vte_fail(err, VITRUN_USAGE,
                        "--features: bad value (expected a name ending in .npy or .safetensors, "
                        "found \"%.120s\")",
                        o->features);
    if (o->prefix_tokens && !safetensors)
        return vte_fail(err, VITRUN_USAGE,
                        "--prefix-tokens: a .npy file holds one array (expected --features "
                        "FILE.safetensors)");
    return 0;
}

cli_features *cli_features_new(const cli_options *o, const vitrun_info *info, size_t images,
                               vitrun_error *err)
{
    cli_features *f = cli_alloc(1, sizeof *f);
    size_t floats = 0;
    *f = (cli_features){.o = o, .info = info, .room = images};
    f->part = cli_alloc(1 + 2 * (size_t)info->intermediate_count, sizeof *f->part);
    add_parts(f);
    for (int i = 0; i < f->parts; i++)
        floats += f->part[i].floats;
    if (floats <= SIZE_MAX / sizeof *f->data / images)
        f->data = malloc(images * floats * sizeof *f->data);
    if (!f->data) {
        vte_fail(err, VITRUN_MACHINE, "out of memory (features of %zu images)", images);
        cli_features_free(f);
        return NULL;
    }
    float *at = f->data;
    for (int i = 0; i < f->parts; at += images * f->part[i++].floats)
        f->part[i].data = at;
    return f;
}

void cli_features_free(cli_features *f)
{
    if (f) {
        free(f->part);
        free(f->data);
    }
    free(f);
}

/* ---- one image ---- */
/* to [channels, tokens] = from [tokens, channels] transposed. */
static void transpose(float *to, const float *from, size_t tokens, size_t channels)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < channels; c++)
            to[c * tokens + t] = from[t * channels + c];
}

void cli_features_put(cli_features *f, const vte_result *r)
{
    size_t width = (size_t)f->info->width, tokens = (size_t)f->info->tokens;
    for (int i = 0; i < f->parts; i++) {
        const part *p = &f->part[i];
        const float *from = f->o->tokens ? r->tokens : r->features;
        float *to = p->data + f->images * p->floats;
        if (p->layer >= 0)
            from = r->intermediates + ((size_t)p->layer * tokens + (size_t)p->first) * width;
        if (p->channels_first)
            transpose(to, from, p->floats / width, width);
        else
            memcpy(to, from, p->floats * sizeof *to);
    }
    f->images++;
}

/* ---- the file ---- */
/* Images first, then the shape of one. */
static int shape_of(const cli_features *f, const part *p, uint64_t *shape)
{
    shape[0] = f->images;
    for (int i = 0; i < p->dims; i++)
        shape[1 + i] = p->shape[i];
    return 1 + p->dims;
}

static int save_tensors(const cli_features *f, vitrun_error *err)
{
    vitrun_tensor *t = cli_alloc((size_t)f->parts, sizeof *t);
    for (int i = 0; i < f->parts; i++) {
        t[i] = (vitrun_tensor){.name = f->part[i].name, .data = f->part[i].data};
        t[i].rank = shape_of(f, &f->part[i], t[i].shape);
    }
    int bad = vitrun_save_tensors(f->o->features, t, f->parts, err);
    free(t);
    return bad;
}

/* Parts of one shape close ranks where bad images have left room between them. */
static int save_array(cli_features *f, vitrun_error *err)
{
    uint64_t shape[2 + MOST_DIMS] = {(uint64_t)f->parts};
    int stacked = f->o->intermediate != NULL, rank = shape_of(f, f->part, shape + stacked);
    size_t block = f->images * f->part->floats;
    for (int i = 1; i < f->parts; i++)
        memmove(f->data + (size_t)i * block, f->part[i].data, block * sizeof *f->data);
    return vitrun_save_f32(f->o->features, f->part->name, f->data, shape, rank + stacked, err);
}

int cli_features_save(cli_features *f, vitrun_error *err)
{
    int is_array = cli_ends_with(f->o->features, ".npy");
    if (!f->images)
        return 0;
    cli_protect(1);
    int bad = is_array ? save_array(f, err) : save_tensors(f, err);
    cli_protect(0);
    return bad;
}
