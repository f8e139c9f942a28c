/* The gate in front of the operations: see ops.h. Devices do the work. */
#include "kernels/ops.h"
#include "kernels/watch.h"

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
    if (on)
        s->profile_count = 0;
}

/* ---- stand-ins ---- */

void vt_clock_start(vt_stream *s)
{
    if (s->dev->ops->clock_start)
        s->dev->ops->clock_start(s);
    else
        s->clock = vt_now_ms();
}

double vt_clock_stop(vt_stream *s)
{
    return s->dev->ops->clock_stop ? s->dev->ops->clock_stop(s) : vt_now_ms() - s->clock;
}

bool vt_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim, bool biased)
{
    return !dev->ops->attention_serves || dev->ops->attention_serves(dev, kernel, head_dim, biased);
}

int vt_group_load(vt_device *dev, vt_attn_group *g, vt_status *st)
{
    return dev->ops->group_load ? dev->ops->group_load(dev, g, st) : 0;
}

void vt_group_free(vt_device *dev, vt_attn_group *g)
{
    if (dev->ops->group_free)
        dev->ops->group_free(dev, g);
}

size_t vt_free_memory(vt_device *dev)
{
    return dev->ops->free_memory ? dev->ops->free_memory(dev) : SIZE_MAX;
}

/* ---- before and after an operation ---- */

/* False where the operation must not run: after a failure, when the caller wants no more, or with
 * shapes that do not fit. */
static bool enter(vt_stream *s, const char *name, bool fits)
{
    if (s->error.code != VT_OK || vt_watch_stopped(s->watch, &s->error))
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

static void begin(vt_stream *s)
{
    if (s->profiling)
        vt_clock_start(s);
}

static void record(vt_stream *s, const char *op, const char *name)
{
    double ms = vt_clock_stop(s);
    vt_profile_entry *e = profile_entry(s, op, name);
    if (e) {
        e->ms += ms;
        e->calls += s->first == 0; /* the slices of a batch are one call */
    }
}

static void show(vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    if (s->observe && s->error.code == VT_OK)
        s->observe(s->observe_user, s, name, y, x);
}

static void end(vt_stream *s, const char *op, const char *name, vt_mat y, vt_mat x)
{
    if (s->profiling)
        record(s, op, name);
    show(s, name, y, x);
}

static bool operand(const vt_stream *s, vt_mat m)
{
    return m.type == VT_F32 || m.type == s->dev->dtype;
}

/* ---- the operations ---- */

void op_patches(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height, int width,
                int patch_h, int patch_w)
{
    size_t patches = (size_t)(height / patch_h) * (size_t)(width / patch_w) * (size_t)s->images;
    bool fits = cols.rows == patches && cols.cols == channels * patch_h * patch_w &&
                images.rows == (size_t)s->images && images.cols == channels * height * width;
    if (!enter(s, "patches", fits))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->patches(s, cols, images, channels, height, width, patch_h, patch_w);
    end(s, "patches", "patches", cols, cols);
}

/* Does the product's norm, where it has one, fit x? */
static bool norm_fits(const vt_stream *s, vt_mat x, vt_epilogue e)
{
    const vt_mat *room = e.norm ? &e.norm->room : NULL;
    return !room || (x.rows <= s->dev->fold_rows && x.cols % VT_MOMENTS == 0 &&
                     room->rows == x.rows && room->cols == x.cols && room->type == x.type);
}

void op_linear(vt_stream *s, const char *name, vt_mat y, vt_mat x, const vt_linear *w,
               vt_epilogue e)
{
    bool fits = x.rows == y.rows && operand(s, x) && operand(s, y) &&
                s->dev->ops->linear_fits(w, x.cols, y.cols) && !(e.add && e.act != VT_ACT_NONE) &&
                norm_fits(s, x, e);
    if (!enter(s, name, fits))
        return;
    if (s->preparing) {
        s->dev->ops->prepare_linear(s, y, x, w, e, &s->error);
        return;
    }
    begin(s);
    s->dev->ops->linear(s, y, x, w, e);
    end(s, "linear", name, y, x);
}

void op_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
               const float *pos)
{
    size_t rows = patches.rows + (size_t)prefix_tokens * (size_t)s->images;
    bool fits = x.rows == rows && x.cols == patches.cols && x.type == s->dev->residual &&
                patches.type == x.type;
    if (!enter(s, "tokens", fits))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->tokens(s, x, patches, prefix, prefix_tokens, pos);
    end(s, "tokens", "tokens", x, patches);
}

