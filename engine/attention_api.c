/* One attention alone, on fixed random q, k, v: what `vitrun bench --attention` times. */
#include "engine/session.h"

#include <math.h>
#include <string.h>

enum { MOST_RECORDED = 1000 }; /* calls */

struct vitrun_attention {
    vt_device *dev, *own; /* own: closed with it; NULL: the device is the caller's */
    vt_plan_setup setup;
    vt_mask_shape shape;
    int tokens;
    vt_stream *stream;
    vt_masks *masks;
    vt_plans plans;
    vt_mat qkv, out;
    vt_attn_group group[VT_ATTN_KERNELS]; /* that of `plans` on each kernel; heads 0: not yet */
};

void vitrun_attention_options_init(vitrun_attention_options *options)
{
    if (options)
        *options =
            (vitrun_attention_options){.size = sizeof *options, .batch = 1, .device = "auto"};
}

/* The squarest grid of all tokens, or of all but one prefix token where that one is a square. */
static void squarest(int tokens, int *h, int *w, int *prefix)
{
    int root = (int)sqrt((double)tokens), less = (int)sqrt((double)tokens - 1);
    *prefix = root * root != tokens && less > 0 && less * less == tokens - 1;
    int patches = tokens - *prefix;
    *h = *prefix ? less : root;
    while (patches % *h)
        --*h;
    *w = patches / *h;
}

static int check_options(const vitrun_attention_options *o, vt_status *st)
{
    if (o->size != sizeof *o)
        return vt_fail(st, VT_USAGE, "vitrun_attention_options has size %zu (expected %zu)",
                       o->size, sizeof *o);
    if (o->heads < 1 || o->heads > 4096 || o->tokens < 1 || o->tokens > 1 << 20 ||
        o->head_dim < 1 || o->head_dim > 1024 || o->batch < 1 || o->batch > 1 << 16)
        return vt_fail(st, VT_USAGE,
                       "attention of %d heads, %d tokens, head width %d, batch %d (expected heads "
                       "to 4096, tokens to %d, widths to 1024)",
                       o->heads, o->tokens, o->head_dim, o->batch, 1 << 20);
    if ((o->grid_h || o->grid_w) &&
        (o->grid_h < 1 || o->grid_w < 1 || (int64_t)o->grid_h * o->grid_w > o->tokens))
        return vt_fail(st, VT_USAGE, "grid %dx%d of %d tokens", o->grid_h, o->grid_w, o->tokens);
    return 0;
}

/* Uniform values of variance 1 from a counter, the same on every machine. */
static int fill(vitrun_attention *a, vt_status *st)
{
    size_t n = a->qkv.rows * (size_t)a->qkv.cols;
    float *host = vt_alloc(n, sizeof *host, "qkv", st);
    if (!host)
        return -1;
    uint64_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        host[i] = ((float)(x >> 40) * 0x1p-24f - 0.5f) * 3.4641016f;
    }
    int failed = a->dev->ops->upload(a->dev, a->qkv, host, st);
    vt_free(host);
    return failed;
}

static void describe(vitrun_attention *a, const vitrun_attention_options *o)
{
    a->tokens = o->tokens;
    a->shape =
        (vt_mask_shape){.layers = 1, .heads = o->heads, .grid_h = o->grid_h, .grid_w = o->grid_w};
    if (o->grid_h)
        a->shape.prefix = o->tokens - o->grid_h * o->grid_w;
    else
        squarest(o->tokens, &a->shape.grid_h, &a->shape.grid_w, &a->shape.prefix);
    a->setup = (vt_plan_setup){.heads = o->heads,
                               .head_dim = o->head_dim,
                               .images = o->batch,
                               .dev = a->dev,
                               .threads = a->dev->threads,
                               .wish = {.rule = VT_RULE_AUTO, .threshold = 0.30}};
}

static void forget_mask(vitrun_attention *a)
{
    for (int k = 0; k < VT_ATTN_KERNELS; k++)
        if (a->group[k].heads)
            vt_group_free(a->dev, &a->group[k]);
    memset(a->group, 0, sizeof a->group);
    vt_plans_free(&a->plans);
    vt_masks_free(a->masks);
}

/* Puts the mask in the place of the one before, which stays where this fails. */
static int plan(vitrun_attention *a, const char *mask, vt_status *st)
{
    vt_masks *masks = mask ? vt_masks_load(NULL, &mask, 1, &a->shape, a->dev->threads, st) : NULL;
    vt_plans plans;
    if ((mask && !masks) || vt_plans_build(&plans, masks, 1, a->tokens, &a->setup, st)) {
        vt_masks_free(masks);
        return -1;
    }
    forget_mask(a);
    a->masks = masks;
    a->plans = plans;
    return 0;
}

