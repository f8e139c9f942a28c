/* The expression language: precedence, every error with its column, hostile texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/masks/masks.h"

static vt_masks *try_load(const char *text, vt_status *st)
{
    vt_mask_shape shape = {12, 12, 1, 14, 14};
    *st = (vt_status){VT_OK, ""};
    return vt_masks_load(NULL, &text, 1, &shape, 1, st);
}

static void hash_of(const char *text, uint64_t hash[2])
{
    vt_status st;
    vt_mask_stats s;
    vt_masks *m = try_load(text, &st);
    if (!m)
        fail_msg("%s: %s", text, st.text);
    assert_non_null(m->layer[0].group[0].mask);
    assert_int_equal(vt_mask_count(m->layer[0].group[0].mask, 1, &s, &st), 0);
    memcpy(hash, s.hash, sizeof s.hash);
    vt_masks_free(m);
}

static void same(const char *a, const char *b)
{
    uint64_t x[2], y[2];
    hash_of(a, x);
    hash_of(b, y);
    if (memcmp(x, y, sizeof x) != 0)
        fail_msg("%s is not %s", a, b);
}

static void different(const char *a, const char *b)
{
    uint64_t x[2], y[2];
    hash_of(a, x);
    hash_of(b, y);
    if (memcmp(x, y, sizeof x) == 0)
        fail_msg("%s is %s", a, b);
}

#define A "axial_2d()"
#define L "local_2d(distance=3)"
#define D "dilated_2d()"

static void not_binds_tighter_than_and_tighter_than_or(void **state)
{
    (void)state;
    same(A "|" L "&" D, A "|(" L "&" D ")");
    different(A "|" L "&" D, "(" A "|" L ")&" D);
    same("~" A "&" L, "(~" A ")&" L);
    different("~" A "&" L, "~(" A "&" L ")");
    same(A "&" L "|" D, "(" A "&" L ")|" D);
    same("~~" A, A);
    same(" ( ( " A " ) ) ", A);
}

static void boolean_laws_hold(void **state)
{
    (void)state;
    same("~(" A "|" L ")", "~" A "&~" L);
    same("~(" A "&" L ")", "~" A "|~" L);
    same(A "&(" L "|" D ")", A "&" L "|" A "&" D);
    same(A "|" A, A);
    same(A "&dense", A);
    same(A "|~dense", A);
    same(A "|" L "|" D, D "|" L "|" A);
}

static void arguments_are_json_values(void **state)
{
    (void)state;
    same("local_2d( distance = 3 , p = \"inf\" )", "local_2d(p=\"\\u0069nf\",distance=3e0)");
    same("global_tokens(tokens=[0, 1])", "global_tokens(tokens=[\n1,\t0])");
    same("random_from_probability(probability=local_2d_gaussian(sigma=2), nnz=50)",
         "random_from_probability(probability={\"type\": \"local_2d_gaussian\", \"sigma\": 2}, "
         "nnz=50)");
    same("random_from_probability(probability=local_2d_gaussian(), nnz=50)",
         "random_pattern_from_probability_matrix(nnz=50, seed=0, "
         "probability=local_2d_gausian_distribution(sigma=1.0))");
}

static const struct {
    const char *text, *error; /* after "--mask 'TEXT': " */
} errors[] = {
    {"", "column 1: expected a pattern, found the end"},
    {"   ", "column 4: expected a pattern, found the end"},
    {"axial_2d", "column 1: 'axial_2d' is a pattern type: write axial_2d()"},
    {"local_2d", "column 1: 'local_2d' is a pattern type: write local_2d(...)"},
    {"axail_2d", "column 1: unknown pattern 'axail_2d' (did you mean 'axial_2d()'?)"},
    {"locl_2d", "column 1: unknown pattern 'locl_2d' (did you mean 'local_2d(...)'?)"},
    {"axial_2d(", "column 10: expected NAME=VALUE, found the end"},
    {"axial_2d() near", "column 12: expected '|', '&' or the end, found 'n'"},
    {"axial_2d())", "column 11: expected '|', '&' or the end, found ')'"},
    {"axial_2d() | near", "column 14: unknown pattern 'near'"},
    {"densee", "column 1: unknown pattern 'densee' (did you mean 'dense'?)"},
    {"dense()", "column 1: unknown pattern type 'dense'"},
    {"axial_2d() | | dense", "column 14: expected a pattern, found '|'"},
    {"& dense", "column 1: expected a pattern, found '&'"},
    {"~", "column 2: expected a pattern, found the end"},
    {"~(~(axial_2d())", "column 16: expected '|', '&' or ')', found the end"},
    {"all: axial_2d() | \xc3\xa9", "column 19: expected a pattern, found '\xc3\xa9'"},
    {"\xc3\xa9 | x", "column 1: expected a pattern, found '\xc3\xa9'"},
    {"local_2d(distance=5 p=2)", "column 21: expected ',' or ')', found 'p'"},
    {"local_2d(distance 5)", "column 19: expected '=', found '5'"},
    {"local_2d(5)", "column 10: expected NAME=VALUE, found '5'"},
    {"local_2d(distance=5,)", "column 21: expected NAME=VALUE, found ')'"},
    {"local_2d(distance=)", "column 19: expected a value, found ')'"},
    {"local_2d(distance=[)",
     "column 19: not a JSON value such as 5, \"inf\" or [0, 1]: invalid token near ')'"},
    {"local_2d(distance=1e999)", "column 19: not a JSON value such as 5, \"inf\" or [0, 1]: real "
                                 "number overflow near '1e999'"},
    {"local_2d(distance=1e-999)", "column 19: the number is too small for double precision"},
    {"local_2d(distance=1e-310)", "column 19: the number is too small for double precision"},
    {"local_2d(distance=5, distance=6)", "column 22: the argument is given twice"},
    {"local_2d(type=\"x\")", "column 10: type is the constructor's own name"},
    {"local_2d()", "column 1: local_2d needs distance (expected a number > 0)"},
    {"dense | local_2d(distance=-1)",
     "column 18: local_2d: distance: expected a number > 0, found -1"},
    {"local_2d(distance=0)", "column 10: local_2d: distance: expected a number > 0, found 0"},
    {"local_2d(distance=true)", "column 10: local_2d: distance: expected a number > 0, found true"},
    {"local_2d(distance=5, p=\"Inf\")",
     "column 22: local_2d: p: expected a number > 0 or \"inf\", found \"Inf\""},
    {"local_2d(distance=5, p=0)",
     "column 22: local_2d: p: expected a number > 0 or \"inf\", found 0"},
    {"local_2d(distance=5, q=0)", "column 22: local_2d: q: local_2d has no parameter 'q'"},
    {"axial_2d(distance=5)", "column 10: axial_2d: distance: axial_2d has no parameter 'distance'"},
    {"swin(window_size=0)",
     "column 6: swin: window_size: expected an integer from 1 to 2147483647, found 0"},
    {"swin(window_size=2.0)",
     "column 6: swin: window_size: expected an integer from 1 to 2147483647, found 2.0"},
    {"dilated_2d(k=2147483648)", "column 12: dilated_2d: k: expected an integer from 1 to "
                                 "2147483647, found 2147483648"},
    {"strided_1d(stride=-1)",
     "column 12: strided_1d: stride: expected an integer from 1 to 2147483647, found -1"},
    {"local_1d(window_size=4)",
     "column 10: local_1d: window_size: expected an odd integer, found 4"},
    {"global_tokens(tokens=[0,196])", "column 15: global_tokens: tokens: expected a list of patch "
                                      "indexes from 0 to 195, found 196"},
    {"global_tokens(tokens=3)", "column 15: global_tokens: tokens: expected a list of patch "
                                "indexes from 0 to 195, found 3"},
    {"random()", "column 1: random needs either sparsity or nnz"},
    {"random(sparsity=0.5, nnz=3)", "column 1: random needs only one of sparsity and nnz"},
    {"random(sparsity=1)", "column 8: random: sparsity: expected a number >= 0 and < 1, found 1"},
    {"random(sparsity=-0.1)",
     "column 8: random: sparsity: expected a number >= 0 and < 1, found -0.1"},
    {"random(nnz=38417)",
     "column 8: random: nnz: expected an integer from 0 to 38416, found 38417"},
    {"random(nnz=1, seed=-1)", "column 15: random: seed: expected an integer from 0 to "
                               "9223372036854775807, found -1"},
    {"random_from_probability(nnz=3)",
     "column 1: random_from_probability needs probability (expected {\"type\": "
     "\"local_2d_gaussian\", \"sigma\": ...})"},
    {"random_from_probability(nnz=3, probability=local_2d_gaussian(sigma=0))",
     "column 32: random_from_probability: probability.sigma: expected a number > 0, found 0"},
    {"random_from_probability(nnz=3, probability=local_2d(distance=2))",
     "column 32: random_from_probability: probability.type: expected \"local_2d_gaussian\", found "
     "\"local_2d\""},
    {"dense & random_from_probability(probability=local_2d_gaussian(sigma=0.1), sparsity=0.5)",
     "column 9: 19208 pairs asked for, but only 1600 of 38416 have a non-zero weight with "
     "sigma=0.1 on 14x14 patches"},
    {"local_2d_gaussian(sigma=2)", "column 1: local_2d_gaussian is a probability, not a mask: it "
                                   "is what random_from_probability takes"},
    {"longformer()", "column 1: longformer needs block_size (expected an integer from 1 to "
                     "2147483647)"},
    {"bigbird(block_size=98, random_blocks=3)",
     "column 24: bigbird: random_blocks: expected an integer from 0 to 2, found 3"},
    {"blocks(block_size=98)", "column 1: blocks needs either layout or file"},
    {"blocks(block_size=98, layout=[[1,0],[1]])",
     "column 23: blocks: layout: expected 2 rows of 2 zeros and ones (196 patches in blocks of "
     "98), found [[1,0],[1]]"},
    {"blocks(block_size=98, layout=[[1,0],[1,2]])",
     "column 23: blocks: layout: expected 2 rows of 2 zeros and ones (196 patches in blocks of "
     "98), found [[1,0],[1,2]]"},
    {"file(path=3)", "column 6: file: path: expected a text, found 3"},
    {"0-12: dense", "layer 12: the model has layers 0 to 11"},
    {"1000000000000000000: dense", "layer 1000000000000000000: the model has layers 0 to 11"},
    {"7-3: dense", "the range 7-3 runs backwards"},
    {"3,1-4: dense", "layer 3 is named twice"},
    {"3,: dense", "expected layers such as 3 or 0-7 or 9,10 or 8- or all, found '3,'"},
    {"0-7 dense", "column 1: expected a pattern, found '0'"},
};

