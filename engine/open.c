/* Opening a model: configuration, device, weights, masks, plans; and telling what was opened.
 * Everything is decided here; contexts (run.c) only run. */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "weights_tools/timm_archs.h"

const char *vitrun_version(void)
{
    return VITRUN_VERSION;
}

int vitrun_version_number(void)
{
    return VITRUN_VERSION_NUMBER;
}

void vitrun_options_init(vitrun_options *options)
{
    if (options)
        *options =
            (vitrun_options){.size = sizeof *options, .density_threshold = -1, .device = "auto"};
}

/* ---- steps of opening ---- */

static int load_config(vitrun_model *m, const vitrun_options *o, const st_reader *r, vt_status *st)
{
    timm_options opt = {.config = o->config,
                        .arch = o->arch,
                        .set = o->set,
                        .sets = o->set_count,
                        .img_h = o->image_height,
                        .img_w = o->image_width,
                        .labels = o->labels};
    return timm_config_load(&m->cfg, o->weights, r, &opt, st);
}

int vitrun_check_memory(const vitrun_model *m, uint64_t needed, vt_status *st)
{
    if (m->max_memory && needed > m->max_memory)
        return vt_fail(st, VT_MACHINE,
                       "more memory than --max-memory allows (expected at most %.6g MiB, needed "
                       "%.6g MiB)",
                       (double)m->max_memory / 1048576, (double)needed / 1048576);
    return 0;
}

int vitrun_check_device(const vitrun_model *m, uint64_t more, vt_status *st)
{
    size_t free_bytes = vt_free_memory(m->dev);
    if (more > free_bytes)
        return vt_fail(
            st, VT_MACHINE,
            "%s: out of memory (needed %.6g MiB more, free %.6g MiB; a smaller --batch or "
            "--dtype needs less)",
            m->dev->ops->name, (double)more / 1048576, (double)free_bytes / 1048576);
    return 0;
}

static int load_masks(vitrun_model *m, const vitrun_options *o, vt_status *st)
{
    const vit_config *c = &m->cfg.vit;
    vt_mask_shape shape = {.layers = c->layers,
                           .heads = m->vit.heads / m->vit.head_copies,
                           .prefix = m->vit.prefix,
                           .grid_h = m->vit.grid_h,
                           .grid_w = m->vit.grid_w};
    if (!o->mask_config && !o->mask_count)
        return 0;
    m->masks = vt_masks_load(o->mask_config, o->masks, o->mask_count, &shape, m->dev->threads, st);
    return m->masks ? 0 : -1;
}

static int plan(vitrun_model *m, const vitrun_options *o, vt_watch *watch, vt_status *st)
{
    double threshold = o->density_threshold;
    if (threshold < 0)
        threshold =
            m->masks && m->masks->density_threshold >= 0 ? m->masks->density_threshold : 0.30;
    m->info.density_threshold = threshold;
    vt_plan_setup setup = {
        .heads = m->vit.heads / m->vit.head_copies,
        .head_copies = m->vit.head_copies,
        .head_dim = m->vit.head_dim,
        .images = m->planned_images,
        .dev = m->dev,
        .threads = m->dev->threads,
        .watch = watch,
        .biased = m->cfg.vit.rel_pos != VIT_BIAS_NONE,
        .wish = {.rule = o->dispatch == VITRUN_DISPATCH_DENSITY ? VT_RULE_DENSITY : VT_RULE_AUTO,
                 .threshold = threshold,
                 .kernel = o->kernel},
        .wish_threshold_wins = o->density_threshold >= 0};
    return vt_plans_build(&m->plans, m->masks, m->cfg.vit.layers, m->vit.tokens, &setup, st);
}

/* Masks that leave rows empty work, but rarely mean what their author meant. */
static int warn(vitrun_model *m, vt_status *st)
{
    m->warning = vt_alloc((size_t)m->plans.groups, sizeof *m->warning, "warnings", st);
    if (!m->warning)
        return -1;
    for (int i = 0; i < m->plans.groups; i++) {
        const vitrun_layer *l = &m->plans.group[i].pub;
        char text[256];
        if (!l->empty_rows)
            continue;
        snprintf(
            text, sizeof text,
            "layer %d, heads %s: %d of %d rows of the mask are empty; attention gives zeros there",
            l->layer, l->heads, l->empty_rows, l->tokens);
        if (!(m->warning[m->warnings] = vt_strdup(text, st)))
            return -1;
        m->warnings++;
    }
    return 0;
}

