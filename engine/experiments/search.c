/* See search.h. */
#include "engine/experiments/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/evaluate.h"
#include "engine/experiments/measure.h"

typedef struct {
    int layer, candidate;
    double saves, harm;
} move;

typedef struct {
    const vte_search *s;
    vte_search_result *out;
    float *dense; /* logits */
    size_t total; /* models to be measured at most */
    int *trial;   /* [layers] */
    double *kept; /* [layers] what the layer's choice saved alone */
    move *moves;
    int count;
} searcher;

/* ---- measuring one choice ---- */
static void on_bad(void *user, const char *message)
{
    const searcher *r = user;
    if (r->out->measured == 0 && r->s->bad) /* named once */
        r->s->bad(r->s->user, message);
}

static int cost_ms(const searcher *r, const vitrun_model *model, double *cost, vitrun_error *err)
{
    int runs = r->s->runs, batch = r->s->batch;
    double *ms = calloc((size_t)runs, sizeof *ms), warm_up;
    vitrun_outputs none = {0};
    vitrun_context *c = ms ? vitrun_context_open(model, batch, err) : NULL;
    if (!ms)
        vte_fail(err, VITRUN_MACHINE, "out of memory (times)");
    const vitrun_info *i = vitrun_info_get(model);
    size_t size = (size_t)i->channels * (size_t)i->image_height * (size_t)i->image_width;
    if (c)
        memset(vitrun_context_input(c), 0, (size_t)batch * size * sizeof(float));
    int bad = !c || vitrun_forward(c, batch, &none, err) || vitrun_time(c, &warm_up, err) ? -1 : 0;
    for (int k = 0; k < runs && !bad; k++)
        bad = vitrun_time(c, &ms[k], err);
    if (!bad)
        *cost = vte_spread_of(ms, runs).median;
    vitrun_context_close(c);
    free(ms);
    return bad;
}

static int cost_of(const searcher *r, const vitrun_model *model, double *cost, vitrun_error *err)
{
    vitrun_memory memory;
    if (r->s->cost == VTE_COST_MS)
        return cost_ms(r, model, cost, err);
    if (r->s->cost == VTE_COST_BYTES) {
        int bad = vitrun_memory_plan(model, r->s->batch, &memory, err);
        *cost = bad ? 0 : (double)(memory.attention_bytes + memory.masks_bytes);
        return bad;
    }
    *cost = 0;
    for (int i = 0; i < vitrun_layer_count(model); i++)
        *cost += (double)vitrun_layer_at(model, i)->nnz; /* one group: one mask for all heads */
    *cost *= vitrun_info_get(model)->heads;
    return 0;
}

static int score(searcher *r, const vitrun_model *model, vte_figures *f, vitrun_error *err)
{
    vte_scores v;
    vte_evaluation e = {.model = model,
                        .batch = r->s->batch,
                        .data = r->s->data,
                        .dense = r->out->measured ? r->dense : NULL,
                        .logits = r->out->measured ? NULL : r->dense,
                        .user = r,
                        .bad = on_bad};
    if (cost_of(r, model, &f->cost, err) != 0 || vte_evaluate(&e, &v, err) != 0)
        return -1;
    f->top1 = v.top1;
    f->agreement = r->out->measured ? v.agreement : 1;
    f->kl = r->out->measured ? v.kl : 0;
    r->out->bad_images = v.bad;
    size_t images = v.images;
    vte_scores_free(&v);
    r->out->measured++;
    if (r->s->progress)
        r->s->progress(r->s->user, r->out->measured, r->total);
    return images ? 0 : vte_fail(err, VITRUN_INPUT, "none of the images can be used");
}

/* Figures of the model under `choice` [layers]. */
static int measure(searcher *r, const int *choice, vte_figures *f, vitrun_error *err)
{
    int layers = r->out->layers, count = 0, bad = 0;
    char **text = calloc((size_t)layers + 1, sizeof *text);
    for (int l = 0; text && l < layers && !bad; l++)
        if (choice[l] >= 0)
            bad = asprintf(&text[count++], "%d: %s", l, r->s->candidate[choice[l]]) < 0;
    vitrun_model *model = NULL;
    if (!text || bad)
        bad = vte_fail(err, VITRUN_MACHINE, "out of memory (masks)");
    else {
        vitrun_options o = *r->s->base;
        o.mask_config = NULL;
        o.masks = (const char *const *)text;
        o.mask_count = count;
        o.batch = r->s->batch;
        model = vitrun_variant(r->s->model, &o, err);
        bad = model ? score(r, model, f, err) : -1;
    }
    vitrun_close(model);
    for (int i = 0; text && i < count; i++)
        free(text[i]);
    free(text);
    return bad;
}

