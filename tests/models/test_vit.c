/* The buffers of the forward pass, against a device that computes nothing: whatever the number of
 * images and the parts in which they go through the model, no operand leaves its buffer,
 * and no lane its part of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "models/vit.h"

/* ---- the device: memory that nobody touches, and a look at every product ---- */

struct vt_linear {
    int in, out;
};

enum { TOKENS = 197, LANES = 3 };

static const vit_acts *acts;
static vt_stream lane[LANES];
static uintptr_t from[LANES][2], to[LANES][2]; /* what a lane has used of narrow, of wide */
static size_t fc1_products, rows_of_fc1;
static int hidden;

static void *no_memory(vt_device *dev, size_t bytes, const char *what, vt_status *st)
{
    (void)dev, (void)bytes, (void)what, (void)st;
    return (void *)((uintptr_t)1 << 40);
}

static void no_free(vt_device *dev, void *p)
{
    (void)dev, (void)p;
}

static bool fits(const vt_linear *w, int in, int out)
{
    return w->in == in && w->out == out;
}

/* From `first` on there are no more than `room` bytes until the next buffer. */
static void inside(vt_mat m, const void *first, const void *next)
{
    uintptr_t at = (uintptr_t)m.p;
    assert_true(at >= (uintptr_t)first && at + vt_mat_bytes(m) <= (uintptr_t)next);
}

/* Rows of moments for m's are in their buffer. */
static void moments_inside(const float *p, vt_mat m)
{
    const char *end = (const char *)acts->block + acts->bytes;
    inside((vt_mat){(void *)(uintptr_t)p, VT_F32, m.rows, 2 * m.cols / VT_MOMENTS}, acts->moments,
           end);
}

/* Of few rows, products in blocks normalise their input or leave moments; of many, none does. */
static void look_beside(const vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e)
{
    bool alone = !acts->want.tokens && (e.add || w->out == hidden); /* behind the attention */
    size_t rows = (size_t)s->images * (alone ? 1 : TOKENS);
    bool few = rows <= s->dev->fold_rows && s->layer >= 0;
    assert_true(few ? (e.add ? e.moments != NULL : e.norm != NULL) : !e.norm && !e.moments);
    if (e.norm) {
        moments_inside(e.norm->moments, x);
        inside(e.norm->room, acts->narrow, acts->wide);
    }
    if (e.moments)
        moments_inside(e.moments, y);
}

static bool is_lane(const vt_stream *s)
{
    return s >= lane && s < lane + LANES;
}

static void note_lane(const vt_stream *s, vt_mat m)
{
    uintptr_t at = (uintptr_t)m.p, end = at + vt_mat_bytes(m);
    if (!is_lane(s) || at < (uintptr_t)acts->narrow || at >= (uintptr_t)acts->pooled)
        return;
    size_t i = (size_t)(s - lane), wide = at >= (uintptr_t)acts->wide;
    from[i][wide] = at < from[i][wide] ? at : from[i][wide];
    to[i][wide] = end > to[i][wide] ? end : to[i][wide];
}

static void lanes_keep_apart(void)
{
    for (int i = 0; i + 1 < LANES; i++)
        for (int wide = 0; wide < 2; wide++)
            assert_true(from[i][wide] < to[i][wide] && to[i][wide] <= from[i + 1][wide]);
}

static int look(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e, vt_status *st)
{
    const char *end = (const char *)acts->block + acts->bytes;
    (void)st;
    look_beside(s, y, x, w, e);
    inside(x, acts->block, end);
    inside(y, acts->block, end);
    note_lane(s, x);
    note_lane(s, y);
    if (w->out == hidden)
        inside(y, acts->wide, acts->pooled);
    if (w->out == hidden && !is_lane(s)) {
        fc1_products++;
        rows_of_fc1 += y.rows;
    }
    return 0;
}

static int no_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan, int images,
                        vt_status *st)
{
    (void)s, (void)plan, (void)images, (void)st;
    inside(out, acts->narrow, acts->wide);
    inside(qkv, acts->wide, acts->pooled);
    return 0;
}

static const vt_backend_ops table = {.name = "nobody",
                                     .alloc = no_memory,
                                     .free = no_free,
                                     .linear_fits = fits,
                                     .prepare_linear = look,
                                     .prepare_attention = no_attention};

/* ---- a model of one block ---- */

typedef struct {
    vt_device dev;
    vit_model model;
    vit_block block;
    vt_linear patch, qkv, proj, fc1, fc2, head;
    vt_attn_plan plan;
} setup;

