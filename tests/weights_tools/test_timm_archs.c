/* The built-in architecture table: complete, sorted, and true where rules of thumb fail. */
#include "weights_tools/timm_archs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const vit_config *vit(const char *name)
{
    const timm_arch *a = timm_arch_find(name);
    if (!a || a->unsupported)
        fail_msg("%s does not run", name);
    return &a->vit;
}

static void rows_are_sorted_and_found(void **state)
{
    (void)state;
    assert_int_equal(timm_arch_count, 297);
    for (int i = 0; i < timm_arch_count; i++) {
        assert_true(i == 0 || strcmp(timm_archs[i - 1].name, timm_archs[i].name) < 0);
        assert_ptr_equal(timm_arch_find(timm_archs[i].name), timm_archs + i);
    }
    assert_null(timm_arch_find("vit_base_patch16"));
    assert_null(timm_arch_find(""));
    assert_null(timm_tag_find("vit_base_patch16_224", "no_such_tag"));
}

/* All 448 tags that timm's plain ViT, DeiT, EVA, BEiT and relative-position modules had when this goal
 * was set, and the 17 of later releases. */
static void every_tag_of_a_plain_vit_runs(void **state)
{
    (void)state;
    int later = 0;
    for (int i = 0; i < timm_tag_count; i++) {
        const timm_tag *t = timm_tags + i;
        assert_true(i == 0 || strcmp(timm_tags[i - 1].arch, t->arch) < 0 ||
                    (strcmp(timm_tags[i - 1].arch, t->arch) == 0 &&
                     strcmp(timm_tags[i - 1].tag, t->tag) < 0));
        assert_ptr_equal(timm_tag_find(t->arch, t->tag), t);
        later += strstr(t->arch, "radio") || strstr(t->arch, "sapiens2") ||
                 strstr(t->arch, "lingbot") || strcmp(t->tag, "bamboo") == 0 ||
                 strcmp(t->arch, "test_vit_relpos") == 0;
    }
    assert_int_equal(timm_tag_count - later, 448);
}

static void every_row_is_a_model_that_can_be(void **state)
{
    (void)state;
    int run = 0;
    for (int i = 0; i < timm_arch_count; i++) {
        const timm_arch *a = timm_archs + i;
        const vit_config *v = &a->vit;
        assert_true(a->default_tag != NULL);
        if (a->unsupported) {
            assert_true(strlen(a->unsupported) > 4);
            continue;
        }
        run++;
        assert_string_equal(v->architecture, a->name);
        assert_true(v->layers > 0 && v->heads > 0 && v->width % v->heads == 0);
        assert_true(v->hidden > 0 && v->classes >= 0 && v->channels == 3);
        assert_true(v->class_token || v->pool != VT_POOL_TOKEN);
        assert_true(v->final_norm || !v->fc_norm);
        assert_true((v->act == VT_ACT_NONE) == v->gated_mlp);
        assert_true((v->pool == VT_POOL_MAP) == (v->pool_heads > 0) && v->branches >= 1);
        assert_true(v->rope == VIT_ROPE_NONE || v->width / v->heads % 4 == 0);
        assert_true(v->rope == VIT_ROPE_NONE || v->rope == VIT_ROPE_MIXED ||
                    v->rope_temperature > 1);
        assert_true(v->norm_eps == 1e-6 || v->norm_eps == 1e-5);
        const timm_tag *t = timm_tag_find(a->name, a->default_tag);
        assert_non_null(t);
        assert_int_equal(t->pre.height, v->img_h);
        assert_int_equal(t->pre.width, v->img_w);
        assert_int_equal(t->classes, v->classes);
    }
    assert_int_equal(run, 265);
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"vit_base_r50_s16_224", "hybrid"},
        {"samvit_base_patch16", "windowed attention"},
        {"naflexvit_base_patch16_gap", "NaFlexViT"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const timm_arch *a = timm_arch_find(rows[i][0]);
        assert_non_null(a);
        assert_non_null(a->unsupported);
        if (!strstr(a->unsupported, rows[i][1]))
            fail_msg("%s: \"%s\" does not name %s", rows[i][0], a->unsupported, rows[i][1]);
    }
}

static void plain_models_are_plain(void **state)
{
    (void)state;
    const vit_config *v = vit("vit_base_patch16_224");
    assert_true(v->img_h == 224 && v->img_w == 224 && v->patch_h == 16 && v->width == 768);
    assert_true(v->layers == 12 && v->heads == 12 && v->hidden == 3072 && v->classes == 1000);
    assert_true(v->class_token && !v->dist_token && v->reg_tokens == 0 && v->pos_embed);
    assert_true(!v->no_embed_class && !v->pre_norm && v->final_norm && !v->fc_norm);
    assert_true(v->qkv_bias && v->proj_bias && !v->qk_norm && !v->layer_scale);
    assert_true(v->pool == VT_POOL_TOKEN && v->act == VT_ACT_GELU && v->norm_eps == 1e-6);
}

