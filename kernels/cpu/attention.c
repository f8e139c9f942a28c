/* Attention by plan: shares the heads out to the threads and gives each its scratch.
 *
 * dense, tiles, rows: an item is an image and a head, or, where there are few of those for the
 * threads, a part of its query tokens. The thread that takes an item packs the head's K and V into
 * its own scratch; memory is threads * (2 N padded head_dim + ...) floats, whatever B and H are.
 * reference: scratch holds the scores of all heads of all images.
 *
 * An output row depends on nothing but its own inputs, so that any number of threads gives the same
 * bits. */
#include "kernels/cpu/cpu.h"
#include "kernels/dispatch.h"

#include <omp.h>

/* Nanoseconds, from tests/bench_costs_cpu on one thread of an AMD EPYC (Milan) at about 3.4 GHz:
 * [fp32, bf16]. There is no measurement of AVX-512 or of other machines yet; they take the nearest
 * ones, whose ratios are what the choice of a kernel rests on. */
static const vt_attn_costs costs_avx2[2] = {{.pack = 0,
                                             .tile = 11,
                                             .soft = 6.31,
                                             .mask = 45.8,
                                             .group = 316,
                                             .widen = 0.662,
                                             .pair = 0.128,
                                             .pair_soft = 12.4,
                                             .row = 35.1,
                                             .reference = 0.316},
                                            {.pack = 0.304,
                                             .tile = 11,
                                             .soft = 5.89,
                                             .mask = 46.7,
                                             .group = 335,
                                             .widen = 0.649,
                                             .pair = 0.123,
                                             .pair_soft = 12.8,
                                             .row = 37.8,
                                             .reference = 0.416}};
static const vt_attn_costs costs_generic = {.pack = 0.874,
                                            .tile = 39.5,
                                            .soft = 10.1,
                                            .mask = 68.2,
                                            .group = 852,
                                            .widen = 1.24,
                                            .pair = 0.278,
                                            .pair_soft = 7.67,
                                            .row = 41.9,
                                            .reference = 0.627};

const struct vt_attn_costs *vt_cpu_attention_costs(const vt_device *dev, int head_dim)
{
    (void)head_dim; /* the formulas know it */
    if (((const cpu_device *)dev)->isa == &vt_isa_generic)
        return &costs_generic;
    return &costs_avx2[dev->dtype == VT_BF16];
}

bool vt_cpu_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim, bool biased)
{
    (void)dev, (void)head_dim, (void)biased;
    return kernel <= VT_ATTN_ROWS;
}

/* ---- scratch ---- */

/* Bytes for one thread; for reference, for all of them together. False where they overflow. */
static bool group_scratch(const vt_attn_plan *plan, const vt_attn_group *g, int images, int threads,
                          size_t *bytes)
{
    size_t n = (size_t)plan->tokens, floats;
    if (g->kernel == VT_ATTN_REFERENCE)
        return vt_mul(n, n, &floats) && vt_mul(floats, (size_t)g->heads, &floats) &&
               vt_mul(floats, (size_t)images, &floats) && vt_mul(floats, sizeof(float), bytes);
    if (g->kernel == VT_ATTN_ROWS)
        floats = vt_attend_rows_floats(plan->tokens, plan->head_dim);
    else if (g->kernel == VT_ATTN_TILES)
        floats = vt_attend_panels_floats(g->tiles->groups, plan->head_dim);
    else
        floats = vt_attend_panels_floats((plan->tokens + VT_TILE - 1) / VT_TILE, plan->head_dim);
    return vt_mul(floats, sizeof(float) * (size_t)threads, bytes);
}

/* SIZE_MAX where the sum is more than memory can be; allocating that fails as it should. */
size_t vt_cpu_attention_scratch(const vt_device *dev, const vt_attn_plan *plan, int images)
{
    size_t most = 0;
    for (int i = 0; i < plan->groups; i++) {
        size_t bytes;
        if (!group_scratch(plan, &plan->group[i], images, dev->threads, &bytes))
            return SIZE_MAX;
        most = bytes > most ? bytes : most;
    }
    return most;
}

