/* Eight threads use the library at once, as a program with many users would: every call's result is
 * what one thread alone gets, to the bit, and every error is the caller's own. Under ThreadSanitizer
 * (make test-tsan) this is the proof that nothing is shared that changes. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/vitrun.h"

#define MODELS "tests/golden/models/"

/* Two images go side by side in lanes, the third together: both ways use OpenMP's threads. */
enum { THREADS = 8, IMAGES = 3, ROUNDS = 3, QUERIES = 5, TEXT = 512 };

/* Of the model. */
enum { TOKENS = 65, LAYERS = 2, HEADS = 2, WIDTH = 32, CLASSES = 10 };

/* Everything that one round gives; compared as memory, hence cleared before. */
typedef struct {
    float logits[IMAGES][CLASSES], features[IMAGES][WIDTH];
    float weights; /* of some queries' attention: the sum of squares, by layer and head */
    double worst;  /* kernel's difference from the reference */
    uint64_t nnz, planned;
    char refused[2][TEXT]; /* errors */
} result;

typedef struct {
    const vitrun_model *model;
    const char *broken; /* a picture's name, the thread's own */
    const result *want; /* NULL: the first */
    result got;
    int failed, different;
    char text[TEXT];
} user;

static vitrun_options options_of(const char *const *mask, int threads)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = MODELS "vit.safetensors";
    o.masks = mask;
    o.mask_count = mask ? 1 : 0;
    o.device = "cpu";
    o.threads = threads;
    o.batch = IMAGES;
    return o;
}

static const char *const local[] = {"0: local_2d(distance=2)"};

/* The picture, and darker ones. */
static int fill(const vitrun_model *m, vitrun_context *c, vitrun_error *err)
{
    const vitrun_info *i = vitrun_info_get(m);
    size_t n = (size_t)(i->channels * i->image_height * i->image_width);
    vitrun_image image;
    float *in = vitrun_context_input(c);
    if (vitrun_image_load(&image, MODELS "image.png", err))
        return -1;
    int failed = vitrun_preprocess(m, &image, in, err);
    vitrun_image_free(&image);
    for (size_t at = 0; at < (IMAGES - 1) * n; at++)
        in[n + at] = 0.75f * in[at];
    return failed;
}

/* Blocks of queries arrive on several threads; each has a place of its own. */
typedef struct {
    float sum[LAYERS][HEADS][QUERIES];
} watched;

static void on_rows(void *arg, const vitrun_attention_rows *r)
{
    watched *w = arg;

    for (int q = 0; q < r->rows; q++)
        for (size_t k = 0; k < TOKENS; k++) {
            float x = r->weights[(size_t)q * TOKENS + k];
            w->sum[r->layer][r->head][r->first + q] += x * x;
        }
}

static int attend(vitrun_context *c, result *r, vitrun_error *err)
{
    watched w = {0};
    if (vitrun_attend(c, IMAGES, 0, QUERIES, on_rows, &w, NULL, err))
        return -1;
    for (int i = 0; i < LAYERS * HEADS; i++)
        for (int q = 0; q < QUERIES; q++)
            r->weights += w.sum[i / HEADS][i % HEADS][q];
    return 0;
}

static int check(vitrun_context *c, result *r, vitrun_error *err)
{
    vitrun_check *k = vitrun_check_run(c, IMAGES, err);
    if (!k)
        return -1;
    for (int i = 0; i < vitrun_check_count(k); i++)
        if (vitrun_check_at(k, i)->max_error > r->worst)
            r->worst = vitrun_check_at(k, i)->max_error;
    vitrun_check_free(k);
    return 0;
}

/* A mask alone, and two mistakes, whose texts must be those of this thread. */
static int others(const user *u, result *r, vitrun_error *err)
{
    vitrun_mask_options o;
    vitrun_mask_options_init(&o);
    o.grid_h = o.grid_w = 8;
    o.masks = local;
    o.mask_count = 1;
    o.threads = 2;
    vitrun_masks *masks = vitrun_masks_open(&o, err);
    if (!masks)
        return -1;
    r->nnz = (uint64_t)vitrun_masks_at(masks, 0)->nnz;
    vitrun_masks_free(masks);

    vitrun_image image;
    vitrun_error mine;
    if (!vitrun_image_decode(&image, "a text", 6, u->broken, &mine))
        return -1;
    const char *named = strstr(mine.message, u->broken); /* the rest is the same for all */
    snprintf(r->refused[0], TEXT, "%s", named ? named + strlen(u->broken) : "another's text");
    vitrun_options bad = options_of((const char *const[]){"0: locl_2d(distance=2)"}, 1);
    vitrun_model *none = vitrun_open(&bad, &mine);
    vitrun_close(none);
    snprintf(r->refused[1], TEXT, "%s", mine.message);
    return none ? -1 : 0;
}

