/* Linear layers by oneDNN's matmul, with the weights in the layout that it asks for.
 *
 * A product is prepared for its weights, rows, types and epilogue; bias, activation and the sum
 * with y are fused into it. Running one allocates nothing: memory objects are made ahead and only
 * pointed at the operands, and oneDNN's own scratch is the stream's. oneDNN takes as many threads
 * as OpenMP would give the calling thread; that number is set for each call and put back.
 *
 * Versions 2 and 3 of the interface differ in how descriptions are made; all of that is in the
 * first section. */
#include "kernels/cpu/cpu.h"

#if VT_ONEDNN

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>

struct vt_dnn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

/* ---- the two interfaces ---- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc;
typedef const_dnnl_memory_desc_t desc_view;
#define VIEW(d) (d)

static dnnl_status_t desc_new(desc *d, size_t rows, int cols, dnnl_data_type_t type,
                              dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = {(dnnl_dim_t)rows, cols};
    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, tag);
}

static dnnl_status_t desc_copy(desc *to, desc_view from)
{
    return dnnl_memory_desc_clone(to, from);
}

static void desc_free(desc *d)
{
    if (*d)
        dnnl_memory_desc_destroy(*d);
}

static dnnl_status_t matmul_new(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const desc *x,
                                desc_view w, const desc *bias, const desc *y,
                                dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, engine, *x, w, *bias, *y, attr);
}

static dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float alpha)
{
    return dnnl_post_ops_append_eltwise(ops, alg, alpha, 0);
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t desc;
typedef const dnnl_memory_desc_t *desc_view;
#define VIEW(d) (&(d))

static dnnl_status_t desc_new(desc *d, size_t rows, int cols, dnnl_data_type_t type,
                              dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = {(dnnl_dim_t)rows, cols};
    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, tag);
}

static dnnl_status_t desc_copy(desc *to, desc_view from)
{
    *to = *from;
    return dnnl_success;
}

static void desc_free(desc *d)
{
    (void)d;
}

static dnnl_status_t matmul_new(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const desc *x,
                                desc_view w, const desc *bias, const desc *y,
                                dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t d;
    dnnl_status_t status = dnnl_matmul_desc_init(&d, x, w, bias, y);
    return status != dnnl_success ? status : dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
}

static dnnl_status_t add_eltwise(dnnl_post_ops_t ops, dnnl_alg_kind_t alg, float alpha)
{
    return dnnl_post_ops_append_eltwise(ops, 1, alg, alpha, 0);
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1);
}
#endif

/* ---- errors, threads, the engine ---- */

static int check(dnnl_status_t status, const char *what, vt_status *st)
{
    if (status == dnnl_success)
        return 0;
    if (status == dnnl_out_of_memory)
        return vt_fail(st, VT_MACHINE, "oneDNN: not enough memory (%s)", what);
    return vt_fail(st, VT_USAGE, "oneDNN: %s failed (status %d)", what, (int)status);
}

static int take_threads(const vt_device *dev)
{
    int before = omp_get_max_threads();
    omp_set_num_threads(dev->threads);
    return before;
}

static dnnl_data_type_t data_type(vt_dtype t)
{
    return t == VT_F32 ? dnnl_f32 : dnnl_bf16;
}

vt_dnn *vt_dnn_open(vt_status *st)
{
    vt_dnn *d = vt_alloc(1, sizeof *d, "oneDNN engine", st);
    if (!d)
        return NULL;
    if (check(dnnl_engine_create(&d->engine, dnnl_cpu, 0), "opening the CPU", st) ||
        check(dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags),
              "opening a stream", st)) {
        vt_dnn_close(d);
        return NULL;
    }
    return d;
}

void vt_dnn_close(vt_dnn *d)
{
    if (!d)
        return;
    if (d->stream)
        dnnl_stream_destroy(d->stream);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    vt_free(d);
}

#define TEXT2(x) #x
#define TEXT(x)  TEXT2(x)

const char *vt_dnn_version(void)
{
    return "oneDNN " TEXT(DNNL_VERSION_MAJOR) "." TEXT(DNNL_VERSION_MINOR) "." TEXT(
        DNNL_VERSION_PATCH);
}

/* ---- describing a product ---- */

