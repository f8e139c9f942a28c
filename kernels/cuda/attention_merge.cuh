/* How the items of a schedule (vt_cuda_schedule) give one result, whatever computes them. A phase
 * is a launch:
 *
 *   given         unfinished out, top and sums go to memory
 *   put together  by an item of the last phase, from what was given
 *   merged        with the passes before: out and lse = log2 of the row's sum of weights are read,
 *                 weighted by 2^lse, and written anew
 *
 * A row's state is out = sum of weights x values, its sum of weights and `top`: weights are
 * 2^(score - top). What a thread has of which rows is told by a type Rows:
 *
 *   COUNT             rows of this thread, of which it has some columns
 *   row(i), token(i)  where row i is in its group; its token or -1
 *   top(i), sum(i)    references; sum is the whole row's
 *   leads()           is this the thread of a row's that writes top, sum and lse?
 *   each(i, f)        f(column, reference to out) for its columns
 *
 * Threads that share a row are of one warp.
 */
#ifndef VT_CUDA_ATTENTION_MERGE_CUH
#define VT_CUDA_ATTENTION_MERGE_CUH

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

/* One launch. */
typedef struct {
    vt_cuda_columns c;
    const vt_cuda_item *item; /* of this phase */
    unsigned items;
} columns_phase;

/* What a block works on. */
struct columns_place {
    vt_cuda_item item;
    size_t pair; /* image and head of the group, as scratch has them */
    const vt_cuda_columns &c;

    __device__ __forceinline__ columns_place(const columns_phase &p)
        : item(p.item[blockIdx.x % p.items]), pair(blockIdx.x / p.items), c(p.c)
    {
    }

    /* `dim` of out, then top and the sum. */
    __device__ __forceinline__ float *state(int slot, int dim) const
    {
        return c.state + (pair * c.plain.slots + slot) * (dim + 2);
    }
};

template <typename Rows>
__device__ __forceinline__ void give(Rows &rows, const columns_place &at, int dim)
{
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        if (rows.row(i) >= at.item.rows)
            continue;
        float *to = at.state(at.item.give + rows.row(i), dim);
        rows.each(i, [&](int col, float &out) {
            if (col < dim)
                to[col] = out;
        });
        if (rows.leads())
            to[dim] = rows.top(i), to[dim + 1] = rows.sum(i);
    }
}

/* The states that were given, together. */
template <typename Rows>
__device__ __forceinline__ void take(Rows &rows, const columns_place &at, int dim)
{
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        int row = rows.row(i);
        if (row >= at.item.rows)
            continue;
        rows.each(i, [](int, float &out) { out = 0; });
        rows.top(i) = at.state(at.item.slot + row, dim)[dim];
        rows.sum(i) = 0;
        for (int j = 1; j < at.item.parts; j++)
            rows.top(i) =
                fmaxf(rows.top(i), at.state(at.item.slot + j * at.item.rows + row, dim)[dim]);
        for (int j = 0; j < at.item.parts; j++) {
            const float *from = at.state(at.item.slot + j * at.item.rows + row, dim);
            float shrink = exp2f(from[dim] - rows.top(i));
            rows.sum(i) += shrink * from[dim + 1];
            rows.each(i, [&](int col, float &out) {
                if (col < dim)
                    out += shrink * from[col];
            });
        }
    }
}

/* The weights of what earlier passes gave, whose lse is *lse, and of `out`; *lse becomes that of
 * both. */
__device__ __forceinline__ float2 merge_weights(float top, float sum, float *lse)
{
    float now = sum > 0 ? top + log2f(sum) : -INFINITY, most = fmaxf(now, *lse);
    if (most == -INFINITY)
        return make_float2(0, 0);
    float a = exp2f(*lse - most), b = exp2f(now - most);
    *lse = most + log2f(a + b);
    return make_float2(a / (a + b), sum > 0 ? b / ((a + b) * sum) : 0);
}

/* `out` becomes the results of all passes so far; those of earlier ones are in `results`, in rows
 * of `pitch`. */
template <typename Rows, typename T>
__device__ __forceinline__ void merge_passes(Rows &rows, const columns_place &at, const T *results,
                                             int pitch, int tokens, int dim)
{
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        int token = rows.token(i);
        bool earlier = at.item.pass > 0 && token >= 0;
        float *at_lse = at.c.lse + at.pair * tokens + max(token, 0);
        float lse = earlier ? *at_lse : -INFINITY;
        float2 weight = merge_weights(rows.top(i), rows.sum(i), &lse);
        const T *before = results + (size_t)max(token, 0) * pitch;
        rows.each(i, [&](int col, float &out) {
            out *= weight.y;
            if (earlier && col < dim)
                out = fmaf(to_f32(before[col]), weight.x, out);
        });
        __syncwarp(); /* a row's threads have all read it */
        if (rows.leads() && token >= 0)
            *at_lse = lse;
    }
}

/* `out` becomes results. False: it was given. */
template <typename Rows, typename T>
__device__ __forceinline__ bool put_together(Rows &rows, const columns_place &at, const T *results,
                                             int pitch, int tokens, int dim)
{
    if (at.item.give >= 0) {
        give(rows, at, dim);
        return false;
    }
    if (at.item.parts > 0)
        take(rows, at, dim);
    if (at.c.passes > 1) {
        merge_passes(rows, at, results, pitch, tokens, dim);
        return true;
    }
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        float weight = rows.sum(i) > 0 ? 1.0f / rows.sum(i) : 0.0f;
        rows.each(i, [&](int, float &out) { out *= weight; });
    }
    return true;
}

/* Launches `kernel` for each phase. */
static int launch_phases(void (*kernel)(vt_cuda_attention, columns_phase), int threads,
                         size_t shared, const vt_cuda_attention *a, const vt_cuda_columns *c,
                         cudaStream_t stream)
{
    const vt_cuda_schedule *s = &c->plain;
    unsigned pairs = (unsigned)a->images * (unsigned)a->group_heads;
    int failed = allow_shared(kernel, shared);
    columns_phase p = {*c, NULL, 0};
    for (int i = 0; i < s->phases && !failed; i++) {
        p.item = s->item + s->first[i];
        p.items = (unsigned)(s->first[i + 1] - s->first[i]);
        if (p.items)
            failed = launch(kernel, p.items * pairs, threads, shared, stream, *a, p);
    }
    return failed;
}

#endif
