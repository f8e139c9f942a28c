/* The CUDA device and its streams: transfers on a stream, the clock, recorded forwards, the table
 * of operations. Kernels are launched through kernels.h; products and attention have files of their
 * own.
 *
 * A forward is recorded as a CUDA graph the first time that it runs with a number of images, and
 * replayed after that. While shapes are prepared, candidates are timed and scratch is taken, so
 * that a forward neither allocates nor decides.
 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---- */

int vt_cuda_fail(const vt_device *dev, int error, const char *what, vt_status *st)
{
    const cuda_device *d = (const cuda_device *)dev;
    cudaGetLastError(); /* what is reported is not reported again */
    return vt_fail(st, VT_MACHINE, "%s: %s failed: %s", d->name, what,
                   cudaGetErrorString((cudaError_t)error));
}

void vt_cuda_note(vt_stream *s, int error, const char *what)
{
    if (!error || s->error.code != VT_OK)
        return;
    cudaGetLastError();
    vt_fail(&s->error, VT_MACHINE, "%s: %s failed: %s (layer %d)", vt_cuda(s)->name, what,
            cudaGetErrorString((cudaError_t)error), s->layer);
}

/* ---- transfers in order with the operations ---- */

/* The kernel reads the pinned memory itself: no buffer on the device, and it runs beside what other
 * streams compute. */
static void cuda_feed(vt_stream *s, vt_mat to, const float *from)
{
    cudaSetDevice(vt_cuda(s)->index);
    vt_cuda_note(s,
                 vt_cuda_cast(to.p, to.type, from, VT_F32, to.rows * (size_t)to.cols,
                              ((cuda_stream *)s)->stream),
                 "input");
}

static void cuda_fetch(vt_stream *s, float *to, vt_mat from)
{
    size_t bytes = vt_mat_bytes(from);
    vt_cuda_note(
        s, cudaMemcpyAsync(to, from.p, bytes, cudaMemcpyDeviceToHost, ((cuda_stream *)s)->stream),
        "output");
}

/* ---- streams ---- */

static void drop_graphs(cuda_stream *s)
{
    for (int i = 0; i < VT_CUDA_GRAPHS; i++)
        if (s->graph[i].exec)
            cudaGraphExecDestroy(s->graph[i].exec);
    memset(s->graph, 0, sizeof s->graph);
}

static void cuda_stream_close(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    if (!s)
        return;
    cudaSetDevice(vt_cuda(stream)->index);
    if (s->stream)
        cudaStreamSynchronize(s->stream);
    drop_graphs(s);
    vt_cuda_products_free(s->products);
    vt_cuda_attention_products_free(s->attention);
    if (s->workspace)
        vt_cuda_release(stream->dev, s->workspace);
    if (s->scratch)
        vt_cuda_release(stream->dev, s->scratch);
    if (s->counters)
        vt_cuda_release(stream->dev, s->counters);
    if (s->from)
        cudaEventDestroy(s->from);
    if (s->to)
        cudaEventDestroy(s->to);
    if (s->stream)
        cudaStreamDestroy(s->stream);
    vt_free(s);
}

static vt_stream *cuda_stream_open(vt_device *dev, vt_status *st)
{
    cuda_stream *s = vt_alloc(1, sizeof *s, "stream", st);
    if (!s)
        return NULL;
    s->base.dev = dev;
    s->base.layer = -1;
    s->workspace_bytes = VT_CUDA_WORKSPACE;
    cudaSetDevice(((cuda_device *)dev)->index);
    int error = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (!error)
        error = cudaEventCreate(&s->from);
    if (!error)
        error = cudaEventCreate(&s->to);
    if (!error)
        return &s->base;
    vt_cuda_fail(dev, error, "stream", st);
    cuda_stream_close(&s->base);
    return NULL;
}

static size_t cuda_stream_bytes(const vt_stream *stream)
{
    const cuda_stream *s = (const cuda_stream *)stream;
    return s->scratch_bytes + s->counter_bytes + s->workspace_bytes + VT_CUDA_STAGING;
}