static void names_do_not_tell_and_the_table_does(void **state)
{
    (void)state;
    /* SigLIP: exact GELU in some sizes, the tanh form in others */
    assert_int_equal(vit("vit_base_patch16_siglip_gap_224")->act, VT_ACT_GELU);
    assert_int_equal(vit("vit_large_patch16_siglip_gap_384")->act, VT_ACT_GELU);
    assert_int_equal(vit("vit_large_patch16_siglip_gap_512")->act, VT_ACT_GELU_TANH);
    assert_int_equal(vit("vit_so400m_patch14_siglip_gap_384")->act, VT_ACT_GELU);
    assert_int_equal(vit("vit_so400m_patch16_siglip_gap_384")->act, VT_ACT_GELU_TANH);
    /* pooling without the class token ends with norm, not fc_norm */
    assert_true(vit("vit_base_patch16_siglip_gap_224")->pool == VT_POOL_AVG);
    assert_false(vit("vit_base_patch16_siglip_gap_224")->fc_norm);
    /* 16 heads of 48 where the twin has 12 of 64 */
    assert_int_equal(vit("vit_base_patch16_gap_224")->heads, 16);
    assert_int_equal(vit("vit_base_patch16_siglip_gap_224")->heads, 12);
    assert_int_equal(vit("vit_so150m2_patch16_reg1_gap_256")->heads, 13);
    assert_int_equal(vit("vit_huge_patch14_224")->heads, 16);
    /* the same tensors, another activation */
    assert_int_equal(vit("vit_base_patch16_clip_224")->act, VT_ACT_GELU);
    assert_int_equal(vit("vit_base_patch16_clip_quickgelu_224")->act, VT_ACT_QUICK_GELU);
    assert_true(vit("vit_base_patch16_clip_224")->norm_eps == 1e-5);
    assert_true(vit("vit_base_patch16_clip_224")->pre_norm);
    /* a class token in the sequence that pooling ignores */
    const vit_config *eva = vit("eva_large_patch14_196");
    assert_true(eva->class_token && eva->pool == VT_POOL_AVG && eva->fc_norm);
    /* positions: patches only, or registers too */
    assert_true(vit("flexivit_base")->no_embed_class && vit("flexivit_base")->class_token);
    assert_true(vit("vit_base_patch14_reg4_dinov2")->no_embed_class);
    assert_int_equal(vit("vit_base_patch14_reg4_dinov2")->reg_tokens, 4);
    assert_false(vit("vit_so150m_patch16_reg4_gap_256")->no_embed_class);
    assert_false(vit("vit_so150m_patch16_reg4_gap_256")->fc_norm);
    assert_true(vit("vit_so150m2_patch16_reg1_gap_256")->fc_norm);
    assert_false(vit("vit_so150m2_patch16_reg1_gap_256")->qkv_bias);
    /* no final norm at all */
    assert_false(vit("vit_intern300m_patch14_448")->final_norm);
    assert_true(vit("vit_intern300m_patch14_448")->layer_scale);
    assert_true(vit("deit_base_distilled_patch16_224")->dist_token);
    assert_true(vit("deit3_base_patch16_224")->layer_scale);
    assert_false(vit("vit_base_patch16_224_miil")->qkv_bias);
    /* hidden = int(width * ratio), which is no round number here */
    assert_int_equal(vit("vit_so400m_patch14_siglip_gap_224")->hidden, 4304);
}

