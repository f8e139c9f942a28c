/* What each instruction set provides, and the names under which isa_*.c define it. */
#ifndef VT_CPU_ISA_H
#define VT_CPU_ISA_H

#include "kernels/attention_weights.h"
#include "kernels/backend.h"

/* What one thread does at a time: some query tokens of one head of one image. */
typedef struct {
    const void *q, *k, *v; /* of token 0 */
    void *out;
    vt_dtype type;
    size_t step, out_step; /* elements from one token to the next, in qkv and in out */
    int tokens, head_dim;
    float scale;
    const vt_attn_group *group;
    const float *bias;        /* of this head: vt_attn_bias.table; NULL: none */
    const int32_t *row, *col; /* vt_attn_bias's */
    int first, last;          /* groups of 16 query slots (dense, tiles), or query tokens (rows) */
    float *scratch;           /* this thread's: vt_attend_panels_floats or vt_attend_rows_floats */
} vt_attn_item;

enum {
    VT_KEY_BLOCK = 8,   /* panels of 16 keys between two updates of the softmax */
    VT_QUERY_ROWS = 24, /* query rows taken together: whole register tiles, of 6 rows or of 8 */
    VT_SCORE_ROWS = 32, /* rows of scores in scratch: those, in whole vectors */
    VT_QUERY_BLOCKS = 4 /* of so many rows, that share a block of keys while it is in cache */
};

/* Head dimensions are padded to this in scratch: a multiple of every vector. */
static inline size_t vt_attn_padded(int head_dim)
{
    return ((size_t)head_dim + 15) / 16 * 16;
}

static inline size_t vt_attend_panels_floats(int groups, int head_dim)
{
    size_t d = vt_attn_padded(head_dim), keys = (size_t)groups * VT_TILE;
    size_t queries = (size_t)VT_QUERY_BLOCKS * VT_QUERY_ROWS * 2 * d; /* Q and O */
    return 2 * keys * d + keys + VT_SCORE_ROWS * VT_KEY_BLOCK * VT_TILE + queries;
}

static inline size_t vt_attend_rows_floats(int tokens, int head_dim)
{
    size_t d = vt_attn_padded(head_dim), n = (size_t)tokens;
    return 2 * n * d + (n + 15) / 16 * 16 + 2 * d;
}

/* ---- linear layers ----
 * Weights W [out, in] in panels of `columns` outputs: [panel][in][columns] floats, or, as bf16,
 * [panel][in / 2][columns][2] with two consecutive inputs side by side. Outputs and inputs that are
 * not there are zeros. x in strips of `rows` tokens: [strip][in][rows] floats. */
typedef struct {
    const float *x;    /* strips of the tokens of this tile */
    const void *w;     /* panels of the outputs of this tile */
    const float *bias; /* of the first output, padded to whole panels */
    vt_dtype w_type;
    int in, tokens, outputs; /* how many of this tile are real */
    void *y;                 /* first token and output */
    vt_dtype y_type;
    size_t y_row; /* elements from one token to the next */
    vt_epilogue epilogue;
    float *sums; /* scratch [strips * rows][panels * columns] */
} vt_gemm_tile;

typedef struct {
    const char *name;
    /* y = LayerNorm(x) over n columns, for one row; RMSNorm where beta is NULL; y may be x where
     * the types are equal. */
    void (*norm_row)(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,
                     const float *gamma, const float *beta, float eps);
    void (*attend_panels)(const vt_attn_item *item); /* dense and tiles */
    void (*attend_rows)(const vt_attn_item *item);
    /* y [n] = silu(x[0 .. n)) * x[n .. 2n), or x[0 .. n) - factor * x[n .. 2n) */
    void (*halves_row)(void *y, const void *x, vt_dtype type, int n, vt_halves how, float factor);
    /* one head of latent_pool: out [d] from n tokens whose k and v lie `step` elements apart */
    void (*latent_head)(void *out, const float *q, const void *k, const void *v, vt_dtype type,
                        int n, size_t step, int d, float *scores);
    /* the three steps of `reference` on one query token: a row of scores, then of weights */
    void (*reference_scores)(const vt_attn_item *item, int query, float *scores);
    void (*reference_softmax)(const vt_attn_item *item, int query, float *scores);
    void (*reference_product)(const vt_attn_item *item, int query, const float *weights);
    void (*attention_weights)(const vt_attn_weights *w);
    /* products: the shape of a register tile, packing, and a tile of y */
    int gemm_rows, gemm_columns;
    void (*pack_strip)(float *to, const void *x, vt_dtype type, size_t row, int tokens, int in);
    void (*pack_panel)(void *to, vt_dtype type, const float *w, int outputs, int in);
    void (*gemm_tile)(const vt_gemm_tile *tile);
    /* multiplies and adds in registers; returns the flops done: the peak, for measurements */
    double (*fma_loop)(long steps);
} vt_isa;

#define VT_ISA_DECLARE(isa)                                                                        \
    extern const vt_isa vt_isa_##isa;                                                              \
    void vt_norm_row_##isa(void *y, vt_dtype y_type, const void *x, vt_dtype x_type, int n,        \
                           const float *gamma, const float *beta, float eps);                      \
    void vt_attend_panels_##isa(const vt_attn_item *item);                                         \
    void vt_attend_rows_##isa(const vt_attn_item *item);                                           \
    void vt_halves_row_##isa(void *y, const void *x, vt_dtype type, int n, vt_halves how,          \
                             float factor);                                                        \
    void vt_latent_head_##isa(void *out, const float *q, const void *k, const void *v,             \
                              vt_dtype type, int n, size_t step, int d, float *scores);            \
    void vt_reference_scores_##isa(const vt_attn_item *item, int query, float *scores);            \
    void vt_reference_softmax_##isa(const vt_attn_item *item, int query, float *scores);           \
    void vt_reference_product_##isa(const vt_attn_item *item, int query, const float *weights);    \
    void vt_attention_weights_##isa(const vt_attn_weights *w);                                     \
    void vt_pack_strip_##isa(float *to, const void *x, vt_dtype type, size_t row, int tokens,      \
                             int in);                                                              \
    void vt_pack_panel_##isa(void *to, vt_dtype type, const float *w, int outputs, int in);        \
    void vt_gemm_tile_##isa(const vt_gemm_tile *tile);                                             \
    double vt_fma_loop_##isa(long steps);

VT_ISA_DECLARE(generic)
#if defined(__x86_64__)
VT_ISA_DECLARE(avx2)
VT_ISA_DECLARE(avx512)
#endif

#endif
