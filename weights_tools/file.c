/* Files by descriptor: see file.h. Opening does not block on a FIFO, and nothing is believed about
 * a path after it was opened. */
#include "weights_tools/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool identify(int fd, vt_file_id *id, mode_t *mode)
{
    struct stat s;
    if (fstat(fd, &s))
        return false;
    *id = (vt_file_id){s.st_dev, s.st_ino, s.st_size, s.st_mtim};
    *mode = s.st_mode;
    return true;
}

/* The machine's own shortages are not the file's fault. */
static vt_code blame(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO ? VT_MACHINE
                                                                                 : VT_INPUT;
}

int vt_file_open(const char *path, bool *folder, vt_file_id *id, vt_status *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    mode_t mode = 0;
    if (fd < 0 || !identify(fd, id, &mode)) {
        vt_fail(st, blame(errno), "%s: cannot be opened: %s", path, strerror(errno));
    } else if (S_ISREG(mode) || (folder && S_ISDIR(mode))) {
        if (folder)
            *folder = S_ISDIR(mode);
        return fd;
    } else {
        vt_fail(st, VT_INPUT, "%s: is %s (expected a file%s)", path,
                S_ISDIR(mode) ? "a folder" : "no regular file", folder ? " or a folder" : "");
    }
    if (fd >= 0)
        close(fd);
    return -1;
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

static char *read_text(int fd, const char *path, size_t size, vt_status *st)
{
    char *text = vt_alloc(size + 1, 1, path, st);
    if (text && vt_file_read(fd, path, 0, text, size, st)) {
        vt_free(text);
        text = NULL;
    }
    return text;
}

char *vt_file_text(const char *path, size_t limit, size_t *bytes, vt_status *st)
{
    vt_file_id id;
    int fd = vt_file_open(path, NULL, &id, st);
    if (fd < 0)
        return NULL;
    char *text = NULL;
    *bytes = (size_t)id.size;
    if ((uint64_t)id.size > limit)
        vt_fail(st, VT_INPUT, "%s: file is too large (%lld bytes; at most %zu are read)", path,
                (long long)id.size, limit);
    else
        text = read_text(fd, path, *bytes, st);
    close(fd);
    return text;
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
