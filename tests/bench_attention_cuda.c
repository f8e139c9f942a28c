/* Measures the CUDA attention kernels that visit all keys: 12 heads of 64, fp16 (f32: fp32),
 * without a mask and under one of a tenth of the pairs, near the diagonal. Not a test.
 *
 *   build/tests/bench_attention_cuda [kernel [images tokens]]
 *
 * Microseconds a call: medians over replays of a CUDA graph of several calls, on one set of
 * buffers, so what fits the L2 cache comes from there. TFLOP/s count 4 head_dim flops for every
 * pair of tokens, allowed or not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/kernels.h"

enum { HEADS = 12, HEAD_DIM = 64, REPLAYS = 15 };

typedef struct {
    const char *name;
    vt_dtype type;
    bool tf32;
    int (*run)(const vt_cuda_attention *a, cudaStream_t stream);
} kernel;

static const kernel kernels[] = {
    {"mma", VT_F16, false, vt_cuda_attend_mma},
    {"wgmma", VT_F16, false, vt_cuda_attend_wgmma}, /* compute capability 9.0 only */
    {"f32", VT_F32, false, vt_cuda_attend_f32},
    {"tf32", VT_F32, true, vt_cuda_attend_mma},
};

typedef struct {
    int images, tokens;
} shape;

static const shape shapes[] = {{1, 197},  {8, 197},   {32, 197}, {256, 197}, {32, 577},
                               {8, 1025}, {32, 1025}, {1, 4097}, {4, 4097},  {1, 16385}};

static void check(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)error));
        exit(1);
    }
}

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ---- inputs ---- */

/* n elements between -2 and 2. */
static void *random_elements(size_t n, vt_dtype type)
{
    size_t bytes = n * vt_dtype_bytes(type);
    char *host = malloc(bytes);
    unsigned state = 1;
    for (size_t i = 0; i < n; i++) {
        float x = (float)(next_random(&state) % 65536) / 16384.0f - 2.0f;
        if (type == VT_F32) {
            ((float *)host)[i] = x;
            continue;
        }
        _Float16 half = (_Float16)x;
        memcpy(host + i * 2, &half, 2);
    }
    void *device = NULL;
    check(cudaMalloc(&device, bytes), "memory");
    check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy");
    free(host);
    return device;
}

/* Half of the pairs that are less than a tenth of the tokens apart. */
static uint32_t *local_bits(int tokens, int *words)
{
    *words = (tokens + 127) / 128 * 4;
    size_t bytes = (size_t)tokens * (size_t)*words * sizeof(uint32_t);
    uint32_t *host = calloc(1, bytes), *device = NULL;
    unsigned state = 2;
    for (int q = 0; q < tokens; q++)
        for (int k = q - tokens / 10; k < q + tokens / 10; k++)
            if (k >= 0 && k < tokens && next_random(&state) % 2)
                host[(size_t)q * (size_t)*words + (size_t)k / 32] |= 1u << k % 32;
    check(cudaMalloc((void **)&device, bytes), "memory");
    check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy");
    free(host);
    return device;
}

/* ---- timing ---- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A graph of `calls` calls. */
static cudaGraphExec_t record(const kernel *k, const vt_cuda_attention *a, int calls,
                              cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < calls; i++)
        check(k->run(a, stream), k->name);
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "graph");
    cudaGraphDestroy(graph);
    return exec;
}

static double microseconds(const kernel *k, const vt_cuda_attention *a)
{
    cudaStream_t stream;
    cudaEvent_t begin, end;
    float ms[REPLAYS];
    double pairs = (double)a->images * a->tokens * a->tokens;
    int calls = pairs < 5e6 ? 50 : pairs < 5e7 ? 10 : 2;
    check(cudaStreamCreate(&stream), "stream");
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    cudaGraphExec_t exec = record(k, a, calls, stream);
    for (int i = -2; i < REPLAYS; i++) {
        check(cudaEventRecord(begin, stream), "event");
        check(cudaGraphLaunch(exec, stream), "graph");
        check(cudaEventRecord(end, stream), "event");
        check(cudaStreamSynchronize(stream), k->name);
        check(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], begin, end), "event");
    }
    qsort(ms, REPLAYS, sizeof *ms, by_value);
    cudaGraphExecDestroy(exec);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    return (double)ms[REPLAYS / 2] * 1e3 / calls;
}

static void measure(const kernel *k, shape s)
{
    size_t elements = (size_t)s.images * (size_t)s.tokens * HEADS * HEAD_DIM;
    vt_cuda_attention a = {.type = k->type,
                           .tf32 = k->tf32,
                           .images = s.images,
                           .tokens = s.tokens,
                           .heads = HEADS,
                           .head_dim = HEAD_DIM,
                           .scale = 1 / sqrtf(HEAD_DIM),
                           .group_heads = HEADS};
    void *qkv = random_elements(3 * elements, k->type);
    a.qkv = qkv;
    check(cudaMalloc(&a.out, elements * vt_dtype_bytes(k->type)), "memory");
    double dense = microseconds(k, &a);
    uint32_t *bits = local_bits(s.tokens, &a.words);
    a.bits = bits;
    double masked = microseconds(k, &a);
    double flops = 4.0 * HEAD_DIM * HEADS * s.images * (double)s.tokens * s.tokens;
    printf("%-8s %6d %7d %12.2f %8.1f %12.2f %8.1f\n", k->name, s.images, s.tokens, dense,
           flops / dense * 1e-6, masked, flops / masked * 1e-6);
    cudaFree(qkv);
    cudaFree(a.out);
    cudaFree(bits);
}

int main(int argc, char **argv)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        printf("SKIPPED: no CUDA device\n");
        return 0;
    }
    printf("kernel   images  tokens     dense us  TFLOP/s    masked us  TFLOP/s\n");
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            bool chosen = argc < 4 ||
                          (shapes[s].images == atoi(argv[2]) && shapes[s].tokens == atoi(argv[3]));
            if (chosen && (argc < 2 || strcmp(argv[1], kernels[k].name) == 0))
                measure(&kernels[k], shapes[s]);
        }
    return 0;
}
