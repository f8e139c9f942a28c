/* Models on the GPU through the public interface: memory as planned, threads, forwards in two
 * steps, numbers that leave the type's range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "engine/vitrun.h"
#include "tests/support_cuda.h"

#define VIT     "tests/golden/models/vit.safetensors"
#define FASHION "samples/fashion_vit.safetensors"

static vitrun_model *open_model(const char *weights, const char *dtype, int batch, const char *set)
{
    vitrun_options o;
    vitrun_error err;
    vitrun_options_init(&o);
    o.weights = weights, o.device = "cuda", o.dtype = dtype, o.batch = batch;
    o.set = &set, o.set_count = set != NULL;
    vitrun_model *m = vitrun_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static vitrun_context *open_context(const vitrun_model *m, int batch)
{
    vitrun_error err;
    vitrun_context *c = vitrun_context_open(m, batch, &err);
    if (!c)
        fail_msg("%s", err.message);
    return c;
}

static void fill(const vitrun_model *m, vitrun_context *c, int batch, unsigned seed)
{
    const vitrun_info *i = vitrun_info_get(m);
    size_t n =
        (size_t)batch * (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
    float *x = vitrun_context_input(c);
    for (size_t k = 0; k < n; k++) {
        seed = seed * 1664525u + 1013904223u;
        x[k] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
}

static float *forward(const vitrun_model *m, vitrun_context *c, int batch)
{
    vitrun_error err;
    float *logits = calloc((size_t)batch * (size_t)vitrun_info_get(m)->outputs, sizeof *logits);
    vitrun_outputs out = {.logits = logits};
    if (vitrun_forward(c, batch, &out, &err))
        fail_msg("%s", err.message);
    return logits;
}

/* ---- memory ---- */

static size_t used_bytes(void)
{
    size_t available, all;
    assert_int_equal(cudaMemGetInfo(&available, &all), cudaSuccess);
    return all - available;
}

/* Everything once, so that what the driver takes for itself is taken. */
static void run_once(int batch)
{
    vitrun_model *m = open_model(FASHION, "fp16", batch, NULL);
    vitrun_context *c = open_context(m, batch);
    fill(m, c, batch, 1);
    free(forward(m, c, batch));
    vitrun_context_close(c);
    vitrun_close(m);
}

static void memory_is_what_was_planned_and_comes_back(void **state)
{
    (void)state;
    enum { BATCH = 64, SLACK = 8 << 20 }; /* blocks of 2 MiB, a recorded forward */
    vitrun_memory plan;
    vitrun_error err;
    need_gpu();
    run_once(BATCH);
    size_t before = used_bytes();
    vitrun_model *m = open_model(FASHION, "fp16", BATCH, NULL);
    vitrun_context *c = open_context(m, BATCH);
    fill(m, c, BATCH, 1);
    free(forward(m, c, BATCH));
    size_t used = used_bytes() - before;
    assert_int_equal(vitrun_memory_plan(m, BATCH, &plan, &err), 0);
    print_message("planned %.1f MiB, taken %.1f MiB\n", (double)plan.peak_bytes / 1048576,
                  (double)used / 1048576);
    assert_true(used <= plan.peak_bytes + SLACK);
    assert_true(used + SLACK >= plan.peak_bytes);
    vitrun_context_close(c);
    vitrun_close(m);
    assert_true(used_bytes() <= before + SLACK);
}

/* ---- threads ---- */

typedef struct {
    const vitrun_model *model;
    unsigned seed;
    float *logits[8];
} job;

static void *run_job(void *user)
{
    enum { BATCH = 3 };
    job *j = user;
    vitrun_error err;
    vitrun_context *c = vitrun_context_open(j->model, BATCH, &err);
    for (int i = 0; i < 8; i++) {
        fill(j->model, c, BATCH, j->seed + (unsigned)i);
        j->logits[i] = forward(j->model, c, BATCH);
    }
    vitrun_context_close(c);
    return NULL;
}

