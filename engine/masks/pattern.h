/* Patterns: square boolean matrices given by a row function, the material that masks are made of.
 * For the files of engine/masks only.
 *
 * A pattern speaks of the P = grid_h * grid_w patches in row-major order; patch t is (t / grid_w,
 * t % grid_w) and nothing wraps at the edges. A mask file that covers the prefix tokens too is a
 * "whole" pattern of N rows. Patterns are immutable once built and belong to the vt_pattern_env
 * that built them; equal ones are built once.
 */
#ifndef VT_PATTERN_H
#define VT_PATTERN_H

#include <jansson.h>

#include "engine/masks/masks.h"

/* The bits [first, end) of a row, bit b at bits[(b - first) / 64]; first % 64 == 0. */
typedef struct {
    uint64_t *bits;
    int first, end;
} vt_span;

enum { VT_SPAN_WORDS = 128 }; /* rows are computed in spans of at most this many words */

typedef struct vt_pattern vt_pattern;

struct vt_pattern {
    int grid_h, grid_w;
    int size;      /* rows and columns: P, or N where whole */
    bool whole;    /* covers the prefix tokens too: no operators, no prefix policy */
    bool per_head; /* comes from a [heads, S, S] file: another head has another pattern */
    int depth;     /* of operators below and with this one */
    int cost;      /* row functions that one row calls */
    int id;        /* in order of creation; names it in the keys of operators */

    /* ORs the bits of row t that lie in the span into it. */
    void (*row)(const vt_pattern *p, int t, vt_span s);

    /* Parameters; each row function (pattern_rows.c) says which it reads. */
    int window, shift;
    int block, blocks; /* side of a block, blocks a side */
    int random_blocks;
    uint64_t seed;
    int32_t *half;  /* [grid_h] */
    uint64_t *bits; /* rows of `words` words */
    size_t words;
    vt_pattern **child;
    int children;
    const vt_mask *mask[4]; /* made of it, by prefix policy; NULL: none yet */
    vt_pattern *next;       /* in the environment's list of all */
};

/* ---- pattern_rows.c ---- */
void vt_row_all(const vt_pattern *p, int t, vt_span s);
void vt_row_ball(const vt_pattern *p, int t, vt_span s);
void vt_row_swin(const vt_pattern *p, int t, vt_span s);
void vt_row_dilated(const vt_pattern *p, int t, vt_span s);
void vt_row_local_1d(const vt_pattern *p, int t, vt_span s);
void vt_row_causal_1d(const vt_pattern *p, int t, vt_span s);
void vt_row_strided_1d(const vt_pattern *p, int t, vt_span s);
void vt_row_global(const vt_pattern *p, int t, vt_span s);
void vt_row_bits(const vt_pattern *p, int t, vt_span s);
void vt_row_blocks(const vt_pattern *p, int t, vt_span s);
void vt_row_longformer(const vt_pattern *p, int t, vt_span s);
void vt_row_bigbird(const vt_pattern *p, int t, vt_span s);
void vt_row_fixed(const vt_pattern *p, int t, vt_span s);
void vt_row_variable(const vt_pattern *p, int t, vt_span s);
void vt_row_or(const vt_pattern *p, int t, vt_span s);
void vt_row_and(const vt_pattern *p, int t, vt_span s);
void vt_row_not(const vt_pattern *p, int t, vt_span s);

/* The mask of N tokens that a pattern and a prefix policy make; it refers to the pattern. */
vt_mask *vt_mask_compose(const vt_pattern *p, int prefix, vt_prefix_policy policy, vt_status *st);

/* ---- random.c ---- */
uint64_t vt_random_mix(uint64_t x);                /* a bijection of 64 bits */
uint64_t vt_random_key(uint64_t seed, uint64_t i); /* a bijection of i for each seed */
double vt_random_log(double x);                    /* natural, x > 0, the same on every machine */

/* bits [P rows of vt_mask_words(P)], zero before: the nnz pairs of `seed`, uniformly. */
int vt_random_uniform(uint64_t *bits, int patches, int64_t nnz, uint64_t seed, int threads,
                      vt_status *st);
