/* timm's eval transform: from a decoded picture to the network's input, float for float.
 *
 *   scale_h, scale_w = floor(height / crop_pct), floor(width / crop_pct)
 *   center  the short side becomes scale, the long one int(scale * long / short); if scale_h and
 *           scale_w differ, both sides divided by min(h / scale_h, w / scale_w), rounded half to
 *           even; centre crop, missing pixels are 0
 *   squash  exactly scale_w x scale_h, the aspect is not kept; centre crop
 *   border  both sides divided by max(h / scale_h, w / scale_w); centre crop, missing pixels are
 *           round(255 * mean)
 *   then    (v / 255 - mean) / std in fp32
 * A crop begins at round((size - target) / 2), half to even; padding puts the odd pixel right and
 * below. With one channel the picture becomes grey first: ITU-R 601-2 luma, as .convert('L').
 *
 * Checked against timm 1.0.31. (1.0.29 still took bilinear weights in mode center where scale_h and
 * scale_w differ, whatever the model's configuration says.)
 */
#include "engine/image/internal.h"

#include <math.h>

/* Half to even, as Python's round(). */
static double round_even(double x)
{
    double low = floor(x), rest = x - low;
    if (rest == 0.5)
        return fmod(low, 2) == 0 ? low : low + 1;
    return rest < 0.5 ? low : low + 1;
}

static void keep_ratio(resize_window *win, const vt_image *in, double ratio)
{
    win->out_w = (int64_t)round_even(in->width / ratio);
    win->out_h = (int64_t)round_even(in->height / ratio);
}

static void short_side(resize_window *win, const vt_image *in, int64_t scale)
{
    bool tall = in->width <= in->height;
    double small = tall ? in->width : in->height, large = tall ? in->height : in->width;
    int64_t length = (int64_t)((double)scale * large / small);
    win->out_w = tall ? scale : length;
    win->out_h = tall ? length : scale;
}

/* The size of the whole picture resized. */
static int plan(resize_window *win, const vt_image *in, const vt_preprocess *pre, vt_status *st)
{
    double scale_h = floor(pre->height / pre->crop_pct);
    double scale_w = floor(pre->width / pre->crop_pct);
    if (!(scale_h >= 1 && scale_w >= 1 && scale_h <= VT_MAX_PIXELS && scale_w <= VT_MAX_PIXELS))
        return vt_fail(st, VT_USAGE, "crop_pct %g: cannot resize for %d x %d pixels", pre->crop_pct,
                       pre->width, pre->height);
    double ratio_h = in->height / scale_h, ratio_w = in->width / scale_w;
    switch (pre->crop_mode) {
    case VT_CROP_SQUASH:
        win->out_w = (int64_t)scale_w;
        win->out_h = (int64_t)scale_h;
        break;
    case VT_CROP_BORDER:
        keep_ratio(win, in, fmax(ratio_h, ratio_w));
        break;
    case VT_CROP_CENTER:
        if (scale_h == scale_w)
            short_side(win, in, (int64_t)scale_h);
        else
            keep_ratio(win, in, fmin(ratio_h, ratio_w));
    }
    if (win->out_w < 1 || win->out_h < 1)
        return vt_fail(st, VT_INPUT,
                       "picture of %d x %d pixels is too narrow: it would shrink to %lld x %lld",
                       in->width, in->height, (long long)win->out_w, (long long)win->out_h);
    return 0;
}

/* Along one axis: where the crop begins in the resized picture, where that lands in the target, and
 * how many pixels there are. */
static void center(int64_t size, int target, int64_t *from, int *to, int *count)
{
    if (size < target) {
        *from = 0;
        *to = (int)((target - size) / 2);
        *count = (int)size;
    } else {
        int64_t half = (size - target) / 2;
        *from = (size - target) % 2 == 1 && half % 2 == 1 ? half + 1 : half;
        *to = 0;
        *count = target;
    }
}

/* Pillow's .convert('L'), in 16 fractional bits. */
static void to_grey(uint8_t *out, const uint8_t *rgb, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++, rgb += 3)
        out[i] = (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

/* What each of the 256 values becomes in channel c. */
static void make_levels(float levels[256], const vt_preprocess *pre, int c)
{
    float mean = (float)pre->mean[c], std = (float)pre->std[c];
    for (int v = 0; v < 256; v++) {
        float x = (float)v / 255.0f;
        x = x - mean;
        levels[v] = x / std;
    }
}

static int padding(const vt_preprocess *pre, int c)
{
    if (pre->crop_mode != VT_CROP_BORDER)
        return 0;
    double v = round_even(255 * pre->mean[c]);
    return v > 0 ? v < 255 ? (int)v : 255 : 0;
}

/* The window of h x w pixels at (top, left) of the target, the padding around it. */
static void normalise(float *out, const uint8_t *window, int top, int left, int h, int w,
                      const vt_preprocess *pre, int channels)
{
    size_t plane = (size_t)pre->height * (size_t)pre->width;
    for (int c = 0; c < channels; c++, out += plane) {
        float levels[256];
        make_levels(levels, pre, c);
        float pad = levels[padding(pre, c)];
        for (size_t i = 0; i < plane && (h < pre->height || w < pre->width); i++)
            out[i] = pad;
        for (int y = 0; y < h; y++) {
            const uint8_t *row = window + ((size_t)y * (size_t)w) * (size_t)channels + c;
            float *to = out + (size_t)(top + y) * (size_t)pre->width + (size_t)left;
            for (int x = 0; x < w; x++)
                to[x] = levels[row[(size_t)x * (size_t)channels]];
        }
    }
}

/* `pixels` is the picture in `channels` channels; `in` says its size. */
static int transform(float *out, const uint8_t *pixels, const vt_image *in,
                     const vt_preprocess *pre, int channels, vt_status *st)
{
    resize_window win = {0};
    if (plan(&win, in, pre, st) != 0)
        return -1;
    int top, left;
    center(win.out_w, pre->width, &win.x, &left, &win.w);
    center(win.out_h, pre->height, &win.y, &top, &win.h);
    size_t n = (size_t)win.w * (size_t)win.h;
    uint8_t *window = vt_alloc(n, (size_t)channels, "resized picture", st);
    if (!window)
        return -1;
    int rc =
        resize_u8(window, pixels, in->width, in->height, channels, win, pre->interpolation, st);
    if (rc == 0)
        normalise(out, window, top, left, win.h, win.w, pre, channels);
    vt_free(window);
    return rc;
}

int vt_image_preprocess(float *out, const vt_image *in, const vt_preprocess *pre, int channels,
                        vt_status *st)
{
    if (channels == 3)
        return transform(out, in->rgb, in, pre, 3, st);
    if (channels != 1)
        return vt_fail(st, VT_USAGE, "pictures have 1 or 3 channels, not %d", channels);
    size_t pixels = (size_t)in->width * (size_t)in->height;
    uint8_t *grey = vt_alloc(pixels, 1, "grey picture", st);
    if (!grey)
        return -1;
    to_grey(grey, in->rgb, pixels);
    int rc = transform(out, grey, in, pre, 1, st);
    vt_free(grey);
    return rc;
}
