/* See whole_file.h. */
#include "weights_tools/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, data, bytes < 1 << 30 ? bytes : 1 << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Pipes and devices cannot be replaced by a rename: they are written in place. */
static bool in_place(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode);
}

static int write_parts(int fd, const vt_file_part *part, int parts)
{
    for (int i = 0; i < parts; i++)
        if (write_all(fd, part[i].data, part[i].bytes))
            return -1;
    return 0;
}

static int write_device(const char *path, const vt_file_part *part, int parts)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int failed = write_parts(fd, part, parts);
    return close(fd) || failed ? -1 : 0;
}

/* A new file in the folder of `path`, its name left in `temporary`: a short one, because the longest
 * name that a folder takes has no room for more. The usual permissions, which mkstemp would not
 * give. */
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

static int write_beside(const char *path, char *temporary, size_t room, const vt_file_part *part,
                        int parts)
{
    int fd = open_beside(path, temporary, room);
    if (fd < 0)
        return -1;
    int failed = write_parts(fd, part, parts) || fsync(fd);
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

int vt_write_file(const char *path, const vt_file_part *part, int parts, vt_status *st)
{
    char *behind = realpath(path, NULL); /* of a link, which stays; NULL: nothing there yet */
    const char *target = behind ? behind : path;
    size_t room = strlen(target) + 48;
    char *temporary = vt_alloc(room, 1, "file name", st);
    int failed = -1;
    if (temporary) {
        failed = in_place(target) ? write_device(target, part, parts)
                                  : write_beside(target, temporary, room, part, parts);
        if (failed)
            vt_fail(st, VT_MACHINE, "%s: cannot be written (%s)", path, strerror(errno));
    }
    vt_free(temporary);
    free(behind);
    return failed;
}
