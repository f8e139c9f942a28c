/* Attention by plan. */
#include "kernels/cpu/cpu.h"
#include "kernels/dispatch.h"

#include <math.h>
#include <string.h>

const struct vt_attn_costs *vt_cpu_attention_costs(const vt_device *dev)
{
    static const vt_attn_costs guess = {1, 16, 6, 20, 100, 1, 0.1, 20, 100, 0.2};
    (void)dev;
    return &guess;
}

size_t vt_cpu_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images)
{
    (void)images;
    return (size_t)dev->threads * (size_t)plan->tokens * sizeof(float);
}

int vt_cpu_prepare_attention(vt_stream *stream, const vt_attn_plan *plan, int images, vt_status *st)
{
    cpu_stream *s = (cpu_stream *)stream;
    size_t bytes = vt_cpu_attention_scratch(stream->dev, plan, images);
    if (bytes <= s->scratch_bytes)
        return 0;
    vt_free(s->scratch);
    s->scratch_bytes = 0;
    s->scratch = vt_alloc(bytes, 1, "attention scratch", st);
    if (!s->scratch)
        return -1;
    s->scratch_bytes = bytes;
    return 0;
}

static float get(vt_mat m, size_t i)
{
    return m.type == VT_F32 ? ((float *)m.p)[i] : vt_bf16_to_f32(((uint16_t *)m.p)[i]);
}

static void allowed(float *score, const vt_attn_group *g, int n, int q)
{
    for (int k = 0; k < n; k++)
        score[k] = -INFINITY;
    if (g->kernel == VT_ATTN_TILES) {
        const vt_tiles *t = g->tiles;
        for (int a = 0; a < t->groups * VT_TILE; a++)
            for (uint32_t i = t->start[a / VT_TILE];
                 t->token[a] == q && i < t->start[a / VT_TILE + 1]; i++)
                for (int b = 0; b < VT_TILE; b++) {
                    int k = t->token[(t->tile[i] & ~VT_TILE_FULL) * VT_TILE + b];
                    if (k >= 0 && (t->tile[i] & VT_TILE_FULL ||
                                   t->bits[t->bits_at[i]][a % VT_TILE] >> b & 1))
                        score[k] = 0;
                }
    } else if (g->kernel == VT_ATTN_ROWS) {
        const vt_csr *c = g->csr;
        for (uint32_t i = c->start[q]; i < c->start[q + 1]; i++)
            score[c->key16 ? c->key16[i] : c->key32[i]] = 0;
    } else {
        for (int k = 0; k < n; k++)
            if (!g->bitmap || g->bitmap->bits[(size_t)q * g->bitmap->stride + k / 8] >> k % 8 & 1)
                score[k] = 0;
    }
}

static void one_row(float *score, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                    const vt_attn_group *g, int image, int head, int q)
{
    int n = plan->tokens, d = plan->head_dim;
    size_t width = (size_t)plan->heads * d, row = 3 * width;
    size_t base = (size_t)image * n * row + (size_t)head * d;
    allowed(score, g, n, q);
    float max = -INFINITY, sum = 0;
    for (int k = 0; k < n; k++) {
        float dot = 0;
        for (int i = 0; score[k] == 0 && i < d; i++)
            dot += get(qkv, base + q * row + i) * get(qkv, base + k * row + width + i);
        score[k] += dot * plan->scale;
        max = score[k] > max ? score[k] : max;
    }
    for (int k = 0; k < n; k++) {
        score[k] = score[k] == -INFINITY ? 0 : expf(score[k] - max);
        sum += score[k];
    }
    for (int i = 0; i < d; i++) {
        float v = 0;
        for (int k = 0; k < n; k++)
            v += score[k] == 0 ? 0 : score[k] * get(qkv, base + k * row + 2 * width + i);
        size_t o = ((size_t)image * n + q) * width + (size_t)head * d + i;
        if (out.type == VT_F32)
            ((float *)out.p)[o] = sum > 0 ? v / sum : 0;
        else
            ((uint16_t *)out.p)[o] = vt_f32_to_bf16(sum > 0 ? v / sum : 0);
    }
}

void vt_cpu_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    int n = plan->tokens, images = (int)(qkv.rows / (size_t)n), threads = s->dev->threads;
    float *scratch = (float *)((cpu_stream *)s)->scratch;
    for (int i = 0; i < plan->groups; i++) {
        const vt_attn_group *g = &plan->group[i];
        for (int item = 0; item < images * g->heads; item++)
#pragma omp parallel for schedule(static) num_threads(threads)
            for (int t = 0; t < threads; t++)
                for (int q = t; q < n; q += threads)
                    one_row(scratch + (size_t)t * n, out, qkv, plan, g, item / g->heads,
                            g->head[item % g->heads], q);
    }
}
