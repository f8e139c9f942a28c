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

static float element(vt_mat m, size_t i)
{
    return m.type == VT_F32 ? ((const float *)m.p)[i] : vt_bf16_to_f32(((const uint16_t *)m.p)[i]);
}

static void set_element(vt_mat m, size_t i, float v)
{
    if (m.type == VT_F32)
        ((float *)m.p)[i] = v;
    else
        ((uint16_t *)m.p)[i] = vt_f32_to_bf16(v);
}

void vt_cpu_cast(vt_stream *s, vt_mat y, vt_mat x)
{
    size_t n = y.rows * (size_t)y.cols;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t i = 0; i < n; i++)
        set_element(y, i, element(x, i));
}

void vt_cpu_add(vt_stream *s, vt_mat y, vt_mat x)
{
    size_t n = y.rows * (size_t)y.cols;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t i = 0; i < n; i++)
        set_element(y, i, element(y, i) + element(x, i));
}

/* One query or key: its pairs of columns, `apart` from each other. */
static void turn(vt_mat head, const float *table, int pairs, bool half)
{
    size_t apart = half ? (size_t)pairs : 1, step = half ? 1 : 2;
    for (size_t i = 0; i < (size_t)pairs; i++) {
        float a = element(head, i * step), b = element(head, i * step + apart);
        float c = table[2 * i], s = table[2 * i + 1];
        set_element(head, i * step, a * c - b * s);
        set_element(head, i * step + apart, b * c + a * s);
    }
}

void vt_cpu_rope(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
                 const vt_rope *rope)
{
    size_t type = vt_dtype_bytes(qkv.type), row_bytes = (size_t)qkv.cols * type;
    size_t patches = (size_t)(tokens - prefix);
#pragma omp parallel for schedule(static) num_threads(vt_team(s, qkv))
    for (size_t r = 0; r < qkv.rows; r++) {
        size_t t = r % (size_t)tokens;
        if (t < (size_t)prefix)
            continue;
        for (int h = 0; h < 2 * heads; h++) { /* queries, then keys */
            size_t table = rope->heads == 1 ? 0 : (size_t)(h % heads) * patches;
            char *p = (char *)qkv.p + r * row_bytes + (size_t)h * (size_t)head_dim * type;
            turn((vt_mat){p, qkv.type, 1, head_dim},
                 rope->table + (table + t - (size_t)prefix) * (size_t)head_dim, head_dim / 2,
                 rope->half);
        }
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

void vt_cpu_take(vt_stream *s, vt_mat y, vt_mat x, int tokens, int first)
{
    (void)s;
    size_t row = (size_t)x.cols * vt_dtype_bytes(x.type);
    for (size_t b = 0; b < y.rows; b++)
        memcpy((char *)y.p + b * row,
               (const char *)x.p + (b * (size_t)tokens + (size_t)first) * row, row);
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
