/* Writing a safetensors file: header padded with spaces to a multiple of 8 bytes, then the tensors
 * in the order given. Into a file beside the target, renamed when it is complete and on disk.
 */
#include "weights_tools/st_header.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Bytes of an entry's tensor, or false where they are not to be counted. */
static bool entry_bytes(const st_entry *e, size_t *bytes)
{
    size_t bits = st_dtype_bits(e->dtype);
    for (int i = 0; i < e->rank; i++)
        if (!vt_mul(bits, (size_t)e->shape[i], &bits))
            return false;
    *bytes = bits / 8;
    return e->rank <= ST_MAX_RANK && bits % 8 == 0;
}

/* `s` as the inside of a JSON string; at most 6 bytes for each of its own. */
static size_t put_escaped(char *out, const char *s)
{
    char *start = out;
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            *out++ = '\\';
        if ((unsigned char)*s < 0x20)
            out += sprintf(out, "\\u%04x", (unsigned char)*s);
        else
            *out++ = *s;
    }
    return (size_t)(out - start);
}

static size_t put_entry(char *out, const st_entry *e, size_t begin, size_t end)
{
    char *start = out;
    *out++ = '"';
    out += put_escaped(out, e->name);
    out += sprintf(out, "\":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(e->dtype));
    for (int i = 0; i < e->rank; i++)
        out += sprintf(out, "%s%" PRIu64, i ? "," : "", e->shape[i]);
    out += sprintf(out, "],\"data_offsets\":[%zu,%zu]}", begin, end);
    return (size_t)(out - start);
}

/* The eight bytes and the text, *n in all. */
static char *make_header(const char *path, const st_entry *entries, size_t count, size_t *n,
                         vt_status *st)
{
    size_t room = 32;
    for (size_t i = 0; i < count; i++)
        room += 6 * strlen(entries[i].name) + 96 + 21 * (ST_MAX_RANK + 2);
    char *text = vt_alloc(room, 1, "safetensors header", st);
    if (!text)
        return NULL;
    size_t used = 8, end = 0;
    text[used++] = '{';
    for (size_t i = 0; i < count; i++) {
        size_t begin = end, bytes;
        if (!entry_bytes(entries + i, &bytes) || !vt_add(begin, bytes, &end)) {
            vt_fail(st, VT_USAGE, "%s: tensor \"%.64s\" cannot be written (its shape)", path,
                    entries[i].name);
            vt_free(text);
            return NULL;
        }
        if (i)
            text[used++] = ',';
        used += put_entry(text + used, entries + i, begin, end);
    }
    text[used++] = '}';
    while (used % 8)
        text[used++] = ' ';
    for (int i = 0; i < 8; i++)
        text[i] = (char)((uint64_t)(used - 8) >> 8 * i);
    *n = used;
    return text;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
    return true;
}

static bool write_body(int fd, const char *header, size_t n, const st_entry *entries, size_t count)
{
    bool ok = write_all(fd, header, n);
    for (size_t i = 0; ok && i < count; i++) {
        size_t bytes = 0;
        entry_bytes(entries + i, &bytes);
        ok = write_all(fd, entries[i].data, bytes);
    }
    return ok && fsync(fd) == 0;
}

/* A name that no other file in the folder has, opened for writing. */
static int open_partial(const char *path, char *partial, size_t size)
{
    int fd = -1;
    for (int i = 0; i < 100 && fd < 0; i++) {
        snprintf(partial, size, "%s.%ld-%d.partial", path, (long)getpid(), i);
        fd = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    return fd;
}

static int write_file(const char *path, const char *header, size_t n, const st_entry *entries,
                      size_t count, vt_status *st)
{
    size_t size = strlen(path) + 48;
    char *partial = vt_alloc(size, 1, "path", st);
    if (!partial)
        return -1;
    int rc = 0, fd = open_partial(path, partial, size);
    if (fd < 0) {
        bool place = errno == ENOENT || errno == ENOTDIR || errno == EACCES;
        rc = vt_fail(st, place ? VT_USAGE : VT_MACHINE, "%s: cannot be written: %s", path,
                     strerror(errno));
    } else {
        bool ok = write_body(fd, header, n, entries, count);
        ok = close(fd) == 0 && ok;
        if (!ok || rename(partial, path)) {
            rc = vt_fail(st, VT_MACHINE, "%s: writing failed: %s", path, strerror(errno));
            unlink(partial);
        }
    }
    vt_free(partial);
    return rc;
}

int st_write(const char *path, const st_entry *entries, size_t count, vt_status *st)
{
    size_t n;
    char *header = make_header(path, entries, count, &n, st);
    if (!header)
        return -1;
    int rc = write_file(path, header, n, entries, count, st);
    vt_free(header);
    return rc;
}
