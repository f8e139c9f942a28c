/* The dispatcher: see dispatch.h. Constants come from the device. */
#include "kernels/dispatch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A sparse kernel must promise that much less than dense, because predictions are some percent off,
 * and losing against dense is worse than gaining less. */
#define MARGIN 0.97

const char *vt_attn_kernel_name(vt_attn_kernel k)
{
    static const char *const names[VT_ATTN_KERNELS] = {
        "reference", "dense", "tiles", "rows", "columns64", "columns128", "axial64", "axial128"};
    return names[k];
}

static bool kernel_by_name(const char *name, vt_attn_kernel *out)
{
    for (int k = 0; k < VT_ATTN_KERNELS; k++)
        if (!strcmp(name, vt_attn_kernel_name((vt_attn_kernel)k))) {
            *out = (vt_attn_kernel)k;
            return true;
        }
    return false;
}

bool vt_attn_known_kernel(const char *name)
{
    vt_attn_kernel k;
    return !strcmp(name, "sparse") || kernel_by_name(name, &k);
}

/* Over how many items the prefix group is shared out: of twice the groups' average, or SHORT. */
static double prefix_parts(const vt_columns_count *n, double tiles)
{
    enum { SHORT = 8 };
    double most = floor(2 * (double)n->tiles / (double)n->groups);
    return ceil(tiles / fmax(SHORT, most));
}

/* Of a shape that was counted. */
static double columns_ns(const vt_attn_costs *c, int shape, const vt_attn_work *w)
{
    const vt_columns_count *n = &w->columns[shape];
    int wide = vt_columns_shapes[shape].rows > 64;
    double heads = (double)w->images * w->heads, groups = (double)n->groups;
    double spared = c->columns_guests * (double)n->spared, prefix = (double)n->prefix - spared;
    double parts = fmax(prefix_parts(n, prefix), 1);
    double chain =
        fmax((double)n->longest[0], ceil(prefix / parts)); /* tiles, each after the other */
    for (int p = 1; p < n->passes; p++)
        chain += (double)n->longest[p];
    double tiles = (double)n->tiles - spared, blocks = (double)n->blocks - spared;
    double visits = c->columns_tile[wide] * tiles + c->columns_block[wide] * blocks;
    double all = c->columns_group[wide] * groups + visits;
    double item = c->columns_group[wide] + visits / fmax(tiles, 1) * chain / n->passes;
    double late = c->columns_late * fmin(heads * groups, c->columns_blocks[wide]) * item;
    double more = n->passes - 1 + (parts > 1);
    double alone = c->columns_start + c->columns_pass * more + c->columns_step * chain;
    all += c->columns_merge[wide] * (double)n->merged;
    return (all * heads + alone + late) * (w->head_dim + c->soft) / (64 + c->soft);
}

/* Of one head, without packing: the less of a kernel that visits all and one that visits tiles of
 * 64 x 64 with a pair, where there are both. */
static double dense_ns(const vt_attn_costs *c, const vt_attn_work *w, double t)
{
    double depth = w->head_dim + c->soft, mask = w->masked ? c->mask : 0;
    double occupied = w->masked ? w->occupied : 1, side = 4 * ceil(w->tokens / 64.0);
    double all = (c->tile * depth + mask) * t * t;
    double skipping = (c->skip * depth * occupied + mask) * side * side;
    return c->skip > 0 && (skipping < all || !(c->tile > 0)) ? skipping : all;
}

/* What blocks that pass by all keys take at least. */
static double walk_ns(const vt_attn_costs *c, const vt_attn_work *w)
{
    if (!(c->walk > 0) || w->tokens <= c->walk_least)
        return 0;
    double blocks = ceil(w->tokens / c->walk_rows) * w->images * w->heads;
    double turns = c->walk_blocks > 0 ? ceil(blocks / c->walk_blocks) : 1;
    return turns * (c->walk_start + (c->walk + (w->masked ? c->walk_mask : 0)) * w->tokens);
}