/* Memory of the stream that grows to what is asked for, zeroed. Recorded forwards hold the old
 * address: they go with it. */
static int grow(cuda_stream *s, void **memory, size_t *has, size_t bytes, const char *what,
                vt_status *st)
{
    vt_device *dev = s->base.dev;
    if (bytes <= *has)
        return 0;
    if (*memory) {
        cudaStreamSynchronize(s->stream);
        drop_graphs(s);
        vt_cuda_release(dev, *memory);
    }
    *memory = NULL;
    *has = 0;
    if (!s->base.dry && !(*memory = vt_cuda_alloc(dev, bytes, what, st)))
        return -1;
    *has = bytes;
    return 0;
}

int vt_cuda_need_scratch(vt_stream *stream, size_t bytes, const char *what, vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    cudaSetDevice(vt_cuda(stream)->index); /* for all of the preparing that follows */
    if (!stream->dry && !s->workspace &&
        !(s->workspace = vt_cuda_malloc(stream->dev, s->workspace_bytes, "workspace", st)))
        return -1;
    return grow(s, (void **)&s->scratch, &s->scratch_bytes, bytes, what, st);
}

int vt_cuda_need_counters(vt_stream *stream, size_t count, vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    return grow(s, (void **)&s->counters, &s->counter_bytes, count * sizeof *s->counters,
                "counters", st);
}

static int cuda_finish(vt_stream *stream, vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    if (!stream->dry)
        vt_cuda_note(stream, cudaStreamSynchronize(s->stream), "forward");
    if (stream->error.code == VT_OK)
        return 0;
    *st = stream->error;
    return -1;
}

/* ---- clock ---- */

static void cuda_clock_start(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    cudaSetDevice(vt_cuda(stream)->index);
    vt_cuda_note(stream, cudaEventRecord(s->from, s->stream), "clock");
}

static double cuda_clock_stop(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    float ms = 0;
    int error = cudaEventRecord(s->to, s->stream);
    if (!error)
        error = cudaEventSynchronize(s->to);
    if (!error)
        error = cudaEventElapsedTime(&ms, s->from, s->to);
    vt_cuda_note(stream, error, "clock");
    return ms;
}

/* ---- recorded forwards ---- */

static cuda_graph *recorded(cuda_stream *s)
{
    for (int i = 0; i < VT_CUDA_GRAPHS; i++)
        if (s->graph[i].exec && s->graph[i].images == s->base.images)
            return &s->graph[i];
    return NULL;
}

static bool cuda_recorded(vt_stream *s)
{
    return recorded((cuda_stream *)s) != NULL;
}

static void cuda_record_begin(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    cudaSetDevice(vt_cuda(stream)->index);
    vt_cuda_note(stream, cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal),
                 "recording");
}

static void cuda_record_end(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    cuda_graph *slot = &s->graph[s->graphs % VT_CUDA_GRAPHS];
    cudaGraph_t graph = NULL;
    int error = cudaStreamEndCapture(s->stream, &graph);
    if (stream->error.code == VT_OK && !error) {
        if (slot->exec)
            cudaGraphExecDestroy(slot->exec);
        *slot = (cuda_graph){.images = stream->images};
        error = cudaGraphInstantiate(&slot->exec, graph, 0);
        s->graphs++;
    }
    if (graph)
        cudaGraphDestroy(graph);
    vt_cuda_note(stream, error, "recording");
}

static void cuda_replay(vt_stream *stream)
{
    cuda_stream *s = (cuda_stream *)stream;
    cuda_graph *g = recorded(s);
    cudaSetDevice(vt_cuda(stream)->index);
    if (g && stream->error.code == VT_OK)
        vt_cuda_note(stream, cudaGraphLaunch(g->exec, s->stream), "forward");
}

/* ---- timing of candidates ---- */

enum { ROUNDS = 7, COLD_BYTES = 96 << 20 /* more than any cache */ };

