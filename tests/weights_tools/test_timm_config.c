/* The configuration of a model: which source wins, what is worked out from it, and what is refused
 * with which text and code. Each case is a folder with weights and, where given, a config.json.
 */
#include "weights_tools/timm_config.h"
#include "weights_tools/timm_archs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/vitrun-test-XXXXXX";
static char weights[64], config_path[64], labels_path[64];

static void put_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Weights with `classes` rows in the head and `positions` in the position embedding (0: no such
 * tensor), of width 4, and `inside` (or NULL) as vitrun.config. */
static void put_weights(int classes, int positions, const char *inside)
{
    char header[4000] = "{", quoted[2000] = "";
    size_t n = 0, data = 0;
    for (const char *c = inside ? inside : ""; *c; c++)
        n += (size_t)snprintf(quoted + n, sizeof quoted - n, "%s%c", *c == '"' ? "\\" : "", *c);
    n = 1;
    if (inside)
        n += (size_t)sprintf(header + n, "\"__metadata__\":{\"vitrun.config\":\"%s\"},", quoted);
    const int rows[] = {classes, positions};
    for (int i = 0; i < 2; i++) {
        if (!rows[i])
            continue;
        size_t end = data + (size_t)rows[i] * 4;
        n += (size_t)sprintf(
            header + n, "\"%s\":{\"dtype\":\"U8\",\"shape\":[%s%d,4],\"data_offsets\":[%zu,%zu]},",
            i ? "pos_embed" : "head.weight", i ? "1," : "", rows[i], data, end);
        data = end;
    }
    header[n > 1 ? n - 1 : n] = '}';
    n = strlen(header);
    FILE *f = fopen(weights, "wb");
    for (int i = 0; i < 8; i++)
        fputc((int)(n >> 8 * i & 255), f);
    fputs(header, f);
    for (size_t i = 0; i < data; i++)
        fputc(0, f);
    fclose(f);
}

static void put_config(const char *text)
{
    if (text)
        put_text(config_path, text);
    else
        unlink(config_path);
}

static timm_config loaded;
static vt_status status;

static int try_load(const timm_options *opt)
{
    status = (vt_status){0};
    timm_config_free(&loaded);
    st_reader *r = st_open(weights, &status);
    if (!r)
        fail_msg("%s", status.text);
    int rc = timm_config_load(&loaded, weights, r, opt, &status);
    st_close(r);
    return rc;
}

static const timm_config *load(const timm_options *opt)
{
    static const timm_options none;
    if (try_load(opt ? opt : &none))
        fail_msg("%s", status.text);
    return &loaded;
}

static const timm_config *load_set(const char *set)
{
    return load(&(timm_options){.set = &set, .sets = 1});
}

static void refused(const timm_options *opt, vt_code code, const char *text)
{
    if (try_load(opt) == 0)
        fail_msg("accepted; expected: %s", text);
    if (status.code != code || !strstr(status.text, text))
        fail_msg("%d \"%s\" is not %d \"%s\"", status.code, status.text, code, text);
}

static vt_origin origin(const char *name)
{
    for (int i = 0; i < loaded.facts; i++)
        if (strcmp(loaded.fact[i].name, name) == 0)
            return loaded.fact[i].origin;
    fail_msg("no fact %s", name);
    return VT_FROM_DEFAULT;
}

static const char *value(const char *name)
{
    for (int i = 0; i < loaded.facts; i++)
        if (strcmp(loaded.fact[i].name, name) == 0)
            return loaded.fact[i].value;
    fail_msg("no fact %s", name);
    return "";
}

/* ---- sources ---- */

