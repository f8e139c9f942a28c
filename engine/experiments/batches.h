/* Runs any number of image files through one or two contexts, batch by batch. With two, a batch is
 * read and preprocessed while the one before it computes: for devices that compute by themselves.
 *
 * Results arrive in the order of the files. A file that cannot be used, or whose result is not
 * finite, is handed on as a result with an error; the others still run.
 */
#ifndef VTE_BATCHES_H
#define VTE_BATCHES_H

#include "engine/vitrun.h"

typedef struct {
    const char *path;  /* "-": standard input */
    const char *error; /* not NULL: why it is bad, known before it was opened */
} vte_file;

typedef struct {
    size_t index;               /* of the file */
    const char *error;          /* the whole message, or NULL */
    const float *logits;        /* [outputs] */
    const float *features;      /* [width], where asked for */
    const float *tokens;        /* [tokens, width], where asked for */
    const float *intermediates; /* [intermediate_count, tokens, width], where the model has any */
} vte_result;

typedef struct {
    const vitrun_model *model;
    vitrun_context *context[2]; /* the second may be NULL */
    int batch; /* images a forward pass: at most what the contexts were opened for */
    int want_features, want_tokens;
    void *user;
    /* Called once a file, in order. -1 with err set stops the run. */
    int (*each)(void *user, const vte_result *result, vitrun_error *err);
    /* Called after each batch with the number of files done; may be NULL. -1 stops the run. */
    int (*after)(void *user, size_t done, vitrun_error *err);
    double preprocess_ms,
        forward_ms; /* out: sums; preprocess includes reading and decoding, forward is
                                         the time spent waiting for the device */
} vte_batches;

/* Floats of one image of a context's input. */
size_t vte_input_size(const vitrun_info *info);

/* Reads the picture at `path` into one image, `input`, of a context's input. Errors name it. */
int vte_image_read(const vitrun_model *model, const char *path, float *input, vitrun_error *err);

typedef struct {        /* where a file of a batch went */
    int row;            /* of the input; -1: it is bad */
    vitrun_error error; /* where bad: why */
} vte_slot;

/* Reads `count` files side by side; the good ones fill the first rows of `input`, in order. How many
 * those are; -1 with err set where the machine failed. slot: [count], out. */
int vte_images_read(const vitrun_model *model, const vte_file *files, int count, float *input,
                    vte_slot *slot, vitrun_error *err);

/* -1 with err set where the machine or a callback fails; bad files are not failures. */
int vte_batches_run(vte_batches *b, const vte_file *files, size_t count, vitrun_error *err);

#endif
