/* Moving tokens about: images to patch rows, patch rows to tokens, tokens to the pooled vector.
 * Plain copies and sums, bound by memory; the compiler's own vectors are enough here. */
#include "kernels/cpu/cpu.h"

#include <string.h>

static void copy_row(void *to, vt_dtype type, const float *from, int n)
{
    if (type == VT_F32) {
        memcpy(to, from, (size_t)n * sizeof *from);
        return;
    }
    uint16_t *t = to;
    for (int i = 0; i < n; i++)
        t[i] = vt_f32_to_bf16(from[i]);
}

void vt_cpu_patches(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height, int width,
                    int patch_h, int patch_w)
{
    int grid_h = height / patch_h, grid_w = width / patch_w;
    int strips = (int)(cols.rows / (size_t)grid_w); /* rows of patches, over all images */
    size_t type = vt_dtype_bytes(cols.type), row_bytes = (size_t)cols.cols * type;
    size_t plane = (size_t)height * (size_t)width, run = (size_t)patch_w * type;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, cols))
    for (int strip = 0; strip < strips; strip++) {
        const float *image =
            (const float *)images.p + (size_t)(strip / grid_h) * (size_t)channels * plane;
        size_t top = (size_t)(strip % grid_h) * (size_t)patch_h;
        char *out = (char *)cols.p + (size_t)strip * (size_t)grid_w * row_bytes;
        for (int c = 0; c < channels; c++)
            for (int i = 0; i < patch_h; i++) {
                const float *line = image + (size_t)c * plane + (top + (size_t)i) * (size_t)width;
                char *to = out + ((size_t)c * (size_t)patch_h + (size_t)i) * run;
                for (int j = 0; j < grid_w; j++)
                    copy_row(to + (size_t)j * row_bytes, cols.type, line + j * patch_w, patch_w);
            }
    }
}

void vt_cpu_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
                   const float *pos)
{
    size_t width = (size_t)x.cols;
    long total = (long)x.rows, tokens = total / s->images, grid = tokens - prefix_tokens;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (long row = 0; row < total; row++) {
        long image = row / tokens, t = row % tokens - prefix_tokens;
        float *to = (float *)x.p + (size_t)row * width;
        if (t < 0) {
            memcpy(to, prefix + (size_t)(t + prefix_tokens) * width, width * sizeof *to);
            continue;
        }
        const float *from = (const float *)patches.p + (size_t)(image * grid + t) * width;
        for (size_t i = 0; i < width; i++)
            to[i] = pos ? from[i] + pos[(size_t)t * width + i] : from[i];
    }
}

void vt_cpu_cast(vt_stream *s, vt_mat y, vt_mat x)
{
    size_t n = y.rows * (size_t)y.cols;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t i = 0; i < n; i++) {
        float v =
            x.type == VT_F32 ? ((const float *)x.p)[i] : vt_bf16_to_f32(((const uint16_t *)x.p)[i]);
        if (y.type == VT_F32)
            ((float *)y.p)[i] = v;
        else
            ((uint16_t *)y.p)[i] = vt_f32_to_bf16(v);
    }
}

enum { POOL_COLUMNS = 32 }; /* columns summed at a time, so that rows are read in runs */

static void pool_columns(float *y, const float *x, int tokens, size_t width, int n, vt_pool how)
{
    double sum[POOL_COLUMNS] = {0};
    float max[POOL_COLUMNS];
    memcpy(max, x, (size_t)n * sizeof *max);
    for (int t = 0; t < tokens; t++, x += width)
        for (int i = 0; i < n; i++) {
            sum[i] += x[i];
            max[i] = x[i] > max[i] ? x[i] : max[i];
        }
    for (int i = 0; i < n; i++) {
        float mean = (float)(sum[i] / tokens);
        y[i] = how == VT_POOL_AVG ? mean : how == VT_POOL_MAX ? max[i] : 0.5f * (mean + max[i]);
    }
}

void vt_cpu_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first)
{
    size_t width = (size_t)x.cols;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t b = 0; b < y.rows; b++) {
        float *to = (float *)y.p + b * width;
        const float *from = (const float *)x.p + (b * (size_t)tokens + (size_t)first) * width;
        if (how == VT_POOL_TOKEN) {
            memcpy(to, from, width * sizeof *to);
            continue;
        }
        for (size_t c = 0; c < width; c += POOL_COLUMNS) {
            int n = (int)(width - c < POOL_COLUMNS ? width - c : POOL_COLUMNS);
            pool_columns(to + c, from + c, tokens - first, width, n, how);
        }
    }
}
