/* Constants as text, and fitted: see costs.h.
 *
 * The fit is Levenberg and Marquardt's in the logarithms x of the constants: with the residuals
 * r = log(predicted / measured) and their derivatives J, a step d solves
 *
 *   (J'J + PRIOR + damping diag(J'J + PRIOR)) d = -(J'r + PRIOR (x - x0))
 *
 * Each sample's square is weighted by 1 / sqrt(1 + (r / FAR)^2), so that a time that was disturbed
 * pulls no harder than one that is a little off (Charbonnier's loss, 2 FAR^2 (sqrt(...) - 1)).
 * Logarithms keep constants positive and weigh short times like long ones; PRIOR holds constants
 * that no sample tells apart. The formulas are vt_attn_predict's alone: J is taken by differences.
 */
#include "kernels/costs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRIOR 1e-4
#define FAR   0.1

enum { STEPS = 300 };

#define AT(field) offsetof(vt_attn_costs, field)
static const struct {
    const char *name;
    size_t at;
    bool is_fact; /* about the kernels: is not fitted */
} constants[] = {
    {"pack", AT(pack), false},
    {"tile", AT(tile), false},
    {"soft", AT(soft), false},
    {"mask", AT(mask), false},
    {"skip", AT(skip), false},
    {"group", AT(group), false},
    {"widen", AT(widen), false},
    {"pair", AT(pair), false},
    {"pair_soft", AT(pair_soft), false},
    {"row", AT(row), false},
    {"reference", AT(reference), false},
    {"launch", AT(launch), false},
    {"longest", AT(longest), false},
    {"walk", AT(walk), false},
    {"walk_mask", AT(walk_mask), false},
    {"walk_start", AT(walk_start), false},
    {"columns_group64", AT(columns_group[0]), false},
    {"columns_group128", AT(columns_group[1]), false},
    {"columns_tile64", AT(columns_tile[0]), false},
    {"columns_tile128", AT(columns_tile[1]), false},
    {"columns_block64", AT(columns_block[0]), false},
    {"columns_block128", AT(columns_block[1]), false},
    {"columns_merge64", AT(columns_merge[0]), false},
    {"columns_merge128", AT(columns_merge[1]), false},
    {"columns_start", AT(columns_start), false},
    {"columns_pass", AT(columns_pass), false},
    {"columns_step", AT(columns_step), false},
    {"columns_late", AT(columns_late), false},
    {"walk_rows", AT(walk_rows), true},
    {"walk_blocks", AT(walk_blocks), true},
    {"walk_least", AT(walk_least), true},
    {"columns_blocks64", AT(columns_blocks[0]), true},
    {"columns_blocks128", AT(columns_blocks[1]), true},
    {"columns_guests", AT(columns_guests), true},
};
enum { CONSTANTS = sizeof constants / sizeof *constants };
_Static_assert(CONSTANTS * sizeof(double) == sizeof(vt_attn_costs), "every constant is listed");

static double *constant(vt_attn_costs *costs, int i)
{
    return (double *)((char *)costs + constants[i].at);
}

int vt_costs_count(void)
{
    return CONSTANTS;
}

const char *vt_costs_name(int i)
{
    return constants[i].name;
}

double vt_costs_get(const vt_attn_costs *costs, int i)
{
    return *(const double *)((const char *)costs + constants[i].at);
}

bool vt_costs_is_fact(int i)
{
    return constants[i].is_fact;
}

/* ---- text ---- */

void vt_costs_write(const vt_attn_costs *costs, char text[VT_COSTS_TEXT])
{
    size_t n = 0;
    for (int i = 0; i < CONSTANTS; i++)
        n += (size_t)vt_format(text + n, VT_COSTS_TEXT - n, "%s%s=%.6g", i ? " " : "",
                               constants[i].name, vt_costs_get(costs, i));
}

bool vt_costs_read(vt_attn_costs *costs, const char *text)
{
    vt_attn_costs read;
    for (int i = 0; i < CONSTANTS; i++) {
        size_t length = strlen(constants[i].name);
        if (i && *text++ != ' ')
            return false;
        if (strncmp(text, constants[i].name, length) != 0 || text[length] != '=')
            return false;
        text += length + 1;
        char *end;
        double value = vt_strtod(text, &end);
        if (end == text || !(value >= 0) || !isfinite(value))
            return false;
        *constant(&read, i) = value;
        text = end;
    }
    if (*text)
        return false;
    *costs = read;
    return true;
}

/* ---- fitting ---- */

typedef struct {
    const vt_attn_sample *sample;
    int samples, free;    /* free: how many constants take part */
    int index[CONSTANTS]; /* which */
    double start[CONSTANTS];
    double *jacobian; /* [samples][free] */
    double *residual; /* [samples] */
} fit;

/* The logarithm of predicted over measured; 0 where the sample does not count. */
static double residual(const vt_attn_costs *costs, const vt_attn_sample *s)
{
    double r = log(vt_attn_predict(costs, s->kernel, &s->work) / s->ms);
    return isfinite(r) ? r : 0;
}

static void costs_at(const fit *f, const double *x, vt_attn_costs *costs)
{
    for (int j = 0; j < f->free; j++)
        *constant(costs, f->index[j]) = exp(x[j]);
}

