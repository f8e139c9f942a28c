/* The inside of the CUDA back end: what its host files share. Nothing outside kernels/cuda and its
 * tests includes this.
 *
 *   backend.c    device, streams, recorded forwards, the table of operations
 *   memory.c     blocks of device memory, transfers that wait
 *   linear.c     products: cuBLASLt or our own, whichever is faster on the shape
 *   attention.c  plans: layouts on the device, which launcher serves a group
 *   costs.c      the cost model's constants
 *   columns.c    layouts of columns.h on the device, cut into items
 *   scores.c     dense attention of wide heads, through products by cuBLASLt
 *   lt.c         cuBLASLt, opened at run time
 *   *.cu         the kernels, behind kernels.h
 */
#ifndef VT_CUDA_H
#define VT_CUDA_H

#include <pthread.h>

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/lt.h"
#include "kernels/tuned.h"

typedef struct vt_cuda_chunk vt_cuda_chunk;     /* memory.c */
typedef struct vt_cuda_product vt_cuda_product; /* linear.c: a product prepared for its shapes */
typedef struct vt_cuda_layout vt_cuda_layout;   /* attention.c: a mask's layout on the device */
typedef struct vt_cuda_attention_products vt_cuda_attention_products; /* scores.c: likewise */

enum {
    VT_CUDA_GRAPHS = 4,
    VT_CUDA_WORKSPACE = 2 << 20, /* bytes, for cuBLASLt */
    VT_CUDA_STAGING = 1 << 19,   /* bytes that an upload or download converts at a time */
};

typedef struct {
    vt_device base;
    int index;      /* of the GPU */
    char name[80];  /* "cuda:0 (NVIDIA H100 80GB HBM3)" */
    int capability; /* 90 for 9.0 */
    pthread_mutex_t lock;
    vt_lt *lt;
    vt_tuned *tuned;         /* under the lock */
    vt_cuda_layout *layouts; /* under the lock: those in use */
    pthread_mutex_t memory_lock, transfer_lock;
    vt_cuda_chunk *chunks; /* under memory_lock */
    void *staging;         /* VT_CUDA_STAGING bytes, under transfer_lock; NULL: not used yet */
} cuda_device;

typedef struct {
    int images;
    cudaGraphExec_t exec;
} cuda_graph;

typedef struct {
    vt_stream base;
    cudaStream_t stream;
    cudaEvent_t from, to; /* of the clock */
    void *workspace;      /* of cuBLASLt; NULL while dry */
    char *scratch;        /* of the operation in progress: the most that any prepared one needs */
    uint32_t *counters;   /* likewise; zeros between operations */
    size_t scratch_bytes, counter_bytes, workspace_bytes;
    vt_cuda_product *products; /* lists */
    vt_cuda_attention_products *attention;
    cuda_graph graph[VT_CUDA_GRAPHS];
    int graphs; /* recorded so far, the oldest is replaced */
} cuda_stream;

static inline cuda_device *vt_cuda(const vt_stream *s)
{
    return (cuda_device *)s->dev;
}

/* A failure of the runtime as an error: "cuda:0 (...): WHAT: REASON". Always -1. */
int vt_cuda_fail(const vt_device *dev, int error, const char *what, vt_status *st);
/* Within an operation: keeps the first failure in the stream. */
void vt_cuda_note(vt_stream *s, int error, const char *what);

/* Sees to it that the stream has so much scratch, and so many counters. */
int vt_cuda_need_scratch(vt_stream *s, size_t bytes, const char *what, vt_status *st);
int vt_cuda_need_counters(vt_stream *s, size_t count, vt_status *st);

/* memory.c; malloc's is not zeroed. Failures name the sizes. */
void *vt_cuda_malloc(vt_device *dev, size_t bytes, const char *what, vt_status *st);
void *vt_cuda_alloc(vt_device *dev, size_t bytes, const char *what, vt_status *st);
void vt_cuda_release(vt_device *dev, void *p);
int vt_cuda_reserve(vt_device *dev, size_t bytes, const char *what, vt_status *st);
void vt_cuda_release_all(cuda_device *dev);
void *vt_cuda_host_alloc(vt_device *dev, size_t bytes, const char *what, vt_status *st);
void vt_cuda_host_free(vt_device *dev, void *p);
size_t vt_cuda_free_memory(vt_device *dev);