typedef struct {
    float ms[ROUNDS];
    bool works;
} times;

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* One timed run; the flush before it also gives the host time to run ahead. */
static bool time_once(cuda_stream *s, int (*run)(void *, int), void *user, int i, void *flush,
                      float *ms)
{
    if (flush && cudaMemsetAsync(flush, 0, COLD_BYTES, s->stream))
        return false;
    return !cudaEventRecord(s->from, s->stream) && !run(user, i) &&
           !cudaEventRecord(s->to, s->stream) && !cudaEventSynchronize(s->to) &&
           !cudaEventElapsedTime(ms, s->from, s->to);
}

int vt_cuda_fastest(vt_stream *stream, int candidates, int (*run)(void *user, int candidate),
                    void *user, bool cold, const char *what, vt_status *st)
{
    cuda_stream *s = (cuda_stream *)stream;
    times *t = vt_alloc((size_t)candidates, sizeof *t, "timing", st);
    void *flush = NULL;
    int best = -1;
    float unused;
    if (!t)
        return -1;
    if (cold && cudaMalloc(&flush, COLD_BYTES)) {
        cudaGetLastError();
        flush = NULL; /* then a warm cache has to do */
    }
    for (int i = 0; i < candidates; i++)
        t[i].works = time_once(s, run, user, i, NULL, &unused);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < candidates; i++)
            if (t[i].works) {
                if (!cold) /* warm, and the host ahead of the device */
                    run(user, i);
                t[i].works = time_once(s, run, user, i, flush, &t[i].ms[r]);
            }
    for (int i = 0; i < candidates; i++) {
        qsort(t[i].ms, ROUNDS, sizeof *t[i].ms, compare);
        if (t[i].works && (best < 0 || t[i].ms[ROUNDS / 2] < t[best].ms[ROUNDS / 2]))
            best = i;
    }
    cudaGetLastError(); /* of candidates that do not work */
    int error = cudaStreamSynchronize(s->stream);
    if (flush)
        cudaFree(flush);
    vt_free(t);
    if (error) /* the device is lost: times of those that ran before say nothing */
        return vt_cuda_fail(stream->dev, error, what, st);
    return best >= 0 ? best
                     : vt_fail(st, VT_MACHINE, "%s: no way to compute a %s (%d were tried)",
                               vt_cuda(stream)->name, what, candidates);
}

/* ---- operations without a file of their own ---- */

static cudaStream_t on(vt_stream *s)
{
    return ((cuda_stream *)s)->stream;
}

static void cuda_patches(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height,
                         int width, int patch_h, int patch_w)
{
    vt_cuda_note(s, vt_cuda_patches(cols, images, channels, height, width, patch_h, patch_w, on(s)),
                 "patches");
}

static void cuda_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix,
                        int prefix_tokens, const float *pos)
{
    vt_cuda_note(s, vt_cuda_tokens(x, patches, prefix, prefix_tokens, pos, s->images, on(s)),
                 "tokens");
}

static void cuda_norm(vt_stream *s, vt_mat y, vt_mat x, const float *gamma, const float *beta,
                      float eps)
{
    vt_cuda_note(s, vt_cuda_norm(y, x, gamma, beta, eps, on(s)), "norm");
}

static void cuda_moments(vt_stream *s, float *moments, vt_mat x)
{
    vt_cuda_note(s, vt_cuda_moments(moments, x, on(s)), "moments");
}

static void cuda_qk_norm(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                         const float *q_beta, const float *k_gamma, const float *k_beta, float eps)
{
    vt_cuda_note(
        s, vt_cuda_qk_norm(qkv, heads, head_dim, q_gamma, q_beta, k_gamma, k_beta, eps, on(s)),
        "qk_norm");
}

static void cuda_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first)
{
    vt_cuda_note(s, vt_cuda_pool(y, x, tokens, how, first, on(s)), "pool");
}

