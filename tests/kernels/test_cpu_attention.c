/* Every attention kernel of the CPU, of every instruction set that the machine has, computes
 * masked softmax attention: against double precision, over masks, token counts, head dimensions
 * and types; into outputs and from scratch that are full of NaN; and the same bits for any number
 * of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tests/oracle.h"
#include "tests/support_mask.h"

enum { HEADS = 2, IMAGES = 2 };

/* ---- masks ---- */

typedef enum {
    M_NONE,
    M_FULL,
    M_EMPTY,
    M_SPARSE,
    M_HALF,
    M_HOLES,
    M_PREFIX,
    M_LOCAL,
    M_KINDS
} kind;

static table_mask *make_mask(int tokens, kind what)
{
    double density[M_KINDS] = {[M_SPARSE] = 0.05, [M_HALF] = 0.5, [M_HOLES] = 0.3};
    int prefix = tokens > 1, grid = tokens - prefix;
    int side = grid % 4 == 0 ? 4 : grid % 7 == 0 ? 7 : 1;
    table_mask *t =
        table_mask_random(prefix, side, grid / side, density[what], (unsigned)tokens + what);
    size_t n = (size_t)tokens;
    for (size_t q = 0; q < n; q++)
        for (size_t k = 0; k < n; k++) {
            bool *on = &t->on[q * n + k];
            if (what == M_FULL)
                *on = true;
            else if (what == M_HOLES) /* rows without keys, keys that nobody sees */
                *on = *on && q % 3 != 1 && k % 5 != 2;
            else if (what == M_PREFIX)
                *on = q == 0 || k == 0;
            else if (what == M_LOCAL)
                *on = q == 0 || k == 0 || (q > k ? q - k : k - q) < 5;
        }
    return t;
}

/* Tiles in an order of the test's own: slots shuffled, padding in the middle, every group listed by
 * every group, full tiles marked where they are. What the builder makes is a special case. */
static vt_tiles *shuffled_tiles(const table_mask *t)
{
    vt_status st;
    int n = t->mask.tokens, groups = (n + 12) / 13;
    vt_tiles *l = vt_alloc(1, sizeof *l, "tiles", &st);
    size_t tiles = (size_t)groups * (size_t)groups;
    l->tokens = n, l->groups = groups;
    l->token = vt_alloc((size_t)groups * VT_TILE, sizeof *l->token, "t", &st);
    l->start = vt_alloc((size_t)groups + 1, sizeof *l->start, "t", &st);
    l->tile = vt_alloc(tiles, sizeof *l->tile, "t", &st);
    l->bits_at = vt_alloc(tiles, sizeof *l->bits_at, "t", &st);
    l->bits = vt_alloc(tiles, sizeof *l->bits, "t", &st);
    for (int s = 0; s < groups * VT_TILE; s++)
        l->token[s] = -1;
    for (int token = 0; token < n; token++) { /* 7919 is prime: every spot is taken once */
        int spot = (int)((long)token * 7919 % (groups * 13)), within = spot % 13;
        l->token[spot / 13 * VT_TILE + (within < 6 ? within : within + 3)] = token;
    }
    for (int g = 0; g < groups; g++) {
        l->start[g] = (uint32_t)(g * groups);
        for (int h = 0; h < groups; h++) {
            size_t i = (size_t)(g * groups + h);
            bool full = true;
            for (int a = 0; a < VT_TILE; a++)
                for (int b = 0; b < VT_TILE; b++) {
                    int q = l->token[g * VT_TILE + a], k = l->token[h * VT_TILE + b];
                    bool on = q >= 0 && k >= 0 && t->on[(size_t)q * (size_t)n + (size_t)k];
                    full = full && (q < 0 || k < 0 || on);
                    l->bits[i][a] |= (uint16_t)(on << b);
                }
            l->tile[i] = (uint32_t)h | (full ? (uint32_t)VT_TILE_FULL : 0);
            l->bits_at[i] = (uint32_t)i;
        }
    }
    l->start[groups] = (uint32_t)tiles;
    return l;
}

