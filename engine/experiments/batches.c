/* Files -> batches -> forward passes -> results in order. See batches.h.
 *
 * Files wait in a queue until a batch is full; a bad file takes a place in the queue, so that its
 * error appears in order, but none in the batch.
 */
#include "engine/experiments/batches.h"

#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

typedef struct {
    size_t index;
    int slot;    /* in the batch; -1: bad */
    char *error; /* owned */
} waiting;

typedef struct {
    vte_batches *b;
    const vte_file *files;
    size_t input_size; /* floats of one image */
    int outputs, width, tokens;
    float *logits, *features, *all_tokens;
    waiting *queue;
    int queued, capacity, used; /* used: slots of the batch */
} runner;

static size_t rows(int count, size_t width)
{
    return (size_t)count * width * sizeof(float);
}

static int open_runner(runner *r, vitrun_error *err)
{
    vte_batches *b = r->b;
    const vitrun_info *info = vitrun_info_get(b->model);
    r->input_size = (size_t)info->channels * (size_t)info->image_height * (size_t)info->image_width;
    r->outputs = info->outputs;
    r->width = info->width;
    r->tokens = info->tokens;
    r->capacity = 2 * b->batch + 16;
    size_t token_floats = (size_t)r->tokens * (size_t)r->width;
    r->queue = calloc((size_t)r->capacity, sizeof *r->queue);
    r->logits = malloc(rows(b->batch, (size_t)r->outputs));
    r->features = b->want_features ? malloc(rows(b->batch, (size_t)r->width)) : NULL;
    r->all_tokens = b->want_tokens ? malloc(rows(b->batch, token_floats)) : NULL;
    if (!r->queue || !r->logits || (b->want_features && !r->features) ||
        (b->want_tokens && !r->all_tokens))
        return vte_fail(err, VITRUN_MACHINE, "out of memory (outputs of a batch of %d)", b->batch);
    return 0;
}

static void close_runner(runner *r)
{
    for (int i = 0; i < r->queued; i++)
        free(r->queue[i].error);
    free(r->queue);
    free(r->logits);
    free(r->features);
    free(r->all_tokens);
}

static int set_bad(waiting *w, const char *message, vitrun_error *err)
{
    w->slot = -1;
    w->error = strdup(message);
    return w->error ? 0 : vte_fail(err, VITRUN_MACHINE, "out of memory (an error message)");
}

/* Reads and preprocesses one file into the next slot. Returns -1 where the run cannot go on. */
static int load(runner *r, size_t index, vitrun_error *err)
{
    vte_batches *b = r->b;
    const vte_file *file = &r->files[index];
    waiting *w = &r->queue[r->queued++];
    *w = (waiting){.index = index, .slot = r->used};
    if (file->error)
        return set_bad(w, file->error, err);
    double start = vte_now_ms();
    vitrun_image image = {0};
    float *slot = vitrun_context_input(b->context) + (size_t)r->used * r->input_size;
    int bad = vitrun_image_load(&image, file->path, err);
    if (!bad) {
        bad = vitrun_preprocess(b->model, &image, slot, err);
        vitrun_image_free(&image);
    }
    b->preprocess_ms += vte_now_ms() - start;
    if (!bad) {
        r->used++;
        return 0;
    }
    if (err->code != VITRUN_INPUT)
        return -1;
    vitrun_error copy = *err;
    return set_bad(w, copy.message, err);
}

static int forward(runner *r, int count, int slot, vitrun_error *err)
{
    vte_batches *b = r->b;
    size_t at = (size_t)slot, width = (size_t)r->width;
    vitrun_outputs out = {
        .logits = r->logits + at * (size_t)r->outputs,
        .features = r->features ? r->features + at * width : NULL,
        .tokens = r->all_tokens ? r->all_tokens + at * width * (size_t)r->tokens : NULL,
    };
    double start = vte_now_ms();
    int bad = vitrun_forward(b->context, count, &out, err);
    b->forward_ms += vte_now_ms() - start;
    return bad;
}

/* A batch gave a result that is not finite: run its images one by one to find whose it is. */
static int forward_singly(runner *r, vitrun_error *err)
{
    float *input = vitrun_context_input(r->b->context);
    for (int i = 0; i < r->queued; i++) {
        waiting *w = &r->queue[i];
        if (w->slot < 0)
            continue;
        memmove(input, input + (size_t)w->slot * r->input_size, r->input_size * sizeof *input);
        if (forward(r, 1, w->slot, err) == 0)
            continue;
        if (err->code != VITRUN_INPUT)
            return -1;
        vitrun_error named;
        vte_fail(&named, VITRUN_INPUT, "%s: %.400s", r->files[w->index].path, err->message);
        if (set_bad(w, named.message, err) != 0)
            return -1;
    }
    return 0;
}

static int hand_on(runner *r, vitrun_error *err)
{
    vte_batches *b = r->b;
    for (int i = 0; i < r->queued; i++) {
        const waiting *w = &r->queue[i];
        vte_result result = {.index = w->index, .error = w->error};
        if (w->slot >= 0) {
            size_t slot = (size_t)w->slot, width = (size_t)r->width;
            result.logits = r->logits + slot * (size_t)r->outputs;
            result.features = r->features ? r->features + slot * width : NULL;
            result.tokens = r->all_tokens ? r->all_tokens + slot * width * (size_t)r->tokens : NULL;
        }
        if (b->each(b->user, &result, err) != 0)
            return -1;
    }
    return 0;
}

/* Runs what is queued and empties the queue. */
static int flush(runner *r, vitrun_error *err)
{
    if (r->used > 0 && forward(r, r->used, 0, err) != 0) {
        if (err->code != VITRUN_INPUT || forward_singly(r, err) != 0)
            return -1;
    }
    if (hand_on(r, err) != 0)
        return -1;
    size_t done = r->queue[r->queued - 1].index + 1;
    for (int i = 0; i < r->queued; i++)
        free(r->queue[i].error);
    r->queued = r->used = 0;
    return r->b->after ? r->b->after(r->b->user, done, err) : 0;
}

int vte_batches_run(vte_batches *b, const vte_file *files, size_t count, vitrun_error *err)
{
    runner r = {.b = b, .files = files};
    int bad = open_runner(&r, err);
    for (size_t i = 0; i < count && !bad; i++) {
        bad = load(&r, i, err);
        if (!bad && (r.used == b->batch || r.queued == r.capacity || i + 1 == count))
            bad = flush(&r, err);
    }
    close_runner(&r);
    return bad;
}
