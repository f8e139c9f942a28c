/* The cost model's built-in constants (dispatch.h) for GPUs: those of an H100, in nanoseconds of the
 * whole device. Which kernels serve decides which constants do. Measures nothing: `vitrun tune` does.
 */
#include "kernels/costs.h"
#include "kernels/cuda/cuda.h"

typedef enum { HOPPER, MMA, TF32, FP32 } family;
static const vt_attn_costs costs[] = {
    /* 16-bit types, heads of 64: wgmma. */
    [HOPPER] = {.pack = 0.00164,
                .tile = 0.001886,
                .mask = 0.03115,
                .skip = 0.005946,
                .pair = 0.000661,
                .row = 0.8,
                .reference = 0.00038,
                .launch = 3000,
                .longest = 11.78,
                .walk = 15.4,
                .columns_group = {6.43, 15.7},
                .columns_block = {2.95, 2.62},
                .columns_merge = {5.25, 5.25},
                .columns_start = 6675,
                .columns_pass = 3170,
                .columns_step = 341,
                .columns_late = 0.49,
                .walk_rows = 192,
                .walk_blocks = 132,
                .columns_blocks = {528, 264},
                .columns_guests = 1},
    /* 16-bit types, heads of other sizes: mma.sync. */
    [MMA] = {.skip = 0.004,
             .tile = 0.004,
             .soft = 16,
             .pair = 0.000661,
             .row = 0.8,
             .reference = 0.00038,
             .launch = 3000,
             .longest = 11.78,
             .walk = 20,
             .columns_group = {10, 15},
             .columns_tile = {4, 5},
             .columns_merge = {10, 10},
             .columns_start = 4000,
             .columns_pass = 3000,
             .columns_step = 700,
             .columns_late = 0.5,
             .walk_rows = 128,
             .walk_blocks = 264,
             .columns_blocks = {264, 264}},
    [TF32] = {.skip = 0.008,
              .tile = 0.008,
              .soft = 16,
              .pair = 0.0008,
              .row = 1,
              .reference = 0.0001,
              .launch = 3000,
              .longest = 20,
              .walk = 40,
              .columns_group = {20, 30},
              .columns_tile = {8, 10},
              .columns_merge = {20, 20},
              .columns_start = 4000,
              .columns_pass = 3000,
              .columns_step = 1000,
              .columns_late = 0.5,
              .walk_rows = 64,
              .walk_blocks = 264,
              .columns_blocks = {264, 264}},
    [FP32] = {.tile = 0.026,
              .skip = 0.026,
              .pair = 0.0008,
              .row = 1,
              .reference = 0.0001,
              .launch = 3000,
              .longest = 20,
              .walk = 100,
              .columns_group = {120, 160},
              .columns_tile = {57, 60},
              .columns_merge = {240, 240},
              .columns_start = 4000,
              .columns_pass = 3000,
              .columns_step = 2500,
              .columns_late = 0.5,
              .walk_rows = 128,
              .walk_blocks = 264,
              .columns_blocks = {264, 264}}};

const struct vt_attn_costs *vt_cuda_attention_costs(const vt_device *dev, int head_dim)
{
    vt_cuda_attention a = {.type = dev->dtype, .head_dim = head_dim, .scale = 1};
    if (vt_cuda_attend_columns_serves(&a, ((const cuda_device *)dev)->capability))
        return &costs[HOPPER];
    return &costs[dev->dtype != VT_F32 ? MMA : dev->tf32 ? TF32 : FP32];
}
