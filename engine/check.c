/* Checking: while one forward pass runs, every kernel that can serve a layer is run on that layer's
 * q, k, v and compared with `reference`. The layers' own choice decides what flows on.
 *
 * Allowed difference: what two correct kernels may differ by in rounding. Outputs are averages of
 * values, so errors scale with the largest output: fp32 kernels may differ by 2e-5 of it (sums of
 * up to N products in different orders), the others by some roundings in their type besides.
 * A kernel that takes a mask in passes rounds what each pass gives.
 *
 * Of a batch that goes through the model in slices, the first slice is checked.
 */
#include "engine/session.h"
#include "kernels/columns.h"

#include <math.h>
#include <string.h>

struct vitrun_check {
    const vitrun_model *model; /* held: its texts are in the pairs */
    vitrun_check_pair *pair;
    int pairs, room;
};

typedef struct {       /* where a kernel is run */
    vt_stream *stream; /* of its own: the forward's scratch is in use */
    vt_mat out;        /* [rows, width] in the device's type */
} side;

typedef struct {
    const vitrun_context *context;
    vitrun_check *check;
    side device;
    vt_device *cpu_device; /* a CPU beside a GPU, else NULL: */
    side cpu;              /* computes the reference in fp32 on what the GPU's q, k, v are */
    vt_mat cpu_qkv;
    float *want, *got; /* [rows, width] */
    vt_status st;
} checker;

static double worst(const float *a, const float *b, size_t n, double *scale)
{
    double e = 0;
    *scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        e = d > e || isnan(d) ? d : e;
        *scale = fabs((double)a[i]) > *scale ? fabs((double)a[i]) : *scale;
    }
    return e;
}

/* The other heads' columns of `to` are zero. */
static int run_plan(const side *x, const vt_attn_plan *plan, vt_mat qkv, float *to, vt_status *st)
{
    vt_device *dev = x->stream->dev;
    memset(to, 0, x->out.rows * (size_t)x->out.cols * sizeof *to);
    if (dev->ops->upload(dev, x->out, to, st) ||
        dev->ops->prepare_attention(x->stream, x->out, qkv, plan, x->stream->images, st) ||
        dev->ops->upload(dev, x->out, to, st)) /* preparing may have written */
        return -1;
    dev->ops->attention(x->stream, x->out, qkv, plan);
    return dev->ops->finish(x->stream, st) || dev->ops->download(dev, to, x->out, st) ? -1 : 0;
}

/* Runs one group through one kernel on its own. */
static int run_kernel(const side *x, const vt_attn_plan *plan, const vt_attn_group *group,
                      const vt_planned_mask *mask, vt_attn_kernel kernel, vt_mat qkv, float *to,
                      vt_status *st)
{
    vt_device *dev = x->stream->dev;
    vt_attn_group g = *group;
    vt_attn_plan alone = *plan;
    vt_planned_mask own = {0};
    alone.group = &g;
    alone.groups = 1;
    g.own = NULL;
    if (mask) {
        own.mask = mask->mask;
        if (vt_planned_layout(&own, kernel, dev->threads, NULL, st))
            return -1;
    }
    vt_group_use(&g, kernel, mask ? &own : NULL);
    int failed = vt_group_load(dev, &g, st) || run_plan(x, &alone, qkv, to, st) ? -1 : 0;
    vt_group_free(dev, &g);
    vt_planned_layouts_free(&own);
    return failed;
}

/* By how much a rounded result and, inside fused kernels, rounded weights may differ. */
static double rounding(const vt_device *dev, vt_attn_kernel kernel)
{
    int shape = vt_attn_columns(kernel);
    bool passes = shape >= 0 && vt_columns_shapes[shape].axial;
    if (dev->tf32)
        return 0x1p-9;
    return dev->dtype == VT_F32 ? 0 : (passes ? 2 : 1) * (dev->dtype == VT_F16 ? 0x1p-10 : 0x1p-7);
}