static void stronger_sources_win_fact_by_fact(void **state)
{
    (void)state;
    put_weights(0, 0,
                "{\"architecture\":\"vit_tiny_patch16_224\",\"num_classes\":9,"
                "\"model_args\":{\"num_heads\":4,\"depth\":5,\"norm_eps\":1e-3}}");
    put_config(
        "{\"architecture\":\"vit_tiny_patch16_224\",\"model_args\":{\"num_heads\":6,\"depth\":7}}");
    const timm_config *c = load_set("num_heads=8");
    assert_int_equal(c->vit.heads, 8);
    assert_int_equal(origin("num_heads"), VT_FROM_OPTION);
    assert_int_equal(c->vit.layers, 7);
    assert_int_equal(origin("depth"), VT_FROM_CONFIG);
    assert_true(c->vit.norm_eps == 1e-3);
    assert_int_equal(origin("norm_eps"), VT_FROM_FILE);
    assert_int_equal(c->vit.classes, 9);
    assert_int_equal(c->vit.width, 192);
    assert_int_equal(origin("embed_dim"), VT_FROM_ARCH);
    assert_int_equal(origin("architecture"), VT_FROM_CONFIG);
    assert_string_equal(value("num_heads"), "8");
    assert_string_equal(vt_origin_name(VT_FROM_CONFIG), "config.json");
}

static void a_config_is_found_beside_the_weights_or_where_told(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_tiny_patch16_224\"}");
    assert_int_equal(load(NULL)->vit.width, 192);
    char other[80];
    snprintf(other, sizeof other, "%s/other.json", dir);
    put_text(other, "{\"architecture\":\"vit_small_patch16_224\"}");
    assert_int_equal(load(&(timm_options){.config = other})->vit.width, 384);
    refused(&(timm_options){.config = "/no/such.json"}, VT_INPUT,
            "/no/such.json: cannot be opened");
    st_reader *r = st_open(weights, &status);
    timm_config_free(&loaded);
    assert_int_equal(timm_config_load(&loaded, dir, r, &(timm_options){0}, &status), 0);
    assert_int_equal(loaded.vit.width, 192);
    st_close(r);
}

static void nothing_tells_the_architecture(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config(NULL);
    refused(&(timm_options){0}, VT_USAGE, "nothing tells the architecture");
    assert_non_null(strstr(status.text, "give --arch NAME or --config FILE"));
    put_config("{\"num_classes\":3}");
    refused(&(timm_options){0}, VT_USAGE, "nothing tells the architecture");
    put_config("{\"architectures\":[\"ViTForImageClassification\"],\"hidden_size\":768}");
    refused(&(timm_options){0}, VT_INPUT, "is a configuration of transformers, not of timm");
}

static void documents_that_name_different_architectures_contradict(void **state)
{
    (void)state;
    put_weights(0, 0,
                "{\"architecture\":\"vit_tiny_patch16_224\",\"model_args\":{\"num_heads\":6}}");
    put_config("{\"architecture\":\"vit_small_patch16_224\"}");
    refused(&(timm_options){0}, VT_INPUT, "architecture is vit_small_patch16_224, but");
    assert_non_null(strstr(status.text, "says vit_tiny_patch16_224"));
    const timm_config *c = load(&(timm_options){.arch = "vit_small_patch16_224"});
    assert_int_equal(c->vit.heads, 6);
    assert_int_equal(origin("num_heads"), VT_FROM_ARCH);
    c = load(&(timm_options){.arch = "vit_base_patch16_224"});
    assert_int_equal(c->vit.heads, 12);
    assert_int_equal(origin("architecture"), VT_FROM_OPTION);
}

/* ---- architectures ---- */

static void a_name_may_be_spelled_as_on_the_hub(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"timm/vit_base_patch16_224.dino\"}");
    const timm_config *c = load(NULL);
    assert_string_equal(c->vit.architecture, "vit_base_patch16_224");
    assert_true(c->pre.mean[0] == 0.485 && c->vit.classes == 0);
    assert_int_equal(origin("mean"), VT_FROM_ARCH);
    put_config("{\"architecture\":\"hf_hub:timm/vit_base_patch16_224.mine\"}");
    refused(&(timm_options){0}, VT_INPUT, "has no known tag \"mine\"");
    put_config(
        "{\"architecture\":\"vit_base_patch16_224.mine\",\"pretrained_cfg\":{\"crop_pct\":0.5}}");
    assert_true(load(NULL)->pre.crop_pct == 0.5);
    refused(&(timm_options){.arch = "vit_base_patch16_224.mine"}, VT_USAGE, "--arch: ");
}