static int epilogue_attr(dnnl_primitive_attr_t *attr, vt_epilogue e, vt_status *st)
{
    static const struct {
        dnnl_alg_kind_t alg;
        float alpha;
    } of[] = {[VT_ACT_GELU] = {dnnl_eltwise_gelu_erf, 0},
              [VT_ACT_GELU_TANH] = {dnnl_eltwise_gelu_tanh, 0},
              [VT_ACT_QUICK_GELU] = {dnnl_eltwise_swish, 1.702f}};
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attr);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success && e.act != VT_ACT_NONE)
        status = add_eltwise(ops, of[e.act].alg, of[e.act].alpha);
    if (status == dnnl_success && e.add)
        status = add_sum(ops);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    return check(status, "an epilogue", st);
}

/* The product of x [rows, in] and weights of layout w. */
static int describe(dnnl_primitive_desc_t *pd, const vt_dnn *dnn, desc_view w, size_t rows, int out,
                    int in, vt_dtype x, vt_dtype y, vt_epilogue e, vt_status *st)
{
    dnnl_primitive_attr_t attr = NULL;
    desc dx = {0}, db = {0}, dy = {0};
    int failed = epilogue_attr(&attr, e, st);
    if (!failed) {
        dnnl_status_t status = desc_new(&dx, rows, in, data_type(x), dnnl_ab);
        if (status == dnnl_success)
            status = desc_new(&db, 1, out, dnnl_f32, dnnl_ab);
        if (status == dnnl_success)
            status = desc_new(&dy, rows, out, data_type(y), dnnl_ab);
        if (status == dnnl_success)
            status = matmul_new(pd, dnn->engine, &dx, w, &db, &dy, attr);
        failed = check(status, "a matrix product of these types on this machine", st);
        desc_free(&dx), desc_free(&db), desc_free(&dy);
    }
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return failed;
}

/* ---- weights ---- */

struct vt_dnn_weights {
    int out, in;
    desc layout;
    dnnl_memory_t memory; /* of data */
    void *data;
    size_t bytes;
};

/* data = the caller's W in the chosen layout and type. */
static int convert(const vt_dnn *dnn, vt_dnn_weights *l, const float *w, vt_status *st)
{
    desc plain = {0};
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    /* [in, out] whose columns are the rows of W */
    dnnl_status_t status = desc_new(&plain, (size_t)l->in, l->out, dnnl_f32, dnnl_ba);
    if (status == dnnl_success)
        status = dnnl_memory_create(&from, VIEW(plain), dnn->engine, (void *)(uintptr_t)w);
    if (status == dnnl_success)
        status = dnnl_reorder_primitive_desc_create(&pd, VIEW(plain), dnn->engine, VIEW(l->layout),
                                                    dnn->engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_create(&reorder, pd);
    if (status == dnnl_success) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, l->memory}};
        status = dnnl_primitive_execute(reorder, dnn->stream, 2, args);
    }
    if (status == dnnl_success)
        status = dnnl_stream_wait(dnn->stream);
    if (reorder)
        dnnl_primitive_destroy(reorder);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (from)
        dnnl_memory_destroy(from);
    desc_free(&plain);
    return check(status, "packing weights", st);
}

/* Asks the product which layout it wants. */
static int choose_layout(const vt_device *dev, vt_dnn_weights *l, size_t rows, vt_status *st)
{
    const vt_dnn *dnn = ((const cpu_device *)dev)->dnn;
    dnnl_primitive_desc_t pd = NULL;
    desc any = {0};
    if (check(desc_new(&any, (size_t)l->in, l->out, data_type(dev->dtype), dnnl_format_tag_any),
              "describing weights", st))
        return -1;
    int failed = describe(&pd, dnn, VIEW(any), rows, l->out, l->in, dev->dtype, dev->dtype,
                          (vt_epilogue){0}, st);
    desc_free(&any);
    if (failed)
        return -1;
    failed =
        check(desc_copy(&l->layout, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0)),
              "describing weights", st);
    dnnl_primitive_desc_destroy(pd);
    return failed;
}