typedef struct {
    table_mask *mask; /* NULL: no mask */
    vt_bitmap *bitmap;
    vt_tiles *tiles, *shuffled;
    vt_csr *csr;
} layouts;

static layouts make_layouts(int tokens, kind what)
{
    vt_status st = {VT_OK, ""};
    layouts l = {0};
    if (what == M_NONE)
        return l;
    l.mask = make_mask(tokens, what);
    l.bitmap = vt_bitmap_build(&l.mask->mask, 1, &st);
    l.tiles = vt_tiles_build(&l.mask->mask, 1, &st);
    l.shuffled = shuffled_tiles(l.mask);
    l.csr = vt_csr_build(&l.mask->mask, 1, &st);
    assert_true(l.bitmap && l.tiles && l.csr);
    return l;
}

static void free_layouts(layouts *l)
{
    if (l->mask)
        vt_mask_free(&l->mask->mask);
    vt_bitmap_free(l->bitmap);
    vt_tiles_free(l->tiles);
    vt_tiles_free(l->shuffled);
    vt_csr_free(l->csr);
}

/* ---- inputs, and what they must give ---- */

typedef struct {
    int tokens, head_dim;
    vt_dtype type;
    float *qkv;   /* [IMAGES * N, 3 * HEADS * head_dim], representable in the type */
    double *want; /* [IMAGES * N, HEADS * head_dim] */
    double error; /* of the plainest implementation in the same type */
} problem;

static void take_head(float *to, const problem *p, int image, int column)
{
    size_t d = (size_t)p->head_dim, n = (size_t)p->tokens, row = 3 * HEADS * d;
    for (size_t t = 0; t < n; t++)
        memcpy(to + t * d, p->qkv + ((size_t)image * n + t) * row + (size_t)column * d,
               d * sizeof *to);
}

/* Every fiftieth token's query is `stretch` times as long as the others. */
static problem make_stretched(int tokens, int head_dim, vt_dtype type, const table_mask *mask,
                              float stretch)
{
    problem p = {tokens, head_dim, type, NULL, NULL, 0};
    size_t n = (size_t)tokens, d = (size_t)head_dim, all = IMAGES * n * HEADS * d;
    p.qkv = malloc(3 * all * sizeof *p.qkv);
    p.want = malloc(all * sizeof *p.want);
    oracle_random(p.qkv, 3 * all, 1.5f, (unsigned)(tokens * 1000 + head_dim));
    for (size_t t = 0; t < IMAGES * n; t += 50)
        for (size_t i = 0; i < HEADS * d; i++)
            p.qkv[t * 3 * HEADS * d + i] *= stretch;
    if (type == VT_BF16)
        oracle_round_bf16(p.qkv, 3 * all);
    float *q = malloc(4 * n * d * sizeof *q), *k = q + n * d, *v = k + n * d, *plain = v + n * d;
    double *out = malloc(n * d * sizeof *out);
    for (int i = 0; i < IMAGES * HEADS; i++) {
        int image = i / HEADS, head = i % HEADS;
        take_head(q, &p, image, head);
        take_head(k, &p, image, HEADS + head);
        take_head(v, &p, image, 2 * HEADS + head);
        oracle_attention(out, q, k, v, mask ? mask->on : NULL, tokens, head_dim,
                         1 / sqrt((double)head_dim));
        plain_attention(plain, q, k, v, mask ? mask->on : NULL, tokens, head_dim,
                        1 / sqrtf((float)head_dim));
        if (type == VT_BF16)
            oracle_round_bf16(plain, n * d);
        p.error = fmax(p.error, oracle_error(plain, out, n * d));
        for (size_t t = 0; t < n; t++)
            memcpy(p.want + (((size_t)image * n + t) * HEADS + (size_t)head) * d, out + t * d,
                   d * sizeof *out);
    }
    free(q);
    free(out);
    return p;
}

static problem make_problem(int tokens, int head_dim, vt_dtype type, const table_mask *mask)
{
    return make_stretched(tokens, head_dim, type, mask, 1);
}

/* ---- running a plan ---- */