static int describe(vitrun_model *m, vt_status *st)
{
    const vit_config *c = &m->cfg.vit;
    vitrun_info *i = &m->info;
    m->facts = vt_alloc((size_t)m->cfg.facts, sizeof *m->facts, "model card", st);
    if (!m->facts)
        return -1;
    for (int f = 0; f < m->cfg.facts; f++)
        m->facts[f] = (vitrun_fact){m->cfg.fact[f].name, m->cfg.fact[f].value,
                                    vt_origin_name(m->cfg.fact[f].origin)};
    i->size = sizeof *i;
    i->architecture = c->architecture;
    i->layers = c->layers, i->heads = m->vit.heads / m->vit.head_copies;
    i->head_dim = c->width / c->heads;
    i->width = c->width, i->hidden = m->vit.hidden;
    i->tokens = m->vit.tokens, i->prefix_tokens = m->vit.prefix;
    i->grid_h = m->vit.grid_h, i->grid_w = m->vit.grid_w;
    i->intermediates = m->wanted;
    i->intermediate_count = m->want.count;
    i->image_height = c->img_h, i->image_width = c->img_w, i->channels = c->channels;
    i->classes = c->classes, i->outputs = m->vit.outputs;
    i->parameters = m->vit.parameters;
    i->device = m->dev->ops->name, i->dtype = m->dev->arithmetic;
    i->threads = m->dev->threads;
    i->measured_costs = m->plans.measured;
    i->facts = m->facts, i->fact_count = m->cfg.facts;
    return 0;
}

static int check_options(const vitrun_options *o, vt_status *st)
{
    if (o->size != sizeof *o)
        return vt_fail(st, VT_USAGE,
                       "vitrun_options has size %zu (expected %zu: the program was built with "
                       "another vitrun.h)",
                       o->size, sizeof *o);
    if (!o->weights)
        return vt_fail(st, VT_USAGE, "--weights is missing");
    if (vitrun_check_list(o->set, o->set_count, "set", st) ||
        vitrun_check_list(o->masks, o->mask_count, "masks", st))
        return -1;
    if (o->image_height < 0 || o->image_width < 0 || !o->image_height != !o->image_width)
        return vt_fail(st, VT_USAGE, "image size %dx%d (expected both sides, or 0x0)",
                       o->image_height, o->image_width);
    if (o->dispatch != VITRUN_DISPATCH_AUTO && o->dispatch != VITRUN_DISPATCH_DENSITY)
        return vt_fail(st, VT_USAGE, "dispatch %d is unknown", (int)o->dispatch);
    if (o->batch < 0 || o->batch > 1 << 20)
        return vt_fail(st, VT_USAGE, "batch %d (expected 1 to %d)", o->batch, 1 << 20);
    if (!(o->density_threshold <= 1))
        return vt_fail(st, VT_USAGE, "density threshold %g (expected 0 to 1)",
                       o->density_threshold);
    if (o->kernel && !vt_attn_known_kernel(o->kernel))
        return vt_fail(st, VT_USAGE, "kernel \"%s\" is unknown (expected " VT_ATTN_KERNEL_NAMES ")",
                       o->kernel);
    return 0;
}

/* The biases of the blocks' attention, which are in the weights, to the plans. */
static void add_biases(vitrun_model *m)
{
    for (int i = 0; i < m->plans.layers; i++)
        if (m->vit.block[i].bias.table)
            m->plans.plan[i].bias = &m->vit.block[i].bias;
}

/* Everything that can be wrong is found before the first weight is read. */
static int load(vitrun_model *m, const vitrun_options *o, const st_reader *r, vt_watch *watch,
                vt_status *st)
{
    vit_needs needs;
    if (load_config(m, o, r, st) ||
        vit_check(&needs, &m->cfg.vit, r, o->weights, m->dev->dtype, st))
        return -1;
    vit_shape(&m->vit, &m->cfg.vit, m->dev);
    if (vitrun_want_intermediates(m, o, st))
        return -1;
    uint64_t least = needs.bytes + vit_acts_bytes(&m->vit, m->planned_images, m->want);
    if (vitrun_check_memory(m, least, st) || vitrun_check_device(m, least, st) ||
        load_masks(m, o, st) || plan(m, o, watch, st) ||
        vitrun_check_memory(m, least + m->plans.mask_bytes, st))
        return -1;
    if (vit_load(&m->vit, &m->cfg.vit, r, o->weights, m->dev, m->planned_images, &needs, watch, st))
        return -1;
    add_biases(m);
    return 0;
}

/* Holds what is planned against max_memory. What that leaves is for reading pictures, by as many
 * threads as a batch keeps busy; on a GPU it is another memory, of the same size. */
static int keep_to_memory(vitrun_model *m, vt_status *st)
{
    vitrun_memory memory;
    vitrun_error err;
    if (!m->max_memory)
        return 0;
    if (vitrun_memory_plan(m, m->planned_images, &memory, &err))
        return vt_fail(st, (vt_code)err.code, "%s", err.message);
    if (vitrun_check_memory(m, memory.peak_bytes, st))
        return -1;
    bool on_cpu = strcmp(m->dev->ops->name, "cpu") == 0;
    uint64_t left = m->max_memory - (on_cpu ? memory.peak_bytes : 0);
    int readers = m->planned_images < m->dev->threads ? m->planned_images : m->dev->threads;
    m->picture_bytes = left / (uint64_t)readers + 1;
    return 0;
}

