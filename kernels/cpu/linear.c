/* Linear layers, y = act(x W^T + b) or y += x W^T + b, by oneDNN (onednn.c) or by our own product.
 *
 * Ours: W is packed once, when it is loaded, straight from the caller's memory: panels of a few
 * outputs each (isa.h), in fp32 or bf16. For a product, blocks of at most 2 * CHUNK rows of x (one
 * thread: CHUNK) are packed by all threads; then the threads take tiles of y, some outputs by at most
 * CHUNK rows. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <string.h>

enum {
    CHUNK = 216,       /* rows of a tile at most: with 256 inputs they fit the second cache */
    TILE_OUTPUTS = 128 /* outputs of a tile at most */
};

struct vt_linear {
    int out, in;
    vt_dnn_weights *dnn; /* NULL: our own product with */
    void *panels;
    size_t panel_bytes, panel_count; /* of one panel; how many */
    float *bias;                     /* [out], padded with zeros to whole panels */
    size_t bytes;
};

/* ---- loading ---- */

static int pack_panels(const cpu_device *dev, vt_linear *l, const float *w, vt_status *st)
{
    vt_dtype type = dev->base.dtype;
    size_t columns = (size_t)dev->isa->gemm_columns, in = (size_t)l->in;
    size_t inputs = type == VT_BF16 ? in + (in & 1) : in;
    l->panel_bytes = inputs * columns * vt_dtype_bytes(type);
    l->panels = vt_alloc(l->panel_count, l->panel_bytes, "weights", st);
    if (!l->panels)
        return -1;
    l->bytes += l->panel_count * l->panel_bytes;
#pragma omp parallel for schedule(static) num_threads(dev->base.threads)
    for (size_t p = 0; p < l->panel_count; p++) {
        size_t left = (size_t)l->out - p * columns;
        dev->isa->pack_panel((char *)l->panels + p * l->panel_bytes, type, w + p * columns * in,
                             (int)(left < columns ? left : columns), l->in);
    }
    return 0;
}

vt_linear *vt_cpu_linear_load(vt_device *device, const float *w, const float *bias, int out, int in,
                              size_t rows, vt_status *st)
{
    const cpu_device *dev = (const cpu_device *)device;
    vt_linear *l = vt_alloc(1, sizeof *l, "linear layer", st);
    if (!l)
        return NULL;
    size_t columns = (size_t)dev->isa->gemm_columns;
    l->out = out, l->in = in;
    l->panel_count = ((size_t)out + columns - 1) / columns;
    l->bias = vt_alloc(l->panel_count * columns, sizeof *l->bias, "bias", st);
    l->bytes = sizeof *l + l->panel_count * columns * sizeof *l->bias;
    if (!l->bias)
        goto fail;
    if (bias)
        memcpy(l->bias, bias, (size_t)out * sizeof *bias);
    if (dev->dnn) {
        l->dnn = vt_dnn_load(device, w, out, in, rows, st);
        if (!l->dnn)
            goto fail;
        l->bytes += vt_dnn_bytes(l->dnn);
    } else if (pack_panels(dev, l, w, st) != 0) {
        goto fail;
    }
    return l;
fail:
    vt_cpu_linear_free(device, l);
    return NULL;
}

void vt_cpu_linear_free(vt_device *dev, vt_linear *l)
{
    (void)dev;
    if (!l)
        return;
    vt_dnn_free(l->dnn);
    vt_free(l->panels);
    vt_free(l->bias);
    vt_free(l);
}

size_t vt_cpu_linear_bytes(const vt_linear *l)
{
    return l->bytes;
}

bool vt_cpu_linear_fits(const vt_linear *l, int in, int out)
{
    return l->in == in && l->out == out;
}

/* ---- our own product ---- */

/* How a block of rows is cut up. */
typedef struct {
    size_t strip_rows, columns; /* of a register tile */
    size_t chunk;               /* strips of a tile, at most */
    size_t panels;              /* of a tile, at most */
    size_t block;               /* strips packed at a time, at most */
} cut;

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* Equal chunks; tiles small enough that every thread gets some four of them. */
static cut cut_up(const cpu_device *dev, const vt_linear *l, size_t rows)
{
    cut c = {(size_t)dev->isa->gemm_rows, (size_t)dev->isa->gemm_columns, 0, 0, 0};
    size_t strips = ceil_div(rows, c.strip_rows), most = CHUNK / c.strip_rows;
    c.chunk = ceil_div(strips, ceil_div(strips, most));
    c.block = dev->base.threads == 1 ? c.chunk : strips < 2 * c.chunk ? strips : 2 * c.chunk;
    size_t tiles = 4 * (size_t)dev->base.threads;
    c.panels = l->panel_count * ceil_div(c.block, c.chunk) / tiles;
    size_t widest = TILE_OUTPUTS / c.columns;
    c.panels = c.panels < 1 ? 1 : c.panels > widest ? widest : c.panels;
    return c;
}