static void unknown_and_unsupported_architectures_are_refused(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_bse_patch16_224\"}");
    refused(&(timm_options){0}, VT_INPUT,
            "unknown architecture \"vit_bse_patch16_224\", did you mean "
            "\"vit_base_patch16_224\"?");
    refused(&(timm_options){.arch = "resnet50"}, VT_USAGE,
            "--arch: unknown architecture \"resnet50\"");
    refused(&(timm_options){.arch = "samvit_base_patch16"}, VT_USAGE,
            "not supported: windowed attention (SAM)");
    refused(&(timm_options){.arch = ""}, VT_USAGE, "not a name");
    put_config("{\"architecture\":7}");
    refused(&(timm_options){0}, VT_INPUT, "architecture: expected a string");
}

static void a_nameless_model_is_described_by_its_arguments(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vision_transformer\",\"num_classes\":10,\"model_args\":{"
               "\"img_size\":32,\"patch_size\":[2,4],\"embed_dim\":96,\"depth\":8,\"num_heads\":8,"
               "\"mlp_ratio\":3,\"qkv_bias\":false,\"norm_eps\":1e-5,\"drop_rate\":0.1}}");
    const vit_config *v = &load(NULL)->vit;
    assert_true(v->img_h == 32 && v->saved_w == 32 && v->patch_h == 2 && v->patch_w == 4);
    assert_true(v->width == 96 && v->layers == 8 && v->heads == 8 && v->hidden == 288);
    assert_true(!v->qkv_bias && v->proj_bias && v->norm_eps == 1e-5 && v->classes == 10);
    assert_true(v->class_token && v->pool == VT_POOL_TOKEN && v->final_norm && !v->fc_norm);
    assert_int_equal(origin("act"), VT_FROM_DEFAULT);
    put_config("{\"architecture\":\"vision_transformer\"}");
    v = &load(NULL)->vit;
    assert_true(v->width == 768 && v->layers == 12 && v->heads == 12 && v->hidden == 3072);
    assert_true(v->norm_eps == 1e-6 && v->act == VT_ACT_GELU && v->classes == 1000);
}

static void the_heads_of_a_nameless_model_are_not_guessed(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"embed_dim\":384}}");
    refused(&(timm_options){0}, VT_USAGE, "nothing tells num_heads");
    assert_non_null(strstr(status.text, "--set num_heads=N"));
    assert_int_equal(load_set("num_heads=6")->vit.heads, 6);
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"depth\":3}}");
    assert_int_equal(load(NULL)->vit.heads, 12); /* timm's own model, but for its depth */
    const char *set = "embed_dim=96";
    refused(&(timm_options){.set = &set, .sets = 1}, VT_USAGE, "nothing tells num_heads");
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    assert_int_equal(load_set("embed_dim=96")->vit.heads, 12); /* the architecture's */
}

static void every_argument_arrives(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config(
        "{\"architecture\":\"vision_transformer\",\"model_args\":{\"in_chans\":1,"
        "\"qk_norm\":true,\"proj_bias\":false,\"init_values\":1e-5,\"class_token\":false,"
        "\"no_embed_class\":true,\"reg_tokens\":4,\"pre_norm\":true,\"global_pool\":\"avgmax\","
        "\"pool_include_prefix\":true,\"act_layer\":\"torch.nn.GELU\",\"act\":\"quick_gelu\","
        "\"pos_embed\":\"none\",\"norm_layer\":null,\"weight_init\":\"jax\",\"img_size\":[96,64]}"
        "}");
    const vit_config *v = &load(NULL)->vit;
    assert_true(v->channels == 1 && v->qk_norm && !v->proj_bias && v->layer_scale);
    assert_true(!v->class_token && v->no_embed_class && v->reg_tokens == 4 && v->pre_norm);
    assert_true(v->pool == VT_POOL_AVGMAX && v->pool_include_prefix && !v->pos_embed);
    assert_true(v->act == VT_ACT_QUICK_GELU && v->img_h == 96 && v->img_w == 64 && v->fc_norm);
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"init_values\":null,"
               "\"act_layer\":\"gelu_tanh\",\"distilled\":true,\"attn_layer\":\"attn\",\"fc_norm\":"
               "null}}");
    v = &load(NULL)->vit;
    assert_true(!v->layer_scale && v->act == VT_ACT_GELU_TANH && v->dist_token && !v->fc_norm);
}

