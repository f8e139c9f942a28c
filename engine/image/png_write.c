/* Writes drawings as PNG: encoded in memory, then put in place whole or not at all (a temporary
 * file in the same folder, fsync, rename). A path that exists and is no regular file (a pipe, a
 * device) is written to directly.
 */
#include "engine/image/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DRAWING = 1 << 26, MAX_PATH = 4096, TRIES = 100 };

static int disk_fail(vt_status *st, const char *path, const char *what)
{
    return image_fail_at(st, VT_MACHINE, path, "%s: %s", what, strerror(errno));
}

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Opens a new file beside `path`; its name goes to temp[MAX_PATH]. */
static int open_temporary(char *temp, const char *path, vt_status *st)
{
    for (int i = 0; i < TRIES; i++) {
        int n = snprintf(temp, MAX_PATH, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        if (n < 0 || n >= MAX_PATH)
            return image_fail_at(st, VT_USAGE, path, "path is too long");
        int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0)
            return fd;
        if (errno != EEXIST)
            break;
    }
    return disk_fail(st, path, "cannot create");
}

static int write_device(const char *path, const uint8_t *bytes, size_t size, vt_status *st)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return disk_fail(st, path, "cannot open for writing");
    int rc = write_all(fd, bytes, size) != 0 ? disk_fail(st, path, "cannot write") : 0;
    if (close(fd) != 0 && rc == 0)
        rc = disk_fail(st, path, "cannot write");
    return rc;
}

static int write_file(const char *path, const uint8_t *bytes, size_t size, vt_status *st)
{
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
        return write_device(path, bytes, size, st);
    char temp[MAX_PATH];
    int fd = open_temporary(temp, path, st);
    if (fd < 0)
        return -1;
    int rc = 0;
    if (write_all(fd, bytes, size) != 0 || fsync(fd) != 0)
        rc = disk_fail(st, path, "cannot write");
    if (close(fd) != 0 && rc == 0)
        rc = disk_fail(st, path, "cannot write");
    if (rc == 0 && rename(temp, path) != 0)
        rc = disk_fail(st, path, "cannot put in place");
    if (rc != 0)
        unlink(temp);
    return rc;
}

int vt_png_write(const char *path, const uint8_t *rgb, int width, int height, vt_status *st)
{
    if (width < 1 || height < 1 || height > MAX_DRAWING / width)
        return image_fail_at(st, VT_USAGE, path, "cannot draw %d x %d pixels (at most %d)", width,
                             height, MAX_DRAWING);
    size_t size;
    uint8_t *png = stb_png(&size, rgb, width, height, st);
    if (!png)
        return vt_prefix(st, "%.200s", path);
    int rc = write_file(path, png, size, st);
    vt_free(png);
    return rc;
}
