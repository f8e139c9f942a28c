/* pages DIR: writes the manual pages and the completions into DIR. Runs while vitrun is installed;
 * it is not installed itself. */
#include "engine/install/pages.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

pages_value pages_value_of(const cli_option *option, char *words, size_t room)
{
    const char *text = option->argument;
    if (!text)
        return PAGES_NOTHING;
    if (!strcmp(text, "DIR"))
        return PAGES_FOLDERS;
    if (!strcmp(text, "FILE") || !strcmp(text, "PATH") || !strcmp(text, "DIR|CSV"))
        return PAGES_FILES;
    if (!islower((unsigned char)*text) || !strchr(text, '|'))
        return PAGES_ANYTHING;
    size_t n = 0;
    for (int inside = 0; *text && n + 1 < room; text++) { /* what is in brackets may be left out */
        inside += (*text == '[') - (*text == ']');
        if (!inside && *text != ']')
            words[n++] = *text == '|' ? ' ' : *text;
    }
    words[n] = '\0';
    return PAGES_WORDS;
}

static FILE *create(const char *folder, const char *name, const char *ending)
{
    char *path = cli_format("%s/%s%s", folder, name, ending);
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        exit(1);
    }
    free(path);
    return f;
}

static void finish(FILE *f)
{
    int failed = ferror(f);
    if (fclose(f) || failed) {
        perror("pages");
        exit(1);
    }
}

static void write_shell(const char *folder, const char *name, void (*print)(FILE *f))
{
    FILE *f = create(folder, name, "");
    print(f);
    finish(f);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: pages DIR\n", stderr);
        return 2;
    }
    FILE *f = create(argv[1], "vitrun", ".1");
    pages_manual(NULL, f);
    finish(f);
    for (const cli_command *c = cli_commands; c->name; c++) {
        char *name = cli_format("vitrun-%s", c->name);
        f = create(argv[1], name, ".1");
        pages_manual(c, f);
        finish(f);
        free(name);
    }
    write_shell(argv[1], "vitrun.bash", pages_bash);
    write_shell(argv[1], "_vitrun", pages_zsh);
    write_shell(argv[1], "vitrun.fish", pages_fish);
    return 0;
}
