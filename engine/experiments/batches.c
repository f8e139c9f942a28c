/* Files -> batches -> forward passes -> results in order. See batches.h.
 *
 * Each batch takes the next files. They are read by several threads, every file into a slot of its
 * own; then the good ones close ranks and run, so a batch with bad files is a smaller one. While a
 * batch computes in one context, the next is read into the other, where there are two.
 */
#include "engine/experiments/batches.h"

#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

typedef struct {
    int row;            /* of the batch; -1: bad */
    vitrun_error error; /* where bad */
} slot;

typedef struct { /* a context and the batch that is in it */
    vitrun_context *context;
    slot *slots; /* [batch] */
    float *logits, *features, *tokens;
    size_t first; /* file of the batch */
    int count;    /* of its files; 0: no batch */
    int good;     /* of these that could be read; they fill the first rows of the input */
} lane;

typedef struct {
    vte_batches *b;
    const vte_file *files;
    const vitrun_info *info;
    size_t input_size; /* floats of one image */
    lane lane[2];
    int lanes;
} runner;

static size_t bytes(int count, size_t width)
{
    return (size_t)count * width * sizeof(float);
}

static int open_lane(const runner *r, lane *l, vitrun_context *context, vitrun_error *err)
{
    const vte_batches *b = r->b;
    const vitrun_info *i = r->info;
    size_t width = (size_t)i->width;
    l->context = context;
    l->slots = calloc((size_t)b->batch, sizeof *l->slots);
    l->logits = malloc(bytes(b->batch, (size_t)i->outputs));
    l->features = b->want_features ? malloc(bytes(b->batch, width)) : NULL;
    l->tokens = b->want_tokens ? malloc(bytes(b->batch, (size_t)i->tokens * width)) : NULL;
    if (!l->slots || !l->logits || (b->want_features && !l->features) ||
        (b->want_tokens && !l->tokens))
        return vte_fail(err, VITRUN_MACHINE, "out of memory (outputs of a batch of %d)", b->batch);
    return 0;
}

static int open_runner(runner *r, vitrun_error *err)
{
    const vitrun_info *i = r->info = vitrun_info_get(r->b->model);
    int bad = 0;
    r->input_size = (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
    for (; r->lanes < 2 && r->b->context[r->lanes] && !bad; r->lanes++)
        bad = open_lane(r, &r->lane[r->lanes], r->b->context[r->lanes], err);
    return bad;
}

static void close_runner(runner *r)
{
    for (int i = 0; i < 2; i++) {
        free(r->lane[i].slots);
        free(r->lane[i].logits);
        free(r->lane[i].features);
        free(r->lane[i].tokens);
    }
}

static float *input_row(const runner *r, const lane *l, int row)
{
    return vitrun_context_input(l->context) + (size_t)row * r->input_size;
}

/* ---- reading ---- */
int vte_image_read(const vitrun_model *model, const char *path, float *input, vitrun_error *err)
{
    vitrun_image image = {0};
    if (vitrun_image_load(&image, path, err) != 0)
        return -1;
    int bad = vitrun_preprocess(model, &image, input, err);
    vitrun_image_free(&image);
    return bad ? vte_prefix(err, path) : 0;
}

static int load(const runner *r, const lane *l, int i, vitrun_error *err)
{
    const vte_file *file = &r->files[l->first + (size_t)i];
    if (!file->error)
        return vte_image_read(r->b->model, file->path, input_row(r, l, i), err);
    vte_fail(err, VITRUN_INPUT, "%s", file->error);
    return vte_prefix(err, file->path);
}

/* Reads the lane's files; the good ones fill the first rows. -1 where the machine failed. */
static int load_batch(runner *r, lane *l, vitrun_error *err)
{
    double start = vte_now_ms();
    int threads = r->info->threads < l->count ? r->info->threads : l->count;
    l->good = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int i = 0; i < l->count; i++)
        l->slots[i].row = load(r, l, i, &l->slots[i].error) ? -1 : i;
    for (int i = 0; i < l->count; i++) {
        slot *s = &l->slots[i];
        if (s->row < 0 && s->error.code != VITRUN_INPUT) {
            *err = s->error;
            return -1;
        }
        if (s->row < 0)
            continue;
        if (l->good < i)
            memcpy(input_row(r, l, l->good), input_row(r, l, i), bytes(1, r->input_size));
        s->row = l->good++;
    }
    r->b->preprocess_ms += vte_now_ms() - start;
    return 0;
}

