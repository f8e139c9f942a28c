/* Contexts: buffers and a stream for one forward pass at a time; the forward itself; where its time
 * goes. */
#include "engine/session.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- contexts ---- */

/* What the context itself will take: the weights and masks are there. */
static int refuse_memory(const vitrun_model *m, int batch, vt_status *st)
{
    vitrun_memory memory;
    vitrun_error err;
    if (vitrun_memory_plan(m, batch, &memory, &err))
        return vt_fail(st, (vt_code)err.code, "%s", err.message);
    uint64_t more = memory.activations_bytes + memory.attention_bytes + memory.scratch_bytes;
    return vitrun_check_memory(m, memory.peak_bytes, st) || vitrun_check_device(m, more, st);
}

/* The forward pass in its preparing form: the device gets to know every shape. */
static int prepare(vitrun_context *c, int count, vt_status *st)
{
    vt_stream *s = c->stream;
    s->images = count;
    s->preparing = true;
    vit_forward(s, &c->model->vit, &c->acts, c->model->plans.of);
    s->preparing = false;
    int failed = s->dev->ops->finish(s, st);
    c->prepared = failed ? 0 : count;
    return failed;
}

/* The host's side of input and results. */
static int host_buffers(vitrun_context *c, int batch, vt_status *st)
{
    const vit_model *m = &c->model->vit;
    vt_device *dev = c->model->dev;
    if (dev->host_memory) {
        c->input = c->acts.input, c->logits = c->acts.logits;
        c->pooled = c->acts.pooled, c->pooled2 = c->acts.pooled2;
        return 0;
    }
    size_t b = (size_t)batch, width = b * (size_t)m->cfg.width, logits = b * (size_t)m->outputs;
    size_t image = (size_t)m->cfg.channels * (size_t)m->cfg.img_h * (size_t)m->cfg.img_w;
    c->input = dev->ops->host_alloc(dev, b * image * sizeof(float), "input", st);
    c->results = dev->ops->host_alloc(dev, (logits + 2 * width) * sizeof(float), "results", st);
    if (!c->input || !c->results)
        return -1;
    c->logits = c->results;
    c->pooled = c->logits + logits;
    c->pooled2 = c->pooled + width;
    return 0;
}

static int open_context(vitrun_context *c, const vitrun_model *model, int batch, vt_status *st)
{
    c->model = vitrun_hold(model);
    vt_watch_open(&c->watch, NULL, NULL);
    c->stream = model->dev->ops->stream_open(model->dev, st);
    if (!c->stream)
        return -1;
    c->stream->watch = &c->watch;
    return vit_acts_alloc(&c->acts, &model->vit, batch, model->want, st) ||
                   host_buffers(c, batch, st) || prepare(c, batch, st)
               ? -1
               : 0;
}

vitrun_context *vitrun_context_open(const vitrun_model *model, int batch, vitrun_error *err)
{
    vt_status st = {0};
    vitrun_context *c = NULL;
    if (vitrun_need(model, "model", err))
        return NULL;
    if (vitrun_check_process(vitrun_binds(model->dev), &st) == 0 &&
        refuse_memory(model, batch, &st) == 0)
        c = vt_alloc(1, sizeof *c, "context", &st);
    if (c && open_context(c, model, batch, &st)) {
        vitrun_context_close(c);
        c = NULL;
    }
    if (!c)
        vitrun_fail(err, &st);
    return c;
}

void vitrun_context_close(vitrun_context *c)
{
    if (!c)
        return;
    vt_device *dev = c->model->dev;
    vt_status unused;
    if (c->running)
        dev->ops->finish(c->stream, &unused);
    if (!dev->host_memory && c->input)
        dev->ops->host_free(dev, c->input);
    if (c->results)
        dev->ops->host_free(dev, c->results);
    vit_acts_free(&c->acts, dev);
    if (c->stream) {
        vt_free(c->stream->profile);
        dev->ops->stream_close(c->stream);
    }
    vt_watch_close(&c->watch);
    vitrun_close((vitrun_model *)(uintptr_t)c->model);
    vt_free(c);
}

float *vitrun_context_input(vitrun_context *c)
{
    return c ? c->input : NULL;
}

/* ---- looking on ---- */

void vitrun_context_progress(vitrun_context *c, vitrun_progress_fn fn, void *user)
{
    if (c)
        vt_watch_tell(&c->watch, fn, user);
}

void vitrun_cancel(vitrun_context *c, int on)
{
    if (c)
        vt_watch_stop(&c->watch, on != 0);
}

int vitrun_context_fail(vitrun_context *c, vitrun_error *err, const vt_status *st)
{
    if (st->code == VT_CANCELLED)
        vt_watch_stop(&c->watch, false);
    return vitrun_fail(err, st);
}

