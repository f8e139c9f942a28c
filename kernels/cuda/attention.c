/* Attention by plan: copies of masks' layouts in device memory, shared by all groups that read
 * them, and which launcher serves a group.
 *
 *   dense      16-bit types: mma.sync or, on compute capability 9.0, wgmma, whichever is faster on
 *              the shape (timed when a stream is prepared, tuned.c); fp32: fused in fp32 or tf32;
 *              heads too wide for those: through the scores of a few heads in scratch (scores.c)
 *   rows       the allowed pairs of each row
 *   columns    and axial: the keys that groups of queries list; layouts and their items: columns.c
 *   reference  scores of all heads of all images in scratch
 *
 * A bitmap's rows are padded to whole groups of 4 words of 32 bits, so that a kernel may read 16
 * bytes at a time.
 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

#include "kernels/dispatch.h"

struct vt_cuda_layout {
    struct vt_cuda_layout *next;
    const void *host; /* the vt_bitmap, vt_csr or vt_columns that this is a copy of */
    int users;
    uint32_t *bits; /* bitmap */
    int words;
    int touched; /* eighths of its 64 x 64 tiles that hold a pair, rounded up */
    vt_cuda_rows rows;
    vt_cuda_columns columns; /* without scratch */
    void *block;             /* of the lists of rows or columns */
    size_t bytes;
};

typedef struct vt_attn_own { /* what a group has on the device */
    vt_cuda_layout *layout;  /* NULL: no mask */
    uint16_t *head;
} vt_attn_own;

/* ---- layouts ---- */

static void free_layout(vt_device *dev, vt_cuda_layout *l)
{
    void *all[] = {l->bits, l->block};
    for (int i = 0; i < 2; i++)
        if (all[i])
            dev->ops->free(dev, all[i]);
    vt_free(l);
}

static void *copy(vt_device *dev, const void *host, size_t bytes, vt_cuda_layout *l, vt_status *st)
{
    void *p = vt_cuda_malloc(dev, bytes, "mask", st);
    int error = p ? (int)cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice) : 0;
    if (p && !error)
        error = cudaStreamSynchronize(0); /* other streams do not wait for this one */
    if (error) {
        dev->ops->free(dev, p);
        vt_cuda_fail(dev, error, "mask upload", st);
        return NULL;
    }
    l->bytes += bytes;
    return p;
}

/* How much a kernel that skips empty tiles visits, in eighths. */
static int touched(const vt_bitmap *b)
{
    size_t n = (size_t)b->tokens, tiles = (n + 63) / 64, occupied = 0;
    for (size_t band = 0; band < tiles; band++)
        for (size_t t = 0; t < tiles; t++) {
            size_t last = (band + 1) * 64 < n ? (band + 1) * 64 : n, row = band * 64;
            size_t bytes = b->stride - t * 8 < 8 ? b->stride - t * 8 : 8;
            uint64_t on = 0;
            for (; row < last && !on; row++)
                memcpy(&on, b->bits + row * b->stride + t * 8, bytes);
            occupied += on != 0;
        }
    return (int)((8 * occupied + tiles * tiles - 1) / (tiles * tiles));
}

/* Padded here: a copy row by row would take the driver hundreds of times as long. */
static int copy_bitmap(vt_device *dev, vt_cuda_layout *l, const vt_bitmap *b, vt_status *st)
{
    l->words = (b->tokens + 127) / 128 * 4;
    l->touched = touched(b);
    size_t width = (size_t)l->words * 4, rows = (size_t)b->tokens;
    uint8_t *padded = vt_alloc(rows, width, "mask", st);
    for (size_t q = 0; padded && q < rows; q++)
        memcpy(padded + q * width, b->bits + q * b->stride, b->stride);
    l->bits = padded ? copy(dev, padded, rows * width, l, st) : NULL;
    vt_free(padded);
    return l->bits ? 0 : -1;
}

