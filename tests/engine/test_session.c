/* The handles of vitrun.h: batches, threads, memory, errors, checks. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/session.h"
#include "weights_tools/safetensors.h"

#define WEIGHTS "tests/golden/models/vit.safetensors"
#define MASKS   "tests/golden/models/masks/axial.json"
#define IMAGE   "tests/golden/models/image.png"

static vitrun_options usual(void)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.threads = 1;
    return o;
}

static vitrun_model *open_with(const vitrun_options *o)
{
    vitrun_error err;
    vitrun_model *m = vitrun_open(o, &err);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

/* Fills `images` inputs that all differ: the picture, scaled. */
static void fill(const vitrun_model *m, vitrun_context *c, int images)
{
    const vitrun_info *info = vitrun_info_get(m);
    size_t n = (size_t)(info->channels * info->image_height * info->image_width);
    vitrun_image image;
    vitrun_error err;
    float *in = vitrun_context_input(c);
    assert_int_equal(vitrun_image_load(&image, IMAGE, &err), 0);
    assert_int_equal(vitrun_preprocess(m, &image, in, &err), 0);
    vitrun_image_free(&image);
    for (int b = 1; b < images; b++)
        for (size_t i = 0; i < n; i++)
            in[(size_t)b * n + i] = in[i] * (1.0f - 0.25f * (float)b);
}

static float *forward(vitrun_context *c, const vitrun_model *m, int images)
{
    vitrun_error err;
    float *logits = calloc((size_t)(images * vitrun_info_get(m)->outputs), sizeof *logits);
    vitrun_outputs out = {.logits = logits};
    if (vitrun_forward(c, images, &out, &err))
        fail_msg("%s", err.message);
    return logits;
}

static void must_not_open(const vitrun_options *o, vitrun_code code, const char *text)
{
    vitrun_error err;
    assert_null(vitrun_open(o, &err));
    if (!strstr(err.message, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.message);
    assert_int_equal(err.code, code);
    assert_null(strchr(err.message, '\n'));
}

static void images_of_a_batch_do_not_touch_each_other(void **state)
{
    (void)state;
    vitrun_options o = usual();
    vitrun_error err;
    o.mask_config = MASKS;
    vitrun_model *m = open_with(&o);
    const vitrun_info *info = vitrun_info_get(m);
    size_t n = (size_t)(info->channels * info->image_height * info->image_width);
    vitrun_context *three = vitrun_context_open(m, 3, &err), *one = vitrun_context_open(m, 1, &err);
    fill(m, three, 3);
    float *all = forward(three, m, 3), *two = forward(three, m, 2);
    for (int b = 0; b < 3; b++) {
        memcpy(vitrun_context_input(one), vitrun_context_input(three) + (size_t)b * n,
               n * sizeof(float));
        float *alone = forward(one, m, 1);
        for (int i = 0; i < info->outputs; i++) {
            float want = alone[i];
            assert_true(fabsf(all[b * info->outputs + i] - want) < 1e-5f);
            if (b < 2)
                assert_true(fabsf(two[b * info->outputs + i] - want) < 1e-5f);
        }
        free(alone);
    }
    free(all);
    free(two);
    vitrun_context_close(one);
    vitrun_context_close(three);
    vitrun_close(m);
}

typedef struct {
    const vitrun_model *model;
    float *want;
    int different;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    vitrun_error err;
    vitrun_context *c = vitrun_context_open(w->model, 1, &err);
    fill(w->model, c, 1);
    for (int i = 0; i < 10; i++) {
        float *got = forward(c, w->model, 1);
        size_t bytes = (size_t)vitrun_info_get(w->model)->outputs * sizeof *got;
        w->different += memcmp(got, w->want, bytes) != 0;
        free(got);
    }
    vitrun_context_close(c);
    return NULL;
}

static void threads_on_one_model_get_the_same_bits_as_one_alone(void **state)
{
    (void)state;
    enum { THREADS = 6 };
    vitrun_options o = usual();
    vitrun_error err;
    o.mask_config = MASKS;
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    fill(m, c, 1);
    float *want = forward(c, m, 1);
    pthread_t thread[THREADS];
    worker w[THREADS];
    for (int i = 0; i < THREADS; i++) {
        w[i] = (worker){.model = m, .want = want};
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(w[i].different, 0);
    }
    free(want);
    vitrun_context_close(c);
    vitrun_close(m);
}

/* oneDNN, where AVX-512 makes it the faster one, sums in an order of its own for every shape. */
static void assert_same(const float *want, const float *got, size_t n)
{
    if (strcmp(vt_cpu_isa(), "avx512") != 0)
        assert_memory_equal(want, got, n * sizeof *want);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(want[i] - got[i]) < 1e-4f);
}

