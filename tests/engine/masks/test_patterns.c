/* Every pattern type against its definition, written here anew over pairs of patches; exact counts;
 * prefix policies; operators. All through --mask texts, as a user would ask. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <string.h>
#include <cmocka.h>

#include "engine/masks/masks.h"
#include "tests/support_mask.h"

static vt_masks *load(const char *text, int prefix, int h, int w)
{
    vt_status st = {VT_OK, ""};
    vt_mask_shape shape = {1, 1, prefix, h, w};
    vt_masks *m = vt_masks_load(NULL, &text, 1, &shape, 2, &st);
    if (!m)
        fail_msg("%s: %s", text, st.text);
    return m;
}

static const vt_mask *only(const vt_masks *m)
{
    assert_int_equal(m->layer[0].groups, 1);
    assert_non_null(m->layer[0].group[0].mask);
    return m->layer[0].group[0].mask;
}

/* on[N * N] of a text's mask. */
static bool *table(const char *text, int prefix, int h, int w)
{
    vt_masks *m = load(text, prefix, h, w);
    const vt_mask *mask = only(m);
    size_t n = (size_t)mask->tokens;
    assert_int_equal(n, prefix + h * w);
    bool *on = test_calloc(n * n, sizeof *on);
    uint64_t *bits = test_calloc(vt_mask_words(mask->tokens), sizeof *bits);
    for (size_t q = 0; q < n; q++) {
        memset(bits, 0xa5, vt_mask_words(mask->tokens) * sizeof *bits); /* rows must be written */
        mask->row(mask, (int)q, bits);
        for (size_t k = 0; k < n; k++)
            on[q * n + k] = bits[k / 64] >> k % 64 & 1;
        if (n % 64)
            assert_int_equal(bits[n / 64] >> n % 64, 0);
    }
    test_free(bits);
    vt_masks_free(m);
    return on;
}

/* ---- definitions ---- */

typedef struct {
    int h, w, i, j, y, x, t, u; /* (i, j) = t sees (y, x) = u */
} pair;

static bool axial(pair p)
{
    return p.i == p.y || p.j == p.x;
}
static bool local_2(pair p)
{
    return hypot(p.i - p.y, p.j - p.x) < 2;
}
static bool local_5(pair p)
{
    return hypot(p.i - p.y, p.j - p.x) < 5; /* 3-4-5: hypot is exact there */
}
static bool local_root2(pair p)
{
    return (p.i - p.y) * (p.i - p.y) + (p.j - p.x) * (p.j - p.x) < 2;
}
static bool local_p1(pair p)
{
    return abs(p.i - p.y) + abs(p.j - p.x) < 3;
}
static bool local_pinf(pair p)
{
    return abs(p.i - p.y) < 3 && abs(p.j - p.x) < 3;
}
static bool local_p3(pair p)
{
    int a = abs(p.i - p.y), b = abs(p.j - p.x);
    return a * a * a + b * b * b < 27;
}
static bool local_phalf(pair p) /* (sqrt a + sqrt b)^2 < 9 <=> a + b + 2 sqrt(ab) < 9 */
{
    int a = abs(p.i - p.y), b = abs(p.j - p.x), rest = 9 - a - b;
    return rest > 0 && 4 * a * b < rest * rest;
}
static bool horizontal_1(pair p)
{
    return p.i == p.y;
}
static bool horizontal_2_5(pair p)
{
    return abs(p.i - p.y) <= 2;
}
static bool vertical_1(pair p)
{
    return p.j == p.x;
}
static bool vertical_2(pair p)
{
    return abs(p.j - p.x) < 2;
}
static bool swin_4(pair p)
{
    return p.i / 4 == p.y / 4 && p.j / 4 == p.x / 4;
}
static bool swin_4_1(pair p) /* s = 3 */
{
    return (p.i + 3) / 4 == (p.y + 3) / 4 && (p.j + 3) / 4 == (p.x + 3) / 4;
}
static bool swin_3_minus_1(pair p) /* s = 1 */
{
    return (p.i + 1) / 3 == (p.y + 1) / 3 && (p.j + 1) / 3 == (p.x + 1) / 3;
}
static bool dilated_2(pair p)
{
    return (p.i - p.y) % 2 == 0 && (p.j - p.x) % 2 == 0;
}
static bool dilated_3(pair p)
{
    return (p.i - p.y) % 3 == 0 && (p.j - p.x) % 3 == 0;
}
static bool band_5(pair p)
{
    return abs(p.t - p.u) <= 2;
}
static bool causal(pair p)
{
    return p.u <= p.t;
}
static bool strided_7(pair p)
{
    return (p.t - p.u) % 7 == 0;
}
static bool global_0_3(pair p)
{
    return p.t == 0 || p.u == 0 || p.t == 3 || p.u == 3;
}
static bool longformer_4(pair p)
{
    int r = p.t / 4, c = p.u / 4;
    return abs(r - c) <= 1 || r == 0 || c == 0;
}
static bool fixed_2(pair p)
{
    int r = p.t / 2, c = p.u / 2;
    return r / 4 == c / 4 || c % 4 == 3;
}
static bool fixed_3_2(pair p)
{
    int r = p.t / 3, c = p.u / 3;
    return r / 2 == c / 2 || c % 2 == 1;
}
static bool variable_2(pair p)
{
    int r = p.t / 2, c = p.u / 2;
    return r / 4 == c / 4 || c == 0;
}
static bool nothing(pair p)
{
    (void)p;
    return false;
}
static bool everything(pair p)
{
    (void)p;
    return true;
}
static bool mixture(pair p)
{
    return (axial(p) && !local_2(p)) || causal(p);
}
static bool both(pair p)
{
    return axial(p) && dilated_2(p) && !local_2(p);
}

