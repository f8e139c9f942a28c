/* What vitrun.h promises of its calls, whatever the model: arguments, order, lifetimes, threads,
 * cancelling, progress, processes, locales. */
#include <locale.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/vitrun.h"

#define WEIGHTS "tests/golden/models/vit.safetensors"
#define MASKS   "tests/golden/models/masks/axial.json"
#define IMAGE   "tests/golden/models/image.png"

enum { OUTPUTS = 10, LAYERS = 2 };

static vitrun_model *open_model(int threads, const char *masks)
{
    vitrun_options o;
    vitrun_error err;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.mask_config = masks;
    o.threads = threads;
    o.device = "cpu";
    vitrun_model *m = vitrun_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    assert_int_equal(vitrun_info_get(m)->outputs, OUTPUTS);
    assert_int_equal(vitrun_info_get(m)->layers, LAYERS);
    return m;
}

static size_t input_floats(const vitrun_model *m)
{
    const vitrun_info *i = vitrun_info_get(m);
    return (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
}

/* A context whose images all differ. */
static vitrun_context *open_context(const vitrun_model *m, int batch)
{
    vitrun_error err;
    vitrun_context *c = vitrun_context_open(m, batch, &err);
    if (!c)
        fail_msg("%s", err.message);
    float *in = vitrun_context_input(c);
    for (size_t i = 0; i < input_floats(m) * (size_t)batch; i++)
        in[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
    return c;
}

static void forward(vitrun_context *c, int images, float *logits)
{
    vitrun_error err;
    if (vitrun_forward(c, images, &(vitrun_outputs){.logits = logits}, &err))
        fail_msg("%s", err.message);
}

static void is_refused(int failed, const vitrun_error *err, vitrun_code code, const char *text)
{
    assert_true(failed);
    if (err->code != code || !strstr(err->message, text))
        fail_msg("expected code %d and \"%s\", found %d and \"%s\"", code, text, err->code,
                 err->message);
}

/* ---- arguments ---- */

static void ignore_rows(void *user, const vitrun_attention_rows *rows)
{
    (void)user;
    (void)rows;
}

static void a_null_where_something_must_be_is_an_error(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_model *m = open_model(1, NULL);
    vitrun_context *c = open_context(m, 1);
    vitrun_image image;
    vitrun_memory memory;
    float x = 0;
    double ms;
    uint8_t byte = 0;
    uint64_t bytes, shape = 1;
    const char *path;
#define REFUSED(call, what)                                                                        \
    do {                                                                                           \
        err = (vitrun_error){0};                                                                   \
        is_refused(call, &err, VITRUN_USAGE, what " is NULL");                                     \
    } while (0)
    REFUSED(!vitrun_open(NULL, &err), "options");
    REFUSED(!vitrun_variant(NULL, NULL, &err), "model");
    REFUSED(!vitrun_variant(m, NULL, &err), "options");
    REFUSED(vitrun_memory_plan(NULL, 1, &memory, &err), "model");
    REFUSED(vitrun_memory_plan(m, 1, NULL, &err), "memory");
    REFUSED(vitrun_image_load(NULL, IMAGE, &err), "image");
    REFUSED(vitrun_image_load(&image, NULL, &err), "path");
    REFUSED(vitrun_image_load_for(NULL, &image, IMAGE, &err), "model");
    REFUSED(vitrun_image_load_for(m, NULL, IMAGE, &err), "image");
    REFUSED(vitrun_image_load_for(m, &image, NULL, &err), "path");
    REFUSED(vitrun_image_decode(&image, NULL, 4, "x", &err), "bytes");
    REFUSED(vitrun_png_write(NULL, &byte, 1, 1, &err), "path");
    REFUSED(vitrun_png_write("/x.png", NULL, 1, 1, &err), "rgb");
    REFUSED(vitrun_preprocess(m, NULL, &x, &err), "image");
    REFUSED(vitrun_preprocess(m, &(vitrun_image){1, 1, NULL}, &x, &err), "rgb");
    REFUSED(vitrun_preprocess_rgb(NULL, &byte, 1, 1, 0, &x, &err), "model");
    REFUSED(vitrun_preprocess_rgb(m, &byte, 1, 1, 0, NULL, &err), "out");
    REFUSED(!vitrun_context_open(NULL, 1, &err), "model");
    REFUSED(vitrun_forward(NULL, 1, NULL, &err), "context");
    REFUSED(vitrun_submit(NULL, 1, &err), "context");
    REFUSED(vitrun_wait(NULL, NULL, &err), "context");
    REFUSED(vitrun_time(NULL, &ms, &err), "context");
    REFUSED(vitrun_time(c, NULL, &err), "ms");
    REFUSED(vitrun_attend(NULL, 1, 0, 1, ignore_rows, NULL, NULL, &err), "context");
    REFUSED(vitrun_attend(c, 1, 0, 1, NULL, NULL, NULL, &err), "fn");
    REFUSED(!vitrun_check_run(NULL, 1, &err), "context");
    REFUSED(!vitrun_masks_open(NULL, &err), "options");
    REFUSED(!vitrun_masks_of(NULL, &err), "model");
    REFUSED(vitrun_masks_row(NULL, 0, 0, &byte, &err), "masks");
    REFUSED(vitrun_masks_draw_matrix(NULL, 0, "/x.png", &err), "masks");
    REFUSED(vitrun_masks_draw_query(NULL, 0, 0, "/x.png", &err), "masks");
    REFUSED(vitrun_masks_save(NULL, "/x", &err), "masks");
    REFUSED(!vitrun_attention_open(NULL, &err), "options");
    REFUSED(vitrun_attention_set_mask(NULL, NULL, &err), "attention");
    REFUSED(vitrun_attention_run(NULL, "dense", 1, &ms, &err), "attention");
    REFUSED(vitrun_attention_memory(NULL, "dense", &bytes, &bytes, &err), "attention");
    REFUSED(!vitrun_tune(NULL, &err), "options");
    REFUSED(vitrun_tuning_keep(NULL, &path, &err), "tuning");
    REFUSED(vitrun_save_f32(NULL, "x", &x, &shape, 1, &err), "path");
    REFUSED(vitrun_save_f32("/x.npy", "x", NULL, &shape, 1, &err), "data");
    REFUSED(vitrun_save_f32("/x.npy", "x", &x, NULL, 1, &err), "shape");
    REFUSED(vitrun_save_tensors("/x", NULL, 1, &err), "tensor");
    REFUSED(vitrun_save_bytes(NULL, &byte, 1, &err), "path");
    REFUSED(vitrun_save_bytes("/x", NULL, 1, &err), "bytes");
#undef REFUSED
    assert_int_equal(vitrun_wait(NULL, NULL, NULL), -1); /* and nobody wants to know */
    vitrun_context_close(c);
    vitrun_close(m);
}

static void nothing_is_found_in_nothing(void **state)
{
    (void)state;
    vitrun_profile_entry entry;
    vitrun_constant constant;
    vitrun_tuning_sample sample;
    vitrun_image_free(NULL);
    vitrun_close(NULL);
    vitrun_context_close(NULL);
    vitrun_check_free(NULL);
    vitrun_masks_free(NULL);
    vitrun_attention_close(NULL);
    vitrun_tuning_free(NULL);
    vitrun_cancel(NULL, 1);
    vitrun_context_progress(NULL, NULL, NULL);
    vitrun_profile(NULL, 1);
    vitrun_options_init(NULL);
    vitrun_mask_options_init(NULL);
    vitrun_attention_options_init(NULL);
    vitrun_tune_options_init(NULL);
    vitrun_profile_at(NULL, 0, &entry);
    vitrun_profile_at(NULL, 0, NULL);
    vitrun_tuning_constant(NULL, 0, &constant);
    vitrun_tuning_sample_at(NULL, 0, &sample);
    assert_null(entry.op);
    assert_null(constant.name);
    assert_null(sample.kernel);
    assert_null(vitrun_info_get(NULL));
    assert_null(vitrun_label(NULL, 0));
    assert_null(vitrun_layer_at(NULL, 0));
    assert_null(vitrun_warning_at(NULL, 0));
    assert_null(vitrun_context_input(NULL));
    assert_null(vitrun_check_at(NULL, 0));
    assert_null(vitrun_masks_at(NULL, 0));
    assert_null(vitrun_attention_layer(NULL));
    assert_null(vitrun_attention_device(NULL, NULL));
    assert_null(vitrun_tuning_get(NULL));
    assert_int_equal(vitrun_layer_count(NULL) + vitrun_warning_count(NULL) +
                         vitrun_profile_count(NULL) + vitrun_check_count(NULL) +
                         vitrun_check_ok(NULL) + vitrun_masks_count(NULL) +
                         vitrun_attention_prefix(NULL),
                     0);
    assert_int_equal(vitrun_architecture_at(0, NULL), -1);
}

static void options_of_another_header_are_refused(void **state)
{
    (void)state;
    vitrun_options o;
    vitrun_mask_options mo;
    vitrun_attention_options ao;
    vitrun_tune_options to;
    vitrun_error err;
    vitrun_options_init(&o);
    vitrun_mask_options_init(&mo);
    vitrun_attention_options_init(&ao);
    vitrun_tune_options_init(&to);
    o.weights = WEIGHTS;
    o.size -= 8, mo.size = 0, ao.size++, to.size = SIZE_MAX;
    is_refused(!vitrun_open(&o, &err), &err, VITRUN_USAGE, "vitrun_options has size");
    is_refused(!vitrun_masks_open(&mo, &err), &err, VITRUN_USAGE, "vitrun_mask_options has size 0");
    is_refused(!vitrun_attention_open(&ao, &err), &err, VITRUN_USAGE, "size");
    is_refused(!vitrun_tune(&to, &err), &err, VITRUN_USAGE, "size");
}

static void values_out_of_range_are_refused(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_options o, bad;
    const char *holes[] = {"dense", NULL};
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
#define REFUSED(what, ...)                                                                         \
    bad = o, __VA_ARGS__, is_refused(!vitrun_open(&bad, &err), &err, VITRUN_USAGE, what)
    REFUSED("--weights", bad.weights = NULL);
    REFUSED("masks: 1 texts in a NULL list", bad.mask_count = 1);
    REFUSED("masks: text 1 of 2", bad.masks = holes, bad.mask_count = 2);
    REFUSED("set: -1", bad.set_count = -1);
    REFUSED("-1 threads", bad.threads = -1);
    REFUSED("batch -1", bad.batch = -1);
    REFUSED("density threshold", bad.density_threshold = 2);
    REFUSED("image size 224x0", bad.image_height = 224);
    REFUSED("dispatch 7", bad.dispatch = (vitrun_dispatch)7);
    REFUSED("kernel \"none\"", bad.kernel = "none");
    REFUSED("device \"tpu\"", bad.device = "tpu");
#undef REFUSED
    is_refused(!vitrun_device_found("tpu", NULL, &err), &err, VITRUN_USAGE, "device \"tpu\"");
    assert_string_equal(vitrun_device_found("cpu", NULL, NULL), "cpu");
    assert_non_null(vitrun_device_found(NULL, NULL, &err));
    vitrun_model *m = open_model(1, NULL);
    vitrun_context *c = open_context(m, 2);
    uint8_t pixel[3] = {0};
    float *out = vitrun_context_input(c);
    for (int batch = -1; batch <= 0; batch++)
        is_refused(!vitrun_context_open(m, batch, &err), &err, VITRUN_USAGE, "batch");
    is_refused(vitrun_forward(c, 0, NULL, &err), &err, VITRUN_USAGE, "0 images");
    is_refused(vitrun_forward(c, 3, NULL, &err), &err, VITRUN_USAGE, "3 images (expected 1 to 2)");
    is_refused(!vitrun_check_run(c, 3, &err), &err, VITRUN_USAGE, "3 images");
    is_refused(vitrun_preprocess_rgb(m, pixel, 0, 1, 0, out, &err), &err, VITRUN_USAGE, "0x1");
    is_refused(vitrun_preprocess_rgb(m, pixel, 1 << 20, 1 << 20, 0, out, &err), &err, VITRUN_USAGE,
               "1048576x1048576");
    is_refused(vitrun_preprocess_rgb(m, pixel, 1, 1, 2, out, &err), &err, VITRUN_USAGE, "2 bytes");
    is_refused(vitrun_save_tensors("/x", &(vitrun_tensor){"x", 0, 5, {1}, pixel}, 1, &err), &err,
               VITRUN_USAGE, "rank");
    vitrun_context_close(c);
    vitrun_close(m);
}

/* ---- order ---- */

static void calls_at_the_wrong_time_are_errors(void **state)
{
    (void)state;
    vitrun_error err;
    double ms;
    vitrun_model *m = open_model(1, NULL);
    vitrun_context *c = open_context(m, 1);
    float *tokens = calloc(1 << 16, sizeof *tokens), before[OUTPUTS], after[OUTPUTS];
    is_refused(vitrun_wait(c, NULL, &err), &err, VITRUN_USAGE, "submit one first");
    is_refused(vitrun_time(c, &ms, &err), &err, VITRUN_USAGE, "has run");
    forward(c, 1, before);
    assert_int_equal(vitrun_submit(c, 1, &err), 0);
    is_refused(vitrun_submit(c, 1, &err), &err, VITRUN_USAGE, "under way");
    is_refused(!vitrun_check_run(c, 1, &err), &err, VITRUN_USAGE, "under way");
    is_refused(vitrun_time(c, &ms, &err), &err, VITRUN_USAGE, "runs nothing");
    is_refused(vitrun_wait(c, &(vitrun_outputs){.tokens = tokens}, &err), &err, VITRUN_USAGE,
               "opened without");
    is_refused(vitrun_wait(c, NULL, &err), &err, VITRUN_USAGE, "submit one first");
    forward(c, 1, after);
    assert_memory_equal(before, after, sizeof before);
    free(tokens);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void handles_may_be_closed_in_any_order(void **state)
{
    (void)state;
    vitrun_error err;
    float one[OUTPUTS], two[OUTPUTS];
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    vitrun_model *m = open_model(1, MASKS), *variant = vitrun_variant(m, &o, &err);
    assert_non_null(variant);
    vitrun_context *c = open_context(m, 1), *of_variant = open_context(variant, 1);
    vitrun_masks *masks = vitrun_masks_of(m, &err);
    vitrun_check *check = vitrun_check_run(c, 1, &err);
    forward(c, 1, one);
    vitrun_close(m);
    forward(c, 1, two);
    assert_memory_equal(one, two, sizeof one);
    vitrun_context_close(c);
    vitrun_close(variant);
    forward(of_variant, 1, two);
    vitrun_context_close(of_variant);
    assert_true(vitrun_check_count(check) > 0 && vitrun_check_at(check, 0)->heads[0] == '0');
    vitrun_check_free(check);
    assert_string_equal(vitrun_masks_at(masks, 0)->heads, "0-1");
    vitrun_masks_free(masks);
}

/* ---- threads ---- */

enum { THREADS = 8, ROUNDS = 6, BATCH = 5 };

typedef struct {
    const vitrun_model *model;
    const float *want; /* [BATCH, OUTPUTS] */
    int different;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    float got[BATCH * OUTPUTS];
    for (int r = 0; r < ROUNDS; r++) {
        vitrun_context *c = open_context(w->model, BATCH);
        int images = 1 + r % BATCH;
        forward(c, images, got);
        w->different += images == BATCH && memcmp(got, w->want, sizeof got) != 0;
        forward(c, BATCH, got);
        w->different += memcmp(got, w->want, sizeof got) != 0;
        vitrun_context_close(c);
    }
    return NULL;
}

static void eight_threads_get_the_bits_of_one(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        vitrun_model *m = open_model(threads, MASKS);
        vitrun_context *c = open_context(m, BATCH);
        float want[BATCH * OUTPUTS];
        pthread_t thread[THREADS];
        worker job[THREADS];
        forward(c, BATCH, want);
        for (int i = 0; i < THREADS; i++) {
            job[i] = (worker){m, want, 0};
            assert_int_equal(pthread_create(&thread[i], NULL, work, &job[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(thread[i], NULL);
            assert_int_equal(job[i].different, 0);
        }
        vitrun_context_close(c);
        vitrun_close(m);
    }
}

/* ---- cancelling ---- */

typedef struct {
    vitrun_context *context; /* cancelled at `at`; NULL: by the returned value */
    uint64_t at, last, total;
    int calls, backwards;
    char seen[64]; /* each `what` once */
} listener;

static int listen(void *user, const char *what, uint64_t done, uint64_t total)
{
    listener *l = user;
    l->calls++;
    l->backwards += done > total || (done != 0 && done < l->last);
    l->last = done;
    l->total = total;
    if (!strstr(l->seen, what))
        strncat(strncat(l->seen, what, 20), " ", 2);
    if (done != l->at)
        return 0;
    vitrun_cancel(l->context, 1);
    return l->context == NULL;
}

static void a_cancelled_forward_stops_at_its_layer_and_the_context_goes_on(void **state)
{
    (void)state;
    vitrun_error err;
    for (int threads = 1; threads <= 2; threads++)
        for (int by_value = 0; by_value < 2; by_value++) {
            vitrun_model *m = open_model(threads, MASKS);
            vitrun_context *c = open_context(m, BATCH);
            float before[BATCH * OUTPUTS], after[BATCH * OUTPUTS];
            forward(c, BATCH, before);
            listener l = {.context = by_value ? NULL : c, .at = threads == 1 ? BATCH : 0};
            vitrun_context_progress(c, listen, &l);
            memset(after, 0x55, sizeof after);
            is_refused(vitrun_forward(c, BATCH, &(vitrun_outputs){.logits = after}, &err), &err,
                       VITRUN_CANCELLED, "cancelled");
            assert_true(after[0] != before[0] && l.last < l.total);
            vitrun_context_progress(c, NULL, NULL);
            forward(c, BATCH, after);
            assert_memory_equal(before, after, sizeof before);
            vitrun_context_close(c);
            vitrun_close(m);
        }
}

static void a_wish_to_stop_is_kept_until_told_or_taken_back(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_model *m = open_model(1, NULL);
    vitrun_context *c = open_context(m, 1);
    float logits[OUTPUTS];
    vitrun_cancel(c, 1);
    is_refused(vitrun_forward(c, 1, NULL, &err), &err, VITRUN_CANCELLED, "cancelled");
    forward(c, 1, logits);
    vitrun_cancel(c, 1);
    vitrun_cancel(c, 0);
    forward(c, 1, logits);
    assert_int_equal(vitrun_submit(c, 1, &err), 0);
    vitrun_cancel(c, 1); /* it may have run already: its results are not given out */
    is_refused(vitrun_wait(c, NULL, &err), &err, VITRUN_CANCELLED, "cancelled");
    vitrun_cancel(c, 1);
    is_refused(!vitrun_check_run(c, 1, &err), &err, VITRUN_CANCELLED, "cancelled");
    vitrun_check *check = vitrun_check_run(c, 1, &err);
    assert_int_equal(vitrun_check_ok(check), 1);
    vitrun_check_free(check);
    vitrun_context_close(c);
    vitrun_close(m);
}

typedef struct {
    vitrun_context *context;
    pthread_barrier_t begun;
    int rounds;
    vitrun_error err;
} runner;

static void *run_until_cancelled(void *arg)
{
    runner *r = arg;
    pthread_barrier_wait(&r->begun);
    while (vitrun_forward(r->context, 1, NULL, &r->err) == 0)
        r->rounds++;
    return NULL;
}

static void another_thread_cancels_what_runs(void **state)
{
    (void)state;
    vitrun_model *m = open_model(1, NULL);
    for (int i = 0; i < 20; i++) {
        runner r = {.context = open_context(m, 1)};
        pthread_t thread;
        pthread_barrier_init(&r.begun, NULL, 2);
        assert_int_equal(pthread_create(&thread, NULL, run_until_cancelled, &r), 0);
        pthread_barrier_wait(&r.begun);
        usleep((useconds_t)(i * 137));
        vitrun_cancel(r.context, 1);
        pthread_join(thread, NULL);
        assert_int_equal(r.err.code, VITRUN_CANCELLED);
        vitrun_context_close(r.context);
        pthread_barrier_destroy(&r.begun);
    }
    vitrun_close(m);
}

/* ---- progress ---- */

static void progress_goes_to_its_total(void **state)
{
    (void)state;
    vitrun_error err;
    listener l = {.at = UINT64_MAX};
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.mask_config = MASKS;
    o.threads = 2;
    o.device = "cpu";
    o.progress = listen;
    o.progress_user = &l;
    vitrun_model *m = vitrun_open(&o, &err);
    assert_non_null(m);
    assert_string_equal(l.seen, "masks weights ");
    assert_int_equal(l.calls, 2 * (LAYERS + 1));
    assert_int_equal(l.last, LAYERS);
    vitrun_context *c = open_context(m, BATCH);
    for (int images = 1; images <= BATCH; images++) {
        l = (listener){.at = UINT64_MAX};
        vitrun_context_progress(c, listen, &l);
        assert_int_equal(vitrun_forward(c, images, NULL, &err), 0);
        assert_string_equal(l.seen, "forward ");
        assert_int_equal(l.backwards, 0);
        assert_int_equal(l.last, images * LAYERS);
        assert_int_equal(l.total, images * LAYERS);
        assert_true(l.calls > LAYERS);
    }
    l = (listener){.at = UINT64_MAX};
    vitrun_check_free(vitrun_check_run(c, 1, &err));
    assert_string_equal(l.seen, "check ");
    assert_int_equal(l.last, LAYERS);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void a_progress_function_stops_what_takes_long(void **state)
{
    (void)state;
    vitrun_error err;
    const char *mask = "axial_2d()";
    listener l = {.at = 1};
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.progress = listen;
    o.progress_user = &l;
    is_refused(!vitrun_open(&o, &err), &err, VITRUN_CANCELLED, "cancelled");
    assert_int_equal(l.calls, 2);
    assert_string_equal(l.seen, "weights ");

    vitrun_mask_options mo;
    vitrun_mask_options_init(&mo);
    mo.grid_h = mo.grid_w = 4;
    mo.layers = 3;
    mo.masks = &mask;
    mo.mask_count = 1;
    mo.progress = listen;
    mo.progress_user = &l;
    is_refused(!vitrun_masks_open(&mo, &err), &err, VITRUN_CANCELLED, "cancelled");

    vitrun_tune_options to;
    vitrun_tune_options_init(&to);
    to.device = "cpu";
    to.progress = listen;
    to.progress_user = &l;
    l.at = 0;
    is_refused(!vitrun_tune(&to, &err), &err, VITRUN_CANCELLED, "cancelled");
}

/* ---- pixels ---- */

static void pixels_may_lie_anyhow(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_image image;
    vitrun_model *m = open_model(1, NULL);
    size_t floats = input_floats(m);
    float *want = calloc(floats, sizeof *want), *got = calloc(floats, sizeof *got);
    assert_int_equal(vitrun_image_load(&image, IMAGE, &err), 0);
    assert_int_equal(vitrun_preprocess(m, &image, want, &err), 0);
    ptrdiff_t row = 3 * image.width;
    for (int flip = 0; flip < 2; flip++)
        for (ptrdiff_t stride = row; stride < row + 3; stride += 2) {
            size_t bytes = (size_t)(stride * (image.height - 1) + row);
            uint8_t *apart = malloc(bytes), *top = apart;
            memset(apart, 0xaa, bytes);
            if (flip)
                top += stride * (image.height - 1);
            ptrdiff_t step = flip ? -stride : stride;
            for (int y = 0; y < image.height; y++)
                memcpy(top + y * step, image.rgb + y * row, (size_t)row);
            memset(got, 0, floats * sizeof *got);
            assert_int_equal(
                vitrun_preprocess_rgb(m, top, image.width, image.height, step, got, &err), 0);
            assert_memory_equal(got, want, floats * sizeof *got);
            free(apart);
        }
    free(want);
    free(got);
    vitrun_image_free(&image);
    vitrun_close(m);
}

/* ---- processes ---- */

/* The exit status of a child that does `what`; -1: it had to be killed. */
static int in_child(int (*what)(void *), void *user)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        _exit(what(user));
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

typedef struct {
    vitrun_model *model;
    vitrun_context *context;
    float want[OUTPUTS];
} parent;

/* 0: the same bits; else the error's code, or 99. */
static int run_in_child(void *user)
{
    parent *p = user;
    vitrun_error err;
    float got[OUTPUTS];
    if (vitrun_forward(p->context, 1, &(vitrun_outputs){.logits = got}, &err))
        return (int)err.code;
    vitrun_context *own = vitrun_context_open(p->model, 1, &err);
    return own && !memcmp(got, p->want, sizeof got) ? 0 : 99;
}

static int open_in_child(void *user)
{
    vitrun_options o;
    vitrun_error err;
    (void)user;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.threads = 2;
    return vitrun_open(&o, &err) ? 0 : (int)err.code;
}

static void *open_and_fork(void *user)
{
    parent p = {.model = open_model(*(int *)user, MASKS)};
    p.context = open_context(p.model, 1);
    forward(p.context, 1, p.want);
    int status = in_child(run_in_child, &p), fresh = in_child(open_in_child, NULL);
    vitrun_context_close(p.context);
    vitrun_close(p.model);
    *(int *)user = status * 100 + fresh;
    return NULL;
}

/* A thread of its own, so that what this one has run before does not count. */
static int forked(int threads)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, open_and_fork, &threads), 0);
    pthread_join(thread, NULL);
    return threads;
}

static void children_of_one_thread_share_a_model(void **state)
{
    (void)state;
    assert_int_equal(forked(1), 0);
}

static void children_of_several_threads_get_an_error(void **state)
{
    (void)state;
    assert_int_equal(forked(2), VITRUN_USAGE * 100 + VITRUN_USAGE);
}

/* ---- locales and versions ---- */

/* A locale with a decimal comma, made here where the machine has none; false: it cannot be. */
static int use_comma(void)
{
    static const char *const known[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    char command[200], folder[] = "/tmp/vitrun_localeXXXXXX";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (setlocale(LC_ALL, known[i]))
            return 1;
    if (!mkdtemp(folder))
        return 0;
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 >/dev/null 2>&1",
             folder);
    int made = system(command) == 0;
    setenv("LOCPATH", folder, 1);
    made = made && setlocale(LC_ALL, "de_DE.UTF-8");
    unsetenv("LOCPATH");
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) == 0 && made;
}

static void a_decimal_comma_changes_nothing(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_options o;
    vitrun_options_init(&o);
    const char *set[] = {"norm_eps=0.001", "crop_pct=0.875"},
               *mask = "local_2d(distance=2.5, p=1.5)";
    o.weights = WEIGHTS;
    o.set = set, o.set_count = 2;
    o.masks = &mask, o.mask_count = 1;
    o.density_threshold = 0.25;
    vitrun_model *plain = vitrun_open(&o, &err);
    assert_non_null(plain);
    if (!use_comma()) {
        vitrun_close(plain);
        print_message("SKIPPED: no locale with a decimal comma, and localedef makes none\n");
        skip();
    }
    char text[8];
    snprintf(text, sizeof text, "%.1f", 0.5);
    assert_string_equal(text, "0,5");
    vitrun_model *m = vitrun_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    const vitrun_info *a = vitrun_info_get(plain), *b = vitrun_info_get(m);
    for (int i = 0; i < a->fact_count; i++)
        assert_string_equal(a->facts[i].value, b->facts[i].value);
    for (int i = 0; i < vitrun_layer_count(m); i++) {
        const vitrun_layer *x = vitrun_layer_at(plain, i), *y = vitrun_layer_at(m, i);
        assert_string_equal(x->mask, y->mask);
        assert_string_equal(x->reason, y->reason);
        assert_true(x->nnz == y->nnz && strchr(y->reason, '.') != NULL);
    }
    o.density_threshold = 1.5;
    is_refused(!vitrun_open(&o, &err), &err, VITRUN_USAGE, "1.5");
    snprintf(text, sizeof text, "%.1f", 0.5);
    assert_string_equal(text, "0,5"); /* the host's locale is as it was */
    setlocale(LC_ALL, "C");
    vitrun_close(m);
    vitrun_close(plain);
}

static void versions_agree(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", VITRUN_VERSION_MAJOR, VITRUN_VERSION_MINOR,
             VITRUN_VERSION_PATCH);
    assert_string_equal(text, VITRUN_VERSION);
    assert_string_equal(text, vitrun_version());
    assert_int_equal(vitrun_version_number(), VITRUN_VERSION_NUMBER);
    assert_non_null(strchr(vitrun_build_info(), ';'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_of_one_thread_share_a_model),
        cmocka_unit_test(children_of_several_threads_get_an_error),
        cmocka_unit_test(a_null_where_something_must_be_is_an_error),
        cmocka_unit_test(nothing_is_found_in_nothing),
        cmocka_unit_test(options_of_another_header_are_refused),
        cmocka_unit_test(values_out_of_range_are_refused),
        cmocka_unit_test(calls_at_the_wrong_time_are_errors),
        cmocka_unit_test(handles_may_be_closed_in_any_order),
        cmocka_unit_test(eight_threads_get_the_bits_of_one),
        cmocka_unit_test(a_cancelled_forward_stops_at_its_layer_and_the_context_goes_on),
        cmocka_unit_test(a_wish_to_stop_is_kept_until_told_or_taken_back),
        cmocka_unit_test(another_thread_cancels_what_runs),
        cmocka_unit_test(progress_goes_to_its_total),
        cmocka_unit_test(a_progress_function_stops_what_takes_long),
        cmocka_unit_test(pixels_may_lie_anyhow),
        cmocka_unit_test(a_decimal_comma_changes_nothing),
        cmocka_unit_test(versions_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
