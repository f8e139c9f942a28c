/* Masks -> statistics -> dispatch -> layouts -> plans: see plan.h. The arithmetic of the choice is
 * kernels/dispatch.c's, the layouts are kernels/layout.c's. */
#include "engine/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/costs.h"
#include "kernels/watch.h"

/* ---- layouts ---- */

int vt_planned_layout(vt_planned_mask *m, vt_attn_kernel kernel, int threads, uint64_t *bytes,
                      vt_status *st)
{
    uint64_t before = vt_layout_bytes(m, kernel);
    int shape = vt_attn_columns(kernel);
    switch (kernel) {
    case VT_ATTN_COLUMNS64:
    case VT_ATTN_COLUMNS128:
    case VT_ATTN_AXIAL64:
    case VT_ATTN_AXIAL128:
        if (!m->columns[shape] &&
            !(m->columns[shape] = vt_columns_build(m->mask, vt_columns_shapes[shape], threads, st)))
            return -1;
        break;
    case VT_ATTN_TILES:
        if (!m->sparse && !(m->sparse = vt_tiles_build(m->mask, threads, st)))
            return -1;
        break;
    case VT_ATTN_ROWS:
        if (!m->csr && !(m->csr = vt_csr_build(m->mask, threads, st)))
            return -1;
        break;
    default:
        if (!m->bitmap && !(m->bitmap = vt_bitmap_build(m->mask, threads, st)))
            return -1;
    }
    if (bytes)
        *bytes += vt_layout_bytes(m, kernel) - before;
    return 0;
}

uint64_t vt_layout_bytes(const vt_planned_mask *m, vt_attn_kernel kernel)
{
    int shape = vt_attn_columns(kernel);
    if (shape >= 0)
        return m->columns[shape] ? m->columns[shape]->bytes : 0;
    switch (kernel) {
    case VT_ATTN_TILES:
        return m->sparse ? m->sparse->bytes : 0;
    case VT_ATTN_ROWS:
        return m->csr ? m->csr->bytes : 0;
    default:
        return m->bitmap ? m->bitmap->bytes : 0;
    }
}

void vt_group_use(vt_attn_group *g, vt_attn_kernel kernel, const vt_planned_mask *m)
{
    g->kernel = kernel;
    g->bitmap = m ? m->bitmap : NULL;
    g->tiles = m ? m->sparse : NULL;
    g->csr = m ? m->csr : NULL;
    int shape = vt_attn_columns(kernel);
    g->columns = m && shape >= 0 ? m->columns[shape] : NULL;
}

void vt_planned_layouts_free(vt_planned_mask *m)
{
    vt_bitmap_free(m->bitmap);
    vt_tiles_free(m->sparse);
    vt_csr_free(m->csr);
    for (int i = 0; i < VT_COLUMNS_SHAPES; i++)
        vt_columns_free(m->columns[i]);
}

/* ---- distinct masks ---- */

/* What the cost model wants to know for kernels that the device has. */
static int count_layouts(vt_planned_mask *m, const vt_plan_setup *setup, vt_status *st)
{
    bool tiles = !setup->dev, columns = false;
    for (int k = 0; setup->dev && k < VT_ATTN_KERNELS; k++) {
        bool serves =
            vt_attention_serves(setup->dev, (vt_attn_kernel)k, setup->head_dim, setup->biased);
        tiles = tiles || (serves && k == VT_ATTN_TILES);
        columns = columns || (serves && vt_attn_columns((vt_attn_kernel)k) >= 0);
    }
    if (tiles && vt_tiles_count(m->mask, setup->threads, &m->tiles, st))
        return -1;
    return columns ? vt_columns_count_all(m->mask, setup->threads, m->columns_count, st) : 0;
}

/* The index of the distinct mask that `mask` equals, counting it if it is new; -1 on failure. */
static int distinct(vt_plans *p, const vt_mask *mask, const vt_plan_setup *setup, vt_status *st)
{
    for (int i = 0; i < p->masks; i++)
        if (p->mask[i].mask == mask)
            return i;
    vt_planned_mask *m = &p->mask[p->masks];
    m->mask = mask;
    if (vt_mask_count(mask, setup->threads, &m->stats, st))
        return -1;
    for (int i = 0; i < p->masks; i++)
        if (!memcmp(p->mask[i].stats.hash, m->stats.hash, sizeof m->stats.hash) &&
            p->mask[i].stats.nnz == m->stats.nnz)
            return i;
    if (count_layouts(m, setup, st))
        return -1;
    return p->masks++;
}

