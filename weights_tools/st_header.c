/* The header of a safetensors file.
 *
 *   {"__metadata__": {string: string, ...},
 *    NAME: {"dtype": "F32", "shape": [d0, d1, ...], "data_offsets": [begin, end]}, ...}
 *
 * Read by a parser of its own, because the format needs what general JSON readers lose: integers up
 * to 2^64 - 1 as they are written (4.0, 4e0 and -0 are none), NULs in names, byte positions.
 * It accepts RFC 8259 and nothing more, and of that only the shape above: three levels of nesting,
 * no other fields, no key twice at any level. Strings are unescaped in place, so that memory is the
 * text and the list of tensors; time is that of sorting names.
 *
 * Stricter than the Rust implementation: it refuses repeated keys, entries in array form, unknown
 * fields, leading white space, and ranks over ST_MAX_RANK.
 */
#include "weights_tools/st_header.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/utf8.h"

typedef struct {
    char *s; /* NUL-terminated; inside the text */
    size_t len, at;
} string;

typedef struct {
    const char *path;
    char *text;
    size_t n, at; /* length, position of the next byte */
    st_header *h;
    size_t tensor_room, meta_room;
    vt_status *st;

    /* where it is, for error texts: section "key": field[item] */
    const char *section, *field;
    const string *key;
    int item; /* -1: none */
} parser;

static const struct {
    const char *name;
    unsigned bits;
} dtypes[ST_DTYPES] = {
    [ST_BOOL] = {"BOOL", 8},
    [ST_F4] = {"F4", 4},
    [ST_F6_E2M3] = {"F6_E2M3", 6},
    [ST_F6_E3M2] = {"F6_E3M2", 6},
    [ST_U8] = {"U8", 8},
    [ST_I8] = {"I8", 8},
    [ST_F8_E5M2] = {"F8_E5M2", 8},
    [ST_F8_E4M3] = {"F8_E4M3", 8},
    [ST_F8_E8M0] = {"F8_E8M0", 8},
    [ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [ST_I16] = {"I16", 16},
    [ST_U16] = {"U16", 16},
    [ST_F16] = {"F16", 16},
    [ST_BF16] = {"BF16", 16},
    [ST_I32] = {"I32", 32},
    [ST_U32] = {"U32", 32},
    [ST_F32] = {"F32", 32},
    [ST_C64] = {"C64", 64},
    [ST_F64] = {"F64", 64},
    [ST_I64] = {"I64", 64},
    [ST_U64] = {"U64", 64},
};

const char *st_dtype_name(st_dtype t)
{
    return dtypes[t].name;
}

unsigned st_dtype_bits(st_dtype t)
{
    return dtypes[t].bits;
}

/* ---- errors ---- */

const char *st_show(char out[ST_SHOWN], const char *name, size_t len)
{
    size_t used = 0;
    out[used++] = '"';
    size_t i = 0;
    for (; i < len && used < 66; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7f)
            used += (size_t)snprintf(out + used, ST_SHOWN - used, "\\u%04x", c);
        else
            out[used++] = (char)c;
    }
    while (i < len && ((unsigned char)name[i] & 0xc0) == 0x80 && used < 70)
        out[used++] = name[i++]; /* the rest of the last character */
    snprintf(out + used, ST_SHOWN - used, i < len ? "...\"" : "\"");
    return out;
}

/* "tensor "a": shape[1]: ", as much of it as there is. */
static void place(const parser *p, char *out, size_t room)
{
    char shown[ST_SHOWN], item[16] = "";
    if (p->item >= 0)
        snprintf(item, sizeof item, "[%d]", p->item);
    snprintf(out, room, "%s%s%s%s%s%s%s", p->section ? p->section : "", p->key ? " " : "",
             p->key ? st_show(shown, p->key->s, p->key->len) : "", p->section ? ": " : "",
             p->field ? p->field : "", item, p->field ? ": " : "");
}