/* What the group's kernel reads; NULL: no mask. */
static const void *host_layout(const vt_attn_group *g)
{
    if (vt_attn_columns(g->kernel) >= 0)
        return g->columns;
    return g->kernel == VT_ATTN_ROWS ? (const void *)g->csr : (const void *)g->bitmap;
}

static int copy_layout(vt_device *dev, vt_cuda_layout *l, const vt_attn_group *g, vt_status *st)
{
    if (vt_attn_columns(g->kernel) >= 0)
        l->block = vt_cuda_columns_load(dev, g->columns, &l->columns, &l->bytes, st);
    else if (g->kernel == VT_ATTN_ROWS)
        l->block = vt_cuda_rows_load(dev, g->csr, &l->rows, &l->bytes, st);
    else
        return copy_bitmap(dev, l, g->bitmap, st);
    return l->block ? 0 : -1;
}

/* The device's copy of what the group reads, made if it is not there. The lock is held. */
static vt_cuda_layout *layout_of(cuda_device *dev, const vt_attn_group *g, vt_status *st)
{
    const void *host = host_layout(g);
    for (vt_cuda_layout *l = dev->layouts; l; l = l->next)
        if (l->host == host)
            return l;
    vt_cuda_layout *l = vt_alloc(1, sizeof *l, "mask", st);
    if (!l)
        return NULL;
    l->host = host;
    if (copy_layout(&dev->base, l, g, st)) {
        free_layout(&dev->base, l);
        return NULL;
    }
    l->next = dev->layouts;
    dev->layouts = l;
    return l;
}

static void release_layout(cuda_device *dev, vt_cuda_layout *l)
{
    if (--l->users)
        return;
    vt_cuda_layout **at = &dev->layouts;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    free_layout(&dev->base, l);
}

/* ---- groups ---- */

static bool masked(const vt_attn_group *g)
{
    return host_layout(g) != NULL;
}

int vt_cuda_group_load(vt_device *device, vt_attn_group *g, vt_status *st)
{
    cuda_device *dev = (cuda_device *)device;
    vt_attn_own *own = vt_alloc(1, sizeof *own, "attention plan", st);
    vt_cuda_layout none = {0};
    if (!own)
        return -1;
    cudaSetDevice(dev->index);
    own->head = copy(device, g->head, (size_t)g->heads * sizeof *g->head, &none, st);
    if (own->head && masked(g)) {
        pthread_mutex_lock(&dev->lock);
        own->layout = layout_of(dev, g, st);
        if (own->layout)
            own->layout->users++;
        pthread_mutex_unlock(&dev->lock);
    }
    g->own = own;
    if (own->head && (own->layout || !masked(g)))
        return 0;
    vt_cuda_group_free(device, g);
    return -1;
}

void vt_cuda_group_free(vt_device *device, vt_attn_group *g)
{
    cuda_device *dev = (cuda_device *)device;
    if (!g->own)
        return;
    cudaSetDevice(dev->index);
    pthread_mutex_lock(&dev->lock);
    if (g->own->layout)
        release_layout(dev, g->own->layout);
    pthread_mutex_unlock(&dev->lock);
    if (g->own->head)
        device->ops->free(device, g->own->head);
    vt_free(g->own);
    g->own = NULL;
}

/* ---- launchers ---- */

static int run_mma(vt_stream *s, const vt_cuda_attention *a)
{
    return vt_cuda_attend_mma(a, ((cuda_stream *)s)->stream);
}

static int run_wgmma(vt_stream *s, const vt_cuda_attention *a)
{
    return vt_cuda_attend_wgmma(a, ((cuda_stream *)s)->stream);
}

static int run_f32(vt_stream *s, const vt_cuda_attention *a)
{
    return vt_cuda_attend_f32(a, ((cuda_stream *)s)->stream);
}

