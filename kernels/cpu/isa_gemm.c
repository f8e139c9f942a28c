/* Our own matrix product for linear layers: y tile = act(x W^T + b), or y += x W^T + b.
 *
 * x and W come packed (isa.h says how). A tile of y is computed for DEPTH inputs at a time, so that
 * the panel of weights in use stays in the nearest cache while all strips of x pass it: for each
 * depth block, for each panel, for each strip, a register tile of VT_GEMM_ROWS x 2 vectors. Partial
 * sums stay in fp32 scratch; with the last depth block the epilogue writes each register tile to y.
 * The order of summation depends on nothing but `in`. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

enum { ROWS = VT_GEMM_ROWS, COLUMNS = 2 * VL, DEPTH = 256 };

/* ---- packing ---- */

/* Four inputs of rows r and r + 1, of r + 2 and r + 3, side by side. */
VT_INLINE void pack_four(float *to, const void *x, vt_dtype type, size_t row, int i)
{
    V_UNROLL
    for (int r = 0; r < ROWS; r += 2) {
        v4 a = v4_get(x, type, (size_t)r * row + (size_t)i);
        v4 b = v4_get(x, type, (size_t)(r + 1) * row + (size_t)i);
        v4 low = V4_PICK(a, b, 0, 4, 1, 5), high = V4_PICK(a, b, 2, 6, 3, 7);
        memcpy(to + r, &low, 8);
        memcpy(to + ROWS + r, (const char *)&low + 8, 8);
        memcpy(to + 2 * ROWS + r, &high, 8);
        memcpy(to + 3 * ROWS + r, (const char *)&high + 8, 8);
    }
}

/* The same inputs of the next strip: most of x is too far away to be waited for. */
VT_INLINE void fetch_next(const char *x, vt_dtype type, size_t row, int i)
{
    V_UNROLL
    for (int r = ROWS; r < 2 * ROWS; r++)
        __builtin_prefetch(x + ((size_t)r * row + (size_t)i) * vt_dtype_bytes(type));
}

VT_INLINE void pack_rows(float *to, const char *x, vt_dtype type, size_t row, int tokens, int n)
{
    int i = 0;
    for (; tokens == ROWS && i + 4 <= n; i += 4) {
        if (i % 16 == 0)
            fetch_next(x, type, row, i);
        pack_four(to + i * ROWS, x, type, row, i);
    }
    for (; i < n; i++)
        for (int r = 0; r < ROWS; r++)
            to[i * ROWS + r] =
                r < tokens ? get1(x + (size_t)r * row * vt_dtype_bytes(type), type, i) : 0;
}

/* A piece of each row at a time, so that both sides stay in the nearest cache. */
void VT_NAME(vt_pack_strip)(float *to, const void *x, vt_dtype type, size_t row, int tokens, int in)
{
    enum { PIECE = 128 };
    size_t size = vt_dtype_bytes(type);
    for (int i = 0; i < in; i += PIECE) {
        const char *from = (const char *)x + (size_t)i * size;
        int n = in - i < PIECE ? in - i : PIECE;
        if (type == VT_F32)
            pack_rows(to + i * ROWS, from, VT_F32, row, tokens, n);
        else
            pack_rows(to + i * ROWS, from, VT_BF16, row, tokens, n);
    }
}

void VT_NAME(vt_pack_panel)(void *to, vt_dtype type, const float *w, int outputs, int in)
{
    float *f = to;
    uint16_t *h = to;
    for (int i = 0; i < in + (in & 1); i++)
        for (int c = 0; c < COLUMNS; c++) {
            float v = c < outputs && i < in ? w[(size_t)c * (size_t)in + (size_t)i] : 0;
            if (type == VT_F32 && i < in)
                f[(size_t)i * COLUMNS + (size_t)c] = v;
            else if (type == VT_BF16)
                h[((size_t)(i / 2) * COLUMNS + (size_t)c) * 2 + (size_t)(i & 1)] =
                    vt_f32_to_bf16(v);
        }
}

/* ---- the register tile ---- */

/* acc += x [depth][ROWS] * w [depth][COLUMNS]. */
VT_INLINE void multiply_f32(vf *a, vf *b, const float *x, const float *w, int depth)
{
    for (int i = 0; i < depth; i++, x += ROWS, w += COLUMNS) {
        vf u = v_load(w), v = v_load(w + VL);
        V_UNROLL
        for (int r = 0; r < ROWS; r++) {
            vf f = v_splat(x[r]);
            a[r] += f * u;
            b[r] += f * v;
        }
    }
}

