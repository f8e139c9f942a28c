/* Measures the CUDA attention kernels for sparse masks, on uniformly random masks, and on disks and
 * crosses (own row and column) of the patch grid, with one prefix token that all see and that sees
 * all. Not a test.
 *
 *   build/tests/bench_sparse_cuda [f32 | f16 [images tokens heads head_dim]]
 *
 * Microseconds a call: medians over replays of a CUDA graph of several calls on one set of buffers,
 * so what fits the L2 cache comes from there. A kernel that does not serve has a dash. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "tests/bench_cuda.h"
#include "tests/support_mask.h"

enum { CALLS = 3 };

/* What a kernel reads. */
typedef struct {
    vt_cuda_rows rows;
    vt_cuda_columns columns[VT_COLUMNS_SHAPES];
    void *rows_block, *block[VT_COLUMNS_SHAPES]; /* NULL: not of this mask */
    void *scratch[VT_COLUMNS_SHAPES], *counters[VT_COLUMNS_SHAPES];
} layouts;

typedef struct {
    const char *name;
    int shape; /* of a columns layout */
    int (*list)(const vt_cuda_attention *a, const vt_cuda_rows *r, cudaStream_t stream);
    int (*columns)(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream);
    bool (*serves)(const vt_cuda_attention *a, int capability);
} kernel;

#define COLUMNS(by, name64, name128, axial64, axial128)                                            \
    {name64, 0, NULL, by, by##_serves}, {name128, 1, NULL, by, by##_serves},                       \
        {axial64, 2, NULL, by, by##_serves},                                                       \
    {                                                                                              \
        axial128, 3, NULL, by, by##_serves                                                         \
    }

static const kernel kernels[] = {
    {"gathered", 0, vt_cuda_attend_gathered, NULL, NULL},
    {"panels", 0, vt_cuda_attend_panels, NULL, NULL},
    COLUMNS(vt_cuda_attend_columns, "columns64", "128", "axial64", "128"),
    COLUMNS(vt_cuda_attend_columns_mma, "by mma 64", "128", "axial64", "128"),
    COLUMNS(vt_cuda_attend_columns_f32, "in fp32 64", "128", "axial64", "128"),
};

typedef struct {
    vt_dtype type;
    int images, tokens, heads, head_dim;
    double random; /* density; 0: a disk, or a cross */
    double radius; /* 0: a cross */
} problem;

/* ---- inputs ---- */

static table_mask *make_mask(const problem *p)
{
    int side = (int)sqrt((double)p->tokens), prefix = p->tokens - side * side;
    if (p->random > 0)
        return table_mask_random(prefix, side, side, p->random, 3);
    table_mask *t = table_mask_new(prefix, side, side);
    for (int q = 0; q < p->tokens; q++)
        for (int k = 0; k < p->tokens; k++) {
            int a = q - prefix, b = k - prefix;
            double dy = a / side - b / side, dx = a % side - b % side;
            t->on[(size_t)q * (size_t)p->tokens + (size_t)k] =
                a < 0 || b < 0 || (p->radius == 0 && dx * dy == 0) ||
                dx * dx + dy * dy < p->radius * p->radius;
        }
    return t;
}

static void load_columns(layouts *l, vt_device *dev, const vt_mask *mask, int shape,
                         const vt_cuda_attention *a)
{
    vt_status st = {VT_OK, ""};
    size_t bytes, counters;
    vt_columns *c = vt_columns_build(mask, vt_columns_shapes[shape], 4, &st);
    l->block[shape] = c ? vt_cuda_columns_load(dev, c, &l->columns[shape], &bytes, &st) : NULL;
    check(l->block[shape] ? 0 : cudaErrorMemoryAllocation, st.text);
    vt_cuda_columns_scratch(c, a, &bytes, &counters);
    check(cudaMalloc(&l->scratch[shape], bytes + 16), "memory");
    check(cudaMalloc(&l->counters[shape], counters * 4 + 16), "memory");
    check(cudaMemset(l->counters[shape], 0, counters * 4 + 16), "memory");
    vt_cuda_columns_place(&l->columns[shape], a, l->scratch[shape], l->counters[shape]);
    vt_columns_free(c);
}

static layouts load(vt_device *dev, const vt_mask *mask, bool cross, const vt_cuda_attention *a)
{
    vt_status st = {VT_OK, ""};
    layouts l = {.rows_block = NULL};
    size_t bytes;
    vt_csr *csr = vt_csr_build(mask, 4, &st);
    l.rows_block = csr ? vt_cuda_rows_load(dev, csr, &l.rows, &bytes, &st) : NULL;
    check(l.rows_block ? 0 : cudaErrorMemoryAllocation, st.text);
    vt_csr_free(csr);
    for (int shape = 0; shape < (cross ? VT_COLUMNS_SHAPES : 2); shape++)
        load_columns(&l, dev, mask, shape, a);
    return l;
}

static void unload(layouts *l, vt_device *dev)
{
    vt_cuda_release(dev, l->rows_block);
    for (int i = 0; i < VT_COLUMNS_SHAPES && l->block[i]; i++) {
        vt_cuda_release(dev, l->block[i]);
        cudaFree(l->scratch[i]);
        cudaFree(l->counters[i]);
    }
}

/* ---- timing ---- */

static bool serves(const kernel *k, const vt_cuda_attention *a, const layouts *l)
{
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (k->columns)
        return l->block[k->shape] && k->serves(a, 10 * major + minor);
    return k->list != vt_cuda_attend_panels || vt_cuda_attend_panels_serves(a, &l->rows);
}

typedef struct {
    const kernel *kernel;
    const vt_cuda_attention *attention;
    const layouts *layouts;
} timed;

static int call(const void *user, cudaStream_t stream)
{
    const timed *t = user;
    const kernel *k = t->kernel;
    return k->list ? k->list(t->attention, &t->layouts->rows, stream)
                   : k->columns(t->attention, &t->layouts->columns[k->shape], stream);
}

static void measure(vt_device *dev, const problem *p)
{
    size_t tokens = (size_t)p->images * (size_t)p->tokens;
    size_t elements = tokens * (size_t)p->heads * (size_t)p->head_dim;
    vt_cuda_attention a = {.type = p->type,
                           .images = p->images,
                           .tokens = p->tokens,
                           .heads = p->heads,
                           .head_dim = p->head_dim,
                           .scale = 1 / sqrtf((float)p->head_dim),
                           .group_heads = p->heads};
    table_mask *mask = make_mask(p);
    layouts l = load(dev, &mask->mask, p->random == 0 && p->radius == 0, &a);
    void *qkv = random_elements(3 * elements, p->type, 1);
    a.qkv = qkv;
    check(cudaMalloc(&a.out, elements * vt_dtype_bytes(p->type)), "memory");
    printf("%4d x %2d x %5d x %4d %-6s %6.2f %% %7.1f", p->images, p->heads, p->tokens, p->head_dim,
           p->random > 0   ? "random"
           : p->radius > 0 ? "disk"
                           : "cross",
           100.0 * l.rows.pairs / p->tokens / p->tokens, (double)l.rows.pairs / p->tokens);
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++)
        if (serves(&kernels[k], &a, &l)) {
            timed t = {&kernels[k], &a, &l};
            printf(" %10.1f", microseconds(kernels[k].name, call, &t, CALLS));
        } else {
            printf("          -");
        }
    printf("\n");
    fflush(stdout);
    cudaFree(qkv);
    cudaFree(a.out);
    unload(&l, dev);
    vt_mask_free(&mask->mask);
}

static void print_header(void)
{
    printf("images x heads x tokens x head_dim      density keys/row");
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++)
        printf(" %10s", kernels[k].name);
    printf("\n");
}

