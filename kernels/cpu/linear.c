/* Linear layers: y = act(x W^T + b) or y += x W^T + b. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

struct vt_linear {
    int out, in;
    float *w, *bias;
};

vt_linear *vt_cpu_linear_load(vt_device *dev, const float *w, const float *bias, int out, int in,
                              size_t rows, vt_status *st)
{
    (void)rows;
    vt_linear *l = vt_alloc(1, sizeof *l, "linear layer", st);
    if (!l)
        return NULL;
    size_t n = (size_t)out * (size_t)in;
    l->out = out, l->in = in;
    l->w = vt_alloc(n, sizeof *l->w, "weights", st);
    l->bias = vt_alloc((size_t)out, sizeof *l->bias, "bias", st);
    if (!l->w || !l->bias) {
        vt_cpu_linear_free(dev, l);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        l->w[i] = dev->dtype == VT_BF16 ? vt_bf16_to_f32(vt_f32_to_bf16(w[i])) : w[i];
    if (bias)
        memcpy(l->bias, bias, (size_t)out * sizeof *bias);
    return l;
}

void vt_cpu_linear_free(vt_device *dev, vt_linear *l)
{
    (void)dev;
    if (!l)
        return;
    vt_free(l->w);
    vt_free(l->bias);
    vt_free(l);
}

size_t vt_cpu_linear_bytes(const vt_linear *l)
{
    return sizeof *l + ((size_t)l->out * (size_t)l->in + (size_t)l->out) * sizeof(float);
}

bool vt_cpu_linear_fits(const vt_linear *l, int in, int out)
{
    return l->in == in && l->out == out;
}

int vt_cpu_prepare_linear(vt_stream *s, const vt_linear *w, size_t rows, vt_dtype x, vt_dtype y,
                          vt_epilogue e, vt_status *st)
{
    (void)s, (void)w, (void)rows, (void)x, (void)y, (void)e, (void)st;
    return 0;
}

static float activate(float v, vt_activation act)
{
    switch (act) {
    case VT_ACT_GELU:
        return 0.5f * v * (1 + erff(v * 0.70710678f));
    case VT_ACT_GELU_TANH:
        return 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
    case VT_ACT_QUICK_GELU:
        return v / (1 + expf(-1.702f * v));
    default:
        return v;
    }
}

static float at(vt_mat m, size_t r, int c)
{
    size_t i = r * (size_t)m.cols + (size_t)c;
    return m.type == VT_F32 ? ((float *)m.p)[i] : vt_bf16_to_f32(((uint16_t *)m.p)[i]);
}

void vt_cpu_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e)
{
#pragma omp parallel for schedule(static) num_threads(s->dev->threads)
    for (int o = 0; o < l->out; o++)
        for (size_t r = 0; r < x.rows; r++) {
            const float *w = l->w + (size_t)o * (size_t)l->in;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < l->in; i++)
                sum += w[i] * at(x, r, i);
            float v = activate(sum + l->bias[o], e.act) + (e.add ? at(y, r, o) : 0);
            size_t i = r * (size_t)l->out + (size_t)o;
            if (y.type == VT_F32)
                ((float *)y.p)[i] = v;
            else
                ((uint16_t *)y.p)[i] = vt_f32_to_bf16(v);
        }
}