static void the_norm_goes_where_the_pooling_asks_for_it(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_tiny_patch16_224\",\"global_pool\":\"avg\"}");
    assert_true(load(NULL)->vit.fc_norm);
    assert_false(load_set("fc_norm=false")->vit.fc_norm);
    assert_false(load_set("final_norm=False")->vit.fc_norm);
    assert_false(load_set("global_pool=token")->vit.fc_norm);
    put_config("{\"architecture\":\"vit_base_patch16_siglip_gap_224\"}"); /* has fc_norm=False */
    assert_false(load(NULL)->vit.fc_norm);
    assert_true(load_set("fc_norm=true")->vit.fc_norm);
    assert_true(load_set("fc_norm=None")->vit.fc_norm);
}

static void hidden_is_width_times_ratio_cut(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"embed_dim\":1152,"
               "\"num_heads\":16,\"mlp_ratio\":3.7362}}");
    assert_int_equal(load(NULL)->vit.hidden, 4304);
    for (int i = 0; i < timm_arch_count; i++) {
        if (timm_archs[i].unsupported)
            continue;
        const timm_config *c = load(&(timm_options){.arch = timm_archs[i].name});
        assert_int_equal(c->vit.hidden, timm_archs[i].vit.hidden);
        assert_int_equal(c->vit.fc_norm, timm_archs[i].vit.fc_norm);
        assert_int_equal(c->pre.height, timm_archs[i].vit.img_h);
    }
}

/* ---- sizes ---- */

static void sizes_of_saving_and_running_are_kept_apart(void **state)
{
    (void)state;
    put_weights(0, 197, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    const timm_config *c = load(&(timm_options){.img_h = 320, .img_w = 160});
    assert_true(c->vit.img_h == 320 && c->vit.img_w == 160 && c->vit.saved_h == 224);
    assert_true(c->pre.height == 320 && c->pre.width == 160);
    assert_int_equal(origin("img_size"), VT_FROM_OPTION);
    refused(&(timm_options){.img_h = 230, .img_w = 224}, VT_USAGE,
            "image size 230 is no multiple of the patch size 16");
    refused(&(timm_options){.img_h = 224, .img_w = 8}, VT_USAGE, "image size 8 is no multiple");
    refused(&(timm_options){.img_h = 160000, .img_w = 16}, VT_USAGE, "out of range");
    c = load(&(timm_options){.arch = "vit_so400m_patch14_siglip_gap_384"}); /* 384 = 27 * 14 + 6 */
    assert_int_equal(c->vit.img_h, 384);
}

static void sizes_that_make_too_many_tokens_are_refused(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"img_size\":65536,"
               "\"patch_size\":1}}");
    refused(&(timm_options){0}, VT_INPUT,
            "config.json: image size 65536x65536 makes more than 1048576 tokens");
    refused(&(timm_options){.img_h = 32, .img_w = 32}, VT_INPUT,
            "config.json: saved image size 65536x65536 makes more than 1048576 tokens");
    put_config("{\"architecture\":\"vision_transformer\",\"model_args\":{\"img_size\":32,"
               "\"patch_size\":1}}");
    refused(&(timm_options){.img_h = 1024, .img_w = 1024}, VT_USAGE, /* and the class token */
            "image size 1024x1024 makes more than 1048576 tokens");
    assert_int_equal(load(&(timm_options){.img_h = 1024, .img_w = 1023})->vit.img_w, 1023);
}

static void input_size_counts_where_the_model_was_built_for_it(void **state)
{
    (void)state;
#define INPUT(more)                                                                                \
    "{\"architecture\":\"vit_base_patch16_224\",\"pretrained_cfg\":{\"input_size\":[3,384,"        \
    "384]" more "}}"
    put_weights(0, 197, NULL);
    put_config(INPUT(",\"fixed_input_size\":true"));
    const vit_config *v = &load(NULL)->vit;
    assert_true(v->saved_h == 384 && v->img_h == 384);
    put_config(INPUT("")); /* timm builds it at 224 and resamples */
    v = &load(NULL)->vit;
    assert_true(v->saved_h == 224 && v->img_h == 384);
    put_weights(0, 577, NULL); /* but the tensor has 24 * 24 + 1 positions */
    v = &load(NULL)->vit;
    assert_true(v->saved_h == 384 && v->img_h == 384);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"pretrained_cfg\":{\"input_size\":[3,"
               "384,384]},"
               "\"model_args\":{\"img_size\":224}}");
    v = &load(NULL)->vit;
    assert_true(v->saved_h == 224 && v->img_h == 224);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"pretrained_cfg\":{\"input_size\":[3,"
               "384,384]},"
               "\"model_args\":{\"img_size\":224,\"dynamic_img_size\":true}}");
    v = &load(NULL)->vit;
    assert_true(v->saved_h == 224 && v->img_h == 384);
}

