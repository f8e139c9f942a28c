/* Measures the linear layers of ViT-B on the CPU, our own product and oneDNN interleaved, against
 * the multiply-add peak of the same run. Not a test. Twelve copies of the weights, as twelve
 * blocks have them, so that weights come from memory. Rates are of the best round, against the
 * best peak.
 *
 *   build/tests/bench_linear_cpu [isa] [threads] [fp32|bf16] [rounds] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"

enum { COPIES = 12, LAYERS = 4, ENGINES = 2 };

static const struct {
    const char *name;
    int out, in;
    vt_epilogue e;
} layer[LAYERS] = {{"qkv", 2304, 768, {.act = VT_ACT_NONE}},
                   {"proj", 768, 768, {.add = true}},
                   {"fc1", 3072, 768, {.act = VT_ACT_GELU}},
                   {"fc2", 768, 3072, {.add = true}}};

static clockid_t the_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(the_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    vt_device *dev;
    vt_stream *stream;
    vt_linear *w[COPIES];
} engine;

static engine open_engine(vt_dtype type, int threads, const char *isa, int onednn, int l,
                          const float *w, size_t rows)
{
    vt_status st = {VT_OK, ""};
    engine e = {vt_cpu_open_as(type, threads, isa, onednn, &st), NULL, {NULL}};
    if (!e.dev)
        return e;
    e.stream = e.dev->ops->stream_open(e.dev, &st);
    vt_dtype y = layer[l].e.add ? VT_F32 : type;
    for (int c = 0; c < COPIES; c++) {
        e.w[c] = e.dev->ops->linear_load(e.dev, w, NULL, layer[l].out, layer[l].in, rows, &st);
        vt_mat from = {NULL, type, rows, layer[l].in}, to = {NULL, y, rows, layer[l].out};
        if (!e.w[c] || e.dev->ops->prepare_linear(e.stream, to, from, e.w[c], layer[l].e, &st)) {
            e.dev = NULL; /* not on this machine; a bench may leak */
            return e;
        }
    }
    return e;
}

static void bench(vt_dtype type, int threads, const char *isa, int l, size_t rows, int rounds)
{
    vt_status st;
    engine e[ENGINES];
    double best[ENGINES] = {1e9, 1e9}, peak = 0;
    float *w = calloc((size_t)layer[l].out * (size_t)layer[l].in, sizeof *w);
    for (size_t i = 0; i < (size_t)layer[l].out * (size_t)layer[l].in; i++)
        w[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (int i = 0; i < ENGINES; i++)
        e[i] = open_engine(type, threads, isa, i, l, w, rows);
    vt_mat x = {NULL, type, rows, layer[l].in};
    vt_mat y = {NULL, layer[l].e.add ? VT_F32 : type, rows, layer[l].out};
    x.p = vt_alloc(vt_mat_bytes(x), 1, "x", &st);
    y.p = vt_alloc(vt_mat_bytes(y), 1, "y", &st);
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < ENGINES; i++)
            for (int c = 0; e[i].dev && c < COPIES; c++) {
                double t = now();
                e[i].dev->ops->linear(e[i].stream, y, x, e[i].w[c], layer[l].e);
                t = now() - t;
                best[i] = t < best[i] ? t : best[i];
            }
        double t = now(), flops = 0;
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        flops += ((cpu_device *)e[0].dev)->isa->fma_loop(1000000);
        t = flops / (now() - t);
        peak = t > peak ? t : peak;
    }
    double flops = 2.0 * (double)rows * layer[l].out * layer[l].in;
    printf("%-5s %5zu x %4d -> %4d", layer[l].name, rows, layer[l].in, layer[l].out);
    for (int i = 0; i < ENGINES; i++)
        if (e[i].dev)
            printf("   %-14s %8.3f ms %7.1f GF/s %5.1f %%", vt_cpu_matmul(e[i].dev), best[i] * 1e3,
                   1e-9 * flops / best[i], 100 * flops / best[i] / peak);
    printf("   of %.1f GF/s\n", peak * 1e-9);
    for (int i = 0; i < ENGINES; i++) {
        if (!e[i].dev)
            continue;
        for (int c = 0; c < COPIES; c++)
            e[i].dev->ops->linear_free(e[i].dev, e[i].w[c]);
        e[i].dev->ops->stream_close(e[i].stream);
        e[i].dev->ops->close(e[i].dev);
    }
    vt_free(x.p);
    vt_free(y.p);
    free(w);
}

int main(int argc, char **argv)
{
    const char *isa = argc > 1 ? argv[1] : vt_cpu_isa();
    int threads = argc > 2 ? atoi(argv[2]) : 2, rounds = argc > 4 ? atoi(argv[4]) : 5;
    vt_dtype type = argc > 3 && !strcmp(argv[3], "bf16") ? VT_BF16 : VT_F32;
    the_clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    printf("isa %s, %d threads, %s\n", isa, threads, type == VT_F32 ? "fp32" : "bf16");
    const size_t rows[] = {1, 197, 1576};
    for (int r = 0; r < 3; r++)
        for (int l = 0; l < LAYERS; l++)
            bench(type, threads, isa, l, rows[r], rounds);
    return 0;
}
