/* JSON texts: what is taken and refused, and that jansson takes and refuses the same. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "weights_tools/json_decode.h"

static json_t *decode(const char *text, size_t size, size_t flags, json_error_t *error)
{
    char *exact = malloc(size ? size : 1); /* so that a byte too far is noticed */
    memcpy(exact, text, size);
    json_t *value = vt_json_decode(exact, size, flags, error);
    free(exact);
    return value;
}

static void wrong_texts_are_refused_with_reason_and_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        int line, column;
    } cases[] = {
        {"", "unexpected token near end of file", 1, 0},
        {"{", "string or '}' expected near end of file", 1, 1},
        {"{\"a\" 1}", "':' expected near '1'", 1, 6},
        {"{\"a\": 1,}", "string expected near '}'", 1, 9},
        {"{\"a\": 1 \"b\"}", "'}' expected near '\"b\"'", 1, 11},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key near '\"a\"'", 1, 12},
        {"{\"\xc3\xa4\": 1\n, x}", "string expected near 'x'", 2, 3},
        {"[1 2]", "']' expected near '2'", 1, 4},
        {"[1,]", "unexpected token near ']'", 1, 4},
        {"[1] ,", "end of file expected near ','", 1, 5},
        {"nul", "invalid token near 'nul'", 1, 3},
        {"\xff", "invalid token near '\xff'", 0, 0},
        {"-", "invalid token near '-'", 1, 1},
        {"1.", "invalid token", 0, 0},
        {"1.e1", "invalid token", 0, 0},
        {"1e", "invalid token", 0, 0},
        {"1e+", "invalid token", 0, 0},
        {"01", "end of file expected near '1'", 1, 2},
        {"9223372036854775808", "too big integer near '9223372036854775808'", 1, 19},
        {"-9223372036854775809", "too big negative integer near '-9223372036854775809'", 1, 20},
        {"1e999", "real number overflow near '1e999'", 1, 5},
        {"-1e999", "real number overflow near '-1e999'", 1, 6},
        {"\"abc", "premature end of input near end of file", 1, 4},
        {"\"a\\", "invalid escape", 0, 0},
        {"\"a\\x\"", "invalid escape", 0, 0},
        {"\"a\\\"", "premature end of input", 0, 0},
        {"\"a\nb\"", "unexpected newline", 0, 0},
        {"\"a\tb\"", "control character 0x9", 0, 0},
        {"\"\x80\"", "unable to decode byte 0x80", 0, 0},
        {"\"\\u12\"", "invalid Unicode escape", 0, 0},
        {"\"\\u12g4\"", "invalid Unicode escape", 0, 0},
        {"\"\\u", "invalid Unicode escape", 0, 0},
        {"\"\\u0000\"", "\\u0000 is not allowed", 0, 0},
        {"\"\\ud800\"", "half of a surrogate pair", 0, 0},
        {"\"\\ud800\\n\"", "half of a surrogate pair", 0, 0},
        {"\"\\ud800\\u0041\"", "half of a surrogate pair", 0, 0},
        {"\"\\ud800\\uxxxx\"", "half of a surrogate pair", 0, 0},
        {"\"\\udc00\"", "half of a surrogate pair", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_error_t e;
        assert_null(decode(cases[i].text, strlen(cases[i].text), JSON_DECODE_ANY, &e));
        bool printable = !strchr(cases[i].message, (char)0xff);
        if (printable && !strstr(e.text, cases[i].message))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].text, e.text, cases[i].message);
        if (cases[i].line && (e.line != cases[i].line || e.column != cases[i].column))
            fail_msg("%s: %d:%d", cases[i].text, e.line, e.column);
        assert_false(vt_json_no_memory(&e));
    }
}

static void only_containers_are_documents_unless_any_value_may_be_one(void **state)
{
    (void)state;
    json_error_t e;
    assert_null(decode("1", 1, 0, &e));
    assert_string_equal(e.text, "'[' or '{' expected near '1'");
    assert_null(decode("", 0, 0, &e));
    assert_string_equal(e.text, "'[' or '{' expected near end of file");
    json_t *value = decode("[]", 2, 0, &e);
    assert_true(json_is_array(value));
    json_decref(value);
}

