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

/* mkstemp makes files that only the owner reads; give them what open(2) would have given. */
static void usual_mode(int fd)
{
    mode_t mask = umask(0);
    umask(mask);
    (void)!fchmod(fd, 0666 & ~mask);
}

static int write_temporary(const char *path, char *temporary, const vt_file_part *part, int parts)
{
    int fd = mkstemp(temporary);
    if (fd < 0)
        return -1;
    usual_mode(fd);
    int failed = write_parts(fd, part, parts) || fsync(fd);
    failed = close(fd) || failed;
    if (!failed && rename(temporary, path) == 0)
        return 0;
    int error = errno;
    unlink(temporary);
    errno = error;
    return -1;
}

int vt_write_file(const char *path, const vt_file_part *part, int parts, vt_status *st)
{
    static const char ending[] = ".XXXXXX";
    size_t n = strlen(path);
    char *temporary = vt_alloc(n + sizeof ending, 1, "file name", st);
    if (!temporary)
        return -1;
    memcpy(temporary, path, n);
    memcpy(temporary + n, ending, sizeof ending);
    int failed = in_place(path) ? write_device(path, part, parts)
                                : write_temporary(path, temporary, part, parts);
    if (failed)
        vt_fail(st, VT_MACHINE, "%s: cannot be written (%s)", path, strerror(errno));
    vt_free(temporary);
    return failed ? -1 : 0;
}
