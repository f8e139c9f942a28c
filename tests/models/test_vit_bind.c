/* Which checkpoints fit which configuration: small files written here, right and wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "models/vit.h"

enum { D = 8, F = 16, ROOM = 64, VALUES = 4096 };

static char path[] = "/tmp/vitrun_bind_XXXXXX";
static float values[VALUES];

static const vit_config tiny = {.architecture = "vision_transformer",
                                .img_h = 8,
                                .img_w = 12,
                                .saved_h = 8,
                                .saved_w = 12,
                                .patch_h = 4,
                                .patch_w = 4,
                                .channels = 3,
                                .width = D,
                                .layers = 1,
                                .heads = 2,
                                .hidden = F,
                                .classes = 3,
                                .class_token = true,
                                .pos_embed = true,
                                .final_norm = true,
                                .qkv_bias = true,
                                .proj_bias = true,
                                .pool = VT_POOL_TOKEN,
                                .act = VT_ACT_GELU,
                                .branches = 1,
                                .norm_eps = 1e-6};

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < VALUES; i++)
        values[i] = (float)(i % 17 - 8) / 32;
    return close(mkstemp(path));
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

/* The tensors of `tiny`. */
static size_t tensors(st_entry e[ROOM])
{
    static const struct {
        const char *name;
        int rank;
        uint64_t shape[4];
    } all[] = {{"cls_token", 3, {1, 1, D}},
               {"pos_embed", 3, {1, 7, D}},
               {"patch_embed.proj.weight", 4, {D, 3, 4, 4}},
               {"patch_embed.proj.bias", 1, {D}},
               {"blocks.0.norm1.weight", 1, {D}},
               {"blocks.0.norm1.bias", 1, {D}},
               {"blocks.0.attn.qkv.weight", 2, {3 * D, D}},
               {"blocks.0.attn.qkv.bias", 1, {3 * D}},
               {"blocks.0.attn.proj.weight", 2, {D, D}},
               {"blocks.0.attn.proj.bias", 1, {D}},
               {"blocks.0.norm2.weight", 1, {D}},
               {"blocks.0.norm2.bias", 1, {D}},
               {"blocks.0.mlp.fc1.weight", 2, {F, D}},
               {"blocks.0.mlp.fc1.bias", 1, {F}},
               {"blocks.0.mlp.fc2.weight", 2, {D, F}},
               {"blocks.0.mlp.fc2.bias", 1, {D}},
               {"norm.weight", 1, {D}},
               {"norm.bias", 1, {D}},
               {"head.weight", 2, {3, D}},
               {"head.bias", 1, {3}}};
    size_t n = sizeof all / sizeof *all;
    for (size_t i = 0; i < n; i++) {
        e[i] = (st_entry){.name = all[i].name, .dtype = ST_F32, .rank = all[i].rank};
        memcpy(e[i].shape, all[i].shape, sizeof all[i].shape);
        e[i].data = values + i;
    }
    return n;
}

/* Writes the entries, loads them as cfg; the number of parameters, or 0 with st set. */
static uint64_t load(const st_entry *e, size_t n, const vit_config *cfg, vt_status *st)
{
    assert_int_equal(st_write(path, e, n, st), 0);
    st_reader *r = st_open(path, st);
    assert_non_null(r);
    vt_device *dev = vt_cpu_open(VT_F32, 1, st);
    assert_non_null(dev);
    vit_model m;
    uint64_t parameters = 0;
    vit_needs needs;
    if (vit_check(&needs, cfg, r, "w.safetensors", VT_F32, st) == 0 &&
        vit_load(&m, cfg, r, "w.safetensors", dev, 1, &needs, NULL, st) == 0) {
        parameters = m.parameters;
        assert_int_equal(parameters, needs.parameters);
        assert_int_equal(m.tokens, 7);
        assert_true(m.bytes >= 4 * parameters - 4 * D); /* LayerScale is folded away */
        vit_free(&m);
    }
    dev->ops->close(dev);
    st_close(r);
    return parameters;
}

static void must_fail(const st_entry *e, size_t n, const vit_config *cfg, const char *text)
{
    vt_status st = {0};
    assert_int_equal(load(e, n, cfg, &st), 0);
    assert_int_equal(st.code, VT_INPUT);
    if (!strstr(st.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, st.text);
}

static void a_fitting_checkpoint_loads(void **state)
{
    (void)state;
    st_entry e[ROOM];
    vt_status st = {0};
    size_t n = tensors(e);
    uint64_t want = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t count = 1;
        for (int r = 0; r < e[i].rank; r++)
            count *= e[i].shape[r];
        want += count;
    }
    assert_int_equal(load(e, n, &tiny, &st), want);
}

static void a_flat_patch_kernel_is_taken_too(void **state)
{
    (void)state;
    st_entry e[ROOM];
    vt_status st = {0};
    size_t n = tensors(e);
    e[2].rank = 2;
    e[2].shape[1] = 48;
    assert_true(load(e, n, &tiny, &st) > 0);
}

static void each_absent_tensor_is_named(void **state)
{
    (void)state;
    st_entry all[ROOM], e[ROOM];
    size_t n = tensors(all);
    for (size_t gone = 0; gone < n; gone++) {
        size_t k = 0;
        for (size_t i = 0; i < n; i++)
            if (i != gone)
                e[k++] = all[i];
        must_fail(e, k, &tiny, all[gone].name);
        must_fail(e, k, &tiny, "1 tensor of vision_transformer is missing");
    }
}

