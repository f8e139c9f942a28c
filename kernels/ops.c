/* The gate in front of the operations: see ops.h. Devices do the work. */
#include "kernels/ops.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

double vt_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

void vt_profile(vt_stream *s, bool on)
{
    s->profiling = on;
    s->profile_count = 0;
}

/* ---- before and after an operation ---- */

/* False where the operation must not run: after a failure, or with shapes that do not fit. */
static bool enter(vt_stream *s, const char *name, bool fits)
{
    if (s->error.code != VT_OK)
        return false;
    if (!fits) {
        vt_fail(&s->error, VT_MACHINE, "%s: shapes do not fit together (layer %d)", name, s->layer);
        return false;
    }
    return true;
}

static vt_profile_entry *profile_entry(vt_stream *s, const char *op, const char *name)
{
    for (int i = 0; i < s->profile_count; i++) {
        vt_profile_entry *e = &s->profile[i];
        if (e->layer == s->layer && !strcmp(e->op, op) && !strcmp(e->name, name))
            return e;
    }
    if (s->profile_count == s->profile_room) {
        int room = s->profile_room ? 2 * s->profile_room : 256;
        vt_profile_entry *more = vt_alloc((size_t)room, sizeof *more, "profile", &s->error);
        if (!more)
            return NULL;
        if (s->profile)
            memcpy(more, s->profile, sizeof *more * (size_t)s->profile_count);
        vt_free(s->profile);
        s->profile = more;
        s->profile_room = room;
    }
    vt_profile_entry *e = &s->profile[s->profile_count++];
    *e = (vt_profile_entry){.op = op, .layer = s->layer};
    snprintf(e->name, sizeof e->name, "%s", name);
    return e;
}

static double begin(const vt_stream *s)
{
    return s->profiling ? vt_now_ms() : 0;
}

static void record(vt_stream *s, const char *op, const char *name, double start)
{
    double ms = vt_now_ms() - start;
    vt_profile_entry *e = profile_entry(s, op, name);
    if (e) {
        e->ms += ms;
        e->calls++;
    }
}

static void show(vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    if (s->observe && s->error.code == VT_OK)
        s->observe(s->observe_user, s, name, y, x);
}

static void end(vt_stream *s, const char *op, const char *name, double start, vt_mat y, vt_mat x)
{
    if (s->profiling)
        record(s, op, name, start);
    show(s, name, y, x);
}

static bool operand(const vt_stream *s, vt_mat m)
{
    return m.type == VT_F32 || m.type == s->dev->dtype;
}

/* ---- the operations ---- */

void op_patches(vt_stream *s, vt_mat cols, const float *images, int channels, int height, int width,
                int patch_h, int patch_w)
{
    size_t patches = (size_t)(height / patch_h) * (size_t)(width / patch_w) * (size_t)s->images;
    if (!enter(s, "patches", cols.rows == patches && cols.cols == channels * patch_h * patch_w))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->patches(s, cols, images, channels, height, width, patch_h, patch_w);
    end(s, "patches", "patches", t, cols, cols);
}

void op_linear(vt_stream *s, const char *name, vt_mat y, vt_mat x, const vt_linear *w,
               vt_epilogue e)
{
    bool fits = x.rows == y.rows && operand(s, x) && operand(s, y) &&
                s->dev->ops->linear_fits(w, x.cols, y.cols) && !(e.add && e.act != VT_ACT_NONE);
    if (!enter(s, name, fits))
        return;
    if (s->preparing) {
        s->dev->ops->prepare_linear(s, w, x.rows, x.type, y.type, e, &s->error);
        return;
    }
    double t = begin(s);
    s->dev->ops->linear(s, y, x, w, e);
    end(s, "linear", name, t, y, x);
}

void op_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
               const float *pos)
{
    size_t rows = patches.rows + (size_t)prefix_tokens * (size_t)s->images;
    if (!enter(s, "tokens", x.rows == rows && x.cols == patches.cols))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->tokens(s, x, patches, prefix, prefix_tokens, pos);
    end(s, "tokens", "tokens", t, x, patches);
}

void op_norm(vt_stream *s, const char *name, vt_mat y, vt_mat x, const float *gamma,
             const float *beta, double eps)
{
    if (!enter(s, name, y.rows == x.rows && y.cols == x.cols && operand(s, x) && operand(s, y)))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->norm(s, y, x, gamma, beta, (float)eps);
    end(s, "norm", name, t, y, x);
}

void op_qk_norm(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                const float *q_beta, const float *k_gamma, const float *k_beta, double eps)
{
    if (!enter(s, "qk_norm", qkv.cols == 3 * heads * head_dim))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->qk_norm(s, qkv, heads, head_dim, q_gamma, q_beta, k_gamma, k_beta, (float)eps);
    end(s, "norm", "qk_norm", t, qkv, qkv);
}

/* Each head group by itself, so that each has its time. */
static void profiled_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    vt_attn_plan alone = *plan;
    alone.groups = 1;
    for (int g = 0; g < plan->groups && s->error.code == VT_OK; g++) {
        double t = begin(s);
        alone.group = &plan->group[g];
        s->dev->ops->attention(s, out, qkv, &alone);
        const char *name = plan->group[g].name;
        record(s, "attention", name ? name : "all", t);
    }
}

void op_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    int width = plan->heads * plan->head_dim;
    size_t rows = (size_t)s->images * (size_t)plan->tokens;
    bool fits = qkv.rows == rows && out.rows == rows && qkv.cols == 3 * width && out.cols == width;
    if (!enter(s, "attention", fits))
        return;
    if (s->preparing) {
        s->dev->ops->prepare_attention(s, plan, s->images, &s->error);
        return;
    }
    if (s->profiling)
        profiled_attention(s, out, qkv, plan);
    else
        s->dev->ops->attention(s, out, qkv, plan);
    show(s, "attention", out, qkv);
}

void op_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first)
{
    bool fits = y.rows * (size_t)tokens == x.rows && y.cols == x.cols && first < tokens;
    if (!enter(s, "pool", fits && y.type == VT_F32 && x.type == VT_F32))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->pool(s, y, x, tokens, how, first);
    end(s, "pool", "pool", t, y, x);
}

void op_cast(vt_stream *s, vt_mat y, vt_mat x)
{
    if (!enter(s, "cast", y.rows == x.rows && y.cols == x.cols && operand(s, x) && operand(s, y)))
        return;
    if (s->preparing)
        return;
    double t = begin(s);
    s->dev->ops->cast(s, y, x);
    end(s, "cast", "cast", t, y, x);
}
