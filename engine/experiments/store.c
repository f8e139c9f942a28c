/* See store.h. */
#include "engine/experiments/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/experiments/measure.h"
#include "weights_tools/json_decode.h"

struct vte_store {
    char *path;
    int fd;
    off_t end; /* of the last whole line */
};

static const size_t layout = JSON_COMPACT | JSON_REAL_PRECISION(9);

/* ---- reading ---- */
static int take_line(const char *path, long number, const char *line, size_t length,
                     json_t **common, json_t *rows, vitrun_error *err)
{
    json_error_t error;
    json_t *value = vt_json_decode(line, length, JSON_REJECT_DUPLICATES, &error);
    if (!value && vt_json_no_memory(&error))
        return vte_fail(err, VITRUN_MACHINE, "out of memory (rows)");
    if (!json_is_object(value)) {
        json_decref(value);
        return vte_fail(err, VITRUN_INPUT, "%s:%ld: no row of a sweep (%s)", path, number,
                        error.text);
    }
    if (number == 1) {
        *common = json_incref(json_object_get(value, "common"));
        json_decref(value);
        return *common ? 0
                       : vte_fail(err, VITRUN_INPUT,
                                  "%s:1: \"common\" is missing (is this a "
                                  "file of rows?)",
                                  path);
    }
    const char *options = json_string_value(json_object_get(value, "options"));
    if (!options) {
        json_decref(value);
        return vte_fail(err, VITRUN_INPUT, "%s:%ld: a row without \"options\"", path, number);
    }
    int failed = vte_row_find(rows, options) ? 0 : json_array_append(rows, value);
    json_decref(value);
    return failed ? vte_fail(err, VITRUN_MACHINE, "out of memory (rows)") : 0;
}

/* Whole lines only: *end is where the last one ends. */
static int read_lines(FILE *f, const char *path, json_t **common, json_t *rows, off_t *end,
                      vitrun_error *err)
{
    char *line = NULL;
    size_t room = 0;
    int bad = 0;
    long number = 0;
    *end = 0;
    for (ssize_t n; !bad && (n = getline(&line, &room, f)) > 0 && line[n - 1] == '\n';) {
        bad = take_line(path, ++number, line, (size_t)n, common, rows, err);
        *end += n;
    }
    if (!bad && !feof(f)) /* it failed: to read, or to get memory for a line */
        bad = vte_fail(err, VITRUN_MACHINE, "%s: %s", path, strerror(errno));
    free(line);
    return bad;
}

json_t *vte_row_find(const json_t *rows, const char *options)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const char *text = json_string_value(json_object_get(row, "options"));
        if (text && strcmp(text, options) == 0)
            return row;
    }
    return NULL;
}

/* What two sets of rows have in common, but must not differ in; NULL: it is the same work. Threads and
 * the build may differ between the machines that share a sweep, and points may be added. */
static const char *other_work(const json_t *a, const json_t *b)
{
    static const char *const key[] = {"command", "bench_command", "model", "device",
                                      "dtype",   "runs",          "title", "vitrun"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        const json_t *x = json_object_get(a, key[i]), *y = json_object_get(b, key[i]);
        if (x != y && !json_equal(x, y))
            return key[i];
    }
    return NULL;
}

/* The texts of a value that differs, from shortly before the difference on. */
static int refuse_other_work(const char *path, const char *key, const json_t *expected,
                             const json_t *found, vitrun_code code, vitrun_error *err)
{
    const json_t *value[] = {json_object_get(expected, key), json_object_get(found, key)};
    char *text[2];
    size_t same = 0;
    for (int i = 0; i < 2; i++)
        text[i] = value[i] ? vt_json_encode(value[i], layout | JSON_ENCODE_ANY) : strdup("nothing");
    while (text[0] && text[1] && text[0][same] && text[0][same] == text[1][same])
        same++;
    same = same > 40 ? same - 40 : 0;
    vte_fail(err, code,
             "%s: holds rows of other work (its \"%s\": expected %s%.90s, found %s%.90s)", path,
             key, same ? "..." : "", text[0] ? text[0] + same : "", same ? "..." : "",
             text[1] ? text[1] + same : "");
    free(text[0]);
    free(text[1]);
    return -1;
}

