/* The order in which the blocks of attention_columns.cuh take the items of a schedule, for `pairs`
 * pairs of an image and a head. Plain arithmetic, for the device and for tests.
 *
 * Pairs go through the phases in chunks. Phase p of a chunk comes behind[p] steps after its phase 0:
 * step s has phase 0 of chunk s, phase 1 of chunk s - behind[1], phase 2 of chunk s - behind[2], each
 * pair after pair. What a phase waits for has then long been taken, and what it reads again is
 * still in the cache. An item waits only for items of earlier phases of its pair, which come before
 * it.
 */
#ifndef VT_CUDA_COLUMNS_ORDER_H
#define VT_CUDA_COLUMNS_ORDER_H

#include "kernels/cuda/kernels.h"

#ifdef __CUDACC__
#define VT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VT_HOST_DEVICE static inline
#endif

typedef struct {
    int pairs, chunk;           /* chunk 1 .. pairs */
    int behind[VT_CUDA_PHASES]; /* 0 and ascending */
    int late;                   /* items that full steps would have before step 0 */
} vt_columns_order;

/* An item of a pair: item `item` of the schedule. phase -1: there are no more. */
typedef struct {
    int pair, phase, item;
} vt_columns_turn;

/* Passes are `lag` steps behind each other; the last phase, if it has no tiles, thrice that. */
static inline vt_columns_order vt_columns_order_of(const vt_cuda_schedule *s, int passes, int pairs,
                                                   int chunk, int lag)
{
    vt_columns_order o = {pairs, chunk < pairs ? chunk : pairs, {0}, 0};
    for (int p = 1; p < s->phases; p++)
        o.behind[p] = o.behind[p - 1] + (p < passes ? lag : 3 * lag);
    for (int p = 0; p < s->phases; p++)
        o.late += o.behind[p] * o.chunk * (s->first[p + 1] - s->first[p]);
    return o;
}

/* Pairs of chunks before `chunk`. */
VT_HOST_DEVICE int vt_pairs_before(const vt_columns_order *o, int chunk)
{
    int pairs = chunk * o->chunk;
    return pairs < 0 ? 0 : pairs < o->pairs ? pairs : o->pairs;
}

/* Items of all steps before `step`. */
VT_HOST_DEVICE int vt_items_before(const vt_columns_order *o, const vt_cuda_schedule *s, int step)
{
    int items = 0;
    for (int p = 0; p < s->phases; p++)
        items += vt_pairs_before(o, step - o->behind[p]) * (s->first[p + 1] - s->first[p]);
    return items;
}

/* Item `index` of phase t->phase of a chunk. */
VT_HOST_DEVICE void vt_take_turn(vt_columns_turn *t, const vt_cuda_schedule *s, int index,
                                 int first_pair)
{
    int items = s->first[t->phase + 1] - s->first[t->phase], pair = index / items;
    t->pair = first_pair + pair;
    t->item = s->first[t->phase] + index - pair * items;
}

/* Who has turn `index`, from 0. */
VT_HOST_DEVICE vt_columns_turn vt_columns_turn_of(const vt_columns_order *o,
                                                  const vt_cuda_schedule *s, int index)
{
    vt_columns_turn t = {0, -1, 0};
    int full = o->chunk * s->first[s->phases], step = (index + o->late) / full;
    if (index >= o->pairs * s->first[s->phases])
        return t;
    t.phase = 0;
    if (step >= o->behind[s->phases - 1] && (step + 1) * o->chunk <= o->pairs) {
        /* all phases have a whole chunk in this step, and in none before were there more */
        index += o->late - step * full;
        while (index >= o->chunk * s->first[t.phase + 1])
            t.phase++;
        index -= o->chunk * s->first[t.phase];
        vt_take_turn(&t, s, index, (step - o->behind[t.phase]) * o->chunk);
        return t;
    }
    step = index / full;
    while (vt_items_before(o, s, step + 1) <= index)
        step++;
    index -= vt_items_before(o, s, step);
    for (;; t.phase++) {
        int first = vt_pairs_before(o, step - o->behind[t.phase]);
        int pairs = vt_pairs_before(o, step - o->behind[t.phase] + 1) - first;
        int here = pairs * (s->first[t.phase + 1] - s->first[t.phase]);
        if (index < here) {
            vt_take_turn(&t, s, index, first);
            return t;
        }
        index -= here;
    }
}

#endif
