/* vitrun: Vision Transformer inference with sparse attention. The whole public interface, and its
 * manual; the program `vitrun` uses nothing else.
 *
 *     vitrun_options o;
 *     vitrun_error err;
 *     vitrun_options_init(&o);
 *     o.weights = "vit.safetensors";
 *     vitrun_model *m = vitrun_open(&o, &err);
 *     vitrun_context *c = vitrun_context_open(m, 1, &err);
 *     vitrun_image img;
 *     vitrun_image_load(&img, "cat.png", &err);
 *     float *logits = malloc(vitrun_info_get(m)->outputs * sizeof *logits);
 *     vitrun_preprocess(m, &img, vitrun_context_input(c), &err);
 *     vitrun_forward(c, 1, &(vitrun_outputs){.logits = logits}, &err);
 *
 * Handles. A model is what was loaded, and is only read from then on. A context is a place to run
 * it: buffers for a number of images, and what the device needs. Both are opaque, and so are masks,
 * checks, attentions and tunings. Each is closed once, by the function beside the one that opened
 * it; NULL is fine there. They may be closed in any order: a model stays until the last thing that
 * was opened on it is closed.
 *
 * Errors. A function that can fail returns 0 or -1, or a pointer or NULL, and fills *err: a code
 * and one line of text. err may be NULL where nobody wants to know. *err is untouched by success.
 * After a failure the outputs are undefined, and the handle is as good as before; where that is not
 * so (a GPU that died) every later call fails. Any call may fail for want of memory
 * (VITRUN_MACHINE); any that reads a file for what is in it (VITRUN_INPUT). A NULL where something
 * must be, an index that is not there, a structure of another size, a call at the wrong time:
 * VITRUN_USAGE, never a crash. What cannot be noticed is a handle that was closed already, and
 * memory that is smaller than said here. Functions that cannot fail and look something up give
 * NULL, 0 or zeros where there is no such thing.
 *
 * Memory. Input and outputs lie in the caller's memory and are written during the call only
 * (between vitrun_submit and vitrun_wait: the input belongs to the context). Texts and arrays that
 * come through `const` pointers belong to the handle that they came from and live as long. What a
 * caller passes in options is read during the call only.
 *
 * Structures that a caller fills begin with `size`, which the matching _init function sets together
 * with the defaults. Start from it, always: a program that was compiled with another vitrun.h than
 * the library is refused by it.
 *
 * Units. Sizes in bytes, times in milliseconds, tensors fp32 in C order with the last index
 * fastest, images from 0, layers and heads from 0, tokens from 0 with the prefix tokens (class,
 * distillation, registers) first and the patches after them row by row.
 *
 * Threads. Several threads may use one model at once, each with a context of its own: each gets the
 * same bits as one alone. One handle other than a model is used by one thread at a time, except for
 * vitrun_cancel. Variants of a model are opened and closed by one thread at a time. Within a call
 * the library uses up to vitrun_options.threads threads (OpenMP) besides.
 *
 * Processes. A process that was forked has none of its parent's OpenMP threads and none of its GPU:
 * there a call returns an error where it would hang, if the thread that forked had run vitrun on
 * several threads, and on a GPU. So fork first and open then; or exec (in Python: the start method
 * "spawn"). With threads = 1 on the CPU a model may be opened first and be used by children that
 * are forked then, which share its memory.
 *
 * The library never prints, never ends the process, sets no signal handlers or locale, and keeps no
 * state outside its handles (but the process that a thread ran it in). Numbers in texts and files
 * have a decimal point whatever the locale. It reads ~/.cache/vitrun (XDG_CACHE_HOME) and writes
 * there what a GPU's preparation and vitrun_tune measured.
 *
 * Versions. MAJOR.MINOR.PATCH. Programs that were compiled with one version run with every later
 * one of the same interface: the same MAJOR, or, while that is 0, the same MAJOR.MINOR. Within an
 * interface functions may be added, nothing else changes: no structure, no value, no meaning. The
 * shared library is named by its interface (libvitrun.so.0.1), so that several may be installed.
 */
