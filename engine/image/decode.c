/* Reads a picture: the file's bytes, what they are, and the decoder for them (png.c, jpeg.c). Other
 * formats are refused by name, with a way to convert them.
 */
#include "engine/image/internal.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights_tools/blame.h"

/* No picture of VT_MAX_PIXELS needs a larger file: 16-bit RGB with alpha takes 8 bytes a pixel
 * uncompressed; 64 MiB are left for metadata. It also keeps sizes within an int. */
enum { MAX_METADATA = 64 << 20, FIRST_READ = 1 << 16 };
static const size_t max_file = (size_t)VT_MAX_PIXELS * 8 + MAX_METADATA;

int image_fail_at(vt_status *st, vt_code code, const char *name, const char *fmt, ...)
{
    char text[sizeof st->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return vt_fail(st, code, "%s: %s", name, text);
}

int image_check_memory(const char *name, uint64_t needed, uint64_t max_bytes, vt_status *st)
{
    if (max_bytes == 0 || needed <= max_bytes)
        return 0;
    return image_fail_at(st, VT_MACHINE, name,
                         "picture takes more memory than is left (%.4g MiB needed, %.4g MiB left)",
                         (double)needed / 1048576, (double)max_bytes / 1048576);
}

int image_alloc(vt_image *out, int width, int height, vt_status *st)
{
    out->rgb = NULL;
    if (width < 1 || height < 1 || height > VT_MAX_PIXELS / width)
        return vt_fail(st, VT_INPUT, "picture of %d x %d pixels (at most %d in all)", width, height,
                       VT_MAX_PIXELS);
    out->width = width;
    out->height = height;
    out->rgb = vt_alloc((size_t)width * (size_t)height, 3, "picture", st);
    return out->rgb ? 0 : -1;
}

void vt_image_free(vt_image *image)
{
    vt_free(image->rgb);
    image->rgb = NULL;
}

/* ---- formats ---- */

typedef struct {
    const char *format;
    int at; /* offset of `magic` */
    int length;
    const char *magic;
} foreign;

#define MAGIC(format, at, magic)                                                                   \
    {                                                                                              \
        format, at, sizeof(magic) - 1, magic                                                       \
    }

static const foreign pictures[] = {
    MAGIC("WebP", 8, "WEBP"),
    MAGIC("GIF", 0, "GIF8"),
    MAGIC("BMP", 0, "BM"),
    MAGIC("TIFF", 0, "II*\0"),
    MAGIC("TIFF", 0, "MM\0*"),
    MAGIC("TIFF", 0, "II+\0"),
    MAGIC("TIFF", 0, "MM\0+"),
    MAGIC("AVIF", 4, "ftypavif"),
    MAGIC("AVIF", 4, "ftypavis"),
    MAGIC("HEIC", 4, "ftyp"),
    MAGIC("JPEG 2000", 0, "\0\0\0\x0cjP  "),
    MAGIC("JPEG 2000", 0, "\xff\x4f\xff\x51"),
    MAGIC("JPEG XL", 0, "\0\0\0\x0cJXL "),
    MAGIC("JPEG XL", 0, "\xff\x0a"),
    MAGIC("Photoshop (PSD)", 0, "8BPS"),
    MAGIC("PDF", 0, "%PDF"),
    MAGIC("SVG", 0, "<svg"),
    MAGIC("SVG or other XML", 0, "<?xml"),
    MAGIC("icon (ICO)", 0, "\0\0\1\0"),
    MAGIC("MNG", 0, "\x8aMNG"),
    MAGIC("JNG", 0, "\x8bJNG"),
    MAGIC("OpenEXR", 0, "\x76\x2f\x31\x01"),
    MAGIC("Radiance HDR", 0, "#?RADIANCE"),
    MAGIC("DDS", 0, "DDS "),
    MAGIC("QOI", 0, "qoif"),
    MAGIC("PNM", 0, "P1"),
    MAGIC("PNM", 0, "P2"),
    MAGIC("PNM", 0, "P3"),
    MAGIC("PNM", 0, "P4"),
    MAGIC("PNM", 0, "P5"),
    MAGIC("PNM", 0, "P6"),
    MAGIC("PAM", 0, "P7"),
};

static const foreign others[] = {
    MAGIC("a Git LFS pointer, not the picture itself: run git lfs pull", 0,
          "version https://git-lfs"),
    MAGIC("a web page (HTML), not a picture", 0, "<!DOCTYPE"),
    MAGIC("a web page (HTML), not a picture", 0, "<html"),
    MAGIC("an archive (zip), not a picture: unpack it first", 0, "PK\3\4"),
    MAGIC("compressed (gzip): unpack it first", 0, "\x1f\x8b"),
    MAGIC("a NumPy array, not a picture", 0, "\x93NUMPY"),
};

static const char *find(const foreign *list, size_t count, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)list[i].at, n = (size_t)list[i].length;
        if (size >= at + n && memcmp(bytes + at, list[i].magic, n) == 0)
            return list[i].format;
    }
    return NULL;
}