static const struct {
    const char *text;
    bool (*sees)(pair);
} definitions[] = {
    {"axial_2d()", axial},
    {"axial_2d_pattern()", axial},
    {"local_2d(distance=2)", local_2},
    {"local_2d(distance=5)", local_5},
    {"local_2d(distance=5.0, p=2.0)", local_5},
    {"local_2d_pattern(p=2, distance=5)", local_5},
    {"local_2d(distance=1.4142135623730949)", local_root2},
    {"local_2d(distance=3, p=1)", local_p1},
    {"local_2d(distance=3, p=\"inf\")", local_pinf},
    {"local_2d(distance=3, p=1000)", local_pinf},
    {"local_2d(distance=3, p=3)", local_p3},
    {"local_2d(distance=9, p=0.5)", local_phalf},
    {"local_2d(distance=1e-200, p=\"inf\") | ~dense", NULL},
    {"local_2d(distance=1e-300)", NULL},
    {"local_2d(distance=1e300)", everything},
    {"horizontal_axial_2d()", horizontal_1},
    {"horizontal_axial_2d(distance=2.5)", horizontal_2_5},
    {"vertical_axial_2d()", vertical_1},
    {"vertical_axial_2d(distance=2)", vertical_2},
    {"swin(window_size=4)", swin_4},
    {"swin(window_size=4, shift_size=1)", swin_4_1},
    {"swin(window_size=4, shift_size=-3)", swin_4_1},
    {"swin_attention_pattern(window_size=4, shift_size=5)", swin_4_1},
    {"swin(window_size=3, shift_size=-1)", swin_3_minus_1},
    {"swin(window_size=2147483647)", everything},
    {"dilated_2d()", dilated_2},
    {"dilated_2d_pattern(k=3)", dilated_3},
    {"dilated_2d(k=1)", everything},
    {"dilated_2d(k=2147483647)", NULL},
    {"local_1d(window_size=5)", band_5},
    {"local_1d(window_size=2147483647)", everything},
    {"causal_1d()", causal},
    {"strided_1d(stride=7)", strided_7},
    {"strided_1d(stride=2147483647)", NULL},
    {"global_tokens(tokens=[0, 3, 3])", global_0_3},
    {"global_tokens(tokens=[])", nothing},
    {"longformer(block_size=4)", longformer_4},
    {"quick_bslongformer_layout(block_size=4)", longformer_4},
    {"longformer(block_size=2147483647)", everything},
    {"fixed(block_size=2)", fixed_2},
    {"fixed(block_size=3, window=2)", fixed_3_2},
    {"variable(block_size=2)", variable_2},
    {"bigbird(block_size=4, random_blocks=0)", longformer_4},
    {"bigbird(block_size=1, random_blocks=0) & causal_1d() & ~causal_1d()", nothing},
    {"~dense", nothing},
    {"~~dense & dense", everything},
    {"axial_2d() & ~local_2d(distance=2) | causal_1d()", mixture},
    {"axial_2d() & dilated_2d() & ~local_2d(distance=2)", both},
    {"~(~axial_2d() | ~dilated_2d() | local_2d(distance=2))", both},
    {"random(sparsity=0)", everything},
    {"random(nnz=0)", nothing},
};