static int open_model(vitrun_model *m, const vitrun_options *o, vt_watch *watch, vt_status *st)
{
    m->planned_images = o->batch ? o->batch : 1;
    m->max_memory = o->max_memory;
    if (!(m->dev = vitrun_device_open(o->device, o->dtype, o->threads, st)))
        return -1;
    st_reader *r = st_open(o->weights, st);
    if (!r)
        return -1;
    int failed = load(m, o, r, watch, st);
    st_close(r);
    return failed || warn(m, st) || describe(m, st) || keep_to_memory(m, st) ? -1 : 0;
}

/* A shallow copy of what the models share; masks, plans and facts are the variant's own. */
static int open_variant(vitrun_model *m, const vitrun_options *o, vt_watch *watch, vt_status *st)
{
    const vitrun_model *base = m->base;
    if (vitrun_check_process(vitrun_binds(base->dev), st))
        return -1;
    m->dev = base->dev;
    m->cfg = base->cfg;
    m->vit = base->vit;
    m->planned_images = o->batch ? o->batch : base->planned_images;
    m->max_memory = o->max_memory;
    m->picture_bytes = base->picture_bytes;
    if (vitrun_want_intermediates(m, o, st) || load_masks(m, o, st) || plan(m, o, watch, st))
        return -1;
    add_biases(m);
    return warn(m, st) || describe(m, st) ? -1 : 0;
}

static void free_weights(vitrun_model *m)
{
    if (m->vit.dev)
        vit_free(&m->vit);
    if (m->dev)
        m->dev->ops->close(m->dev);
    timm_config_free(&m->cfg);
}

static void free_model(vitrun_model *m)
{
    for (int i = 0; i < m->warnings; i++)
        vt_free(m->warning[i]);
    vt_free(m->warning);
    vt_free(m->facts);
    vt_free(m->wanted);
    vt_plans_free(&m->plans);
    vt_masks_free(m->masks);
    if (!m->base)
        free_weights(m);
    vitrun_close((vitrun_model *)(uintptr_t)m->base);
    vt_free(m);
}

const vitrun_model *vitrun_hold(const vitrun_model *m)
{
    atomic_fetch_add(&((vitrun_model *)(uintptr_t)m)->holders, 1);
    return m;
}

void vitrun_close(vitrun_model *m)
{
    if (m && atomic_fetch_sub(&m->holders, 1) == 1)
        free_model(m);
}

/* A model of its own, or where `base` is not NULL a variant of that. */
static vitrun_model *open_any(const vitrun_model *base, const vitrun_options *o, vt_status *st)
{
    double start = vt_now_ms();
    vt_watch watch;
    vitrun_model *m = check_options(o, st) ? NULL : vt_alloc(1, sizeof *m, "model", st);
    if (!m)
        return NULL;
    atomic_init(&m->holders, 1);
    m->base = base ? vitrun_hold(base) : NULL;
    vt_watch_open(&watch, o->progress, o->progress_user);
    int failed = base ? open_variant(m, o, &watch, st) : open_model(m, o, &watch, st);
    vt_watch_close(&watch);
    m->info.load_ms = vt_now_ms() - start;
    if (!failed)
        return m;
    vitrun_close(m);
    return NULL;
}

vitrun_model *vitrun_open(const vitrun_options *options, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(options, "options", err))
        return NULL;
    vitrun_model *m = open_any(NULL, options, &st);
    if (!m)
        vitrun_fail(err, &st);
    return m;
}

vitrun_model *vitrun_variant(const vitrun_model *base, const vitrun_options *options,
                             vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(base, "model", err) || vitrun_need(options, "options", err))
        return NULL;
    vitrun_model *m = open_any(base, options, &st);
    if (!m)
        vitrun_fail(err, &st);
    return m;
}

/* ---- what was opened ---- */

const vitrun_info *vitrun_info_get(const vitrun_model *m)
{
    return m ? &m->info : NULL;
}

const char *vitrun_label(const vitrun_model *m, int index)
{
    return m && index >= 0 && index < m->cfg.labels ? m->cfg.label[index] : NULL;
}

int vitrun_layer_count(const vitrun_model *m)
{
    return m ? m->plans.groups : 0;
}

const vitrun_layer *vitrun_layer_at(const vitrun_model *m, int i)
{
    return m && i >= 0 && i < m->plans.groups ? &m->plans.group[i].pub : NULL;
}

int vitrun_warning_count(const vitrun_model *m)
{
    return m ? m->warnings : 0;
}

const char *vitrun_warning_at(const vitrun_model *m, int i)
{
    return m && i >= 0 && i < m->warnings ? m->warning[i] : NULL;
}

int vitrun_architecture_at(int i, vitrun_architecture *out)
{
    if (!out || i < 0 || i >= timm_arch_count)
        return -1;
    const timm_arch *a = &timm_archs[i];
    *out = (vitrun_architecture){.name = a->name,
                                 .layers = a->vit.layers,
                                 .heads = a->vit.heads,
                                 .width = a->vit.width,
                                 .image_height = a->vit.img_h,
                                 .image_width = a->vit.img_w,
                                 .patch = a->vit.patch_h,
                                 .missing = a->unsupported};
    if (!a->unsupported)
        timm_parts(&a->vit, out->parts, sizeof out->parts);
    return 0;
}