static double error_at(const fit *f, const double *x, vt_attn_costs *costs)
{
    double sum = 0;
    costs_at(f, x, costs);
    for (int i = 0; i < f->samples; i++) {
        f->residual[i] = residual(costs, &f->sample[i]);
        sum += 2 * FAR * FAR * (hypot(1, f->residual[i] / FAR) - 1);
    }
    for (int j = 0; j < f->free; j++)
        sum += PRIOR * (x[j] - f->start[j]) * (x[j] - f->start[j]);
    return sum;
}

static void differentiate(const fit *f, const double *x, vt_attn_costs *costs)
{
    const double h = 1e-5;
    costs_at(f, x, costs);
    for (int i = 0; i < f->samples; i++)
        f->residual[i] = residual(costs, &f->sample[i]);
    for (int j = 0; j < f->free; j++) {
        *constant(costs, f->index[j]) = exp(x[j] + h);
        for (int i = 0; i < f->samples; i++)
            f->jacobian[i * f->free + j] = (residual(costs, &f->sample[i]) - f->residual[i]) / h;
        *constant(costs, f->index[j]) = exp(x[j]);
    }
}

/* The normal equations at x: their lower triangle, and the right side. */
static void normal(const fit *f, const double *x, double a[CONSTANTS][CONSTANTS], double *b)
{
    for (int j = 0; j < f->free; j++) {
        b[j] = -PRIOR * (x[j] - f->start[j]);
        for (int k = 0; k <= j; k++)
            a[j][k] = j == k ? PRIOR : 0;
    }
    for (int i = 0; i < f->samples; i++) {
        const double *row = &f->jacobian[i * f->free];
        double weight = 1 / hypot(1, f->residual[i] / FAR);
        for (int j = 0; j < f->free; j++) {
            b[j] -= weight * row[j] * f->residual[i];
            for (int k = 0; k <= j; k++)
                a[j][k] += weight * row[j] * row[k];
        }
    }
}

/* Solves a d = b for a positive definite a, given by its lower triangle, by Cholesky. */
static void solve(double a[CONSTANTS][CONSTANTS], const double *b, double *d, int n)
{
    for (int j = 0; j < n; j++)
        for (int k = 0; k <= j; k++) {
            double sum = a[j][k];
            for (int l = 0; l < k; l++)
                sum -= a[j][l] * a[k][l];
            a[j][k] = j == k ? sqrt(fmax(sum, 1e-300)) : sum / a[k][k];
        }
    for (int j = 0; j < n; j++) {
        d[j] = b[j];
        for (int k = 0; k < j; k++)
            d[j] -= a[j][k] * d[k];
        d[j] /= a[j][j];
    }
    for (int j = n - 1; j >= 0; j--) {
        for (int k = j + 1; k < n; k++)
            d[j] -= a[k][j] * d[k];
        d[j] /= a[j][j];
    }
}

/* From x one step to `next`, no constant by more than a factor of e. */
static void step(const fit *f, const double *x, double damping, double *next, vt_attn_costs *costs)
{
    double a[CONSTANTS][CONSTANTS] = {{0}}, b[CONSTANTS] = {0}, d[CONSTANTS] = {0};
    differentiate(f, x, costs);
    normal(f, x, a, b);
    for (int j = 0; j < f->free; j++)
        a[j][j] *= 1 + damping;
    solve(a, b, d, f->free);
    for (int j = 0; j < f->free; j++)
        next[j] = x[j] + fmax(-1, fmin(1, d[j]));
}

static void descend(const fit *f, vt_attn_costs *costs)
{
    double x[CONSTANTS], next[CONSTANTS], damping = 1e-2;
    memcpy(x, f->start, sizeof x);
    double error = error_at(f, x, costs);
    for (int i = 0; i < STEPS && damping < 1e8; i++) {
        step(f, x, damping, next, costs);
        double better = error_at(f, next, costs);
        bool taken = better <= error, done = taken && error - better <= 1e-12 * error;
        if (taken) {
            memcpy(x, next, sizeof x);
            error = better;
        }
        damping *= taken ? 0.3 : 5;
        if (done)
            break;
    }
    costs_at(f, x, costs);
}

int vt_costs_fit(vt_attn_costs *costs, const vt_attn_sample *sample, int count, vt_status *st)
{
    fit f = {.sample = sample, .samples = count};
    for (int i = 0; i < CONSTANTS; i++) {
        double value = vt_costs_get(costs, i);
        if (value > 0 && !constants[i].is_fact) {
            f.start[f.free] = log(value);
            f.index[f.free++] = i;
        }
    }
    size_t n = (size_t)count;
    f.jacobian = vt_alloc(n * (size_t)f.free, sizeof *f.jacobian, "fit", st);
    f.residual = f.jacobian ? vt_alloc(n, sizeof *f.residual, "fit", st) : NULL;
    bool failed = !f.residual;
    if (!failed)
        descend(&f, costs);
    vt_free(f.jacobian);
    vt_free(f.residual);
    return failed ? -1 : 0;
}

vt_costs_miss vt_costs_judge(const vt_attn_costs *costs, const vt_attn_sample *sample, int count)
{
    vt_costs_miss miss = {0, 0};
    int n = 0;
    for (int i = 0; i < count; i++) {
        double off = vt_attn_predict(costs, sample[i].kernel, &sample[i].work) / sample[i].ms - 1;
        if (!isfinite(off))
            continue;
        miss.mean += fabs(off);
        miss.worst = fmax(miss.worst, fabs(off));
        n++;
    }
    miss.mean /= n ? n : 1;
    return miss;
}
