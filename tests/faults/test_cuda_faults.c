/* The GPU where its calls fail: each of the CUDA runtime's and cuBLASLt's in turn, once (then work
 * goes on as if nothing had been), or with all calls after it, as where a kernel has brought the
 * device down. Each time: the right result or one line; everything given back.
 *
 * The linker puts __wrap_NAME before the functions that are named in the Makefile; the product
 * knows nothing of it.
 */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "engine/vitrun.h"
#include "tests/support_cuda.h"

#define VIT   "tests/golden/models/vit.safetensors"
#define WIDE  "tests/golden/models/head80_bf16.safetensors"
#define MASKS "tests/golden/models/masks/per_head.json"

/* ---- the plan ---- */
static struct {
    bool armed;
    long nth, calls, failed;
    bool lost;    /* all calls after the first that fails do, too */
    size_t limit; /* of device memory in bytes; 0: none */
    char place[64];
} plan;
static struct {
    long blocks, host_blocks, streams, events, graphs;
    size_t bytes;
} live;
static cudaError_t last_error; /* what cudaGetLastError is to say */

/* 0, or the error that this call returns. */
static cudaError_t fate(const char *name)
{
    if (!plan.armed)
        return cudaSuccess;
    long n = ++plan.calls;
    if (n < plan.nth || (n > plan.nth && !plan.lost))
        return cudaSuccess;
    if (plan.failed++ == 0)
        snprintf(plan.place, sizeof plan.place, "%s", name);
    return last_error = plan.lost ? cudaErrorIllegalAddress : cudaErrorUnknown;
}

static void arm(long nth, bool lost)
{
    memset(&plan, 0, sizeof plan);
    plan.nth = nth;
    plan.lost = lost;
    plan.armed = true;
}

static long disarm(void)
{
    plan.armed = false;
    last_error = cudaSuccess;
    return plan.failed;
}

