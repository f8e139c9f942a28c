/* The CPU device and its streams: choice of instruction set, memory, the table of operations, and
 * the operations on rows that need no file of their own (norm, qk_norm). */
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <string.h>

/* ---- instruction sets ---- */

static const vt_isa *best_isa(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &vt_isa_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &vt_isa_avx2;
#endif
    return &vt_isa_generic;
}

/* The named set where the machine has it, else NULL. The sets are ordered: a better one implies
 * those before it. */
static const vt_isa *find_isa(const char *name)
{
    const vt_isa *all[] = {
        &vt_isa_generic,
#if defined(__x86_64__)
        &vt_isa_avx2,
        &vt_isa_avx512
#endif
    };
    const vt_isa *best = best_isa();
    if (!name)
        return best;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
        if (all[i] == best)
            break;
    }
    return NULL;
}

void vt_attention_weights(const vt_attn_weights *w)
{
    best_isa()->attention_weights(w);
}

const char *vt_cpu_isa(void)
{
    return best_isa()->name;
}

/* ---- memory ---- */

static void *cpu_alloc(vt_device *dev, size_t bytes, const char *what, vt_status *st)
{
    (void)dev;
    return vt_alloc(bytes, 1, what, st);
}

static void cpu_free(vt_device *dev, void *p)
{
    (void)dev;
    vt_free(p);
}

static int cpu_upload(vt_device *dev, vt_mat to, const float *from, vt_status *st)
{
    (void)dev, (void)st;
    size_t n = to.rows * (size_t)to.cols;
    if (to.type == VT_F32) {
        memcpy(to.p, from, n * sizeof *from);
        return 0;
    }
    uint16_t *t = to.p;
    for (size_t i = 0; i < n; i++)
        t[i] = vt_f32_to_bf16(from[i]);
    return 0;
}

static int cpu_download(vt_device *dev, float *to, vt_mat from, vt_status *st)
{
    (void)dev, (void)st;
    size_t n = from.rows * (size_t)from.cols;
    if (from.type == VT_F32) {
        memcpy(to, from.p, n * sizeof *to);
        return 0;
    }
    const uint16_t *f = from.p;
    for (size_t i = 0; i < n; i++)
        to[i] = vt_bf16_to_f32(f[i]);
    return 0;
}

static void cpu_feed(vt_stream *s, vt_mat to, const float *from)
{
    if (to.p != from)
        cpu_upload(s->dev, to, from, &s->error);
}

static void cpu_fetch(vt_stream *s, float *to, vt_mat from)
{
    cpu_download(s->dev, to, from, &s->error);
}

/* ---- streams ---- */

static void cpu_stream_close(vt_stream *stream)
{
    cpu_stream *s = (cpu_stream *)stream;
    if (!s)
        return;
    for (int i = 0; stream->lane && i < stream->dev->lanes; i++)
        cpu_stream_close(stream->lane[i]);
    vt_free(stream->lane);
    vt_dnn_free_products(s->products);
    vt_free(s->scratch);
    vt_free(s);
}

static cpu_stream *new_stream(cpu_device *dev, vt_status *st)
{
    cpu_stream *s = vt_alloc(1, sizeof *s, "stream", st);
    if (s) {
        s->base.dev = &dev->base;
        s->base.layer = -1;
    }
    return s;
}

/* With lanes, which have nothing of their own until they are prepared. */
static vt_stream *cpu_stream_open(vt_device *device, vt_status *st)
{
    cpu_device *dev = (cpu_device *)device;
    cpu_stream *s = new_stream(dev, st);
    if (!s || !dev->alone)
        return s ? &s->base : NULL;
    s->base.lane = vt_alloc((size_t)device->lanes, sizeof *s->base.lane, "stream", st);
    for (int i = 0; s->base.lane && i < device->lanes; i++) {
        cpu_stream *lane = new_stream(dev->alone, st);
        s->base.lane[i] = (vt_stream *)lane;
        if (!lane) {
            cpu_stream_close(&s->base);
            return NULL;
        }
        lane->owner = s;
        lane->number = i;
    }
    if (s->base.lane)
        return &s->base;
    cpu_stream_close(&s->base);
    return NULL;
}