static vt_mat as_type(const float *x, vt_dtype type, size_t rows, int cols)
{
    size_t n = rows * (size_t)cols;
    vt_mat m = {malloc(n * vt_dtype_bytes(type) + 1), type, rows, cols};
    for (size_t i = 0; i < n; i++)
        if (type == VT_F32)
            ((float *)m.p)[i] = x[i];
        else
            ((uint16_t *)m.p)[i] = vt_f32_to_bf16(x[i]);
    return m;
}

/* All bits set is NaN in both types. Returns the output as floats [IMAGES * N, HEADS * d]. */
static float *run_plan(const problem *p, const vt_attn_plan *plan, const char *isa, int threads)
{
    vt_status st = {VT_OK, ""};
    vt_device *dev = vt_cpu_open_as(p->type, threads, isa, 0, &st);
    assert_non_null(dev);
    vt_stream *s = dev->ops->stream_open(dev, &st);
    size_t rows = IMAGES * (size_t)p->tokens;
    int width = HEADS * p->head_dim;
    vt_mat qkv = as_type(p->qkv, p->type, rows, 3 * width);
    vt_mat out = {malloc(vt_mat_bytes((vt_mat){NULL, p->type, rows, width})), p->type, rows, width};
    memset(out.p, 0xff, vt_mat_bytes(out));
    assert_int_equal(dev->ops->prepare_attention(s, out, qkv, plan, IMAGES, &st), 0);
    cpu_stream *cs = (cpu_stream *)s;
    assert_int_equal(cs->scratch_bytes, dev->ops->attention_scratch(dev, plan, IMAGES));
    memset(cs->scratch, 0xff, cs->scratch_bytes);
    dev->ops->attention(s, out, qkv, plan);
    assert_int_equal(dev->ops->finish(s, &st), 0);
    float *got = malloc(rows * (size_t)width * sizeof *got);
    assert_int_equal(dev->ops->download(dev, got, out, &st), 0);
    free(qkv.p);
    free(out.p);
    dev->ops->stream_close(s);
    dev->ops->close(dev);
    return got;
}

static vt_attn_group group_of(int heads, uint16_t *head, vt_attn_kernel kernel, const layouts *l)
{
    return (vt_attn_group){.heads = heads,
                           .head = head,
                           .kernel = kernel,
                           .bitmap = l->bitmap,
                           .tiles = l->tiles,
                           .csr = l->csr};
}

static vt_attn_plan plan_for(vt_attn_group *g, const problem *p, const layouts *l,
                             vt_attn_kernel kernel, uint16_t *heads)
{
    for (int h = 0; h < HEADS; h++)
        heads[h] = (uint16_t)h;
    *g = group_of(HEADS, heads, kernel, l);
    return (vt_attn_plan){.tokens = p->tokens,
                          .heads = HEADS,
                          .head_dim = p->head_dim,
                          .scale = 1 / sqrtf((float)p->head_dim),
                          .groups = 1,
                          .group = g};
}

/* Rounding of the result to bf16, and of a weight's product with a value and with 1 / sum to float,
 * is allowed on top: values are up to 5. */
static double limit(const problem *p)
{
    return 2 * p->error + (p->type == VT_F32 ? 6e-7 : 1e-6);
}

static void check_kernel(const problem *p, const layouts *l, vt_attn_kernel kernel, const char *isa,
                         int threads, const char *what)
{
    uint16_t heads[HEADS];
    vt_attn_group g;
    vt_attn_plan plan = plan_for(&g, p, l, kernel, heads);
    size_t n = IMAGES * (size_t)p->tokens * HEADS * (size_t)p->head_dim;
    float *got = run_plan(p, &plan, isa, threads);
    double error = oracle_error(got, p->want, n);
    if (!(error <= limit(p)))
        fail_msg("%s %s %s: N %d, head_dim %d, type %d, threads %d: error %g, at most %g", isa,
                 vt_attn_kernel_name(kernel), what, p->tokens, p->head_dim, p->type, threads, error,
                 limit(p));
    free(got);
}

