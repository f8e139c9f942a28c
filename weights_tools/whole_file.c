/* See whole_file.h. */
#include "weights_tools/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    vt_put_fn put;
    const void *what;
    vt_status *st;
    bool refused; /* by put, which set *st */
} content;

void vt_put(vt_output *out, const void *data, size_t bytes)
{
    const char *from = data;
    while (bytes && !out->error) {
        ssize_t n = write(out->fd, from, bytes < 1 << 30 ? bytes : 1 << 30);
        if (n > 0) {
            from += n;
            bytes -= (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            out->error = n == 0 ? EIO : errno;
        }
    }
}

/* 0, or -1 with c->refused or errno set. */
static int fill(int fd, content *c)
{
    vt_output out = {.fd = fd};
    c->refused = c->put(c->what, &out, c->st) != 0;
    errno = out.error;
    return c->refused || out.error ? -1 : 0;
}

static int write_device(const char *path, content *c)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int failed = fill(fd, c), error = errno;
    if (close(fd) && !failed)
        return -1;
    errno = error;
    return failed;
}

/* A new file in the folder of `path`, its name left in `temporary`: a short one, because the
 * longest name that a folder takes has no room for more. The usual permissions, which mkstemp would
 * not give. */
static int open_beside(const char *path, char *temporary, size_t room)
{
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash + 1 - path) : 0;
    for (int i = 0; i < 100; i++) {
        snprintf(temporary, room, "%.*s.vitrun-%ld-%d", folder, path, (long)getpid(), i);
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static int write_beside(const char *path, char *temporary, size_t room, content *c)
{
    int fd = open_beside(path, temporary, room);
    if (fd < 0)
        return -1;
    int failed = fill(fd, c) || fsync(fd);
    int error = errno;
    if (close(fd) && !failed) {
        failed = 1;
        error = errno;
    }
    if (!failed && rename(temporary, path) == 0)
        return 0;
    error = failed ? error : errno;
    unlink(temporary);
    errno = error;
    return -1;
}

/* Pipes and devices cannot be replaced by a rename: they are written in place. What may be one of
 * them, for it cannot be looked at, is not written. */
static int write_target(const char *target, bool there, char *temporary, size_t room, content *c)
{
    struct stat s;
    if (there && stat(target, &s))
        return -1;
    if (there && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode))
        return write_device(target, c);
    return write_beside(target, temporary, room, c);
}

int vt_write_whole(const char *path, vt_put_fn put, const void *what, vt_status *st)
{
    content c = {put, what, st, false};
    char *behind = realpath(path, NULL); /* of a link, which stays */
    if (!behind && errno != ENOENT)
        return vt_fail(st, VT_MACHINE, "%s: cannot be written (%s)", path, strerror(errno));
    const char *target = behind ? behind : path;
    size_t room = strlen(target) + 48;
    char *temporary = vt_alloc(room, 1, "file name", st);
    int failed = -1;
    if (temporary) {
        failed = write_target(target, behind, temporary, room, &c);
        if (failed && !c.refused)
            vt_fail(st, VT_MACHINE, "%s: cannot be written (%s)", path, strerror(errno));
    }
    vt_free(temporary);
    free(behind);
    return failed;
}

typedef struct {
    const vt_file_part *part;
    int parts;
} part_list;

static int put_parts(const void *what, vt_output *out, vt_status *st)
{
    const part_list *list = what;
    (void)st;
    for (int i = 0; i < list->parts; i++)
        vt_put(out, list->part[i].data, list->part[i].bytes);
    return 0;
}

int vt_write_file(const char *path, const vt_file_part *part, int parts, vt_status *st)
{
    return vt_write_whole(path, put_parts, &(part_list){part, parts}, st);
}