static size_t cpu_stream_bytes(const vt_stream *stream)
{
    const cpu_stream *s = (const cpu_stream *)stream;
    size_t bytes = s->owner ? 0 : s->scratch_bytes;
    for (int i = 0; stream->lane && i < stream->dev->lanes; i++)
        bytes += cpu_stream_bytes(stream->lane[i]);
    return bytes + s->product_bytes;
}

/* The owner's scratch serves all lanes. */
static int need_lane_scratch(cpu_stream *s, size_t bytes, const char *what, vt_status *st)
{
    cpu_stream *owner = s->owner;
    size_t each, all;
    if (!vt_add(bytes, 63, &each) || !vt_mul(each / 64 * 64, (size_t)owner->base.dev->lanes, &all))
        each = all = SIZE_MAX;
    if (vt_cpu_need_scratch(&owner->base, all, what, st))
        return -1;
    s->scratch_bytes = bytes;
    owner->lane_bytes = owner->lane_bytes < each / 64 * 64 ? each / 64 * 64 : owner->lane_bytes;
    return 0;
}

int vt_cpu_need_scratch(vt_stream *stream, size_t bytes, const char *what, vt_status *st)
{
    cpu_stream *s = (cpu_stream *)stream;
    if (bytes <= s->scratch_bytes)
        return 0;
    if (s->owner)
        return need_lane_scratch(s, bytes, what, st);
    vt_free(s->scratch);
    s->scratch = NULL;
    s->scratch_bytes = 0;
    if (!stream->dry && !(s->scratch = vt_alloc(bytes, 1, what, st)))
        return -1;
    s->scratch_bytes = bytes;
    return 0;
}

static int cpu_finish(vt_stream *s, vt_status *st)
{
    if (s->error.code == VT_OK)
        return 0;
    *st = s->error;
    return -1;
}

/* ---- operations on rows ---- */

static void cpu_norm(vt_stream *s, vt_mat y, vt_mat x, const float *gamma, const float *beta,
                     float eps)
{
    const vt_isa *isa = vt_cpu(s)->isa;
    size_t y_bytes = (size_t)y.cols * vt_dtype_bytes(y.type);
    size_t x_bytes = (size_t)x.cols * vt_dtype_bytes(x.type);
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t r = 0; r < x.rows; r++)
        isa->norm_row((char *)y.p + r * y_bytes, y.type, (const char *)x.p + r * x_bytes, x.type,
                      x.cols, gamma, beta, eps);
}

static void cpu_qk_norm(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                        const float *q_beta, const float *k_gamma, const float *k_beta, float eps)
{
    const vt_isa *isa = vt_cpu(s)->isa;
    size_t head_bytes = (size_t)head_dim * vt_dtype_bytes(qkv.type);
    size_t row_bytes = 3 * (size_t)heads * head_bytes;
#pragma omp parallel for schedule(static) num_threads(vt_team(s, qkv))
    for (size_t r = 0; r < qkv.rows; r++)
        for (int h = 0; h < 2 * heads; h++) {
            char *p = (char *)qkv.p + r * row_bytes + (size_t)h * head_bytes;
            isa->norm_row(p, qkv.type, p, qkv.type, head_dim, h < heads ? q_gamma : k_gamma,
                          h < heads ? q_beta : k_beta, eps);
        }
}

static void cpu_halves(vt_stream *s, vt_mat y, vt_mat x, vt_halves how, float factor)
{
    const vt_isa *isa = vt_cpu(s)->isa;
    size_t bytes = (size_t)y.cols * vt_dtype_bytes(y.type);
#pragma omp parallel for schedule(static) num_threads(vt_team(s, x))
    for (size_t r = 0; r < y.rows; r++)
        isa->halves_row((char *)y.p + r * bytes, (const char *)x.p + r * 2 * bytes, y.type, y.cols,
                        how, factor);
}

/* ---- the device ---- */

static void cpu_close(vt_device *dev)
{
    if (!dev)
        return;
    vt_dnn_close(((cpu_device *)dev)->dnn);
    vt_free(((cpu_device *)dev)->alone);
    vt_free(dev);
}