/* Heads that no fused kernel serves; narrower ones are better off there. */
static bool is_wide(const vt_cuda_attention *a, int capability)
{
    return a->head_dim > 64 && !vt_cuda_attend_mma_serves(a, capability) &&
           vt_cuda_attend_scores_serves(a);
}

/* The dense kernels. */
static const struct {
    const char *name;
    bool (*serves)(const vt_cuda_attention *a, int capability);
    int (*run)(vt_stream *s, const vt_cuda_attention *a);
} dense[] = {{"mma", vt_cuda_attend_mma_serves, run_mma},
             {"wgmma", vt_cuda_attend_wgmma_serves, run_wgmma},
             {"f32", vt_cuda_attend_f32_serves, run_f32},
             {"scores", is_wide, vt_cuda_attend_scores}};
enum { DENSE = sizeof dense / sizeof *dense, SCORES = DENSE - 1 };

/* All but the addresses of the buffers. */
static vt_cuda_attention shape_of(const vt_device *dev, const vt_attn_plan *plan,
                                  const vt_attn_group *g, int images)
{
    vt_cuda_attention a = {.type = dev->dtype,
                           .tf32 = dev->tf32,
                           .images = images,
                           .tokens = plan->tokens,
                           .heads = plan->heads,
                           .head_dim = plan->head_dim,
                           .scale = plan->scale,
                           .group_heads = g->heads};
    if (plan->bias)
        a.bias = *plan->bias;
    if (g->heads != plan->heads) {
        a.head = g->own ? g->own->head : NULL; /* not while scratch is planned */
        a.listed = g->head;
    }
    return a;
}

static vt_cuda_attention describe(const vt_stream *s, vt_mat out, vt_mat qkv,
                                  const vt_attn_plan *plan, const vt_attn_group *g)
{
    int images = (int)(qkv.rows / (size_t)plan->tokens);
    vt_cuda_attention a = shape_of(s->dev, plan, g, images);
    a.qkv = qkv.p;
    a.out = out.p;
    if (g->own->layout) { /* NULL unless the kernel reads a bitmap */
        a.bits = g->own->layout->bits;
        a.words = g->own->layout->words;
        a.touched = g->own->layout->touched;
    }
    return a;
}

/* ---- which dense kernel ---- */

typedef struct {
    vt_stream *s;
    const vt_cuda_attention *a;
} trial;

static int try_dense(void *user, int i)
{
    const trial *t = user;
    if (!dense[i].serves(t->a, vt_cuda(t->s)->capability))
        return cudaErrorNotSupported;
    return dense[i].run(t->s, t->a);
}

static void key_of(const vt_cuda_attention *a, char *key, size_t room)
{
    static const char *const types[] = {"f32", "f16", "bf16"};
    int n = snprintf(key, room, "attention %dx%dx%dx%d %s%s%s", a->images, a->group_heads,
                     a->tokens, a->head_dim, types[a->type], a->tf32 ? "(tf32)" : "",
                     a->bias.table ? " biased" : "");
    if (a->bits) /* some kernels skip what is empty */
        snprintf(key + n, room - (size_t)n, " masked %d/8", a->touched);
}

static int by_name(const char *name)
{
    for (int i = 0; name && i < DENSE; i++)
        if (!strcmp(dense[i].name, name))
            return i;
    return -1;
}

/* The remembered kernel for the shape, where there is one that serves. The lock is held. */
static int known_dense(const cuda_device *dev, const vt_cuda_attention *a)
{
    char key[128];
    key_of(a, key, sizeof key);
    int i = by_name(vt_tuned_get(dev->tuned, key));
    return i >= 0 && dense[i].serves(a, dev->capability) ? i : -1;
}

/* How many of the dense kernels serve; *any is one of them. */
static int count_serving(const cuda_device *dev, const vt_cuda_attention *a, int *any)
{
    int serving = 0;
    for (int i = 0; i < DENSE; i++)
        if (dense[i].serves(a, dev->capability)) {
            *any = i;
            serving++;
        }
    return serving;
}