/* `got`, of this kernel and by the name of b, against `want`, both of the whole width. */
static void add_pair(checker *c, const vt_planned_group *planned, vt_attn_kernel kernel,
                     const char *b)
{
    size_t n = c->device.out.rows * (size_t)c->device.out.cols;
    double scale, error = worst(c->want, c->got, n, &scale);
    c->check->pair[c->check->pairs++] =
        (vitrun_check_pair){.layer = planned->pub.layer,
                            .heads = planned->heads,
                            .a = vt_attn_kernel_name(VT_ATTN_REFERENCE),
                            .b = b,
                            .max_error = error,
                            .allowed = scale * (rounding(c->device.stream->dev, kernel) + 2e-5)};
}

/* The same q, k, v through the CPU's reference. */
static int check_cpu(checker *c, const vt_planned_group *planned, const vt_attn_plan *plan,
                     const vt_attn_group *group, const vt_planned_mask *mask, vt_mat qkv)
{
    vt_device *dev = c->device.stream->dev;
    vt_attn_plan host = *plan;
    vt_attn_bias bias;
    float *floats = NULL;
    if (!c->cpu_device)
        return 0;
    int failed = plan->bias && vt_plan_fetch_bias(dev, plan, &bias, &floats, &c->st);
    host.bias = plan->bias ? &bias : NULL;
    failed = failed || dev->ops->download(dev, c->cpu_qkv.p, qkv, &c->st) ||
             run_kernel(&c->cpu, &host, group, mask, VT_ATTN_REFERENCE, c->cpu_qkv, c->got, &c->st);
    vt_free(floats);
    if (failed)
        return -1;
    add_pair(c, planned, VT_ATTN_REFERENCE, "reference (cpu)");
    return 0;
}

static int check_group(checker *c, const vt_planned_group *planned, const vt_attn_plan *plan,
                       const vt_attn_group *group, vt_mat qkv)
{
    const vt_plans *plans = &c->context->model->plans;
    const vt_planned_mask *mask = planned->mask < 0 ? NULL : &plans->mask[planned->mask];
    const side *x = &c->device;
    if (run_kernel(x, plan, group, mask, VT_ATTN_REFERENCE, qkv, c->want, &c->st) ||
        check_cpu(c, planned, plan, group, mask, qkv))
        return -1;
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        if (k == VT_ATTN_REFERENCE || (!mask && k != VT_ATTN_DENSE) ||
            !vt_attention_serves(x->stream->dev, (vt_attn_kernel)k, plan->head_dim,
                                 plan->bias != NULL))
            continue;
        if (vt_watch_stopped(c->context->stream->watch, &c->st) ||
            run_kernel(x, plan, group, mask, (vt_attn_kernel)k, qkv, c->got, &c->st))
            return -1;
        add_pair(c, planned, (vt_attn_kernel)k, vt_attn_kernel_name((vt_attn_kernel)k));
    }
    return 0;
}

/* The observer: at each attention, its input is still there. */
static void at_attention(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat qkv)
{
    checker *c = user;
    (void)y;
    if (strcmp(name, "attention") != 0 || c->st.code != VT_OK || s->first > 0 ||
        s->dev->ops->finish(s, &c->st))
        return;
    const vt_plans *plans = &c->context->model->plans;
    const vt_attn_plan *plan = &plans->plan[s->layer];
    int first = 0;
    while (plans->group[first].pub.layer != s->layer)
        first++;
    for (int g = 0; g < plan->groups; g++)
        if (check_group(c, &plans->group[first + g], plan, &plan->group[g], qkv))
            return;
}

static int open_side(side *x, vt_device *dev, size_t rows, int width, int images, vt_status *st)
{
    x->out = (vt_mat){NULL, dev->dtype, rows, width};
    x->out.p = dev->ops->alloc(dev, vt_mat_bytes(x->out), "check", st);
    x->stream = x->out.p ? dev->ops->stream_open(dev, st) : NULL;
    if (x->stream)
        x->stream->images = images;
    return x->stream ? 0 : -1;
}

static void close_side(side *x, vt_device *dev)
{
    if (x->out.p)
        dev->ops->free(dev, x->out.p);
    if (x->stream)
        dev->ops->stream_close(x->stream);
}

