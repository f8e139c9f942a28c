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

typedef struct { /* a context and the batch that is in it */
    vitrun_context *context;
    vte_slot *slots; /* [batch] */
    float *logits, *features, *tokens, *intermediates;
    size_t first; /* file of the batch */
    int count;    /* of its files; 0: no batch */
    int good;     /* of these that could be read; they fill the first rows of the input */
} lane;

typedef struct {
    vte_batches *b;
    const vte_file *files;
    const vitrun_info *info;
    size_t input_size, token_size; /* floats of one image */
    lane lane[2];
    int lanes;
} runner;

size_t vte_input_size(const vitrun_info *i)
{
    return (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
}

static size_t bytes(int count, size_t width)
{
    return (size_t)count * width * sizeof(float);
}

static int open_lane(const runner *r, lane *l, vitrun_context *context, vitrun_error *err)
{
    const vte_batches *b = r->b;
    const vitrun_info *i = r->info;
    size_t width = (size_t)i->width, between = (size_t)i->intermediate_count * r->token_size;
    l->context = context;
    l->slots = calloc((size_t)b->batch, sizeof *l->slots);
    l->logits = malloc(bytes(b->batch, (size_t)i->outputs));
    l->features = b->want_features ? malloc(bytes(b->batch, width)) : NULL;
    l->tokens = b->want_tokens ? malloc(bytes(b->batch, r->token_size)) : NULL;
    l->intermediates = between ? malloc(bytes(b->batch, between)) : NULL;
    if (l->slots && l->logits && (l->features || !b->want_features) &&
        (l->tokens || !b->want_tokens) && (l->intermediates || !between))
        return 0;
    vte_fail(err, VITRUN_MACHINE, "out of memory (outputs of a batch of %d)", b->batch);
    return -1;
}

static int open_runner(runner *r, vitrun_error *err)
{
    const vitrun_info *i = r->info = vitrun_info_get(r->b->model);
    r->input_size = vte_input_size(i);
    r->token_size = (size_t)i->tokens * (size_t)i->width;
    r->lanes = r->b->context[1] ? 2 : 1;
    for (int n = 0; n < r->lanes; n++)
        if (open_lane(r, &r->lane[n], r->b->context[n], err))
            return -1;
    return 0;
}

static void close_runner(runner *r)
{
    for (int i = 0; i < 2; i++) {
        free(r->lane[i].slots);
        free(r->lane[i].logits);
        free(r->lane[i].features);
        free(r->lane[i].tokens);
        free(r->lane[i].intermediates);
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
    if (vitrun_image_load_for(model, &image, path, err) != 0)
        return -1;
    int bad = vitrun_preprocess(model, &image, input, err);
    vitrun_image_free(&image);
    return bad ? vte_prefix(err, path) : 0;
}

static int read_file(const vitrun_model *model, const vte_file *file, float *input,
                     vitrun_error *err)
{
    if (!file->error)
        return vte_image_read(model, file->path, input, err);
    vte_fail(err, VITRUN_INPUT, "%s", file->error);
    return vte_prefix(err, file->path);
}

int vte_images_read(const vitrun_model *model, const vte_file *files, int count, float *input,
                    vte_slot *slot, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(model);
    size_t size = vte_input_size(info);
    int threads = info->threads < count ? info->threads : count, good = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int i = 0; i < count; i++)
        slot[i].row =
            read_file(model, &files[i], input + (size_t)i * size, &slot[i].error) ? -1 : i;
    for (int i = 0; i < count; i++) {
        if (slot[i].row < 0 && slot[i].error.code != VITRUN_INPUT) {
            *err = slot[i].error;
            return -1;
        }
        if (slot[i].row < 0)
            continue;
        if (good < i)
            memcpy(input + (size_t)good * size, input + (size_t)i * size, bytes(1, size));
        slot[i].row = good++;
    }
    return good;
}

/* Reads the lane's files into its context. */
static int load_batch(runner *r, lane *l, vitrun_error *err)
{
    double begin = vte_now_ms();
    l->good = vte_images_read(r->b->model, &r->files[l->first], l->count,
                              vitrun_context_input(l->context), l->slots, err);
    r->b->preprocess_ms += vte_now_ms() - begin;
    return l->good < 0 ? -1 : 0;
}

/* ---- running ---- */
static vte_result result_at(const runner *r, const lane *l, int row)
{
    size_t at = (size_t)row, tokens = at * r->token_size;
    return (vte_result){
        .logits = l->logits + at * (size_t)r->info->outputs,
        .features = l->features ? l->features + at * (size_t)r->info->width : NULL,
        .tokens = l->tokens ? l->tokens + tokens : NULL,
        .intermediates = l->intermediates
                             ? l->intermediates + tokens * (size_t)r->info->intermediate_count
                             : NULL,
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
    vitrun_outputs out = {(float *)to.logits, (float *)to.features, (float *)to.tokens,
                          (float *)to.intermediates};
    double begin = vte_now_ms();
    int bad = vitrun_wait(l->context, &out, err);
    r->b->forward_ms += vte_now_ms() - begin;
    return bad;
}

/* A batch gave a result that is not finite: runs its images one by one to find whose it is. */
static int forward_singly(runner *r, lane *l, vitrun_error *err)
{
    for (int i = 0; i < l->count; i++) {
        vte_slot *s = &l->slots[i];
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
        const vte_slot *s = &l->slots[i];
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