static void cuda_rope(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
                      const vt_rope *rope)
{
    vt_cuda_note(s, vt_cuda_rope(qkv, heads, head_dim, tokens, prefix, rope, on(s)), "rope");
}

static void cuda_halves(vt_stream *s, vt_mat y, vt_mat x, vt_halves how, float factor)
{
    vt_cuda_note(s, vt_cuda_halves(y, x, how, factor, on(s)), "halves");
}

static void cuda_add(vt_stream *s, vt_mat y, vt_mat x)
{
    vt_cuda_note(s, vt_cuda_add(y, x, on(s)), "add");
}

static void cuda_take(vt_stream *s, vt_mat y, vt_mat x, int tokens, int first)
{
    vt_cuda_note(s, vt_cuda_take(y, x, tokens, first, on(s)), "take");
}

static void cuda_latent_pool(vt_stream *s, vt_mat y, vt_mat kv, const float *q, int heads,
                             int first)
{
    vt_cuda_note(s, vt_cuda_latent_pool(y, kv, q, heads, first, on(s)), "latent_pool");
}

static void cuda_cast(vt_stream *s, vt_mat y, vt_mat x)
{
    vt_cuda_note(s, vt_cuda_cast(y.p, y.type, x.p, x.type, y.rows * (size_t)y.cols, on(s)), "cast");
}

/* ---- the device ---- */

/* Whole batches are fastest (measured with 6,304 to 50,432 tokens); this bounds the memory of huge
 * ones. */
enum { SLICE_TOKENS = 1 << 16 };

/* As many rows as a cluster of gemm_small has: more need twice the clusters. Whole forwards of
 * ViT-B/16 in fp16 on an H100, passes for the norms against products that take them in: 197 rows
 * 0.44 and 0.36 ms, 394 rows 0.48 and 0.49. */
enum { FOLD_ROWS = 256 };

static void cuda_close(vt_device *device)
{
    cuda_device *dev = (cuda_device *)device;
    if (!dev)
        return;
    cudaSetDevice(dev->index);
    vt_cuda_release_all(dev);
    if (dev->staging)
        cudaFree(dev->staging);
    vt_lt_close(dev->lt);
    vt_tuned_close(dev->tuned);
    pthread_mutex_destroy(&dev->lock);
    pthread_mutex_destroy(&dev->memory_lock);
    pthread_mutex_destroy(&dev->transfer_lock);
    vt_free(dev);
}

static const vt_backend_ops cuda_ops = {
    .name = "cuda",
    .close = cuda_close,
    .alloc = vt_cuda_alloc,
    .free = vt_cuda_release,
    .reserve = vt_cuda_reserve,
    .host_alloc = vt_cuda_host_alloc,
    .host_free = vt_cuda_host_free,
    .free_memory = vt_cuda_free_memory,
    .upload = vt_cuda_upload,
    .download = vt_cuda_download,
    .linear_load = vt_cuda_linear_load,
    .linear_free = vt_cuda_linear_free,
    .linear_bytes = vt_cuda_linear_bytes,
    .linear_fits = vt_cuda_linear_fits,
    .attention_costs = vt_cuda_attention_costs,
    .attention_serves = vt_cuda_attention_serves,
    .group_load = vt_cuda_group_load,
    .group_free = vt_cuda_group_free,
    .stream_open = cuda_stream_open,
    .stream_close = cuda_stream_close,
    .prepare_linear = vt_cuda_prepare_linear,
    .prepare_attention = vt_cuda_prepare_attention,
    .attention_scratch = vt_cuda_attention_scratch,
    .stream_bytes = cuda_stream_bytes,
    .feed = cuda_feed,
    .fetch = cuda_fetch,
    .finish = cuda_finish,
    .clock_start = cuda_clock_start,
    .clock_stop = cuda_clock_stop,
    .recorded = cuda_recorded,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .patches = cuda_patches,
    .linear = vt_cuda_linear,
    .tokens = cuda_tokens,
    .norm = cuda_norm,
    .moments = cuda_moments,
    .qk_norm = cuda_qk_norm,
    .rope = cuda_rope,
    .attention = vt_cuda_attention_run,
    .halves = cuda_halves,
    .add = cuda_add,
    .latent_pool = cuda_latent_pool,
    .pool = cuda_pool,
    .take = cuda_take,
    .cast = cuda_cast,
};