/* The remembered kernel, or any that serves where there is no choice or no memory of it. */
static int run_dense(vt_stream *s, const vt_cuda_attention *a)
{
    cuda_device *dev = vt_cuda(s);
    int any = 0, serving = count_serving(dev, a, &any);
    if (serving > 1) {
        pthread_mutex_lock(&dev->lock);
        int best = known_dense(dev, a);
        pthread_mutex_unlock(&dev->lock);
        any = best >= 0 ? best : any;
    }
    return serving ? dense[any].run(s, a) : cudaErrorNotSupported;
}

static int tune_dense(vt_stream *s, const vt_cuda_attention *a, vt_status *st)
{
    cuda_device *dev = vt_cuda(s);
    char key[128];
    trial t = {s, a};
    key_of(a, key, sizeof key);
    pthread_mutex_lock(&dev->lock);
    int best = known_dense(dev, a);
    if (best < 0 && (best = vt_cuda_fastest(s, DENSE, try_dense, &t, false, key, st)) >= 0)
        vt_tuned_put(dev->tuned, key, dense[best].name);
    pthread_mutex_unlock(&dev->lock);
    return best >= 0 ? 0 : -1;
}

/* ---- the operation ---- */

/* The kernels that read columns, the first that serves before the others. */
static const struct {
    bool (*serves)(const vt_cuda_attention *a, int capability);
    int (*run)(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream);
} columns[] = {{vt_cuda_attend_columns_serves, vt_cuda_attend_columns},
               {vt_cuda_attend_columns_mma_serves, vt_cuda_attend_columns_mma},
               {vt_cuda_attend_columns_f32_serves, vt_cuda_attend_columns_f32}};
enum { COLUMNS = sizeof columns / sizeof *columns };

static int serving_columns(const vt_cuda_attention *a, int capability) /* -1: none */
{
    for (int i = 0; i < COLUMNS; i++)
        if (columns[i].serves(a, capability))
            return i;
    return -1;
}

bool vt_cuda_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim,
                              bool biased)
{
    const cuda_device *cuda = (const cuda_device *)dev;
    bool gathers = vt_attn_columns(kernel) >= 0;
    if (kernel == VT_ATTN_TILES || (gathers && biased))
        return false;
    if (kernel == VT_ATTN_REFERENCE || kernel == VT_ATTN_ROWS)
        return head_dim <= 1024;
    vt_cuda_attention a = {.type = dev->dtype,
                           .tf32 = dev->tf32,
                           .images = 1,
                           .tokens = 1,
                           .heads = 1,
                           .group_heads = 1,
                           .head_dim = head_dim,
                           .scale = 1};
    int any;
    return gathers ? serving_columns(&a, cuda->capability) >= 0 : count_serving(cuda, &a, &any) > 0;
}

/* What a group takes while it runs: bytes of scratch, false where they overflow, and counters. */
static bool group_scratch(const vt_device *dev, const vt_attn_plan *plan, const vt_attn_group *g,
                          int images, size_t *bytes, size_t *counters)
{
    size_t n = (size_t)plan->tokens;
    vt_cuda_attention a = shape_of(dev, plan, g, images);
    *bytes = *counters = 0;
    if (g->kernel == VT_ATTN_DENSE && is_wide(&a, ((const cuda_device *)dev)->capability))
        *bytes = vt_cuda_scores_bytes(&a);
    if (g->kernel == VT_ATTN_REFERENCE)
        return vt_mul(n, n * sizeof(float), bytes) && vt_mul(*bytes, (size_t)g->heads, bytes) &&
               vt_mul(*bytes, (size_t)images, bytes);
    if (!g->columns)
        return true;
    return vt_cuda_columns_scratch(g->columns, &a, bytes, counters);
}

