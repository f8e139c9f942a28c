/* Measures what the cost model's constants are on a device: times every kernel over shapes and
 * masks that pull the constants apart, in turn, and has them fitted (kernels/costs.c). What is timed
 * is the attention of `vitrun bench --attention`, so that the same code serves every device.
 *
 * All is gone through several times, and the shortest time of each counts: other programs disturb
 * for seconds, and only ever add.
 *
 * What would take too long, as the built-in constants tell it, is left out: a CPU does the small
 * shapes, a GPU all.
 */
#include "engine/costs.h"
#include "engine/session.h"
#include "kernels/watch.h"

#include <math.h>

#define CREDIBLE 0.20 /* formulas that miss by more, on average, describe a disturbed machine */

enum {
    HEADS = 12,
    LONGEST_MS = 60,   /* predicted, of a run */
    ENOUGH_MS = 40,    /* of all rounds of an attention, from the third round on */
    BUDGET_MS = 15000, /* then no further attention is begun */
    PASSES = 4,
    WARM_UP = 2, /* rounds */
    MOST_CALLS = 50,
    LEAST_ROUNDS = 3,
    MOST_ROUNDS = 10,
    REFERENCE_BYTES = 1 << 29, /* of scores */
    REFERENCE_TOKENS = 577,
};

static const struct {
    int tokens, batch;
} shapes[] = {{197, 1},  {197, 32},  {577, 1},  {577, 8},  {1025, 1},
              {2305, 1}, {1025, 32}, {4097, 1}, {4097, 4}, {16385, 1}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The random ones leave nothing empty that a kernel for all keys could skip. */
static const struct {
    const char *text;
    bool random;
    int most_tokens;
} masks[] = {{NULL, false, 1 << 20},
             {"local_2d(distance=3)", false, 1 << 20},
             {"local_2d(distance=7)", false, 1 << 20},
             {"axial_2d()", false, 1 << 20},
             {"random(sparsity=0.99)", true, 2305},
             {"random(sparsity=0.9)", true, 1025}};
enum { MASKS = sizeof masks / sizeof *masks, MOST_SAMPLES = SHAPES * MASKS * VT_ATTN_KERNELS };

typedef struct {
    int shape, mask;
} origin;

struct vitrun_tuning {
    vt_device *dev;
    vt_attn_costs built_in, measured;
    vt_attn_sample sample[MOST_SAMPLES];
    origin from[MOST_SAMPLES];
    int samples;
    vitrun_tuning_summary summary;
    char path[512];
};

void vitrun_tune_options_init(vitrun_tune_options *options)
{
    if (options)
        *options = (vitrun_tune_options){.size = sizeof *options, .device = "auto", .head_dim = 64};
}

/* ---- one attention ---- */

static bool is_wanted(const vitrun_tuning *t, vitrun_attention *a, int mask, vt_attn_kernel k,
                      const vt_attn_work *w)
{
    uint64_t work_bytes, mask_bytes;
    vitrun_error ignored;
    bool visits_all = k == VT_ATTN_DENSE || k == VT_ATTN_REFERENCE;
    double predicted = vt_attn_predict(&t->built_in, k, w);
    if (!w->serves[k] || !isfinite(predicted) || predicted > LONGEST_MS)
        return false;
    if (!visits_all)
        return w->masked;
    if (k ==
        VT_ATTN_REFERENCE) /* long ones alone: its several launches are no part of its formula */
        return !w->masked && w->tokens >= REFERENCE_TOKENS &&
               vitrun_attention_memory(a, vt_attn_kernel_name(k), &work_bytes, &mask_bytes,
                                       &ignored) == 0 &&
               work_bytes <= REFERENCE_BYTES;
    /* Where the formula has no term for the mask, masked runs would make the others look dear; where
     * it has none for what is skipped, masks that leave nothing empty tell. */
    return !w->masked || t->built_in.skip > 0 || (masks[mask].random && t->built_in.mask > 0);
}

/* The sample of the kernel on this shape and mask, with no time yet where it is new. */
static vt_attn_sample *sample_of(vitrun_tuning *t, int shape, int mask, vt_attn_kernel kernel,
                                 const vt_attn_work *work)
{
    for (int i = 0; i < t->samples; i++)
        if (t->from[i].shape == shape && t->from[i].mask == mask && t->sample[i].kernel == kernel)
            return &t->sample[i];
    t->from[t->samples] = (origin){shape, mask};
    t->sample[t->samples] = (vt_attn_sample){kernel, *work, INFINITY};
    return &t->sample[t->samples++];
}

/* A run is about a millisecond, so that starting and waiting are not what is timed. */
static int calls_for(double ms)
{
    return ms < 1.0 / MOST_CALLS ? MOST_CALLS : ms < 1 ? (int)(1 / ms) : 1;
}

/* All kernels in turn, round by round; the first rounds warm up, may try variants, and tell how
 * many calls make a run. */
static int time_kernels(vitrun_tuning *t, vitrun_attention *a, int shape, int mask,
                        vitrun_error *err)
{
    vt_attn_sample *in[VT_ATTN_KERNELS];
    int calls[VT_ATTN_KERNELS], kernels = 0;
    vt_attn_work work = vt_attention_work(a);
    double spent = 0, ms;
    for (int k = 0; k < VT_ATTN_KERNELS; k++)
        if (is_wanted(t, a, mask, (vt_attn_kernel)k, &work)) {
            calls[kernels] = 1;
            in[kernels++] = sample_of(t, shape, mask, (vt_attn_kernel)k, &work);
        }
    for (int r = -WARM_UP; r < MOST_ROUNDS && (r < LEAST_ROUNDS || spent < ENOUGH_MS); r++)
        for (int k = 0; k < kernels; k++) {
            const char *name = vt_attn_kernel_name(in[k]->kernel);
            if (vitrun_attention_run(a, name, calls[k], &ms, err))
                return -1;
            if (r < 0) {
                calls[k] = calls_for(ms);
                continue;
            }
            in[k]->ms = fmin(in[k]->ms, ms);
            spent += ms * calls[k];
        }
    return 0;
}

static int measure_one(vitrun_tuning *t, int head_dim, int shape, int mask, vitrun_error *err)
{
    vt_status st;
    vitrun_attention_options o;
    vitrun_attention_options_init(&o);
    o.heads = HEADS, o.tokens = shapes[shape].tokens, o.head_dim = head_dim;
    o.batch = shapes[shape].batch, o.mask = masks[mask].text;
    vitrun_attention *a = vt_attention_open_on(t->dev, &o, &st);
    if (!a)
        return vitrun_fail(err, &st);
    int failed = time_kernels(t, a, shape, mask, err);
    vitrun_attention_close(a);
    return failed;
}

/* ---- all of them ---- */

/* Would even sparse kernels take too long, to judge by a run without a mask? */
static bool is_too_long(const vitrun_tuning *t, int head_dim, int shape)
{
    vt_attn_work w = {.images = shapes[shape].batch,
                      .heads = HEADS,
                      .tokens = shapes[shape].tokens,
                      .head_dim = head_dim,
                      .threads = t->dev->host_memory ? t->dev->threads : 1};
    return vt_attn_predict(&t->built_in, VT_ATTN_DENSE, &w) > 4 * LONGEST_MS;
}

static int measure(vitrun_tuning *t, const vitrun_tune_options *o, vt_watch *watch,
                   vitrun_error *err)
{
    vt_status st;
    double begin = vt_now_ms();
    vt_watch_begin(watch, "attentions", PASSES * SHAPES * MASKS);
    for (int i = 0; i < PASSES * SHAPES * MASKS; i++) {
        int shape = i / MASKS % SHAPES, mask = i % MASKS;
        if (vt_watch_stopped(watch, &st))
            return vitrun_fail(err, &st);
        vt_watch_step(watch, i > 0);
        if (is_too_long(t, o->head_dim, shape) || shapes[shape].tokens > masks[mask].most_tokens)
            continue;
        if (vt_now_ms() - begin > BUDGET_MS)
            break;
        if (measure_one(t, o->head_dim, shape, mask, err))
            return -1;
    }
    vt_watch_end(watch);
    return 0;
}

static void summarise(vitrun_tuning *t, int head_dim)
{
    vt_costs_miss before = vt_costs_judge(&t->built_in, t->sample, t->samples);
    vt_costs_miss after = vt_costs_judge(&t->measured, t->sample, t->samples);
    t->summary = (vitrun_tuning_summary){.device = t->dev->ops->name,
                                         .hardware = t->dev->hardware,
                                         .dtype = t->dev->arithmetic,
                                         .head_dim = head_dim,
                                         .threads = t->dev->threads,
                                         .constants = vt_costs_count(),
                                         .samples = t->samples,
                                         .built_in_mean = before.mean,
                                         .built_in_worst = before.worst,
                                         .measured_mean = after.mean,
                                         .measured_worst = after.worst};
}

static int tune(vitrun_tuning *t, const vitrun_tune_options *o, vt_watch *watch, vitrun_error *err)
{
    vt_status st = {0};
    t->dev = vitrun_device_open(o->device, o->dtype, o->threads, &st);
    if (!t->dev)
        return vitrun_fail(err, &st);
    if (!vt_attention_serves(t->dev, VT_ATTN_DENSE, o->head_dim, false)) {
        vt_fail(&st, VT_USAGE, "%s %s has no dense attention for heads of size %d",
                t->dev->ops->name, t->dev->arithmetic, o->head_dim);
        return vitrun_fail(err, &st);
    }
    t->built_in = t->measured = *t->dev->ops->attention_costs(t->dev, o->head_dim);
    if (measure(t, o, watch, err))
        return -1;
    if (vt_costs_fit(&t->measured, t->sample, t->samples, &st))
        return vitrun_fail(err, &st);
    summarise(t, o->head_dim);
    return 0;
}

vitrun_tuning *vitrun_tune(const vitrun_tune_options *o, vitrun_error *err)
{
    vt_status st = {0};
    vt_watch watch;
    vitrun_tuning *t = NULL;
    if (vitrun_need(o, "options", err))
        return NULL;
    if (o->size != sizeof *o)
        vt_fail(&st, VT_USAGE, "vitrun_tune_options has size %zu (expected %zu)", o->size,
                sizeof *o);
    else if (o->head_dim < 1 || o->head_dim > 1024)
        vt_fail(&st, VT_USAGE, "head size %d (expected 1 to 1024)", o->head_dim);
    else
        t = vt_alloc(1, sizeof *t, "tuning", &st);
    if (!t) {
        vitrun_fail(err, &st);
        return NULL;
    }
    vt_watch_open(&watch, o->progress, o->progress_user);
    int failed = tune(t, o, &watch, err);
    vt_watch_close(&watch);
    if (!failed)
        return t;
    vitrun_tuning_free(t);
    return NULL;
}

void vitrun_tuning_free(vitrun_tuning *t)
{
    if (t && t->dev)
        t->dev->ops->close(t->dev);
    vt_free(t);
}

/* ---- what came of it ---- */

const vitrun_tuning_summary *vitrun_tuning_get(const vitrun_tuning *t)
{
    return t ? &t->summary : NULL;
}

void vitrun_tuning_constant(const vitrun_tuning *t, int i, vitrun_constant *out)
{
    if (!out)
        return;
    *out = (vitrun_constant){0};
    if (t && i >= 0 && i < t->summary.constants)
        *out = (vitrun_constant){vt_costs_name(i), vt_costs_get(&t->built_in, i),
                                 vt_costs_get(&t->measured, i)};
}

void vitrun_tuning_sample_at(const vitrun_tuning *t, int i, vitrun_tuning_sample *out)
{
    if (!out)
        return;
    *out = (vitrun_tuning_sample){0};
    if (!t || i < 0 || i >= t->samples)
        return;
    const vt_attn_sample *s = &t->sample[i];
    const char *mask = masks[t->from[i].mask].text;
    *out =
        (vitrun_tuning_sample){.kernel = vt_attn_kernel_name(s->kernel),
                               .mask = mask ? mask : "dense",
                               .heads = s->work.heads,
                               .tokens = s->work.tokens,
                               .batch = s->work.images,
                               .ms = s->ms,
                               .built_in_ms = vt_attn_predict(&t->built_in, s->kernel, &s->work),
                               .measured_ms = vt_attn_predict(&t->measured, s->kernel, &s->work)};
}

int vitrun_tuning_keep(vitrun_tuning *t, const char **path, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(t, "tuning", err) || vitrun_need(path, "path", err))
        return -1;
    const vitrun_tuning_summary *s = &t->summary;
    *path = t->path;
    if (s->measured_mean > CREDIBLE) {
        vt_fail(
            &st, VT_MACHINE,
            "%s: times contradict each other, by %.0f %% on average (expected at most %.0f %%; is "
            "something else running?): nothing was kept",
            s->device, 100 * s->measured_mean, 100 * CREDIBLE);
        return vitrun_fail(err, &st);
    }
    if (vt_costs_keep(t->dev, t->summary.head_dim, &t->measured, t->path, sizeof t->path, &st))
        return vitrun_fail(err, &st);
    return 0;
}