static void every_error_says_where_and_what(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char expected[600];
        vt_status st;
        snprintf(expected, sizeof expected, "--mask '%.120s': %s", errors[i].text, errors[i].error);
        assert_null(try_load(errors[i].text, &st));
        assert_string_equal(st.text, expected);
        assert_int_equal(st.code, VT_USAGE);
    }
}

static char *repeat(const char *before, const char *middle, const char *after, int n)
{
    size_t a = strlen(before), b = strlen(after);
    char *text = test_calloc((a + b) * (size_t)n + strlen(middle) + 1, 1), *end = text;
    for (int i = 0; i < n; i++, end += a)
        memcpy(end, before, a);
    memcpy(end, middle, strlen(middle));
    end += strlen(middle);
    for (int i = 0; i < n; i++, end += b)
        memcpy(end, after, b);
    return text;
}

static void refused(char *text, const char *why)
{
    vt_status st;
    assert_null(try_load(text, &st));
    if (!strstr(st.text, why))
        fail_msg("%s", st.text);
    test_free(text);
}

static void accepted(char *text)
{
    vt_status st;
    vt_masks *m = try_load(text, &st);
    if (!m)
        fail_msg("%s", st.text);
    vt_masks_free(m);
    test_free(text);
}

static void hostile_depth_and_size_are_refused(void **state)
{
    (void)state;
    accepted(repeat("(", A, ")", 32));
    refused(repeat("(", A, ")", 33), "column 33: nests too deeply (more than 32 levels)");
    refused(repeat("~", A, "", 20000), "nests too deeply");
    refused(repeat("~(", A "&" L, ")", 15000), "nests too deeply");
    accepted(repeat(A "|", A, "", 999));
    refused(repeat(A "&", A, "", 1000), "more than 1000 patterns are combined");
    refused(repeat(" ", A, "", 70000), "column 1: the expression is longer than 65536 bytes");
    refused(repeat("local_2d(distance=", "1", ")", 1000), "nests too deeply");
    refused(repeat("local_2d(distance=", "[[[[", "]", 1), "not a JSON value");
    refused(repeat("x", "", "", 64), "column 1: the name is longer than 63 characters");
    refused(repeat("x", "(", "", 64), "column 1: the name is longer than 63 characters");
}

/* Every cut of a long expression is refused or stands for something; none crashes. */
static void every_cut_of_an_expression_is_survived(void **state)
{
    (void)state;
    const char *text = "0-3, 5: ~(axial_2d() | local_2d(distance=2.5, p=\"inf\")) & "
                       "random_from_probability(probability=local_2d_gaussian(sigma=2), nnz=9)";
    size_t n = strlen(text);
    for (size_t cut = 0; cut < n; cut++) {
        char *part = test_calloc(cut + 1, 1); /* of exact size, for the sanitizer */
        vt_status st;
        memcpy(part, text, cut);
        vt_masks *m = try_load(part, &st);
        assert_true(m || st.text[0]);
        vt_masks_free(m);
        test_free(part);
    }
    accepted(repeat(text, "", "", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_binds_tighter_than_and_tighter_than_or),
        cmocka_unit_test(boolean_laws_hold),
        cmocka_unit_test(arguments_are_json_values),
        cmocka_unit_test(every_error_says_where_and_what),
        cmocka_unit_test(hostile_depth_and_size_are_refused),
        cmocka_unit_test(every_cut_of_an_expression_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