/* ---- running ---- */
static vte_result result_at(const runner *r, const lane *l, int row)
{
    size_t at = (size_t)row, width = (size_t)r->info->width, tokens = (size_t)r->info->tokens;
    return (vte_result){
        .logits = l->logits + at * (size_t)r->info->outputs,
        .features = l->features ? l->features + at * width : NULL,
        .tokens = l->tokens ? l->tokens + at * tokens * width : NULL,
    };
}

/* Starts the forward of the first `count` rows of the input. */
static int start(runner *r, lane *l, int count, vitrun_error *err)
{
    double begin = vte_now_ms();
    int bad = vitrun_submit(l->context, count, err);
    r->b->forward_ms += vte_now_ms() - begin;
    return bad;
}

/* Its results, from `row` on. */
static int collect(runner *r, const lane *l, int row, vitrun_error *err)
{
    vte_result to = result_at(r, l, row);
    vitrun_outputs out = {(float *)to.logits, (float *)to.features, (float *)to.tokens};
    double begin = vte_now_ms();
    int bad = vitrun_wait(l->context, &out, err);
    r->b->forward_ms += vte_now_ms() - begin;
    return bad;
}

/* A batch gave a result that is not finite: runs its images one by one to find whose it is. */
static int forward_singly(runner *r, lane *l, vitrun_error *err)
{
    for (int i = 0; i < l->count; i++) {
        slot *s = &l->slots[i];
        if (s->row < 0)
            continue;
        if (s->row > 0)
            memcpy(input_row(r, l, 0), input_row(r, l, s->row), bytes(1, r->input_size));
        if (start(r, l, 1, err) != 0)
            return -1;
        if (collect(r, l, s->row, err) == 0)
            continue;
        if (err->code != VITRUN_INPUT)
            return -1;
        s->error = *err;
        vte_prefix(&s->error, r->files[l->first + (size_t)i].path);
        s->row = -1;
    }
    return 0;
}

static int hand_on(const runner *r, const lane *l, vitrun_error *err)
{
    for (int i = 0; i < l->count; i++) {
        const slot *s = &l->slots[i];
        vte_result result = {.error = s->error.message};
        if (s->row >= 0)
            result = result_at(r, l, s->row);
        result.index = l->first + (size_t)i;
        if (r->b->each(r->b->user, &result, err) != 0)
            return -1;
    }
    return r->b->after ? r->b->after(r->b->user, l->first + (size_t)l->count, err) : 0;
}

static int begin_batch(runner *r, lane *l, size_t first, int count, vitrun_error *err)
{
    l->first = first;
    l->count = count;
    return load_batch(r, l, err) || (l->good > 0 && start(r, l, l->good, err)) ? -1 : 0;
}

static int end_batch(runner *r, lane *l, vitrun_error *err)
{
    if (l->good > 0 && collect(r, l, 0, err) != 0 &&
        (err->code != VITRUN_INPUT || forward_singly(r, l, err) != 0))
        return -1;
    int bad = hand_on(r, l, err);
    l->count = 0;
    return bad;
}

/* Batches take the lanes in turn; a lane's batch ends before its next one is read. */
int vte_batches_run(vte_batches *b, const vte_file *files, size_t count, vitrun_error *err)
{
    runner r = {.b = b, .files = files};
    int bad = open_runner(&r, err), turn = 0;
    for (size_t first = 0; first < count && !bad; first += (size_t)b->batch) {
        size_t left = count - first;
        bad = begin_batch(&r, &r.lane[turn], first, left < (size_t)b->batch ? (int)left : b->batch,
                          err);
        turn = (turn + 1) % r.lanes;
        if (!bad && r.lane[turn].count)
            bad = end_batch(&r, &r.lane[turn], err);
    }
    for (int i = 0; i < r.lanes && !bad; i++, turn = (turn + 1) % r.lanes)
        if (r.lane[turn].count)
            bad = end_batch(&r, &r.lane[turn], err);
    close_runner(&r);
    return bad;
}
