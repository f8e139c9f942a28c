/* Pillow's resampling of 8-bit pictures, bit for bit (Pillow 13).
 *
 * An axis of `in` pixels becomes `out`: with scale = in / out, stretch = max(scale, 1) and
 * support = (bicubic 2, bilinear 1) * stretch, output pixel i is centred at c = (i + 0.5) * scale
 * and takes the input pixels j of [trunc(c - support + 0.5), trunc(c + support + 0.5)), clipped to
 * the picture, with weights f((j - c + 0.5) / stretch) divided by their sum. All that is done in
 * double; the weights are then rounded to 22 fractional bits, the sums are 32-bit integers, and
 * each axis' result is rounded and clipped to 8 bits before the other axis is done.
 *
 * Which axis goes first shows in the last bits: the columns' (horizontal) pass, except where the
 * height shrinks by more than twice what the width does. (Pillow before 13 decides otherwise for
 * tall pictures: 12.2 where height > 100 * width, older ones never.)
 *
 * Only a window of the result is computed, so a picture that is resized and cropped costs what the
 * crop needs. Not here: alpha, 16 bits, other filters.
 */
#include "engine/image/internal.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { FRACTION = 22, HALF = 1 << (FRACTION - 1) };

/* 1 GiB of weights: a picture that needs more is a line, not a picture. */
enum { MAX_WEIGHTS = 1 << 28 };

/* Vector width matters here and the arithmetic is exact: let the loader choose. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__OPTIMIZE__) &&                      \
    !defined(__SANITIZE_ADDRESS__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

typedef struct { /* weights of `count` consecutive outputs of one axis */
    int count, stride;
    int *first, *length; /* [count] input pixels of an output */
    int32_t *weight;     /* [count, stride] */
} taps;

