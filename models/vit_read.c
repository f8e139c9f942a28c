/* Finding, checking and reading tensors, and putting matrices together from parts of them, with what
 * belongs to their inputs and outputs folded in, in fp32: see vit_read.h. Which tensors, vit_bind.c
 * says. */
#include "models/vit_read.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 5 };

/* ---- finding and checking one tensor ---- */

static void shape_text(char *out, size_t room, int rank, const uint64_t *shape)
{
    size_t n = (size_t)snprintf(out, room, "[");
    for (int i = 0; i < rank && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%llu", i ? ", " : "",
                              (unsigned long long)shape[i]);
    if (n < room)
        snprintf(out + n, room - n, "]");
}

static void note_missing(vit_walk *w, const char *name)
{
    size_t n = strlen(w->missing);
    if (w->absent++ < SHOWN)
        snprintf(w->missing + n, sizeof w->missing - n, "%s\"%s\"", n ? ", " : "", name);
}

/* A convolution's kernel may be stored flat, [D, C * ph * pw], by old exporters; leading ones may be
 * left out. */
static bool same_shape(const st_tensor *t, int rank, const uint64_t *shape)
{
    for (; rank > t->rank && *shape == 1; rank--)
        shape++;
    if (t->rank == 2 && rank == 4)
        return t->shape[0] == shape[0] && t->count == shape[0] * shape[1] * shape[2] * shape[3];
    if (t->rank != rank)
        return false;
    for (int i = 0; i < rank; i++)
        if (t->shape[i] != shape[i])
            return false;
    return true;
}

/* Fails with the tensor's name, why it is none that fits, and both sides. */
static const st_tensor *refuse(vit_walk *w, const char *name, const st_tensor *t, int rank,
                               const uint64_t *shape)
{
    char found[160], expected[160];
    shape_text(found, sizeof found, t->rank, t->shape);
    shape_text(expected, sizeof expected, rank, shape);
    w->failed = true;
    if (!same_shape(t, rank, shape))
        vt_fail(w->st, VT_INPUT, "%s: tensor \"%s\" does not fit %s (expected %s, found %s)",
                w->path, name, w->cfg->architecture, expected, found);
    else
        vt_fail(w->st, VT_INPUT, "%s: tensor \"%s\" has type %s (expected F32, F16 or BF16)",
                w->path, name, st_dtype_name(t->dtype));
    return NULL;
}

/* A tensor may be asked for twice, by two parts of it. */
static void count_tensor(vit_walk *w, const st_tensor *t)
{
    bool *used = &w->used[t - st_at(w->r, 0)];
    w->parameters += *used ? 0 : t->count;
    *used = true;
    w->largest = t->count > w->largest ? (size_t)t->count : w->largest;
}

const st_tensor *vit_find(vit_walk *w, int rank, const uint64_t *shape, const char *fmt, ...)
{
    char name[VIT_NAME];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (w->failed)
        return NULL;
    const st_tensor *t = timm_names_find(&w->names, name);
    if (w->loading)
        return t;
    if (!t) {
        note_missing(w, name);
        return NULL;
    }
    bool readable = t->dtype == ST_F32 || t->dtype == ST_F16 || t->dtype == ST_BF16;
    if (!same_shape(t, rank, shape) || !readable)
        return refuse(w, name, t, rank, shape);
    count_tensor(w, t);
    return t;
}

const st_tensor *vit_peek(const vit_walk *w, const char *fmt, ...)
{
    char name[VIT_NAME];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    return timm_names_find(&w->names, name);
}

/* ---- reading ---- */

/* In slices on all threads: conversion and the check for finite values keep pace with the page
 * cache. */
bool vit_read(vit_walk *w, const st_tensor *t, uint64_t from, uint64_t count, float *out)
{
    const uint64_t slice = 1 << 19;
    int64_t slices = (int64_t)((count + slice - 1) / slice);
    vt_status first = {0};
#pragma omp parallel for schedule(dynamic) num_threads(w->dev->threads)
    for (int64_t i = 0; i < slices; i++) {
        uint64_t begin = (uint64_t)i * slice, left = count - begin;
        vt_status st = {0};
        if (st_read_f32(w->r, t, from + begin, left < slice ? left : slice, out + begin, &st))
#pragma omp critical(vit_read_error)
            if (first.code == VT_OK)
                first = st;
    }
    if (first.code != VT_OK) {
        *w->st = first;
        w->failed = true;
    }
    return !w->failed;
}

float *vit_to_device(vit_walk *w, const void *host, size_t rows, int cols, const char *name)
{
    vt_mat v = {NULL, VT_F32, rows, cols};
    v.p = w->dev->ops->alloc(w->dev, vt_mat_bytes(v), name, w->st);
    if (!v.p || w->dev->ops->upload(w->dev, v, host, w->st)) {
        if (v.p)
            w->dev->ops->free(w->dev, v.p);
        w->failed = true;
        return NULL;
    }
    w->m->bytes += vt_mat_bytes(v);
    return v.p;
}

static void read_vector(vit_walk *w, float **to, int n, const char *name)
{
    const st_tensor *t = vit_find(w, VIT_SHAPE((uint64_t)n), "%s", name);
    w->bytes += (size_t)n * 4;
    if (w->loading && t && vit_read(w, t, 0, (uint64_t)n, w->row))
        *to = vit_to_device(w, w->row, 1, n, name);
}

