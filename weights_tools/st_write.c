/* Writing a safetensors file: header padded with spaces to a multiple of 8 bytes, then the tensors
 * in the order given. How the file appears whole or not at all: whole_file.c.
 */
#include "weights_tools/st_header.h"
#include "weights_tools/whole_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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

typedef struct {
    const char *header;
    size_t header_bytes;
    vt_put_fn put;
    const void *what;
} contents;

static int put_contents(const void *what, vt_output *out, vt_status *st)
{
    const contents *c = what;
    vt_put(out, c->header, c->header_bytes);
    return c->put(c->what, out, st);
}

int st_write_from(const char *path, const st_entry *entries, size_t count, vt_put_fn put,
                  const void *what, vt_status *st)
{
    contents c = {.put = put, .what = what};
    char *header = make_header(path, entries, count, &c.header_bytes, st);
    c.header = header;
    int rc = header ? vt_write_whole(path, put_contents, &c, st) : -1;
    vt_free(header);
    return rc;
}

typedef struct {
    const st_entry *entry;
    size_t count;
} entry_list;

static int put_entries(const void *what, vt_output *out, vt_status *st)
{
    const entry_list *list = what;
    size_t bytes;
    (void)st;
    for (size_t i = 0; i < list->count; i++)
        if (entry_bytes(list->entry + i, &bytes))
            vt_put(out, list->entry[i].data, bytes);
    return 0;
}

int st_write(const char *path, const st_entry *entries, size_t count, vt_status *st)
{
    return st_write_from(path, entries, count, put_entries, &(entry_list){entries, count}, st);
}