static void families_differ_inside_the_block(void **state)
{
    (void)state;
    const vit_config *v = vit("eva02_base_patch14_448");
    assert_true(v->gated_mlp && v->mlp_norm && !v->attn_norm && v->hidden == 2048);
    assert_true(v->rope == VIT_ROPE_AXIAL && v->rope_ref_h == 16 && !v->rope_xy && !v->rope_half);
    v = vit("eva02_enormous_patch14_clip_224");
    assert_true(v->block == VIT_BLOCK_POST && v->rope == VIT_ROPE_NONE && !v->layer_scale);
    v = vit("vit_base_patch16_dinov3"); /* the mean of the patches, class token or not */
    assert_true(v->rope == VIT_ROPE_CENTERED && v->rope_half && v->pool == VT_POOL_AVG);
    assert_true(v->class_token && v->reg_tokens == 4 && !v->fc_norm && !v->qkv_bias);
    assert_true(vit("vit_base_patch16_dinov3_qkvb")->qkv_bias);
    v = vit("vit_pe_core_base_patch16_224"); /* pools all tokens, by heads of its own */
    assert_true(v->pool == VT_POOL_MAP && v->pool_heads == 8 && v->pool_include_prefix);
    assert_true(v->rope_xy && v->rope_offset == 1 && v->rope_ref_h == 14);
    assert_true(vit("vit_pe_core_gigantic_patch14_448")->rope_offset == 0);
    assert_false(vit("vit_base_patch16_siglip_224")->pool_include_prefix);
    assert_true(vit("test_vit3")->pool_include_prefix && vit("test_vit4")->rms_norm);
    v = vit("vit_pe_spatial_large_patch14_448");
    assert_true(!v->final_norm && !v->fc_norm && v->pool == VT_POOL_AVG && v->class_token);
    v = vit("vit_base_patch16_rope_mixed_ape_224");
    assert_true(v->rope == VIT_ROPE_MIXED && v->pos_embed && v->no_embed_class);
    v = vit("aimv2_large_patch14_224");
    assert_true(v->rms_norm && v->patch_norm && v->gated_mlp && !v->proj_bias && v->heads == 8);
    v = vit("beit3_base_patch16_224");
    assert_true(v->attn_norm && v->mlp_norm && !v->gated_mlp && v->norm_eps == 1e-5);
    v = vit("beit_base_patch16_224");
    assert_true(v->rel_pos == VIT_BIAS_TABLE && !v->pos_embed && v->class_token && v->fc_norm);
    assert_int_equal(vit("vit_relpos_base_patch16_224")->rel_pos, VIT_BIAS_MLP);
    assert_int_equal(vit("vit_relpos_base_patch16_rpn_224")->block, VIT_BLOCK_POST);
    assert_int_equal(vit("vit_base_patch16_rpn_224")->block, VIT_BLOCK_POST);
    v = vit("vit_base_patch16_xp_224");
    assert_true(v->block == VIT_BLOCK_PARALLEL && v->rms_norm && v->qk_norm && !v->qkv_bias);
    assert_int_equal(vit("vit_base_patch16_18x2_224")->branches, 2);
    assert_true(vit("vit_dwee_patch16_reg1_gap_256")->differential);
    assert_int_equal(vit("vit_dpwee_patch16_reg1_gap_256")->block, VIT_BLOCK_PARALLEL);
    v = vit("vit_base_patch16_sapiens2");
    assert_true(v->attn_scale_only && v->img_h == 1024 && v->img_w == 768);
    assert_true(vit("vit_giant_patch14_dinov2")->gated_mlp);
    assert_int_equal(vit("vit_giant_patch14_dinov2")->hidden, 4096);
}

static void tags_have_their_own_preprocessing(void **state)
{
    (void)state;
    const timm_tag *miil = timm_tag_find("vit_base_patch16_224_miil", "in21k_ft_in1k");
    assert_non_null(miil);
    assert_int_equal(miil->pre.interpolation, VT_INTERP_BILINEAR);
    assert_true(miil->pre.crop_pct == 0.875 && miil->pre.mean[0] == 0 && miil->pre.std[2] == 1);
    const timm_tag *dino = timm_tag_find("vit_base_patch16_224", "dino");
    assert_true(dino->classes == 0 && dino->pre.mean[0] == 0.485 && dino->pre.std[2] == 0.225);
    const timm_tag *in21k = timm_tag_find("vit_base_patch16_224", "augreg_in21k");
    assert_true(in21k->classes == 21843 && in21k->pre.mean[1] == 0.5);
    const timm_tag *clip = timm_tag_find("vit_large_patch14_clip_336", "openai_ft_in12k_in1k");
    assert_int_equal(clip->pre.crop_mode, VT_CROP_SQUASH);
    assert_true(clip->pre.crop_pct == 1 && clip->pre.mean[1] == 0.4578275);
}

static void imagenet_has_a_thousand_different_names(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++) {
        assert_true(strlen(vt_imagenet_labels[i]) > 1);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(vt_imagenet_labels[i], vt_imagenet_labels[j]);
    }
    assert_string_equal(vt_imagenet_labels[0], "tench");
    assert_string_equal(vt_imagenet_labels[281], "tabby");
    assert_string_equal(vt_imagenet_labels[999], "toilet tissue");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sorted_and_found),
        cmocka_unit_test(every_tag_of_a_plain_vit_runs),
        cmocka_unit_test(every_row_is_a_model_that_can_be),
        cmocka_unit_test(what_is_missing_is_named),
        cmocka_unit_test(plain_models_are_plain),
        cmocka_unit_test(names_do_not_tell_and_the_table_does),
        cmocka_unit_test(families_differ_inside_the_block),
        cmocka_unit_test(tags_have_their_own_preprocessing),
        cmocka_unit_test(imagenet_has_a_thousand_different_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