/* ---- the runtime ---- */
#define WRAP(name, parameters, arguments)                                                          \
    cudaError_t __real_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters                                                           \
    {                                                                                              \
        cudaError_t error = fate(#name);                                                           \
        return error ? error : __real_##name arguments;                                            \
    }

/* These are done all the same: what they give back is given back, what they end has ended. */
#define WRAP_DONE(name, parameters, arguments, after)                                              \
    cudaError_t __real_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters                                                           \
    {                                                                                              \
        cudaError_t error = fate(#name), real = __real_##name arguments;                           \
        after;                                                                                     \
        return error ? error : real;                                                               \
    }

/* These make something that is counted. */
#define WRAP_MAKE(name, parameters, arguments, count)                                              \
    cudaError_t __real_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters                                                           \
    {                                                                                              \
        cudaError_t error = fate(#name);                                                           \
        if (!error)                                                                                \
            error = __real_##name arguments;                                                       \
        live.count += !error;                                                                      \
        return error;                                                                              \
    }

WRAP(cudaSetDevice, (int device), (device))
WRAP(cudaGetDevice, (int *device), (device))
WRAP(cudaGetDeviceCount, (int *count), (count))
WRAP(cudaGetDeviceProperties, (struct cudaDeviceProp * p, int device), (p, device))
WRAP(cudaDeviceGetAttribute, (int *value, enum cudaDeviceAttr a, int device), (value, a, device))
WRAP(cudaMemGetInfo, (size_t * available, size_t *all), (available, all))
WRAP(cudaMemcpy, (void *to, const void *from, size_t n, enum cudaMemcpyKind kind),
     (to, from, n, kind))
WRAP(cudaMemcpyAsync,
     (void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s),
     (to, from, n, kind, s))
WRAP(cudaMemset, (void *p, int value, size_t n), (p, value, n))
WRAP(cudaMemsetAsync, (void *p, int value, size_t n, cudaStream_t s), (p, value, n, s))
WRAP(cudaEventRecord, (cudaEvent_t e, cudaStream_t s), (e, s))
WRAP(cudaEventElapsedTime, (float *ms, cudaEvent_t from, cudaEvent_t to), (ms, from, to))
WRAP(cudaGraphLaunch, (cudaGraphExec_t g, cudaStream_t s), (g, s))
WRAP(cudaStreamBeginCapture, (cudaStream_t s, enum cudaStreamCaptureMode mode), (s, mode))
WRAP(cudaFuncSetAttribute, (const void *f, enum cudaFuncAttribute a, int value), (f, a, value))
WRAP(cudaLaunchKernelExC, (const cudaLaunchConfig_t *config, const void *f, void **arguments),
     (config, f, arguments))
WRAP(cudaGetDriverEntryPointByVersion,
     (const char *name, void **at, unsigned version, unsigned long long flags,
      enum cudaDriverEntryPointQueryResult *result),
     (name, at, version, flags, result))
WRAP_DONE(cudaStreamSynchronize, (cudaStream_t s), (s), )
WRAP_DONE(cudaEventSynchronize, (cudaEvent_t e), (e), )
WRAP_DONE(cudaFreeHost, (void *p), (p), live.host_blocks -= p != NULL)
WRAP_DONE(cudaEventDestroy, (cudaEvent_t e), (e), live.events--)
WRAP_DONE(cudaStreamDestroy, (cudaStream_t s), (s), live.streams--)
WRAP_DONE(cudaGraphDestroy, (cudaGraph_t g), (g), live.graphs--)
WRAP_DONE(cudaGraphExecDestroy, (cudaGraphExec_t g), (g), live.graphs--)
WRAP_DONE(cudaStreamEndCapture, (cudaStream_t s, cudaGraph_t *g), (s, g), live.graphs += *g != NULL)
WRAP_MAKE(cudaHostAlloc, (void **p, size_t n, unsigned flags), (p, n, flags), host_blocks)
WRAP_MAKE(cudaEventCreate, (cudaEvent_t * e), (e), events)
WRAP_MAKE(cudaStreamCreateWithFlags, (cudaStream_t * s, unsigned flags), (s, flags), streams)
WRAP_MAKE(cudaGraphInstantiate, (cudaGraphExec_t * g, cudaGraph_t from, unsigned long long flags),
          (g, from, flags), graphs)

cudaError_t __real_cudaGetLastError(void);
cudaError_t __wrap_cudaGetLastError(void);
cudaError_t __wrap_cudaGetLastError(void)
{
    cudaError_t error = last_error, real = __real_cudaGetLastError();
    if (!plan.lost)
        last_error = cudaSuccess;
    return error ? error : real;
}

/* Blocks and their sizes, for the limit. */
enum { BLOCKS = 4096 };
static struct {
    void *p;
    size_t n;
} block[BLOCKS];

cudaError_t __real_cudaMalloc(void **p, size_t n);
cudaError_t __wrap_cudaMalloc(void **p, size_t n);
cudaError_t __wrap_cudaMalloc(void **p, size_t n)
{
    cudaError_t error = fate("cudaMalloc");
    if (error == cudaErrorUnknown || (!error && plan.limit && live.bytes + n > plan.limit))
        error = last_error = cudaErrorMemoryAllocation;
    if (error || (error = __real_cudaMalloc(p, n)))
        return error;
    int i = 0;
    while (block[i].p)
        assert_true(++i < BLOCKS);
    block[i].p = *p;
    block[i].n = n;
    live.bytes += n;
    live.blocks++;
    return cudaSuccess;
}

cudaError_t __real_cudaFree(void *p);
cudaError_t __wrap_cudaFree(void *p);
cudaError_t __wrap_cudaFree(void *p)
{
    cudaError_t error = fate("cudaFree"), real = __real_cudaFree(p);
    for (int i = 0; p && i < BLOCKS; i++)
        if (block[i].p == p) {
            block[i].p = NULL;
            live.bytes -= block[i].n;
            live.blocks--;
        }
    return error ? error : real;
}

/* ---- cuBLASLt, whose functions are looked up at run time ---- */
#define LT(name, parameters, arguments)                                                            \
    static __typeof__(cublasLt##name) *real_##name;                                                \
    static cublasStatus_t my_##name parameters                                                     \
    {                                                                                              \
        return fate("cublasLt" #name) ? CUBLAS_STATUS_INTERNAL_ERROR : real_##name arguments;      \
    }

LT(Create, (cublasLtHandle_t * h), (h))
LT(MatmulDescCreate, (cublasLtMatmulDesc_t * d, cublasComputeType_t c, cudaDataType_t t), (d, c, t))
LT(MatmulDescSetAttribute,
   (cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v, size_t n),
   (d, a, v, n))
LT(MatrixLayoutCreate,
   (cublasLtMatrixLayout_t * l, cudaDataType t, uint64_t rows, uint64_t columns, int64_t pitch),
   (l, t, rows, columns, pitch))
LT(MatrixLayoutSetAttribute,
   (cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void *v, size_t n),
   (l, a, v, n))
LT(MatmulPreferenceCreate, (cublasLtMatmulPreference_t * p), (p))
LT(MatmulAlgoGetHeuristic,
   (cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t e, cublasLtMatmulPreference_t p, int most,
    cublasLtMatmulHeuristicResult_t *r, int *found),
   (h, d, a, b, c, e, p, most, r, found))
LT(Matmul,
   (cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
    cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
    const void *c, cublasLtMatrixLayout_t lc, void *y, cublasLtMatrixLayout_t ly,
    const cublasLtMatmulAlgo_t *algo, void *work, size_t bytes, cudaStream_t s),
   (h, d, alpha, a, la, b, lb, beta, c, lc, y, ly, algo, work, bytes, s))

void *__real_dlsym(void *library, const char *name);
void *__wrap_dlsym(void *library, const char *name);
void *__wrap_dlsym(void *library, const char *name)
{
    void *real = __real_dlsym(library, name);
#define MINE(which)                                                                                \
    if (real && strcmp(name, "cublasLt" #which) == 0) {                                            \
        *(void **)&real_##which = real;                                                            \
        return (void *)my_##which;                                                                 \
    }
    MINE(Create)
    MINE(MatmulDescCreate)
    MINE(MatmulDescSetAttribute)
    MINE(MatrixLayoutCreate)
    MINE(MatrixLayoutSetAttribute)
    MINE(MatmulPreferenceCreate)
    MINE(MatmulAlgoGetHeuristic)
    MINE(Matmul)
#undef MINE
    return real;
}

/* ---- work ---- */
typedef struct {
    const char *name, *weights, *dtype, *masks;
} model;

static const model models[] = {
    {"dense fp16", VIT, "fp16", NULL},
    {"masked fp32", VIT, "fp32", MASKS},
    {"wide heads bf16", WIDE, "bf16", NULL},
};

enum { OUTPUTS = 64 };

static void fill(const vitrun_model *m, vitrun_context *c, int images)
{
    const vitrun_info *i = vitrun_info_get(m);
    size_t n =
        (size_t)images * (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
    float *x = vitrun_context_input(c);
    for (size_t k = 0; k < n; k++)
        x[k] = (float)(k * 7919 % 1000) / 500 - 1;
}

static vitrun_model *open_model(const model *w, vitrun_error *err)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = w->weights, o.device = "cuda", o.dtype = w->dtype, o.mask_config = w->masks;
    o.threads = 1;
    return vitrun_open(&o, err);
}

/* A forward that is recorded, and one that is replayed. */
static int forwards(vitrun_model *m, vitrun_context *c, float *logits, vitrun_error *err)
{
    vitrun_outputs out = {.logits = logits};
    assert_true(vitrun_info_get(m)->outputs <= OUTPUTS);
    fill(m, c, 1);
    return vitrun_forward(c, 1, &out, err) || vitrun_forward(c, 1, &out, err) ? -1 : 0;
}

static int whole(const model *w, float *logits, vitrun_error *err)
{
    vitrun_model *m = open_model(w, err);
    vitrun_context *c = m ? vitrun_context_open(m, 1, err) : NULL;
    int bad = c ? forwards(m, c, logits, err) : -1;
    vitrun_context_close(c);
    vitrun_close(m);
    return bad;
}

static void wrong(const model *w, const char *what, const char *detail)
{
    fail_msg("%s, call %ld%s (%s): %s: \"%s\"", w->name, plan.nth,
             plan.lost ? " and all after" : "", plan.place, what, detail);
}

/* fp16 and other algorithms round differently. */
static bool close_to(const float *a, const float *b)
{
    for (int i = 0; i < OUTPUTS; i++)
        if (!(fabsf(a[i] - b[i]) <= 0.05f * fmaxf(1, fabsf(b[i]))))
            return false;
    return true;
}

static void check_error(const model *w, const vitrun_error *err)
{
    if (err->code != VITRUN_MACHINE || !err->message[0] || strchr(err->message, '\n') ||
        !strstr(err->message, "cuda"))
        wrong(w, "no proper error", err->message);
}

static void nothing_is_left(const model *w, const char *message)
{
    if (live.blocks || live.host_blocks || live.streams || live.events || live.graphs) {
        print_message("blocks %ld, host %ld, streams %ld, events %ld, graphs %ld\n", live.blocks,
                      live.host_blocks, live.streams, live.events, live.graphs);
        wrong(w, "something is not given back", message);
    }
}

static void each_call(const model *w, bool lost)
{
    float clean[OUTPUTS] = {0}, got[OUTPUTS] = {0};
    vitrun_error err = {VITRUN_OK, ""};
    long tried = 0, refused = 0;
    if (whole(w, clean, &err)) /* also times the candidates once and for all */
        fail_msg("%s: %s", w->name, err.message);
    for (long nth = 1;; nth++, tried++) {
        arm(nth, lost);
        int bad = whole(w, got, &err);
        long failed = disarm();
        if (bad)
            check_error(w, &err);
        else if (!close_to(got, clean))
            wrong(w, "another result", "");
        nothing_is_left(w, bad ? err.message : "");
        refused += bad != 0;
        if (!failed)
            break;
    }
    print_message("%s: %s: %ld calls failed in turn, %ld runs ended in an error\n", w->name,
                  lost ? "the device is lost" : "one call", tried, refused);
}

/* ---- tests ---- */
static void any_call_may_fail_once(void **state)
{
    (void)state;
    need_gpu();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        each_call(&models[i], false);
}

static void a_lost_device_ends_every_call_in_one_line(void **state)
{
    (void)state;
    need_gpu();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        each_call(&models[i], true);
}

static void after_a_failure_the_same_context_works(void **state)
{
    (void)state;
    float clean[OUTPUTS] = {0}, got[OUTPUTS] = {0};
    vitrun_error err;
    const model *w = &models[0];
    long tried = 0;
    need_gpu();
    vitrun_model *m = open_model(w, &err);
    vitrun_context *c = m ? vitrun_context_open(m, 2, &err) : NULL;
    if (!c || forwards(m, c, clean, &err))
        fail_msg("%s", err.message);
    for (long nth = 1;; nth++, tried++) {
        vitrun_outputs two = {0};
        arm(nth, false);
        int bad = forwards(m, c, got, &err);
        fill(m, c, 2); /* prepares for another number of images, records again */
        bad = bad || vitrun_forward(c, 2, &two, &err) ? -1 : 0;
        long failed = disarm();
        if (bad)
            check_error(w, &err);
        if (forwards(m, c, got, &err))
            wrong(w, "the context is not usable", err.message);
        if (memcmp(got, clean, sizeof got))
            wrong(w, "the context gives other bits", "");
        if (!failed)
            break;
    }
    print_message("%ld calls failed in turn\n", tried);
    vitrun_context_close(c);
    vitrun_close(m);
    nothing_is_left(w, "");
}

/* Every later use says at once what has happened. */
static void a_lost_device_is_told_by_every_later_call(void **state)
{
    (void)state;
    float got[OUTPUTS];
    double ms;
    vitrun_error err;
    const model *w = &models[0];
    need_gpu();
    vitrun_model *m = open_model(w, &err);
    vitrun_context *c = m ? vitrun_context_open(m, 1, &err) : NULL;
    if (!c || forwards(m, c, got, &err))
        fail_msg("%s", err.message);
    arm(1, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(forwards(m, c, got, &err), -1);
        assert_non_null(strstr(err.message, "illegal memory access"));
        assert_int_equal(vitrun_time(c, &ms, &err), -1);
        assert_non_null(strstr(err.message, "illegal memory access"));
        assert_null(vitrun_context_open(m, 1, &err));
        assert_int_equal(err.code, VITRUN_MACHINE);
        assert_null(open_model(w, &err));
        assert_non_null(strstr(err.message, "cuda"));
    }
    print_message("a new model: %s\n", err.message);
    vitrun_context_close(c);
    vitrun_close(m);
    disarm();
    nothing_is_left(w, "");
}

static void after_a_lack_of_memory_a_smaller_batch_runs(void **state)
{
    (void)state;
    float clean[OUTPUTS] = {0}, got[OUTPUTS] = {0};
    vitrun_error err;
    const model *w = &models[0];
    need_gpu();
    if (whole(w, clean, &err))
        fail_msg("%s", err.message);
    vitrun_model *m = open_model(w, &err);
    assert_non_null(m);
    plan.limit = live.bytes + (24 << 20);
    assert_null(vitrun_context_open(m, 512, &err));
    assert_int_equal(err.code, VITRUN_MACHINE);
    assert_non_null(strstr(err.message, "out of memory"));
    assert_non_null(strstr(err.message, "needed"));
    print_message("%s\n", err.message);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    if (!c || forwards(m, c, got, &err))
        fail_msg("%s", err.message);
    assert_true(close_to(got, clean));
    plan.limit = 0;
    vitrun_context_close(c);
    vitrun_close(m);
    nothing_is_left(w, "");
}

static char cache[] = "/tmp/vitrun-cuda-faults-XXXXXX";

/* What is timed while calls fail must not stay. */
static int prepare(void **state)
{
    (void)state;
    return mkdtemp(cache) ? setenv("XDG_CACHE_HOME", cache, 1) : -1;
}

static int finish(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_a_lack_of_memory_a_smaller_batch_runs),
        cmocka_unit_test(a_lost_device_is_told_by_every_later_call),
        cmocka_unit_test(after_a_failure_the_same_context_works),
        cmocka_unit_test(any_call_may_fail_once),
        cmocka_unit_test(a_lost_device_ends_every_call_in_one_line),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