/* ---- the forward pass ---- */

/* From the device's input: recorded once for each number of images where the device can, and
 * replayed; operation by operation where somebody looks on. */
static void forward(vitrun_context *c)
{
    vt_stream *s = c->stream;
    const vt_backend_ops *ops = s->dev->ops;
    bool replays = ops->replay && !s->profiling && !s->observe;
    if (replays && !ops->recorded(s)) {
        s->watch = NULL; /* nothing runs yet, and half of it is not to be kept */
        ops->record_begin(s);
        vit_forward(s, &c->model->vit, &c->acts, c->model->plans.of);
        ops->record_end(s);
        s->watch = &c->watch;
    }
    if (!replays)
        vit_forward(s, &c->model->vit, &c->acts, c->model->plans.of);
    else if (!vt_watch_stopped(&c->watch, &s->error))
        ops->replay(s);
}

static vt_mat input_of(const vitrun_context *c, int count)
{
    const vit_config *v = &c->model->vit.cfg;
    return (vt_mat){c->acts.input, c->model->dev->input, (size_t)count,
                    v->channels * v->img_h * v->img_w};
}

/* Brings what the host reads after every forward. */
static void fetch_results(vitrun_context *c, int count)
{
    const vit_model *m = &c->model->vit;
    vt_stream *s = c->stream;
    if (s->dev->host_memory)
        return;
    size_t n = (size_t)count;
    s->dev->ops->fetch(s, c->logits, (vt_mat){c->acts.logits, VT_F32, n, m->outputs});
    s->dev->ops->fetch(s, c->pooled, (vt_mat){c->acts.pooled, VT_F32, n, m->cfg.width});
    if (m->head_dist)
        s->dev->ops->fetch(s, c->pooled2, (vt_mat){c->acts.pooled2, VT_F32, n, m->cfg.width});
}

/* `what` the caller's progress function is told of. */
static int submit(vitrun_context *c, int count, const char *what, vt_status *st)
{
    vt_stream *s = c->stream;
    if (vitrun_check_process(vitrun_binds(c->model->dev), st))
        return -1;
    if (count < 1 || count > c->acts.images)
        return vt_fail(st, VT_USAGE, "%d images (expected 1 to %d)", count, c->acts.images);
    if (c->running)
        return vt_fail(st, VT_USAGE, "a forward is under way: wait for it first");
    s->error.code = VT_OK;
    if (vt_watch_stopped(&c->watch, st) || (c->prepared != count && prepare(c, count, st)))
        return -1;
    s->images = count;
    vt_watch_begin(&c->watch, what, (uint64_t)count * (uint64_t)c->model->vit.cfg.layers);
    s->dev->ops->feed(s, input_of(c, count), c->input);
    forward(c);
    fetch_results(c, count);
    c->running = count;
    c->ran = true;
    return 0;
}

static int wait(vitrun_context *c, vt_status *st)
{
    c->running = 0;
    if (c->stream->dev->ops->finish(c->stream, st))
        return -1;
    vt_watch_end(&c->watch);
    return vt_watch_stopped(&c->watch, st);
}

