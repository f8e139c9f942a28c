/* The inside of the handles of vitrun.h. Only engine/ (not cli, not experiments) includes this.
 *
 *   open.c       vitrun_open: configuration, weights, masks, plans; what a model is
 *   plan.c       masks -> kernels and layouts
 *   run.c        contexts, the forward pass, the profile, planned memory
 *   check.c      every kernel on the same q, k, v
 *   mask_api.c   masks without a model: numbers, drawings, files
 *   attention_api.c  one attention alone
 *   image_api.c  pictures and arrays on disk
 */
#ifndef VT_SESSION_H
#define VT_SESSION_H

#include "engine/plan.h"
#include "models/vit.h"

struct vitrun_model {
    timm_config cfg;
    vt_device *dev;
    vit_model vit;
    vt_masks *masks; /* NULL: all layers dense */
    vt_plans plans;
    int planned_images;
    uint64_t max_memory;
    vitrun_info info;
    vitrun_fact *facts;
    char **warning;
    int warnings;
};

struct vitrun_context {
    const vitrun_model *model;
    vt_stream *stream;
    vit_acts acts;
    int prepared; /* images that the stream is prepared for; 0: none yet */
};

/* Copies an internal failure to the caller's error. Always -1. */
int vitrun_fail(vitrun_error *err, const vt_status *st);

/* The CPU device for the public texts `device` ("auto", "cpu", ...) and `dtype`; threads 0: all that
 * this process may use. */
vt_device *vitrun_device_open(const char *device, const char *dtype, int threads, vt_status *st);
const char *vitrun_dtype_name(vt_dtype t);

/* Fails (VT_MACHINE) where `needed` bytes are more than the model's --max-memory. */
int vitrun_check_memory(const vitrun_model *m, uint64_t needed, vt_status *st);

/* After a run: fails (VT_INPUT) and names the first operation to blame where a logit, or where
 * `tokens` any token, is not finite. */
int vitrun_check_finite(vitrun_context *c, int count, bool tokens, vt_status *st);

/* Prepares the stream for `count` images, runs them; the outputs stay in the context's buffers. */
int vitrun_run_images(vitrun_context *c, int count, vt_status *st);

#endif