static void threads_give_the_same_bits_as_one(void **state)
{
    (void)state;
    enum { THREADS = 8 };
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 3, NULL);
    size_t bytes = 3 * (size_t)vitrun_info_get(m)->outputs * sizeof(float);
    job one[THREADS], many[THREADS];
    pthread_t thread[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        one[t] = many[t] = (job){.model = m, .seed = 100 * t};
        run_job(&one[t]);
    }
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&thread[t], NULL, run_job, &many[t]), 0);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(thread[t], NULL);
        for (int i = 0; i < 8; i++) {
            assert_memory_equal(one[t].logits[i], many[t].logits[i], bytes);
            free(one[t].logits[i]);
            free(many[t].logits[i]);
        }
    }
    vitrun_close(m);
}

/* ---- two steps ---- */

static void a_forward_is_submitted_once_and_waited_for_once(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_outputs none = {0};
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp32", 2, NULL);
    vitrun_context *c = open_context(m, 2);
    double ms = -1;
    assert_int_equal(vitrun_wait(c, &none, &err), -1);
    assert_int_equal(err.code, VITRUN_USAGE);
    fill(m, c, 2, 7);
    assert_int_equal(vitrun_submit(c, 2, &err), 0);
    assert_int_equal(vitrun_submit(c, 2, &err), -1);
    assert_int_equal(err.code, VITRUN_USAGE);
    assert_int_equal(vitrun_time(c, &ms, &err), -1);
    assert_int_equal(vitrun_wait(c, &none, &err), 0);
    assert_int_equal(vitrun_time(c, &ms, &err), 0);
    assert_true(ms > 0 && ms < 1000);
    assert_int_equal(vitrun_submit(c, 2, &err), 0); /* closed while it runs */
    vitrun_context_close(c);
    vitrun_close(m);
}

static void any_number_of_images_up_to_the_batch_may_run(void **state)
{
    (void)state;
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp32", 9, NULL);
    vitrun_context *c = open_context(m, 9);
    size_t outputs = (size_t)vitrun_info_get(m)->outputs;
    fill(m, c, 9, 3);
    float *all = forward(m, c, 9);
    for (int n = 1; n <= 9; n++) { /* more of them than forwards are kept recorded */
        float *some = forward(m, c, n);
        for (size_t i = 0; i < (size_t)n * outputs; i++)
            assert_true(fabsf(some[i] - all[i]) <= 1e-4f);
        free(some);
    }
    free(all);
    vitrun_context_close(c);
    vitrun_close(m);
}

/* ---- cancelling, progress, processes ---- */

typedef struct {
    int calls;
    uint64_t first, last, total;
} listener;

static int listen(void *user, const char *what, uint64_t done, uint64_t total)
{
    listener *l = user;
    assert_string_equal(what, "forward");
    l->first = l->calls++ ? l->first : done;
    l->last = done;
    l->total = total;
    return 0;
}

static void is_cancelled(int failed, const vitrun_error *err)
{
    assert_true(failed);
    assert_int_equal(err->code, VITRUN_CANCELLED);
}

/* Before it begins, while it runs, while another number of images is prepared, while it is
 * profiled. */
static void a_cancelled_forward_leaves_the_context_as_good_as_before(void **state)
{
    (void)state;
    vitrun_error err;
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 4, NULL);
    vitrun_context *c = open_context(m, 4);
    size_t bytes = 4 * (size_t)vitrun_info_get(m)->outputs * sizeof(float);
    fill(m, c, 4, 11);
    float *want = forward(m, c, 4);
    for (int how = 0; how < 4; how++) {
        vitrun_profile(c, how == 3);
        if (how != 1)
            vitrun_cancel(c, 1);
        if (how == 1) {
            assert_int_equal(vitrun_submit(c, 4, &err), 0);
            vitrun_cancel(c, 1);
            is_cancelled(vitrun_wait(c, NULL, &err), &err);
        } else
            is_cancelled(vitrun_forward(c, how == 2 ? 3 : 4, NULL, &err), &err);
        vitrun_profile(c, 0);
        float *got = forward(m, c, 4);
        assert_memory_equal(got, want, bytes);
        free(got);
    }
    free(want);
    vitrun_context_close(c);
    vitrun_close(m);
}