/* ---- finding it ---- */

static int no_device(int error, vt_status *st)
{
    int driver = 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    if (!driver)
        return vt_fail(st, VT_MACHINE, "cuda: no NVIDIA driver is installed");
    if (error == cudaErrorInsufficientDriver)
        return vt_fail(
            st, VT_MACHINE, "cuda: the NVIDIA driver is too old (expected CUDA %d.%d, found %d.%d)",
            CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100, driver / 1000, driver / 10 % 100);
    if (!error || error == cudaErrorNoDevice)
        return vt_fail(st, VT_MACHINE, "cuda: this machine has no usable GPU");
    return vt_fail(st, VT_MACHINE, "cuda: %s", cudaGetErrorString((cudaError_t)error));
}

static int find_device(cuda_device *dev, int index, vt_status *st)
{
    struct cudaDeviceProp *p = vt_alloc(1, sizeof *p, "device", st);
    int count = 0, error = cudaGetDeviceCount(&count);
    int failed = !p ? -1 : error || !count ? no_device(error, st) : 0;
    if (!failed && index >= count)
        failed = vt_fail(st, VT_MACHINE, "cuda:%d: there %s %d GPU%s", index,
                         count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    if (!failed && (error = cudaGetDeviceProperties(p, index)))
        failed = no_device(error, st);
    if (!failed && p->major < 8)
        failed = vt_fail(st, VT_MACHINE,
                         "cuda:%d (%s): compute capability %d.%d is not supported (expected 8.0 "
                         "or later)",
                         index, p->name, p->major, p->minor);
    if (!failed) {
        dev->index = index;
        dev->capability = 10 * p->major + p->minor;
        dev->base.wave_rows = 128 * p->multiProcessorCount; /* tiles are 128 high */
        dev->base.fold_rows = dev->capability == 90 && dev->base.dtype != VT_F32 ? FOLD_ROWS : 0;
        snprintf(dev->base.hardware, sizeof dev->base.hardware, "%.60s", p->name);
        snprintf(dev->name, sizeof dev->name, "cuda:%d (%.60s)", index, p->name);
        if ((error = cudaSetDevice(index)) || (error = cudaFree(NULL)))
            failed = vt_cuda_fail(&dev->base, error, "start", st);
    }
    vt_free(p);
    return failed;
}

/* cuBLASLt's algorithms are bound to its version. */
static vt_tuned *open_tuned(const cuda_device *dev, vt_status *st)
{
    char name[128];
    snprintf(name, sizeof name, "%s-%zu", dev->base.hardware, vt_lt_version(dev->lt));
    return vt_tuned_open(name, st);
}

vt_device *vt_cuda_open(vt_dtype dtype, bool tf32, int index, int threads, vt_status *st)
{
    static const char *const names[] = {"fp32", "fp16", "bf16"};
    cuda_device *dev = vt_alloc(1, sizeof *dev, "device", st);
    if (!dev)
        return NULL;
    dev->base = (vt_device){.ops = &cuda_ops, .dtype = dtype, .tf32 = tf32, .threads = threads};
    dev->base.arithmetic = tf32 ? "tf32" : names[dtype];
    dev->base.input = dev->base.residual = dtype;
    dev->base.slice_tokens = SLICE_TOKENS;
    pthread_mutex_init(&dev->lock, NULL);
    pthread_mutex_init(&dev->memory_lock, NULL);
    pthread_mutex_init(&dev->transfer_lock, NULL);
    if (!find_device(dev, index, st) && (dev->lt = vt_lt_open(st)) &&
        (dev->tuned = open_tuned(dev, st)))
        return &dev->base;
    cuda_close(&dev->base);
    return NULL;
}