#ifndef VITRUN_H
#define VITRUN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VITRUN_VERSION       "0.1.0"
#define VITRUN_VERSION_MAJOR 0
#define VITRUN_VERSION_MINOR 1
#define VITRUN_VERSION_PATCH 0
/* 10203 for 1.2.3 */
#define VITRUN_VERSION_NUMBER                                                                      \
    (VITRUN_VERSION_MAJOR * 10000 + VITRUN_VERSION_MINOR * 100 + VITRUN_VERSION_PATCH)

#if defined(__GNUC__)
#define VITRUN_API __attribute__((visibility("default")))
#else
#define VITRUN_API
#endif

/* ---- errors ---- */
typedef enum { /* also the exit statuses of the program */
               VITRUN_OK = 0,
               VITRUN_MACHINE = 1,  /* memory, disk, device, a read that fails after opening */
               VITRUN_USAGE = 2,    /* an option's value is wrong, an impossible combination */
               VITRUN_INPUT = 3,    /* a given file is absent, broken, or does not fit */
               VITRUN_CANCELLED = 4 /* as the caller asked; no exit status of the program */
} vitrun_code;

typedef struct {
    vitrun_code code;
    char message[512]; /* one line: FILE: what is wrong (where; expected, found) */
} vitrun_error;

/* Of the library: VITRUN_VERSION and VITRUN_VERSION_NUMBER when it was built. */
VITRUN_API const char *vitrun_version(void);
VITRUN_API int vitrun_version_number(void);

/* One line about the build: compiler, instruction sets, matrix library, image decoders. */
VITRUN_API const char *vitrun_build_info(void);

/* ---- looking on ---- */
/* Called while something long runs: `done` of `total` steps of `what` are done, from 0 to total.
 * `what` is a word for people: "masks" and "weights" (a step a layer) while a model is opened,
 * "forward", "check" (a step a layer and image; on a GPU, where all of a forward is handed over at
 * once, only 0 and total), "attentions" while a device is tuned. Not 0 stops it: the call fails
 * with VITRUN_CANCELLED as soon as the step in hand is done. Calls come one by one, but from any of
 * the library's threads; they may use no handle that is in use but for vitrun_cancel. */