static size_t prefixed(st_entry *e, const char *prefix)
{
    static char names[ROOM][64];
    size_t n = tensors(e);
    for (size_t i = 0; i < n; i++) {
        snprintf(names[i], sizeof names[i], "%s%s", prefix, e[i].name);
        e[i].name = names[i];
    }
    return n;
}

static void names_of_a_wrapped_model_are_taken_as_timm_takes_them(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"module.", "_orig_mod.", "module._orig_mod.",
                                           "visual.trunk."};
    vt_status st;
    st_entry e[ROOM + 1];
    for (int p = 0; p < 4; p++)
        assert_true(load(e, prefixed(e, prefixes[p]), &tiny, &st) > 0);
    /* a tower stands beside others, a wrapped model does not */
    size_t n = prefixed(e, "visual.trunk.");
    e[n] = e[0], e[n].name = "text.token_embedding.weight";
    assert_true(load(e, n + 1, &tiny, &st) > 0);
    n = prefixed(e, "module.");
    e[n] = e[0], e[n].name = "text.token_embedding.weight";
    must_fail(e, n + 1, &tiny, "text.token_embedding.weight");
}

static void names_behind_another_prefix_are_recognised(void **state)
{
    (void)state;
    st_entry e[ROOM];
    size_t n = prefixed(e, "student.backbone.");
    must_fail(e, n, &tiny, "begin with \"student.backbone.\"");
    must_fail(e, n, &tiny, "expected \"patch_embed.proj.weight\", ");
}

static void each_wrong_shape_shows_both_sides(void **state)
{
    (void)state;
    st_entry e[ROOM];
    size_t n = tensors(e);
    for (size_t i = 0; i < n; i++) {
        uint64_t was = e[i].shape[e[i].rank - 1];
        e[i].shape[e[i].rank - 1] = was + 1;
        must_fail(e, n, &tiny, e[i].name);
        must_fail(e, n, &tiny, "expected [");
        e[i].shape[e[i].rank - 1] = was;
    }
}

static void foreign_tensors_are_refused_but_not_what_timm_drops(void **state)
{
    (void)state;
    st_entry e[ROOM];
    vt_status st = {0};
    size_t n = tensors(e);
    e[n] = (st_entry){.name = "blocks.0.attn.gate.weight",
                      .dtype = ST_F32,
                      .rank = 1,
                      .shape = {D},
                      .data = values};
    must_fail(e, n + 1, &tiny, "blocks.0.attn.gate.weight");
    e[n].name = "blocks.1.norm1.weight";
    must_fail(e, n + 1, &tiny, "blocks.1.norm1.weight");
    e[n].name = "pre_logits.fc.weight";
    assert_true(load(e, n + 1, &tiny, &st) > 0);
}

static void switches_call_for_their_tensors(void **state)
{
    (void)state;
    st_entry e[ROOM];
    size_t n = tensors(e);
    vit_config c = tiny;
    c.layer_scale = true;
    must_fail(e, n, &c, "ls1.gamma");
    c = tiny, c.qk_norm = true;
    must_fail(e, n, &c, "q_norm.weight");
    c = tiny, c.dist_token = true;
    must_fail(e, n, &c, "pos_embed");
    c = tiny, c.qkv_bias = false;
    must_fail(e, n, &c, "qkv.bias");
    c = tiny, c.fc_norm = true;
    must_fail(e, n, &c, "fc_norm.weight");
    c = tiny, c.pre_norm = true;
    must_fail(e, n, &c, "norm_pre.weight");
    c = tiny, c.classes = 0;
    must_fail(e, n, &c, "head.weight");
    c = tiny, c.no_embed_class = true;
    must_fail(e, n, &c, "pos_embed");
}

static void other_types_than_floats_are_refused(void **state)
{
    (void)state;
    st_entry e[ROOM];
    size_t n = tensors(e);
    e[4].dtype = ST_I32;
    must_fail(e, n, &tiny, "type I32");
}

static void a_weight_that_is_not_finite_is_named(void **state)
{
    (void)state;
    st_entry e[ROOM];
    float bad[3 * D * D];
    size_t n = tensors(e);
    memcpy(bad, values, sizeof bad);
    bad[77] = 1.0f / 0.0f;
    e[6].data = bad;
    must_fail(e, n, &tiny, "blocks.0.attn.qkv.weight");
    must_fail(e, n, &tiny, "77");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fitting_checkpoint_loads),
        cmocka_unit_test(a_flat_patch_kernel_is_taken_too),
        cmocka_unit_test(each_absent_tensor_is_named),
        cmocka_unit_test(names_of_a_wrapped_model_are_taken_as_timm_takes_them),
        cmocka_unit_test(names_behind_another_prefix_are_recognised),
        cmocka_unit_test(each_wrong_shape_shows_both_sides),
        cmocka_unit_test(foreign_tensors_are_refused_but_not_what_timm_drops),
        cmocka_unit_test(switches_call_for_their_tensors),
        cmocka_unit_test(other_types_than_floats_are_refused),
        cmocka_unit_test(a_weight_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