int vt_cpu_prepare_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                             int images, vt_status *st)
{
    (void)out, (void)qkv;
    return vt_cpu_need_scratch(s, vt_cpu_attention_scratch(s->dev, plan, images),
                               "attention scratch", st);
}

/* ---- items ---- */

typedef struct {
    const vt_attn_plan *plan;
    const vt_attn_group *group;
    vt_mat out, qkv;
} job;

static vt_attn_item item_of(const job *j, int image, int head)
{
    const vt_attn_plan *p = j->plan;
    const vt_attn_bias *b = p->bias;
    size_t width = (size_t)p->heads * (size_t)p->head_dim;
    size_t size = vt_dtype_bytes(j->qkv.type), column = (size_t)head * (size_t)p->head_dim;
    size_t token = (size_t)image * (size_t)p->tokens;
    const char *q = (const char *)j->qkv.p + (token * 3 * width + column) * size;
    return (vt_attn_item){
        .q = q,
        .k = q + width * size,
        .v = q + 2 * width * size,
        .out = (char *)j->out.p + (token * width + column) * size,
        .type = j->qkv.type,
        .step = 3 * width,
        .out_step = width,
        .tokens = p->tokens,
        .head_dim = p->head_dim,
        .scale = p->scale,
        .group = j->group,
        .bias = b ? b->table + (size_t)head * b->stride : NULL,
        .row = b ? b->row : NULL,
        .col = b ? b->col : NULL,
    };
}

/* Work units of query unit u and before: visited pairs. Units are groups of 16 slots, or tokens. */
static size_t work_before(const job *j, int u)
{
    if (j->group->kernel == VT_ATTN_ROWS)
        return j->group->csr->start[u];
    if (j->group->kernel == VT_ATTN_TILES)
        return (size_t)j->group->tiles->start[u] * (VT_TILE * VT_TILE);
    return (size_t)u * VT_TILE * (size_t)j->plan->tokens;
}

static int units_of(const job *j)
{
    if (j->group->kernel == VT_ATTN_ROWS)
        return j->plan->tokens;
    if (j->group->kernel == VT_ATTN_TILES)
        return j->group->tiles->groups;
    return (j->plan->tokens + VT_TILE - 1) / VT_TILE;
}

/* In how many parts a head is computed: one where whole heads share out well; else enough for the
 * threads, but each with at least some 50 pairs a token, so that packing stays a small part. */
static int parts_of(const job *j, int heads, int threads)
{
    if (heads % threads == 0 || heads >= 8 * threads)
        return 1;
    size_t wanted = ((size_t)threads * 4 + (size_t)heads - 1) / (size_t)heads;
    size_t useful = work_before(j, units_of(j)) / (50 * (size_t)j->plan->tokens);
    size_t parts = wanted < useful ? wanted : useful;
    return parts < 1 ? 1 : (int)parts;
}

/* The first unit of part `part` of `parts` equal shares of work. */
static int part_start(const job *j, int part, int parts)
{
    int low = 0, high = units_of(j);
    size_t before = work_before(j, high) / (size_t)parts * (size_t)part;
    if (part == parts)
        return high;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (work_before(j, mid) < before)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void attend(const cpu_stream *s, const job *j, int images)
{
    const vt_isa *isa = vt_cpu(&s->base)->isa;
    const vt_attn_group *g = j->group;
    int threads = s->base.dev->threads, heads = images * g->heads;
    int parts = parts_of(j, heads, threads);
    size_t per_thread = 0;
    group_scratch(j->plan, g, images, 1, &per_thread);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < heads * parts; i++) {
        int image = i / parts / g->heads, part = i % parts;
        vt_attn_item item = item_of(j, image, g->head[i / parts % g->heads]);
        item.scratch = (float *)(vt_scratch(s) + (size_t)omp_get_thread_num() * per_thread);
        item.first = part_start(j, part, parts);
        item.last = part_start(j, part + 1, parts);
        if (g->kernel == VT_ATTN_ROWS)
            isa->attend_rows(&item);
        else
            isa->attend_panels(&item);
    }
}

