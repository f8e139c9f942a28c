/* Contexts: buffers and a stream for one forward pass at a time; the forward itself; where its time
 * goes; and the memory that all of this takes, told before it is taken. */
#include "engine/session.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- planned memory ---- */

/* What a stream takes for forwards of `batch` images, scratch of attention included: a dry preparing
 * pass adds it up. */
static int stream_bytes(const vitrun_model *m, int batch, uint64_t *bytes, vt_status *st)
{
    const vit_acts none = {.images = batch};
    vt_stream *s = m->dev->ops->stream_open(m->dev, st);
    if (!s)
        return -1;
    s->images = batch;
    s->preparing = s->dry = true;
    vit_forward(s, &m->vit, &none, m->plans.of);
    int failed = m->dev->ops->finish(s, st);
    *bytes = m->dev->ops->stream_bytes(s);
    m->dev->ops->stream_close(s);
    return failed;
}

int vitrun_memory_plan(const vitrun_model *m, int batch, vitrun_memory *memory, vitrun_error *err)
{
    vt_status st = {0};
    uint64_t stream = 0;
    if (batch < 1 || batch > 1 << 20)
        vt_fail(&st, VT_USAGE, "batch %d (expected 1 to %d)", batch, 1 << 20);
    if (st.code != VT_OK || stream_bytes(m, batch, &stream, &st))
        return vitrun_fail(err, &st);
    uint64_t attention = 0;
    for (int i = 0; i < m->plans.layers; i++) {
        uint64_t b = m->dev->ops->attention_scratch(m->dev, &m->plans.plan[i], batch);
        attention = b > attention ? b : attention;
    }
    *memory = (vitrun_memory){.weights_bytes = m->vit.bytes,
                              .activations_bytes = vit_acts_bytes(&m->vit, batch),
                              .masks_bytes = m->plans.mask_bytes,
                              .attention_bytes = attention,
                              .scratch_bytes = stream > attention ? stream - attention : 0};
    memory->peak_bytes = memory->weights_bytes + memory->activations_bytes + memory->masks_bytes +
                         memory->attention_bytes + memory->scratch_bytes;
    return 0;
}

/* ---- contexts ---- */

static int refuse_memory(const vitrun_model *m, int batch, vt_status *st)
{
    vitrun_memory memory;
    vitrun_error err;
    if (vitrun_memory_plan(m, batch, &memory, &err))
        return vt_fail(st, (vt_code)err.code, "%s", err.message);
    return vitrun_check_memory(m, memory.peak_bytes, st);
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

vitrun_context *vitrun_context_open(const vitrun_model *model, int batch, vitrun_error *err)
{
    vt_status st = {0};
    vitrun_context *c = NULL;
    if (refuse_memory(model, batch, &st) == 0)
        c = vt_alloc(1, sizeof *c, "context", &st);
    if (c) {
        c->model = model;
        c->stream = model->dev->ops->stream_open(model->dev, &st);
        if (!c->stream || vit_acts_alloc(&c->acts, &model->vit, batch, &st) ||
            prepare(c, batch, &st)) {
            vitrun_context_close(c);
            c = NULL;
        }
    }
    if (!c)
        vitrun_fail(err, &st);
    return c;
}

void vitrun_context_close(vitrun_context *c)
{
    if (!c)
        return;
    vit_acts_free(&c->acts, c->model->dev);
    if (c->stream) {
        vt_free(c->stream->profile);
        c->model->dev->ops->stream_close(c->stream);
    }
    vt_free(c);
}

float *vitrun_context_input(vitrun_context *c)
{
    return c->acts.input;
}

/* ---- the forward pass ---- */

int vitrun_run_images(vitrun_context *c, int count, vt_status *st)
{
    vt_stream *s = c->stream;
    if (count < 1 || count > c->acts.images)
        return vt_fail(st, VT_USAGE, "%d images (expected 1 to %d)", count, c->acts.images);
    s->error.code = VT_OK;
    if (c->prepared != count && prepare(c, count, st))
        return -1;
    s->images = count;
    vit_forward(s, &c->model->vit, &c->acts, c->model->plans.of);
    return s->dev->ops->finish(s, st);
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

static bool mat_finite(vt_mat y)
{
    size_t n = y.rows * (size_t)y.cols;
    if (y.type == VT_F32)
        return all_finite(y.p, n);
    const uint16_t *b = y.p;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(vt_bf16_to_f32(b[i])))
            return false;
    return true;
}

static void look(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    culprit *c = user;
    (void)x;
    if (c->found || mat_finite(y))
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
    int failed = vitrun_run_images(c, count, st);
    c->stream->observe = NULL;
    if (failed)
        return -1;
    if (who.found && who.layer >= 0)
        return vt_fail(st, VT_INPUT, "non-finite result (first in layer %d, %s)", who.layer,
                       who.name);
    return vt_fail(st, VT_INPUT, "non-finite result (first in %s)",
                   who.found ? who.name : "the logits");
}

int vitrun_check_finite(vitrun_context *c, int count, bool tokens, vt_status *st)
{
    const vit_model *m = &c->model->vit;
    size_t n = (size_t)count, width = (size_t)m->cfg.width;
    if (all_finite(c->acts.logits, n * (size_t)m->outputs) &&
        (!tokens || all_finite(c->acts.x, n * (size_t)m->tokens * width)))
        return 0;
    return name_culprit(c, count, st);
}

/* Features are the pooled tokens; a distilled model's are the mean of its two. */
static void copy_features(const vitrun_context *c, int count, float *to)
{
    size_t n = (size_t)count * (size_t)c->model->vit.cfg.width;
    memcpy(to, c->acts.pooled, n * sizeof *to);
    for (size_t i = 0; c->model->vit.head_dist && i < n; i++)
        to[i] = (to[i] + c->acts.pooled2[i]) / 2;
}

int vitrun_forward(vitrun_context *c, int count, const vitrun_outputs *out, vitrun_error *err)
{
    vt_status st = {0};
    const vit_model *m = &c->model->vit;
    if (vitrun_run_images(c, count, &st) || vitrun_check_finite(c, count, out->tokens != NULL, &st))
        return vitrun_fail(err, &st);
    if (out->logits)
        memcpy(out->logits, c->acts.logits, (size_t)count * (size_t)m->outputs * sizeof(float));
    if (out->features)
        copy_features(c, count, out->features);
    if (out->tokens)
        memcpy(out->tokens, c->acts.x,
               (size_t)count * (size_t)m->tokens * (size_t)m->cfg.width * sizeof(float));
    return 0;
}

/* ---- where time goes ---- */

void vitrun_profile(vitrun_context *c, int on)
{
    vt_profile(c->stream, on != 0);
}

int vitrun_profile_count(const vitrun_context *c)
{
    return c->stream->profile_count;
}

void vitrun_profile_at(const vitrun_context *c, int i, vitrun_profile_entry *out)
{
    *out = (vitrun_profile_entry){0};
    if (i < 0 || i >= c->stream->profile_count)
        return;
    const vt_profile_entry *e = &c->stream->profile[i];
    *out = (vitrun_profile_entry){
        .op = e->op, .name = e->name, .layer = e->layer, .ms = e->ms, .calls = e->calls};
}
