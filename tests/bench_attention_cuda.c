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
#include "tests/bench_cuda.h"

enum { HEADS = 12, HEAD_DIM = 64 };

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

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ---- inputs ---- */

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

typedef struct {
    const kernel *kernel;
    const vt_cuda_attention *attention;
} timed;

static int call(const void *user, cudaStream_t stream)
{
    const timed *t = user;
    return t->kernel->run(t->attention, stream);
}

static double time_of(const kernel *k, const vt_cuda_attention *a)
{
    double pairs = (double)a->images * a->tokens * a->tokens;
    timed t = {k, a};
    return microseconds(k->name, call, &t, pairs < 5e6 ? 50 : pairs < 5e7 ? 10 : 2);
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
    void *qkv = random_elements(3 * elements, k->type, 2);
    a.qkv = qkv;
    check(cudaMalloc(&a.out, elements * vt_dtype_bytes(k->type)), "memory");
    double dense = time_of(k, &a);
    uint32_t *bits = local_bits(s.tokens, &a.words);
    a.bits = bits;
    double masked = time_of(k, &a);
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