/* Fails unless the bytes begin as a PNG or JPEG does. */
static int check_format(const uint8_t *bytes, size_t size, const char *name, vt_status *st)
{
    if (png_signature(bytes, size) || jpeg_signature(bytes, size))
        return 0;
    if (size == 0)
        return image_fail(st, name, "empty file; expected a PNG or JPEG");
    const char *format = find(pictures, sizeof pictures / sizeof *pictures, bytes, size);
    if (format)
        return image_fail(st, name,
                          "%s is not read, only PNG and JPEG; convert it first, e.g. magick FILE "
                          "out.png",
                          format);
    format = find(others, sizeof others / sizeof *others, bytes, size);
    if (format)
        return image_fail(st, name, "this is %s", format);
    char start[3 * 8 + 1] = "";
    for (size_t i = 0; i < size && i < 8; i++)
        snprintf(start + 3 * i, 4, " %02x", bytes[i]);
    return image_fail(st, name, "not a PNG or JPEG (starts with%s)", start);
}

int vt_image_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
                    uint64_t max_bytes, vt_status *st)
{
    *out = (vt_image){0};
    if (check_format(bytes, size, name, st) != 0)
        return -1;
    if (size > max_file)
        return image_fail(st, name, "file of %zu bytes is too large for a picture (at most %zu)",
                          size, max_file);
    if (png_signature(bytes, size))
        return png_decode(out, bytes, size, name, max_bytes, st);
    return jpeg_decode(out, bytes, size, name, max_bytes, st);
}

/* ---- files ---- */

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} buffer;

static int grow(buffer *b, size_t room, vt_status *st)
{
    uint8_t *bytes = vt_alloc(room, 1, "picture file", st);
    if (!bytes)
        return -1;
    if (b->size > 0)
        memcpy(bytes, b->bytes, b->size);
    vt_free(b->bytes);
    b->bytes = bytes;
    b->room = room;
    return 0;
}

/* Reads until the buffer is full or the file ends; 1 at its end, 0 when full, -1 on failure. */
static int fill(buffer *b, int fd, const char *name, vt_status *st)
{
    while (b->size < b->room) {
        ssize_t n = read(fd, b->bytes + b->size, b->room - b->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return image_fail_at(st, VT_MACHINE, name, "cannot read: %s", strerror(errno));
        if (n == 0)
            return 1;
        b->size += (size_t)n;
    }
    return 0;
}

/* Reads all of fd; stops early where the first bytes are no picture's. `expected` is the size that
 * the file system tells, or 0. */
static int read_all(buffer *b, int fd, size_t expected, const char *name, vt_status *st)
{
    int ended = grow(b, FIRST_READ, st) == 0 ? fill(b, fd, name, st) : -1;
    if (ended >= 0 && check_format(b->bytes, b->size, name, st) != 0)
        return -1;
    while (ended == 0) {
        if (b->size > max_file || expected > max_file)
            return image_fail(st, name, "too large for a picture (at most %zu bytes)", max_file);
        size_t room = expected > b->size ? expected + 1 : b->size * 2;
        if (grow(b, room < max_file ? room : max_file + 1, st) != 0)
            return -1;
        ended = fill(b, fd, name, st);
    }
    return ended < 0 ? -1 : 0;
}

static int load_fd(vt_image *out, int fd, const char *name, uint64_t max_bytes, vt_status *st)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return image_fail_at(st, VT_MACHINE, name, "cannot read: %s", strerror(errno));
    if (S_ISDIR(info.st_mode))
        return image_fail(st, name, "is a folder; expected a PNG or JPEG file");
    size_t expected = S_ISREG(info.st_mode) && info.st_size > 0 ? (size_t)info.st_size : 0;
    if (image_check_memory(name, expected, max_bytes, st) != 0)
        return -1;
    buffer b = {0};
    int rc = read_all(&b, fd, expected, name, st);
    if (rc == 0)
        rc = vt_image_decode(out, b.bytes, b.size, name, max_bytes, st);
    vt_free(b.bytes);
    return rc;
}

/* What has a name must be a file: a FIFO or a device may never end. */
static int check_file(int fd, const char *path, vt_status *st)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return image_fail_at(st, VT_MACHINE, path, "cannot read: %s", strerror(errno));
    if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))
        return 0; /* the latter has an error of its own */
    return image_fail(st, path, "not a regular file; use - for a stream");
}

int vt_image_load(vt_image *out, const char *path, uint64_t max_bytes, vt_status *st)
{
    *out = (vt_image){0};
    if (strcmp(path, "-") == 0)
        return load_fd(out, STDIN_FILENO, "standard input", max_bytes, st);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* does not wait for a FIFO's writer */
    if (fd < 0)
        return image_fail_at(st, vt_machine_fault(errno) ? VT_MACHINE : VT_INPUT, path,
                             "cannot open: %s", strerror(errno));
    int rc = check_file(fd, path, st);
    if (rc == 0)
        rc = load_fd(out, fd, path, max_bytes, st);
    close(fd);
    return rc;
}