vt_dnn_weights *vt_dnn_load(vt_device *dev, const float *w, int out, int in, size_t rows,
                            vt_status *st)
{
    const vt_dnn *dnn = ((const cpu_device *)dev)->dnn;
    vt_dnn_weights *l = vt_alloc(1, sizeof *l, "linear layer", st);
    if (!l)
        return NULL;
    l->out = out, l->in = in;
    int before = take_threads(dev);
    int failed = choose_layout(dev, l, rows ? rows : 1, st);
    if (!failed) {
        l->bytes = dnnl_memory_desc_get_size(VIEW(l->layout));
        l->data = vt_alloc(l->bytes, 1, "weights", st);
        failed = !l->data ||
                 check(dnnl_memory_create(&l->memory, VIEW(l->layout), dnn->engine, l->data),
                       "describing weights", st) ||
                 convert(dnn, l, w, st);
    }
    omp_set_num_threads(before);
    if (!failed)
        return l;
    vt_dnn_free(l);
    return NULL;
}

void vt_dnn_free(vt_dnn_weights *l)
{
    if (!l)
        return;
    if (l->memory)
        dnnl_memory_destroy(l->memory);
    desc_free(&l->layout);
    vt_free(l->data);
    vt_free(l);
}

size_t vt_dnn_bytes(const vt_dnn_weights *l)
{
    return sizeof *l + l->bytes;
}

/* ---- products ---- */

struct vt_dnn_product {
    vt_dnn_product *next;
    const vt_dnn_weights *w;
    size_t rows;
    vt_dtype x, y;
    vt_epilogue e;
    dnnl_primitive_t matmul;
    dnnl_stream_t stream;                  /* its own: streams of ours may run at the same time */
    dnnl_memory_t mx, my, mbias, mscratch; /* pointed at the operands for each run */
    size_t converted_bytes;                /* x in the device's type, where it came in another */
    size_t scratch_bytes;                  /* that, and oneDNN's own after it */
};

static vt_dnn_product *find(const cpu_stream *s, const vt_dnn_weights *w, size_t rows, vt_dtype x,
                            vt_dtype y, vt_epilogue e)
{
    for (vt_dnn_product *p = s->products; p; p = p->next)
        if (p->w == w && p->rows == rows && p->x == x && p->y == y && p->e.act == e.act &&
            p->e.add == e.add)
            return p;
    return NULL;
}

static dnnl_status_t memory_for(dnnl_memory_t *m, dnnl_primitive_desc_t pd, dnnl_query_t what,
                                int index, dnnl_engine_t engine)
{
    return dnnl_memory_create(m, dnnl_primitive_desc_query_md(pd, what, index), engine,
                              DNNL_MEMORY_NONE);
}

static int make_product(const vt_device *dev, vt_dnn_product *p, vt_status *st)
{
    const vt_dnn *dnn = ((const cpu_device *)dev)->dnn;
    dnnl_primitive_desc_t pd = NULL;
    if (describe(&pd, dnn, VIEW(p->w->layout), p->rows, p->w->out, p->w->in, dev->dtype, p->y, p->e,
                 st))
        return -1;
    dnnl_engine_t engine = dnn->engine;
    dnnl_status_t status = dnnl_primitive_create(&p->matmul, pd);
    if (status == dnnl_success)
        status = dnnl_stream_create(&p->stream, engine, dnnl_stream_default_flags);
    if (status == dnnl_success)
        status = memory_for(&p->mx, pd, dnnl_query_src_md, 0, engine);
    if (status == dnnl_success)
        status = memory_for(&p->my, pd, dnnl_query_dst_md, 0, engine);
    if (status == dnnl_success)
        status = memory_for(&p->mbias, pd, dnnl_query_weights_md, 1, engine);
    if (status == dnnl_success)
        status = memory_for(&p->mscratch, pd, dnnl_query_scratchpad_md, 0, engine);
    size_t own =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    size_t type = vt_dtype_bytes(dev->dtype);
    p->converted_bytes =
        p->x == dev->dtype ? 0 : (p->rows * (size_t)p->w->in * type + 63) / 64 * 64;
    p->scratch_bytes = p->converted_bytes + own;
    dnnl_primitive_desc_destroy(pd);
    return check(status, "preparing a matrix product", st);
}