/* The same with pairs of bf16 weights in the halves of 32 bits: the earlier input in the lower. */
VT_INLINE void multiply_bf16(vf *a, vf *b, const float *x, const uint16_t *w, int depth)
{
    for (int i = 0; i < depth; i += 2, x += 2 * ROWS, w += 2 * COLUMNS) {
        vu p, q;
        memcpy(&p, w, sizeof p);
        memcpy(&q, w + 2 * VL, sizeof q);
        vf u = (vf)(p << 16), v = (vf)(q << 16);
        V_UNROLL
        for (int r = 0; r < ROWS; r++) {
            vf f = v_splat(x[r]);
            a[r] += f * u;
            b[r] += f * v;
        }
        if (i + 1 == depth)
            break; /* an odd number of inputs: x has no row for the last one */
        u = (vf)(p & 0xffff0000u), v = (vf)(q & 0xffff0000u);
        V_UNROLL
        for (int r = 0; r < ROWS; r++) {
            vf f = v_splat(x[ROWS + r]);
            a[r] += f * u;
            b[r] += f * v;
        }
    }
}

/* sums [ROWS][stride] = (first ? 0 : sums) + x * w. */
VT_INLINE void multiply(float *sums, size_t stride, const float *x, const void *w, vt_dtype type,
                        int depth, bool first)
{
    vf a[ROWS], b[ROWS];
    V_UNROLL
    for (int r = 0; r < ROWS; r++)
        a[r] = b[r] = (vf){0};
    if (type == VT_F32)
        multiply_f32(a, b, x, w, depth);
    else
        multiply_bf16(a, b, x, w, depth);
    V_UNROLL
    for (int r = 0; r < ROWS; r++) {
        float *s = sums + (size_t)r * stride;
        v_store(s, first ? a[r] : v_load(s) + a[r]);
        v_store(s + VL, first ? b[r] : v_load(s + VL) + b[r]);
    }
}

static void multiply_f32_tile(float *sums, size_t stride, const float *x, const float *w, int depth,
                              bool first)
{
    multiply(sums, stride, x, w, VT_F32, depth, first);
}

static void multiply_bf16_tile(float *sums, size_t stride, const float *x, const uint16_t *w,
                               int depth, bool first)
{
    multiply(sums, stride, x, w, VT_BF16, depth, first);
}

/* ---- activations ---- */

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), with Phi(-a) = 2^p(a), p fitted to it on [0, 6.5]: within
 * 1e-7 max(1, |x|) of the exact value. Beyond 20 the second term is 0. n vectors, as v_exp2_each. */
VT_INLINE void gelu(vf *x, int n)
{
    const float c[] = {2.3466523e-5f,  -1.0944210e-4f, -3.2630700e-4f, 7.3184900e-3f,
                       -5.2680653e-2f, -4.5914335e-1f, -1.1511135f,    -1.0f};
    vf a[V_EXP2], p[V_EXP2];
    V_UNROLL
    for (int i = 0; i < n; i++) {
        a[i] = v_min(v_splat(20.0f), (vf)((vi)x[i] & 0x7fffffff));
        p[i] = v_splat(-1.5200881e-6f);
    }
    V_UNROLL
    for (int k = 0; k < 8; k++)
        V_UNROLL
    for (int i = 0; i < n; i++)
        p[i] = p[i] * a[i] + c[k];
    v_exp2_each(p, n);
    V_UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_max((vf){0}, x[i]) - a[i] * p[i]; /* in this order NaN is handed on */
}

/* x / (1 + 2^-t), t clamped where the quotient no longer changes (or is 0 beside any bias). */
VT_INLINE vf times_sigmoid(vf x, vf t)
{
    return x / (1.0f + v_exp2(v_min(v_splat(126.0f), -t)));
}

VT_INLINE void activate(vf *x, int n, vt_activation act)
{
    const float log2e = 1.44269504f, root = 0.79788456f; /* sqrt(2 / pi) */
    if (act == VT_ACT_GELU)
        gelu(x, n);
    V_UNROLL
    for (int i = 0; i < n; i++)
        if (act == VT_ACT_GELU_TANH) /* (1 + tanh u) / 2 = sigmoid(2 u) */
            x[i] =
                times_sigmoid(x[i], x[i] * (1.0f + 0.044715f * x[i] * x[i]) * (2 * root * log2e));
        else if (act == VT_ACT_QUICK_GELU)
            x[i] = times_sigmoid(x[i], x[i] * (1.702f * log2e));
}

/* ---- the epilogue ---- */

