/* The constants of the attention cost model (dispatch.h) as a list with names: written as text, read
 * back, and fitted to measured times. Measures nothing itself, touches no disk.
 *
 * A text is "NAME=VALUE NAME=VALUE ...", every constant once, in the order of the list.
 */
#ifndef VT_COSTS_H
#define VT_COSTS_H

#include "kernels/dispatch.h"

enum { VT_COSTS_TEXT = 896 }; /* bytes that hold any such text */

int vt_costs_count(void);
const char *vt_costs_name(int i);
double vt_costs_get(const vt_attn_costs *costs, int i);
bool vt_costs_is_fact(int i); /* about the kernels, as they are written: not to be measured */

void vt_costs_write(const vt_attn_costs *costs, char text[VT_COSTS_TEXT]);
/* False, with *costs untouched, where the text is anything but a list of all constants, each finite
 * and not negative. */
bool vt_costs_read(vt_attn_costs *costs, const char *text);

typedef struct {
    vt_attn_kernel kernel;
    vt_attn_work work;
    double ms; /* measured */
} vt_attn_sample;

/* Moves the constants to where the predictions come nearest to the measured times, by the
 * logarithm of their ratio; single samples that are far off count little. What the samples leave
 * open stays near where it was. A constant that is 0 is no part of the device's formula, and stays
 * 0, as facts stay what they are. Samples without a time or a finite prediction do not count. -1
 * with st set where there is no memory. */
int vt_costs_fit(vt_attn_costs *costs, const vt_attn_sample *sample, int count, vt_status *st);

typedef struct {
    double mean, worst; /* of |predicted / measured - 1| */
} vt_costs_miss;

vt_costs_miss vt_costs_judge(const vt_attn_costs *costs, const vt_attn_sample *sample, int count);

#endif
