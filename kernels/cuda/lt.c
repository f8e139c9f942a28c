/* cuBLASLt at run time: see lt.h. */
#include "kernels/cuda/lt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* The library's functions that are called, by their names without "cublasLt". */
#define LT_FUNCTIONS(F)                                                                            \
    F(Create)                                                                                      \
    F(Destroy)                                                                                     \
    F(GetVersion)                                                                                  \
    F(MatmulDescCreate)                                                                            \
    F(MatmulDescDestroy)                                                                           \
    F(MatmulDescSetAttribute)                                                                      \
    F(MatrixLayoutCreate)                                                                          \
    F(MatrixLayoutDestroy)                                                                         \
    F(MatrixLayoutSetAttribute)                                                                    \
    F(MatmulPreferenceCreate)                                                                      \
    F(MatmulPreferenceDestroy)                                                                     \
    F(MatmulPreferenceSetAttribute)                                                                \
    F(MatmulAlgoGetHeuristic)                                                                      \
    F(Matmul)

struct vt_lt {
    void *library;
    cublasLtHandle_t handle;
#define MEMBER(name) __typeof__(cublasLt##name) *name;
    LT_FUNCTIONS(MEMBER)
#undef MEMBER
};

struct vt_lt_product {
    vt_lt *lt;
    vt_lt_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
};

/* ---- the library ---- */

static void *open_library(void)
{
    static const char *const folders[] = {"", "/usr/local/cuda/lib64/",
                                          "/usr/local/cuda/targets/sbsa-linux/lib/"};
    char path[256];
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        snprintf(path, sizeof path, "%slibcublasLt.so.%d", folders[f], CUBLAS_VER_MAJOR);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (library)
            return library;
    }
    return NULL;
}