/* ---- the two steps ---- */
static int try_alone(searcher *r, vitrun_error *err)
{
    int layers = r->out->layers;
    for (int l = 0; l < layers; l++)
        for (int c = 0; c < r->s->candidates; c++) {
            vte_figures f;
            for (int k = 0; k < layers; k++)
                r->trial[k] = k == l ? c : -1;
            if (measure(r, r->trial, &f, err) != 0)
                return -1;
            if (f.cost < r->out->dense.cost)
                r->moves[r->count++] = (move){l, c, r->out->dense.cost - f.cost, f.kl};
        }
    return 0;
}

static int better_first(const void *a, const void *b)
{
    const move *x = a, *y = b;
    double p = x->saves * (y->harm + 1e-12), q = y->saves * (x->harm + 1e-12);
    if (p != q)
        return p < q ? 1 : -1;
    return x->layer != y->layer ? x->layer - y->layer : x->candidate - y->candidate;
}

static int is_reached(const searcher *r)
{
    return r->s->target_cost > 0 && r->out->found.cost <= r->s->target_cost;
}

static int add_greedily(searcher *r, vitrun_error *err)
{
    vte_search_result *out = r->out;
    for (int i = 0; i < r->count && !is_reached(r); i++) {
        const move *m = &r->moves[i];
        vte_figures f;
        if (out->choice[m->layer] >= 0 && m->saves <= r->kept[m->layer])
            continue;
        memcpy(r->trial, out->choice, (size_t)out->layers * sizeof *r->trial);
        r->trial[m->layer] = m->candidate;
        if (measure(r, r->trial, &f, err) != 0)
            return -1;
        if (out->dense.top1 - f.top1 > r->s->max_lost + 1e-12 || f.cost >= out->found.cost)
            continue;
        out->choice[m->layer] = m->candidate;
        r->kept[m->layer] = m->saves;
        out->found = f;
    }
    out->reached = r->s->target_cost <= 0 || is_reached(r);
    return 0;
}

static int search(searcher *r, vitrun_error *err)
{
    vte_search_result *out = r->out;
    if (measure(r, out->choice, &out->dense, err) != 0)
        return -1;
    out->found = out->dense;
    if (try_alone(r, err) != 0)
        return -1;
    qsort(r->moves, (size_t)r->count, sizeof *r->moves, better_first);
    return add_greedily(r, err);
}

int vte_search_run(const vte_search *s, vte_search_result *out, vitrun_error *err)
{
    const vitrun_info *i = vitrun_info_get(s->model);
    size_t layers = (size_t)i->layers, tries = layers * (size_t)s->candidates;
    *out = (vte_search_result){.layers = i->layers, .choice = malloc(layers * sizeof(int))};
    searcher r = {.s = s, .out = out, .total = 1 + 2 * tries};
    r.dense = calloc(s->data->count, (size_t)i->classes * sizeof *r.dense);
    r.trial = calloc(layers, sizeof *r.trial);
    r.kept = calloc(layers, sizeof *r.kept);
    r.moves = calloc(tries, sizeof *r.moves);
    int bad = out->choice && r.dense && r.trial && r.kept && r.moves
                  ? 0
                  : vte_fail(err, VITRUN_MACHINE, "out of memory (search)");
    for (size_t l = 0; l < layers && !bad; l++)
        out->choice[l] = -1;
    bad = bad || search(&r, err) ? -1 : 0;
    free(r.dense);
    free(r.trial);
    free(r.kept);
    free(r.moves);
    if (bad)
        vte_search_free(out);
    return bad;
}

void vte_search_free(vte_search_result *r)
{
    free(r->choice);
    r->choice = NULL;
}
