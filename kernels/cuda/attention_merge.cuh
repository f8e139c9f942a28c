/* How the items of a layout of columns.h (vt_cuda_columns) give one result, whatever computes them:
 *
 *   parts   of a long group: unfinished out, top and sums go to memory, and the last part to arrive
 *           adds them up
 *   passes  over disjoint parts of a mask, one launch each: out and lse = log2 of the row's sum of
 *           weights of the passes before are read, weighted by 2^lse, and written anew
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
    const vt_cuda_item *item; /* of this pass */
    unsigned items;
    int pass;
} columns_pass;

/* What a block works on. */
struct columns_place {
    vt_cuda_item item;
    size_t pair; /* image and head of the group, as scratch has them */
    int pass, passes;
    const vt_cuda_columns &c;

    __device__ __forceinline__ columns_place(const columns_pass &p)
        : item(p.item[blockIdx.x % p.items]), pair(blockIdx.x / p.items), pass(p.pass),
          passes(p.c.passes), c(p.c)
    {
    }

    /* Where part i of `row` is kept: `dim` of out, then top and the sum. */
    __device__ __forceinline__ float *part(int i, int row, int dim) const
    {
        size_t slot = pair * c.slots + item.slot + (size_t)i * item.rows + row;
        return c.part + slot * (dim + 2);
    }

    /* Is this the last part of its group to get here? Whoever is may read the others'. */
    __device__ __forceinline__ bool arrive_last() const
    {
        __shared__ bool last;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t *counter = c.arrived + pair * c.chains + item.chain;
            last = atomicAdd(counter, 1) == (uint32_t)item.parts - 1;
            if (last)
                *counter = 0;
            __threadfence();
        }
        __syncthreads();
        return last;
    }
};

template <typename Rows>
__device__ __forceinline__ void put_part(Rows &rows, const columns_place &at, int dim)
{
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        if (rows.row(i) >= at.item.rows)
            continue;
        float *to = at.part(at.item.part, rows.row(i), dim);
        rows.each(i, [&](int col, float &out) {
            if (col < dim)
                to[col] = out;
        });
        if (rows.leads())
            to[dim] = rows.top(i), to[dim + 1] = rows.sum(i);
    }
}

/* The states of all parts together. */
template <typename Rows>
__device__ __forceinline__ void add_parts(Rows &rows, const columns_place &at, int dim)
{
#pragma unroll
    for (int i = 0; i < Rows::COUNT; i++) {
        int row = rows.row(i);
        if (row >= at.item.rows)
            continue;
        rows.each(i, [](int, float &out) { out = 0; });
        rows.top(i) = __ldcg(at.part(0, row, dim) + dim);
        rows.sum(i) = 0;
        for (int j = 1; j < at.item.parts; j++)
            rows.top(i) = fmaxf(rows.top(i), __ldcg(at.part(j, row, dim) + dim));
        for (int j = 0; j < at.item.parts; j++) {
            const float *from = at.part(j, row, dim);
            float shrink = exp2f(__ldcg(from + dim) - rows.top(i));
            rows.sum(i) += shrink * __ldcg(from + dim + 1);
            rows.each(i, [&](int col, float &out) {
                if (col < dim)
                    out += shrink * __ldcg(from + col);
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
        bool earlier = at.pass > 0 && token >= 0;
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

/* `out` becomes results. False: another block has those of this group. */
template <typename Rows, typename T>
__device__ __forceinline__ bool put_together(Rows &rows, const columns_place &at, const T *results,
                                             int pitch, int tokens, int dim)
{
    if (at.item.parts > 1) {
        put_part(rows, at, dim);
        if (!at.arrive_last())
            return false;
        add_parts(rows, at, dim);
    }
    if (at.passes > 1) {
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

/* Launches `kernel` for each pass. */
static int launch_passes(void (*kernel)(vt_cuda_attention, columns_pass), int threads,
                         size_t shared, const vt_cuda_attention *a, const vt_cuda_columns *c,
                         cudaStream_t stream)
{
    unsigned pairs = (unsigned)a->images * (unsigned)a->group_heads;
    int failed = allow_shared(kernel, shared);
    columns_pass p = {*c, NULL, 0, 0};
    for (; p.pass < c->passes && !failed; p.pass++) {
        p.item = c->item + c->first[p.pass];
        p.items = (unsigned)(c->first[p.pass + 1] - c->first[p.pass]);
        if (p.items)
            failed = launch(kernel, p.items * pairs, threads, shared, stream, *a, p);
    }
    return failed;
}

#endif
