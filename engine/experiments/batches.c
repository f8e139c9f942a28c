/* Files -> batches -> forward passes -> results in order. See batches.h.
 *
 * Each batch takes the next files. They are read by several threads, every file into a slot of its
 * own; then the good ones close ranks and run, so a batch with bad files is a smaller one.
 */
#include "engine/experiments/batches.h"

#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

typedef struct {
    int row;            /* of the batch; -1: bad */
    vitrun_error error; /* where bad */
} slot;

typedef struct {
    vte_batches *b;
    const vte_file *files;
    const vitrun_info *info;
    size_t input_size; /* floats of one image */
    slot *slots;       /* [batch] */
    float *logits, *features, *tokens;
} runner;

static size_t bytes(int count, size_t width)
{
    return (size_t)count * width * sizeof(float);
}

static int open_runner(runner *r, vitrun_error *err)
{
    vte_batches *b = r->b;
    const vitrun_info *i = r->info = vitrun_info_get(b->model);
    size_t width = (size_t)i->width;
    r->input_size = (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
    r->slots = calloc((size_t)b->batch, sizeof *r->slots);
    r->logits = malloc(bytes(b->batch, (size_t)i->outputs));
    r->features = b->want_features ? malloc(bytes(b->batch, width)) : NULL;
    r->tokens = b->want_tokens ? malloc(bytes(b->batch, (size_t)i->tokens * width)) : NULL;
    if (!r->slots || !r->logits || (b->want_features && !r->features) ||
        (b->want_tokens && !r->tokens))
        return vte_fail(err, VITRUN_MACHINE, "out of memory (outputs of a batch of %d)", b->batch);
    return 0;
}

static void close_runner(runner *r)
{
    free(r->slots);
    free(r->logits);
    free(r->features);
    free(r->tokens);
}

static float *input_row(const runner *r, int row)
{
    return vitrun_context_input(r->b->context) + (size_t)row * r->input_size;
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

static int load(const runner *r, const vte_file *file, int row, vitrun_error *err)
{
    if (!file->error)
        return vte_image_read(r->b->model, file->path, input_row(r, row), err);
    vte_fail(err, VITRUN_INPUT, "%s", file->error);
    return vte_prefix(err, file->path);
}

/* Reads `count` files from `first` on. Returns how many are good: they fill the first rows; -1
 * where the machine failed. */
static int load_batch(runner *r, size_t first, int count, vitrun_error *err)
{
    double start = vte_now_ms();
    int threads = r->info->threads < count ? r->info->threads : count, good = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int i = 0; i < count; i++)
        r->slots[i].row = load(r, &r->files[first + (size_t)i], i, &r->slots[i].error) ? -1 : i;
    for (int i = 0; i < count; i++) {
        slot *s = &r->slots[i];
        if (s->row < 0 && s->error.code != VITRUN_INPUT) {
            *err = s->error;
            return -1;
        }
        if (s->row < 0)
            continue;
        if (good < i)
            memcpy(input_row(r, good), input_row(r, i), bytes(1, r->input_size));
        s->row = good++;
    }
    r->b->preprocess_ms += vte_now_ms() - start;
    return good;
}

/* ---- running ---- */
static vte_result result_at(const runner *r, int row)
{
    size_t at = (size_t)row, width = (size_t)r->info->width, tokens = (size_t)r->info->tokens;
    return (vte_result){
        .logits = r->logits + at * (size_t)r->info->outputs,
        .features = r->features ? r->features + at * width : NULL,
        .tokens = r->tokens ? r->tokens + at * tokens * width : NULL,
    };
}

/* Runs the first `count` rows of the input; results from `row` on. */
static int forward(runner *r, int count, int row, vitrun_error *err)
{
    vte_result to = result_at(r, row);
    vitrun_outputs out = {(float *)to.logits, (float *)to.features, (float *)to.tokens};
    double start = vte_now_ms();
    int bad = vitrun_forward(r->b->context, count, &out, err);
    r->b->forward_ms += vte_now_ms() - start;
    return bad;
}

/* A batch gave a result that is not finite: runs its images one by one to find whose it is. */
static int forward_singly(runner *r, size_t first, int count, vitrun_error *err)
{
    for (int i = 0; i < count; i++) {
        slot *s = &r->slots[i];
        if (s->row < 0)
            continue;
        if (s->row > 0)
            memcpy(input_row(r, 0), input_row(r, s->row), bytes(1, r->input_size));
        if (forward(r, 1, s->row, err) == 0)
            continue;
        if (err->code != VITRUN_INPUT)
            return -1;
        s->error = *err;
        vte_prefix(&s->error, r->files[first + (size_t)i].path);
        s->row = -1;
    }
    return 0;
}

static int hand_on(const runner *r, size_t first, int count, vitrun_error *err)
{
    for (int i = 0; i < count; i++) {
        const slot *s = &r->slots[i];
        vte_result result = {.error = s->error.message};
        if (s->row >= 0)
            result = result_at(r, s->row);
        result.index = first + (size_t)i;
        if (r->b->each(r->b->user, &result, err) != 0)
            return -1;
    }
    return r->b->after ? r->b->after(r->b->user, first + (size_t)count, err) : 0;
}

static int run_batch(runner *r, size_t first, int count, vitrun_error *err)
{
    int good = load_batch(r, first, count, err);
    if (good < 0)
        return -1;
    if (good > 0 && forward(r, good, 0, err) != 0 &&
        (err->code != VITRUN_INPUT || forward_singly(r, first, count, err) != 0))
        return -1;
    return hand_on(r, first, count, err);
}

int vte_batches_run(vte_batches *b, const vte_file *files, size_t count, vitrun_error *err)
{
    runner r = {.b = b, .files = files};
    int bad = open_runner(&r, err);
    for (size_t first = 0; first < count && !bad; first += (size_t)b->batch) {
        size_t left = count - first;
        bad = run_batch(&r, first, left < (size_t)b->batch ? (int)left : b->batch, err);
    }
    close_runner(&r);
    return bad;
}
