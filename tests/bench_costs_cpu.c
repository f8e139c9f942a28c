/* Fits the constants of the attention cost model (kernels/dispatch.h) to this machine: runs every
 * kernel on one thread over token counts, head dimensions and masks, in several passes over all of
 * them (other programs disturb for seconds), takes the best of each, and prints the constants in
 * nanoseconds, with how far the formulas miss. Not a test.
 *
 *   build/tests/bench_costs_cpu [isa] [fp32|bf16] [passes] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "kernels/dispatch.h"
#include "tests/support_mask.h"

enum { HEADS = 4, MOST_RUNS = 512, PANELS = 5, ROWS = 4 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* ---- what was measured ---- */

typedef struct {
    double ns;                         /* of one head */
    double panels[PANELS], rows[ROWS]; /* what the constants multiply; zeros for other kernels */
    double reference;
} run;

static run runs[MOST_RUNS];
static int run_count;

/* pack, tile, tile * soft, mask, group; widen, pair, pair * pair_soft, row */
static void note(vt_attn_kernel kernel, bool masked, const vt_tiles *t, const vt_csr *c, int n,
                 int d, double ns)
{
    run *r = &runs[run_count++];
    if (r->ns > 0) { /* a later pass over the same runs */
        r->ns = fmin(r->ns, ns / HEADS);
        return;
    }
    double groups = (n + VT_TILE - 1) / VT_TILE, nnz = c->start[n];
    double tiles = kernel == VT_ATTN_TILES ? t->start[t->groups] : groups * groups;
    *r = (run){.ns = ns / HEADS};
    if (kernel == VT_ATTN_ROWS) {
        double f[ROWS] = {(double)n * d, nnz * d, nnz, n};
        memcpy(r->rows, f, sizeof f);
    } else if (kernel == VT_ATTN_REFERENCE) {
        r->reference = (double)n * n * d;
    } else {
        bool listed = kernel == VT_ATTN_TILES;
        double f[PANELS] = {(double)n * d, tiles * d, tiles, listed || masked ? tiles : 0,
                            listed ? groups : 0};
        memcpy(r->panels, f, sizeof f);
    }
}

/* ---- measuring ---- */

typedef struct {
    vt_device *dev;
    vt_stream *s;
    vt_mat out, qkv;
    int tokens, head_dim;
} bench;

static double best_of(const bench *b, vt_attn_group *g)
{
    vt_status st;
    vt_attn_plan plan = {.tokens = b->tokens,
                         .heads = HEADS,
                         .head_dim = b->head_dim,
                         .scale = 1 / sqrtf((float)b->head_dim),
                         .groups = 1,
                         .group = g};
    if (b->dev->ops->prepare_attention(b->s, b->out, b->qkv, &plan, 1, &st) != 0)
        exit(1);
    double best = INFINITY;
    for (int i = 0; i < 2; i++) {
        double t = now_ns();
        b->dev->ops->attention(b->s, b->out, b->qkv, &plan);
        best = fmin(best, now_ns() - t);
    }
    return best;
}

static void all_kernels(const bench *b, const vt_mask *mask)
{
    vt_status st;
    uint16_t heads[HEADS] = {0, 1, 2, 3};
    vt_bitmap *map = vt_bitmap_build(mask, 1, &st);
    vt_tiles *t = vt_tiles_build(mask, 1, &st);
    vt_csr *c = vt_csr_build(mask, 1, &st);
    for (int k = 0; k <= VT_ATTN_KERNELS; k++) { /* the last: dense without a mask */
        vt_attn_kernel kernel = k == VT_ATTN_KERNELS ? VT_ATTN_DENSE : (vt_attn_kernel)k;
        if (kernel == VT_ATTN_REFERENCE && b->tokens > 1000)
            continue;
        vt_attn_group g = {.heads = HEADS,
                           .head = heads,
                           .kernel = kernel,
                           .bitmap = k == VT_ATTN_KERNELS ? NULL : map,
                           .tiles = t,
                           .csr = c};
        note(kernel, g.bitmap != NULL, t, c, b->tokens, b->head_dim, best_of(b, &g));
    }
    vt_bitmap_free(map);
    vt_tiles_free(t);
    vt_csr_free(c);
}

static void local(table_mask *t, int side)
{
    size_t n = (size_t)t->mask.tokens;
    for (size_t q = 0; q < n; q++)
        for (size_t k = 0; k < n; k++) {
            long qy = ((long)q - 1) / side, qx = ((long)q - 1) % side;
            long ky = ((long)k - 1) / side, kx = ((long)k - 1) % side;
            long far = (qy - ky) * (qy - ky) + (qx - kx) * (qx - kx);
            t->on[q * n + k] = q == 0 || k == 0 || far < 25;
        }
}