static void what_follows_a_value_may_be_left(void **state)
{
    (void)state;
    json_error_t e;
    json_t *value = decode(" 12, x", 6, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &e);
    assert_int_equal(json_integer_value(value), 12);
    assert_int_equal(e.position, 3);
    json_decref(value);
}

static void nesting_ends_before_the_stack_does(void **state)
{
    (void)state;
    enum { DEEP = 100000 };
    json_error_t e;
    char *text = malloc(DEEP);
    memset(text, '[', DEEP);
    assert_null(decode(text, DEEP, 0, &e));
    assert_non_null(strstr(e.text, "maximum parsing depth reached"));
    memset(text + 2048, ']', 2048);
    json_t *value = decode(text, 4096, 0, &e);
    assert_non_null(value);
    json_decref(value);
    free(text);
}

static void strings_numbers_and_words_have_their_values(void **state)
{
    (void)state;
    json_error_t e;
    static const char text[] =
        "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20AC\\ud834\\udd1e\", -0, "
        "-1.5e2, 1E+2, 123456789012345678901234567890123456789012345678901234567890"
        "12345678901234567890.5, true, false, null]";
    json_t *v = decode(text, sizeof text - 1, 0, &e);
    assert_non_null(v);
    assert_string_equal(json_string_value(json_array_get(v, 0)),
                        "\"\\/\b\f\n\r\tA\xc3\xa4\xe2\x82\xac\xf0\x9d\x84\x9e");
    assert_true(json_is_integer(json_array_get(v, 1)));
    assert_true(json_real_value(json_array_get(v, 2)) == -150);
    assert_true(json_real_value(json_array_get(v, 3)) == 100);
    assert_true(json_real_value(json_array_get(v, 4)) == 1.2345678901234568e79);
    assert_true(json_is_true(json_array_get(v, 5)) && json_is_false(json_array_get(v, 6)) &&
                json_is_null(json_array_get(v, 7)));
    json_decref(v);
}

/* Texts by small changes to good ones: the two readers agree on each. */
static void jansson_takes_and_refuses_the_same(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        "{\"a\": [1, 2.5e-3, -0, true, false, null], \"b\\n\\u00e4\": {\"\": \"x\\\\y\"}}",
        "[\"\\ud834\\udd1e\", \"\xc3\xa4\xe2\x82\xac\", 1E+2, {\"k\": [[], {}]}]", "-12.75e+1"};
    static const char bytes[] = "{}[]\",:\\u0dD8cC91e-+.tfn \n\t\xc3\xa4\xff";
    uint32_t seed = 1;
    int taken = 0, runs = 300000;
    for (int i = 0; i < runs; i++) {
        char text[128];
        const char *from = seeds[i % 3];
        size_t size = strlen(from);
        memcpy(text, from, size);
        for (int k = 0; k < 1 + i % 4; k++) {
            seed = seed * 1664525u + 1013904223u;
            size_t at = (seed >> 8) % size;
            if (seed >> 30 == 0 && size > 1)
                memmove(text + at, text + at + 1, --size - at);
            else
                text[at] = bytes[(seed >> 18) % (sizeof bytes - 1)];
        }
        json_error_t mine, theirs;
        json_t *a = decode(text, size, JSON_DECODE_ANY, &mine);
        json_t *b = json_loadb(text, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &theirs);
        if (!a != !b || (a && !json_equal(a, b)))
            fail_msg("%.*s: ours \"%s\", jansson's \"%s\"", (int)size, text, a ? "" : mine.text,
                     b ? "" : theirs.text);
        taken += a != NULL;
        json_decref(a);
        json_decref(b);
    }
    print_message("%d of %d texts are JSON\n", taken, runs);
    assert_true(taken > runs / 100 && taken < runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_texts_are_refused_with_reason_and_place),
        cmocka_unit_test(only_containers_are_documents_unless_any_value_may_be_one),
        cmocka_unit_test(what_follows_a_value_may_be_left),
        cmocka_unit_test(nesting_ends_before_the_stack_does),
        cmocka_unit_test(strings_numbers_and_words_have_their_values),
        cmocka_unit_test(jansson_takes_and_refuses_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
