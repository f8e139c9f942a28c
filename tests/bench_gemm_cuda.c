/* Measures the products of ViT layers on a GPU of compute capability 9.0: every variant of ours
 * with its epilogue, beside cuBLASLt's fastest algorithm of eight with bias and residual, and
 * passes before and behind for what it has not got: the norm of the input, GELU, moments. Not a
 * test. Twelve copies of the weights, as twelve blocks have them, so that weights come from memory;
 * activations are the same each time. All in one run, interleaved: medians over rounds, each one
 * graph of 24 products.
 *
 *   build/tests/bench_gemm_cuda [fp16|bf16] [rows...] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/lt.h"

enum { COPIES = 12, LAUNCHES = 24, ROUNDS = 11, MOST = 40, ALGORITHMS = 8, WORKSPACE = 32 << 20 };
enum { FEW = 256 }; /* rows at most where products take norms in, as the back end has it */

static const struct {
    const char *name;
    int n, k;
    vt_activation act;
    bool add, norm; /* what adds leaves moments */
} layers[] = {{"qkv", 2304, 768, VT_ACT_NONE, false, true},
              {"proj", 768, 768, VT_ACT_NONE, true, false},
              {"fc1", 3072, 768, VT_ACT_GELU, false, true},
              {"fc2", 768, 3072, VT_ACT_NONE, true, false},
              {"patch", 768, 768, VT_ACT_NONE, false, false},
              {"L qkv", 3072, 1024, VT_ACT_NONE, false, true},
              {"L fc1", 4096, 1024, VT_ACT_GELU, false, true},
              {"L fc2", 1024, 4096, VT_ACT_NONE, true, false}};
enum { LAYERS = sizeof layers / sizeof *layers };

static void ok(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: error %d\n", what, error);
        exit(1);
    }
}

static vt_dtype type = VT_F16;

static uint16_t narrow(float x)
{
    if (type == VT_BF16)
        return vt_f32_to_bf16(x);
    _Float16 h = (_Float16)x;
    uint16_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

static void *random_matrix(size_t n, float scale)
{
    uint16_t *h = malloc(n * sizeof *h);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        h[i] = narrow(scale * ((float)(state >> 8) / (1 << 23) - 1));
    }
    void *p;
    ok(cudaMalloc(&p, n * sizeof *h), "cudaMalloc");
    ok(cudaMemcpy(p, h, n * sizeof *h, cudaMemcpyHostToDevice), "cudaMemcpy");
    free(h);
    return p;
}

/* ---- candidates ---- */

typedef struct {
    vt_lt_product *product;
    cublasLtMatmulAlgo_t algorithms[ALGORITHMS];
    int count;
    const void *bias; /* in y's type */
    void *room;       /* for the normalised input */
} library;

static vt_lt *lt;
static void *workspace;

static library make_library(const vt_cuda_gemm *g, const void *bias)
{
    vt_status st = {VT_OK, ""};
    vt_lt_shape shape = {
        .m = g->m, .n = g->n, .k = g->k, .x = g->type, .y = g->y_type, .bias = true, .add = g->add};
    library l = {.product = vt_lt_product_new(lt, &shape, &st), .bias = bias};
    ok(l.product ? 0 : -1, st.text);
    l.count = vt_lt_algorithms(l.product, WORKSPACE, l.algorithms, ALGORITHMS);
    return l;
}

static int run_library(library *l, int algorithm, const vt_cuda_gemm *g, cudaStream_t stream)
{
    vt_mat y = {g->y, g->y_type, (size_t)g->m, g->n};
    vt_mat a = {(void *)g->a, g->type, (size_t)g->m, g->k}, room = a;
    int error = 0;
    if (g->a_moments) {
        room.p = l->room;
        error = vt_cuda_norm(room, a, NULL, NULL, g->eps, stream);
    }
    if (!error)
        error = vt_lt_run(l->product, &l->algorithms[algorithm], g->y, room.p, g->w, l->bias,
                          workspace, WORKSPACE, stream);
    if (!error)
        error = vt_cuda_activate(y, g->act, stream);
    return error || !g->y_moments ? error : vt_cuda_moments(g->y_moments, y, stream);
}

typedef struct {
    char name[32];
    int variant, algorithm; /* -1: the other kind */
    cudaGraphExec_t graph;
    float us[ROUNDS];
} candidate;

