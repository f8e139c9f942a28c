/* See evaluate.h. Sums are kept image by image; nothing but the logits asked for is stored. */
#include "engine/experiments/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

typedef struct {
    double confidence;
    size_t images, right;
} bin;

typedef struct {
    const vte_evaluation *e;
    vte_scores *s;
    int classes;
    size_t top1, top5, agree;
    double loss, kl, cosine;
    bin bins[VTE_BINS];
} sums;

static int largest(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* How many classes stand before `label` in order of logits. */
static int rank_of(const float *x, int n, int label)
{
    int before = 0;
    for (int i = 0; i < n; i++)
        before += x[i] > x[label] || (x[i] == x[label] && i < label);
    return before;
}

/* log(sum(exp(x))), without overflow. */
static double log_sum(const float *x, int n)
{
    double top = x[largest(x, n)], sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

static void compare(sums *t, const float *x, double lx, const float *dense)
{
    double ld = log_sum(dense, t->classes), dot = 0, xx = 0, dd = 0, kl = 0;
    for (int i = 0; i < t->classes; i++) {
        double a = dense[i], b = x[i];
        kl += exp(a - ld) * ((a - ld) - (b - lx));
        dot += a * b, xx += b * b, dd += a * a;
    }
    t->agree += largest(x, t->classes) == largest(dense, t->classes);
    t->kl += kl > 0 ? kl : 0; /* rounding may leave -1e-17 */
    t->cosine += xx > 0 && dd > 0 ? dot / sqrt(xx * dd) : xx == dd;
}

static void count(sums *t, const float *x, int label)
{
    int guess = largest(x, t->classes), rank = rank_of(x, t->classes, label);
    double lx = log_sum(x, t->classes), confidence = exp(x[guess] - lx);
    int at = (int)(confidence * VTE_BINS);
    bin *b = &t->bins[at < VTE_BINS ? at : VTE_BINS - 1];
    t->s->images++;
    t->top1 += rank == 0;
    t->top5 += rank < 5;
    t->loss += lx - x[label];
    b->confidence += confidence;
    b->images++;
    b->right += rank == 0;
    t->s->per_class[label].images++;
    t->s->per_class[label].right += rank == 0;
    t->s->per_class[guess].predicted++;
}

static int on_result(void *user, const vte_result *r, vitrun_error *err)
{
    sums *t = user;
    (void)err;
    size_t at = r->index * (size_t)t->classes;
    if (r->error) {
        t->s->bad++;
        for (int i = 0; t->e->logits && i < t->classes; i++)
            t->e->logits[at + (size_t)i] = NAN;
        if (t->e->bad)
            t->e->bad(t->e->user, r->error);
        return 0;
    }
    count(t, r->logits, t->e->data->label[r->index]);
    if (t->e->dense && !isnan(t->e->dense[at]))
        compare(t, r->logits, log_sum(r->logits, t->classes), t->e->dense + at);
    if (t->e->logits)
        memcpy(t->e->logits + at, r->logits, (size_t)t->classes * sizeof(float));
    return 0;
}

static int on_batch(void *user, size_t done, vitrun_error *err)
{
    const sums *t = user;
    (void)err;
    if (t->e->progress)
        t->e->progress(t->e->user, done, t->e->data->count);
    return 0;
}

static void conclude(const sums *t)
{
    vte_scores *s = t->s;
    double n = s->images ? (double)s->images : 1;
    s->top1 = (double)t->top1 / n;
    s->top5 = (double)t->top5 / n;
    s->loss = t->loss / n;
    for (int i = 0; i < VTE_BINS; i++)
        s->ece += fabs((double)t->bins[i].right - t->bins[i].confidence) / n;
    s->agreement = t->e->dense ? (double)t->agree / n : NAN;
    s->kl = t->e->dense ? t->kl / n : NAN;
    s->cosine = t->e->dense ? t->cosine / n : NAN;
    s->images_per_s = s->wall_ms > 0 ? 1e3 * (double)s->images / s->wall_ms : 0;
}

vitrun_context *vte_second_context(const vitrun_model *model, int batch, size_t images)
{
    vitrun_error ignored;
    if (strcmp(vitrun_info_get(model)->device, "cpu") == 0 || images <= (size_t)batch)
        return NULL;
    return vitrun_context_open(model, batch, &ignored);
}

static int run(sums *t, vitrun_context *first, vitrun_context *second, vitrun_error *err)
{
    const vte_evaluation *e = t->e;
    vte_batches b = {.model = e->model,
                     .context = {first, second},
                     .batch = e->batch,
                     .user = t,
                     .each = on_result,
                     .after = on_batch};
    double start = vte_now_ms();
    int bad = vte_batches_run(&b, e->data->file, e->data->count, err);
    t->s->wall_ms = vte_now_ms() - start;
    t->s->preprocess_ms = b.preprocess_ms;
    t->s->forward_ms = b.forward_ms;
    return bad;
}

int vte_evaluate(const vte_evaluation *e, vte_scores *s, vitrun_error *err)
{
    sums t = {.e = e, .s = s, .classes = vitrun_info_get(e->model)->classes};
    *s = (vte_scores){.per_class = calloc((size_t)t.classes, sizeof *s->per_class)};
    if (!s->per_class)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (scores)");
    vitrun_context *first = vitrun_context_open(e->model, e->batch, err);
    vitrun_context *second = first ? vte_second_context(e->model, e->batch, e->data->count) : NULL;
    int bad = first ? run(&t, first, second, err) : -1;
    vitrun_context_close(second);
    vitrun_context_close(first);
    if (bad)
        vte_scores_free(s);
    else
        conclude(&t);
    return bad;
}

void vte_scores_free(vte_scores *s)
{
    free(s->per_class);
    s->per_class = NULL;
}
