/* Checking: while one forward pass runs, every kernel that can serve a layer is run on that layer's
 * q, k, v and compared with `reference`. The layers' own choice decides what flows on.
 *
 * Allowed difference: what two correct kernels may differ by in rounding. Outputs are averages of
 * values, so errors scale with the largest output: fp32 kernels may differ by 2e-5 of it (sums of up
 * to N products in different orders), bf16 ones by one rounding of the result, 2^-8, and the same.
 */
#include "engine/session.h"

#include <math.h>
#include <string.h>

struct vitrun_check {
    vitrun_check_pair *pair;
    int pairs, room;
};

typedef struct {
    const vitrun_context *context;
    vitrun_check *check;
    vt_stream *stream; /* of its own: the forward's scratch is in use */
    float *want, *got; /* [rows, width] */
    vt_mat out;        /* [rows, width] in the device's type */
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

/* Runs one group through one kernel on its own; the other heads' columns of `to` stay zero. */
static int run_kernel(checker *c, const vt_attn_plan *plan, const vt_attn_group *group,
                      const vt_planned_mask *mask, vt_attn_kernel kernel, vt_mat qkv, float *to)
{
    vt_device *dev = c->stream->dev;
    vt_attn_group g = *group;
    vt_attn_plan alone = *plan;
    vt_planned_mask own = {0};
    alone.group = &g;
    alone.groups = 1;
    if (mask) {
        own.mask = mask->mask;
        if (vt_planned_layout(&own, kernel, dev->threads, NULL, &c->st))
            return -1;
    }
    vt_group_use(&g, kernel, mask ? &own : NULL);
    memset(c->out.p, 0, vt_mat_bytes(c->out));
    int failed = dev->ops->prepare_attention(c->stream, &alone, c->stream->images, &c->st);
    if (!failed) {
        dev->ops->attention(c->stream, c->out, qkv, &alone);
        failed = dev->ops->finish(c->stream, &c->st);
    }
    if (!failed)
        failed = dev->ops->download(dev, to, c->out, &c->st);
    vt_bitmap_free(own.bitmap);
    vt_tiles_free(own.sparse);
    vt_csr_free(own.csr);
    return failed;
}

static int check_group(checker *c, const vt_planned_group *planned, const vt_attn_plan *plan,
                       const vt_attn_group *group, vt_mat qkv)
{
    const vt_plans *plans = &c->context->model->plans;
    const vt_planned_mask *mask = planned->mask < 0 ? NULL : &plans->mask[planned->mask];
    bool bf16 = c->out.type == VT_BF16;
    size_t n = c->out.rows * (size_t)c->out.cols;
    if (run_kernel(c, plan, group, mask, VT_ATTN_REFERENCE, qkv, c->want))
        return -1;
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        if (k == VT_ATTN_REFERENCE || (!mask && k != VT_ATTN_DENSE))
            continue;
        if (run_kernel(c, plan, group, mask, (vt_attn_kernel)k, qkv, c->got))
            return -1;
        double scale, error = worst(c->want, c->got, n, &scale);
        double allowed = scale * (bf16 ? 0x1p-8 + 2e-5 : 2e-5);
        c->check->pair[c->check->pairs++] =
            (vitrun_check_pair){.layer = planned->pub.layer,
                                .heads = planned->heads,
                                .a = vt_attn_kernel_name(VT_ATTN_REFERENCE),
                                .b = vt_attn_kernel_name((vt_attn_kernel)k),
                                .max_error = error,
                                .allowed = allowed};
    }
    return 0;
}

/* The observer: at each attention, its input is still there. */
static void at_attention(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat qkv)
{
    checker *c = user;
    (void)y;
    if (strcmp(name, "attention") || c->st.code != VT_OK)
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

static int buffers(checker *c, int count)
{
    const vitrun_model *m = c->context->model;
    size_t rows = (size_t)count * (size_t)m->vit.tokens, n = rows * (size_t)m->cfg.vit.width;
    c->out = (vt_mat){NULL, m->dev->dtype, rows, m->cfg.vit.width};
    c->want = vt_alloc(n, sizeof(float), "check", &c->st);
    c->got = vt_alloc(n, sizeof(float), "check", &c->st);
    c->check->room = m->plans.groups * VT_ATTN_KERNELS;
    c->check->pair = vt_alloc((size_t)c->check->room, sizeof *c->check->pair, "check", &c->st);
    c->out.p = m->dev->ops->alloc(m->dev, vt_mat_bytes(c->out), "check", &c->st);
    c->stream = m->dev->ops->stream_open(m->dev, &c->st);
    if (!c->want || !c->got || !c->check->pair || !c->out.p || !c->stream)
        return -1;
    c->stream->images = count;
    return 0;
}

vitrun_check *vitrun_check_run(vitrun_context *context, int count, vitrun_error *err)
{
    checker c = {.context = context};
    vt_device *dev = context->model->dev;
    c.check = vt_alloc(1, sizeof *c.check, "check", &c.st);
    int failed = !c.check || count < 1 || buffers(&c, count) ? -1 : 0;
    if (!failed) {
        context->stream->observe = at_attention;
        context->stream->observe_user = &c;
        vt_status st = {0};
        failed = vitrun_run_images(context, count, &st);
        context->stream->observe = NULL;
        if (!failed)
            failed = vitrun_check_finite(context, count, true, &st);
        if (failed && c.st.code == VT_OK)
            c.st = st;
        failed = c.st.code != VT_OK;
    }
    vt_free(c.want);
    vt_free(c.got);
    if (c.out.p)
        dev->ops->free(dev, c.out.p);
    if (c.stream)
        dev->ops->stream_close(c.stream);
    if (failed) {
        if (c.st.code == VT_OK)
            vt_fail(&c.st, VT_USAGE, "%d images (expected at least 1)", count);
        vitrun_fail(err, &c.st);
        vitrun_check_free(c.check);
        return NULL;
    }
    return c.check;
}

int vitrun_check_ok(const vitrun_check *check)
{
    for (int i = 0; i < check->pairs; i++)
        if (!(check->pair[i].max_error <= check->pair[i].allowed))
            return 0;
    return 1;
}

int vitrun_check_count(const vitrun_check *check)
{
    return check->pairs;
}

const vitrun_check_pair *vitrun_check_at(const vitrun_check *check, int i)
{
    return i >= 0 && i < check->pairs ? &check->pair[i] : NULL;
}

void vitrun_check_free(vitrun_check *check)
{
    if (check)
        vt_free(check->pair);
    vt_free(check);
}