/* ---- preprocessing ---- */

static void a_silent_pretrained_cfg_means_timms_defaults(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}"); /* none: the default tag's */
    const vt_preprocess *p = &load(NULL)->pre;
    assert_true(p->crop_pct == 0.9 && p->mean[0] == 0.5);
    put_config(
        "{\"architecture\":\"vit_base_patch16_224\",\"pretrained_cfg\":{\"num_classes\":5}}");
    p = &load(NULL)->pre;
    assert_true(p->crop_pct == 0.875 && p->mean[0] == 0.485 && p->std[2] == 0.225);
    assert_true(p->interpolation == VT_INTERP_BICUBIC && p->crop_mode == VT_CROP_CENTER);
    assert_int_equal(origin("mean"), VT_FROM_DEFAULT);
    assert_int_equal(loaded.vit.classes, 5);
}

static void a_null_pretrained_cfg_is_none(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"pretrained_cfg\":null}");
    assert_true(load(NULL)->pre.crop_pct == 0.9);
    assert_int_equal(origin("mean"), VT_FROM_ARCH);
    put_config("{\"architecture\":\"vit_base_patch16_224.mine\",\"pretrained_cfg\":null}");
    refused(&(timm_options){0}, VT_INPUT, "has no known tag \"mine\"");
}

static void preprocessing_is_read_in_both_layouts(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config(
        "{\"architecture\":\"vit_base_patch16_224\",\"num_classes\":7,\"pretrained_cfg\":{"
        "\"num_classes\":5,\"crop_pct\":1,\"crop_mode\":\"squash\",\"interpolation\":\"bilinear\","
        "\"mean\":[0,0,0],\"std\":[1,1,1],\"pool_size\":null,\"classifier\":\"head\",\"tag\":\"x\"}"
        "}");
    const timm_config *c = load(NULL);
    assert_true(c->pre.crop_pct == 1 && c->pre.crop_mode == VT_CROP_SQUASH && c->vit.classes == 7);
    assert_true(c->pre.interpolation == VT_INTERP_BILINEAR && c->pre.std[1] == 1);
    assert_int_equal(origin("std"), VT_FROM_CONFIG);
    put_config(
        "{\"architecture\":\"vit_base_patch16_224\",\"num_classes\":7,\"crop_pct\":0.95,"
        "\"mean\":[0.1,0.2,0.3],\"first_conv\":\"patch_embed.proj\",\"some_tool\":1,\"tags\":[]}");
    c = load(NULL);
    assert_true(c->pre.crop_pct == 0.95 && c->pre.mean[2] == 0.3 && c->pre.std[0] == 0.229);
}

static void set_takes_the_usual_spellings(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    assert_true(load_set("mean=0.1,0.2,0.3")->pre.mean[1] == 0.2);
    assert_true(load_set("mean=[0.1,0.2,0.3]")->pre.mean[2] == 0.3);
    assert_true(load_set("std=0.5")->pre.std[2] == 0.5);
    assert_true(load_set("img_size=64x32")->vit.img_w == 32);
    assert_true(load_set("img_size=[64,32]")->vit.saved_h == 64);
    assert_true(load_set("crop_mode=squash")->pre.crop_mode == VT_CROP_SQUASH);
    assert_true(load_set("act=\"gelu_tanh\"")->vit.act == VT_ACT_GELU_TANH);
    assert_false(load_set("qkv_bias=False")->vit.qkv_bias);
    assert_true(load_set("init_values=1e-5")->vit.layer_scale);
    assert_true(load_set("norm_eps=1e-5")->vit.norm_eps == 1e-5);
    static const char *const two[] = {"depth=3", "depth=4"};
    assert_int_equal(load(&(timm_options){.set = two, .sets = 2})->vit.layers, 4);
}