vt_lt *vt_lt_open(vt_status *st)
{
    vt_lt *lt = vt_alloc(1, sizeof *lt, "cuBLASLt", st);
    if (!lt)
        return NULL;
    const char *missing = NULL;
    lt->library = open_library();
    if (lt->library) {
#define FIND(name)                                                                                 \
    if (!(lt->name = (__typeof__(lt->name))dlsym(lt->library, "cublasLt" #name)))                  \
        missing = "cublasLt" #name;
        LT_FUNCTIONS(FIND)
#undef FIND
    }
    if (!lt->library)
        vt_fail(st, VT_MACHINE,
                "cuda: libcublasLt.so.%d is not found (it comes with the CUDA Toolkit %d.x; set "
                "LD_LIBRARY_PATH where it lies elsewhere)",
                CUBLAS_VER_MAJOR, CUBLAS_VER_MAJOR);
    else if (missing)
        vt_fail(st, VT_MACHINE, "cuda: libcublasLt.so.%d has no %s", CUBLAS_VER_MAJOR, missing);
    else if (lt->Create(&lt->handle) == CUBLAS_STATUS_SUCCESS)
        return lt;
    else
        vt_fail(st, VT_MACHINE, "cuda: cuBLASLt cannot be started on this device");
    vt_lt_close(lt);
    return NULL;
}

void vt_lt_close(vt_lt *lt)
{
    if (!lt)
        return;
    if (lt->handle)
        lt->Destroy(lt->handle);
    if (lt->library)
        dlclose(lt->library);
    vt_free(lt);
}

size_t vt_lt_version(const vt_lt *lt)
{
    return lt->GetVersion();
}

/* ---- products ---- */

static cudaDataType_t type_of(vt_dtype t)
{
    return t == VT_F32 ? CUDA_R_32F : t == VT_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static bool set(vt_lt_product *p, cublasLtMatmulDescAttributes_t attribute, const void *value,
                size_t size)
{
    return p->lt->MatmulDescSetAttribute(p->desc, attribute, value, size) == CUBLAS_STATUS_SUCCESS;
}

/* A row-major matrix, which the library calls column-major with its sides exchanged. */
static bool lay_out(vt_lt_product *p, cublasLtMatrixLayout_t *layout, vt_dtype type, int rows,
                    int columns, vt_lt_pitch pitch)
{
    vt_lt *lt = p->lt;
    int32_t batch = p->shape.batch;
    return lt->MatrixLayoutCreate(layout, type_of(type), (uint64_t)columns, (uint64_t)rows,
                                  pitch.row ? pitch.row : columns) == CUBLAS_STATUS_SUCCESS &&
           (!batch ||
            (lt->MatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                          sizeof batch) == CUBLAS_STATUS_SUCCESS &&
             lt->MatrixLayoutSetAttribute(*layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                          &pitch.next,
                                          sizeof pitch.next) == CUBLAS_STATUS_SUCCESS));
}

static bool describe(vt_lt_product *p)
{
    const vt_lt_shape *s = &p->shape;
    cublasComputeType_t compute = s->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasOperation_t of_w = s->upright ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = s->gelu_tanh ? CUBLASLT_EPILOGUE_GELU_BIAS
                                  : s->bias    ? CUBLASLT_EPILOGUE_BIAS
                                               : CUBLASLT_EPILOGUE_DEFAULT;
    return p->lt->MatmulDescCreate(&p->desc, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           set(p, CUBLASLT_MATMUL_DESC_TRANSA, &of_w, sizeof of_w) &&
           set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
           lay_out(p, &p->w, s->x, s->upright ? s->k : s->n, s->upright ? s->n : s->k,
                   s->w_pitch) &&
           lay_out(p, &p->x, s->x, s->m, s->k, s->x_pitch) &&
           lay_out(p, &p->y, s->y, s->m, s->n, s->y_pitch);
}

vt_lt_product *vt_lt_product_new(vt_lt *lt, const vt_lt_shape *shape, vt_status *st)
{
    vt_lt_product *p = vt_alloc(1, sizeof *p, "product", st);
    if (!p)
        return NULL;
    p->lt = lt;
    p->shape = *shape;
    if (describe(p))
        return p;
    vt_fail(st, VT_MACHINE, "cuda: cuBLASLt refuses a product of %d x %d x %d", shape->m, shape->n,
            shape->k);
    vt_lt_product_free(p);
    return NULL;
}

void vt_lt_product_free(vt_lt_product *p)
{
    if (!p)
        return;
    if (p->desc)
        p->lt->MatmulDescDestroy(p->desc);
    cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->y};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            p->lt->MatrixLayoutDestroy(layouts[i]);
    vt_free(p);
}

/* Matrices begin at a row of memory that is aligned, or at a place that the pitches allow: what is
 * known of their alignment is that of those, 16 bytes at most. */
static uint32_t alignment_of(vt_lt_pitch pitch, int columns, vt_dtype type)
{
    uint64_t row = (uint64_t)(pitch.row ? pitch.row : columns), size = vt_dtype_bytes(type);
    uint64_t any = (row | (uint64_t)pitch.next | (uint64_t)pitch.start) * size | 16;
    return (uint32_t)(any & -any);
}

static void tell_alignment(vt_lt *lt, cublasLtMatmulPreference_t preference, const vt_lt_shape *s)
{
    const uint32_t w = alignment_of(s->w_pitch, s->upright ? s->n : s->k, s->x);
    const uint32_t x = alignment_of(s->x_pitch, s->k, s->x);
    const uint32_t y = alignment_of(s->y_pitch, s->n, s->y);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const uint32_t *bytes;
    } all[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y}};
    for (int i = 0; i < 4; i++)
        lt->MatmulPreferenceSetAttribute(preference, all[i].attribute, all[i].bytes,
                                         sizeof *all[i].bytes);
}

int vt_lt_algorithms(const vt_lt_product *p, size_t workspace, cublasLtMatmulAlgo_t *out, int most)
{
    enum { MOST = 32 };
    cublasLtMatmulHeuristicResult_t found[MOST];
    cublasLtMatmulPreference_t preference;
    int count = 0, good = 0;
    if (p->lt->MatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS)
        return 0;
    p->lt->MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                        &workspace, sizeof workspace);
    tell_alignment(p->lt, preference, &p->shape);
    if (p->shape.factor != 0) { /* partial sums without the factor may not fit into y's type */
        uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK & ~CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
        p->lt->MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                            &schemes, sizeof schemes);
    }
    if (p->lt->MatmulAlgoGetHeuristic(p->lt->handle, p->desc, p->w, p->x, p->y, p->y, preference,
                                      most < MOST ? most : MOST, found,
                                      &count) != CUBLAS_STATUS_SUCCESS)
        count = 0;
    for (int i = 0; i < count; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            out[good++] = found[i].algo;
    p->lt->MatmulPreferenceDestroy(preference);
    return good;
}

int vt_lt_run(vt_lt_product *p, const cublasLtMatmulAlgo_t *algo, void *y, const void *x,
              const void *w, const void *bias, void *workspace, size_t workspace_bytes,
              cudaStream_t stream)
{
    const float alpha = p->shape.factor != 0 ? p->shape.factor : 1, beta = p->shape.add ? 1 : 0;
    if (p->shape.bias && !set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias))
        return CUBLAS_STATUS_INVALID_VALUE;
    return (int)p->lt->Matmul(p->lt->handle, p->desc, &alpha, w, p->w, x, p->x, &beta, y, p->y, y,
                              p->y, algo, workspace, workspace_bytes, stream);
}
