/* Measures the CPU's attention kernels against the machine's own multiply-add peak, taken in the
 * same run and interleaved with them. Not a test. Rates are of the best round, against the best
 * peak.
 *
 *   build/tests/bench_attention_cpu [isa] [threads] [head_dim] [fp32|bf16] [rounds] [grid side]
 *
 * GF/s count the two products over the pairs that the mask allows, 4 head_dim flops a pair; for
 * dense, over all pairs. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "tests/support_mask.h"

enum { HEADS = 12, MOST_ROUNDS = 64 };

/* Wall clock; with one thread its processor time, which other programs on the machine disturb
 * less. */
static clockid_t the_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(the_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

/* Flops a second of `threads` threads that do nothing but multiply and add in registers. */
static double peak(const vt_isa *isa, int threads)
{
    const long steps = 2000000;
    double flops = 0, start = now();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
    flops += isa->fma_loop(steps);
    return flops / (now() - start);
}

static table_mask *local_mask(int side, double distance)
{
    table_mask *t = table_mask_new(1, side, side);
    size_t n = (size_t)t->mask.tokens;
    for (size_t q = 0; q < n; q++)
        for (size_t k = 0; k < n; k++) {
            double dy = (double)((q - 1) / (size_t)side) - (double)((k - 1) / (size_t)side);
            double dx = (double)((q - 1) % (size_t)side) - (double)((k - 1) % (size_t)side);
            t->on[q * n + k] = q == 0 || k == 0 || sqrt(dy * dy + dx * dx) < distance;
        }
    return t;
}

typedef struct {
    vt_attn_kernel kernel;
    bool masked;
    double time[MOST_ROUNDS];
} series;

typedef struct {
    const char *name;
    table_mask *mask;
    vt_bitmap *bitmap;
    vt_tiles *tiles;
    vt_csr *csr;
} masked;

static void run_once(vt_stream *s, vt_mat out, vt_mat qkv, series *r, const masked *m, int tokens,
                     int round)
{
    vt_status st;
    uint16_t heads[HEADS];
    for (int h = 0; h < HEADS; h++)
        heads[h] = (uint16_t)h;
    vt_attn_group g = {.heads = HEADS,
                       .head = heads,
                       .kernel = r->kernel,
                       .bitmap = r->masked ? m->bitmap : NULL,
                       .tiles = m->tiles,
                       .csr = m->csr};
    vt_attn_plan plan = {.tokens = tokens,
                         .heads = HEADS,
                         .head_dim = qkv.cols / 3 / HEADS,
                         .scale = 1 / sqrtf((float)(qkv.cols / 3 / HEADS)),
                         .groups = 1,
                         .group = &g};
    if (s->dev->ops->prepare_attention(s, out, qkv, &plan, 1, &st) != 0) {
        fprintf(stderr, "%s\n", st.text);
        exit(1);
    }
    double start = now();
    s->dev->ops->attention(s, out, qkv, &plan);
    r->time[round] = now() - start;
}

static void one_mask(vt_device *dev, int side, const masked *m, int head_dim, int rounds)
{
    vt_status st;
    int n = side * side + 1, width = HEADS * head_dim;
    vt_stream *s = dev->ops->stream_open(dev, &st);
    vt_mat qkv = {NULL, dev->dtype, (size_t)n, 3 * width},
           out = {NULL, dev->dtype, (size_t)n, width};
    qkv.p = dev->ops->alloc(dev, vt_mat_bytes(qkv), "qkv", &st);
    out.p = dev->ops->alloc(dev, vt_mat_bytes(out), "out", &st);
    for (size_t i = 0; i < qkv.rows * (size_t)qkv.cols; i++) {
        float x = (float)rand() / (float)RAND_MAX - 0.5f;
        if (dev->dtype == VT_F32)
            ((float *)qkv.p)[i] = x;
        else
            ((uint16_t *)qkv.p)[i] = vt_f32_to_bf16(x);
    }
    static series r[5] = {{.kernel = VT_ATTN_DENSE},
                          {.kernel = VT_ATTN_DENSE, .masked = true},
                          {.kernel = VT_ATTN_TILES},
                          {.kernel = VT_ATTN_ROWS},
                          {.kernel = VT_ATTN_REFERENCE, .masked = true}};
    double peaks[MOST_ROUNDS];
    for (int i = -1; i < rounds; i++) {
        for (int k = 0; k < 5; k++)
            if (k < 4 || i < 2) /* reference is slow */
                run_once(s, out, qkv, &r[k], m, n, i < 0 ? 0 : i);
        peaks[i < 0 ? 0 : i] = peak(((cpu_device *)dev)->isa, dev->threads);
    }
    median(peaks, rounds); /* sorts */
    double top = peaks[rounds - 1], pairs = (double)n * n, nnz = m->csr->start[n];
    printf("N %5d %-10s density %6.3f %% tiles %6u partial %6zu peak %6.1f GF/s\n", n, m->name,
           100 * nnz / pairs, m->tiles->start[m->tiles->groups], m->tiles->partial, top * 1e-9);
    for (int k = 0; k < 5; k++) {
        double t = median(r[k].time, k < 4 ? rounds : rounds < 2 ? rounds : 2);
        double work = (k < 2 || k == 4 ? pairs : nnz) * 4 * head_dim * HEADS / r[k].time[0];
        printf("    %-9s %-6s median %9.3f ms, best %9.3f ms, %6.1f GF/s, %5.1f %% of peak\n",
               vt_attn_kernel_name(r[k].kernel), r[k].masked ? "masked" : "", t * 1e3,
               r[k].time[0] * 1e3, work * 1e-9, 100 * work / top);
    }
    dev->ops->free(dev, qkv.p);
    dev->ops->free(dev, out.p);
    dev->ops->stream_close(s);
}

int main(int argc, char **argv)
{
    vt_status st;
    const char *isa = argc > 1 ? argv[1] : vt_cpu_isa();
    int threads = argc > 2 ? atoi(argv[2]) : 2, head_dim = argc > 3 ? atoi(argv[3]) : 64;
    vt_dtype type = argc > 4 && strcmp(argv[4], "bf16") == 0 ? VT_BF16 : VT_F32;
    int rounds = argc > 5 ? atoi(argv[5]) : 5;
    the_clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    rounds = rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    vt_device *dev = vt_cpu_open_as(type, threads, isa, 0, &st);
    if (!dev) {
        fprintf(stderr, "%s\n", st.text);
        return 1;
    }
    const int sides[] = {14, 24, 28, 32, 64};
    int only = argc > 6 ? atoi(argv[6]) : 0;
    const char *names[] = {"local 5", "random 1%", "random 3%", "random 10%"};
    const double density[] = {0, 0.01, 0.03, 0.1};
    printf("isa %s, %d threads, %d heads of %d, %s\n", isa, threads, HEADS, head_dim,
           type == VT_F32 ? "fp32" : "bf16");
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        for (int k = 0; k < 4 && (!only || only == sides[i]); k++) {
            masked m = {.name = names[k]};
            m.mask = k == 0 ? local_mask(sides[i], 5)
                            : table_mask_random(1, sides[i], sides[i], density[k], 7);
            m.bitmap = vt_bitmap_build(&m.mask->mask, threads, &st);
            m.tiles = vt_tiles_build(&m.mask->mask, threads, &st);
            m.csr = vt_csr_build(&m.mask->mask, threads, &st);
            one_mask(dev, sides[i], &m, head_dim, rounds);
            vt_bitmap_free(m.bitmap);
            vt_tiles_free(m.tiles);
            vt_csr_free(m.csr);
            vt_mask_free(&m.mask->mask);
        }
    dev->ops->close(dev);
    return 0;
}