static void bad_settings_are_usage_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"num_head=3", "--set num_head=3: unknown key \"num_head\" (did you mean \"num_heads\"?)"},
        {"nonsense=3", "unknown key \"nonsense\""},
        {"num_heads", "--set num_heads: expected KEY=VALUE"},
        {"=3", "expected KEY=VALUE"},
        {"num_heads=", "num_heads: expected an integer from 1 to 1024, found \"\""},
        {"num_heads=4.0", "found 4.0"},
        {"num_heads=0", "found 0"},
        {"num_heads=99999999999999999999", "expected an integer from 1 to 1024"},
        {"num_heads=5", "embed_dim 768 is no multiple of num_heads 5"},
        {"qkv_bias=1", "qkv_bias: expected true or false, found 1"},
        {"norm_eps=-1", "norm_eps: expected a positive number, found -1"},
        {"norm_eps=nan", "norm_eps: expected a positive number, found \"nan\""},
        {"crop_pct=0", "crop_pct: expected a number from 0.01 to 10, found 0"},
        {"mean=1,2", "mean: expected three numbers, found [1,2]"},
        {"std=0,1,1", "std: expected three positive numbers"},
        {"crop_mode=middle", "expected \"center\", \"squash\", \"border\", found \"middle\""},
        {"interpolation=lanczos", "expected \"bicubic\", \"bilinear\", found \"lanczos\""},
        {"global_pool=prr", "pooling by self-attention (\"prr\") is not supported"},
        {"global_pool=", "expected \"token\", \"avg\", \"max\", \"avgmax\", \"map\", found \"\""},
        {"act=relu", "act: expected an activation that is supported"},
        {"act=silu", "activation silu needs a gated MLP"},
        {"norm_layer=batchnorm", "expected a norm that is supported"},
        {"mlp_layer=timm.layers.ConvMlp", "expected an MLP that is supported"},
        {"attn_layer=linear", "attention linear is not supported"},
        {"gated_attn=true", "gated attention is not supported"},
        {"block_fn=HaloBlock", "block halobloc"},
        {"rope_type=mrope", "expected \"none\", \"\", \"cat\", \"mixed\", \"dinov3\""},
        {"rope_grid_indexing=yx", "expected \"ij\", \"xy\""},
        {"attn_pool_num_heads=0", "expected an integer from 1 to 1024"},
        {"ref_feat_shape=0", "expected a size in pixels"},
        {"in_chans=4", "in_chans is 4: images of 1 or 3 channels are supported"},
        {"mlp_ratio=60000", "mlp_ratio gives an MLP of"},
        {"mlp_ratio=0.0001", "mlp_ratio gives an MLP of 0 hidden units"},
        {"class_token=false", "global_pool \"token\" needs a class token"},
        {"distilled=true", NULL},
        {"reg_tokens=-1", "expected an integer from 0 to 1024, found -1"},
        {"patch_size=0", "expected a size in pixels, N or [H, W], found 0"},
        {"patch_size=1x2x3", "expected a size in pixels"},
        {"patch_size=512", "image size 224 is smaller than a patch of 512"},
        {"input_size=3,224", "expected [channels, height, width], found [3,224]"},
        {"img_size=100", "image size 100 is no multiple of the patch size 16"},
    };
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *set = cases[i][0];
        if (cases[i][1])
            refused(&(timm_options){.set = &set, .sets = 1}, VT_USAGE, cases[i][1]);
        else
            load_set(set);
    }
    static const char *const both[] = {"distilled=true", "global_pool=avg"};
    refused(&(timm_options){.set = both, .sets = 2}, VT_USAGE,
            "a distilled model has a class token");
}

