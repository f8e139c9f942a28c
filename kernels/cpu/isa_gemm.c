/* Our own matrix product for linear layers: y tile = act(x W^T + b), or y += x W^T + b.
 *
 * x and W come packed (isa.h says how). A tile of y is computed for DEPTH inputs at a time, so that
 * the panel of weights in use stays in the nearest cache while all strips of x pass it: for each
 * depth block, for each panel, for each strip, a register tile of VT_GEMM_ROWS x 2 vectors. Partial
 * sums stay in fp32 scratch until all inputs are summed; then the epilogue writes y. The order of
 * summation depends on nothing but `in`. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/isa_vec.h"

enum { ROWS = VT_GEMM_ROWS, COLUMNS = 2 * VL, DEPTH = 256 };

/* ---- packing ---- */

VT_INLINE void pack_rows(float *to, const char *x, vt_dtype type, size_t row, int tokens, int n)
{
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < n; i++)
            to[i * ROWS + r] = r < tokens ? get1(x + (size_t)r * row, type, i) : 0;
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
            pack_rows(to + i * ROWS, from, VT_F32, row * size, tokens, n);
        else
            pack_rows(to + i * ROWS, from, VT_BF16, row * size, tokens, n);
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

/* x Phi(x) = (x + |x|) / 2 - |x| Phi(-|x|), with Phi(-a) = 2^-p(a), p fitted to it on [0, 6.5]:
 * within 1e-7 max(1, |x|) of the exact value. Beyond 20 the second term is 0. */
VT_INLINE vf gelu(vf x)
{
    vf abs = (vf)((vi)x & 0x7fffffff), a = v_min(v_splat(20.0f), abs);
    vf p = a * 1.5200881e-6f - 2.3466523e-5f;
    p = p * a + 1.0944210e-4f;
    p = p * a + 3.2630700e-4f;
    p = p * a - 7.3184900e-3f;
    p = p * a + 5.2680653e-2f;
    p = p * a + 4.5914335e-1f;
    p = p * a + 1.1511135f;
    p = p * a + 1.0f;
    return 0.5f * (x + abs) - a * v_exp2(-p);
}

/* x / (1 + 2^-t), t clamped where the quotient no longer changes (or is 0 beside any bias). */
VT_INLINE vf times_sigmoid(vf x, vf t)
{
    return x / (1.0f + v_exp2(v_min(v_splat(126.0f), -t)));
}

VT_INLINE vf activate(vf x, vt_activation act)
{
    const float log2e = 1.44269504f, root = 0.79788456f; /* sqrt(2 / pi) */
    if (act == VT_ACT_GELU)
        return gelu(x);
    if (act == VT_ACT_GELU_TANH) /* (1 + tanh u) / 2 = sigmoid(2 u) */
        return times_sigmoid(x, x * (1.0f + 0.044715f * x * x) * (2 * root * log2e));
    if (act == VT_ACT_QUICK_GELU)
        return times_sigmoid(x, x * (1.702f * log2e));
    return x;
}

/* ---- the epilogue ---- */

VT_INLINE void finish_row(const vt_gemm_tile *t, void *y, const float *sums, vt_activation act,
                          vt_dtype type, bool add)
{
    int c = 0;
    for (; c + VL <= t->outputs; c += VL) {
        vf v = activate(v_load(sums + c) + v_load(t->bias + c), act);
        v_put(y, type, c, add ? v + v_get(y, type, c) : v);
    }
    if (c == t->outputs)
        return;
    float last[VL]; /* sums and bias are padded, y is not */
    v_store(last, activate(v_load(sums + c) + v_load(t->bias + c), act));
    for (int i = 0; c < t->outputs; c++, i++)
        put1(y, type, c, add ? last[i] + get1(y, type, c) : last[i]);
}

VT_INLINE void finish_rows(const vt_gemm_tile *t, size_t stride, vt_activation act, bool add)
{
    for (int r = 0; r < t->tokens; r++) {
        char *y = (char *)t->y + (size_t)r * t->y_row * vt_dtype_bytes(t->y_type);
        const float *sums = t->sums + (size_t)r * stride;
        if (t->y_type == VT_F32)
            finish_row(t, y, sums, act, VT_F32, add);
        else
            finish_row(t, y, sums, act, VT_BF16, add);
    }
}

static void finish(const vt_gemm_tile *t, size_t stride)
{
    if (t->epilogue.add)
        finish_rows(t, stride, VT_ACT_NONE, true);
    else if (t->epilogue.act == VT_ACT_GELU)
        finish_rows(t, stride, VT_ACT_GELU, false);
    else if (t->epilogue.act == VT_ACT_GELU_TANH)
        finish_rows(t, stride, VT_ACT_GELU_TANH, false);
    else if (t->epilogue.act == VT_ACT_QUICK_GELU)
        finish_rows(t, stride, VT_ACT_QUICK_GELU, false);
    else
        finish_rows(t, stride, VT_ACT_NONE, false);
}

/* ---- a tile of y ---- */

void VT_NAME(vt_gemm_tile)(const vt_gemm_tile *t)
{
    int strips = (t->tokens + ROWS - 1) / ROWS, panels = (t->outputs + COLUMNS - 1) / COLUMNS;
    size_t stride = (size_t)panels * COLUMNS, in = (size_t)t->in, padded = in + (in & 1);
    for (size_t k = 0; k < in; k += DEPTH) {
        int depth = in - k < DEPTH ? (int)(in - k) : DEPTH;
        for (int p = 0; p < panels; p++)
            for (int s = 0; s < strips; s++) {
                float *sums = t->sums + (size_t)s * ROWS * stride + (size_t)p * COLUMNS;
                const float *x = t->x + ((size_t)s * in + k) * ROWS;
                if (t->w_type == VT_F32)
                    multiply_f32_tile(sums, stride, x,
                                      (const float *)t->w + ((size_t)p * in + k) * COLUMNS, depth,
                                      k == 0);
                else
                    multiply_bf16_tile(sums, stride, x,
                                       (const uint16_t *)t->w + ((size_t)p * padded + k) * COLUMNS,
                                       depth, k == 0);
            }
    }
    finish(t, stride);
}