VT_PRINTF(3, 4)
static int bad(parser *p, size_t at, const char *fmt, ...)
{
    char text[240], where[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    place(p, where, sizeof where);
    return vt_fail(p->st, VT_INPUT, "%s: header: %s%s (byte %zu of the file)", p->path, where, text,
                   at + 8);
}

/* Fails with what stands at the position. */
static int unexpected(parser *p, const char *expected)
{
    if (p->at >= p->n)
        return bad(p, p->at, "expected %s, found the end of the header", expected);
    size_t len = strcspn(p->text + p->at, ",]}: \t\r\n");
    len = len == 0 ? 1 : len > 24 ? 24 : len;
    return bad(p, p->at, "expected %s, found %.*s", expected, (int)len, p->text + p->at);
}

/* ---- characters ---- */

static int check_utf8(parser *p)
{
    const unsigned char *s = (const unsigned char *)p->text;
    for (size_t i = 0, len; i < p->n; i += len) {
        len = vt_utf8_length(s + i, p->n - i);
        if (len == 0)
            return bad(p, i, "invalid UTF-8 (0x%02x)", s[i]);
    }
    return 0;
}

static void skip_space(parser *p)
{
    while (p->at < p->n && strchr(" \t\r\n", p->text[p->at]) && p->text[p->at])
        p->at++;
}

static bool next_is(const parser *p, char c)
{
    return p->at < p->n && p->text[p->at] == c;
}

static bool take(parser *p, char c)
{
    skip_space(p);
    if (!next_is(p, c))
        return false;
    p->at++;
    return true;
}

/* ---- strings ---- */

/* Four hexadecimal digits at the position, or -1. */
static int take_hex4(parser *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        char c = p->at < p->n ? p->text[p->at] : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* \uXXXX, or a pair of them, behind the 'u'; at most 4 bytes where 6 or 12 stood. */
static int take_unicode(parser *p, char **out)
{
    size_t at = p->at - 2;
    int c = take_hex4(p);
    if (c >= 0xd800 && c < 0xdc00 && next_is(p, '\\')) {
        int low = -1;
        p->at++;
        if (next_is(p, 'u')) {
            p->at++;
            low = take_hex4(p);
        }
        c = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : -1;
    }
    if (c < 0 || (c >= 0xd800 && c < 0xe000))
        return bad(p, at, "invalid \\u escape in a string");
    *out = put_utf8(*out, (unsigned)c);
    return 0;
}

static int take_escape(parser *p, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = p->at < p->n ? p->text[p->at] : 0;
    const char *hit = c ? strchr(from, c) : NULL;
    p->at++;
    if (c == 'u')
        return take_unicode(p, out);
    if (!hit)
        return bad(p, p->at - 2, "invalid escape in a string");
    *(*out)++ = to[hit - from];
    return 0;
}

/* Unescapes in place; the terminating NUL falls on the closing quote or before it. */
static int take_string(parser *p, string *s)
{
    skip_space(p);
    if (!next_is(p, '"'))
        return unexpected(p, "a string");
    s->at = p->at++;
    s->s = p->text + p->at;
    char *out = s->s;
    while (p->at < p->n && p->text[p->at] != '"') {
        unsigned char c = (unsigned char)p->text[p->at++];
        if (c < 0x20)
            return bad(p, p->at - 1, "control character 0x%02x in a string", c);
        if (c != '\\')
            *out++ = (char)c;
        else if (take_escape(p, &out))
            return -1;
    }
    if (p->at >= p->n)
        return bad(p, s->at, "string does not end");
    p->at++;
    s->len = (size_t)(out - s->s);
    *out = 0;
    return 0;
}

static bool is(const string *s, const char *word)
{
    return s->len == strlen(word) && memcmp(s->s, word, s->len) == 0;
}

/* ---- numbers, lists, objects ---- */

static int take_u64(parser *p, uint64_t *value)
{
    skip_space(p);
    size_t start = p->at, at = p->at;
    uint64_t v = 0;
    for (; at < p->n && p->text[at] >= '0' && p->text[at] <= '9'; at++) {
        unsigned digit = (unsigned)(p->text[at] - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return unexpected(p, "an integer below 2^64");
        v = v * 10 + digit;
    }
    bool zero_first = at > start + 1 && p->text[start] == '0';
    if (at == start || zero_first || (at < p->n && !strchr(",]} \t\r\n", p->text[at])))
        return unexpected(p, "a non-negative integer");
    p->at = at;
    *value = v;
    return 0;
}

/* [u64, ...] of at most `room` numbers; *count is how many there are. */
static int take_list(parser *p, uint64_t *value, int room, int *count)
{
    *count = 0;
    if (!take(p, '['))
        return unexpected(p, "a list of integers");
    if (take(p, ']'))
        return 0;
    do {
        if (*count == room)
            return bad(p, p->at, "more than %d numbers", room);
        p->item = *count;
        if (take_u64(p, value + (*count)++))
            return -1;
        p->item = -1;
    } while (take(p, ','));
    return take(p, ']') ? 0 : unexpected(p, "',' or ']'");
}

typedef int member_fn(parser *p, const string *key, void *user);

/* {key: ..., ...}; `member` takes the value of each key. */
static int take_object(parser *p, member_fn *member, void *user)
{
    if (!take(p, '{'))
        return unexpected(p, "an object");
    if (take(p, '}'))
        return 0;
    do {
        string key = {0};
        if (take_string(p, &key))
            return -1;
        if (!take(p, ':'))
            return unexpected(p, "':'");
        if (member(p, &key, user))
            return -1;
    } while (take(p, ','));
    return take(p, '}') ? 0 : unexpected(p, "',' or '}'");
}

/* Room for one more of *count items of `size` bytes, by doubling. */
static int grow(parser *p, void **items, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return 0;
    size_t more = *room ? *room * 2 : 64;
    void *bigger = vt_alloc(more, size, "tensor list", p->st);
    if (!bigger)
        return -1;
    if (count)
        memcpy(bigger, *items, count * size);
    vt_free(*items);
    *items = bigger;
    *room = more;
    return 0;
}

/* ---- the header's own shape ---- */

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4 };

typedef struct {
    st_tensor *t;
    unsigned has;
    uint64_t end;
} entry;

static int take_dtype(parser *p, entry *e)
{
    string s;
    if (take_string(p, &s))
        return -1;
    for (int i = 0; i < ST_DTYPES; i++) {
        if (is(&s, dtypes[i].name)) {
            e->t->dtype = (st_dtype)i;
            return 0;
        }
    }
    char shown[ST_SHOWN];
    return bad(p, s.at, "unknown type %s (expected F32, F16, BF16 or another of the format)",
               st_show(shown, s.s, s.len));
}

static int take_offsets(parser *p, entry *e)
{
    uint64_t range[2];
    int count;
    size_t at = p->at;
    if (take_list(p, range, 2, &count))
        return -1;
    if (count != 2)
        return bad(p, at, "expected 2 numbers, found %d", count);
    e->t->begin = range[0];
    e->end = range[1];
    return 0;
}

static int take_field(parser *p, entry *e, int field)
{
    return field == 0   ? take_dtype(p, e)
           : field == 1 ? take_list(p, e->t->shape, ST_MAX_RANK, &e->t->rank)
                        : take_offsets(p, e);
}

static int entry_member(parser *p, const string *key, void *user)
{
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    entry *e = user;
    int field = 0;
    while (field < 3 && !is(key, fields[field]))
        field++;
    char shown[ST_SHOWN];
    if (field == 3)
        return bad(p, key->at, "unknown field %s", st_show(shown, key->s, key->len));
    p->field = fields[field];
    if (e->has & 1u << field)
        return bad(p, key->at, "stands twice");
    e->has |= 1u << field;
    if (take_field(p, e, field))
        return -1;
    p->field = NULL;
    return 0;
}

/* count and bytes of the shape; the product is checked in the order that it is written. */
static int measure(parser *p, entry *e)
{
    st_tensor *t = e->t;
    size_t count = 1, bits;
    bool fits = true;
    for (int i = 0; i < t->rank; i++)
        fits = fits && vt_mul(count, t->shape[i], &count);
    if (!fits || !vt_mul(count, dtypes[t->dtype].bits, &bits))
        return bad(p, p->key->at, "shape is too large");
    if (bits % 8)
        return bad(p, p->key->at, "%zu values of %s do not fill whole bytes", count,
                   dtypes[t->dtype].name);
    t->count = count;
    t->bytes = bits / 8;
    if (t->begin > e->end || e->end - t->begin != t->bytes)
        return bad(p, p->key->at,
                   "data_offsets are %" PRIu64 " to %" PRIu64 ", but its shape takes %" PRIu64
                   " bytes",
                   t->begin, e->end, t->bytes);
    return 0;
}

static int meta_member(parser *p, const string *key, void *user)
{
    (void)user;
    string value;
    p->key = key;
    if (take_string(p, &value) ||
        grow(p, (void **)&p->h->meta, p->h->metas, &p->meta_room, sizeof(st_pair)))
        return -1;
    p->key = NULL;
    p->h->meta[p->h->metas++] = (st_pair){key->s, value.s, key->len};
    return 0;
}

static int take_entry(parser *p, const string *key)
{
    if (grow(p, (void **)&p->h->tensor, p->h->count, &p->tensor_room, sizeof(st_tensor)))
        return -1;
    entry e = {.t = p->h->tensor + p->h->count++};
    *e.t = (st_tensor){.name = key->s, .name_len = key->len};
    p->section = "tensor";
    p->key = key;
    if (take_object(p, entry_member, &e))
        return -1;
    if (e.has != (HAS_DTYPE | HAS_SHAPE | HAS_OFFSETS))
        return bad(p, key->at, "field %s is missing",
                   !(e.has & HAS_DTYPE)   ? "dtype"
                   : !(e.has & HAS_SHAPE) ? "shape"
                                          : "data_offsets");
    return measure(p, &e);
}

static int top_member(parser *p, const string *key, void *user)
{
    bool *had_metadata = user;
    int rc;
    if (is(key, "__metadata__")) {
        p->section = "__metadata__";
        if (*had_metadata)
            return bad(p, key->at, "stands twice");
        *had_metadata = true;
        rc = take_object(p, meta_member, NULL);
    } else {
        rc = take_entry(p, key);
    }
    if (rc == 0)
        p->section = NULL, p->key = NULL;
    return rc;
}

/* ---- checks over all entries ---- */

int st_compare_names(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

static int by_name(const void *x, const void *y)
{
    const st_tensor *a = x, *b = y;
    int order = st_compare_names(a->name, a->name_len, b->name, b->name_len);
    return order ? order : (a->name > b->name) - (a->name < b->name);
}

static int by_key(const void *x, const void *y)
{
    const st_pair *a = x, *b = y;
    int order = st_compare_names(a->key, a->key_len, b->key, b->key_len);
    return order ? order : (a->key > b->key) - (a->key < b->key);
}

static int by_offset(const void *x, const void *y)
{
    const st_tensor *a = x, *b = y;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return (a->name > b->name) - (a->name < b->name);
}

static int twice(parser *p, const char *what, const char *first, const char *second, size_t len)
{
    char shown[ST_SHOWN];
    return bad(p, (size_t)(second - p->text) - 1, "%s %s stands twice (first at byte %zu)", what,
               st_show(shown, first, len), (size_t)(first - p->text) - 1 + 8);
}

/* Leaves the metadata sorted by key. */
static int check_names(parser *p)
{
    st_header *h = p->h;
    if (h->count)
        qsort(h->tensor, h->count, sizeof *h->tensor, by_name);
    if (h->metas)
        qsort(h->meta, h->metas, sizeof *h->meta, by_key);
    for (size_t i = 1; i < h->count; i++) {
        const st_tensor *a = h->tensor + i - 1, *b = h->tensor + i;
        if (a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0)
            return twice(p, "tensor", a->name, b->name, a->name_len);
    }
    for (size_t i = 1; i < h->metas; i++) {
        const st_pair *a = h->meta + i - 1, *b = h->meta + i;
        if (a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0)
            return twice(p, "__metadata__ key", a->key, b->key, a->key_len);
    }
    return 0;
}

/* The tensors tile the data exactly. Leaves them sorted, their offsets counted from the file's
 * start. */
static int check_tiling(parser *p, uint64_t data_bytes)
{
    st_header *h = p->h;
    char shown[ST_SHOWN];
    uint64_t end = 0;
    if (h->count)
        qsort(h->tensor, h->count, sizeof *h->tensor, by_offset);
    for (size_t i = 0; i < h->count; i++) {
        st_tensor *t = h->tensor + i;
        if (t->begin != end)
            return bad(p, (size_t)(t->name - p->text) - 1,
                       "tensor %s: data begins at %" PRIu64 " (expected %" PRIu64
                       ": no gap, no overlap)",
                       st_show(shown, t->name, t->name_len), t->begin, end);
        end += t->bytes;
        t->begin += 8 + p->n;
    }
    if (end > data_bytes)
        return vt_fail(p->st, VT_INPUT, "%s: file is truncated: %" PRIu64 " byte%s missing",
                       p->path, end - data_bytes, end - data_bytes == 1 ? "" : "s");
    if (end < data_bytes)
        return vt_fail(p->st, VT_INPUT, "%s: %" PRIu64 " byte%s too many after the last tensor",
                       p->path, data_bytes - end, data_bytes - end == 1 ? "" : "s");
    return 0;
}

int st_header_parse(st_header *h, const char *path, char *text, size_t n, uint64_t data_bytes,
                    vt_status *st)
{
    *h = (st_header){.text = text};
    parser p = {.path = path, .text = text, .n = n, .h = h, .st = st, .item = -1};
    bool had_metadata = false;
    if (check_utf8(&p))
        return -1;
    if (!next_is(&p, '{'))
        return unexpected(&p, "'{' at once");
    if (take_object(&p, top_member, &had_metadata))
        return -1;
    skip_space(&p);
    if (p.at != n)
        return unexpected(&p, "nothing but spaces");
    return check_names(&p) || check_tiling(&p, data_bytes) ? -1 : 0;
}

void st_header_free(st_header *h)
{
    vt_free(h->text);
    vt_free(h->tensor);
    vt_free(h->meta);
    *h = (st_header){0};
}
