/* Error texts, checked sizes, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/status.h"

static void failure_keeps_code_and_text(void **state)
{
    (void)state;
    vt_status st = {0};
    assert_int_equal(vt_fail(&st, VT_INPUT, "%s: bad (expected %d)", "file", 3), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_string_equal(st.text, "file: bad (expected 3)");
}

static void control_characters_cannot_break_the_line(void **state)
{
    (void)state;
    vt_status st = {0};
    vt_fail(&st, VT_INPUT, "a\nb\x1b[31m");
    assert_string_equal(st.text, "a?b?[31m");
}

static void long_texts_are_cut_not_overrun(void **state)
{
    (void)state;
    char big[2000];
    vt_status st = {0};
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    vt_fail(&st, VT_MACHINE, "%s", big);
    assert_int_equal(strlen(st.text), sizeof st.text - 1);
    vt_prefix(&st, "file");
    assert_int_equal(strlen(st.text), sizeof st.text - 1);
    assert_memory_equal(st.text, "file: xxx", 9);
}

static void a_long_path_does_not_swallow_the_reason(void **state)
{
    (void)state;
    char path[4096];
    vt_status st = {0};
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = 0;
    vt_fail(&st, VT_INPUT, "%s: cannot be opened", path);
    assert_int_equal(strlen(st.text), sizeof st.text - 1);
    assert_memory_equal(st.text, "ppp", 3);
    assert_non_null(strstr(st.text, "p...p"));
    assert_non_null(strstr(st.text, "p: cannot be opened"));
    vt_fail(&st, VT_INPUT, "bad");
    vt_prefix(&st, "%s: %s", path, path);
    vt_prefix(&st, "outer");
    assert_memory_equal(st.text, "outer: p", 8);
    assert_non_null(strstr(st.text, "p: bad"));
    for (size_t n = 1; n < 4; n++) { /* characters of two bytes stay whole */
        for (size_t i = n; i + 2 < sizeof path; i += 2)
            memcpy(path + i, "\xc3\xa4", 2);
        vt_fail(&st, VT_INPUT, "%s: bad", path);
        const char *dots = strstr(st.text, "...");
        assert_non_null(dots);
        assert_int_equal((unsigned char)dots[-1], 0xa4);
        assert_int_equal((unsigned char)dots[3], 0xc3);
    }
}

static void prefix_goes_before_the_text(void **state)
{
    (void)state;
    vt_status st = {0};
    vt_fail(&st, VT_INPUT, "inner");
    assert_int_equal(vt_prefix(&st, "outer %d", 1), -1);
    assert_string_equal(st.text, "outer 1: inner");
    assert_int_equal(st.code, VT_INPUT);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    size_t out = 7;
    assert_true(vt_mul(SIZE_MAX / 2, 2, &out));
    assert_int_equal(out, SIZE_MAX - 1);
    assert_false(vt_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_true(vt_mul(0, SIZE_MAX, &out));
    assert_int_equal(out, 0);
    assert_true(vt_add(SIZE_MAX, 0, &out));
    assert_false(vt_add(SIZE_MAX, 1, &out));
    vt_status st = {0};
    assert_null(vt_alloc(SIZE_MAX, 2, "thing", &st));
    assert_int_equal(st.code, VT_MACHINE);
    assert_non_null(strstr(st.text, "thing"));
    assert_null(vt_alloc(SIZE_MAX - 8, 1, "thing", &st));
}

static void memory_is_zeroed_and_aligned(void **state)
{
    (void)state;
    vt_status st = {0};
    for (size_t n = 0; n < 300; n += 37) {
        unsigned char *p = vt_alloc(n, 1, "bytes", &st);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        vt_free(p);
    }
}

static void more_memory_than_there_is_fails_cleanly(void **state)
{
    (void)state;
    vt_status st = {0};
    assert_null(vt_alloc((size_t)1 << 60, 1, "exabyte", &st));
    assert_int_equal(st.code, VT_MACHINE);
    assert_non_null(strstr(st.text, "exabyte: not enough memory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failure_keeps_code_and_text),
        cmocka_unit_test(control_characters_cannot_break_the_line),
        cmocka_unit_test(long_texts_are_cut_not_overrun),
        cmocka_unit_test(a_long_path_does_not_swallow_the_reason),
        cmocka_unit_test(prefix_goes_before_the_text),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(memory_is_zeroed_and_aligned),
        cmocka_unit_test(more_memory_than_there_is_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