static void free_product(vt_dnn_product *p)
{
    dnnl_memory_t memory[] = {p->mx, p->my, p->mbias, p->mscratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            dnnl_memory_destroy(memory[i]);
    if (p->stream)
        dnnl_stream_destroy(p->stream);
    if (p->matmul)
        dnnl_primitive_destroy(p->matmul);
    vt_free(p);
}

void vt_dnn_free_products(vt_dnn_product *list)
{
    while (list) {
        vt_dnn_product *next = list->next;
        free_product(list);
        list = next;
    }
}

int vt_dnn_prepare(vt_stream *stream, const vt_dnn_weights *w, size_t rows, vt_dtype x, vt_dtype y,
                   vt_epilogue e, vt_status *st)
{
    cpu_stream *s = (cpu_stream *)stream;
    if (find(s, w, rows, x, y, e))
        return 0;
    vt_dnn_product *p = vt_alloc(1, sizeof *p, "matrix product", st);
    if (!p)
        return -1;
    p->w = w, p->rows = rows, p->x = x, p->y = y, p->e = e;
    int before = take_threads(stream->dev);
    int failed = make_product(stream->dev, p, st);
    omp_set_num_threads(before);
    if (failed || vt_cpu_need_scratch(stream, p->scratch_bytes, "linear scratch", st)) {
        free_product(p);
        return -1;
    }
    p->next = s->products;
    s->products = p;
    s->product_bytes += sizeof *p;
    return 0;
}

static dnnl_status_t execute(const cpu_stream *s, vt_dnn_product *p, void *y, void *x, void *bias)
{
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->mx},
                              {DNNL_ARG_WEIGHTS, p->w->memory},
                              {DNNL_ARG_BIAS, p->mbias},
                              {DNNL_ARG_DST, p->my},
                              {DNNL_ARG_SCRATCHPAD, p->mscratch}};
    dnnl_status_t status = dnnl_memory_set_data_handle(p->mx, x);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(p->my, y);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(p->mbias, bias);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(p->mscratch, vt_scratch(s) + p->converted_bytes);
    if (status == dnnl_success)
        status = dnnl_primitive_execute(p->matmul, p->stream, 5, args);
    return status == dnnl_success ? dnnl_stream_wait(p->stream) : status;
}

int vt_dnn_run(vt_stream *stream, vt_mat y, vt_mat x, const vt_dnn_weights *w, const float *bias,
               vt_epilogue e, vt_status *st)
{
    const cpu_stream *s = (const cpu_stream *)stream;
    vt_dnn_product *p = find(s, w, x.rows, x.type, y.type, e);
    if (!p)
        return vt_fail(st, VT_MACHINE, "linear: not prepared for %zu rows (layer %d)", x.rows,
                       stream->layer);
    if (p->converted_bytes) {
        vt_mat converted = {vt_scratch(s), stream->dev->dtype, x.rows, x.cols};
        vt_cpu_cast(stream, converted, x);
        x = converted;
    }
    int before = take_threads(stream->dev);
    dnnl_status_t status = execute(s, p, y.p, x.p, (void *)(uintptr_t)bias);
    omp_set_num_threads(before);
    return check(status, "a matrix product", st);
}

#else /* no oneDNN in this build */

vt_dnn *vt_dnn_open(vt_status *st)
{
    vt_fail(st, VT_USAGE, "cpu: this build has no oneDNN");
    return NULL;
}

void vt_dnn_close(vt_dnn *d)
{
    (void)d;
}

const char *vt_dnn_version(void)
{
    return "no oneDNN";
}

vt_dnn_weights *vt_dnn_load(vt_device *dev, const float *w, int out, int in, size_t rows,
                            vt_status *st)
{
    (void)dev, (void)w, (void)out, (void)in, (void)rows, (void)st;
    return NULL;
}

void vt_dnn_free(vt_dnn_weights *w)
{
    (void)w;
}

size_t vt_dnn_bytes(const vt_dnn_weights *w)
{
    (void)w;
    return 0;
}

int vt_dnn_prepare(vt_stream *s, const vt_dnn_weights *w, size_t rows, vt_dtype x, vt_dtype y,
                   vt_epilogue e, vt_status *st)
{
    (void)s, (void)w, (void)rows, (void)x, (void)y, (void)e, (void)st;
    return -1;
}

int vt_dnn_run(vt_stream *s, vt_mat y, vt_mat x, const vt_dnn_weights *w, const float *bias,
               vt_epilogue e, vt_status *st)
{
    (void)s, (void)y, (void)x, (void)w, (void)bias, (void)e, (void)st;
    return -1;
}

void vt_dnn_free_products(vt_dnn_product *list)
{
    (void)list;
}

#endif
