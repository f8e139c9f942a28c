/* What was measured is known again by the next run, and a file that is absent, foreign or not to be
 * written does no harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "kernels/tuned.h"

static char cache[64];

static vt_tuned *opened(const char *name)
{
    vt_status st;
    vt_tuned *t = vt_tuned_open(name, &st);
    assert_non_null(t);
    return t;
}

static int use_a_new_cache(void **state)
{
    (void)state;
    strcpy(cache, "/tmp/vitrun_tuned_XXXXXX");
    return mkdtemp(cache) ? setenv("XDG_CACHE_HOME", cache, 1) : -1;
}

static int remove_the_cache(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command);
}

static void the_next_run_knows_what_was_put(void **state)
{
    (void)state;
    vt_tuned *t = opened("Some GPU (80GB)");
    assert_null(vt_tuned_get(t, "a key"));
    assert_true(vt_tuned_put(t, "a key", "one"));
    assert_true(vt_tuned_put(t, "a key", "two"));
    assert_true(vt_tuned_put(t, "another", "x=1 y=2"));
    assert_string_equal(vt_tuned_get(t, "a key"), "two");
    vt_tuned_close(t);
    t = opened("Some GPU (80GB)");
    assert_string_equal(vt_tuned_get(t, "a key"), "two");
    assert_string_equal(vt_tuned_get(t, "another"), "x=1 y=2");
    assert_non_null(strstr(vt_tuned_path(t), "/vitrun/Some_GPU__80GB_.tuned"));
    vt_tuned_close(t);
    t = opened("another GPU");
    assert_null(vt_tuned_get(t, "a key"));
    vt_tuned_close(t);
}

static void looking_writes_nothing(void **state)
{
    (void)state;
    char folder[96];
    vt_tuned *t = opened("nobody");
    assert_null(vt_tuned_get(t, "k"));
    vt_tuned_close(t);
    snprintf(folder, sizeof folder, "%s/vitrun", cache);
    assert_int_not_equal(access(folder, F_OK), 0);
}

static void foreign_lines_are_passed_over(void **state)
{
    (void)state;
    vt_tuned *t = opened("gpu");
    assert_true(vt_tuned_put(t, "k", "v"));
    FILE *f = fopen(vt_tuned_path(t), "a");
    assert_non_null(f);
    fputs("\n\xff\xfe nonsense\nno equals sign\n = \nk2 = v2\nk = half a line", f);
    fclose(f);
    vt_tuned_close(t);
    t = opened("gpu");
    assert_string_equal(vt_tuned_get(t, "k"), "v");
    assert_string_equal(vt_tuned_get(t, "k2"), "v2");
    vt_tuned_close(t);
}

static void without_a_place_it_is_remembered_in_memory(void **state)
{
    (void)state;
    setenv("XDG_CACHE_HOME", "/dev/null", 1); /* no folder can be made there */
    vt_tuned *t = opened("gpu");
    assert_false(vt_tuned_put(t, "k", "v"));
    assert_string_equal(vt_tuned_get(t, "k"), "v");
    vt_tuned_close(t);
    setenv("XDG_CACHE_HOME", cache, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(looking_writes_nothing, use_a_new_cache, remove_the_cache),
        cmocka_unit_test_setup_teardown(the_next_run_knows_what_was_put, use_a_new_cache,
                                        remove_the_cache),
        cmocka_unit_test_setup_teardown(foreign_lines_are_passed_over, use_a_new_cache,
                                        remove_the_cache),
        cmocka_unit_test_setup_teardown(without_a_place_it_is_remembered_in_memory, use_a_new_cache,
                                        remove_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
