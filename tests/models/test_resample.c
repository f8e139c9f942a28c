/* Position embeddings on other grids against PyTorch's interpolate (make_resample_golden.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "models/vit.h"

typedef struct {
    int in_h, in_w, out_h, out_w;
    vit_resampling how;
    float want[32];
} golden;

static const golden cases[] = {
    {3, 3, 5, 4, VIT_BICUBIC_ANTIALIAS, {-5.319259f, -2.807819f,  0.8502722f, 3.361712f,
                                         -4.794776f, -2.283337f,  1.374755f,  3.886194f,
                                         -3.840485f, -1.329046f,  2.329046f,  4.840485f,
                                         -2.886194f, -0.3747547f, 3.283337f,  5.794776f,
                                         -2.361712f, 0.1497278f,  3.807819f,  6.319259f}},
    {7, 5, 4, 6, VIT_BICUBIC_ANTIALIAS, {-0.5692225f, -1.885752f,  0.9731892f, 2.315836f,
                                         0.3544692f,  -0.5164541f, 3.704042f,  0.1823552f,
                                         -0.7512336f, 2.306562f,   4.310811f,  0.5175406f,
                                         0.01898818f, 4.454824f,   1.971864f,  -0.004281476f,
                                         3.154762f,   6.724949f,   4.436279f,  2.562923f,
                                         5.381619f,   3.985888f,   0.1077258f, 3.952081f}},
    {4,
     4,
     2,
     7,
     VIT_BICUBIC_ANTIALIAS,
     {-1.586293f, -0.4963031f, 1.331843f, 1.502841f, 0.814777f, -0.6501554f, -1.484402f, 3.30029f,
      3.034719f, 2.417257f, 1.161932f, -0.02373984f, -0.3741958f, -0.4837467f}},
    {2,
     2,
     3,
     5,
     VIT_BILINEAR,
     {-5.0f, -4.5875f, -2.9375f, -1.2875f, -0.875f, -0.875f, -1.0125f, -1.5625f, -2.1125f, -2.25f,
      3.25f, 2.5625f, -0.1875f, -2.9375f, -3.625f}},
    {5,
     4,
     3,
     3,
     VIT_BILINEAR,
     {-2.479167f, 1.1875f, -1.256945f, 4.854167f, 1.1875f, -2.479168f, 3.631944f, 1.1875f,
      4.854167f}},
    {5, 4, 3, 7, VIT_BILINEAR_CORNERS, {-5.0f,    -2.9375f, -0.875f, 1.1875f, 3.25f,   -0.1875f,
                                        -3.625f,  6.0f,     2.5625f, -0.875f, 1.1875f, 3.25f,
                                        -0.1875f, -3.625f,  6.0f,    2.5625f, -0.875f, 1.1875f,
                                        3.25f,    5.3125f,  7.375f}},
    {2, 3, 4, 1, VIT_BILINEAR_CORNERS, {-5.0f, -4.541667f, -4.083333f, -3.625f}},
};

/* The generator's input, in channel `c` of `width` scaled by c + 1. */
static void fill(float *x, int n, int width)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < width; c++)
            x[i * width + c] = (float)(c + 1) * ((float)(i * 37 % 11 - 5) + (float)i / 8);
}

static void grids_are_resampled_as_pytorch_does(void **state)
{
    (void)state;
    enum { WIDTH = 3 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const golden *g = &cases[i];
        float in[64 * WIDTH], out[64 * WIDTH];
        vt_status st = {0};
        fill(in, g->in_h * g->in_w, WIDTH);
        assert_int_equal(
            vit_resample_grid(out, g->out_h, g->out_w, in, g->in_h, g->in_w, WIDTH, g->how, &st),
            0);
        for (int t = 0; t < g->out_h * g->out_w; t++)
            for (int c = 0; c < WIDTH; c++)
                assert_true(fabsf(out[t * WIDTH + c] - (float)(c + 1) * g->want[t]) <
                            3e-6f * (float)(c + 1));
    }
}

static void the_same_grid_comes_back_unchanged(void **state)
{
    (void)state;
    float in[20], out[20];
    vt_status st = {0};
    fill(in, 20, 1);
    assert_int_equal(vit_resample_grid(out, 4, 5, in, 4, 5, 1, VIT_BICUBIC_ANTIALIAS, &st), 0);
    for (int i = 0; i < 20; i++)
        assert_true(fabsf(out[i] - in[i]) < 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grids_are_resampled_as_pytorch_does),
        cmocka_unit_test(the_same_grid_comes_back_unchanged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