/* False where it cannot run. */
static bool capture(candidate *c, library *l, vt_cuda_gemm g, void *const *w, cudaStream_t stream)
{
    cudaGraph_t graph;
    int error = 0;
    ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < LAUNCHES && !error; i++) {
        g.w = w[i % COPIES];
        error = c->variant >= 0 ? vt_cuda_gemm_run(c->variant, &g, stream)
                                : run_library(l, c->algorithm, &g, stream);
    }
    ok(cudaStreamEndCapture(stream, &graph), "capture");
    ok(cudaGraphInstantiate(&c->graph, graph, 0), "instantiate");
    cudaGraphDestroy(graph);
    if (error)
        cudaGraphExecDestroy(c->graph);
    return !error;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void time_all(candidate *c, int count, cudaStream_t stream)
{
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    for (int r = -2; r < ROUNDS; r++) /* two to warm up */
        for (int i = 0; i < count; i++) {
            float ms;
            cudaEventRecord(begin, stream);
            ok(cudaGraphLaunch(c[i].graph, stream), "launch");
            cudaEventRecord(end, stream);
            ok(cudaEventSynchronize(end), c[i].name);
            cudaEventElapsedTime(&ms, begin, end);
            if (r >= 0)
                c[i].us[r] = 1000 * ms / LAUNCHES;
        }
    for (int i = 0; i < count; i++)
        qsort(c[i].us, ROUNDS, sizeof *c[i].us, ascending);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

/* ---- the table ---- */

static void bench(int l, int m, cudaStream_t stream)
{
    int n = layers[l].n, k = layers[l].k, count = 0;
    void *w[COPIES], *bias, *bias16, *moments, *sums;
    vt_cuda_gemm g = {.type = type,
                      .y_type = type,
                      .m = m,
                      .n = n,
                      .k = k,
                      .act = layers[l].act,
                      .add = layers[l].add};
    for (int i = 0; i < COPIES; i++)
        w[i] = random_matrix((size_t)n * (size_t)k, 2 / sqrtf((float)k));
    g.w = w[0];
    g.a = random_matrix((size_t)m * (size_t)k, 1);
    ok(cudaMalloc(&g.y, (size_t)m * (size_t)n * 4), "cudaMalloc");
    cudaMemset(g.y, 0, (size_t)m * (size_t)n * 4);
    ok(cudaMalloc(&bias, (size_t)n * 4), "cudaMalloc");
    cudaMemset(bias, 0, (size_t)n * 4);
    bias16 = random_matrix((size_t)n, 1);
    g.bias = bias;
    ok(cudaMalloc(&moments, (size_t)m * (size_t)(n > k ? n : k) / 8), "cudaMalloc");
    cudaMemset(moments, 0, (size_t)m * (size_t)(n > k ? n : k) / 8);
    ok(cudaMalloc(&sums, (size_t)n * 4), "cudaMalloc");
    ok(vt_cuda_row_sums(sums, (vt_mat){w[0], type, (size_t)n, k}, stream), "sums");
    g.eps = 1e-6f, g.w_sums = sums;
    g.a_moments = layers[l].norm && m <= FEW ? moments : NULL;
    g.y_moments = layers[l].add && m <= FEW ? moments : NULL;
    candidate c[MOST];
    library cublas = make_library(&g, bias16);
    ok(cudaMalloc(&cublas.room, (size_t)m * (size_t)k * 2), "cudaMalloc");
    for (int i = 0; i < cublas.count; i++) {
        c[count] = (candidate){.name = "cuBLASLt", .variant = -1, .algorithm = i};
        count += capture(&c[count], &cublas, g, w, stream);
    }
    int first = count;
    for (int v = 0; v < vt_cuda_gemm_variants(); v++)
        if (vt_cuda_gemm_serves(v, &g, 90)) {
            c[count] = (candidate){.variant = v, .algorithm = -1};
            snprintf(c[count].name, sizeof c[count].name, "%s", vt_cuda_gemm_name(v));
            count += capture(&c[count], NULL, g, w, stream);
        }
    time_all(c, count, stream);
    float best = INFINITY;
    for (int i = 0; i < first; i++)
        best = fminf(best, c[i].us[ROUNDS / 2]);
    double flop = 2.0 * m * n * k;
    printf("%6d  %-6s cuBLASLt %.2f us %.0f |", m, layers[l].name, (double)best,
           flop / (double)best * 1e-6);
    for (int i = first; i < count; i++)
        printf(" %s %.2f %.0f", c[i].name, (double)c[i].us[ROUNDS / 2],
               flop / (double)c[i].us[ROUNDS / 2] * 1e-6);
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < count; i++)
        cudaGraphExecDestroy(c[i].graph);
    vt_lt_product_free(cublas.product);
    for (int i = 0; i < COPIES; i++)
        cudaFree(w[i]);
    cudaFree((void *)g.a), cudaFree(g.y), cudaFree(bias), cudaFree(bias16);
    cudaFree(moments), cudaFree(sums), cudaFree(cublas.room);
}

int main(int argc, char **argv)
{
    const int usual[] = {197, 1576, 6304, 12608, 25216, 50432, 4097, 16388};
    cudaStream_t stream;
    int first = 1;
    if (argc > 1 && (!strcmp(argv[1], "fp16") || !strcmp(argv[1], "bf16")))
        type = argv[first++][0] == 'b' ? VT_BF16 : VT_F16;
    ok(cudaStreamCreate(&stream), "no CUDA device");
    vt_status st = {VT_OK, ""};
    lt = vt_lt_open(&st);
    ok(lt ? 0 : -1, st.text);
    ok(cudaMalloc(&workspace, WORKSPACE), "cudaMalloc");
    printf("  rows  layer: us and TFLOP/s of each\n");
    int rows = first < argc ? argc - first : (int)(sizeof usual / sizeof *usual);
    for (int r = 0; r < rows; r++)
        for (int l = 0; l < LAYERS; l++)
            bench(l, first < argc ? atoi(argv[first + r]) : usual[r], stream);
    return 0;
}
