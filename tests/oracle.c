/* See oracle.h. Nothing here is shared with the code under test. */
#include "tests/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- double ---- */

void oracle_attention(double *out, const float *q, const float *k, const float *v, const bool *on,
                      int tokens, int head_dim, double scale)
{
    oracle_biased_attention(out, q, k, v, on, NULL, tokens, head_dim, scale);
}

/* s: room for the row's weights. */
static void oracle_row(double *out, double *s, const float *q, const float *k, const float *v,
                       const bool *on, const float *bias, size_t n, size_t d, double scale)
{
    double max = -INFINITY, sum = 0;
    memset(out, 0, d * sizeof *out);
    for (size_t j = 0; j < n; j++) {
        double dot = 0;
        for (size_t c = 0; c < d && (!on || on[j]); c++)
            dot += (double)q[c] * k[j * d + c];
        s[j] = !on || on[j] ? dot * scale + (bias ? bias[j] : 0) : -INFINITY;
        max = fmax(max, s[j]);
    }
    if (max == -INFINITY)
        return;
    for (size_t j = 0; j < n; j++)
        sum += s[j] = exp(s[j] - max);
    for (size_t j = 0; j < n; j++)
        for (size_t c = 0; c < d && s[j] != 0; c++)
            out[c] += s[j] / sum * v[j * d + c];
}

void oracle_biased_attention(double *out, const float *q, const float *k, const float *v,
                             const bool *on, const float *bias, int tokens, int head_dim,
                             double scale)
{
    size_t n = (size_t)tokens, d = (size_t)head_dim;
#pragma omp parallel
    {
        double *s = malloc((n + 1) * sizeof *s);
#pragma omp for
        for (size_t i = 0; i < n; i++)
            oracle_row(out + i * d, s, q + i * d, k, v, on ? on + i * n : NULL,
                       bias ? bias + i * n : NULL, n, d, scale);
        free(s);
    }
}

static double activate(double v, oracle_act act)
{
    switch (act) {
    case ORACLE_GELU:
        return 0.5 * v * erfc(-v / sqrt(2));
    case ORACLE_GELU_TANH:
        return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case ORACLE_QUICK_GELU:
        return v / (1 + exp(-1.702 * v));
    default:
        return v;
    }
}

void oracle_linear(double *y, const float *x, const float *w, const float *bias, const float *add,
                   size_t rows, int out, int in, oracle_act act)
{
    size_t n = (size_t)out, k = (size_t)in;
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < n; o++) {
            double sum = bias ? bias[o] : 0;
            for (size_t i = 0; i < k; i++)
                sum += (double)x[r * k + i] * w[o * k + i];
            y[r * n + o] = activate(sum, act) + (add ? add[r * n + o] : 0);
        }
}

void oracle_norm(double *y, const float *x, size_t rows, int cols, const float *gamma,
                 const float *beta, double eps)
{
    size_t n = (size_t)cols;
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double mean = 0, var = 0;
        for (size_t i = 0; beta && i < n; i++)
            mean += x[i] / (double)n;
        for (size_t i = 0; i < n; i++)
            var += (x[i] - mean) * (x[i] - mean) / (double)n;
        for (size_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) / sqrt(var + eps) * gamma[i] + (beta ? beta[i] : 0);
    }
}

/* ---- float ---- */

static void plain_row(float *out, float *s, const float *q, const float *k, const float *v,
                      const bool *on, size_t n, size_t d, float scale)
{
    float max = -INFINITY, sum = 0;
    memset(out, 0, d * sizeof *out);
    for (size_t j = 0; j < n; j++) {
        float dot = 0;
        for (size_t c = 0; c < d && (!on || on[j]); c++)
            dot += q[c] * k[j * d + c];
        s[j] = !on || on[j] ? dot * scale : -INFINITY;
        max = fmaxf(max, s[j]);
    }
    if (max == -INFINITY)
        return;
    for (size_t j = 0; j < n; j++)
        sum += s[j] = expf(s[j] - max);
    for (size_t j = 0; j < n; j++)
        for (size_t c = 0; c < d && s[j] != 0; c++)
            out[c] += s[j] / sum * v[j * d + c];
}

void plain_attention(float *out, const float *q, const float *k, const float *v, const bool *on,
                     int tokens, int head_dim, float scale)
{
    size_t n = (size_t)tokens, d = (size_t)head_dim;
#pragma omp parallel
    {
        float *s = malloc((n + 1) * sizeof *s);
#pragma omp for
        for (size_t i = 0; i < n; i++)
            plain_row(out + i * d, s, q + i * d, k, v, on ? on + i * n : NULL, n, d, scale);
        free(s);
    }
}

static float activate_f(float v, oracle_act act)
{
    switch (act) {
    case ORACLE_GELU:
        return 0.5f * v * (1 + erff(v * (float)sqrt(0.5)));
    case ORACLE_GELU_TANH:
        return 0.5f * v * (1 + tanhf((float)sqrt(2 / M_PI) * (v + 0.044715f * v * v * v)));
    case ORACLE_QUICK_GELU:
        return v / (1 + expf(-1.702f * v));
    default:
        return v;
    }
}

void plain_linear(float *y, const float *x, const float *w, const float *bias, const float *add,
                  size_t rows, int out, int in, oracle_act act)
{
    size_t n = (size_t)out, k = (size_t)in;
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < n; o++) {
            float sum = 0;
            for (size_t i = 0; i < k; i++)
                sum += x[r * k + i] * w[o * k + i];
            y[r * n + o] = activate_f(sum + (bias ? bias[o] : 0), act) + (add ? add[r * n + o] : 0);
        }
}

void plain_norm(float *y, const float *x, size_t rows, int cols, const float *gamma,
                const float *beta, float eps)
{
    size_t n = (size_t)cols;
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        float mean = 0, var = 0;
        for (size_t i = 0; i < n; i++)
            mean += x[i];
        mean /= (float)n;
        for (size_t i = 0; i < n; i++)
            var += (x[i] - mean) * (x[i] - mean);
        var /= (float)n;
        for (size_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) / sqrtf(var + eps) * gamma[i] + beta[i];
    }
}

/* ---- inputs and comparison ---- */

void oracle_random(float *x, size_t n, float scale, unsigned seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 4; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) / (float)(1 << 24) - 0.5f;
        }
        x[i] = scale * sum * 1.7320508f;
    }
}

void oracle_round_bf16(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u += 0x7fff + (u >> 16 & 1);
        u &= 0xffff0000u;
        memcpy(&x[i], &u, sizeof u);
    }
}

double oracle_error(const float *a, const double *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs(a[i] - b[i]);
        if (!(e <= most))
            most = isfinite(a[i]) ? e : INFINITY;
    }
    return most;
}
