/* What the kernels must compute, in double precision and in the most obvious way, independent of
 * kernels/; and the same in float ("plain"), whose error is the measure of theirs. Also the random
 * inputs and comparisons that the tests of kernels share. */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { ORACLE_NONE, ORACLE_GELU, ORACLE_GELU_TANH, ORACLE_QUICK_GELU } oracle_act;

/* One head: out [N, head_dim] from q, k, v [N, head_dim]; on [N, N] allows pairs, NULL allows all.
 * A row without keys gives zeros. Rows are shared out over OpenMP's threads. */
void oracle_attention(double *out, const float *q, const float *k, const float *v, const bool *on,
                      int tokens, int head_dim, double scale);
/* The same with bias [N, N] added to the scaled scores; NULL: none. */
void oracle_biased_attention(double *out, const float *q, const float *k, const float *v,
                             const bool *on, const float *bias, int tokens, int head_dim,
                             double scale);
void plain_attention(float *out, const float *q, const float *k, const float *v, const bool *on,
                     int tokens, int head_dim, float scale);

/* y [rows, out] = act(x [rows, in] W [out, in]^T + bias) + add; bias and add [rows, out] may be
 * NULL. */
void oracle_linear(double *y, const float *x, const float *w, const float *bias, const float *add,
                   size_t rows, int out, int in, oracle_act act);
void plain_linear(float *y, const float *x, const float *w, const float *bias, const float *add,
                  size_t rows, int out, int in, oracle_act act);

/* LayerNorm of each row of x [rows, cols]; RMSNorm where beta is NULL. */
void oracle_norm(double *y, const float *x, size_t rows, int cols, const float *gamma,
                 const float *beta, double eps);
void plain_norm(float *y, const float *x, size_t rows, int cols, const float *gamma,
                const float *beta, float eps);

/* About normal numbers (sum of uniform ones), the same for the same seed. */
void oracle_random(float *x, size_t n, float scale, unsigned seed);

/* x as bfloat16 and back, rounded to nearest even. */
void oracle_round_bf16(float *x, size_t n);

/* max |a - b|; infinity where any a is not finite. */
double oracle_error(const float *a, const double *b, size_t n);

#endif