static int open_attention(vitrun_attention *a, const vitrun_attention_options *o, vt_status *st)
{
    describe(a, o);
    if (plan(a, o->mask, st))
        return -1;
    int width = o->heads * o->head_dim;
    size_t rows = (size_t)o->batch * (size_t)o->tokens;
    a->qkv = (vt_mat){NULL, a->dev->dtype, rows, 3 * width};
    a->out = (vt_mat){NULL, a->dev->dtype, rows, width};
    a->qkv.p = a->dev->ops->alloc(a->dev, vt_mat_bytes(a->qkv), "qkv", st);
    a->out.p =
        a->qkv.p ? a->dev->ops->alloc(a->dev, vt_mat_bytes(a->out), "attention output", st) : NULL;
    a->stream = a->out.p ? a->dev->ops->stream_open(a->dev, st) : NULL;
    if (!a->stream)
        return -1;
    a->stream->images = o->batch;
    return fill(a, st);
}

vitrun_attention *vt_attention_open_on(vt_device *dev, const vitrun_attention_options *options,
                                       vt_status *st)
{
    vitrun_attention *a =
        check_options(options, st) ? NULL : vt_alloc(1, sizeof *a, "attention", st);
    if (!a)
        return NULL;
    a->dev = dev;
    if (open_attention(a, options, st) == 0)
        return a;
    vitrun_attention_close(a);
    return NULL;
}

vitrun_attention *vitrun_attention_open(const vitrun_attention_options *options, vitrun_error *err)
{
    vt_status st = {0};
    vt_device *dev = NULL;
    if (vitrun_need(options, "options", err))
        return NULL;
    vitrun_attention *a = NULL;
    if (check_options(options, &st) == 0)
        dev = vitrun_device_open(options->device, options->dtype, options->threads, &st);
    if (dev)
        a = vt_attention_open_on(dev, options, &st);
    if (a)
        a->own = dev;
    else if (dev)
        dev->ops->close(dev);
    if (!a)
        vitrun_fail(err, &st);
    return a;
}

void vitrun_attention_close(vitrun_attention *a)
{
    if (!a)
        return;
    if (a->stream)
        a->dev->ops->stream_close(a->stream);
    forget_mask(a);
    if (a->qkv.p)
        a->dev->ops->free(a->dev, a->qkv.p);
    if (a->out.p)
        a->dev->ops->free(a->dev, a->out.p);
    if (a->own)
        a->own->ops->close(a->own);
    vt_free(a);
}

int vitrun_attention_set_mask(vitrun_attention *a, const char *mask, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(a, "attention", err))
        return -1;
    return vitrun_check_process(vitrun_binds(a->dev), &st) || plan(a, mask, &st)
               ? vitrun_fail(err, &st)
               : 0;
}

const vitrun_layer *vitrun_attention_layer(const vitrun_attention *a)
{
    return a ? &a->plans.group[0].pub : NULL;
}

int vitrun_attention_prefix(const vitrun_attention *a)
{
    return a ? a->shape.prefix : 0;
}

vt_attn_work vt_attention_work(const vitrun_attention *a)
{
    const vt_planned_group *g = &a->plans.group[0];
    return vt_planned_work(g->mask < 0 ? NULL : &a->plans.mask[g->mask], a->setup.heads,
                           g->pub.tokens, &a->setup);
}

/* ---- one kernel ---- */

static const char *fastest_sparse(const vitrun_attention *a)
{
    const vitrun_layer *l = &a->plans.group[0].pub;
    double ms[VT_ATTN_KERNELS];
    for (int k = 0, i = 0; k < VT_ATTN_KERNELS; k++) { /* candidates are in this order */
        bool has = i < l->candidate_count &&
                   !strcmp(l->candidates[i].kernel, vt_attn_kernel_name((vt_attn_kernel)k));
        ms[k] =
            has && l->candidates[i].predicted_ms >= 0 ? l->candidates[i].predicted_ms : INFINITY;
        i += has;
    }
    return vt_attn_kernel_name(vt_attn_fastest_sparse(ms));
}

static int kernel_named(const vitrun_attention *a, const char *name, vt_attn_kernel *out,
                        vt_status *st)
{
    int kernel = 0;
    if (!strcmp(name, "sparse"))
        name = fastest_sparse(a);
    while (kernel < VT_ATTN_KERNELS &&
           strcmp(vt_attn_kernel_name((vt_attn_kernel)kernel), name) != 0)
        kernel++;
    bool sparse = kernel >= VT_ATTN_TILES && kernel < VT_ATTN_KERNELS;
    *out = (vt_attn_kernel)kernel;
    if (kernel < VT_ATTN_KERNELS &&
        !vt_attention_serves(a->dev, *out, a->plans.plan[0].head_dim, false))
        return vt_fail(st, VT_USAGE, "kernel %s: this device has none for heads of this size",
                       name);
    if (kernel == VT_ATTN_KERNELS || (sparse && a->plans.group[0].mask < 0))
        return vt_fail(st, VT_USAGE, "kernel \"%s\"%s", name,
                       sparse ? " needs a mask"
                              : " is unknown (expected " VT_ATTN_KERNEL_NAMES ")");
    return 0;
}

