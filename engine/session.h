/* The inside of the handles of vitrun.h. Only engine/ (not cli, not experiments) includes this.
 *
 *   calls.c      errors, arguments, the process: what all calls have in common
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
#include "kernels/watch.h"
#include "models/vit.h"

struct vitrun_model {
    timm_config cfg;
    vt_device *dev;
    vit_model vit;
    atomic_int holders;       /* itself until it is closed, and what was opened on it */
    const vitrun_model *base; /* held: dev, cfg and vit are its; NULL: own */
    vt_masks *masks;          /* NULL: all layers dense */
    vt_plans plans;
    int planned_images;
    uint64_t max_memory;
    uint64_t picture_bytes; /* that reading one picture may take; 0: no limit */
    int *wanted;            /* [want.count]: blocks whose outputs are handed over */
    vit_intermediates want;
    vitrun_info info;
    vitrun_fact *facts;
    char **warning;
    int warnings;
};

struct vitrun_context {
    const vitrun_model *model; /* held */
    vt_stream *stream;
    vt_watch watch;
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

/* Copies an internal failure to the caller's error, unless that is NULL. Always -1. */
int vitrun_fail(vitrun_error *err, const vt_status *st);
/* Fails (VT_USAGE) where an argument that must be there is NULL. */
int vitrun_need(const void *argument, const char *name, vitrun_error *err);
/* Fails (VT_USAGE) where a list of texts is not what its count says. */
int vitrun_check_list(const char *const *item, int count, const char *name, vt_status *st);
/* Fails (VT_USAGE) in a process that was forked by a thread that was bound to its parent; binds the
 * calling thread to its process where `binds`. */
int vitrun_check_process(bool binds, vt_status *st);
/* Does what runs on the device bind to the process: several threads, a GPU? */
bool vitrun_binds(const vt_device *dev);

/* Keeps the model until vitrun_close is called once more. */
const vitrun_model *vitrun_hold(const vitrun_model *model);

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
 * the host's buffers, tokens in the device's. `what`: for the caller's progress function. */
int vitrun_run_images(vitrun_context *c, int count, const char *what, vt_status *st);
/* vitrun_fail of a call on a context: a wish to stop is fulfilled by being told. */
int vitrun_context_fail(vitrun_context *c, vitrun_error *err, const vt_status *st);

/* vitrun_attention_open on a device that the caller keeps, and closes later. */
vitrun_attention *vt_attention_open_on(vt_device *dev, const vitrun_attention_options *options,
                                       vt_status *st);
/* What the cost model is told of it. */
vt_attn_work vt_attention_work(const vitrun_attention *a);

#endif