/* A row of a register tile, `outputs` of which are real: to y, with which the sum is where add. */
VT_INLINE void finish_row(void *y, const float *sums, const float *bias, int outputs,
                          vt_activation act, vt_dtype type, bool add)
{
    vf v[2] = {v_load(sums) + v_load(bias), v_load(sums + VL) + v_load(bias + VL)};
    activate(v, 2, act);
    if (outputs >= COLUMNS) {
        v_put(y, type, 0, add ? v[0] + v_get(y, type, 0) : v[0]);
        v_put(y, type, VL, add ? v[1] + v_get(y, type, VL) : v[1]);
        return;
    }
    float last[COLUMNS]; /* sums and bias are padded, y is not */
    memcpy(last, v, sizeof last);
    for (int c = 0; c < outputs; c++)
        put1(y, type, c, add ? last[c] + get1(y, type, c) : last[c]);
}

VT_INLINE char *place(const vt_gemm_tile *t, int row, int column)
{
    size_t size = vt_dtype_bytes(t->y_type);
    return (char *)t->y + ((size_t)row * t->y_row + (size_t)column) * size;
}

/* Where a register tile will go in y: too far away to be waited for. */
VT_INLINE void fetch_place(const vt_gemm_tile *t, int row, int column)
{
    const char *y = place(t, row, column);
    for (int r = 0; r < ROWS && row + r < t->tokens; r++)
        __builtin_prefetch(y + (size_t)r * t->y_row * vt_dtype_bytes(t->y_type), 1);
}

VT_INLINE void finish_rows(const vt_gemm_tile *t, const float *sums, size_t stride, int row,
                           int column, vt_activation act, bool add)
{
    int rows = t->tokens - row < ROWS ? t->tokens - row : ROWS, outputs = t->outputs - column;
    size_t step = t->y_row * vt_dtype_bytes(t->y_type);
    char *y = place(t, row, column);
    for (int r = 0; r < rows; r++, y += step, sums += stride)
        if (t->y_type == VT_F32)
            finish_row(y, sums, t->bias + column, outputs, act, VT_F32, add);
        else
            finish_row(y, sums, t->bias + column, outputs, act, VT_BF16, add);
}

static void finish(const vt_gemm_tile *t, const float *sums, size_t stride, int row, int column)
{
    if (t->epilogue.add)
        finish_rows(t, sums, stride, row, column, VT_ACT_NONE, true);
    else if (t->epilogue.act == VT_ACT_GELU)
        finish_rows(t, sums, stride, row, column, VT_ACT_GELU, false);
    else if (t->epilogue.act == VT_ACT_GELU_TANH)
        finish_rows(t, sums, stride, row, column, VT_ACT_GELU_TANH, false);
    else if (t->epilogue.act == VT_ACT_QUICK_GELU)
        finish_rows(t, sums, stride, row, column, VT_ACT_QUICK_GELU, false);
    else
        finish_rows(t, sums, stride, row, column, VT_ACT_NONE, false);
}

/* ---- a tile of y ---- */

/* Where one depth block is all, the sums of every register tile can use the same near memory. */
void VT_NAME(vt_gemm_tile)(const vt_gemm_tile *t)
{
    int strips = (t->tokens + ROWS - 1) / ROWS, panels = (t->outputs + COLUMNS - 1) / COLUMNS;
    size_t in = (size_t)t->in, padded = in + (in & 1);
    size_t stride = in <= DEPTH ? COLUMNS : (size_t)panels * COLUMNS;
    for (size_t k = 0; k < in; k += DEPTH) {
        int depth = in - k < DEPTH ? (int)(in - k) : DEPTH;
        for (int p = 0; p < panels; p++)
            for (int s = 0; s < strips; s++) {
                float *sums = t->sums;
                if (k + DEPTH >= in)
                    fetch_place(t, s * ROWS, p * COLUMNS);
                if (in > DEPTH)
                    sums += (size_t)s * ROWS * stride + (size_t)p * COLUMNS;
                const float *x = t->x + ((size_t)s * in + k) * ROWS;
                if (t->w_type == VT_F32)
                    multiply_f32_tile(sums, stride, x,
                                      (const float *)t->w + ((size_t)p * in + k) * COLUMNS, depth,
                                      k == 0);
                else
                    multiply_bf16_tile(sums, stride, x,
                                       (const uint16_t *)t->w + ((size_t)p * padded + k) * COLUMNS,
                                       depth, k == 0);
                if (k + DEPTH >= in)
                    finish(t, sums, stride, s * ROWS, p * COLUMNS);
            }
    }
}