static bool itself(pair p)
{
    return p.t == p.u;
}

static void check_definition(int which, int prefix, int h, int w)
{
    bool (*sees)(pair) = definitions[which].sees ? definitions[which].sees : itself;
    bool *on = table(definitions[which].text, prefix, h, w);
    int n = prefix + h * w;
    for (int t = 0; t < h * w; t++)
        for (int u = 0; u < h * w; u++) {
            pair p = {h, w, t / w, t % w, u / w, u % w, t, u};
            if (on[(t + prefix) * n + u + prefix] != sees(p))
                fail_msg("%s on %dx%d + %d: patch %d, %d", definitions[which].text, h, w, prefix, t,
                         u);
        }
    test_free(on);
}

static void rows_equal_the_definitions(void **state)
{
    (void)state;
    const int grid[][2] = {{5, 7}, {4, 4}, {2, 33}, {13, 2}, {8, 16}};
    for (size_t d = 0; d < sizeof definitions / sizeof definitions[0]; d++)
        for (int g = 0; g < 5; g++)
            check_definition((int)d, g, grid[g][0], grid[g][1]);
}

/* 96 x 96 = 9216 patches: rows longer than one span. */
static void long_rows_equal_the_definitions(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    vt_mask_shape shape = {1, 1, 3, 96, 96};
    const char *text = "axial_2d() & ~local_2d(distance=2) | causal_1d()";
    vt_masks *m = vt_masks_load(NULL, &text, 1, &shape, 1, &st);
    const vt_mask *mask = only(m);
    uint64_t *bits = test_calloc(vt_mask_words(mask->tokens), sizeof *bits);
    for (int t = 0; t < 9216; t += 331) {
        mask->row(mask, t + 3, bits);
        for (int u = 0; u < 9216; u++) {
            pair p = {96, 96, t / 96, t % 96, u / 96, u % 96, t, u};
            assert_int_equal(bits[(u + 3) / 64] >> (u + 3) % 64 & 1, mixture(p));
        }
        assert_int_equal(bits[0] & 7, 7);
    }
    test_free(bits);
    vt_masks_free(m);
}

static void one_patch_is_a_grid(void **state)
{
    (void)state;
    for (size_t d = 0; d < sizeof definitions / sizeof definitions[0]; d++)
        if (!strstr(definitions[d].text, "tokens="))
            check_definition((int)d, d % 2, 1, 1);
}

/* ---- counts ---- */

static int64_t count(const char *text, int prefix, int h, int w)
{
    vt_status st = {VT_OK, ""};
    vt_masks *m = load(text, prefix, h, w);
    vt_mask_stats s;
    assert_int_equal(vt_mask_count(only(m), 2, &s, &st), 0);
    vt_masks_free(m);
    return s.nnz;
}