static int open_cpu(checker *c, size_t rows, int width, int images)
{
    const vt_device *dev = c->context->model->dev;
    if (dev->host_memory)
        return 0;
    c->cpu_qkv = (vt_mat){NULL, VT_F32, rows, 3 * width};
    c->cpu_device = vt_cpu_open(VT_F32, dev->threads, &c->st);
    if (!c->cpu_device)
        return -1;
    c->cpu_qkv.p = vt_alloc(vt_mat_bytes(c->cpu_qkv), 1, "check", &c->st);
    if (!c->cpu_qkv.p)
        return -1;
    return open_side(&c->cpu, c->cpu_device, rows, width, images, &c->st);
}

static int open_checker(checker *c, int count)
{
    const vitrun_model *m = c->context->model;
    int images = vit_slice(&m->vit, count), width = m->vit.attn_width;
    size_t rows = (size_t)images * (size_t)m->vit.tokens, n = rows * (size_t)width;
    c->want = vt_alloc(n, sizeof(float), "check", &c->st);
    c->got = vt_alloc(n, sizeof(float), "check", &c->st);
    c->check->room = m->plans.groups * (VT_ATTN_KERNELS + 1);
    c->check->pair = vt_alloc((size_t)c->check->room, sizeof *c->check->pair, "check", &c->st);
    if (!c->want || !c->got || !c->check->pair)
        return -1;
    return open_side(&c->device, m->dev, rows, width, images, &c->st) ||
                   open_cpu(c, rows, width, images)
               ? -1
               : 0;
}

static void close_checker(checker *c)
{
    vt_free(c->want);
    vt_free(c->got);
    vt_free(c->cpu_qkv.p);
    close_side(&c->device, c->context->model->dev);
    if (c->cpu_device) {
        close_side(&c->cpu, c->cpu_device);
        c->cpu_device->ops->close(c->cpu_device);
    }
}

/* The forward with the observer in it. */
static int run_observed(checker *c, vitrun_context *context, int count)
{
    vt_status st = {0};
    context->stream->observe = at_attention;
    context->stream->observe_user = c;
    int failed = vitrun_run_images(context, count, "check", &st);
    context->stream->observe = NULL;
    if (!failed)
        failed = vitrun_check_finite(context, count, &(vitrun_outputs){0}, &st);
    if (failed && c->st.code == VT_OK)
        c->st = st;
    return c->st.code == VT_OK ? 0 : -1;
}

vitrun_check *vitrun_check_run(vitrun_context *context, int count, vitrun_error *err)
{
    if (vitrun_need(context, "context", err))
        return NULL;
    checker c = {.context = context};
    if (count < 1 || count > context->acts.images)
        vt_fail(&c.st, VT_USAGE, "%d images (expected 1 to %d)", count, context->acts.images);
    else
        c.check = vt_alloc(1, sizeof *c.check, "check", &c.st);
    int failed = !c.check || open_checker(&c, count) || run_observed(&c, context, count) ? -1 : 0;
    close_checker(&c);
    if (!failed) {
        c.check->model = vitrun_hold(context->model);
        return c.check;
    }
    vitrun_context_fail(context, err, &c.st);
    vitrun_check_free(c.check);
    return NULL;
}

int vitrun_check_ok(const vitrun_check *check)
{
    for (int i = 0; check && i < check->pairs; i++)
        if (!(check->pair[i].max_error <= check->pair[i].allowed))
            return 0;
    return check != NULL;
}

int vitrun_check_count(const vitrun_check *check)
{
    return check ? check->pairs : 0;
}

const vitrun_check_pair *vitrun_check_at(const vitrun_check *check, int i)
{
    return check && i >= 0 && i < check->pairs ? &check->pair[i] : NULL;
}

void vitrun_check_free(vitrun_check *check)
{
    if (!check)
        return;
    vitrun_close((vitrun_model *)(uintptr_t)check->model);
    vt_free(check->pair);
    vt_free(check);
}
