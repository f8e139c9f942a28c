/* Is the dispatcher right? Times every kernel on a grid of token counts and masks, round by round
 * in turn, and compares what `auto` picks with dense and with the best.
 *
 *   build/tests/bench_auto [--threads N] [--rounds N] [--heads N] [--dtype fp32|bf16]
 *
 * A cell's times are medians over the rounds; its ratios are medians of the rounds' own ratios, so
 * that a machine whose speed drifts does not matter. Prints a row a cell and a summary.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vitrun.h"

enum { KERNELS = 3, MAX_ROUNDS = 200 };

static const char *const kernels[KERNELS] = {"dense", "tiles", "rows"};
static const int sizes[] = {197, 577, 785, 1025, 2305, 4097};
static const char *const masks[] = {
    "local_2d(distance=3)",
    "local_2d(distance=5)",
    "axial_2d()",
    "axial_2d() | local_2d(distance=5)",
    "random(sparsity=0.99)",
    "random(sparsity=0.90)",
    ("random_from_probability(probability=local_2d_gaussian(sigma=4), "
     "sparsity=0.97)"),
    "local_2d(distance=12)"};

typedef struct {
    int threads, rounds, heads;
    const char *dtype;
} setup;

typedef struct {
    double ms[KERNELS], to_dense, to_best;
    const char *picked;
} cell;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void die(const vitrun_error *err)
{
    fprintf(stderr, "bench_auto: %s\n", err->message);
    exit((int)err->code);
}

static void measure(vitrun_attention *a, int rounds, cell *out)
{
    static double t[KERNELS][MAX_ROUNDS], ratio[MAX_ROUNDS];
    vitrun_error err;
    int picked = 0, best = 0;
    double spent = 0;
    out->picked = vitrun_attention_layer(a)->kernel;
    for (int r = -1; r < rounds && (r < 5 || spent < 4000); r++) {
        for (int k = 0; k < KERNELS; k++) {
            double ms;
            if (vitrun_attention_run(a, kernels[k], 1, &ms, &err))
                die(&err);
            spent += ms;
            if (r >= 0)
                t[k][r] = ms;
        }
        if (r >= 4 && spent >= 4000)
            rounds = r + 1;
    }
    for (int k = 0; k < KERNELS; k++) {
        static double sorted[MAX_ROUNDS];
        memcpy(sorted, t[k], sizeof sorted);
        out->ms[k] = median(sorted, rounds);
        picked = strcmp(kernels[k], out->picked) ? picked : k;
        best = out->ms[k] < out->ms[best] ? k : best;
    }
    for (int r = 0; r < rounds; r++)
        ratio[r] = t[picked][r] / t[0][r];
    out->to_dense = median(ratio, rounds);
    for (int r = 0; r < rounds; r++)
        ratio[r] = t[picked][r] / t[best][r];
    out->to_best = median(ratio, rounds);
}

static void run_cell(const setup *s, int tokens, const char *mask, cell *out)
{
    vitrun_attention_options o;
    vitrun_error err;
    vitrun_attention_options_init(&o);
    o.heads = s->heads, o.tokens = tokens, o.head_dim = 64;
    o.mask = mask, o.dtype = s->dtype, o.threads = s->threads;
    vitrun_attention *a = vitrun_attention_open(&o, &err);
    if (!a)
        die(&err);
    measure(a, s->rounds, out);
    printf("%6d  %-44.44s %6.2f %%  %9.3f %9.3f %9.3f  %-6s %6.3f %6.3f\n", tokens, mask,
           100 * vitrun_attention_layer(a)->density, out->ms[0], out->ms[1], out->ms[2],
           out->picked, out->to_dense, out->to_best);
    fflush(stdout);
    vitrun_attention_close(a);
}

static void options(setup *s, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--threads"))
            s->threads = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--rounds"))
            s->rounds = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--heads"))
            s->heads = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--dtype"))
            s->dtype = argv[i + 1];
    }
    s->rounds = s->rounds < 1 ? 1 : s->rounds > MAX_ROUNDS ? MAX_ROUNDS : s->rounds;
}

int main(int argc, char **argv)
{
    setup s = {.threads = 0, .rounds = 25, .heads = 12, .dtype = "fp32"};
    double log_sum = 0, worst_dense = 0, worst_best = 0;
    int cells = 0, slower = 0;
    options(&s, argc, argv);
    printf("%s\n%d heads of 64, %s; ms of one attention; ratios of what auto picks\n",
           vitrun_build_info(), s.heads, s.dtype);
    printf("%6s  %-44s %8s  %9s %9s %9s  %-6s %6s %6s\n", "tokens", "mask", "density", "dense",
           "tiles", "rows", "auto", "/dense", "/best");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t m = 0; m < sizeof masks / sizeof *masks; m++) {
            cell c;
            run_cell(&s, sizes[i], masks[m], &c);
            log_sum += log(c.to_best);
            worst_dense = fmax(worst_dense, c.to_dense);
            worst_best = fmax(worst_best, c.to_best);
            slower += c.to_dense > 1.03 && (c.to_dense - 1) * c.ms[0] > 0.02;
            cells++;
        }
    printf(
        "%d cells: %d more than 3 %% and 20 us slower than dense (worst %.3f); to the best kernel "
        "geometric mean %.3f, worst %.3f\n",
        cells, slower, worst_dense, exp(log_sum / cells), worst_best);
    return 0;
}
