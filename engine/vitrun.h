/* vitrun: Vision Transformer inference with sparse attention. The whole public interface.
 *
 * A model is opened once and then only read; several threads may use one model, each with a context
 * of its own. The library never prints, exits, or keeps global state. Functions that can fail
 * return 0 or -1 (or a pointer or NULL) and fill a vitrun_error; on failure outputs are undefined
 * unless said otherwise. Structures that a caller fills begin with their size, which must be that
 * of the library's own version of this header: start from the matching _init function. `err` must
 * not be NULL. Strings and arrays that a function returns through `const` pointers belong to the
 * handle they came from and live as long.
 *
 *     vitrun_options o;
 *     vitrun_error err;
 *     vitrun_options_init(&o);
 *     o.weights = "vit.safetensors";
 *     vitrun_model *m = vitrun_open(&o, &err);
 *     vitrun_context *c = vitrun_context_open(m, 1, &err);
 *     vitrun_image img;
 *     vitrun_image_load(&img, "cat.png", &err);
 *     float *in = vitrun_context_input(c), *logits = malloc(vitrun_info_get(m)->outputs * 4);
 *     vitrun_preprocess(m, &img, in, &err);
 *     vitrun_outputs out = {.logits = logits};
 *     vitrun_forward(c, 1, &out, &err);
 */
#ifndef VITRUN_H
#define VITRUN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VITRUN_VERSION "0.1.0"

#if defined(__GNUC__)
#define VITRUN_API __attribute__((visibility("default")))
#else
#define VITRUN_API
#endif

/* ---- errors ---- */
typedef enum { /* also the exit statuses of the program */
               VITRUN_OK = 0,
               VITRUN_MACHINE = 1, /* memory, disk, device, a read that fails after opening */
               VITRUN_USAGE = 2,   /* an option's value is wrong, an impossible combination */
               VITRUN_INPUT = 3    /* a given file is absent, broken, or does not fit */
} vitrun_code;

typedef struct {
    vitrun_code code;
    char message[512]; /* one line: FILE: what is wrong (where; expected, found) */
} vitrun_error;

VITRUN_API const char *vitrun_version(void); /* of the library: VITRUN_VERSION when it was built */

/* One line about the build: compiler, instruction sets, matrix library, image decoders. */
VITRUN_API const char *vitrun_build_info(void);

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
    const char *kernel; /* force: "reference", "dense", "sparse", "tiles", "rows"; NULL */
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
} vitrun_options;

/* The device that a model would be opened on with these two options: "cpu" or "cuda"; NULL with err
 * set where it would not. */
VITRUN_API const char *vitrun_device_found(const char *device, const char *dtype,
                                           vitrun_error *err);

typedef struct vitrun_model vitrun_model;

VITRUN_API void vitrun_options_init(vitrun_options *options);
VITRUN_API vitrun_model *vitrun_open(const vitrun_options *options, vitrun_error *err);
VITRUN_API void vitrun_close(vitrun_model *model); /* NULL is fine; close its contexts first */

/* The same weights under other masks, without loading them again. Of the options only masks,
 * threshold, dispatch, kernel, batch (0: the model's), max_memory, intermediates and
 * tokens count; `weights`
 * must be set, but is not read. Close a variant before `model`; variants of one model are opened and closed by
 * one thread at a time. */
VITRUN_API vitrun_model *vitrun_variant(const vitrun_model *model, const vitrun_options *options,
                                        vitrun_error *err);

/* ---- what a model is ---- */
typedef struct { /* a switch of the forward pass or the preprocessing, and where it was learnt */
    const char *name, *value, *origin;
} vitrun_fact;

typedef struct {
    size_t size;
    const char *architecture;
    int layers, heads, head_dim, width, hidden;
    int tokens, prefix_tokens, grid_h, grid_w;
    int image_height, image_width, channels;
    int classes; /* 0: no head */
    int outputs; /* length of the logits: classes, or the features' where classes is 0 */
    uint64_t parameters;
    const char *device, *dtype;
    int threads;
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
VITRUN_API const char *vitrun_label(const vitrun_model *model, int index); /* NULL: unknown */

/* Prints nothing: fills the i-th supported architecture. Returns 0, or -1 when i is past the end. */
typedef struct {
    const char *name;
    int layers, heads, width, image_height, image_width, patch;
    char parts[200];     /* what it has beyond, or lacks of, the plain ViT; "" for that */
    const char *missing; /* NULL: supported; else the switch that vitrun lacks */
} vitrun_architecture;
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
    int tokens, empty_rows, row_min, row_max;
    double row_mean, density;
    int64_t nnz;
    double occupancy[3]; /* share of 16, 32, 64 wide square tiles with a pair on */
    double threshold;
    const char *kernel, *reason;
    double predicted_ms;
    const vitrun_candidate *candidates;
    int candidate_count;
    uint64_t mask_bytes; /* of the layout that the kernel reads (shared by equal masks) */
    uint64_t work_bytes; /* of the kernel's scratch memory at the planned batch */
} vitrun_layer;