/* The same without replacement by the weights exp(-d^2 / (2 sigma^2)), d the distance on the grid. */
int vt_random_gaussian(uint64_t *bits, int grid_h, int grid_w, double sigma, int64_t nnz,
                       uint64_t seed, int threads, vt_status *st);

/* ---- mask_file.c ---- */
/* A boolean matrix from a file: non-zero is on. */
typedef struct {
    uint64_t *bits; /* [size] rows of vt_mask_words(size) */
    int size;
    bool per_head; /* the file holds [heads, S, S], and this is the slice of one head */
} vt_mask_matrix;

/* `sizes` lists the sides that fit, ended by 0; `fit` says in words what they must fit, for the
 * error. tensor may be NULL: the file's only one. head: which slice of [heads, S, S]. */
int vt_mask_file_load(vt_mask_matrix *out, const char *path, const char *tensor, const int *sizes,
                      const char *fit, int heads, int head, vt_status *st);

/* ---- pattern_env.c ---- */
typedef struct vt_pattern_env vt_pattern_env;

struct vt_pattern_env {
    vt_mask_shape shape;
    int threads;
    char *folder;    /* of the configuration, "" or ending in '/'; mask files are relative to it */
    json_t *named;   /* the document's "patterns" object, or NULL */
    int head;        /* for which head patterns are being built */
    bool check_only; /* check parameters, build nothing large, open no file */

    /* Set by the place that fails: the path of the fault inside the document, where it lies in
     * "patterns"; else keys == 0 and the fault is in the expression being built. */
    struct vt_fault {
        const char *key[8];
        int keys;
        bool at_key; /* the key itself is at fault, not its value */
    } fault;

    vt_pattern *all; /* every pattern, owned */
    int patterns;
    struct vt_memo **memo;           /* text -> pattern */
    const struct vt_visit *visiting; /* names whose patterns are being built */
};

int vt_pattern_env_open(vt_pattern_env *env, const vt_mask_shape *shape, int threads,
                        vt_status *st);
void vt_pattern_env_close(vt_pattern_env *env); /* also after a failed open */

/* Remembers patterns by text; NULL where unknown. */
vt_pattern *vt_memo_get(const vt_pattern_env *env, const char *key);
int vt_memo_put(vt_pattern_env *env, const char *key, vt_pattern *p, vt_status *st);

/* A pattern of the patches whose row function and parameters the caller sets. */
vt_pattern *vt_pattern_new(vt_pattern_env *env, vt_status *st);
vt_pattern *vt_pattern_all(vt_pattern_env *env, vt_status *st); /* every pair on: "dense" */
/* '|', '&': of two or more; '~': of one. */
vt_pattern *vt_pattern_combine(vt_pattern_env *env, char op, vt_pattern **child, int children,
                               vt_status *st);

/* ---- patterns.c ---- */
/* The pattern of {"type": ..., parameters}. On failure the text does not say where: `fault` holds
 * the keys from the object down to the parameter, none where the object itself is at fault. */
vt_pattern *vt_pattern_build(vt_pattern_env *env, json_t *spec, struct vt_fault *fault,
                             vt_status *st);

/* How a call of the type is written after its name: "()" or "(...)"; NULL for what is no type of
 * patterns or probabilities. Aliases too. */
const char *vt_pattern_arguments(const char *name);
/* All that an expression may name, NULL-terminated, for suggestions; free with vt_free. */
const char **vt_pattern_names(const vt_pattern_env *env, vt_status *st);

/* A value as compact JSON, cut to fit in messages; nothing for NULL. room > 4. */
void vt_json_text(const json_t *value, char *out, size_t room);

/* ---- mask_expr.c ---- */
/* The pattern of an expression. On failure the text starts with "column N: ", N counted from
 * `column` (1 for the expression's first character), unless env->fault names a place. */
vt_pattern *vt_expr_build(vt_pattern_env *env, const char *text, int column, vt_status *st);

#endif