/* ---- texts ---- */

/* "0-3,5": ascending heads as ranges. */
static char *heads_text(const uint16_t *head, int heads, vt_status *st)
{
    size_t room = 12 * (size_t)heads + 1, n = 0;
    char *text = vt_alloc(room, 1, "head list", st);
    for (int i = 0; text && i < heads;) {
        int j = i;
        while (j + 1 < heads && head[j + 1] == head[j] + 1)
            j++;
        n += (size_t)snprintf(text + n, room - n, "%s%d", i ? "," : "", head[i]);
        if (j > i)
            n += (size_t)snprintf(text + n, room - n, "-%d", head[j]);
        i = j + 1;
    }
    return text;
}

/* What does not depend on kernels. */
static void describe(vt_planned_group *g, int layer, int tokens, const vt_mask_stats *s)
{
    vitrun_layer *l = &g->pub;
    *l = (vitrun_layer){.layer = layer, .heads = g->heads, .mask = g->mask_text};
    l->tokens = tokens;
    l->nnz = s ? s->nnz : (int64_t)tokens * tokens;
    l->density = s ? s->density : 1;
    l->empty_rows = s ? s->empty_rows : 0;
    l->row_min = s ? s->row_min : tokens;
    l->row_max = s ? s->row_max : tokens;
    l->row_mean = s ? s->row_mean : tokens;
    for (int i = 0; i < 3; i++)
        l->occupancy[i] = s ? s->occupancy[i] : 1;
    l->reason = g->reason;
    l->candidates = g->candidate;
}

/* ---- one group ---- */

static vt_attn_wish layer_wish(const vt_plan_setup *setup, const vt_layer_masks *layer)
{
    vt_attn_wish wish = setup->wish;
    if (layer && layer->density_threshold >= 0 && !setup->wish_threshold_wins)
        wish.threshold = layer->density_threshold;
    if (layer && layer->kernel && !wish.kernel)
        wish.kernel = layer->kernel;
    return wish;
}

vt_attn_work vt_planned_work(const vt_planned_mask *m, int heads, int tokens,
                             const vt_plan_setup *setup)
{
    vt_attn_work work = {.images = setup->images,
                         .heads = heads,
                         .tokens = tokens,
                         .head_dim = setup->head_dim,
                         .threads = setup->dev->host_memory ? setup->threads : 1,
                         .masked = m != NULL,
                         .nnz = m ? m->stats.nnz : (int64_t)tokens * tokens,
                         .tiles = m ? m->tiles : 0,
                         .occupied = m ? m->stats.occupancy[2] : 1,
                         .row_max = m ? m->stats.row_max : tokens};
    if (m)
        memcpy(work.columns, m->columns_count, sizeof work.columns);
    for (int k = 0; k < VT_ATTN_KERNELS; k++)
        work.serves[k] =
            vt_attention_serves(setup->dev, (vt_attn_kernel)k, setup->head_dim, setup->biased);
    return work;
}

static int choose(vt_plans *p, vt_planned_group *g, vt_attn_group *to, const vt_plan_setup *setup,
                  const vt_layer_masks *layer, vt_status *st)
{
    vt_planned_mask *m = g->mask < 0 ? NULL : &p->mask[g->mask];
    vt_attn_wish wish = layer_wish(setup, layer);
    vt_attn_work work = vt_planned_work(m, to->heads, g->pub.tokens, setup);
    vt_attn_choice choice;
    if (vt_attn_choose(&choice, &wish, &work, &p->costs, st))
        return -1;
    if (m && vt_planned_layout(m, choice.kernel, setup->threads, &p->mask_bytes, st))
        return -1;
    vt_group_use(to, choice.kernel, m);
    if (vt_group_load(setup->dev, to, st))
        return -1;
    memcpy(g->reason, choice.reason, sizeof g->reason);
    g->pub.threshold = wish.threshold;
    g->pub.kernel = vt_attn_kernel_name(choice.kernel);
    g->pub.predicted_ms = choice.ms[choice.kernel];
    g->pub.mask_bytes = m ? vt_layout_bytes(m, choice.kernel) : 0;
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        bool candidate = m || k == VT_ATTN_DENSE || k == VT_ATTN_REFERENCE;
        if (candidate && work.serves[k])
            g->candidate[g->pub.candidate_count++] = (vitrun_candidate){
                vt_attn_kernel_name((vt_attn_kernel)k), isfinite(choice.ms[k]) ? choice.ms[k] : -1};
    }
    return 0;
}