/* Of all groups the most; SIZE_MAX: more than memory can be. */
static size_t plan_scratch(const vt_device *dev, const vt_attn_plan *plan, int images,
                           size_t *counters)
{
    size_t most = 0, bytes, count;
    *counters = 0;
    for (int i = 0; i < plan->groups; i++) {
        if (!group_scratch(dev, plan, &plan->group[i], images, &bytes, &count))
            return SIZE_MAX;
        most = bytes > most ? bytes : most;
        *counters = count > *counters ? count : *counters;
    }
    return most;
}

size_t vt_cuda_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images)
{
    size_t counters, bytes = plan_scratch(dev, plan, images, &counters);
    return bytes == SIZE_MAX ? bytes : bytes + counters * sizeof(uint32_t);
}

/* Where other kernels serve, too, it does not matter if scores' products cannot be had. */
static int prepare_dense(vt_stream *s, const vt_cuda_attention *a, vt_status *st)
{
    const cuda_device *dev = vt_cuda(s);
    vt_status reason = {0};
    int any, serving = count_serving(dev, a, &any);
    int failed = dense[SCORES].serves(a, dev->capability) && vt_cuda_prepare_scores(s, a, &reason);
    if (serving > 1)
        return tune_dense(s, a, st);
    if (failed)
        *st = reason;
    return failed ? -1 : 0;
}

int vt_cuda_prepare_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                              int images, vt_status *st)
{
    size_t counters, bytes = plan_scratch(s->dev, plan, images, &counters);
    if (bytes == SIZE_MAX)
        return vt_fail(st, VT_MACHINE, "%s: attention: scores of %d tokens do not fit in memory",
                       vt_cuda(s)->name, plan->tokens);
    if (vt_cuda_need_scratch(s, bytes, "attention scratch", st) ||
        vt_cuda_need_counters(s, counters, st))
        return -1;
    for (int i = 0; i < plan->groups && !s->dry; i++) {
        if (plan->group[i].kernel != VT_ATTN_DENSE)
            continue;
        vt_cuda_attention a = describe(s, out, qkv, plan, &plan->group[i]);
        if (prepare_dense(s, &a, st))
            return -1;
    }
    return 0;
}

static int run_columns(vt_stream *stream, const vt_cuda_attention *a, const vt_cuda_layout *l)
{
    cuda_stream *s = (cuda_stream *)stream;
    vt_cuda_columns c = l->columns;
    int i = serving_columns(a, vt_cuda(stream)->capability);
    vt_cuda_columns_place(&c, a, s->scratch, s->counters);
    return i < 0 ? cudaErrorNotSupported : columns[i].run(a, &c, s->stream);
}

static int run_group(vt_stream *stream, const vt_cuda_attention *a, const vt_attn_group *g)
{
    cuda_stream *s = (cuda_stream *)stream;
    const vt_cuda_layout *l = g->own->layout;
    switch (g->kernel) {
    case VT_ATTN_REFERENCE:
        return vt_cuda_attend_reference(a, (float *)s->scratch, s->stream);
    case VT_ATTN_ROWS:
        return vt_cuda_attend_rows(a, &l->rows, s->stream);
    case VT_ATTN_DENSE:
        return run_dense(stream, a);
    default:
        return run_columns(stream, a, l);
    }
}

void vt_cuda_attention_run(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    int images = (int)(qkv.rows / (size_t)plan->tokens);
    size_t counters, bytes = plan_scratch(s->dev, plan, images, &counters);
    const cuda_stream *has = (const cuda_stream *)s;
    if (has->scratch_bytes < bytes || has->counter_bytes / sizeof(uint32_t) < counters) {
        vt_fail(&s->error, VT_MACHINE, "attention: plan was not prepared (layer %d)", s->layer);
        return;
    }
    for (int i = 0; i < plan->groups && s->error.code == VT_OK; i++) {
        vt_cuda_attention a = describe(s, out, qkv, plan, &plan->group[i]);
        vt_cuda_note(s, run_group(s, &a, &plan->group[i]), "attention");
    }
}