static void counts_are_those_of_exact_arithmetic(void **state)
{
    (void)state;
    const struct {
        int h, w;
        const char *text;
        int64_t nnz, with_class;
    } golden[] = {
        {14, 14, "axial_2d()", 5292, 5685},
        {14, 14, "local_2d(distance=2)", 1600, 1993},
        {14, 14, "local_2d(distance=3)", 4096, 4489},
        {14, 14, "local_2d(distance=3, p=\"inf\")", 4096, 4489},
        {14, 14, "local_2d(distance=5)", 9956, 10349},
        {14, 14, "local_2d(distance=3, p=1)", 2272, 2665},
        {14, 14, "dilated_2d(k=2)", 9604, 9997},
        {14, 14, "axial_2d() | local_2d(distance=5)", 12476, 12869},
        {14, 14, "swin(window_size=7)", 9604, 9997},
        {14, 14, "swin(window_size=7, shift_size=3)", 5476, 5869},
        {16, 16, "axial_2d()", 7936, 8449},
        {16, 16, "local_2d(distance=5)", 13552, 14065},
        {20, 30, "axial_2d()", 29400, 30601},
        {20, 30, "local_2d(distance=5)", 34840, 36041},
        {20, 30, "axial_2d() | local_2d(distance=5)", 55040, 56241},
        {20, 30, "random(sparsity=0.95)", 18000, 19201},
        {28, 28, "axial_2d()", 43120, 44689},
        {28, 28, "local_2d(distance=5)", 46720, 48289},
        {28, 28, "axial_2d() | local_2d(distance=5)", 77632, 79201},
        {28, 28, "swin(window_size=7)", 38416, 39985},
        {28, 28, "swin(window_size=7, shift_size=3)", 29584, 31153},
    };
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        assert_int_equal(count(golden[i].text, 0, golden[i].h, golden[i].w), golden[i].nnz);
        assert_int_equal(count(golden[i].text, 1, golden[i].h, golden[i].w), golden[i].with_class);
    }
}

/* ---- properties ---- */

static void undirected_patterns_are_symmetric_and_hold_the_diagonal(void **state)
{
    (void)state;
    const char *texts[] = {"axial_2d()",
                           "local_2d(distance=2.5, p=1.7)",
                           "dilated_2d(k=3)",
                           "swin(window_size=3, shift_size=2)",
                           "local_1d(window_size=9)",
                           "strided_1d(stride=4)",
                           "longformer(block_size=3)"};
    for (int i = 0; i < 7; i++) {
        bool *on = table(texts[i], 1, 6, 9);
        for (int q = 0; q < 55; q++) {
            assert_true(on[q * 55 + q]);
            for (int k = 0; k < 55; k++)
                assert_int_equal(on[q * 55 + k], on[k * 55 + q]);
        }
        test_free(on);
    }
}

/* Upstream's literal: 8 x 8 blocks of fixed and variable layouts. */
static void block_layouts_are_the_known_matrices(void **state)
{
    (void)state;
    const char *fixed[8] = {"11110001", "11110001", "11110001", "11110001",
                            "00011111", "00011111", "00011111", "00011111"};
    const char *variable[8] = {"11110000", "11110000", "11110000", "11110000",
                               "10001111", "10001111", "10001111", "10001111"};
    bool *f = table("quick_fixed_layout(block_size=16)", 0, 8, 16);
    bool *v = table("quick_variable_layout(block_size=16)", 0, 8, 16);
    for (int q = 0; q < 128; q++)
        for (int k = 0; k < 128; k++) {
            assert_int_equal(f[q * 128 + k], fixed[q / 16][k / 16] == '1');
            assert_int_equal(v[q * 128 + k], variable[q / 16][k / 16] == '1');
        }
    test_free(f);
    test_free(v);
}