static void make(setup *s, bool gated, vt_dtype type, int slice_tokens, int wave_rows, int lanes)
{
    vit_config c = {.layers = 1, .heads = 12, .width = 768, .hidden = 3072};
    c.classes = 1000, c.channels = 3, c.branches = 1, c.gated_mlp = gated;
    c.img_h = c.img_w = 224, c.patch_h = c.patch_w = 16;
    c.class_token = 1;
    memset(s, 0, sizeof *s);
    s->dev = (vt_device){.ops = &table, .dtype = type, .input = type, .residual = type};
    s->dev.slice_tokens = slice_tokens, s->dev.wave_rows = wave_rows, s->dev.lanes = lanes;
    s->dev.fold_rows = type != VT_F32 ? 500 : 0;
    vit_shape(&s->model, &c, &s->dev);
    s->patch = s->proj = (vt_linear){768, 768}, s->qkv = (vt_linear){768, 2304};
    hidden = gated ? 2 * c.hidden : c.hidden; /* of fc1 */
    s->fc1 = (vt_linear){768, hidden}, s->fc2 = (vt_linear){3072, 768};
    s->head = (vt_linear){768, 1000};
    s->block = (vit_block){.qkv = &s->qkv, .proj = &s->proj, .fc1 = &s->fc1, .fc2 = &s->fc2};
    s->model.patch = &s->patch, s->model.head = &s->head, s->model.block = &s->block;
    s->plan = (vt_attn_plan){.tokens = s->model.tokens, .heads = 12, .head_dim = 64};
}

/* The most products of fc1 that a forward of up to `batch` images takes. */
static size_t run_counts(setup *s, int batch, bool tokens)
{
    vt_status st;
    vit_acts a;
    const vt_attn_plan *plans[] = {&s->plan};
    size_t most = 0;
    assert_int_equal(
        vit_acts_alloc(&a, &s->model, batch, (vit_intermediates){.tokens = tokens}, &st), 0);
    acts = &a;
    for (int count = 1; count <= batch; count++) {
        vt_stream stream = {.dev = &s->dev, .images = count, .preparing = true};
        vt_stream *lanes[LANES];
        for (int i = 0; i < LANES; i++) {
            lane[i].dev = &s->dev, lanes[i] = &lane[i];
            memset(from[i], 0xff, sizeof from[i]);
            memset(to[i], 0, sizeof to[i]);
        }
        stream.lane = s->dev.lanes ? lanes : NULL;
        fc1_products = rows_of_fc1 = 0;
        vit_forward(&stream, &s->model, &a, plans);
        if (stream.error.code != VT_OK)
            fail_msg("%s", stream.error.text);
        assert_int_equal(rows_of_fc1, (size_t)count * (tokens ? TOKENS : 1));
        most = fc1_products > most ? fc1_products : most;
        if (s->dev.lanes && count >= a.slice && a.slice >= LANES)
            lanes_keep_apart();
    }
    vit_acts_free(&a, &s->dev);
    return most;
}

static size_t run_all_counts(setup *s, int batch)
{
    run_counts(s, batch, false); /* the one block works for the class token alone */
    return run_counts(s, batch, true);
}

static void no_number_of_images_leaves_the_buffers(void **state)
{
    (void)state;
    setup s;
    size_t parts = 0;
    for (int i = 0, batch = 1; batch <= 150; i++, batch += batch < 40 ? 13 : 4) {
        bool gated = i % 2;
        make(&s, gated, VT_F32, 0, 0, 0); /* all at once */
        parts = run_all_counts(&s, batch) > parts ? run_all_counts(&s, batch) : parts;
        make(&s, gated, VT_F32, LANES * 512, 0, LANES); /* a CPU */
        run_all_counts(&s, batch);
        make(&s, gated, VT_F16, 1 << 16, 128 * 132, 0); /* an H100 */
        run_all_counts(&s, batch);
        make(&s, gated, VT_BF16, 5000, 128 * 16, 0); /* many slices */
        run_all_counts(&s, batch);
    }
    assert_true(parts > 1); /* large hidden layers do go in parts */
}

static void slices_are_as_many_images_as_the_device_likes(void **state)
{
    (void)state;
    setup s;
    make(&s, false, VT_F16, 8192, 0, 0);
    assert_int_equal(vit_slice(&s.model, 100), 8192 / TOKENS);
    assert_int_equal(vit_slice(&s.model, 5), 5);
    make(&s, false, VT_F16, 100, 0, 0);
    assert_int_equal(vit_slice(&s.model, 5), 1);
    make(&s, false, VT_F32, 0, 0, 0);
    assert_int_equal(vit_slice(&s.model, 1000), 1000);
    make(&s, false, VT_F32, 4 * 512, 0, 4); /* each of 4 lanes likes two images */
    assert_int_equal(vit_slice(&s.model, 3), 3);
    assert_int_equal(vit_slice(&s.model, 4), 4);
    assert_int_equal(vit_slice(&s.model, 7), 4);
    assert_int_equal(vit_slice(&s.model, 1000), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_number_of_images_leaves_the_buffers),
        cmocka_unit_test(slices_are_as_many_images_as_the_device_likes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