/* Seven images go side by side, one or more a thread, what is left together; one and two together
 * where there are more threads; all together where operations are timed. */
static void the_number_of_cpu_threads_does_not_change_a_bit(void **state)
{
    (void)state;
    enum { IMAGES = 7 };
    float *first = NULL;
    for (int threads = 1; threads <= 4; threads++) {
        vitrun_options o = usual();
        vitrun_error err;
        o.threads = threads;
        o.mask_config = MASKS;
        vitrun_model *m = open_with(&o);
        vitrun_context *c = vitrun_context_open(m, IMAGES, &err);
        size_t outputs = (size_t)vitrun_info_get(m)->outputs;
        for (int run = 0; run < 2 * IMAGES; run++) {
            int count = IMAGES - run / 2;
            fill(m, c, count);
            vitrun_profile(c, run % 2);
            float *got = forward(c, m, count);
            if (first)
                assert_same(first, got, (size_t)count * outputs);
            else
                first = got;
            if (got != first)
                free(got);
        }
        vitrun_context_close(c);
        vitrun_close(m);
    }
    free(first);
}

static void check_compares_every_kernel_on_every_masked_layer(void **state)
{
    (void)state;
    vitrun_options o = usual();
    vitrun_error err;
    o.mask_config = "tests/golden/models/masks/per_head.json";
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    fill(m, c, 1);
    vitrun_check *k = vitrun_check_run(c, 1, &err);
    assert_non_null(k);
    int want = 0;
    for (int i = 0; i < vitrun_layer_count(m); i++)
        want += strcmp(vitrun_layer_at(m, i)->mask, "dense") ? 3 : 1;
    assert_int_equal(vitrun_check_count(k), want);
    assert_true(vitrun_check_ok(k));
    for (int i = 0; i < want; i++)
        assert_true(vitrun_check_at(k, i)->allowed > 0);
    vitrun_check_free(k);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void the_profile_covers_every_layer(void **state)
{
    (void)state;
    vitrun_options o = usual();
    vitrun_error err;
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    fill(m, c, 1);
    vitrun_profile(c, 1);
    free(forward(c, m, 1));
    free(forward(c, m, 1));
    int fc1 = 0, attention = 0;
    for (int i = 0; i < vitrun_profile_count(c); i++) {
        vitrun_profile_entry e;
        vitrun_profile_at(c, i, &e);
        assert_int_equal(e.calls, 2);
        fc1 += !strcmp(e.name, "fc1");
        attention += !strcmp(e.op, "attention");
    }
    assert_int_equal(fc1, vitrun_info_get(m)->layers);
    assert_int_equal(attention, vitrun_info_get(m)->layers);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void wrong_options_name_what_they_are(void **state)
{
    (void)state;
    vitrun_options o = usual();
    o.weights = NULL;
    must_not_open(&o, VITRUN_USAGE, "--weights");
    o = usual(), o.weights = "/nonexistent/w.safetensors";
    must_not_open(&o, VITRUN_INPUT, "/nonexistent/w.safetensors");
    o = usual(), o.kernel = "flash";
    must_not_open(&o, VITRUN_USAGE, "flash");
    o = usual(), o.device = "cuda:999";
    must_not_open(&o, VITRUN_MACHINE, "cuda");
    o = usual(), o.device = "cuda:x";
    must_not_open(&o, VITRUN_USAGE, "cuda:x");
    o = usual(), o.device = "tpu";
    must_not_open(&o, VITRUN_USAGE, "tpu");
    o = usual(), o.dtype = "fp16", o.device = "cpu";
    must_not_open(&o, VITRUN_USAGE, "fp16");
    o = usual(), o.dtype = "int8";
    must_not_open(&o, VITRUN_USAGE, "int8");
    o = usual(), o.density_threshold = 1.5;
    must_not_open(&o, VITRUN_USAGE, "1.5");
    o = usual(), o.density_threshold = NAN;
    must_not_open(&o, VITRUN_USAGE, "nan");
    o = usual(), o.image_height = 63, o.image_width = 64;
    must_not_open(&o, VITRUN_USAGE, "63");
    o = usual(), o.batch = -1;
    must_not_open(&o, VITRUN_USAGE, "-1");
    o = usual(), o.size = 8;
    must_not_open(&o, VITRUN_USAGE, "size 8");
    const char *mask = "local_2d(distance=";
    o = usual(), o.masks = &mask, o.mask_count = 1;
    must_not_open(&o, VITRUN_USAGE, "local_2d");
}

static void memory_is_refused_before_it_is_taken(void **state)
{
    (void)state;
    vitrun_options o = usual();
    vitrun_error err;
    vitrun_memory plan;
    o.max_memory = 1000;
    must_not_open(&o, VITRUN_MACHINE, "--max-memory");
    o.max_memory = 0;
    vitrun_model *m = open_with(&o);
    assert_int_equal(vitrun_memory_plan(m, 1, &plan, &err), 0);
    assert_true(plan.peak_bytes >= plan.weights_bytes + plan.activations_bytes);
    vitrun_close(m);
    o.max_memory = plan.peak_bytes;
    m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    assert_non_null(c);
    vitrun_context_close(c);
    assert_null(vitrun_context_open(m, 64, &err));
    assert_int_equal(err.code, VITRUN_MACHINE);
    vitrun_close(m);
}

static void a_context_takes_no_more_images_than_it_has_room_for(void **state)
{
    (void)state;
    vitrun_options o = usual();
    vitrun_error err;
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 2, &err);
    vitrun_outputs out = {0};
    assert_int_equal(vitrun_forward(c, 3, &out, &err), -1);
    assert_int_equal(err.code, VITRUN_USAGE);
    assert_int_equal(vitrun_forward(c, 0, &out, &err), -1);
    assert_int_equal(vitrun_forward(c, 1, &out, &err), 0);
    assert_null(vitrun_context_open(m, 0, &err));
    vitrun_context_close(c);
    vitrun_close(m);
}

static void all_tokens_are_to_be_had_where_the_model_was_opened_for_them(void **state)
{
    (void)state;
    float *logits[2];
    vitrun_error err;
    vitrun_options o = usual();
    for (o.tokens = 0; o.tokens < 2; o.tokens++) {
        vitrun_model *m = open_with(&o);
        const vitrun_info *i = vitrun_info_get(m);
        vitrun_context *c = vitrun_context_open(m, 2, &err);
        float *tokens = calloc((size_t)(2 * i->tokens * i->width), sizeof *tokens);
        vitrun_outputs out = {.tokens = tokens};
        fill(m, c, 2);
        logits[o.tokens] = forward(c, m, 2);
        assert_int_equal(vitrun_forward(c, 2, &out, &err), o.tokens ? 0 : -1);
        assert_true(o.tokens || err.code == VITRUN_USAGE);
        for (int k = 0; o.tokens && k < 2 * i->outputs; k++)
            assert_true(fabsf(logits[0][k] - logits[1][k]) < 1e-5f * (1 + fabsf(logits[1][k])));
        free(tokens);
        vitrun_context_close(c);
        vitrun_close(m);
    }
    free(logits[0]), free(logits[1]);
}

/* Finite weights of 1e30 overflow on the way: the first layer where they do is named. */
static void results_that_are_not_finite_name_the_layer(void **state)
{
    (void)state;
    char path[] = "/tmp/vitrun_session_XXXXXX";
    vitrun_error err;
    vt_status st = {0};
    close(mkstemp(path));
    st_reader *r = st_open(WEIGHTS, &st);
    size_t n = st_count(r);
    st_entry *e = calloc(n, sizeof *e);
    for (size_t i = 0; i < n; i++) {
        const st_tensor *t = st_at(r, i);
        float *data = calloc(t->count, sizeof *data);
        assert_int_equal(st_read_f32(r, t, 0, t->count, data, &st), 0);
        if (!strcmp(t->name, "blocks.1.mlp.fc2.weight"))
            for (size_t k = 0; k < t->count; k++)
                data[k] = 3e38f;
        e[i] = (st_entry){.name = t->name, .dtype = ST_F32, .rank = t->rank, .data = data};
        memcpy(e[i].shape, t->shape, sizeof t->shape);
    }
    assert_int_equal(st_write(path, e, n, &st), 0);
    st_close(r);

    vitrun_options o = usual();
    const char *set[] = {"embed_dim=32", "depth=2",      "num_heads=2",   "mlp_ratio=2",
                         "img_size=64",  "patch_size=8", "num_classes=10"};
    o.weights = path, o.arch = "vision_transformer";
    o.set = set, o.set_count = (int)(sizeof set / sizeof *set);
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    vitrun_outputs out = {0};
    fill(m, c, 1);
    assert_int_equal(vitrun_forward(c, 1, &out, &err), -1);
    assert_int_equal(err.code, VITRUN_INPUT);
    assert_non_null(strstr(err.message, "layer 1, fc2"));
    vitrun_context_close(c);
    vitrun_close(m);
    for (size_t i = 0; i < n; i++)
        free((void *)e[i].data);
    free(e);
    unlink(path);
}

static void equal_masks_take_memory_once(void **state)
{
    (void)state;
    vitrun_options o = usual();
    const char *one[] = {"0: local_2d(distance=3)"};
    const char *two[] = {"0: local_2d(distance=3)", "1: local_2d(distance=3.0, p=2)"};
    vitrun_error err;
    vitrun_memory a, b;
    o.kernel = "tiles", o.masks = one, o.mask_count = 1;
    vitrun_model *m = open_with(&o);
    assert_int_equal(vitrun_memory_plan(m, 1, &a, &err), 0);
    vitrun_close(m);
    o.masks = two, o.mask_count = 2;
    m = open_with(&o);
    assert_int_equal(vitrun_memory_plan(m, 1, &b, &err), 0);
    vitrun_close(m);
    assert_true(a.masks_bytes > 0);
    assert_int_equal(a.masks_bytes, b.masks_bytes);
}

static void compare_variant(const char *weights)
{
    vitrun_error err;
    vitrun_options o = usual(), masked = usual();
    o.weights = masked.weights = weights;
    masked.mask_config = MASKS;
    vitrun_model *base = open_with(&o), *own = open_with(&masked);
    vitrun_model *variant = vitrun_variant(base, &masked, &err);
    assert_non_null(variant);
    const vitrun_model *models[] = {base, own, variant};
    float *logits[3];
    for (int i = 0; i < 3; i++) {
        vitrun_context *c = vitrun_context_open(models[i], 1, &err);
        assert_non_null(c);
        fill(models[i], c, 1);
        logits[i] = forward(c, models[i], 1);
        vitrun_context_close(c);
    }
    size_t bytes = (size_t)vitrun_info_get(base)->outputs * sizeof(float);
    assert_memory_equal(logits[1], logits[2], bytes);
    assert_memory_not_equal(logits[0], logits[2], bytes);
    assert_string_equal(vitrun_layer_at(variant, 0)->mask, vitrun_layer_at(own, 0)->mask);
    masked.masks = (const char *const[]){"axial_3d()"};
    masked.mask_count = 1;
    assert_null(vitrun_variant(base, &masked, &err));
    assert_int_equal(err.code, VITRUN_USAGE);
    for (int i = 0; i < 3; i++)
        free(logits[i]);
    vitrun_close(variant);
    vitrun_close(own);
    vitrun_close(base);
}

/* What an attention read and wrote, kept by an observer of the test's own. */
typedef struct {
    vt_mat y, qkv;
    float *out, *in;
    float *weights; /* [heads, tokens, tokens] of image 1, layer 0 */
    int tokens, calls;
} kept;

static void take_rows(void *user, const vitrun_attention_rows *r)
{
    kept *k = user;
    size_t n = (size_t)k->tokens;
    if (r->image == 1 && r->layer == 0)
        memcpy(k->weights + ((size_t)r->head * n + (size_t)r->first) * n, r->weights,
               (size_t)r->rows * n * sizeof(float));
#pragma omp atomic
    k->calls += r->rows;
}

static void keep_attention(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat qkv)
{
    kept *k = user;
    vt_status st;
    if (strcmp(name, "attention") != 0 || s->layer != 0)
        return;
    s->dev->ops->download(s->dev, k->out, y, &st);
    s->dev->ops->download(s->dev, k->in, qkv, &st);
}

/* What head h put into column e of its row `at`, and the value of key `key` there. Differential
 * attention is computed as four heads of half the size for each: two softmaxes by two halves. */
static void head_of(const kept *k, const vit_model *m, size_t h, size_t e, size_t at, size_t key,
                    double *out, double *value)
{
    size_t d = (size_t)m->head_dim, w = (size_t)m->attn_width;
    size_t column = h * (size_t)(m->head_copies) * d + e;
    *value = k->in[key * 3 * w + 2 * w + column];
    *out = k->out[at * w + column];
    if (m->cfg.differential)
        *out -= m->block[0].lambda * k->out[at * w + column + 2 * d];
}

static void check_weights(const char *weights)
{
    vitrun_error err;
    vitrun_options o = usual();
    o.weights = weights;
    o.mask_config = "tests/golden/models/masks/per_head.json";
    vitrun_model *m = open_with(&o);
    vitrun_context *c = vitrun_context_open(m, 2, &err);
    const vitrun_info *i = vitrun_info_get(m);
    size_t n = (size_t)i->tokens, d = (size_t)i->head_dim, w = (size_t)c->model->vit.attn_width;
    kept k = {.out = calloc(2 * n * w, 4),
              .in = calloc(6 * n * w, 4),
              .weights = calloc((size_t)i->heads * n * n, 4),
              .tokens = i->tokens};
    fill(m, c, 2);
    c->stream->observe = keep_attention;
    c->stream->observe_user = &k;
    float *want = forward(c, m, 2), *got = calloc(2 * (size_t)i->outputs, sizeof *got);
    c->stream->observe = NULL;
    vitrun_outputs out = {.logits = got};
    assert_int_equal(vitrun_attend(c, 2, 0, i->tokens, take_rows, &k, &out, &err), 0);
    assert_memory_equal(want, got, 2 * (size_t)i->outputs * sizeof *got);
    assert_int_equal(k.calls, 2 * i->layers * i->heads * i->tokens);
    for (size_t h = 0; h < (size_t)i->heads; h++)
        for (size_t t = 0; t < n; t++)
            for (size_t e = 0; e < d; e++) {
                double sum = 0, value, result = 0;
                for (size_t s = 0; s < n; s++) {
                    head_of(&k, &c->model->vit, h, e, n + t, n + s, &result, &value);
                    sum += k.weights[(h * n + t) * n + s] * value;
                }
                assert_true(fabs(sum - result) < 1e-5);
            }
    k.calls = 0;
    assert_int_equal(vitrun_attend(c, 1, 3, 2, take_rows, &k, NULL, &err), 0);
    assert_int_equal(k.calls, i->layers * i->heads * 2);
    assert_int_equal(vitrun_attend(c, 1, 3, i->tokens - 2, take_rows, &k, NULL, &err), -1);
    assert_int_equal(err.code, VITRUN_USAGE);
    free(k.out);
    free(k.in);
    free(k.weights);
    free(want);
    free(got);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void attention_weights_times_values_are_the_attention(void **state)
{
    (void)state;
    check_weights("tests/golden/models/vit.safetensors");
    check_weights("tests/golden/models/beit.safetensors");
    check_weights("tests/golden/models/branches.safetensors");
    check_weights("tests/golden/models/dwee.safetensors");
}

static void a_variant_gives_what_a_model_opened_so_gives(void **state)
{
    (void)state;
    compare_variant(WEIGHTS);
    compare_variant("tests/golden/models/relpos_cls.safetensors");
}

static vitrun_attention *attention_under(const char *mask)
{
    vitrun_error err;
    vitrun_attention_options o;
    vitrun_attention_options_init(&o);
    o.heads = 2, o.tokens = 65, o.head_dim = 16, o.mask = mask, o.device = "cpu";
    vitrun_attention *a = vitrun_attention_open(&o, &err);
    assert_non_null(a);
    return a;
}

/* What is shown of an attention, and that all its kernels run, is as if it were opened so. */
static void is_under(vitrun_attention *a, const char *mask)
{
    static const char *const kernels[] = {"reference", "dense", "rows", "tiles"};
    vitrun_attention *fresh = attention_under(mask);
    const vitrun_layer *x = vitrun_attention_layer(a), *y = vitrun_attention_layer(fresh);
    assert_int_equal(x->nnz, y->nnz);
    assert_string_equal(x->mask, y->mask);
    assert_string_equal(x->kernel, y->kernel);
    for (int k = 0; k < (mask ? 4 : 2); k++) {
        vitrun_error err;
        uint64_t work[2], bytes[2];
        double ms;
        assert_int_equal(vitrun_attention_run(a, kernels[k], 2, &ms, &err), 0);
        assert_int_equal(vitrun_attention_memory(a, kernels[k], &work[0], &bytes[0], &err), 0);
        assert_int_equal(vitrun_attention_memory(fresh, kernels[k], &work[1], &bytes[1], &err), 0);
        assert_true(work[0] == work[1] && bytes[0] == bytes[1]);
    }
    vitrun_attention_close(fresh);
}

static void an_attention_takes_other_masks_and_keeps_its_own_where_one_is_wrong(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_attention *a = attention_under("axial_2d()");
    is_under(a, "axial_2d()");
    assert_int_equal(vitrun_attention_set_mask(a, "local_2d(distance=2)", &err), 0);
    is_under(a, "local_2d(distance=2)");
    assert_int_equal(vitrun_attention_set_mask(a, "nonsense()", &err), -1);
    is_under(a, "local_2d(distance=2)");
    assert_int_equal(vitrun_attention_set_mask(a, NULL, &err), 0);
    is_under(a, NULL);
    assert_int_equal(vitrun_attention_set_mask(a, "axial_2d()", &err), 0);
    is_under(a, "axial_2d()");
    vitrun_attention_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_attention_takes_other_masks_and_keeps_its_own_where_one_is_wrong),
        cmocka_unit_test(attention_weights_times_values_are_the_attention),
        cmocka_unit_test(a_variant_gives_what_a_model_opened_so_gives),
        cmocka_unit_test(images_of_a_batch_do_not_touch_each_other),
        cmocka_unit_test(threads_on_one_model_get_the_same_bits_as_one_alone),
        cmocka_unit_test(the_number_of_cpu_threads_does_not_change_a_bit),
        cmocka_unit_test(check_compares_every_kernel_on_every_masked_layer),
        cmocka_unit_test(the_profile_covers_every_layer),
        cmocka_unit_test(wrong_options_name_what_they_are),
        cmocka_unit_test(memory_is_refused_before_it_is_taken),
        cmocka_unit_test(a_context_takes_no_more_images_than_it_has_room_for),
        cmocka_unit_test(all_tokens_are_to_be_had_where_the_model_was_opened_for_them),
        cmocka_unit_test(results_that_are_not_finite_name_the_layer),
        cmocka_unit_test(equal_masks_take_memory_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
