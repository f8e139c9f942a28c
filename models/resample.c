/* Position embeddings on another grid, as timm and PyTorch resample them.
 *
 * Antialiased bicubic (torch interpolate, antialias=True, align_corners=False): per axis, with
 * scale = in / out, f = max(scale, 1), support = 2 f, centre c = (i + 0.5) scale, the taps are
 * max(int(c - support + 0.5), 0) .. min(int(c + support + 0.5), in), weighted by
 * cubic((tap + 0.5 - c) / f) with a = -0.5 and normalised to sum 1. Columns first, then rows.
 * Bilinear (antialias=False): two taps around src = max((i + 0.5) scale - 0.5, 0), or around
 * src = i (in - 1) / (out - 1) where corners are aligned.
 */
#include "models/vit.h"

#include <math.h>
#include <string.h>

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/* Weights of output position i; returns the first tap and their number. */
static int taps_cubic(float *w, int i, int in, int out, int *count)
{
    double scale = (double)in / out, f = scale > 1 ? scale : 1, support = 2 * f;
    double centre = (i + 0.5) * scale, sum = 0;
    int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
    lo = lo < 0 ? 0 : lo;
    hi = hi > in ? in : hi;
    for (int t = lo; t < hi; t++)
        sum += cubic((t + 0.5 - centre) / f);
    for (int t = lo; t < hi; t++)
        w[t - lo] = (float)(cubic((t + 0.5 - centre) / f) / sum);
    *count = hi - lo;
    return lo;
}

static int taps_linear(float *w, int i, int in, int out, bool corners, int *count)
{
    double src = (i + 0.5) * ((double)in / out) - 0.5;
    if (corners)
        src = out > 1 ? i * ((double)(in - 1) / (out - 1)) : 0;
    src = src < 0 ? 0 : src;
    int lo = (int)src;
    lo = lo > in - 1 ? in - 1 : lo;
    w[0] = (float)(1 - (src - lo));
    w[1] = (float)(src - lo);
    *count = lo + 1 < in ? 2 : 1;
    if (*count == 1)
        w[0] = 1;
    return lo;
}

/* out [rows, out, width] from in [rows, n, width]: resamples the middle axis. */
static void resample_axis(float *to, int out, const float *from, int n, size_t rows, size_t width,
                          float *w, vit_resampling how)
{
    for (int i = 0; i < out; i++) {
        int count;
        int lo = how == VIT_BICUBIC_ANTIALIAS
                     ? taps_cubic(w, i, n, out, &count)
                     : taps_linear(w, i, n, out, how == VIT_BILINEAR_CORNERS, &count);
        for (size_t r = 0; r < rows; r++) {
            float *y = to + (r * (size_t)out + (size_t)i) * width;
            memset(y, 0, width * sizeof *y);
            for (int t = 0; t < count; t++) {
                const float *x = from + (r * (size_t)n + (size_t)(lo + t)) * width;
                for (size_t c = 0; c < width; c++)
                    y[c] += w[t] * x[c];
            }
        }
    }
}

int vit_resample_grid(float *out, int out_h, int out_w, const float *in, int in_h, int in_w,
                      int width, vit_resampling how, vt_status *st)
{
    int longest = in_h > in_w ? in_h : in_w;
    size_t middle = (size_t)in_h * (size_t)out_w * (size_t)width;
    float *w = vt_alloc((size_t)longest + 2, sizeof *w, "resampling weights", st);
    float *mid = w ? vt_alloc(middle, sizeof *mid, "resampled position embedding", st) : NULL;
    if (mid) {
        resample_axis(mid, out_w, in, in_w, (size_t)in_h, (size_t)width, w, how);
        resample_axis(out, out_h, mid, in_h, 1, (size_t)out_w * (size_t)width, w, how);
    }
    int failed = mid ? 0 : -1;
    vt_free(mid);
    vt_free(w);
    return failed;
}