static int round_of(const user *u, const vitrun_model *m, vitrun_context *c, result *r,
                    vitrun_error *err)
{
    vitrun_memory memory;
    vitrun_outputs out = {.logits = r->logits[0], .features = r->features[0]};
    memset(r, 0, sizeof *r);
    vitrun_profile(c, 1);
    vitrun_profile(c, 0);
    if (fill(m, c, err) || vitrun_forward(c, IMAGES, &out, err) || attend(c, r, err) ||
        check(c, r, err) || others(u, r, err) || vitrun_memory_plan(m, IMAGES, &memory, err))
        return -1;
    r->planned = memory.peak_bytes;
    return 0;
}

/* On a model that all share, and on one of its own. */
static void *use(void *arg)
{
    user *u = arg;
    vitrun_error err = {.message = "the test's own check"};
    vitrun_options o = options_of(local, 2);
    vitrun_model *own = u->model ? NULL : vitrun_open(&o, &err);
    const vitrun_model *m = u->model ? u->model : own;
    vitrun_context *c = m ? vitrun_context_open(m, IMAGES, &err) : NULL;
    u->failed = !c;
    for (int i = 0; i < ROUNDS && !u->failed; i++) {
        u->failed = round_of(u, m, c, &u->got, &err);
        u->different += u->want && memcmp(&u->got, u->want, sizeof u->got) != 0;
    }
    snprintf(u->text, sizeof u->text, "%s", err.message);
    vitrun_context_close(c);
    vitrun_close(own);
    return NULL;
}

static vitrun_model *open_shared(void)
{
    vitrun_error err;
    vitrun_options o = options_of(local, 2);
    vitrun_model *m = vitrun_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static void all_agree(const vitrun_model *model, void (*meanwhile)(const vitrun_model *))
{
    static user first;
    static user many[THREADS];
    static char name[THREADS][16];
    pthread_t thread[THREADS];
    first = (user){.model = model, .broken = "alone.png"};
    use(&first);
    if (first.failed)
        fail_msg("%s", first.text);
    for (int t = 0; t < THREADS; t++) {
        snprintf(name[t], sizeof name[t], "of%d.png", t);
        many[t] = (user){.model = model, .broken = name[t], .want = &first.got};
        assert_int_equal(pthread_create(&thread[t], NULL, use, &many[t]), 0);
    }
    if (meanwhile)
        meanwhile(model);
    for (int t = 0; t < THREADS; t++)
        pthread_join(thread[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        if (many[t].failed)
            fail_msg("thread %d: %s", t, many[t].text);
        assert_int_equal(many[t].different, 0);
    }
}

/* Variants of a model come and go while others use it. */
static void open_variants(const vitrun_model *model)
{
    static const char *const masks[] = {"swin(window_size=4)", "axial_2d()",
                                        "1: local_2d(distance=1)"};
    for (int i = 0; i < 6; i++) {
        float logits[IMAGES][CLASSES];
        vitrun_outputs out = {.logits = logits[0]};
        vitrun_error err;
        vitrun_options o = options_of(&masks[i % 3], 2);
        vitrun_model *m = vitrun_variant(model, &o, &err);
        vitrun_context *c = m ? vitrun_context_open(m, IMAGES, &err) : NULL;
        if (!c || fill(m, c, &err) || vitrun_forward(c, IMAGES, &out, &err))
            fail_msg("%s", err.message);
        vitrun_context_close(c);
        vitrun_close(m);
    }
}

static void threads_share_a_model(void **state)
{
    (void)state;
    vitrun_model *m = open_shared();
    all_agree(m, NULL);
    vitrun_close(m);
}

static void variants_come_and_go_meanwhile(void **state)
{
    (void)state;
    vitrun_model *m = open_shared();
    all_agree(m, open_variants);
    vitrun_close(m);
}

static void threads_open_models_of_their_own(void **state)
{
    (void)state;
    all_agree(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_share_a_model),
        cmocka_unit_test(variants_come_and_go_meanwhile),
        cmocka_unit_test(threads_open_models_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
