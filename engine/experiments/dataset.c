/* See dataset.h. Paths and labels only: no picture is opened here. */
#include "engine/experiments/dataset.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine/experiments/measure.h"
#include "weights_tools/blame.h"

enum { DEEPEST = 16 }; /* folders below a class: an end to links that lead in circles */

static int no_memory(vitrun_error *err)
{
    return vte_fail(err, VITRUN_MACHINE, "out of memory (list of images)");
}

/* Takes `path` over, also where it fails. */
static int add(vte_dataset *d, char *path, int label, vitrun_error *err)
{
    if (path && d->count == d->room) {
        size_t room = 2 * d->room + 256;
        vte_file *file = realloc(d->file, room * sizeof *file);
        d->file = file ? file : d->file;
        int *labels = file ? realloc(d->label, room * sizeof *labels) : NULL;
        d->label = labels ? labels : d->label;
        d->room = labels ? room : d->room;
    }
    if (!path || d->count == d->room) {
        free(path);
        return no_memory(err);
    }
    d->file[d->count] = (vte_file){.path = path};
    d->label[d->count++] = label;
    return 0;
}

static char *join(const char *folder, size_t length, const char *name)
{
    char *path = NULL;
    const char *slash = length > 0 && folder[length - 1] != '/' ? "/" : "";
    return asprintf(&path, "%.*s%s%s", (int)length, folder, slash, name) < 0 ? NULL : path;
}

/* ---- classes ---- */
static int index_of_text(const char *text, int classes)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 9 || text[digits])
        return -1;
    int index = atoi(text);
    return index < classes ? index : -1;
}

static int class_labelled(const vitrun_model *model, const char *text)
{
    for (int i = 0; i < vitrun_info_get(model)->classes; i++)
        if (vitrun_label(model, i) && strcmp(vitrun_label(model, i), text) == 0)
            return i;
    return -1;
}

/* ---- folders ---- */
static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void free_entries(struct dirent **entry, int count)
{
    for (int i = 0; i < count; i++)
        free(entry[i]);
    free(entry);
}

/* 1, 0, or -1 with err set where the machine cannot tell. */
static int is_folder(const char *path, vitrun_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode);
    return vt_machine_fault(errno) ? vte_fail_file(err, path) : 0;
}

