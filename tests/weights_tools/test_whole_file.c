/* Output files: whole or not at all, behind links, under long names. */
#include "weights_tools/whole_file.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/vitrun-test-XXXXXX";
static char path[400];

static const char *at(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int put(const char *file, const char *a, const char *b, vt_status *st)
{
    const vt_file_part part[] = {{a, strlen(a)}, {b, strlen(b)}};
    *st = (vt_status){0};
    return vt_write_file(file, part, 2, st);
}

static void holds(const char *name, const char *want)
{
    char text[64] = "";
    FILE *f = fopen(at(name), "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    assert_string_equal(text, want);
}

static int entries(void)
{
    int count = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count - 2; /* . and .. */
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[80];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void parts_follow_each_other_and_nothing_else_is_left(void **state)
{
    (void)state;
    vt_status st;
    int before = entries();
    assert_int_equal(put(at("plain"), "one", "two", &st), 0);
    holds("plain", "onetwo");
    assert_int_equal(put(at("plain"), "", "x", &st), 0);
    holds("plain", "x");
    assert_int_equal(entries(), before + 1);
}

static void a_link_stays_and_its_file_is_replaced(void **state)
{
    (void)state;
    vt_status st;
    struct stat s;
    assert_int_equal(put(at("target"), "old", "", &st), 0);
    assert_int_equal(symlink("target", at("link")), 0);
    assert_int_equal(put(at("link"), "new", "", &st), 0);
    assert_int_equal(lstat(at("link"), &s), 0);
    assert_true(S_ISLNK(s.st_mode));
    holds("target", "new");
}

static void the_longest_names_can_be_written(void **state)
{
    (void)state;
    char name[256];
    vt_status st;
    memset(name, 'n', 255);
    name[255] = 0;
    assert_int_equal(put(at(name), "long", "", &st), 0);
    holds(name, "long");
}

static void a_name_without_a_folder_is_in_the_current_one(void **state)
{
    (void)state;
    char old[4096];
    vt_status st;
    assert_non_null(getcwd(old, sizeof old));
    assert_int_equal(chdir(folder), 0);
    int rc = put("here", "h", "", &st);
    assert_int_equal(chdir(old), 0);
    assert_int_equal(rc, 0);
    holds("here", "h");
}

static void what_cannot_be_written_is_named_and_leaves_nothing(void **state)
{
    (void)state;
    vt_status st;
    int before = entries();
    assert_int_equal(mkdir(at("sub"), 0777), 0);
    assert_int_equal(put(at("sub"), "x", "", &st), -1);
    assert_int_equal(st.code, VT_MACHINE);
    assert_non_null(strstr(st.text, "/sub: cannot be written (Is a directory)"));
    assert_int_equal(put(at("absent/x"), "x", "", &st), -1);
    assert_non_null(strstr(st.text, "absent/x: cannot be written (No such file"));
    assert_int_equal(entries(), before + 1);
}

static int put_and_refuse(const void *what, vt_output *out, vt_status *st)
{
    vt_put(out, what, 3);
    return vt_fail(st, VT_INPUT, "no more");
}

static void what_cannot_be_made_leaves_the_old_file(void **state)
{
    (void)state;
    vt_status st;
    assert_int_equal(put(at("kept"), "old", "", &st), 0);
    int before = entries();
    assert_int_equal(vt_write_whole(at("kept"), put_and_refuse, "new", &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_string_equal(st.text, "no more");
    holds("kept", "old");
    assert_int_equal(entries(), before);
}

static void a_full_disk_is_an_error(void **state)
{
    (void)state;
    vt_status st;
    assert_int_equal(put("/dev/full", "a", "b", &st), -1);
    assert_string_equal(st.text, "/dev/full: cannot be written (No space left on device)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_follow_each_other_and_nothing_else_is_left),
        cmocka_unit_test(a_link_stays_and_its_file_is_replaced),
        cmocka_unit_test(the_longest_names_can_be_written),
        cmocka_unit_test(a_name_without_a_folder_is_in_the_current_one),
        cmocka_unit_test(what_cannot_be_written_is_named_and_leaves_nothing),
        cmocka_unit_test(what_cannot_be_made_leaves_the_old_file),
        cmocka_unit_test(a_full_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
