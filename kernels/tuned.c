/* Texts under texts, in memory, and in the file
 *
 *   $XDG_CACHE_HOME/vitrun/NAME.tuned       (~/.cache where XDG_CACHE_HOME is not set)
 *
 * A line is "KEY = VALUE"; of lines with one key the last counts; a line is appended by one write,
 * so that several processes may share the file. A cache: it may be deleted at any time, and where it
 * cannot be read or written, things are measured again.
 */
#include "kernels/tuned.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE = 1024, LARGEST = 1 << 20 /* bytes of a file that is read */ };

typedef struct entry {
    struct entry *next;
    char *key, *value;
} entry;

struct vt_tuned {
    entry *first; /* newest first */
    char path[512];
};

static void remember(vt_tuned *t, const char *key, const char *value)
{
    vt_status st;
    entry *e = vt_alloc(1, sizeof *e, "what was measured", &st);
    if (!e)
        return;
    e->key = vt_strdup(key, &st);
    e->value = vt_strdup(value, &st);
    if (e->key && e->value) {
        e->next = t->first;
        t->first = e;
        return;
    }
    vt_free(e->key);
    vt_free(e->value);
    vt_free(e);
}

/* The file's name; empty where there is no home. */
static void find_path(vt_tuned *t, const char *of)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char folder[360], name[128];
    size_t n = 0;
    bool own = cache && cache[0] == '/';
    if (!own && (!home || home[0] != '/'))
        return;
    for (const char *c = of; *c && n < sizeof name - 1; c++)
        name[n++] = isalnum((unsigned char)*c) ? *c : '_';
    name[n] = 0;
    int length = snprintf(folder, sizeof folder, own ? "%s" : "%s/.cache", own ? cache : home);
    if (length < 0 || (size_t)length + sizeof "/vitrun" > sizeof folder)
        return;
    snprintf(t->path, sizeof t->path, "%s/vitrun/%s.tuned", folder, name);
}

/* The two folders that may be missing: the user's cache, and ours in it. */
static void make_folders(const vt_tuned *t)
{
    char folder[sizeof t->path];
    memcpy(folder, t->path, sizeof folder);
    *strrchr(folder, '/') = 0;
    char *ours = strrchr(folder, '/');
    *ours = 0;
    mkdir(folder, 0700);
    *ours = '/';
    mkdir(folder, 0700);
}

/* "KEY = VALUE\n"; anything else is passed over. */
static void read_lines(vt_tuned *t, FILE *f)
{
    char line[LINE];
    long read = 0;
    while (fgets(line, sizeof line, f) && (read += (long)strlen(line)) < LARGEST) {
        char *end = strchr(line, '\n'), *middle = strstr(line, " = ");
        if (!end || !middle)
            continue;
        *end = *middle = 0;
        remember(t, line, middle + 3);
    }
}

vt_tuned *vt_tuned_open(const char *name, vt_status *st)
{
    vt_tuned *t = vt_alloc(1, sizeof *t, "what was measured", st);
    if (!t)
        return NULL;
    find_path(t, name);
    int fd = t->path[0] ? open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    struct stat s;
    FILE *f = fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) ? fdopen(fd, "r") : NULL;
    if (f) {
        read_lines(t, f);
        fclose(f);
    } else if (fd >= 0) {
        close(fd);
    }
    return t;
}

void vt_tuned_close(vt_tuned *t)
{
    while (t && t->first) {
        entry *e = t->first;
        t->first = e->next;
        vt_free(e->key);
        vt_free(e->value);
        vt_free(e);
    }
    vt_free(t);
}

const char *vt_tuned_get(const vt_tuned *t, const char *key)
{
    for (const entry *e = t->first; e; e = e->next)
        if (!strcmp(e->key, key))
            return e->value;
    return NULL;
}

bool vt_tuned_put(vt_tuned *t, const char *key, const char *value)
{
    char line[LINE];
    int n = snprintf(line, sizeof line, "%s = %s\n", key, value);
    remember(t, key, value);
    if (!t->path[0] || n >= (int)sizeof line)
        return false;
    make_folders(t);
    int fd = open(t->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0)
        return false;
    bool written = write(fd, line, (size_t)n) == n;
    if (!written && ftruncate(fd, 0)) /* half a line: better to forget it all */
        written = false;
    close(fd);
    return written;
}

const char *vt_tuned_path(const vt_tuned *t)
{
    return t->path;
}
