/* Read before every file by the analysers (make analyze), which see one file at a time: what functions
 * of other files return. Not for the files that define them. */
#ifndef ANALYSIS_H
#define ANALYSIS_H

#include "engine/experiments/measure.h"
#include "engine/image/internal.h"
#include "kernels/status.h"

/* clang-format off */
#define vt_fail(...)    ({ (vt_fail)(__VA_ARGS__); -1; })
#define vt_prefix(...)  ({ (vt_prefix)(__VA_ARGS__); -1; })
#define image_fail_at(...) ({ (image_fail_at)(__VA_ARGS__); -1; })
#define vte_fail(...)   ({ (vte_fail)(__VA_ARGS__); -1; })
#define vte_prefix(...) ({ (vte_prefix)(__VA_ARGS__); -1; })
/* clang-format on */

#endif
