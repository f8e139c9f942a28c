/* Times what comes between a mask and the `columns` kernels, per mask expression: counting for the
 * cost model, and building each shape. Medians of five. Not a test.
 *
 *   build/tests/bench_columns [grid side] [threads] [EXPR ...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/masks/masks.h"
#include "kernels/columns.h"

enum { ROUNDS = 5 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t)
{
    qsort(t, ROUNDS, sizeof *t, by_value);
    return t[ROUNDS / 2];
}

static int bench(const vt_mask *mask, const char *text, int threads)
{
    vt_status st = {VT_OK, ""};
    vt_columns_count count[VT_COLUMNS_SHAPES];
    vt_mask_stats stats;
    double stats_ms[ROUNDS], count_ms[ROUNDS], build_ms[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        double start = now();
        if (vt_mask_count(mask, threads, &stats, &st))
            return fprintf(stderr, "%s\n", st.text);
        stats_ms[i] = now() - start;
        start = now();
        if (vt_columns_count_all(mask, threads, count, &st))
            return fprintf(stderr, "%s\n", st.text);
        count_ms[i] = now() - start;
    }
    printf("%s: density %.2f %%, statistics %.1f ms, counts %.1f ms\n", text, 100 * stats.density,
           median(stats_ms), median(count_ms));
    for (int s = 0; s < VT_COLUMNS_SHAPES; s++) {
        vt_columns *l = NULL;
        if (!count[s].passes)
            continue;
        for (int i = 0; i < ROUNDS; i++) {
            vt_columns_free(l);
            double start = now();
            if (!(l = vt_columns_build(mask, vt_columns_shapes[s], threads, &st)))
                return fprintf(stderr, "%s\n", st.text);
            build_ms[i] = now() - start;
        }
        printf(
            "  rows %3d %s: %6.1f ms, %8.3f MB, %5lld groups, %7lld tiles (%5.1f %% of all), %zu "
            "blocks stored of %lld\n",
            l->shape.rows, l->shape.axial ? "cut" : "   ", median(build_ms),
            1e-6 * (double)l->bytes, (long long)count[s].groups, (long long)count[s].tiles,
            100.0 * (double)count[s].tiles * 64 * l->shape.rows / l->tokens / l->tokens, l->blocks,
            (long long)count[s].blocks);
        vt_columns_free(l);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *standard[] = {"local_2d(distance=7.3)", "local_2d(distance=12.6)",
                              "local_2d(distance=23.5)", "axial_2d()"};
    int side = argc > 1 ? atoi(argv[1]) : 128, threads = argc > 2 ? atoi(argv[2]) : 2;
    int given = argc > 3 ? argc - 3 : 4;
    vt_mask_shape shape = {.layers = 1, .heads = 1, .prefix = 1, .grid_h = side, .grid_w = side};
    for (int i = 0; i < given; i++) {
        const char *text = argc > 3 ? argv[3 + i] : standard[i];
        vt_status st = {VT_OK, ""};
        vt_masks *m = vt_masks_load(NULL, &text, 1, &shape, threads, &st);
        if (!m || bench(m->layer[0].group[0].mask, text, threads)) {
            fprintf(stderr, "%s\n", st.text);
            return 1;
        }
        vt_masks_free(m);
    }
    return 0;
}