/* Scratch of this group alone, at the planned number of images. */
static uint64_t group_work_bytes(const vt_attn_plan *plan, int i, const vt_plan_setup *setup)
{
    vt_attn_plan alone = *plan;
    alone.group = &plan->group[i];
    alone.groups = 1;
    return setup->dev->ops->attention_scratch(setup->dev, &alone, setup->images);
}

/* The heads [heads] of a layer that share the distinct mask `mask` (-1: dense). */
static int add_group(vt_plans *p, int layer, int mask, const uint16_t *head, int heads,
                     const char *text, const vt_layer_masks *layer_masks,
                     const vt_plan_setup *setup, vt_status *st)
{
    vt_attn_plan *plan = &p->plan[layer];
    vt_attn_group *to = &plan->group[plan->groups++];
    vt_planned_group *g = &p->group[p->groups++];
    int copies = setup->head_copies ? setup->head_copies : 1;
    g->mask = mask;
    g->heads = heads_text(head, heads, st);
    g->mask_text = g->heads ? vt_strdup(text, st) : NULL;
    to->heads = heads * copies;
    to->name = g->heads;
    to->head = vt_alloc((size_t)to->heads, sizeof *to->head, "head list", st);
    if (!g->mask_text || !to->head)
        return -1;
    for (int i = 0; i < to->heads; i++)
        to->head[i] = (uint16_t)(head[i / copies] * copies + i % copies);
    describe(g, layer, plan->tokens, mask < 0 ? NULL : &p->mask[mask].stats);
    return setup->dev ? choose(p, g, to, setup, layer_masks, st) : 0;
}

/* ---- all layers ---- */

typedef struct {       /* of each head of a layer */
    int *mask;         /* index of its distinct mask, -1: dense */
    const char **text; /* its expression as written */
    uint16_t *members; /* room to collect the heads of a group */
} head_masks;

static int find_masks(vt_plans *p, head_masks *h, const vt_layer_masks *masks,
                      const vt_plan_setup *setup, vt_status *st)
{
    for (int i = 0; i < setup->heads; i++) {
        h->mask[i] = -1;
        h->text[i] = "dense";
    }
    for (int g = 0; masks && g < masks->groups; g++) {
        const vt_mask_group *from = &masks->group[g];
        int mask = from->mask ? distinct(p, from->mask, setup, st) : -1;
        if (from->mask && mask < 0)
            return -1;
        for (int i = 0; i < from->heads; i++) {
            h->mask[from->head[i]] = mask;
            h->text[from->head[i]] = from->text;
        }
    }
    return 0;
}

/* One group a distinct mask, in the order of first heads. */
static int group_heads(vt_plans *p, int layer, const head_masks *h, const vt_layer_masks *masks,
                       const vt_plan_setup *setup, vt_status *st)
{
    for (int first = 0; first < setup->heads; first++) {
        int members = 0, seen = 0;
        for (int i = 0; i < first && !seen; i++)
            seen = h->mask[i] == h->mask[first];
        for (int i = first; i < setup->heads && !seen; i++)
            if (h->mask[i] == h->mask[first])
                h->members[members++] = (uint16_t)i;
        if (members && add_group(p, layer, h->mask[first], h->members, members, h->text[first],
                                 masks, setup, st))
            return -1;
    }
    return 0;
}