static const vt_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .linear_load = vt_cpu_linear_load,
    .linear_free = vt_cpu_linear_free,
    .linear_bytes = vt_cpu_linear_bytes,
    .linear_fits = vt_cpu_linear_fits,
    .attention_costs = vt_cpu_attention_costs,
    .attention_serves = vt_cpu_attention_serves,
    .stream_open = cpu_stream_open,
    .stream_close = cpu_stream_close,
    .prepare_linear = vt_cpu_prepare_linear,
    .prepare_attention = vt_cpu_prepare_attention,
    .prepare_latent_pool = vt_cpu_prepare_latent_pool,
    .attention_scratch = vt_cpu_attention_scratch,
    .stream_bytes = cpu_stream_bytes,
    .feed = cpu_feed,
    .fetch = cpu_fetch,
    .finish = cpu_finish,
    .patches = vt_cpu_patches,
    .linear = vt_cpu_linear,
    .tokens = vt_cpu_tokens,
    .norm = cpu_norm,
    .qk_norm = cpu_qk_norm,
    .rope = vt_cpu_rope,
    .attention = vt_cpu_attention,
    .halves = cpu_halves,
    .add = vt_cpu_add,
    .latent_pool = vt_cpu_latent_pool,
    .pool = vt_cpu_pool,
    .take = vt_cpu_take,
    .cast = vt_cpu_cast,
};

/* oneDNN's kernels are made for AVX-512 and AMX (and bf16 there); elsewhere ours are not slower. */
static bool onednn_is_faster(const vt_isa *isa)
{
#if VT_ONEDNN && defined(__x86_64__)
    return isa == &vt_isa_avx512;
#else
    (void)isa;
    return false;
#endif
}

/* "AMD EPYC 7B13 64-Core Processor avx2": as the kernel of the system tells it, where it does. */
static void find_hardware(cpu_device *dev)
{
    char line[256], model[64] = "cpu";
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %63[^\n]", model) == 1)
            break;
    if (f)
        fclose(f);
    snprintf(dev->base.hardware, sizeof dev->base.hardware, "%s %s", model, dev->isa->name);
}

/* Tokens that each thread takes through the model at a time: activations stay in the caches,
 * products still have enough rows. */
enum { SLICE_TOKENS = 512 };

/* Lanes share whatever the device has opened. */
static int add_lanes(cpu_device *dev, vt_status *st)
{
    dev->base.slice_tokens = SLICE_TOKENS * dev->base.threads;
    if (dev->base.threads == 1)
        return 0;
    cpu_device *alone = vt_alloc(1, sizeof *alone, "device", st);
    if (!alone)
        return -1;
    *alone = *dev;
    alone->base.threads = 1;
    dev->alone = alone;
    dev->base.lanes = dev->base.threads;
    return 0;
}

vt_device *vt_cpu_open_as(vt_dtype dtype, int threads, const char *isa, int onednn, vt_status *st)
{
    const vt_isa *found = find_isa(isa);
    if (!found) {
        vt_fail(st, VT_USAGE, "cpu: instruction set %s is not to be had (the best here is %s)", isa,
                vt_cpu_isa());
        return NULL;
    }
    if (dtype != VT_F32 && dtype != VT_BF16) {
        vt_fail(st, VT_USAGE, "cpu: type fp16 is not supported (expected fp32 or bf16)");
        return NULL;
    }
    cpu_device *dev = vt_alloc(1, sizeof *dev, "device", st);
    if (!dev)
        return NULL;
    dev->base = (vt_device){.ops = &cpu_ops, .dtype = dtype, .threads = threads};
    dev->base.arithmetic = dtype == VT_F32 ? "fp32" : "bf16";
    dev->base.host_memory = true; /* and images are fp32 */
    dev->isa = found;
    find_hardware(dev);
    if (onednn < 0)
        onednn = onednn_is_faster(found);
    if ((onednn && !(dev->dnn = vt_dnn_open(st))) || add_lanes(dev, st)) {
        cpu_close(&dev->base);
        return NULL;
    }
    return &dev->base;
}

vt_device *vt_cpu_open(vt_dtype dtype, int threads, vt_status *st)
{
    return vt_cpu_open_as(dtype, threads, NULL, -1, st);
}

const char *vt_cpu_matmul(const vt_device *dev)
{
    return ((const cpu_device *)dev)->dnn ? vt_dnn_version() : "built-in";
}