int vitrun_run_images(vitrun_context *c, int count, const char *what, vt_status *st)
{
    return submit(c, count, what, st) || wait(c, st) ? -1 : 0;
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* What the search for the first non-finite value carries through the operations. */
typedef struct {
    bool found;
    int layer;
    char name[32];
} culprit;

/* Where memory for a copy is short, the matrix passes: the search is a courtesy. */
static bool mat_finite(vt_stream *s, vt_mat y)
{
    vt_status st;
    size_t n = y.rows * (size_t)y.cols;
    float *copy = vt_alloc(n, sizeof *copy, "search", &st);
    bool finite = !copy || s->dev->ops->finish(s, &st) ||
                  s->dev->ops->download(s->dev, copy, y, &st) || all_finite(copy, n);
    vt_free(copy);
    return finite;
}

static void look(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    culprit *c = user;
    (void)x;
    if (c->found || mat_finite(s, y))
        return;
    c->found = true;
    c->layer = s->layer;
    snprintf(c->name, sizeof c->name, "%s", name);
}

/* Runs once more, looking at every result, to say where it went wrong; fails in any case. */
static int name_culprit(vitrun_context *c, int count, vt_status *st)
{
    culprit who = {.layer = -1};
    c->stream->observe = look;
    c->stream->observe_user = &who;
    int failed = vitrun_run_images(c, count, "search", st);
    c->stream->observe = NULL;
    if (failed)
        return -1;
    if (who.found && who.layer >= 0)
        return vt_fail(st, VT_INPUT, "non-finite result (first in layer %d, %s)", who.layer,
                       who.name);
    return vt_fail(st, VT_INPUT, "non-finite result (first in %s)",
                   who.found ? who.name : "the logits");
}

int vitrun_check_finite(vitrun_context *c, int count, const vitrun_outputs *out, vt_status *st)
{
    const vit_model *m = &c->model->vit;
    size_t n = (size_t)count, tokens = n * (size_t)m->tokens * (size_t)m->cfg.width;
    if (all_finite(c->logits, n * (size_t)m->outputs) &&
        (!out->tokens || all_finite(out->tokens, tokens)) &&
        (!out->intermediates ||
         all_finite(out->intermediates, n * vitrun_intermediate_floats(c->model))))
        return 0;
    return name_culprit(c, count, st);
}

/* Features are the pooled tokens; a distilled model's are the mean of its two. */
static void copy_features(const vitrun_context *c, int count, float *to)
{
    size_t n = (size_t)count * (size_t)c->model->vit.cfg.width;
    memcpy(to, c->pooled, n * sizeof *to);
    for (size_t i = 0; c->model->vit.head_dist && i < n; i++)
        to[i] = (to[i] + c->pooled2[i]) / 2;
}

static int copy_outputs(vitrun_context *c, int count, const vitrun_outputs *out, vt_status *st)
{
    const vit_model *m = &c->model->vit;
    vt_device *dev = c->model->dev;
    size_t rows = (size_t)count * (size_t)m->tokens;
    vt_mat x = {c->acts.x, dev->residual, rows, m->cfg.width};
    if (out->tokens && !c->acts.want.tokens)
        return vt_fail(st, VT_USAGE, "tokens: the model was opened without them");
    if ((out->tokens && dev->ops->download(dev, out->tokens, x, st)) ||
        (out->intermediates && vitrun_fetch_intermediates(c, count, out->intermediates, st)) ||
        vitrun_check_finite(c, count, out, st))
        return -1;
    if (out->logits)
        memcpy(out->logits, c->logits, (size_t)count * (size_t)m->outputs * sizeof(float));
    if (out->features)
        copy_features(c, count, out->features);
    return 0;
}

int vitrun_submit(vitrun_context *c, int count, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(c, "context", err))
        return -1;
    return submit(c, count, "forward", &st) ? vitrun_context_fail(c, err, &st) : 0;
}

int vitrun_wait(vitrun_context *c, const vitrun_outputs *out, vitrun_error *err)
{
    vt_status st = {0};
    static const vitrun_outputs none = {0};
    if (vitrun_need(c, "context", err))
        return -1;
    int count = c->running;
    if (!count)
        vt_fail(&st, VT_USAGE, "there is no forward to wait for: submit one first");
    if (!count || wait(c, &st) || copy_outputs(c, count, out ? out : &none, &st))
        return vitrun_context_fail(c, err, &st);
    return 0;
}

int vitrun_forward(vitrun_context *c, int count, const vitrun_outputs *out, vitrun_error *err)
{
    return vitrun_submit(c, count, err) ? -1 : vitrun_wait(c, out, err);
}

int vitrun_time(vitrun_context *c, double *ms, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(c, "context", err) || vitrun_need(ms, "ms", err))
        return -1;
    vt_stream *s = c->stream;
    if (c->running || !c->ran || s->profiling)
        vt_fail(&st, VT_USAGE,
                "only a context that has run, runs nothing and is not profiled can be timed");
    if (st.code != VT_OK || vitrun_check_process(vitrun_binds(s->dev), &st))
        return vitrun_fail(err, &st);
    s->error.code = VT_OK;
    s->images = c->prepared;
    vt_clock_start(s);
    forward(c);
    *ms = vt_clock_stop(s);
    return s->dev->ops->finish(s, &st) ? vitrun_context_fail(c, err, &st) : 0;
}

/* ---- where time goes ---- */

void vitrun_profile(vitrun_context *c, int on)
{
    if (c)
        vt_profile(c->stream, on != 0);
}

int vitrun_profile_count(const vitrun_context *c)
{
    return c ? c->stream->profile_count : 0;
}

void vitrun_profile_at(const vitrun_context *c, int i, vitrun_profile_entry *out)
{
    if (!out)
        return;
    *out = (vitrun_profile_entry){.layer = -1};
    if (!c || i < 0 || i >= c->stream->profile_count)
        return;
    const vt_profile_entry *e = &c->stream->profile[i];
    *out = (vitrun_profile_entry){
        .op = e->op, .name = e->name, .layer = e->layer, .ms = e->ms, .calls = e->calls};
}
