/* The inside of the handles of vitrun.h. Only engine/ (not cli, not experiments) includes this.
 *
 *   open.c       vitrun_open: configuration, weights, masks, plans; what a model is
 *   plan.c       masks -> kernels and layouts
 *   device.c     which device a text means
 *   memory.c     planned memory
 *   run.c        contexts, the forward pass, the profile
 *   intermediates.c  outputs of chosen blocks
 *   attend.c     attention weights out of a forward pass
 *   check.c      every kernel on the same q, k, v
 *   mask_api.c   masks without a model: numbers, drawings, files
 *   attention_api.c  one attention alone
 *   tune.c       the cost model's constants, measured by it; costs.c keeps them
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
    bool shares;     /* dev, cfg and vit are another model's, which outlives this one */
    vt_masks *masks; /* NULL: all layers dense */
    vt_plans plans;
    int planned_images;
    uint64_t max_memory;
    int *wanted; /* [want.count]: blocks whose outputs are handed over */
    vit_intermediates want;
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
    int running;  /* images of the forward that was submitted and not yet waited for; 0: none */
    bool ran;     /* the device has had an input */
    /* The host's side of the buffers; those themselves where the device's memory is the host's. */
    float *input;            /* [batch, C, H, W] */
    float *results;          /* what the next three lie in, where they are copies */
    float *logits;           /* [batch, outputs] */
    float *pooled, *pooled2; /* [batch, D] */
};

/* Copies an internal failure to the caller's error. Always -1. */
int vitrun_fail(vitrun_error *err, const vt_status *st);

/* The device for the public texts `device` ("auto", "cpu", "cuda", "cuda:1") and `dtype`; threads
 * 0: all that this process may use. */
vt_device *vitrun_device_open(const char *device, const char *dtype, int threads, vt_status *st);
/* Fails (VT_MACHINE) where `needed` bytes are more than the model's --max-memory. */
int vitrun_check_memory(const vitrun_model *m, uint64_t needed, vt_status *st);
/* The same where `more` bytes are more than the device has left. */
int vitrun_check_device(const vitrun_model *m, uint64_t more, vt_status *st);

/* Fills m->want as the options say. */
int vitrun_want_intermediates(vitrun_model *m, const vitrun_options *o, vt_status *st);
/* The floats of one image's intermediates. */
size_t vitrun_intermediate_floats(const vitrun_model *m);
/* Those of the last run, of `count` images: to [count, wanted, N, D]. */
int vitrun_fetch_intermediates(const vitrun_context *c, int count, float *to, vt_status *st);

/* After a run: fails (VT_INPUT) and names the first operation to blame where a logit, or one of the
 * tokens or intermediates that `out` has got, is not finite. */
int vitrun_check_finite(vitrun_context *c, int count, const vitrun_outputs *out, vt_status *st);

/* Prepares the stream for `count` images, runs them, waits. Logits and pooled features are then in
 * the host's buffers, tokens in the device's. */
int vitrun_run_images(vitrun_context *c, int count, vt_status *st);

/* vitrun_attention_open on a device that the caller keeps, and closes later. */
vitrun_attention *vt_attention_open_on(vt_device *dev, const vitrun_attention_options *options,
                                       vt_status *st);
/* What the cost model is told of it. */
vt_attn_work vt_attention_work(const vitrun_attention *a);

#endif