/* ---- appending ---- */
static int write_line(vte_store *s, const json_t *value, vitrun_error *err)
{
    char *text = vt_json_encode(value, layout), *line = NULL;
    int length = text ? asprintf(&line, "%s\n", text) : -1;
    free(text);
    if (length < 0)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (row)");
    ssize_t at = 0, n = 1;
    while (at < length &&
           ((n = write(s->fd, line + at, (size_t)(length - at))) > 0 || (n < 0 && errno == EINTR)))
        at += n > 0 ? n : 0;
    int why = at < length || fsync(s->fd) != 0 ? errno : 0;
    free(line);
    if (!why) {
        s->end += length;
        return 0;
    }
    if (ftruncate(s->fd, s->end) != 0) { /* the cut line is dropped when the file is read again */
    }
    return vte_fail(err, VITRUN_MACHINE, "%s: %s", s->path, strerror(why));
}

static int begin_or_compare(vte_store *s, const json_t *common, json_t *rows, vitrun_error *err)
{
    json_t *old = NULL;
    int copy = dup(s->fd);
    FILE *f = copy < 0 ? NULL : fdopen(copy, "re");
    if (!f)
        return vte_fail(err, VITRUN_MACHINE, "%s: %s", s->path, strerror(errno));
    int bad = read_lines(f, s->path, &old, rows, &s->end, err);
    fclose(f);
    const char *other = bad || !old ? NULL : other_work(old, common);
    if (other)
        bad = refuse_other_work(s->path, other, common, old, VITRUN_USAGE, err);
    if (!bad && (ftruncate(s->fd, s->end) != 0 || lseek(s->fd, s->end, SEEK_SET) < 0))
        bad = vte_fail(err, VITRUN_MACHINE, "%s: %s", s->path, strerror(errno));
    if (!bad && !old) {
        json_t *head = json_pack("{s:O}", "common", common);
        bad = head ? write_line(s, head, err) : vte_fail(err, VITRUN_MACHINE, "out of memory");
        json_decref(head);
    }
    json_decref(old);
    return bad;
}

vte_store *vte_store_open(const char *dir, int shard, int shards, const json_t *common,
                          json_t *rows, vitrun_error *err)
{
    vte_store *s = calloc(1, sizeof *s);
    int named = !s            ? -1
                : shards == 1 ? asprintf(&s->path, "%s/rows.jsonl", dir)
                              : asprintf(&s->path, "%s/rows-%d-of-%d.jsonl", dir, shard, shards);
    if (named < 0) {
        free(s);
        vte_fail(err, VITRUN_MACHINE, "out of memory (rows)");
        return NULL;
    }
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        vte_fail(err, VITRUN_MACHINE, "%s: %s", dir, strerror(errno)), s->fd = -1;
    else if ((s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) < 0)
        vte_fail(err, VITRUN_MACHINE, "%s: %s", s->path, strerror(errno));
    else if (flock(s->fd, LOCK_EX | LOCK_NB) != 0)
        vte_fail(err, VITRUN_USAGE, "%s: another process is writing it", s->path);
    else if (begin_or_compare(s, common, rows, err) == 0)
        return s;
    vte_store_close(s);
    return NULL;
}

int vte_store_append(vte_store *s, const json_t *row, vitrun_error *err)
{
    return write_line(s, row, err);
}

void vte_store_close(vte_store *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->path);
    free(s);
}

/* ---- all files of a folder ---- */
static int is_rows(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return strncmp(entry->d_name, "rows", 4) == 0 && n >= 10 &&
           strcmp(entry->d_name + n - 6, ".jsonl") == 0;
}

static int read_file(const char *path, json_t **common, json_t *rows, vitrun_error *err)
{
    json_t *own = NULL;
    off_t end;
    FILE *f = fopen(path, "re");
    if (!f)
        return vte_fail_file(err, path);
    int bad = read_lines(f, path, &own, rows, &end, err);
    fclose(f);
    const char *other = bad || !own || !*common ? NULL : other_work(own, *common);
    if (other)
        bad = refuse_other_work(path, other, *common, own, VITRUN_INPUT, err);
    if (!*common)
        *common = json_incref(own);
    json_decref(own);
    return bad;
}

int vte_store_read_all(const char *dir, json_t **common, json_t *rows, vitrun_error *err)
{
    struct dirent **entry = NULL;
    int count = scandir(dir, &entry, is_rows, alphasort), bad = 0;
    *common = NULL;
    if (count < 0)
        return vte_fail_file(err, dir);
    for (int i = 0; i < count; i++) {
        char *path = NULL;
        if (!bad && asprintf(&path, "%s/%s", dir, entry[i]->d_name) < 0)
            bad = vte_fail(err, VITRUN_MACHINE, "out of memory (rows)");
        else if (!bad)
            bad = read_file(path, common, rows, err);
        free(path);
        free(entry[i]);
    }
    free(entry);
    if (!bad && !*common)
        bad = vte_fail(err, VITRUN_INPUT, "%s: no rows in it (expected rows*.jsonl)", dir);
    return bad;
}
