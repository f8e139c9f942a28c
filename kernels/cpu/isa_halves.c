/* What a gated hidden layer and differential attention make of the halves of a row, and one head of
 * attention pooling. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

/* ---- halves ---- */

VT_INLINE vf silu(vf x)
{
    const float log2e = 1.44269504f;
    return x / (1.0f + v_exp2(v_min(v_splat(126.0f), x * -log2e)));
}

VT_INLINE vf combine(vf a, vf b, vt_halves how, float factor)
{
    return how == VT_HALVES_SWIGLU ? silu(a) * b : a - factor * b;
}

VT_INLINE void halves(void *y, const void *x, vt_dtype type, int n, vt_halves how, float factor)
{
    int i = 0;
    for (; i + VL <= n; i += VL)
        v_put(y, type, i, combine(v_get(x, type, i), v_get(x, type, n + i), how, factor));
    for (; i < n; i++) {
        float last[VL];
        v_store(last,
                combine(v_splat(get1(x, type, i)), v_splat(get1(x, type, n + i)), how, factor));
        put1(y, type, i, last[0]);
    }
}

void VT_NAME(vt_halves_row)(void *y, const void *x, vt_dtype type, int n, vt_halves how,
                            float factor)
{
    if (type == VT_F32 && how == VT_HALVES_SWIGLU)
        halves(y, x, VT_F32, n, VT_HALVES_SWIGLU, factor);
    else if (type == VT_F32)
        halves(y, x, VT_F32, n, VT_HALVES_DIFFERENCE, factor);
    else if (how == VT_HALVES_SWIGLU)
        halves(y, x, VT_BF16, n, VT_HALVES_SWIGLU, factor);
    else
        halves(y, x, VT_BF16, n, VT_HALVES_DIFFERENCE, factor);
}

/* ---- attention pooling ---- */

VT_INLINE const void *at(const void *base, vt_dtype type, size_t elements)
{
    return (const char *)base + elements * vt_dtype_bytes(type);
}

VT_INLINE float dot(const float *q, const void *k, vt_dtype type, int d)
{
    vf sum = {0};
    int i = 0;
    for (; i + VL <= d; i += VL)
        sum += v_load(q + i) * v_get(k, type, i);
    float total = v_sum(sum);
    for (; i < d; i++)
        total += q[i] * get1(k, type, i);
    return total;
}

/* Scores become weights; their sum is returned. */
static float soften(float *s, int n, float scale)
{
    float max = -INFINITY, sum = 0;
    for (int k = 0; k < n; k++)
        max = s[k] > max ? s[k] : max;
    for (int k = 0; k < n; k += VL) {
        float part[VL];
        for (int i = 0; i < VL; i++)
            part[i] = k + i < n ? (s[k + i] - max) * scale : -INFINITY;
        v_store(part, v_exp2(v_load(part)));
        for (int i = 0; i < VL && k + i < n; i++) {
            s[k + i] = part[i];
            sum += part[i];
        }
    }
    return sum;
}

VT_INLINE void latent_head(void *out, const float *q, const void *k, const void *v, vt_dtype type,
                           int n, size_t step, int d, float *s)
{
    enum { COLUMNS = 64 };
    const float log2e = 1.44269504f;
    for (int t = 0; t < n; t++)
        s[t] = dot(q, at(k, type, (size_t)t * step), type, d);
    float scale = 1.0f / soften(s, n, log2e / sqrtf((float)d));
    for (int c = 0; c < d; c += COLUMNS) {
        float sum[COLUMNS] = {0};
        int m = d - c < COLUMNS ? d - c : COLUMNS;
        for (int t = 0; t < n; t++) {
            const void *row = at(v, type, (size_t)t * step + (size_t)c);
            for (int i = 0; i < m; i++)
                sum[i] += s[t] * get1(row, type, i);
        }
        for (int i = 0; i < m; i++)
            put1(out, type, c + i, sum[i] * scale);
    }
}

void VT_NAME(vt_latent_head)(void *out, const float *q, const void *k, const void *v, vt_dtype type,
                             int n, size_t step, int d, float *scores)
{
    if (type == VT_F32)
        latent_head(out, q, k, v, VT_F32, n, step, d, scores);
    else
        latent_head(out, q, k, v, VT_BF16, n, step, d, scores);
}