typedef int (*vitrun_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/* ---- opening a model ---- */
typedef enum { VITRUN_DISPATCH_AUTO, VITRUN_DISPATCH_DENSITY } vitrun_dispatch;

typedef struct {
    size_t size;
    const char *weights;    /* .safetensors file or hub folder */
    const char *config;     /* config.json, or NULL: beside the weights */
    const char *arch;       /* timm architecture name, or NULL */
    const char *const *set; /* KEY=VALUE overrides of model_args / pretrained_cfg */
    int set_count;
    int image_height, image_width; /* run at this size; 0: the model's own */
    const char *mask_config;       /* JSON file, or NULL */
    const char *const *masks;      /* '[LAYERS:] EXPR' texts; each replaces its layers' entry */
    int mask_count;
    double density_threshold; /* < 0: the mask configuration's, else 0.30 */
    vitrun_dispatch dispatch;
    const char *kernel; /* force, for masked layers: a name as in vitrun_layer.candidates, or
                           "sparse", the fastest that skips; NULL: as `dispatch` says */
    const char *device; /* "auto": a GPU where there is one, "cpu", "cuda", "cuda:1" */
    const char *dtype; /* "fp32", "bf16", on a GPU also "fp16", "tf32"; NULL: fp16 on a GPU, fp32 on
                            the CPU */
    int threads;       /* 0: the cores that this process may use */
    int batch;         /* images a forward pass that dispatch plans for; 0: 1 */
    const char *labels;        /* file of class names, one a line, or NULL */
    uint64_t max_memory;       /* bytes; 0: no limit. Refused before allocating when exceeded */
    const char *intermediates; /* blocks whose outputs are wanted: "2,5,8,11", "8-", "all", or
                                  "last:4"; NULL: none */
    int intermediate_norm;     /* these under the model's final norm (timm's norm=True) */
    int tokens; /* all tokens are wanted after the final norm: else the last block leaves those out
                   that the pooling does not read */
    vitrun_progress_fn progress; /* told while the model is opened; or NULL */
    void *progress_user;
} vitrun_options;

/* The device that a model would be opened on with these two options (each may be NULL: the
 * default): "cpu" or "cuda"; NULL with err set where it would not. */
VITRUN_API const char *vitrun_device_found(const char *device, const char *dtype,
                                           vitrun_error *err);

typedef struct vitrun_model vitrun_model;

VITRUN_API void vitrun_options_init(vitrun_options *options);
/* Reads, checks and converts the weights, reads the masks, chooses the kernels. Everything that can
 * be wrong with the files is found here, before much memory is taken; no file is read later. */
VITRUN_API vitrun_model *vitrun_open(const vitrun_options *options, vitrun_error *err);
VITRUN_API void vitrun_close(vitrun_model *model);

/* The same weights under other masks, without loading them again. Of the options only masks,
 * threshold, dispatch, kernel, batch (0: the model's), max_memory, intermediates, tokens and
 * progress count; `weights` must be set, but is not read. */
VITRUN_API vitrun_model *vitrun_variant(const vitrun_model *model, const vitrun_options *options,
                                        vitrun_error *err);

/* ---- what a model is ---- */
typedef struct { /* a switch of the forward pass or the preprocessing, and where it was learnt */
    const char *name, *value;
    const char *origin; /* "command line", "config.json", "tensor shapes", "timm's default" ... */
} vitrun_fact;

typedef struct {
    size_t size;
    const char *architecture;                   /* timm's name */
    int layers, heads, head_dim, width, hidden; /* hidden: columns of the MLP's middle */
    int tokens, prefix_tokens, grid_h, grid_w;  /* tokens = prefix_tokens + grid_h * grid_w */
    int image_height, image_width, channels;    /* of the input */
    int classes;                                /* 0: no head */
    int outputs; /* length of the logits: classes, or the features' where classes is 0 */
    uint64_t parameters;
    const char *device, *dtype; /* "cpu" or "cuda"; "fp32", "tf32", "bf16", "fp16" */
    int threads;                /* of the CPU that a call may use */
    const vitrun_fact *facts;
    int fact_count;
    double load_ms;
    double density_threshold; /* the document-wide one in force */
    int measured_costs; /* predicted times rest on what vitrun_tune measured on this device (else on
                           built-in constants) */
    const int *intermediates; /* blocks whose outputs a forward can hand over, ascending, from 0 */
    int intermediate_count;
} vitrun_info;

VITRUN_API const vitrun_info *vitrun_info_get(const vitrun_model *model);
/* The name of class `index`; NULL: unknown. */
VITRUN_API const char *vitrun_label(const vitrun_model *model, int index);

/* The i-th architecture that is known by name; what is said of it is for good. */
typedef struct {
    const char *name;
    int layers, heads, width, image_height, image_width, patch;
    char parts[200];     /* what it has beyond, or lacks of, the plain ViT; "" for that */
    const char *missing; /* NULL: supported; else the switch that vitrun lacks */
} vitrun_architecture;
/* 0, or -1 where i is past the end. */
VITRUN_API int vitrun_architecture_at(int i, vitrun_architecture *out);

/* ---- what a layer's attention does: one entry a layer and head group, masks and choice ---- */
typedef struct {
    const char *kernel;
    double predicted_ms; /* of one forward pass at the planned batch; < 0: cannot serve */
} vitrun_candidate;

typedef struct {
    int layer;
    const char *heads; /* "0-11", "0,2-3" */
    const char *mask;  /* the expression as written; "dense" */
    int tokens, empty_rows, row_min,
        row_max;                 /* of its rows: those that allow no pair; pairs a row */
    double row_mean, density;    /* density = nnz / tokens^2 */
    int64_t nnz;                 /* allowed pairs */
    double occupancy[3];         /* share of 16, 32, 64 wide square tiles with a pair on */
    double threshold;            /* of density, from which on the dense kernel serves */
    const char *kernel, *reason; /* what serves, and why, in words */
    double predicted_ms;         /* as the candidate's */
    const vitrun_candidate *candidates;
    int candidate_count;
    uint64_t mask_bytes; /* of the layout that the kernel reads (shared by equal masks) */
    uint64_t work_bytes; /* of the kernel's scratch memory at the planned batch */
} vitrun_layer;

VITRUN_API int vitrun_layer_count(const vitrun_model *model);
VITRUN_API const vitrun_layer *vitrun_layer_at(const vitrun_model *model, int i);
VITRUN_API int vitrun_warning_count(const vitrun_model *model); /* e.g. masks with empty rows */
VITRUN_API const char *vitrun_warning_at(const vitrun_model *model, int i);

/* ---- memory, planned: what a model and a context of `batch` images hold together, in bytes ----
 */
typedef struct {
    uint64_t peak_bytes; /* all of the below */
    uint64_t weights_bytes;
    uint64_t activations_bytes;
    uint64_t masks_bytes;     /* layouts, each distinct one once */
    uint64_t attention_bytes; /* scratch of the attention kernels */
    uint64_t scratch_bytes;   /* everything else: input, staging, matrix library */
} vitrun_memory;
VITRUN_API int vitrun_memory_plan(const vitrun_model *model, int batch, vitrun_memory *memory,
                                  vitrun_error *err);

/* ---- images ---- */
typedef struct {
    int width, height;
    uint8_t *rgb; /* [height, width, 3] */
} vitrun_image;

/* PNG or JPEG, by content; "-" is standard input. Converted to RGB as Pillow does; more than 178.9
 * million pixels are refused. `name` is for errors and may be NULL. On success the image is the
 * caller's: vitrun_image_free frees its pixels and leaves it empty. */
VITRUN_API int vitrun_image_load(vitrun_image *image, const char *path, vitrun_error *err);
VITRUN_API int vitrun_image_decode(vitrun_image *image, const void *bytes, size_t size,
                                   const char *name, vitrun_error *err);
/* As vitrun_image_load, for this model: under its max_memory the picture must also fit into what that
 * leaves beside a context of the planned batch, shared by as many readers as there are threads; else
 * it is refused (VITRUN_MACHINE) before it takes memory. */
VITRUN_API int vitrun_image_load_for(const vitrun_model *model, vitrun_image *image,
                                     const char *path, vitrun_error *err);
VITRUN_API void vitrun_image_free(vitrun_image *image);
/* rgb [height, width, 3]. */
VITRUN_API int vitrun_png_write(const char *path, const uint8_t *rgb, int width, int height,
                                vitrun_error *err);

/* The model's eval transform, from resizing to normalising, in timm's and Pillow's very numbers:
 * out [channels, image_height, image_width]. May run on several threads at once. */
VITRUN_API int vitrun_preprocess(const vitrun_model *model, const vitrun_image *image, float *out,
                                 vitrun_error *err);
/* The same of pixels decoded elsewhere: rgb points to the top row of `height`, which are `stride`
 * bytes apart (0: 3 * width; less than 0: the rows lie bottom up), each `width` times R, G, B. */
VITRUN_API int vitrun_preprocess_rgb(const vitrun_model *model, const uint8_t *rgb, int width,
                                     int height, ptrdiff_t stride, float *out, vitrun_error *err);

/* ---- running ---- */
typedef struct vitrun_context vitrun_context;

/* A place to run up to `batch` images at a time. Allocates everything that a forward needs; on a
 * GPU the first one for a model also times candidates for its shapes, for some seconds. */
VITRUN_API vitrun_context *vitrun_context_open(const vitrun_model *model, int batch,
                                               vitrun_error *err);
VITRUN_API void vitrun_context_close(vitrun_context *context); /* waits for what is submitted */

/* The input buffer [batch, channels, image_height, image_width], to be filled by the caller, with
 * what vitrun_preprocess gives or with ready tensors. The same buffer as long as the context lives;
 * its content stays until it is overwritten. */
VITRUN_API float *vitrun_context_input(vitrun_context *context);

/* Who is told of the context's forwards and checks from now on; NULL: nobody. */
VITRUN_API void vitrun_context_progress(vitrun_context *context, vitrun_progress_fn fn, void *user);

/* From any thread, also while another runs the context: asks it to stop (on != 0), or takes that
 * back (0). What runs ends with VITRUN_CANCELLED after the operation in hand on the CPU (a part of
 * a layer of one slice of the batch), on a GPU when what was handed to it is done, which is the
 * forward: there a forward is stopped before it begins, while it is prepared, between operations
 * where it is profiled or observed, and else at its end; its results are not given out. Where
 * nothing runs, the next call ends so. A wish that was told once is forgotten, and the context is
 * as good as before. A call must have returned before the context is closed. */
VITRUN_API void vitrun_cancel(vitrun_context *context, int on);

typedef struct {     /* each may be NULL; the caller's memory, fp32 */
    float *logits;   /* [count, outputs] */
    float *features; /* [count, width]: pooled, before the head (timm's pre_logits) */
    float *tokens; /* [count, tokens, width]: after the final norm (timm's forward_features); needs
                        vitrun_options.tokens */
    float *intermediates; /* [count, intermediate_count, tokens, width]: what these blocks give
                             (timm's forward_intermediates), prefix tokens first */
} vitrun_outputs;

/* Runs the first `count` images of the input buffer, 1 to the context's batch, and fills what `out`
 * points to (NULL: nothing). Results do not depend on the other images of the batch beyond
 * rounding. Non-finite results are an error (VITRUN_INPUT) that names the first layer that produced
 * them. */
VITRUN_API int vitrun_forward(vitrun_context *context, int count, const vitrun_outputs *out,
                              vitrun_error *err);

/* The same in two steps: submit starts the forward and returns, on a GPU before it is done; until
 * wait has returned, the context's input must stay as it is. A submit that succeeded is followed by
 * one wait, which ends the forward also where it fails; a context runs one at a time. With two
 * contexts, one can be filled while the other computes. */
VITRUN_API int vitrun_submit(vitrun_context *context, int count, vitrun_error *err);
VITRUN_API int vitrun_wait(vitrun_context *context, const vitrun_outputs *out, vitrun_error *err);

/* Repeats the last forward, on the input that the device has already, and says how long it took
 * there: no transfers, no look at the results. For benchmarks. */
VITRUN_API int vitrun_time(vitrun_context *context, double *ms, vitrun_error *err);

/* ---- where time goes: per operation, since the profile was switched on ---- */
typedef struct {
    const char *op;   /* "linear", "attention", ... */
    const char *name; /* "qkv", "fc1", ... */
    int layer;        /* -1: outside the blocks */
    double ms;        /* summed over calls */
    long calls;
} vitrun_profile_entry;
/* On also resets; off keeps what was measured. On a GPU a profiled forward is slower as a whole:
 * its operations are waited for one by one. Between forwards only. */
VITRUN_API void vitrun_profile(vitrun_context *context, int on);
VITRUN_API int vitrun_profile_count(const vitrun_context *context);
VITRUN_API void vitrun_profile_at(const vitrun_context *context, int i, vitrun_profile_entry *out);

/* ---- attention weights: computed again from q and k, whatever kernel serves a layer ---- */
typedef struct {
    int image, layer, head;
    int first, rows; /* queries first ... first + rows - 1 */
    const float
        *weights; /* [rows, tokens]: each row's sum is 1, in differential attention 1 less its
                             lambda; zeros where a row's mask is empty */
} vitrun_attention_rows;

/* Called from several threads at once, but never for the same query of one layer and head; for
 * that, in the order of images. */
typedef void (*vitrun_attention_fn)(void *user, const vitrun_attention_rows *rows);

/* A forward of `count` images that hands on the weights of `queries` query tokens, from `first` on,
 * of all layers and heads. out may be NULL. */
VITRUN_API int vitrun_attend(vitrun_context *context, int count, int first, int queries,
                             vitrun_attention_fn fn, void *user, const vitrun_outputs *out,
                             vitrun_error *err);

/* ---- checking: the same input through every kernel that can serve each layer ---- */
typedef struct {
    int layer;
    const char *heads;
    const char *a, *b;         /* kernels compared; a is "reference" */
    double max_error, allowed; /* of the attention's output, on the same q, k, v */
} vitrun_check_pair;
typedef struct vitrun_check vitrun_check;

/* Runs the first `count` images of the context's input. */
VITRUN_API vitrun_check *vitrun_check_run(vitrun_context *context, int count, vitrun_error *err);
/* 1: no pair differs by more than allowed. */
VITRUN_API int vitrun_check_ok(const vitrun_check *check);
VITRUN_API int vitrun_check_count(const vitrun_check *check);
VITRUN_API const vitrun_check_pair *vitrun_check_at(const vitrun_check *check, int i);
VITRUN_API void vitrun_check_free(vitrun_check *check);

/* ---- masks without a model ---- */
typedef struct {
    size_t size;
    int grid_h, grid_w, prefix;
    int layers, heads; /* 0: as many as the configuration names (1 for a bare expression) */
    const char *mask_config;
    const char *const *masks;
    int mask_count;
    int threads;                 /* 1 by default */
    vitrun_progress_fn progress; /* told while masks are counted; or NULL */
    void *progress_user;
} vitrun_mask_options;

typedef struct vitrun_masks vitrun_masks;

VITRUN_API void vitrun_mask_options_init(vitrun_mask_options *options);
VITRUN_API vitrun_masks *vitrun_masks_open(const vitrun_mask_options *options, vitrun_error *err);
/* The masks of a model. */
VITRUN_API vitrun_masks *vitrun_masks_of(const vitrun_model *model, vitrun_error *err);
VITRUN_API void vitrun_masks_free(vitrun_masks *masks);
VITRUN_API int vitrun_masks_count(const vitrun_masks *masks); /* layers x head groups */
/* Fields about kernels, time and work are unset here. */
VITRUN_API const vitrun_layer *vitrun_masks_at(const vitrun_masks *masks, int i);
/* Row `query` of mask i as bytes 0 / 1, [tokens]. */
VITRUN_API int vitrun_masks_row(const vitrun_masks *masks, int i, int query, uint8_t *row,
                                vitrun_error *err);
/* PNG drawings: the N x N matrix, and what query token `query` sees on the patch grid. */
VITRUN_API int vitrun_masks_draw_matrix(const vitrun_masks *masks, int i, const char *path,
                                        vitrun_error *err);
VITRUN_API int vitrun_masks_draw_query(const vitrun_masks *masks, int i, int query,
                                       const char *path, vitrun_error *err);
/* All masks as a safetensors file: BOOL [N, N], or [heads, N, N] where heads differ, a layer. */
VITRUN_API int vitrun_masks_save(const vitrun_masks *masks, const char *path, vitrun_error *err);

/* ---- one attention alone, for benchmarks ---- */
typedef struct {
    size_t size;
    int heads, tokens, head_dim, batch;
    int grid_h, grid_w;         /* 0: the squarest grid of tokens or tokens - 1 (then one prefix) */
    const char *mask;           /* an expression, or NULL: dense */
    const char *device, *dtype; /* as in vitrun_options */
    int threads;
} vitrun_attention_options;

typedef struct vitrun_attention vitrun_attention;

VITRUN_API void vitrun_attention_options_init(vitrun_attention_options *options);
VITRUN_API vitrun_attention *vitrun_attention_open(const vitrun_attention_options *options,
                                                   vitrun_error *err);
VITRUN_API void vitrun_attention_close(vitrun_attention *attention);
/* Another mask (NULL: none) for the same q, k and v. Where it fails, the mask is the one before. */
VITRUN_API int vitrun_attention_set_mask(vitrun_attention *attention, const char *mask,
                                         vitrun_error *err);
/* Valid until the mask is changed. */
VITRUN_API const vitrun_layer *vitrun_attention_layer(const vitrun_attention *attention);
VITRUN_API int vitrun_attention_prefix(const vitrun_attention *attention);
/* Where it runs, and in which arithmetic. */
VITRUN_API const char *vitrun_attention_device(const vitrun_attention *attention,
                                               const char **dtype);
/* Runs the named kernel `calls` times, one after the other, on fixed random q, k, v; *ms is the
 * time of one. Several calls on a GPU are recorded as a forward pass is, and run once more before
 * that. */
VITRUN_API int vitrun_attention_run(vitrun_attention *attention, const char *kernel, int calls,
                                    double *ms, vitrun_error *err);
/* Scratch and mask bytes that the named kernel takes. */
VITRUN_API int vitrun_attention_memory(vitrun_attention *attention, const char *kernel,
                                       uint64_t *work_bytes, uint64_t *mask_bytes,
                                       vitrun_error *err);

/* ---- tuning: the constants behind predicted times, measured on this device ---- */
typedef struct {
    size_t size;
    const char *device, *dtype; /* as in vitrun_options */
    int head_dim;               /* the head size to measure for; 64 by default */
    int threads;
    vitrun_progress_fn progress; /* told between measurements; or NULL */
    void *progress_user;
} vitrun_tune_options;

typedef struct vitrun_tuning vitrun_tuning;

typedef struct { /* nanoseconds of a unit of work; 0: no part of this device's formula */
    const char *name;
    double built_in, measured;
} vitrun_constant;

typedef struct { /* one attention that was timed, and what the cost model says of it */
    const char *kernel, *mask;
    int heads, tokens, batch;
    double ms, built_in_ms, measured_ms; /* timed; predicted with either set of constants */
} vitrun_tuning_sample;

typedef struct {
    const char *device, *hardware, *dtype;
    int head_dim, threads, constants, samples;
    /* |predicted / timed - 1| over the samples, on average and at most */
    double built_in_mean, built_in_worst, measured_mean, measured_worst;
} vitrun_tuning_summary;

VITRUN_API void vitrun_tune_options_init(vitrun_tune_options *options);
/* Times every kernel of the device on shapes and masks that tell the constants apart, for some
 * seconds, and fits them. Changes nothing yet. */
VITRUN_API vitrun_tuning *vitrun_tune(const vitrun_tune_options *options, vitrun_error *err);
VITRUN_API void vitrun_tuning_free(vitrun_tuning *tuning);
VITRUN_API const vitrun_tuning_summary *vitrun_tuning_get(const vitrun_tuning *tuning);
VITRUN_API void vitrun_tuning_constant(const vitrun_tuning *tuning, int i, vitrun_constant *out);
VITRUN_API void vitrun_tuning_sample_at(const vitrun_tuning *tuning, int i,
                                        vitrun_tuning_sample *out);
/* From now on models and attentions of this device, type and head size are planned with the
 * measured constants. *path: the file in the user's cache folder that keeps them; delete it to go
 * back. Fails (VITRUN_MACHINE) where the file cannot be written, and where the times contradict
 * each other so much that something must have disturbed them. */
VITRUN_API int vitrun_tuning_keep(vitrun_tuning *tuning, const char **path, vitrun_error *err);

/* ---- arrays and tensors on disk: .npy or .safetensors by the path's ending; whole or not ---- */
/* data [shape[0], ..., shape[rank - 1]], rank at most 8; `name` is the tensor's in a .safetensors.
 */
VITRUN_API int vitrun_save_f32(const char *path, const char *name, const float *data,
                               const uint64_t *shape, int rank, vitrun_error *err);

typedef struct {
    const char *name;
    int is_bool; /* data is bytes 0 / 1, else fp32 */
    int rank;    /* at most 4 */
    uint64_t shape[4];
    const void *data;
} vitrun_tensor;
VITRUN_API int vitrun_save_tensors(const char *path, const vitrun_tensor *tensor, int count,
                                   vitrun_error *err); /* a .safetensors file */

/* Bytes to a file, whole or not at all: a failure leaves what was at `path`. */
VITRUN_API int vitrun_save_bytes(const char *path, const void *bytes, size_t size,
                                 vitrun_error *err);

#ifdef __cplusplus
}
#endif
#endif
