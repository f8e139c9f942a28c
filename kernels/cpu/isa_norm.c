/* LayerNorm of one row: y = (x - mean) / sqrt(var + eps) * gamma + beta. The mean first, then the
 * mean of squared distances from it: no cancellation where |mean| is large. RMSNorm is the same
 * with 0 for the mean and no beta. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

#include <math.h>

VT_INLINE float mean_of(const void *x, vt_dtype type, int n)
{
    vf a = {0}, b = {0};
    int i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        a += v_get(x, type, i);
        b += v_get(x, type, i + VL);
    }
    float sum = v_sum(a + b);
    for (; i < n; i++)
        sum += get1(x, type, i);
    return sum / (float)n;
}

VT_INLINE float variance_of(const void *x, vt_dtype type, int n, float mean)
{
    vf a = {0}, b = {0}, m = v_splat(mean);
    int i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vf da = v_get(x, type, i) - m, db = v_get(x, type, i + VL) - m;
        a += da * da;
        b += db * db;
    }
    float sum = v_sum(a + b);
    for (; i < n; i++) {
        float d = get1(x, type, i) - mean;
        sum += d * d;
    }
    return sum / (float)n;
}

VT_INLINE void norm(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,
                    const float *gamma, const float *beta, float eps)
{
    float mean = beta ? mean_of(x, x_type, n) : 0;
    float scale = 1.0f / sqrtf(variance_of(x, x_type, n, mean) + eps);
    vf m = v_splat(mean), s = v_splat(scale);
    int i = 0;
    for (; beta && i + VL <= n; i += VL)
        v_put(y, y_type, i, (v_get(x, x_type, i) - m) * s * v_load(gamma + i) + v_load(beta + i));
    for (; i + VL <= n; i += VL)
        v_put(y, y_type, i, v_get(x, x_type, i) * s * v_load(gamma + i));
    for (; i < n; i++)
        put1(y, y_type, i, (get1(x, x_type, i) - mean) * scale * gamma[i] + (beta ? beta[i] : 0));
}

void VT_NAME(vt_norm_row)(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,
                          const float *gamma, const float *beta, float eps)
{
    if (x_type == VT_F32 && y_type == VT_F32)
        norm(y, VT_F32, x, VT_F32, n, gamma, beta, eps);
    else if (x_type == VT_F32)
        norm(y, VT_BF16, x, VT_F32, n, gamma, beta, eps);
    else if (y_type == VT_F32)
        norm(y, VT_F32, x, VT_BF16, n, gamma, beta, eps);
    else
        norm(y, VT_BF16, x, VT_BF16, n, gamma, beta, eps);
}
