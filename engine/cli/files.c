/* Image arguments -> the list of files to run, in order. Folders are not searched further down. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/cli/cli.h"

int cli_ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

static void add(cli_files *files, char *path, char *error, size_t *capacity)
{
    if (files->count == *capacity) {
        *capacity = 2 * *capacity + 16;
        vte_file *file = cli_alloc(*capacity, sizeof *file);
        if (files->count)
            memcpy(file, files->file, files->count * sizeof *file);
        free(files->file);
        files->file = file;
    }
    files->file[files->count++] = (vte_file){path, error};
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void add_folder(cli_files *files, const char *folder, size_t *capacity)
{
    struct dirent **entry = NULL;
    int entries = scandir(folder, &entry, not_hidden, by_bytes), found = 0;
    if (entries < 0) {
        add(files, cli_format("%s", folder), cli_format("%s", strerror(errno)), capacity);
        return;
    }
    size_t length = strlen(folder);
    const char *slash = length > 0 && folder[length - 1] == '/' ? "" : "/";
    for (int i = 0; i < entries; i++) {
        struct stat st;
        char *path = cli_format("%s%s%s", folder, slash, entry[i]->d_name);
        free(entry[i]);
        if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
            free(path);
            continue;
        }
        add(files, path, NULL, capacity);
        found++;
    }
    free(entry);
    if (!found)
        add(files, cli_format("%s", folder), cli_format("no images in this folder"), capacity);
}

int cli_files_open(cli_files *files, const cli_list *arguments, vitrun_error *err)
{
    *files = (cli_files){0};
    size_t capacity = 0;
    int from_stdin = 0;
    for (int i = 0; i < arguments->count; i++) {
        const char *path = arguments->item[i];
        struct stat st;
        if (!*path)
            return vte_fail(err, VITRUN_USAGE, "an IMAGE argument is empty");
        if (strcmp(path, "-") == 0 && from_stdin++)
            return vte_fail(err, VITRUN_USAGE, "standard input (-) can be read only once");
        if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
            add_folder(files, path, &capacity);
        else
            add(files, cli_format("%s", path), NULL, &capacity);
    }
    return 0;
}

void cli_files_close(cli_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        free((char *)files->file[i].path);
        free((char *)files->file[i].error);
    }
    free(files->file);
}
