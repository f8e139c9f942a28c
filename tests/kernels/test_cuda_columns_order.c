/* The order in which blocks take the items of `columns` (columns_order.h) has every item of every
 * head once, and phase after phase. Needs CUDA's headers, but no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/cuda/columns_order.h"

/* How many of a pair's items, or of all of them, each phase has. */
static const int shapes[][VT_CUDA_PHASES] = {{1, 0, 0, 0}, {17, 0, 0, 0},   {17, 1, 0, 0},
                                             {8, 9, 1, 0}, {33, 32, 40, 2}, {3, 0, 5, 1}};
static const int pairs[] = {1, 2, 3, 12, 13, 100}, chunks[] = {1, 2, 3, 12, 100};

static vt_cuda_schedule schedule_of(const int *items)
{
    vt_cuda_schedule s = {.phases = 0};
    for (int p = 0; p < VT_CUDA_PHASES; p++) {
        s.first[p + 1] = s.first[p] + items[p];
        s.phases = items[p] ? p + 1 : s.phases;
    }
    return s;
}

static int phase_of(const vt_cuda_schedule *s, int item)
{
    int phase = 0;
    while (item >= s->first[phase + 1])
        phase++;
    return phase;
}

static void check(const vt_columns_order *o, const vt_cuda_schedule *s)
{
    int all = s->first[s->phases];
    bool *taken = calloc((size_t)(o->pairs * all), sizeof *taken);
    int *done = calloc((size_t)(o->pairs * VT_CUDA_PHASES), sizeof *done);
    for (int i = 0; i < o->pairs * all; i++) {
        vt_columns_turn t = vt_columns_turn_of(o, s, i);
        assert_in_range(t.pair, 0, o->pairs - 1);
        assert_in_range(t.item, 0, all - 1);
        assert_int_equal(t.phase, phase_of(s, t.item));
        assert_false(taken[t.pair * all + t.item]);
        taken[t.pair * all + t.item] = true;
        for (int p = 0; p < t.phase; p++)
            assert_int_equal(done[t.pair * VT_CUDA_PHASES + p], s->first[p + 1] - s->first[p]);
        done[t.pair * VT_CUDA_PHASES + t.phase]++;
    }
    for (int beyond = 0; beyond < 3; beyond++)
        assert_int_equal(vt_columns_turn_of(o, s, o->pairs * all + beyond).phase, -1);
    free(taken);
    free(done);
}

static void every_item_comes_once_and_after_those_of_earlier_phases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < sizeof pairs / sizeof *pairs; j++)
            for (size_t k = 0; k < sizeof chunks / sizeof *chunks; k++)
                for (int lag = 0; lag < 5; lag++) {
                    vt_cuda_schedule s = schedule_of(shapes[i]);
                    vt_columns_order o = vt_columns_order_of(&s, 1 + (int)(i + k) % s.phases,
                                                             pairs[j], chunks[k], lag);
                    check(&o, &s);
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_comes_once_and_after_those_of_earlier_phases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
