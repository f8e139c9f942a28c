/* Planned memory: what a model and a context of it will take, told before it is taken. */
#include "engine/session.h"

/* What a stream takes for forwards of `batch` images, scratch of attention included: a dry
 * preparing pass adds it up. */
static int stream_bytes(const vitrun_model *m, int batch, uint64_t *bytes, vt_status *st)
{
    const vit_acts none = {.images = batch, .slice = vit_slice(&m->vit, batch)};
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

/* The most that a layer's attention of `images` images needs for itself; SIZE_MAX: too much to say. */
static size_t attention_bytes(const vitrun_model *m, int images)
{
    size_t most = 0;
    for (int i = 0; i < m->plans.layers; i++) {
        size_t b = m->dev->ops->attention_scratch(m->dev, &m->plans.plan[i], images);
        most = b > most ? b : most;
    }
    return most;
}

int vitrun_memory_plan(const vitrun_model *m, int batch, vitrun_memory *memory, vitrun_error *err)
{
    vt_status st = {0};
    uint64_t stream = 0;
    if (vitrun_need(m, "model", err) || vitrun_need(memory, "memory", err))
        return -1;
    if (batch < 1 || batch > 1 << 20)
        vt_fail(&st, VT_USAGE, "batch %d (expected 1 to %d)", batch, 1 << 20);
    if (st.code != VT_OK || stream_bytes(m, batch, &stream, &st))
        return vitrun_fail(err, &st);
    uint64_t attention = attention_bytes(m, vit_slice(&m->vit, batch));
    if (attention == SIZE_MAX) {
        vt_fail(&st, VT_MACHINE, "attention: scores of %d tokens do not fit in memory",
                m->vit.tokens);
        return vitrun_fail(err, &st);
    }
    *memory = (vitrun_memory){.weights_bytes = m->vit.bytes,
                              .activations_bytes = vit_acts_bytes(&m->vit, batch, m->want),
                              .masks_bytes = m->plans.mask_bytes,
                              .attention_bytes = attention,
                              .scratch_bytes = stream > attention ? stream - attention : 0};
    memory->peak_bytes = memory->weights_bytes + memory->activations_bytes + memory->masks_bytes +
                         memory->attention_bytes + memory->scratch_bytes;
    return 0;
}