static const char *const mask_name[M_KINDS] = {"no mask", "full",  "empty",  "5 %",
                                               "50 %",    "holes", "prefix", "local"};

static const char *const isas[] = {"generic", "neon", "avx2", "avx512"};

static bool have_isa(const char *isa)
{
    vt_status st;
    vt_device *dev = vt_cpu_open_as(VT_F32, 1, isa, 0, &st);
    if (dev)
        dev->ops->close(dev);
    return dev != NULL;
}

#define FOR_ISAS(isa)                                                                              \
    for (size_t isa##_i = 0; isa##_i < sizeof isas / sizeof *isas; isa##_i++)                      \
        for (const char *isa = isas[isa##_i]; isa && have_isa(isa); isa = NULL)

/* Every kernel of every instruction set on one problem. */
static void check_all(int tokens, int head_dim, vt_dtype type, kind what, int threads)
{
    layouts l = make_layouts(tokens, what), shuffled = l;
    shuffled.tiles = l.shuffled;
    problem p = make_problem(tokens, head_dim, type, l.mask);
    FOR_ISAS(isa)
    {
        check_kernel(&p, &l, VT_ATTN_DENSE, isa, threads, mask_name[what]);
        check_kernel(&p, &l, VT_ATTN_REFERENCE, isa, threads, mask_name[what]);
        if (what == M_NONE)
            continue;
        check_kernel(&p, &l, VT_ATTN_ROWS, isa, threads, mask_name[what]);
        check_kernel(&p, &l, VT_ATTN_TILES, isa, threads, mask_name[what]);
        check_kernel(&p, &shuffled, VT_ATTN_TILES, isa, threads, "shuffled tiles");
    }
    free(p.qkv);
    free(p.want);
    free_layouts(&l);
}

/* ---- the tests ---- */

static void all_masks_and_token_counts_give_attention(void **state)
{
    (void)state;
    const int few[8] = {1, 1, 2, 1, 1, 3, 1, 1}; /* threads that wait burn time */
    const int tokens[] = {1, 7, 15, 16, 17, 63, 64, 65, 197, 300};
    FOR_ISAS(isa)
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (int what = 0; what < M_KINDS; what++) {
            int n = tokens[i], head_dim = n >= 197 ? 16 : 64;
            check_all(n, head_dim, VT_F32, (kind)what, few[(i + (size_t)what) % 8]);
            if (n < 100)
                check_all(n, head_dim, VT_BF16, (kind)what, 1);
        }
}

static void all_head_dimensions_give_attention(void **state)
{
    (void)state;
    const int dims[] = {1, 2, 3, 8, 12, 24, 32, 48, 64, 72, 80, 88, 96, 104, 112, 128, 200};
    FOR_ISAS(isa)
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        check_all(50, dims[i], VT_F32, M_HALF, 2);
        check_all(37, dims[i], VT_BF16, M_LOCAL, 1);
        check_all(33, dims[i], VT_F32, M_NONE, 1);
    }
    check_all(20, 1024, VT_F32, M_HALF, 2);
}

static void a_plan_of_groups_serves_each_head_with_its_own_mask_and_kernel(void **state)
{
    (void)state;
    int n = 65, d = 24;
    layouts a = make_layouts(n, M_LOCAL), b = make_layouts(n, M_HALF);
    problem pa = make_problem(n, d, VT_F32, a.mask), pb = make_problem(n, d, VT_F32, b.mask);
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        uint16_t first = 1, second = 0;
        vt_attn_group g[2] = {group_of(1, &first, (vt_attn_kernel)k, &a),
                              group_of(1, &second, VT_ATTN_DENSE, &b)};
        vt_attn_plan plan = {.tokens = n,
                             .heads = HEADS,
                             .head_dim = d,
                             .scale = 1 / sqrtf((float)d),
                             .groups = 2,
                             .group = g};
        float *got = run_plan(&pa, &plan, NULL, 2);
        for (size_t r = 0; r < IMAGES * (size_t)n; r++) {
            size_t at = r * HEADS * (size_t)d;
            assert_true(oracle_error(got + at, pb.want + at, (size_t)d) <= limit(&pb));
            at += (size_t)d;
            assert_true(oracle_error(got + at, pa.want + at, (size_t)d) <= limit(&pa));
        }
        free(got);
    }
    free(pa.qkv), free(pa.want), free(pb.qkv), free(pb.want);
    free_layouts(&a);
    free_layouts(&b);
}

/* Long queries and short ones in one block, and threads that begin blocks elsewhere. */
static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    int n = 300, d = 64;
    const kind masks[] = {M_NONE, M_LOCAL};
    const double scores_rounding = 5e-5; /* of scores up to 700 */
    size_t bytes = IMAGES * (size_t)n * HEADS * (size_t)d * sizeof(float);
    for (int m = 0; m < 2; m++) {
        layouts l = make_layouts(n, masks[m]);
        problem p = make_stretched(n, d, VT_F32, l.mask, 20);
        FOR_ISAS(isa)
        for (int k = 0; k < (masks[m] == M_NONE ? VT_ATTN_TILES : VT_ATTN_KERNELS); k++) {
            uint16_t heads[HEADS];
            vt_attn_group g;
            vt_attn_plan plan = plan_for(&g, &p, &l, (vt_attn_kernel)k, heads);
            float *one = run_plan(&p, &plan, isa, 1);
            assert_true(oracle_error(one, p.want, bytes / sizeof(float)) < scores_rounding);
            for (int threads = 2; threads <= 5; threads += 3) {
                float *more = run_plan(&p, &plan, isa, threads);
                assert_memory_equal(one, more, bytes);
                free(more);
            }
            free(one);
        }
        free(p.qkv), free(p.want);
        free_layouts(&l);
    }
}