static void free_taps(taps *t)
{
    vt_free(t->first);
    vt_free(t->length);
    vt_free(t->weight);
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Fills output i of the window; `row` has room for its weights in double. */
static void make_tap(taps *t, int i, double *row, double center, double support, double stretch,
                     int in, vt_interpolation how)
{
    double low = center - support + 0.5, high = center + support + 0.5;
    int first = low < 0 ? 0 : (int)low, last = high > in ? in : (int)high;
    double inverse = 1.0 / stretch, sum = 0.0;
    int n = last - first;
    for (int j = 0; j < n; j++) {
        double x = (j + first - center + 0.5) * inverse;
        row[j] = how == VT_INTERP_BICUBIC ? bicubic(x) : bilinear(x);
        sum += row[j];
    }
    int32_t *weight = t->weight + (size_t)i * (size_t)t->stride;
    for (int j = 0; j < n; j++) {
        double w = sum != 0.0 ? row[j] / sum : row[j];
        weight[j] = (int32_t)(w * (1 << FRACTION) + (w < 0 ? -0.5 : 0.5));
    }
    t->first[i] = first;
    t->length[i] = n;
}

/* Weights of the outputs [begin, begin + count) of an axis resized from `in` to `out` pixels. */
static int make_taps(taps *t, int in, int64_t out, int64_t begin, int count, vt_interpolation how,
                     vt_status *st)
{
    double scale = (double)(float)in / (double)out; /* float: as in Pillow, above 2^24 pixels */
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = (how == VT_INTERP_BICUBIC ? 2.0 : 1.0) * stretch;
    double stride = ceil(support) * 2 + 1;
    if (stride * count > MAX_WEIGHTS)
        return vt_fail(st, VT_INPUT, "picture: cannot resize a side of %d pixels to %lld", in,
                       (long long)out);
    t->count = count;
    t->stride = (int)stride;
    t->first = vt_alloc((size_t)count, sizeof *t->first, "resize weights", st);
    t->length = vt_alloc((size_t)count, sizeof *t->length, "resize weights", st);
    t->weight =
        vt_alloc((size_t)count * (size_t)t->stride, sizeof *t->weight, "resize weights", st);
    double *row = vt_alloc((size_t)t->stride, sizeof *row, "resize weights", st);
    bool good = t->first && t->length && t->weight && row;
    for (int i = 0; good && i < count; i++)
        make_tap(t, i, row, ((double)(begin + i) + 0.5) * scale, support, stretch, in, how);
    vt_free(row);
    return good ? 0 : -1;
}

static inline uint8_t clip8(int32_t sum)
{
    int32_t v = sum >> FRACTION;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

/* Output row of a vertical pass: each of its n bytes is the weighted sum of `length` bytes of `in`,
 * one below the other. In strips, so that the sums stay in the cache. */
CLONES
static void down_row(uint8_t *restrict out, const uint8_t *restrict in, size_t stride, size_t n,
                     const int32_t *restrict weight, int length)
{
    enum { STRIP = 256 };
    int32_t sum[STRIP];
    for (size_t x = 0; x < n; x += STRIP) {
        int width = n - x < STRIP ? (int)(n - x) : STRIP;
        for (int i = 0; i < width; i++)
            sum[i] = HALF;
        for (int j = 0; j < length; j++) {
            const uint8_t *p = in + (size_t)j * stride + x;
            for (int i = 0; i < width; i++)
                sum[i] += p[i] * weight[j];
        }
        for (int i = 0; i < width; i++)
            out[x + (size_t)i] = clip8(sum[i]);
    }
}

static void pass_down(uint8_t *out, const uint8_t *in, size_t stride, size_t n, const taps *t)
{
    for (int i = 0; i < t->count; i++)
        down_row(out + (size_t)i * n, in + (size_t)t->first[i] * stride, stride, n,
                 t->weight + (size_t)i * (size_t)t->stride, t->length[i]);
}

/* Pixel (x, y) of `in` becomes pixel (y, x) of `out`; strides in bytes. */
static void transpose(uint8_t *restrict out, size_t out_stride, const uint8_t *restrict in,
                      size_t in_stride, int width, int height, int channels)
{
    for (int y = 0; y < height; y++, in += in_stride, out += channels) {
        const uint8_t *p = in;
        uint8_t *q = out;
        for (int x = 0; x < width; x++, p += channels, q += out_stride) {
            q[0] = p[0];
            if (channels == 3) {
                q[1] = p[1];
                q[2] = p[2];
            }
        }
    }
}

/* Horizontal pass over `rows` rows: some rows at a time are transposed, so that the vertical pass
 * does them all at once and its loops run over adjacent bytes. */
static int pass_across(uint8_t *out, const uint8_t *in, size_t in_stride, int64_t rows,
                       int channels, const taps *t, vt_status *st)
{
    enum { AT_ONCE = 32 };
    int last = t->count - 1, width = t->first[last] + t->length[last];
    size_t line = AT_ONCE * (size_t)channels, n = (size_t)t->count * (size_t)channels;
    uint8_t *turned = vt_alloc((size_t)width, line, "resized columns", st);
    uint8_t *done = turned ? vt_alloc((size_t)t->count, line, "resized columns", st) : NULL;
    for (int64_t y = 0; done && y < rows; y += AT_ONCE) {
        int height = rows - y < AT_ONCE ? (int)(rows - y) : AT_ONCE;
        transpose(turned, line, in + (size_t)y * in_stride, in_stride, width, height, channels);
        pass_down(done, turned, line, line, t);
        transpose(out + (size_t)y * n, n, done, line, height, t->count, channels);
    }
    vt_free(turned);
    vt_free(done);
    return done ? 0 : -1;
}

/* ---- the two passes over a window ---- */

typedef struct {
    const uint8_t *in;
    size_t stride; /* bytes of a row of `in` */
    int channels;
    resize_window win;
    taps x, y; /* count 0: this axis is unchanged */
} job;

static void copy_rows(uint8_t *out, const uint8_t *in, size_t stride, size_t n, int rows)
{
    for (int y = 0; y < rows; y++)
        memcpy(out + (size_t)y * n, in + (size_t)y * stride, n);
}

/* Both passes, columns first: only the rows that the second pass reads. */
static int across_then_down(uint8_t *out, job *j, vt_status *st)
{
    int last = j->y.count - 1, top = j->y.first[0];
    int64_t rows = j->y.first[last] + j->y.length[last] - top;
    size_t n = (size_t)j->win.w * (size_t)j->channels;
    uint8_t *middle = vt_alloc((size_t)rows, n, "resized rows", st);
    if (!middle)
        return -1;
    int rc = pass_across(middle, j->in + (size_t)top * j->stride, j->stride, rows, j->channels,
                         &j->x, st);
    for (int i = 0; i < j->y.count; i++)
        j->y.first[i] -= top;
    if (rc == 0)
        pass_down(out, middle, n, n, &j->y);
    vt_free(middle);
    return rc;
}

/* Both passes, rows first: only the columns that the second pass reads. */
static int down_then_across(uint8_t *out, job *j, vt_status *st)
{
    int last = j->x.count - 1, left = j->x.first[0];
    size_t columns = (size_t)(j->x.first[last] + j->x.length[last] - left);
    size_t n = columns * (size_t)j->channels;
    uint8_t *middle = vt_alloc((size_t)j->win.h, n, "resized rows", st);
    if (!middle)
        return -1;
    pass_down(middle, j->in + (size_t)left * (size_t)j->channels, j->stride, n, &j->y);
    for (int i = 0; i < j->x.count; i++)
        j->x.first[i] -= left;
    int rc = pass_across(out, middle, n, j->win.h, j->channels, &j->x, st);
    vt_free(middle);
    return rc;
}

static int run(uint8_t *out, job *j, bool down_first, vt_status *st)
{
    size_t n = (size_t)j->win.w * (size_t)j->channels;
    if (j->x.count && j->y.count)
        return down_first ? down_then_across(out, j, st) : across_then_down(out, j, st);
    const uint8_t *in = j->in;
    if (!j->x.count)
        in += (size_t)j->win.x * (size_t)j->channels;
    if (!j->y.count)
        in += (size_t)j->win.y * j->stride;
    if (j->x.count)
        return pass_across(out, in, j->stride, j->win.h, j->channels, &j->x, st);
    if (j->y.count)
        pass_down(out, in, j->stride, n, &j->y);
    else
        copy_rows(out, in, j->stride, n, j->win.h);
    return 0;
}

int resize_u8(uint8_t *out, const uint8_t *in, int in_w, int in_h, int channels, resize_window win,
              vt_interpolation how, vt_status *st)
{
    job j = {.in = in, .stride = (size_t)in_w * (size_t)channels, .channels = channels, .win = win};
    int rc = 0;
    if (win.out_w != in_w)
        rc = make_taps(&j.x, in_w, win.out_w, win.x, win.w, how, st);
    if (rc == 0 && win.out_h != in_h)
        rc = make_taps(&j.y, in_h, win.out_h, win.y, win.h, how, st);
    int64_t narrower = in_w - win.out_w, lower = in_h - win.out_h;
    if (rc == 0)
        rc = run(out, &j, lower > 0 && lower > 2 * narrower, st);
    free_taps(&j.x);
    free_taps(&j.y);
    return rc;
}

int vt_image_resize(vt_image *out, const vt_image *in, int width, int height, vt_interpolation how,
                    vt_status *st)
{
    *out = (vt_image){0};
    if (image_alloc(out, width, height, st) != 0)
        return -1;
    resize_window all = {width, height, 0, 0, width, height};
    if (resize_u8(out->rgb, in->rgb, in->width, in->height, 3, all, how, st) == 0)
        return 0;
    vt_image_free(out);
    return -1;
}