/* The plan with every head on the named kernel; its layout is built and loaded the first time. */
static int use(vitrun_attention *a, const char *name, vt_attn_plan *plan, vt_status *st)
{
    vt_planned_mask *mask = a->plans.group[0].mask < 0 ? NULL : &a->plans.mask[0];
    vt_attn_kernel kernel;
    if (kernel_named(a, name, &kernel, st) ||
        (mask && vt_planned_layout(mask, kernel, a->dev->threads, NULL, st)))
        return -1;
    *plan = a->plans.plan[0];
    vt_attn_group *group = &a->group[kernel];
    if (!group->heads) {
        vt_attn_group fresh = plan->group[0];
        fresh.own = NULL;
        vt_group_use(&fresh, kernel, mask);
        if (vt_group_load(a->dev, &fresh, st))
            return -1;
        *group = fresh;
    }
    plan->group = group;
    return 0;
}

static void call(vitrun_attention *a, const vt_attn_plan *plan, int calls)
{
    for (int i = 0; i < calls; i++)
        a->dev->ops->attention(a->stream, a->out, a->qkv, plan);
}

/* Recorded and replayed, as in a forward pass, where the device can: calls that are shorter than it
 * takes to begin them follow each other as closely then. Once more before it is timed, because a
 * recording is sent to the device with its first replay. Returns milliseconds. */
static double time_recorded(vitrun_attention *a, const vt_attn_plan *plan, int calls)
{
    const vt_backend_ops *ops = a->dev->ops;
    a->stream->images++; /* what is recorded for other images does not serve */
    ops->record_begin(a->stream);
    call(a, plan, calls);
    ops->record_end(a->stream);
    ops->replay(a->stream);
    vt_clock_start(a->stream);
    ops->replay(a->stream);
    return vt_clock_stop(a->stream);
}

static double time_calls(vitrun_attention *a, const vt_attn_plan *plan, int calls)
{
    vt_clock_start(a->stream);
    call(a, plan, calls);
    return vt_clock_stop(a->stream);
}

int vitrun_attention_run(vitrun_attention *a, const char *kernel, int calls, double *ms,
                         vitrun_error *err)
{
    vt_status st = {0};
    vt_attn_plan plan;
    if (vitrun_need(a, "attention", err) || vitrun_need(kernel, "kernel", err) ||
        vitrun_need(ms, "ms", err))
        return -1;
    if (calls < 1) {
        vt_fail(&st, VT_USAGE, "%d calls (expected at least 1)", calls);
        return vitrun_fail(err, &st);
    }
    if (vitrun_check_process(vitrun_binds(a->dev), &st) || use(a, kernel, &plan, &st) ||
        a->dev->ops->prepare_attention(a->stream, a->out, a->qkv, &plan, a->setup.images, &st))
        return vitrun_fail(err, &st);
    bool records = a->dev->ops->replay && calls > 1 && calls <= MOST_RECORDED;
    *ms = (records ? time_recorded : time_calls)(a, &plan, calls) / calls;
    return a->dev->ops->finish(a->stream, &st) ? vitrun_fail(err, &st) : 0;
}

const char *vitrun_attention_device(const vitrun_attention *a, const char **dtype)
{
    if (dtype)
        *dtype = a ? a->dev->arithmetic : NULL;
    return a ? a->dev->ops->name : NULL;
}

int vitrun_attention_memory(vitrun_attention *a, const char *kernel, uint64_t *work_bytes,
                            uint64_t *mask_bytes, vitrun_error *err)
{
    vt_status st = {0};
    vt_attn_plan plan;
    if (vitrun_need(a, "attention", err) || vitrun_need(kernel, "kernel", err) ||
        vitrun_need(work_bytes, "work_bytes", err) || vitrun_need(mask_bytes, "mask_bytes", err))
        return -1;
    if (use(a, kernel, &plan, &st))
        return vitrun_fail(err, &st);
    *work_bytes = a->dev->ops->attention_scratch(a->dev, &plan, a->setup.images);
    *mask_bytes =
        a->plans.group[0].mask < 0 ? 0 : vt_layout_bytes(&a->plans.mask[0], plan.group->kernel);
    return 0;
}