static int plan_layer(vt_plans *p, int i, int tokens, head_masks *h, const vt_layer_masks *masks,
                      const vt_plan_setup *setup, vt_status *st)
{
    vt_attn_plan *plan = &p->plan[i];
    int first = p->groups;
    *plan = (vt_attn_plan){.tokens = tokens, .heads = setup->heads, .head_dim = setup->head_dim};
    plan->heads *= setup->head_copies ? setup->head_copies : 1;
    plan->scale = 1 / sqrtf((float)setup->head_dim);
    plan->group =
        vt_alloc(masks ? (size_t)masks->groups : 1, sizeof *plan->group, "attention plan", st);
    if (!plan->group || find_masks(p, h, masks, setup, st) ||
        group_heads(p, i, h, masks, setup, st))
        return -1;
    for (int g = 0; g < plan->groups && setup->dev; g++)
        p->group[first + g].pub.work_bytes = group_work_bytes(plan, g, setup);
    p->of[i] = plan;
    return 0;
}

int vt_plans_build(vt_plans *out, const vt_masks *masks, int layers, int tokens,
                   const vt_plan_setup *setup, vt_status *st)
{
    int groups = 0;
    vt_watch *watch = masks ? setup->watch : NULL;
    *out = (vt_plans){.layers = layers, .dev = setup->dev};
    if (setup->dev)
        out->measured = vt_costs_of(setup->dev, setup->head_dim, &out->costs);
    for (int i = 0; i < layers; i++)
        groups += masks ? masks->layer[i].groups : 1;
    out->plan = vt_alloc((size_t)layers, sizeof *out->plan, "attention plans", st);
    out->of = vt_alloc((size_t)layers, sizeof *out->of, "attention plans", st);
    out->group = vt_alloc((size_t)groups, sizeof *out->group, "attention plans", st);
    out->mask = vt_alloc(masks ? (size_t)masks->masks : 0, sizeof *out->mask, "masks", st);
    head_masks h = {vt_alloc((size_t)setup->heads, sizeof *h.mask, "head list", st),
                    vt_alloc((size_t)setup->heads, sizeof *h.text, "head list", st),
                    vt_alloc((size_t)setup->heads, sizeof *h.members, "head list", st)};
    bool failed =
        !out->plan || !out->of || !out->group || !out->mask || !h.mask || !h.text || !h.members;
    vt_watch_begin(watch, "masks", (uint64_t)layers);
    for (int i = 0; i < layers && !failed; i++) {
        failed = vt_watch_stopped(watch, st) ||
                 plan_layer(out, i, tokens, &h, masks ? &masks->layer[i] : NULL, setup, st);
        vt_watch_step(watch, !failed);
    }
    vt_free(h.mask);
    vt_free(h.text);
    vt_free(h.members);
    if (failed)
        vt_plans_free(out);
    return failed ? -1 : 0;
}

int vt_plan_fetch_bias(vt_device *dev, const vt_attn_plan *plan, vt_attn_bias *host, float **floats,
                       vt_status *st)
{
    size_t table = (size_t)plan->heads * plan->bias->stride, n = (size_t)plan->tokens;
    float *p = vt_alloc(table + 2 * n, sizeof *p, "relative bias", st);
    const void *from[] = {plan->bias->table, plan->bias->row, plan->bias->col};
    const size_t count[] = {table, n, n};
    *floats = p;
    for (size_t i = 0; p && i < 3; p += count[i], i++) /* places are copied bit by bit */
        if (dev->ops->download(dev, p,
                               (vt_mat){(void *)(uintptr_t)from[i], VT_F32, 1, (int)count[i]}, st))
            return -1;
    if (!*floats)
        return -1;
    const int32_t *row = (const int32_t *)(const void *)(*floats + table);
    *host = (vt_attn_bias){*floats, plan->bias->stride, row, row + n};
    return 0;
}

void vt_plans_free(vt_plans *p)
{
    for (int i = 0; p->plan && i < p->layers; i++) {
        for (int g = 0; g < p->plan[i].groups; g++) {
            if (p->dev)
                vt_group_free(p->dev, &p->plan[i].group[g]);
            vt_free(p->plan[i].group[g].head);
        }
        vt_free(p->plan[i].group);
    }
    for (int i = 0; p->group && i < p->groups; i++) {
        vt_free(p->group[i].heads);
        vt_free(p->group[i].mask_text);
    }
    for (int i = 0; i < p->masks; i++)
        vt_planned_layouts_free(&p->mask[i]);
    vt_free(p->plan);
    vt_free(p->of);
    vt_free(p->group);
    vt_free(p->mask);
    *p = (vt_plans){0};
}