void op_norm(vt_stream *s, const char *name, vt_mat y, vt_mat x, const float *gamma,
             const float *beta, double eps)
{
    if (!enter(s, name, y.rows == x.rows && y.cols == x.cols && operand(s, x) && operand(s, y)))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->norm(s, y, x, gamma, beta, (float)eps);
    end(s, "norm", name, y, x);
}

void op_moments(vt_stream *s, const char *name, float *moments, vt_mat x)
{
    bool fits = x.type == s->dev->dtype && x.cols % VT_MOMENTS == 0 && x.rows <= s->dev->fold_rows;
    if (!enter(s, name, fits) || s->preparing)
        return;
    begin(s);
    s->dev->ops->moments(s, moments, x);
    end(s, "norm", name, x, x);
}

void op_qk_norm(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                const float *q_beta, const float *k_gamma, const float *k_beta, double eps)
{
    if (!enter(s, "qk_norm", qkv.cols == 3 * heads * head_dim))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->qk_norm(s, qkv, heads, head_dim, q_gamma, q_beta, k_gamma, k_beta, (float)eps);
    end(s, "norm", "qk_norm", qkv, qkv);
}

void op_rope(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
             const vt_rope *rope)
{
    bool fits = qkv.cols == 3 * heads * head_dim && qkv.rows % (size_t)tokens == 0 &&
                head_dim % 2 == 0 && (rope->heads == 1 || rope->heads == heads);
    if (!enter(s, "rope", fits && qkv.type == s->dev->dtype))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->rope(s, qkv, heads, head_dim, tokens, prefix, rope);
    end(s, "rope", "rope", qkv, qkv);
}

void op_halves(vt_stream *s, const char *name, vt_mat y, vt_mat x, vt_halves how, float factor)
{
    bool fits = y.rows == x.rows && x.cols == 2 * y.cols;
    if (!enter(s, name, fits && y.type == s->dev->dtype && x.type == y.type))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->halves(s, y, x, how, factor);
    end(s, "halves", name, y, x);
}

void op_add(vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    if (!enter(s, name, y.rows == x.rows && y.cols == x.cols && operand(s, x) && operand(s, y)))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->add(s, y, x);
    end(s, "add", name, y, x);
}

void op_latent_pool(vt_stream *s, vt_mat y, vt_mat kv, const float *q, int heads, int first)
{
    bool fits = y.rows == (size_t)s->images && kv.rows % y.rows == 0 && kv.cols == 2 * y.cols &&
                y.cols % heads == 0 && (size_t)first < kv.rows / y.rows;
    if (!enter(s, "latent_pool", fits && y.type == s->dev->dtype && kv.type == y.type))
        return;
    if (s->preparing) {
        if (s->dev->ops->prepare_latent_pool)
            s->dev->ops->prepare_latent_pool(s, kv, &s->error);
        return;
    }
    begin(s);
    s->dev->ops->latent_pool(s, y, kv, q, heads, first);
    end(s, "pool", "latent_pool", y, kv);
}

/* Each head group by itself, so that each has its time. */
static void profiled_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    vt_attn_plan alone = *plan;
    alone.groups = 1;
    for (int g = 0; g < plan->groups && s->error.code == VT_OK; g++) {
        begin(s);
        alone.group = &plan->group[g];
        s->dev->ops->attention(s, out, qkv, &alone);
        const char *name = plan->group[g].name;
        record(s, "attention", name ? name : "all");
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
        s->dev->ops->prepare_attention(s, out, qkv, plan, s->images, &s->error);
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
    if (!enter(s, "pool", fits && y.type == VT_F32 && x.type == s->dev->residual))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->pool(s, y, x, tokens, how, first);
    end(s, "pool", "pool", y, x);
}

void op_take(vt_stream *s, const char *name, vt_mat y, vt_mat x, int tokens, int first)
{
    bool fits = y.rows * (size_t)tokens == x.rows && y.cols == x.cols && first < tokens;
    if (!enter(s, name, fits && y.type == x.type && operand(s, x)) || s->preparing)
        return;
    begin(s);
    s->dev->ops->take(s, y, x, tokens, first);
    end(s, "take", name, y, x);
}

void op_cast(vt_stream *s, vt_mat y, vt_mat x)
{
    if (!enter(s, "cast", y.rows == x.rows && y.cols == x.cols && operand(s, x) && operand(s, y)))
        return;
    if (s->preparing)
        return;
    begin(s);
    s->dev->ops->cast(s, y, x);
    end(s, "cast", "cast", y, x);
}