static size_t sums_floats(const cut *c)
{
    return c->chunk * c->strip_rows * c->panels * c->columns;
}

static bool scratch_bytes(const cpu_device *dev, const vt_linear *l, size_t rows, size_t *bytes)
{
    cut c = cut_up(dev, l, rows);
    size_t sums;
    return vt_mul(c.block * c.strip_rows, (size_t)l->in * sizeof(float), bytes) &&
           vt_mul(sums_floats(&c), sizeof(float) * (size_t)dev->base.threads, &sums) &&
           vt_add(*bytes, sums, bytes);
}

/* Rows first .. first + rows - 1 of x and y, at most a block of them. To be called by all threads
 * of a team. */
static void multiply_block(const cpu_stream *s, vt_mat y, vt_mat x, const vt_linear *l,
                           vt_epilogue e, const cut *c, size_t first, size_t rows)
{
    const vt_isa *isa = vt_cpu(&s->base)->isa;
    size_t strips = ceil_div(rows, c->strip_rows), strip_floats = c->strip_rows * (size_t)l->in;
    float *packed = (float *)vt_scratch(s), *sums = packed + c->block * strip_floats;
#pragma omp for schedule(static)
    for (size_t i = 0; i < strips; i++) {
        size_t row = i * c->strip_rows, left = rows - row;
        const char *from =
            (const char *)x.p + (first + row) * (size_t)x.cols * vt_dtype_bytes(x.type);
        isa->pack_strip(packed + i * strip_floats, from, x.type, (size_t)x.cols,
                        (int)(left < c->strip_rows ? left : c->strip_rows), l->in);
    }
    size_t down = ceil_div(strips, c->chunk), across = ceil_div(l->panel_count, c->panels);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < down * across; i++) {
        size_t strip = i % down * c->chunk, panel = i / down * c->panels;
        size_t row = strip * c->strip_rows, column = panel * c->columns;
        size_t tokens = rows - row, outputs = (size_t)l->out - column;
        tokens = tokens < c->chunk * c->strip_rows ? tokens : c->chunk * c->strip_rows;
        outputs = outputs < c->panels * c->columns ? outputs : c->panels * c->columns;
        vt_gemm_tile tile = {
            .x = packed + strip * strip_floats,
            .w = (const char *)l->panels + panel * l->panel_bytes,
            .bias = l->bias + column,
            .w_type = s->base.dev->dtype,
            .in = l->in,
            .tokens = (int)tokens,
            .outputs = (int)outputs,
            .y = (char *)y.p + ((first + row) * (size_t)y.cols + column) * vt_dtype_bytes(y.type),
            .y_type = y.type,
            .y_row = (size_t)y.cols,
            .epilogue = e,
            .sums = sums + (size_t)omp_get_thread_num() * sums_floats(c),
        };
        isa->gemm_tile(&tile);
    }
}

static void multiply(const cpu_stream *s, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e)
{
    cut c = cut_up(vt_cpu(&s->base), l, x.rows);
    size_t step = c.block * c.strip_rows;
#pragma omp parallel num_threads(s->base.dev->threads)
    for (size_t r = 0; r < x.rows; r += step)
        multiply_block(s, y, x, l, e, &c, r, x.rows - r < step ? x.rows - r : step);
}

/* ---- the operations ---- */

int vt_cpu_prepare_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e,
                          vt_status *st)
{
    size_t bytes;
    if (l->dnn)
        return vt_dnn_prepare(s, l->dnn, x.rows, x.type, y.type, e, st);
    if (!scratch_bytes(vt_cpu(s), l, x.rows, &bytes))
        return vt_fail(st, VT_MACHINE, "linear: size overflows (%zu rows)", x.rows);
    return vt_cpu_need_scratch(s, bytes, "linear scratch", st);
}

void vt_cpu_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *l, vt_epilogue e)
{
    const cpu_stream *cs = (const cpu_stream *)s;
    size_t bytes;
    if (l->dnn)
        vt_dnn_run(s, y, x, l->dnn, l->bias, e, &s->error);
    else if (!scratch_bytes(vt_cpu(s), l, x.rows, &bytes) || bytes > cs->scratch_bytes)
        vt_fail(&s->error, VT_MACHINE, "linear: not prepared for %zu rows (layer %d)", x.rows,
                s->layer);
    else
        multiply(cs, y, x, l, e);
}