static void bad_documents_are_input_errors_that_say_where(void **state)
{
    (void)state;
#define ARCH "{\"architecture\":\"vit_base_patch16_224\","
    static const char *const cases[][2] = {
        {"", "not valid JSON"},
        {"[]", "expected a JSON object"},
        {"{\"architecture\":\n \"vit_base_patch16_224\",}", "(line 2, column"},
        {ARCH "\"num_classes\":1,\"num_classes\":2}", "not valid JSON: duplicate object key"},
        {ARCH "\"num_classes\":1e999}", "not valid JSON: real number overflow"},
        {ARCH "\"num_classes\":\"10\"}",
         "num_classes: expected an integer from 0 to 10000000, found \"10\""},
        {ARCH "\"model_args\":[]}", "model_args: expected an object, found []"},
        {ARCH "\"model_args\":{\"num_head\":3}}",
         "model_args: unknown key \"num_head\" (did you mean \"num_heads\"?)"},
        {ARCH "\"model_args\":{\"zzzzzzzz\":3}}", "model_args: unknown key \"zzzzzzzz\""},
        {ARCH "\"model_args\":{\"depth\":null}}",
         "model_args.depth: expected an integer from 1 to 1024, found null"},
        {ARCH "\"model_args\":{\"img_size\":[1,2,3]}}", "model_args.img_size: expected a size"},
        {ARCH "\"model_args\":{\"num_heads\":7}}", "embed_dim 768 is no multiple of num_heads 7"},
        {ARCH "\"model_arg\":{}}", "unknown key \"model_arg\" (did you mean \"model_args\"?)"},
        {ARCH "\"num_heads\":6}", "key \"num_heads\" belongs into model_args"},
        {ARCH "\"pretrained_cfg\":[]}", "pretrained_cfg: expected an object"},
        {ARCH "\"pretrained_cfg\":{\"crop_pt\":1}}",
         "pretrained_cfg: unknown key \"crop_pt\" (did you mean \"crop_pct\"?)"},
        {ARCH "\"pretrained_cfg\":{\"mean\":[1,2]}}",
         "pretrained_cfg.mean: expected three numbers, found [1,2]"},
        {ARCH "\"label_names\":[\"a\",2]}", "label_names: expected a list of strings, found 2"},
        {ARCH "\"label_names\":[\"a\",\"b\"]}", "2 class names, but the model has 1000 classes"},
    };
    put_weights(0, 0, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_config(cases[i][0]);
        refused(&(timm_options){0}, VT_INPUT, cases[i][1]);
        assert_non_null(strstr(status.text, "config.json: "));
    }
    put_config(NULL);
    put_weights(0, 0, ARCH "\"model_args\":{\"depth\":0}}");
    refused(&(timm_options){0}, VT_INPUT, "metadata vitrun.config: model_args.depth: expected");
    put_weights(0, 0, "{");
    refused(&(timm_options){0}, VT_INPUT, "metadata vitrun.config: not valid JSON");
}

/* ---- classes and their names ---- */

static void the_head_tells_the_number_of_classes_where_nobody_does(void **state)
{
    (void)state;
    put_weights(21, 0, NULL);
    put_config(NULL);
    const timm_config *c = load(&(timm_options){.arch = "vit_base_patch16_224"});
    assert_int_equal(c->vit.classes, 21);
    assert_int_equal(origin("num_classes"), VT_FROM_SHAPES);
    assert_null(c->label);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"num_classes\":22}");
    assert_int_equal(load(NULL)->vit.classes, 22); /* a contradiction: binding says so */
}

static void names_come_from_option_document_or_imagenet(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    const timm_config *c = load(NULL);
    assert_int_equal(c->labels, 1000);
    assert_string_equal(c->label[281], "tabby");
    assert_int_equal(origin("label_names"), VT_FROM_DEFAULT);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"num_classes\":2,"
               "\"label_names\":[\"caf\\u00e9\",\"\"]}");
    c = load(NULL);
    assert_int_equal(c->labels, 2);
    assert_string_equal(c->label[0], "caf\xc3\xa9");
    assert_string_equal(c->label[1], "");
    assert_int_equal(origin("label_names"), VT_FROM_CONFIG);
    put_text(labels_path, "one\r\ntwo");
    c = load(&(timm_options){.labels = labels_path});
    assert_string_equal(c->label[0], "one");
    assert_string_equal(c->label[1], "two");
    assert_int_equal(origin("label_names"), VT_FROM_OPTION);
    put_text(labels_path, "one\ntwo\n");
    assert_string_equal(load(&(timm_options){.labels = labels_path})->label[1], "two");
    put_text(labels_path, "\xef\xbb\xbfone\ntwo\n"); /* with a byte order mark */
    assert_string_equal(load(&(timm_options){.labels = labels_path})->label[0], "one");
}