static void bigbird_adds_distinct_random_blocks_to_every_row(void **state)
{
    (void)state;
    for (int extra = 0; extra <= 20; extra += 5) {
        char text[80];
        snprintf(text, sizeof text, "bigbird(block_size=2, random_blocks=%d, seed=3)", extra);
        bool *on = table(text, 0, 5, 8), *base = table("longformer(block_size=2)", 0, 5, 8);
        for (int r = 0; r < 20; r++) {
            int added = 0, had = 0;
            for (int c = 0; c < 20; c++) {
                bool now = on[2 * r * 40 + 2 * c], before = base[2 * r * 40 + 2 * c];
                assert_true(now || !before);
                had += before;
                added += now && !before;
                for (int i = 0; i < 4; i++) /* blocks are whole */
                    assert_int_equal(on[(2 * r + i / 2) * 40 + 2 * c + i % 2], now);
            }
            assert_true(added <= extra);
            assert_true(added >= extra - had);
        }
        test_free(on);
        test_free(base);
    }
    assert_int_equal(count("bigbird(block_size=2, random_blocks=20)", 0, 5, 8), 1600);
    bool *a = table("bigbird(block_size=1, seed=1)", 0, 8, 8);
    bool *b = table("bigbird(block_size=1, seed=2)", 0, 8, 8);
    assert_memory_not_equal(a, b, 64 * 64);
    test_free(a);
    test_free(b);
}

static void blocks_follow_their_layout(void **state)
{
    (void)state;
    const int layout[3][3] = {{1, 0, 1}, {0, 0, 0}, {0, 1, 0}};
    bool *on = table("blocks(block_size=4, layout=[[1,0,true],[0,false,0],[0,1,0]])", 1, 2, 5);
    for (int q = 0; q < 10; q++)
        for (int k = 0; k < 10; k++)
            assert_int_equal(on[(q + 1) * 11 + k + 1], layout[q / 4][k / 4]);
    test_free(on);
}

/* ---- prefix ---- */

static vt_masks *with_policy(const char *policy, int prefix)
{
    vt_status st = {VT_OK, ""};
    vt_mask_shape shape = {1, 1, prefix, 3, 25};
    char path[] = "/tmp/vitrun_prefix_XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    fprintf(f, "{\"prefix\": \"%s\", \"layers\": {\"0\": \"axial_2d()\"}}", policy);
    fclose(f);
    vt_masks *m = vt_masks_load(path, NULL, 0, &shape, 1, &st);
    remove(path);
    if (!m)
        fail_msg("%s", st.text);
    return m;
}

static void prefix_policies_add_what_they_say(void **state)
{
    (void)state;
    const struct {
        const char *name;
        bool rows, columns;
    } policy[] = {{"full", true, true},
                  {"rows", true, false},
                  {"columns", false, true},
                  {"none", false, false}};
    for (int p = 0; p < 4; p++)
        for (int x = 0; x <= 70; x += x < 5 ? 1 : 13) {
            vt_masks *m = with_policy(policy[p].name, x);
            const vt_mask *mask = only(m);
            int64_t nnz = 0;
            for (int q = 0; q < x + 75; q++)
                for (int k = 0; k < x + 75; k++) {
                    int t = q - x, u = k - x;
                    pair s = {3, 25, t / 25, t % 25, u / 25, u % 25, t, u};
                    bool on = q < x && k < x ? true
                              : q < x        ? policy[p].rows
                              : k < x        ? policy[p].columns
                                             : axial(s);
                    nnz += on;
                    assert_int_equal(mask_pair(mask, q, k), on);
                }
            assert_int_equal(nnz, 75 * 27 + x * x + (policy[p].rows + policy[p].columns) * x * 75);
            vt_masks_free(m);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_definitions),
        cmocka_unit_test(long_rows_equal_the_definitions),
        cmocka_unit_test(one_patch_is_a_grid),
        cmocka_unit_test(counts_are_those_of_exact_arithmetic),
        cmocka_unit_test(undirected_patterns_are_symmetric_and_hold_the_diagonal),
        cmocka_unit_test(block_layouts_are_the_known_matrices),
        cmocka_unit_test(bigbird_adds_distinct_random_blocks_to_every_row),
        cmocka_unit_test(blocks_follow_their_layout),
        cmocka_unit_test(prefix_policies_add_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