/* Scores far apart: weights underflow to 0, nothing becomes NaN. */
static void huge_scores_stay_finite(void **state)
{
    (void)state;
    layouts l = make_layouts(65, M_HOLES);
    problem p = make_problem(65, 32, VT_F32, l.mask);
    for (size_t i = 0; i < IMAGES * 65 * 3 * HEADS * 32; i++)
        p.qkv[i] *= 1e4f;
    FOR_ISAS(isa)
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        uint16_t heads[HEADS];
        vt_attn_group g;
        vt_attn_plan plan = plan_for(&g, &p, &l, (vt_attn_kernel)k, heads);
        float *got = run_plan(&p, &plan, isa, 1);
        for (size_t i = 0; i < IMAGES * 65 * HEADS * 32; i++) {
            assert_true(isfinite(got[i]));
            if (i / (HEADS * 32) % 65 % 3 == 1)
                assert_true(got[i] == 0);
        }
        free(got);
    }
    free(p.qkv), free(p.want);
    free_layouts(&l);
}

static void scratch_of_the_fused_kernels_does_not_grow_with_images(void **state)
{
    (void)state;
    vt_status st;
    vt_device *dev = vt_cpu_open(VT_F32, 2, &st);
    layouts l = make_layouts(197, M_LOCAL);
    problem p = {.tokens = 197, .head_dim = 64};
    for (int k = 0; k < VT_ATTN_KERNELS; k++) {
        uint16_t heads[HEADS];
        vt_attn_group g;
        vt_attn_plan plan = plan_for(&g, &p, &l, (vt_attn_kernel)k, heads);
        size_t one = dev->ops->attention_scratch(dev, &plan, 1);
        size_t many = dev->ops->attention_scratch(dev, &plan, 64);
        if (k == VT_ATTN_REFERENCE)
            assert_int_equal(many, 64 * sizeof(float) * HEADS * 197 * 197);
        else
            assert_int_equal(many, one);
    }
    dev->ops->close(dev);
    free_layouts(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_masks_and_token_counts_give_attention),
        cmocka_unit_test(all_head_dimensions_give_attention),
        cmocka_unit_test(a_plan_of_groups_serves_each_head_with_its_own_mask_and_kernel),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(huge_scores_stay_finite),
        cmocka_unit_test(scratch_of_the_fused_kernels_does_not_grow_with_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