void vit_read_norm(vit_walk *w, vit_norm *to, int n, bool present, const char *fmt, ...)
{
    char prefix[VIT_NAME - 8], name[VIT_NAME];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    if (!present)
        return;
    snprintf(name, sizeof name, "%s.weight", prefix);
    read_vector(w, &to->gamma, n, name);
    snprintf(name, sizeof name, "%s.bias", prefix);
    if (!w->cfg->rms_norm)
        read_vector(w, &to->beta, n, name);
}

/* ---- matrices ---- */

/* True where there is nothing more to do than to count. */
static bool only_counts(vit_walk *w, size_t out, size_t in)
{
    w->bytes += out * in * vt_dtype_bytes(w->dtype) + 2 * out * sizeof(float);
    w->largest = out * in > w->largest ? out * in : w->largest;
    return !w->loading || w->failed;
}

static void pack(vit_walk *w, vt_linear **to, size_t out, size_t in, bool biased)
{
    if (w->failed)
        return;
    *to = w->dev->ops->linear_load(w->dev, w->stage, biased ? w->bias : NULL, (int)out, (int)in,
                                   w->rows, w->st);
    w->failed = !*to;
    if (*to)
        w->m->bytes += w->dev->ops->linear_bytes(*to);
}

/* y = W (gamma x + beta) + b = (W gamma) x + (b + W beta). */
static void fold_norm(float *weight, float *bias, size_t out, size_t in, const float *gamma,
                      const float *beta)
{
    for (size_t o = 0; o < out; o++) {
        double sum = bias[o];
        for (size_t i = 0; i < in; i++) {
            sum += beta ? (double)weight[o * in + i] * beta[i] : 0;
            weight[o * in + i] *= gamma[i];
        }
        bias[o] = (float)sum;
    }
}

static void read_transposed(vit_walk *w, const vit_part *p, size_t in, float *weight)
{
    size_t out = p->count;
    if (!vit_read(w, p->weight, 0, in * out, w->source))
        return;
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++)
            weight[o * in + i] = w->source[i * out + o];
}

void vit_read_rows(vit_walk *w, vt_linear **to, int in, const vit_part *part, int parts)
{
    size_t out = 0, columns = (size_t)in, at = 0;
    bool biased = false;
    for (int i = 0; i < parts; i++)
        out += part[i].count;
    if (only_counts(w, out, columns))
        return;
    memset(w->bias, 0, out * sizeof *w->bias);
    for (const vit_part *p = part; p < part + parts && !w->failed; at += p->count, p++) {
        float *weight = w->stage + at * columns, *bias = w->bias + at;
        if (p->transposed)
            read_transposed(w, p, columns, weight);
        else
            vit_read(w, p->weight, p->first * columns, p->count * columns, weight);
        if (p->bias && !w->failed)
            vit_read(w, p->bias, p->bias_first, p->count, bias);
        if (p->gamma && !w->failed)
            fold_norm(weight, bias, p->count, columns, p->gamma, p->beta);
        for (size_t i = 0; p->factor != 0 && i < p->count * columns; i++)
            weight[i] *= (float)p->factor;
        for (size_t i = 0; p->factor != 0 && i < p->count; i++)
            bias[i] *= (float)p->factor;
        biased = biased || p->bias || p->gamma;
    }
    pack(w, to, out, columns, biased);
}

/* The part's columns at `weight`, rows of which are `in` long. */
static void read_columns(vit_walk *w, const vit_part *p, size_t out, size_t in, float *weight)
{
    uint64_t all = p->weight->shape[1];
    float *from = p->count == all && all == in ? weight : w->source;
    if (!vit_read(w, p->weight, 0, out * all, from) || from == weight)
        return;
    for (size_t o = 0; o < out; o++)
        memcpy(weight + o * in, from + o * all + p->first, p->count * sizeof *weight);
}

/* y = g (W x + b) = (g W) x + g b, one factor an output row; the bias is added to w->bias. */
static void fold_scale(vit_walk *w, const vit_part *p, size_t out, size_t in, float *weight)
{
    if (p->scale && !vit_read(w, p->scale, 0, out, w->gamma))
        return;
    if (p->bias && !vit_read(w, p->bias, 0, out, w->row))
        return;
    for (size_t o = 0; o < out; o++) {
        float g = p->scale ? w->gamma[o] : 1;
        for (size_t i = 0; p->scale && i < p->count; i++)
            weight[o * in + i] *= g;
        w->bias[o] += p->bias ? g * w->row[o] : 0;
    }
}

void vit_read_columns(vit_walk *w, vt_linear **to, int outputs, const vit_part *part, int parts)
{
    size_t in = 0, out = (size_t)outputs, at = 0;
    bool biased = false;
    for (int i = 0; i < parts; i++)
        in += part[i].count;
    if (only_counts(w, out, in))
        return;
    memset(w->bias, 0, out * sizeof *w->bias);
    for (const vit_part *p = part; p < part + parts && !w->failed; at += p->count, p++) {
        read_columns(w, p, out, in, w->stage + at);
        if (!w->failed)
            fold_scale(w, p, out, in, w->stage + at);
        biased = biased || p->bias;
    }
    pack(w, to, out, in, biased);
}