/* ---- reference ---- */

typedef void (*row_step)(const vt_isa *isa, const vt_attn_item *item, int query, float *scores);

static void scores_step(const vt_isa *isa, const vt_attn_item *item, int query, float *scores)
{
    isa->reference_scores(item, query, scores);
}

static void softmax_step(const vt_isa *isa, const vt_attn_item *item, int query, float *scores)
{
    isa->reference_softmax(item, query, scores);
}

static void product_step(const vt_isa *isa, const vt_attn_item *item, int query, float *scores)
{
    isa->reference_product(item, query, scores);
}

/* Each step goes over all scores of all heads before the next begins. */
static void reference(const cpu_stream *s, const job *j, int images)
{
    const row_step steps[] = {scores_step, softmax_step, product_step};
    const vt_isa *isa = vt_cpu(&s->base)->isa;
    size_t n = (size_t)j->plan->tokens, heads = (size_t)j->group->heads;
    for (int step = 0; step < 3; step++)
#pragma omp parallel for schedule(static) num_threads(s->base.dev->threads)
        for (size_t row = 0; row < (size_t)images * heads * n; row++) {
            size_t head = row / n;
            vt_attn_item item = item_of(j, (int)(head / heads), j->group->head[head % heads]);
            steps[step](isa, &item, (int)(row % n), (float *)vt_scratch(s) + row * n);
        }
}

void vt_cpu_attention(vt_stream *stream, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    const cpu_stream *s = (const cpu_stream *)stream;
    int images = (int)(qkv.rows / (size_t)plan->tokens);
    size_t needed = vt_cpu_attention_scratch(stream->dev, plan, images);
    if (s->scratch_bytes < needed) {
        vt_fail(&stream->error, VT_MACHINE, "attention: plan was not prepared (layer %d)",
                stream->layer);
        return;
    }
    for (int i = 0; i < plan->groups; i++) {
        job j = {plan, &plan->group[i], out, qkv};
        if (plan->group[i].kernel == VT_ATTN_REFERENCE)
            reference(s, &j, images);
        else
            attend(s, &j, images);
    }
}

/* ---- attention pooling ---- */

/* A row of scores for each thread. */
static size_t latent_scratch(const vt_stream *s, vt_mat kv)
{
    return kv.rows / (size_t)s->images * (size_t)s->dev->threads * sizeof(float);
}

int vt_cpu_prepare_latent_pool(vt_stream *s, vt_mat kv, vt_status *st)
{
    return vt_cpu_need_scratch(s, latent_scratch(s, kv), "attention pooling scratch", st);
}

void vt_cpu_latent_pool(vt_stream *stream, vt_mat y, vt_mat kv, const float *q, int heads,
                        int first)
{
    const vt_isa *isa = vt_cpu(stream)->isa;
    const cpu_stream *s = (const cpu_stream *)stream;
    int images = (int)y.rows, d = y.cols / heads, tokens = (int)(kv.rows / y.rows);
    size_t type = vt_dtype_bytes(kv.type), width = (size_t)y.cols, n = (size_t)tokens;
    int threads = vt_team(stream, kv);
    if (s->scratch_bytes < latent_scratch(stream, kv)) {
        vt_fail(&stream->error, VT_MACHINE, "latent_pool: not prepared for %d tokens", tokens);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < images * heads; i++) {
        size_t image = (size_t)(i / heads), column = (size_t)(i % heads) * (size_t)d;
        const char *k =
            (const char *)kv.p + ((image * n + (size_t)first) * 2 * width + column) * type;
        float *scores = (float *)vt_scratch(s) + (size_t)omp_get_thread_num() * n;
        isa->latent_head((char *)y.p + (image * width + column) * type, q + column, k,
                         k + width * type, kv.type, tokens - first, 2 * width, d, scores);
    }
}