static void one_size(vt_device *dev, int side, int head_dim)
{
    vt_status st;
    int n = side * side + 1, width = HEADS * head_dim;
    bench b = {dev,
               dev->ops->stream_open(dev, &st),
               {NULL, dev->dtype, (size_t)n, width},
               {NULL, dev->dtype, (size_t)n, 3 * width},
               n,
               head_dim};
    b.out.p = vt_alloc(vt_mat_bytes(b.out), 1, "out", &st);
    b.qkv.p = vt_alloc(vt_mat_bytes(b.qkv), 1, "qkv", &st);
    for (size_t i = 0; i < (size_t)n * (size_t)(3 * width); i++) {
        float x = (float)rand() / (float)RAND_MAX - 0.5f;
        if (dev->dtype == VT_F32)
            ((float *)b.qkv.p)[i] = x;
        else
            ((uint16_t *)b.qkv.p)[i] = vt_f32_to_bf16(x);
    }
    const double density[] = {0, 0.01, 0.05, 0.2};
    for (int m = 0; m < 4; m++) {
        table_mask *t = table_mask_random(1, side, side, density[m], 3);
        if (m == 0)
            local(t, side);
        all_kernels(&b, &t->mask);
        vt_mask_free(&t->mask);
    }
    vt_free(b.out.p);
    vt_free(b.qkv.p);
    dev->ops->stream_close(b.s);
}

/* ---- fitting ---- */

static const double *features(const run *r, bool panels)
{
    return panels ? r->panels : r->rows;
}

/* Non-negative x [count] that makes sum x f / ns nearest to 1 over the runs: one unknown at a
 * time. */
static void fit(double *x, int count, bool panels)
{
    for (int step = 0; step < 20000; step++)
        for (int j = 0; j < count; j++) {
            double top = 0, bottom = 0;
            for (int i = 0; i < run_count; i++) {
                const double *f = features(&runs[i], panels);
                double rest = 1, own = f[j] / runs[i].ns;
                for (int l = 0; l < count; l++)
                    rest -= l == j ? 0 : x[l] * f[l] / runs[i].ns;
                top += f[0] != 0 ? rest * own : 0;
                bottom += own * own;
            }
            x[j] = bottom > 0 && top > 0 ? top / bottom : 0;
        }
}

static void report(const double *x, int count, bool panels, const char *what)
{
    double worst = 0, sum = 0, n = 0;
    for (int i = 0; i < run_count; i++) {
        const double *f = features(&runs[i], panels);
        double t = 0;
        for (int l = 0; l < count; l++)
            t += x[l] * f[l];
        if (f[0] == 0)
            continue;
        double miss = fabs(t / runs[i].ns - 1);
        worst = fmax(worst, miss);
        sum += miss;
        n++;
    }
    printf("/* %s: the formula misses by %.1f %% on average, %.1f %% at most */\n", what,
           100 * sum / n, 100 * worst);
}

int main(int argc, char **argv)
{
    vt_status st;
    const char *isa = argc > 1 ? argv[1] : vt_cpu_isa();
    vt_dtype type = argc > 2 && !strcmp(argv[2], "bf16") ? VT_BF16 : VT_F32;
    int passes = argc > 3 ? atoi(argv[3]) : 8;
    vt_device *dev = vt_cpu_open_as(type, 1, isa, 0, &st);
    if (!dev) {
        fprintf(stderr, "%s\n", st.text);
        return 1;
    }
    const int sides[] = {14, 24, 32, 48}, dims[] = {32, 64, 128};
    for (int pass = 0; pass < passes; pass++) {
        run_count = 0;
        for (int i = 0; i < 12; i++)
            one_size(dev, sides[i / 3], dims[i % 3]);
    }
    double p[PANELS] = {0}, r[ROWS] = {0}, reference = 0, n = 0;
    fit(p, PANELS, true);
    fit(r, ROWS, false);
    for (int i = 0; i < run_count; i++)
        if (runs[i].reference > 0) {
            reference += runs[i].ns / runs[i].reference;
            n++;
        }
    printf("/* %s, %s */\n", isa, type == VT_F32 ? "fp32" : "bf16");
    report(p, PANELS, true, "dense and tiles");
    report(r, ROWS, false, "rows");
    printf("{.pack = %.3g, .tile = %.3g, .soft = %.3g, .mask = %.3g, .group = %.3g,\n", p[0], p[1],
           p[2] / p[1], p[3], p[4]);
    printf(" .widen = %.3g, .pair = %.3g, .pair_soft = %.3g, .row = %.3g, .reference = %.3g}\n",
           r[0], r[1], r[2] / r[1], r[3], reference / n);
    dev->ops->close(dev);
    return 0;
}
