/* From a decoded picture to the network's input: equals timm's eval transform, float for float
 * (tests/golden/image_preprocess.pack). */
#include "engine/image/image.h"
#include "tests/support_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct {
    int width, height, channels;
    vt_preprocess pre;
    char kind[16];
    unsigned seed;
} golden_case;

/* "pre W H TH TW MODE HOW CHANNELS KIND SEED PCT MEAN*3 STD*3" */
static golden_case parse(const char *name)
{
    golden_case c;
    char mode[16], how[16], number[7][32];
    int n = sscanf(name, "pre %d %d %d %d %15s %15s %d %15s %u %31s %31s %31s %31s %31s %31s %31s",
                   &c.width, &c.height, &c.pre.height, &c.pre.width, mode, how, &c.channels, c.kind,
                   &c.seed, number[0], number[1], number[2], number[3], number[4], number[5],
                   number[6]);
    assert_int_equal(n, 16);
    c.pre.crop_mode = mode[0] == 'c'   ? VT_CROP_CENTER
                      : mode[0] == 's' ? VT_CROP_SQUASH
                                       : VT_CROP_BORDER;
    c.pre.interpolation = strcmp(how, "bicubic") == 0 ? VT_INTERP_BICUBIC : VT_INTERP_BILINEAR;
    c.pre.crop_pct = strtod(number[0], NULL);
    for (int i = 0; i < 3; i++) {
        c.pre.mean[i] = strtod(number[1 + i], NULL);
        c.pre.std[i] = strtod(number[4 + i], NULL);
    }
    return c;
}

static void equals_timm(void **state)
{
    (void)state;
    golden_pack p;
    int cases = 0;
    pack_open(&p, "tests/golden/image_preprocess.pack");
    for (; pack_next(&p); cases++) {
        golden_case c = parse(p.name);
        vt_image in = {c.width, c.height, test_picture(c.width, c.height, c.kind, c.seed)};
        size_t n = (size_t)c.channels * (size_t)c.pre.height * (size_t)c.pre.width;
        float *out = malloc(n * sizeof *out);
        vt_status st = {0};
        memset(out, 0xff, n * sizeof *out);
        assert_int_equal(vt_image_preprocess(out, &in, &c.pre, c.channels, &st), 0);
        pack_check(&p, 0, out, n * sizeof *out);
        free(out);
        free(in.rgb);
    }
    assert_int_equal(cases, 26);
    pack_close(&p);
}

static const vt_preprocess plain = {.height = 8,
                                    .width = 8,
                                    .interpolation = VT_INTERP_BICUBIC,
                                    .crop_mode = VT_CROP_CENTER,
                                    .crop_pct = 1.0,
                                    .std = {1, 1, 1}};

static void failed(const vt_preprocess *pre, int width, int height, int channels, vt_code code,
                   const char *text)
{
    static uint8_t rgb[3 * 4000];
    float out[3 * 64];
    vt_image in = {width, height, rgb};
    vt_status st = {0};
    assert_int_equal(vt_image_preprocess(out, &in, pre, channels, &st), -1);
    assert_int_equal(st.code, code);
    if (!strstr(st.text, text))
        fail_msg("\"%s\" does not say \"%s\"", st.text, text);
}

static void what_cannot_be_resized_is_refused(void **state)
{
    (void)state;
    vt_preprocess border = plain, zero = plain, tiny = plain;
    border.crop_mode = VT_CROP_BORDER;
    zero.crop_pct = 0;
    tiny.crop_pct = 1e-9;
    failed(&border, 1, 100, 3, VT_INPUT, "1 x 100 pixels is too narrow: it would shrink to 0 x 8");
    failed(&border, 100, 1, 3, VT_INPUT, "8 x 0");
    failed(&zero, 10, 10, 3, VT_USAGE, "crop_pct 0");
    failed(&tiny, 10, 10, 3, VT_USAGE, "crop_pct 1e-09");
    failed(&plain, 10, 10, 2, VT_USAGE, "1 or 3 channels, not 2");
}

/* A line of pixels would become a picture of 8 x 32000, of which the middle 8 x 8 are wanted. */
static void a_line_costs_what_its_crop_costs(void **state)
{
    (void)state;
    uint8_t *rgb = test_picture(1, 4000, "noise", 3);
    float out[3 * 64];
    vt_image in = {1, 4000, rgb};
    vt_status st = {0};
    assert_int_equal(vt_image_preprocess(out, &in, &plain, 3, &st), 0);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < 8; y++)
            for (int x = 1; x < 8; x++) /* all columns come from the one there is */
                assert_true(out[c * 64 + y * 8 + x] == out[c * 64 + y * 8]);
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_timm),
        cmocka_unit_test(what_cannot_be_resized_is_refused),
        cmocka_unit_test(a_line_costs_what_its_crop_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
