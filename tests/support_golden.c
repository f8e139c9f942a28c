/* The golden files of models against vitrun: see support_golden.h. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "engine/vitrun.h"
#include "tests/support_golden.h"

#define FOLDER "tests/golden/models/"

/* The largest relative difference seen by the test in progress, for its last line. */
static double worst;

static void within(const char *what, json_t *want, const float *got, size_t n, double tolerance)
{
    double largest = 0, error = 0;
    assert_int_equal(json_array_size(want), n);
    for (size_t i = 0; i < n; i++) {
        double w = json_real_value(json_array_get(want, i)), e = fabs(w - got[i]);
        largest = fmax(largest, fabs(w));
        error = !(e <= error) ? e : error;
    }
    worst = fmax(worst, error / largest);
    if (!(error <= tolerance * largest))
        fail_msg("%s: off by %g of the largest value (allowed %g)", what, error / largest,
                 tolerance);
}

/* What is asked of a forward beside logits and features. */
typedef enum {
    NOTHING,
    ALL,       /* tokens, and the outputs of all blocks, where the file has them */
    ALL_NORMED /* these under the final norm */
} asked;

static vitrun_model *open_case(const char *weights, json_t *c, const golden_variant *v, asked what)
{
    char path[512], mask_path[512];
    vitrun_options o;
    vitrun_error err;
    vitrun_options_init(&o);
    snprintf(path, sizeof path, FOLDER "%s", weights);
    o.weights = path;
    o.device = v->device;
    o.dtype = v->dtype;
    o.threads = 1;
    o.intermediates = what && json_object_get(c, "intermediates") ? "all" : NULL;
    o.intermediate_norm = what == ALL_NORMED;
    o.tokens = what != NOTHING;
    json_t *masks = json_object_get(c, "masks"), *size = json_object_get(c, "img_size");
    if (json_is_string(masks)) {
        snprintf(mask_path, sizeof mask_path, FOLDER "%s", json_string_value(masks));
        o.mask_config = mask_path;
        o.kernel = v->kernel;
    }
    if (json_is_array(size)) {
        o.image_height = (int)json_integer_value(json_array_get(size, 0));
        o.image_width = (int)json_integer_value(json_array_get(size, 1));
    }
    vitrun_model *m = vitrun_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

/* Allowed pairs of each layer and head as the file says. */
static void check_pairs(const vitrun_model *m, json_t *pairs)
{
    for (int i = 0; i < vitrun_layer_count(m); i++) {
        const vitrun_layer *l = vitrun_layer_at(m, i);
        int head = atoi(l->heads);
        json_t *layer = json_array_get(pairs, (size_t)l->layer);
        assert_int_equal(json_integer_value(json_array_get(layer, (size_t)head)), l->nnz);
    }
}

static void check_tokens(const vitrun_info *info, json_t *c, const float *tokens,
                         const float *features, double tolerance)
{
    json_t *want = json_object_get(c, "tokens"), *pooled = json_object_get(c, "pooled");
    for (size_t t = 0; tokens && t < json_array_size(want); t++)
        within("tokens", json_array_get(want, t), tokens + t * (size_t)info->width,
               (size_t)info->width, 10 * tolerance);
    if (pooled)
        within("pooled", pooled, features, (size_t)info->width, tolerance);
}

/* The first and the last token of each block. */
static void check_intermediates(const vitrun_info *info, json_t *blocks, const float *got,
                                double tolerance)
{
    size_t width = (size_t)info->width, tokens = (size_t)info->tokens, i;
    json_t *block;
    assert_int_equal(json_array_size(blocks), info->intermediate_count);
    json_array_foreach(blocks, i, block)
    {
        const float *first = got + i * tokens * width;
        within("a block's first token", json_array_get(block, 0), first, width, 10 * tolerance);
        within("a block's last token", json_array_get(block, 1), first + (tokens - 1) * width,
               width, 10 * tolerance);
    }
}

static void run_case(const char *weights, const vitrun_image *image, json_t *c,
                     const golden_variant *v, asked what)
{
    vitrun_error err;
    vitrun_model *m = open_case(weights, c, v, what);
    const vitrun_info *info = vitrun_info_get(m);
    vitrun_context *context = vitrun_context_open(m, 1, &err);
    float *logits = calloc((size_t)info->outputs, sizeof *logits);
    float *features = calloc((size_t)info->width, sizeof *features);
    float *tokens =
        what ? calloc((size_t)info->tokens * (size_t)info->width, sizeof *tokens) : NULL;
    json_t *blocks = what == NOTHING ? NULL
                     : what == ALL   ? json_object_get(c, "intermediates")
                                     : json_object_get(c, "intermediates_norm");
    float *between =
        blocks
            ? calloc((size_t)info->intermediate_count * (size_t)info->tokens * (size_t)info->width,
                     sizeof *between)
            : NULL;
    vitrun_outputs out = {
        .logits = logits, .features = features, .tokens = tokens, .intermediates = between};
    char name[600];

    if (!context)
        fail_msg("%s", err.message);
    check_pairs(m, json_object_get(c, "pairs"));
    assert_int_equal(vitrun_preprocess(m, image, vitrun_context_input(context), &err), 0);
    if (vitrun_forward(context, 1, &out, &err))
        fail_msg("%s", err.message);
    const char *masks = json_string_value(json_object_get(c, "masks"));
    snprintf(name, sizeof name, "%s, masks %s, kernel %s, %s %s", weights, masks ? masks : "none",
             v->kernel ? v->kernel : "auto", v->device, v->dtype);
    within(name, json_object_get(c, "logits"), logits, (size_t)info->outputs, v->tolerance);
    check_tokens(info, c, tokens, features, v->tolerance);
    if (blocks)
        check_intermediates(info, blocks, between, v->tolerance);
    free(between);
    free(logits);
    free(features);
    free(tokens);
    vitrun_context_close(context);
    vitrun_close(m);
}

static int run_file(const char *name, const golden_variant *v)
{
    char path[512];
    json_error_t e;
    snprintf(path, sizeof path, FOLDER "%s", name);
    json_t *file = json_load_file(path, 0, &e);
    assert_non_null(file);
    vitrun_image image;
    vitrun_error err;
    snprintf(path, sizeof path, FOLDER "%s", json_string_value(json_object_get(file, "image")));
    assert_int_equal(vitrun_image_load(&image, path, &err), 0);
    json_t *cases = json_object_get(file, "cases"), *c;
    size_t i;
    json_array_foreach(cases, i, c)
    {
        const char *weights = json_string_value(json_object_get(file, "weights"));
        run_case(weights, &image, c, v, NOTHING);
        run_case(weights, &image, c, v, ALL);
        if (json_object_get(c, "intermediates_norm"))
            run_case(weights, &image, c, v, ALL_NORMED);
    }
    int n = (int)json_array_size(cases);
    vitrun_image_free(&image);
    json_decref(file);
    return n;
}

void golden_run_all(const golden_variant *v)
{
    DIR *d = opendir(FOLDER);
    struct dirent *e;
    int cases = 0;
    worst = 0;
    assert_non_null(d);
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name);
        if (n > 5 && !strcmp(e->d_name + n - 5, ".json"))
            cases += run_file(e->d_name, v);
    }
    closedir(d);
    assert_true(cases > 400);
    print_message("%d cases, worst relative difference %.2g\n", cases, worst);
}