/* Those that vitrun cannot read are counted as bad pictures, so that none is left out unseen. */
static int is_picture(const char *name)
{
    static const char *const endings[] = {".png",  ".jpg", ".jpeg", ".webp", ".bmp",
                                          ".tiff", ".tif", ".ppm",  ".pgm",  ".gif"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return 1;
    return 0;
}

static int add_folder(vte_dataset *d, const char *folder, int label, int depth, vitrun_error *err)
{
    struct dirent **entry = NULL;
    int count = scandir(folder, &entry, not_hidden, by_bytes), bad = 0;
    if (count < 0)
        return vte_fail_file(err, folder);
    for (int i = 0; i < count && !bad; i++) {
        char *path = join(folder, strlen(folder), entry[i]->d_name);
        int deeper = path ? is_folder(path, err) : 0;
        if (deeper) {
            bad = deeper < 0        ? -1
                  : depth < DEEPEST ? add_folder(d, path, label, depth + 1, err)
                                    : 0;
            free(path);
        } else if (path && !is_picture(entry[i]->d_name))
            free(path);
        else
            bad = add(d, path, label, err);
    }
    free_entries(entry, count);
    return bad;
}

typedef struct {
    char **path;       /* [count] of class folders, in bytewise order */
    const char **name; /* of each, inside its path */
    int *label;
    int count;
} class_folders;

static void free_folders(class_folders *f)
{
    for (int i = 0; i < f->count; i++)
        free(f->path[i]);
    free(f->path);
    free(f->name);
    free(f->label);
}

static int list_folders(class_folders *f, const char *path, vitrun_error *err)
{
    struct dirent **entry = NULL;
    int count = scandir(path, &entry, not_hidden, by_bytes);
    if (count < 0)
        return vte_fail_file(err, path);
    f->path = calloc((size_t)count + 1, sizeof *f->path);
    f->name = calloc((size_t)count + 1, sizeof *f->name);
    f->label = calloc((size_t)count + 1, sizeof *f->label);
    int bad = !f->path || !f->name || !f->label ? no_memory(err) : 0;
    for (int i = 0; i < count && !bad; i++) {
        char *at = join(path, strlen(path), entry[i]->d_name);
        int folder = at ? is_folder(at, err) : no_memory(err);
        bad = folder < 0;
        if (folder <= 0)
            free(at);
        else {
            f->name[f->count] = at + strlen(at) - strlen(entry[i]->d_name);
            f->path[f->count++] = at;
        }
    }
    free_entries(entry, count);
    return bad;
}

/* One meaning for all of the names; which one, see dataset.h. */
static int label_folders(class_folders *f, const char *path, const vitrun_model *model,
                         vitrun_error *err)
{
    int classes = vitrun_info_get(model)->classes, labels = 0, numbers = 0;
    const char *stranger = NULL;
    for (int i = 0; i < f->count; i++) {
        int known = class_labelled(model, f->name[i]) >= 0;
        labels += known;
        numbers += index_of_text(f->name[i], classes) >= 0;
        stranger = known || stranger ? stranger : f->name[i];
    }
    for (int i = 0; i < f->count; i++)
        f->label[i] = labels == f->count    ? class_labelled(model, f->name[i])
                      : numbers == f->count ? index_of_text(f->name[i], classes)
                                            : i;
    if (f->count == 0)
        return vte_fail(err, VITRUN_INPUT,
                        "%s: no folder in it (expected one folder a class, or a CSV file)", path);
    if (labels == f->count || numbers == f->count || f->count == classes)
        return 0;
    return vte_fail(err, VITRUN_INPUT,
                    "%s: which class is \"%.80s\"? (expected folders named by labels or by class "
                    "indexes, or one for each of the %d classes; found %d folders)",
                    path, stranger, classes, f->count);
}

static int read_folders(vte_dataset *d, const char *path, const vitrun_model *model,
                        vitrun_error *err)
{
    class_folders f = {0};
    int bad = list_folders(&f, path, err) || label_folders(&f, path, model, err);
    for (int i = 0; i < f.count && !bad; i++)
        bad = add_folder(d, f.path[i], f.label[i], 0, err);
    free_folders(&f);
    return bad ? -1 : 0;
}

/* ---- CSV ---- */
/* Cuts the field at *at out in place and moves on; NULL where a quote is not closed or followed by
 * something else than a comma. */
static char *next_field(char **at)
{
    char *p = *at, *field = p, *to = p;
    if (*p != '"') {
        p += strcspn(p, ",");
    } else {
        for (p++; *p && !(*p == '"' && p[1] != '"'); p++) {
            p += *p == '"';
            *to++ = *p;
        }
        if (*p++ != '"' || (*p && *p != ','))
            return NULL;
        int more = *p == ',';
        *to = '\0';
        *at = more ? p + 1 : p;
        return field;
    }
    *at = *p ? p + 1 : p;
    *p = '\0';
    return field;
}

typedef struct {
    const char *file;
    size_t folder; /* length of the folder's part of `file` */
    long line;
    const vitrun_model *model;
} csv;

static int read_line(vte_dataset *d, const csv *c, char *line, vitrun_error *err)
{
    char *at = line, *path = next_field(&at), *label = path ? next_field(&at) : NULL;
    if (!label || !*path || !*label || *at)
        return vte_fail(err, VITRUN_INPUT, "%s:%ld: no path,label (expected two fields)", c->file,
                        c->line);
    if (c->line == 1 && strcmp(path, "path") == 0 && strcmp(label, "label") == 0)
        return 0;
    int class = class_labelled(c->model, label);
    if (class < 0)
        class = index_of_text(label, vitrun_info_get(c->model)->classes);
    if (class < 0)
        return vte_fail(err, VITRUN_INPUT,
                        "%s:%ld: unknown label \"%.80s\" (expected one of the model's labels, or "
                        "an index below %d)",
                        c->file, c->line, label, vitrun_info_get(c->model)->classes);
    return add(d, join(c->file, *path == '/' ? 0 : c->folder, path), class, err);
}

static int read_csv(vte_dataset *d, const char *path, const vitrun_model *model, vitrun_error *err)
{
    const char *slash = strrchr(path, '/');
    csv c = {.file = path, .folder = slash ? (size_t)(slash - path) + 1 : 0, .model = model};
    char *line = NULL;
    size_t room = 0;
    int bad = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return vte_fail_file(err, path);
    for (ssize_t n; !bad && (n = getline(&line, &room, f)) >= 0;) {
        if (c.line++ == 0 && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0)
            memmove(line, line + 3,
                    (size_t)(n -= 3) + 1); /* a byte order mark, as Excel writes it */
        if (memchr(line, '\0', (size_t)n))
            bad = vte_fail(err, VITRUN_INPUT, "%s:%ld: a NUL byte (expected text)", path, c.line);
        while (n > 0 && isspace((unsigned char)line[n - 1]))
            line[--n] = '\0';
        if (n > 0 && !bad)
            bad = read_line(d, &c, line, err);
    }
    if (!bad && !feof(f)) /* it failed: to read, or to get memory for a line */
        bad = vte_fail(err, VITRUN_MACHINE, "%s: %s", path, strerror(errno));
    free(line);
    fclose(f);
    return bad;
}

/* ---- the whole ---- */
static void keep_evenly(vte_dataset *d, size_t limit)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->count; i++)
        if (kept < limit && i == kept * d->count / limit) {
            d->file[kept] = d->file[i];
            d->label[kept++] = d->label[i];
        } else
            free((char *)d->file[i].path);
    d->count = kept;
}

int vte_dataset_open(vte_dataset *d, const char *path, size_t limit, const vitrun_model *model,
                     vitrun_error *err)
{
    *d = (vte_dataset){0};
    if (vitrun_info_get(model)->classes == 0)
        return vte_fail(err, VITRUN_INPUT,
                        "a model without classes has no accuracy (its num_classes is 0)");
    int folder = is_folder(path, err), bad = folder < 0   ? -1
                                             : folder > 0 ? read_folders(d, path, model, err)
                                                          : read_csv(d, path, model, err);
    if (!bad && d->count == 0)
        bad = vte_fail(err, VITRUN_INPUT, "%s: no images in it", path);
    if (!bad && limit > 0 && limit < d->count)
        keep_evenly(d, limit);
    if (bad)
        vte_dataset_close(d);
    return bad;
}

void vte_dataset_close(vte_dataset *d)
{
    for (size_t i = 0; i < d->count; i++)
        free((char *)d->file[i].path);
    free(d->file);
    free(d->label);
    *d = (vte_dataset){0};
}