static int stop_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user, (void)what, (void)done, (void)total;
    return 1;
}

/* The wish comes when the forward has begun: what is recorded then must be whole all the same. */
static void what_a_cancelled_forward_has_recorded_is_whole(void **state)
{
    (void)state;
    vitrun_error err;
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 4, NULL);
    vitrun_context *c = open_context(m, 4), *fresh = open_context(m, 4);
    fill(m, c, 4, 11);
    fill(m, fresh, 4, 11);
    vitrun_context_progress(c, stop_at_once, NULL);
    is_cancelled(vitrun_forward(c, 4, NULL, &err), &err);
    vitrun_context_progress(c, NULL, NULL);
    float *got = forward(m, c, 4), *want = forward(m, fresh, 4);
    assert_memory_equal(got, want, 4 * (size_t)vitrun_info_get(m)->outputs * sizeof(float));
    free(got);
    free(want);
    vitrun_context_close(fresh);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void progress_tells_the_beginning_and_the_end(void **state)
{
    (void)state;
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 2, NULL);
    vitrun_context *c = open_context(m, 2);
    fill(m, c, 2, 11);
    for (int i = 0; i < 2; i++) { /* recorded, replayed */
        listener l = {0};
        vitrun_context_progress(c, listen, &l);
        free(forward(m, c, 2));
        assert_int_equal(l.calls, 2);
        assert_int_equal(l.first, 0);
        assert_int_equal(l.last, l.total);
        assert_int_equal(l.total, 2 * vitrun_info_get(m)->layers);
    }
    vitrun_context_close(c);
    vitrun_close(m);
}

static void a_forked_child_gets_an_error(void **state)
{
    (void)state;
    vitrun_error err;
    int status = 0;
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 1, NULL);
    vitrun_context *c = open_context(m, 1);
    fill(m, c, 1, 11);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        int failed = vitrun_forward(c, 1, NULL, &err) && err.code == VITRUN_USAGE;
        _exit(failed && !vitrun_context_open(m, 1, &err) ? 7 : 8);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    free(forward(m, c, 1));
    vitrun_context_close(c);
    vitrun_close(m);
}

/* ---- range ---- */

static void numbers_beyond_fp16_are_reported_with_their_place(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_outputs none = {0};
    need_gpu();
    vitrun_model *m = open_model(VIT, "fp16", 1, NULL);
    vitrun_context *c = open_context(m, 1);
    fill(m, c, 1, 5);
    vitrun_context_input(c)[17] = 70000; /* more than fp16 holds */
    assert_int_equal(vitrun_forward(c, 1, &none, &err), -1);
    assert_int_equal(err.code, VITRUN_INPUT);
    assert_non_null(strstr(err.message, "non-finite result (first in patches"));
    fill(m, c, 1, 5); /* and the context is as good as before */
    free(forward(m, c, 1));
    vitrun_context_close(c);
    vitrun_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_what_was_planned_and_comes_back),
        cmocka_unit_test(threads_give_the_same_bits_as_one),
        cmocka_unit_test(a_forward_is_submitted_once_and_waited_for_once),
        cmocka_unit_test(any_number_of_images_up_to_the_batch_may_run),
        cmocka_unit_test(a_cancelled_forward_leaves_the_context_as_good_as_before),
        cmocka_unit_test(what_a_cancelled_forward_has_recorded_is_whole),
        cmocka_unit_test(progress_tells_the_beginning_and_the_end),
        cmocka_unit_test(a_forked_child_gets_an_error),
        cmocka_unit_test(numbers_beyond_fp16_are_reported_with_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
