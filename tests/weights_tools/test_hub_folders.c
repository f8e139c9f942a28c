/* Folders and indexes of shards: which names are taken, and what is said of a folder without
 * weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "weights_tools/safetensors.h"

static char folder[] = "/tmp/vitrun-hub-XXXXXX";

static void put(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    fputs(text, f);
    fclose(f);
}

/* Fails the test unless the path is refused with the text. */
static void refused(const char *path, const char *text)
{
    vt_status st;
    assert_null(st_open(path, &st));
    if (!strstr(st.text, text))
        fail_msg("\"%s\" does not say \"%s\"", st.text, text);
}

static void shards_are_plain_names_of_safetensors_files(void **state)
{
    (void)state;
    static const char *const names[] = {"\"\"", "\".a.safetensors\"", "\"b/a.safetensors\"",
                                        "\"a.bin\"", "3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"weight_map\": {\"a\": %s}}", names[i]);
        put("x.safetensors.index.json", text);
        refused("x.safetensors.index.json",
                "weight_map.\"a\": expected the name of a .safetensors");
    }
    put("x.safetensors.index.json", "{\"weight_map\": {}}");
    refused("./x.safetensors.index.json", "weight_map: expected an object that names tensors");
    refused("/absent.safetensors.index.json", "cannot be opened");
    unlink("x.safetensors.index.json");
}

/* The first name in bytewise order is told, whatever order the folder has. */
static void a_folder_without_weights_is_told_by_what_it_holds(void **state)
{
    (void)state;
    refused(".", "no model.safetensors and no model.safetensors.index.json there");
    put("b.txt", "");
    put("b.bin", "");
    put("c.pth", "");
    refused(".", "no model.safetensors there, only ");
    put("m.safetensors", "");
    put("d.safetensors", "");
    put("z.safetensors", "");
    refused(".", "there is d.safetensors: give that file's path");
}

static int enter(void **state)
{
    (void)state;
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return chdir("/") || system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_plain_names_of_safetensors_files),
        cmocka_unit_test(a_folder_without_weights_is_told_by_what_it_holds),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