int main(int argc, char **argv)
{
    static const double density[] = {0.003, 0.01, 0.03, 0.1}, radius[] = {2.5, 4.5, 8.5, 0};
    static const int tokens[] = {197, 577, 1025, 4097}, images[] = {32, 8, 8, 1};
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        printf("SKIPPED: no CUDA device\n");
        return 0;
    }
    vt_status st = {VT_OK, ""};
    vt_device *dev = vt_cuda_open(VT_F32, false, 0, 1, &st);
    check(dev ? 0 : cudaErrorInitializationError, st.text);
    problem p = {VT_F32, 1, 1024, 16, 1024, 0.1, 0};
    p.type = argc > 1 && !strcmp(argv[1], "f16") ? VT_F16 : VT_F32;
    print_header();
    if (argc > 5) {
        p.images = atoi(argv[2]), p.tokens = atoi(argv[3]);
        p.heads = atoi(argv[4]), p.head_dim = atoi(argv[5]);
    }
    for (int i = 0; i < 4; i++) {
        p.random = density[i];
        measure(dev, &p);
    }
    for (int t = 0; argc < 6 && t < 4; t++) {
        p = (problem){p.type, images[t], tokens[t], 12, 64, 0, 0};
        for (int i = 0; i < 4; i++) {
            p.random = density[i];
            measure(dev, &p);
        }
        for (int i = 0; i < 4; i++) {
            p.random = 0, p.radius = radius[i];
            measure(dev, &p);
        }
    }
    dev->ops->close(dev);
    return 0;
}