VITRUN_API int vitrun_layer_count(const vitrun_model *model);
VITRUN_API const vitrun_layer *vitrun_layer_at(const vitrun_model *model, int i);
VITRUN_API int vitrun_warning_count(const vitrun_model *model); /* e.g. masks with empty rows */
VITRUN_API const char *vitrun_warning_at(const vitrun_model *model, int i);

/* ---- memory, planned: what a context of `batch` images will hold ---- */
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

/* PNG or JPEG; the content decides. "-" is standard input. Free with vitrun_image_free. */
VITRUN_API int vitrun_image_load(vitrun_image *image, const char *path, vitrun_error *err);
VITRUN_API int vitrun_image_decode(vitrun_image *image, const void *bytes, size_t size,
                                   const char *name, vitrun_error *err);
VITRUN_API void vitrun_image_free(vitrun_image *image);
VITRUN_API int vitrun_png_write(const char *path, const uint8_t *rgb, int width, int height,
                                vitrun_error *err);

/* The model's eval transform: out [channels, image_height, image_width]. */
VITRUN_API int vitrun_preprocess(const vitrun_model *model, const vitrun_image *image, float *out,
                                 vitrun_error *err);

/* ---- running ---- */
typedef struct vitrun_context vitrun_context;

/* A place to run up to `batch` images at a time. Allocates everything that a forward needs. */
VITRUN_API vitrun_context *vitrun_context_open(const vitrun_model *model, int batch,
                                               vitrun_error *err);
VITRUN_API void vitrun_context_close(vitrun_context *context); /* NULL is fine */

/* The input buffer [batch, channels, image_height, image_width], to be filled by the caller. */
VITRUN_API float *vitrun_context_input(vitrun_context *context);

typedef struct {     /* each may be NULL; caller's memory, fp32 */
    float *logits;   /* [count, outputs] */
    float *features; /* [count, width]: pooled, before the head (timm's pre_logits) */
    float *tokens; /* [count, tokens, width]: after the final norm (timm's forward_features); needs
                        vitrun_options.tokens */
    float *intermediates; /* [count, intermediate_count, tokens, width]: what these blocks give
                             (timm's forward_intermediates), prefix tokens first */
} vitrun_outputs;

/* Runs the first `count` images of the input buffer. Non-finite results are an error
 * (VITRUN_INPUT) that names the first layer that produced them. */
VITRUN_API int vitrun_forward(vitrun_context *context, int count, const vitrun_outputs *out,
                              vitrun_error *err);

/* The same in two steps: submit starts the forward and returns, on a GPU before it is done; until
 * wait has returned, the context's input must stay as it is. With two contexts, one can be filled
 * while the other computes. */
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
 * its operations are waited for one by one. */
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

/* Called from several threads at once, but never for the same query of one layer and head; for that,
 * in the order of images. */
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

/* Runs the first `count` images of the context's input. NULL with err set on failure. */
VITRUN_API vitrun_check *vitrun_check_run(vitrun_context *context, int count, vitrun_error *err);
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
    int threads;
} vitrun_mask_options;

typedef struct vitrun_masks vitrun_masks;

VITRUN_API void vitrun_mask_options_init(vitrun_mask_options *options);
VITRUN_API vitrun_masks *vitrun_masks_open(const vitrun_mask_options *options, vitrun_error *err);
/* The masks of a model; valid as long as the model. Free it, too. */
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
VITRUN_API const vitrun_layer *vitrun_attention_layer(const vitrun_attention *attention);
VITRUN_API int vitrun_attention_prefix(const vitrun_attention *attention);
/* Where it runs, and in which arithmetic. */
VITRUN_API const char *vitrun_attention_device(const vitrun_attention *attention,
                                               const char **dtype);
/* Runs the named kernel `calls` times, one after the other, on fixed random q, k, v; *ms is the time
 * of one. */
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
    void (*progress)(void *user, int done, int total); /* called between measurements; or NULL */
    void *user;
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
VITRUN_API void vitrun_tuning_free(vitrun_tuning *tuning); /* NULL is fine */
VITRUN_API const vitrun_tuning_summary *vitrun_tuning_get(const vitrun_tuning *tuning);
VITRUN_API void vitrun_tuning_constant(const vitrun_tuning *tuning, int i, vitrun_constant *out);
VITRUN_API void vitrun_tuning_sample_at(const vitrun_tuning *tuning, int i,
                                        vitrun_tuning_sample *out);
/* From now on models and attentions of this device, type and head size are planned with the measured
 * constants. *path: the file in the user's cache folder that keeps them; delete it to go back. Fails
 * (VITRUN_MACHINE) where the file cannot be written, and where the times contradict each other so
 * much that something must have disturbed them. */
VITRUN_API int vitrun_tuning_keep(vitrun_tuning *tuning, const char **path, vitrun_error *err);

/* ---- arrays and tensors on disk: .npy or .safetensors by the path's ending; whole or not ---- */
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