static void label_files_must_fit(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\",\"num_classes\":2}");
    timm_options opt = {.labels = labels_path};
    static const char *const bad[] = {"", "one", "one\ntwo\n\n", "one\ntwo\nthree"};
    for (size_t i = 0; i < 4; i++) {
        put_text(labels_path, bad[i]);
        refused(&opt, VT_INPUT, "class names, but the model has 2 classes (config.json)");
    }
    put_text(labels_path, "one\n\xff\n");
    refused(&opt, VT_INPUT, "not text in UTF-8 (line 2)");
    opt.labels = dir;
    refused(&opt, VT_INPUT, "is a folder");
}

static void the_card_lists_every_fact(void **state)
{
    (void)state;
    put_weights(0, 0, NULL);
    put_config("{\"architecture\":\"vit_base_patch16_224\"}");
    load(NULL);
    for (int i = 0; i < loaded.facts; i++)
        assert_true(*loaded.fact[i].name && *loaded.fact[i].value);
    assert_string_equal(value("architecture"), "vit_base_patch16_224");
    assert_string_equal(value("img_size"), "224x224");
    assert_string_equal(value("mlp_hidden"), "3072");
    assert_string_equal(value("qkv_bias"), "yes");
    assert_string_equal(value("global_pool"), "token");
    assert_string_equal(value("act"), "gelu");
    assert_string_equal(value("norm_eps"), "1e-06");
    assert_string_equal(value("interpolation"), "bicubic");
    assert_string_equal(value("crop_pct"), "0.9");
    assert_string_equal(value("mean"), "0.5, 0.5, 0.5");
}

static void near_names_are_suggested_and_far_ones_are_not(void **state)
{
    (void)state;
    static const char *const names[] = {"depth", "embed_dim", "norm_eps", "std", NULL};
    assert_string_equal(vt_nearest("dpeth", names), "depth");
    assert_string_equal(vt_nearest("embeddim", names), "embed_dim");
    assert_string_equal(vt_nearest("norm_epss", names), "norm_eps");
    assert_string_equal(vt_nearest("st", names), "std");
    assert_null(vt_nearest("width", names));
    assert_null(vt_nearest("", names));
    assert_null(vt_nearest("ab", names));
    char longest[200];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_null(vt_nearest(longest, names));
}

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
    snprintf(config_path, sizeof config_path, "%s/config.json", dir);
    snprintf(labels_path, sizeof labels_path, "%s/labels.txt", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    timm_config_free(&loaded);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stronger_sources_win_fact_by_fact),
        cmocka_unit_test(a_config_is_found_beside_the_weights_or_where_told),
        cmocka_unit_test(nothing_tells_the_architecture),
        cmocka_unit_test(documents_that_name_different_architectures_contradict),
        cmocka_unit_test(a_name_may_be_spelled_as_on_the_hub),
        cmocka_unit_test(unknown_and_unsupported_architectures_are_refused),
        cmocka_unit_test(a_nameless_model_is_described_by_its_arguments),
        cmocka_unit_test(the_heads_of_a_nameless_model_are_not_guessed),
        cmocka_unit_test(every_argument_arrives),
        cmocka_unit_test(the_norm_goes_where_the_pooling_asks_for_it),
        cmocka_unit_test(hidden_is_width_times_ratio_cut),
        cmocka_unit_test(sizes_of_saving_and_running_are_kept_apart),
        cmocka_unit_test(sizes_that_make_too_many_tokens_are_refused),
        cmocka_unit_test(input_size_counts_where_the_model_was_built_for_it),
        cmocka_unit_test(a_silent_pretrained_cfg_means_timms_defaults),
        cmocka_unit_test(a_null_pretrained_cfg_is_none),
        cmocka_unit_test(preprocessing_is_read_in_both_layouts),
        cmocka_unit_test(set_takes_the_usual_spellings),
        cmocka_unit_test(bad_settings_are_usage_errors),
        cmocka_unit_test(bad_documents_are_input_errors_that_say_where),
        cmocka_unit_test(the_head_tells_the_number_of_classes_where_nobody_does),
        cmocka_unit_test(names_come_from_option_document_or_imagenet),
        cmocka_unit_test(label_files_must_fit),
        cmocka_unit_test(the_card_lists_every_fact),
        cmocka_unit_test(near_names_are_suggested_and_far_ones_are_not),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