double vt_attn_predict(const vt_attn_costs *c, vt_attn_kernel kernel, const vt_attn_work *w)
{
    double n = w->tokens, d = w->head_dim;
    double t = (double)((w->tokens + VT_TILE - 1) / VT_TILE);
    double ns = 0;
    if (vt_attn_columns(kernel) >= 0)
        return w->columns[vt_attn_columns(kernel)].passes
                   ? 1e-6 * (c->launch + columns_ns(c, vt_attn_columns(kernel), w))
                   : INFINITY;
    switch (kernel) {
    case VT_ATTN_DENSE:
        ns = c->pack * n * d + dense_ns(c, w, t);
        break;
    case VT_ATTN_TILES:
        ns =
            c->pack * n * d + (c->tile * (d + c->soft) + c->mask) * (double)w->tiles + c->group * t;
        break;
    case VT_ATTN_ROWS:
        ns = c->widen * n * d + c->pair * (d + c->pair_soft) * (double)w->nnz + c->row * n;
        break;
    default:
        ns = c->reference * n * n * d;
    }
    ns = ns * w->images * w->heads / w->threads;
    if (kernel == VT_ATTN_ROWS)
        ns = fmax(ns, c->longest * w->row_max);
    if (kernel == VT_ATTN_DENSE)
        ns = fmax(ns, walk_ns(c, w));
    return 1e-6 * (c->launch + ns);
}

vt_attn_kernel vt_attn_fastest_sparse(const double ms[VT_ATTN_KERNELS])
{
    vt_attn_kernel best = VT_ATTN_TILES;
    for (int k = VT_ATTN_TILES; k < VT_ATTN_KERNELS; k++)
        if (ms[k] < ms[best])
            best = (vt_attn_kernel)k;
    return best;
}

static int forced(vt_attn_choice *out, const char *name, vt_status *st)
{
    out->kernel = vt_attn_fastest_sparse(out->ms);
    if (strcmp(name, "sparse") != 0 && !kernel_by_name(name, &out->kernel))
        return vt_fail(st, VT_USAGE, "kernel \"%s\" is unknown (expected " VT_ATTN_KERNEL_NAMES ")",
                       name);
    snprintf(out->reason, sizeof out->reason, "kernel %s was asked for", name);
    return 0;
}

static void by_density(vt_attn_choice *out, double density, double threshold)
{
    bool below = density < threshold && isfinite(out->ms[vt_attn_fastest_sparse(out->ms)]);
    out->kernel = below ? vt_attn_fastest_sparse(out->ms) : VT_ATTN_DENSE;
    vt_format(out->reason, sizeof out->reason, "density %.4g %s threshold %.4g: %s", density,
              below ? "<" : ">=", threshold, below ? "sparse, as the rule says" : "dense");
}

static void by_cost(vt_attn_choice *out, double density, double threshold)
{
    vt_attn_kernel sparse = vt_attn_fastest_sparse(out->ms);
    if (density >= threshold) {
        out->kernel = VT_ATTN_DENSE;
        vt_format(out->reason, sizeof out->reason, "density %.4g >= threshold %.4g", density,
                  threshold);
        return;
    }
    out->kernel = out->ms[sparse] < MARGIN * out->ms[VT_ATTN_DENSE] ? sparse : VT_ATTN_DENSE;
    vt_format(out->reason, sizeof out->reason,
              "density %.4g < %.4g; predicted %s %.3g ms, dense %.3g ms", density, threshold,
              vt_attn_kernel_name(sparse), out->ms[sparse], out->ms[VT_ATTN_DENSE]);
}

static int by_rule(vt_attn_choice *out, const vt_attn_wish *wish, const vt_attn_work *w,
                   vt_status *st)
{
    double density = (double)w->nnz / ((double)w->tokens * w->tokens);
    if (!w->masked) {
        out->kernel = VT_ATTN_DENSE;
        snprintf(out->reason, sizeof out->reason, "no mask");
        return 0;
    }
    if (wish->kernel)
        return forced(out, wish->kernel, st);
    if (wish->rule == VT_RULE_DENSITY)
        by_density(out, density, wish->threshold);
    else
        by_cost(out, density, wish->threshold);
    return 0;
}

int vt_attn_choose(vt_attn_choice *out, const vt_attn_wish *wish, const vt_attn_work *w,
                   const vt_attn_costs *c, vt_status *st)
{
    memset(out, 0, sizeof *out);
    for (int k = 0; k < VT_ATTN_KERNELS; k++)
        out->ms[k] = w->serves[k] ? vt_attn_predict(c, (vt_attn_kernel)k, w) : INFINITY;
    if (by_rule(out, wish, w, st))
        return -1;
    if (w->serves[out->kernel])
        return 0;
    return vt_fail(st, VT_USAGE,
                   "kernel %s: this device has none for heads of size %d (another %s may serve)",
                   vt_attn_kernel_name(out->kernel), w->head_dim,
                   w->masked ? "--kernel or --dtype" : "--dtype");
}
