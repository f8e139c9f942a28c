/* The cost model's built-in constants (dispatch.h) for GPUs: those of an H100, in nanoseconds of
 * the whole device, as build/tests/bench_costs_fit made them of what tests/bench_attn.py --no-torch
 * had measured there. Which kernels serve decides which constants do. Measures nothing:
 * `vitrun tune` does.
 */
#include "kernels/costs.h"
#include "kernels/cuda/cuda.h"

typedef enum { HOPPER, NARROW, WIDE, TF32, FP32 } family;
static const vt_attn_costs costs[] = {
    /* 16-bit types, heads of 64: wgmma; tests/bench_attn.py, all five token counts, and 785. */
    [HOPPER] = {.pack = 0.003016,
                .tile = 0.001001,
                .mask = 0.016,
                .skip = 0.0058,
                .pair = 0.0007058,
                .row = 0.8314,
                .reference = 0.00038,
                .launch = 2711,
                .longest = 13.48,
                .walk = 11.4,
                .walk_mask = 3.18,
                .walk_start = 2160,
                .columns_group = {5.926, 12.3},
                .columns_tile = {0, 1.366},
                .columns_block = {2.952, 1.961},
                .columns_merge = {6.375, 7.979},
                .columns_start = 6492,
                .columns_pass = 2447,
                .columns_step = 203.3,
                .columns_late = 0.5622,
                .walk_rows = 192,
                .walk_blocks = 132,
                .walk_least = 272,
                .columns_blocks = {528, 264},
                .columns_guests = 1},
    /* 16-bit types, other heads to 64: mma.sync; --head-dim 32, 197 to 4097 tokens. */
    [NARROW] = {.pack = 0.0002866,
                .soft = 88.52,
                .mask = 0.07463,
                .skip = 0.001755,
                .pair = 0.00146,
                .row = 1.021,
                .reference = 0.00038,
                .launch = 2388,
                .longest = 13.82,
                .walk = 23.94,
                .walk_start = 131.1,
                .columns_group = {3.116, 6.125},
                .columns_tile = {4.621, 10.06},
                .columns_merge = {18.61, 46.14},
                .columns_start = 435.1,
                .columns_pass = 3234,
                .columns_step = 1077,
                .columns_late = 0.002202,
                .walk_rows = 128,
                .columns_blocks = {396, 264}},
    /* Wider ones; --head-dim 128. */
    [WIDE] = {.pack = 0.0009593,
              .soft = 138.6,
              .mask = 0.07409,
              .skip = 0.001687,
              .pair = 0.0005548,
              .row = 1.344,
              .reference = 0.00038,
              .launch = 2669,
              .longest = 14,
              .walk = 25.47,
              .walk_start = 29.65,
              .columns_group = {9.032, 11.22},
              .columns_tile = {6.486, 12.77},
              .columns_merge = {31.46, 62.96},
              .columns_start = 2082,
              .columns_pass = 4252,
              .columns_step = 230.7,
              .columns_late = 0.1572,
              .walk_rows = 64,
              .columns_blocks = {264, 132}},
    /* --dtype tf32, heads of 64, 197 to 4097 tokens. */
    [TF32] = {.pack = 0.0008247,
              .soft = 86.11,
              .mask = 0.1161,
              .skip = 0.005316,
              .pair = 0.0006128,
              .row = 0.9678,
              .reference = 0.00038,
              .launch = 2241,
              .longest = 13.37,
              .walk = 44.26,
              .walk_start = 877.3,
              .columns_group = {24.78, 16.94},
              .columns_tile = {12.74, 21.7},
              .columns_merge = {20.74, 73.7},
              .columns_start = 5213,
              .columns_pass = 623.2,
              .columns_step = 88.33,
              .columns_late = 0.2962,
              .walk_rows = 64,
              .columns_blocks = {264, 132}},
    /* --dtype fp32, the same. */
    [FP32] = {.pack = 0.0002532,
              .mask = 0.7197,
              .skip = 0.02108,
              .pair = 0.0005871,
              .row = 1.042,
              .reference = 0.0001,
              .launch = 1972,
              .longest = 15.27,
              .walk = 163.6,
              .walk_start = 8767,
              .columns_group = {29.84, 29.61},
              .columns_tile = {57.19, 59.81},
              .columns_merge = {38.41, 92.17},
              .columns_start = 539.6,
              .columns_pass = 5683,
              .columns_step = 6452,
              .columns_late = 0.0839,
              .walk_rows = 128,
              .columns_blocks = {264, 264}},
};

const struct vt_attn_costs *vt_cuda_attention_costs(const vt_device *dev, int head_dim)
{
    vt_cuda_attention a = {.type = dev->dtype, .head_dim = head_dim, .scale = 1};
    if (vt_cuda_attend_columns_serves(&a, ((const cuda_device *)dev)->capability))
        return &costs[HOPPER];
    if (dev->dtype == VT_F32)
        return &costs[dev->tf32 ? TF32 : FP32];
    return &costs[head_dim <= 64 ? NARROW : WIDE];
}
