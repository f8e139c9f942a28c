/* Reading a checkpoint tensor by tensor: what vit_bind.c and positions.c share. Nobody else includes
 * this.
 *
 * A walk over the model names every tensor that the configuration calls for. It runs twice: first it
 * only checks (`loading` false: all names there, all shapes right), then it reads and packs. Until
 * something fails, a tensor that was asked for is there while loading; while checking it may be
 * NULL, and what is made of it does nothing but count.
 */
#ifndef VT_VIT_READ_H
#define VT_VIT_READ_H

#include "models/vit.h"
#include "weights_tools/timm_names.h"

enum { VIT_NAME = 112 };

typedef struct {
    const st_reader *r;
    timm_names names;
    const char *path;
    const vit_config *cfg;
    vit_model *m; /* while checking: its shapes only */
    vt_dtype dtype;
    bool loading;
    vt_status *st;
    bool failed;

    /* checking */
    bool *used;        /* [tensors of the file] called for and found */
    char missing[400]; /* the first few absent names */
    int absent;
    uint64_t parameters;
    size_t bytes;   /* device memory, about */
    size_t largest; /* elements of the largest matrix that is put together, or tensor */

    /* loading */
    vt_device *dev;
    vt_watch *watch;           /* NULL: nobody looks on */
    size_t rows;               /* of a typical product */
    float *stage, *source;     /* [largest]: a matrix in the making; one that it takes columns of */
    float *bias, *row, *gamma; /* [longest of a matrix's sides] */
    float *norms;              /* of a block's branches, [branches, 2, D] */
} vit_walk;

/* The tensor of this name (timm's) and shape; NULL: absent or failed. */
const st_tensor *vit_find(vit_walk *w, int rank, const uint64_t *shape, const char *fmt, ...)
    VT_PRINTF(4, 5);
#define VIT_SHAPE(...)                                                                             \
    (sizeof((uint64_t[]){__VA_ARGS__}) / 8), (uint64_t[])                                          \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* The tensor of this name, whatever its shape, without asking for it; NULL: absent. */
const st_tensor *vit_peek(const vit_walk *w, const char *fmt, ...) VT_PRINTF(2, 3);

/* Elements first .. first + count to fp32, on all threads. */
bool vit_read(vit_walk *w, const st_tensor *t, uint64_t first, uint64_t count, float *out);

/* A copy in the device's memory; NULL on failure. */
float *vit_to_device(vit_walk *w, const void *host, size_t rows, int cols, const char *name);

/* NAME.weight and, but for RMSNorm, NAME.bias, each [n]. */
void vit_read_norm(vit_walk *w, vit_norm *to, int n, bool present, const char *fmt, ...)
    VT_PRINTF(5, 6);

/* A part of a linear layer: rows, or columns, of a matrix in the file. */
typedef struct {
    const st_tensor *weight, *bias;    /* bias NULL: none */
    uint64_t first, count, bias_first; /* rows of the weight and of the bias; or columns */
    const st_tensor *scale;            /* LayerScale of its outputs, folded in; NULL: none */
    const float *gamma, *beta;         /* of a norm of its inputs, folded in; NULL: none */
    double factor;                     /* of its outputs; 0: 1 */
    bool transposed;                   /* the file has [in, out]; all of it is the part */
} vit_part;

/* Parts above each other: y = [part 0 (x), part 1 (x), ...]. No scale. */
void vit_read_rows(vit_walk *w, vt_linear **to, int in, const vit_part *part, int parts);

/* Parts side by side: y = part 0 (x0) + part 1 (x1) + ... of x = [x0, x1, ...]. No norm. */
void vit_read_columns(vit_walk *w, vt_linear **to, int out, const vit_part *part, int parts);

/* positions.c: reads a block's tables into b->rope, b->bias; once for all into m->rope where all
 * layers share it, and m->bias_places. */
void vit_read_rope(vit_walk *w, int layer, vit_block *b);
void vit_read_bias(vit_walk *w, int layer, vit_block *b);

#endif