/* An array of the host's, and where the address of its copy goes. */
typedef struct {
    const void *from;
    size_t bytes;
    const void **at;
} vt_cuda_piece;

/* Copies arrays of a mask's into one block, which the caller releases; *bytes are its size. NULL
 * with st set on failure. */
void *vt_cuda_pieces_load(vt_device *dev, const vt_cuda_piece *pieces, int count, size_t *bytes,
                          vt_status *st);
int vt_cuda_upload(vt_device *dev, vt_mat to, const float *from, vt_status *st);
int vt_cuda_download(vt_device *dev, float *to, vt_mat from, vt_status *st);

/* ---- timing of candidates ---- */
/* Runs `run(user, candidate)` on the stream for each of `candidates`, several times in turn, and
 * returns the index with the smallest median, or -1 with st set where none ran; `what` names the
 * work in that error. `cold`: the cache is emptied before each run, for work whose weights come from
 * memory. */
int vt_cuda_fastest(vt_stream *s, int candidates, int (*run)(void *user, int candidate), void *user,
                    bool cold, const char *what, vt_status *st);

/* linear.c */
vt_linear *vt_cuda_linear_load(vt_device *dev, const float *w, const float *bias, int out, int in,
                               size_t rows, vt_status *st);
void vt_cuda_linear_free(vt_device *dev, vt_linear *w);
size_t vt_cuda_linear_bytes(const vt_linear *w);
bool vt_cuda_linear_fits(const vt_linear *w, int in, int out);
int vt_cuda_prepare_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e,
                           vt_status *st);
void vt_cuda_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e);
void vt_cuda_products_free(vt_cuda_product *list);

/* rows.c: as vt_cuda_columns_load. */
void *vt_cuda_rows_load(vt_device *dev, const vt_csr *c, vt_cuda_rows *out, size_t *bytes,
                        vt_status *st);

/* columns.c. load: copies a layout into one block of device memory, which the caller releases;
 * *bytes are its size. NULL with st set on failure. The others: bytes of scratch (false: more than
 * fit into a size) and counters (zeros) that a run needs, and where they are. */
void *vt_cuda_columns_load(vt_device *dev, const vt_columns *c, vt_cuda_columns *out, size_t *bytes,
                           vt_status *st);
bool vt_cuda_columns_scratch(const vt_columns *c, const vt_cuda_attention *a, size_t *bytes,
                             size_t *counters);
void vt_cuda_columns_place(vt_cuda_columns *c, const vt_cuda_attention *a, void *scratch,
                           uint32_t *counters);

/* scores.c: scores of some heads, or of some rows of one, are in the stream's scratch, of which this
 * needs bytes(). a->scale > 0. To be prepared on the real buffers. */
bool vt_cuda_attend_scores_serves(const vt_cuda_attention *a);
size_t vt_cuda_scores_bytes(const vt_cuda_attention *a);
int vt_cuda_prepare_scores(vt_stream *s, const vt_cuda_attention *a, vt_status *st);
int vt_cuda_attend_scores(vt_stream *s, const vt_cuda_attention *a);
void vt_cuda_attention_products_free(vt_cuda_attention_products *list);

/* attention.c */
const struct vt_attn_costs *vt_cuda_attention_costs(const vt_device *dev, int head_dim);
bool vt_cuda_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim,
                              bool biased);
int vt_cuda_group_load(vt_device *dev, vt_attn_group *g, vt_status *st);
void vt_cuda_group_free(vt_device *dev, vt_attn_group *g);
int vt_cuda_prepare_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                              int images, vt_status *st);
size_t vt_cuda_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images);
void vt_cuda_attention_run(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan);

#endif
