/* Files by descriptor: see file.h. Opening does not block on a pipe, and nothing is believed about
 * a path after it was opened. */
#include "weights_tools/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "weights_tools/blame.h"

static bool identify(int fd, vt_file_id *id, mode_t *mode)
{
    struct stat s;
    if (fstat(fd, &s))
        return false;
    *id = (vt_file_id){s.st_dev, s.st_ino, s.st_size, s.st_mtim};
    *mode = s.st_mode;
    return true;
}

static int cannot_open(const char *path, vt_status *st)
{
    return vt_fail(st, vt_machine_fault(errno) ? VT_MACHINE : VT_INPUT, "%s: cannot be opened: %s",
                   path, strerror(errno));
}

/* Opens whatever is there. */
static int open_any(const char *path, vt_file_id *id, mode_t *mode, vt_status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && identify(fd, id, mode))
        return fd;
    cannot_open(path, st);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int refuse(const char *path, mode_t mode, const char *expected, vt_status *st)
{
    return vt_fail(st, VT_INPUT, "%s: is %s (expected %s)", path,
                   S_ISDIR(mode) ? "a folder" : "no regular file", expected);
}

int vt_file_open(const char *path, bool *folder, vt_file_id *id, vt_status *st)
{
    mode_t mode;
    int fd = open_any(path, id, &mode, st);
    if (fd < 0)
        return -1;
    if (folder)
        *folder = S_ISDIR(mode);
    if (S_ISREG(mode) || (folder && *folder))
        return fd;
    close(fd);
    return refuse(path, mode, folder ? "a file or a folder" : "a file", st);
}

int vt_file_read(int fd, const char *path, uint64_t offset, void *out, size_t bytes, vt_status *st)
{
    char *to = out;
    while (bytes > 0) {
        ssize_t n = pread(fd, to, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vt_fail(st, VT_MACHINE, "%s: reading failed at byte %llu: %s", path,
                           (unsigned long long)offset, strerror(errno));
        if (n == 0)
            return vt_fail(st, VT_INPUT, "%s: file changed while being read (ends at byte %llu)",
                           path, (unsigned long long)offset);
        to += n;
        bytes -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int vt_file_same(int fd, const char *path, const vt_file_id *id, vt_status *st)
{
    vt_file_id now;
    mode_t mode;
    if (!identify(fd, &now, &mode))
        return vt_fail(st, VT_MACHINE, "%s: cannot be examined: %s", path, strerror(errno));
    if (now.size != id->size)
        return vt_fail(st, VT_INPUT, "%s: file changed while being read (size was %lld, is %lld)",
                       path, (long long)id->size, (long long)now.size);
    if (now.inode != id->inode || now.device != id->device ||
        now.mtime.tv_sec != id->mtime.tv_sec || now.mtime.tv_nsec != id->mtime.tv_nsec)
        return vt_fail(st, VT_INPUT, "%s: file changed while being read", path);
    return 0;
}

static int too_large(const char *path, size_t limit, vt_status *st)
{
    return vt_fail(st, VT_INPUT, "%s: file is too large (at most %zu bytes are read)", path, limit);
}

static char *read_text(int fd, const char *path, size_t size, size_t limit, vt_status *st)
{
    if (size > limit) {
        too_large(path, limit, st);
        return NULL;
    }
    char *text = vt_alloc(size + 1, 1, path, st);
    if (text && vt_file_read(fd, path, 0, text, size, st)) {
        vt_free(text);
        text = NULL;
    }
    return text;
}

/* Reads to the end, waiting for what is not written yet. */
static char *read_pipe(int fd, const char *path, size_t limit, size_t *bytes, vt_status *st)
{
    char *text = vt_alloc(limit + 2, 1, path, st); /* one byte more tells too much */
    ssize_t n = text ? fcntl(fd, F_SETFL, 0) : -1;
    *bytes = 0;
    while (n >= 0 && *bytes <= limit) {
        n = read(fd, text + *bytes, limit + 1 - *bytes);
        if (n == 0)
            return text;
        *bytes += n > 0 ? (size_t)n : 0;
        n = n < 0 && errno == EINTR ? 0 : n;
    }
    if (n >= 0)
        too_large(path, limit, st);
    else if (text)
        vt_fail(st, VT_MACHINE, "%s: reading failed: %s", path, strerror(errno));
    vt_free(text);
    return NULL;
}

char *vt_file_text(const char *path, size_t limit, size_t *bytes, vt_status *st)
{
    vt_file_id id;
    mode_t mode;
    int fd = open_any(path, &id, &mode, st);
    if (fd < 0)
        return NULL;
    char *text = NULL;
    *bytes = (size_t)id.size;
    if (S_ISFIFO(mode))
        text = read_pipe(fd, path, limit, bytes, st);
    else if (S_ISREG(mode))
        text = read_text(fd, path, *bytes, limit, st);
    else
        refuse(path, mode, "a file", st);
    close(fd);
    return text;
}

int vt_file_there(const char *path, vt_status *st)
{
    if (access(path, F_OK) == 0)
        return 1;
    return errno == ENOENT || errno == ENOTDIR ? 0 : cannot_open(path, st);
}

bool vt_ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

char *vt_file_join(const char *folder, const char *name, vt_status *st)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = vt_alloc(size, 1, "path", st);
    if (!path)
        return NULL;
    bool slash = *folder && folder[strlen(folder) - 1] == '/';
    snprintf(path, size, "%s%s%s", folder, slash ? "" : "/", name);
    return path;
}
