/* Resizing equals Pillow's, byte for byte (tests/golden/image_resize.pack). */
#include "engine/image/internal.h"
#include "tests/support_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static vt_interpolation interpolation(const char *name)
{
    return strcmp(name, "bicubic") == 0 ? VT_INTERP_BICUBIC : VT_INTERP_BILINEAR;
}

static void equals_pillow(void **state)
{
    (void)state;
    golden_pack p;
    int cases = 0;
    pack_open(&p, "tests/golden/image_resize.pack");
    for (; pack_next(&p); cases++) {
        int w, h, out_w, out_h;
        char how[16], kind[16];
        unsigned seed;
        vt_status st = {0};
        assert_int_equal(sscanf(p.name, "resize %d %d %d %d %15s %15s %u", &w, &h, &out_w, &out_h,
                                how, kind, &seed),
                         7);
        vt_image in = {w, h, test_picture(w, h, kind, seed)}, out;
        assert_int_equal(vt_image_resize(&out, &in, out_w, out_h, interpolation(how), &st), 0);
        assert_int_equal(out.width, out_w);
        assert_int_equal(out.height, out_h);
        pack_check(&p, 0, out.rgb, (size_t)out_w * (size_t)out_h * 3);
        vt_image_free(&out);
        free(in.rgb);
    }
    assert_int_equal(cases, 52);
    pack_close(&p);
}

/* The part (x, y, w, h) of `whole`, which is `channels` deep and `stride` pixels wide. */
static void assert_part(const uint8_t *part, const uint8_t *whole, int stride, resize_window win,
                        int channels)
{
    size_t n = (size_t)win.w * (size_t)channels;
    for (int y = 0; y < win.h; y++) {
        size_t at = ((size_t)(win.y + y) * (size_t)stride + (size_t)win.x) * (size_t)channels;
        assert_memory_equal(part + (size_t)y * n, whole + at, n);
    }
}

static void a_window_is_a_part_of_the_whole(void **state)
{
    (void)state;
    static const int sizes[][4] = {{40, 30, 20, 17}, {20, 90, 30, 20}, {40, 30, 40, 50},
                                   {40, 30, 70, 30}, {40, 30, 40, 30}, {9, 8, 50, 60}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int in_w = sizes[i][0], in_h = sizes[i][1], w = sizes[i][2], h = sizes[i][3];
        uint8_t *in = test_picture(in_w, in_h, "noise", (uint32_t)i);
        uint8_t whole[60 * 60 * 3], part[60 * 60 * 3];
        vt_status st = {0};
        resize_window all = {w, h, 0, 0, w, h}, some = {w, h, 3, 2, w - 7, h - 5};
        for (int channels = 1; channels <= 3; channels += 2) {
            assert_int_equal(
                resize_u8(whole, in, in_w, in_h, channels, all, VT_INTERP_BICUBIC, &st), 0);
            assert_int_equal(
                resize_u8(part, in, in_w, in_h, channels, some, VT_INTERP_BICUBIC, &st), 0);
            assert_part(part, whole, w, some, channels);
        }
        free(in);
    }
}

static void one_channel_equals_each_of_three(void **state)
{
    (void)state;
    enum { W = 31, H = 23, TO_W = 12, TO_H = 40 };
    uint8_t *grey = test_picture(W, H, "hard", 5); /* its first third serves */
    uint8_t rgb[W * H * 3], out1[TO_W * TO_H], out3[TO_W * TO_H * 3];
    resize_window all = {TO_W, TO_H, 0, 0, TO_W, TO_H};
    vt_status st = {0};
    for (int i = 0; i < W * H; i++)
        memset(rgb + 3 * i, grey[i], 3);
    assert_int_equal(resize_u8(out1, grey, W, H, 1, all, VT_INTERP_BICUBIC, &st), 0);
    assert_int_equal(resize_u8(out3, rgb, W, H, 3, all, VT_INTERP_BICUBIC, &st), 0);
    for (int i = 0; i < 3 * TO_W * TO_H; i++)
        assert_int_equal(out3[i], out1[i / 3]);
    free(grey);
}

static void absurd_sizes_are_refused(void **state)
{
    (void)state;
    uint8_t pixel[3] = {1, 2, 3};
    vt_image in = {1, 1, pixel}, out;
    vt_status st = {0};
    assert_int_equal(vt_image_resize(&out, &in, 0, 5, VT_INTERP_BICUBIC, &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_int_equal(vt_image_resize(&out, &in, 1 << 16, 1 << 16, VT_INTERP_BICUBIC, &st), -1);
    assert_non_null(strstr(st.text, "65536 x 65536"));
    assert_null(out.rgb);
    /* refused before a pixel is looked at */
    resize_window line = {224, 224, 0, 0, 224, 224};
    assert_int_equal(resize_u8(pixel, pixel, 1, VT_MAX_PIXELS, 1, line, VT_INTERP_BICUBIC, &st),
                     -1);
    assert_non_null(strstr(st.text, "cannot resize a side of 178956970 pixels to 224"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),
        cmocka_unit_test(a_window_is_a_part_of_the_whole),
        cmocka_unit_test(one_channel_equals_each_of_three),
        cmocka_unit_test(absurd_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
