/* See json_decode.h. A recursive descent; every function leaves p->at behind what it took. */
#include "weights_tools/json_decode.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/status.h"
#include "weights_tools/utf8.h"

enum { DEEPEST = 2048, NEAR = 20 /* bytes of a token that an error repeats */ };

typedef struct {
    const char *text;
    size_t size, at, token; /* token: where the last one began */
    int depth;
    json_error_t *error;
} reader;

static json_t *read_value(reader *p);

/* ---- errors ---- */

/* Lines and columns count what was taken so far, columns in characters. */
static void tell_place(reader *p)
{
    json_error_t *e = p->error;
    e->line = 1;
    e->column = 0;
    e->position = (int)p->at;
    for (size_t i = 0; i < p->at && i < p->size; i++) {
        if (p->text[i] == '\n') {
            e->line++;
            e->column = 0;
        } else if (((unsigned char)p->text[i] & 0xc0) != 0x80) {
            e->column++;
        }
    }
}

/* Always NULL. */
static void *wrong(reader *p, const char *fmt, ...)
{
    json_error_t *e = p->error;
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, args);
    va_end(args);
    tell_place(p);
    size_t n = strlen(e->text), length = p->at - p->token;
    if (p->token >= p->size)
        snprintf(e->text + n, sizeof e->text - n, " near end of file");
    else if (length > 0 && length <= NEAR && vt_utf8_valid(p->text + p->token, length))
        snprintf(e->text + n, sizeof e->text - n, " near '%.*s'", (int)length, p->text + p->token);
    return NULL;
}

static void *no_memory(reader *p)
{
    p->error->text[0] = '\0';
    return NULL;
}

bool vt_json_no_memory(const json_error_t *error)
{
    return error->text[0] == '\0';
}

/* ---- tokens ---- */

/* The next character that is no space, which begins a token; -1 at the end. */
static int peek(reader *p)
{
    while (p->at < p->size && memchr(" \t\n\r", p->text[p->at], 4))
        p->at++;
    p->token = p->at;
    return p->at < p->size ? (unsigned char)p->text[p->at] : -1;
}

/* Of what stands at p->at: a string, a word, or else a character. */
static size_t token_length(const reader *p)
{
    const char *s = p->text + p->at, *end;
    size_t n = 0, left = p->size - p->at;
    if (left && *s == '"' && (end = memchr(s + 1, '"', left - 1)))
        return (size_t)(end - s) + 1;
    while (n < left && isalnum((unsigned char)s[n]))
        n++;
    size_t character = left ? vt_utf8_length((const unsigned char *)s, left) : 0;
    return n ? n : character ? character : left > 0;
}

/* Takes what stands where something else was expected. Always NULL. */
static void *unexpected(reader *p, const char *message)
{
    p->at += token_length(p);
    return wrong(p, "%s", message);
}

static bool take(reader *p, char c)
{
    if (peek(p) != (unsigned char)c)
        return false;
    p->at++;
    return true;
}

/* ---- strings ---- */

/* Four hex digits at p->at, or -1. */
static long read_hex(reader *p)
{
    long code = 0;
    if (p->size - p->at < 4)
        return -1;
    for (int i = 0; i < 4; i++, p->at++) {
        char c = p->text[p->at];
        if (!isxdigit((unsigned char)c))
            return -1;
        code = code << 4 | (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return code;
}

static size_t put_utf8(char *out, long c)
{
    if (c < 0x80)
        return out[0] = (char)c, 1;
    if (c < 0x800)
        return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
               out[2] = (char)(0x80 | (c & 63)), 3;
    out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* \uXXXX or a pair of them, behind the u. Returns the bytes put out, 0 with the error told. */
static size_t read_unicode(reader *p, char *out)
{
    long code = read_hex(p);
    if (code < 0)
        return wrong(p, "invalid Unicode escape"), 0;
    if (code >= 0xd800 && code < 0xdc00 && p->size - p->at >= 2 &&
        memcmp(p->text + p->at, "\\u", 2) == 0) {
        p->at += 2;
        long low = read_hex(p);
        code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)
                                             : 0xd800;
    }
    if (code == 0)
        return wrong(p, "\\u0000 is not allowed"), 0;
    if (code >= 0xd800 && code < 0xe000)
        return wrong(p, "invalid Unicode: half of a surrogate pair"), 0;
    return put_utf8(out, code);
}

/* One character, plain or escaped. Returns the bytes put out, 0 with the error told. */
static size_t read_character(reader *p, char *out)
{
    const unsigned char *s = (const unsigned char *)p->text + p->at;
    if (*s != '\\') {
        size_t n = vt_utf8_length(s, p->size - p->at);
        if (*s == '\n')
            return wrong(p, "unexpected newline"), 0;
        if (*s < 0x20)
            return wrong(p, "control character 0x%x", *s), 0;
        if (n == 0)
            return wrong(p, "unable to decode byte 0x%x", *s), 0;
        memcpy(out, s, n);
        p->at += n;
        return n;
    }
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *name = p->size - p->at >= 2 ? memchr(names, s[1], 8) : NULL;
    p->at += p->size - p->at >= 2 ? 2 : 1;
    if (name)
        return *out = values[name - names], 1;
    if (p->text[p->at - 1] == 'u')
        return read_unicode(p, out);
    return wrong(p, "invalid escape"), 0;
}

/* A string, decoded, *length bytes and a NUL; freed with free. */
static char *read_string(reader *p, size_t *length)
{
    size_t end = p->at + 1, n = 0;
    while (end < p->size && p->text[end] != '"')
        end += p->text[end] == '\\' ? 2 : 1;
    char *out = malloc((end < p->size ? end : p->size) - p->at + 4); /* escapes are no shorter */
    if (!out)
        return no_memory(p);
    for (p->at++; p->at < p->size && p->text[p->at] != '"';) {
        size_t put = read_character(p, out + n);
        if (put == 0) {
            free(out);
            return NULL;
        }
        n += put;
    }
    if (p->at == p->size) {
        free(out);
        p->token = p->size;
        return wrong(p, "premature end of input");
    }
    p->at++;
    out[n] = '\0';
    *length = n;
    return out;
}

static json_t *read_text(reader *p)
{
    size_t length = 0;
    char *s = read_string(p, &length);
    if (!s)
        return NULL;
    json_t *value = json_stringn_nocheck(s, length);
    free(s);
    return value ? value : no_memory(p);
}

/* ---- numbers ---- */

static size_t digits(const reader *p, size_t at)
{
    size_t n = 0;
    while (at + n < p->size && p->text[at + n] >= '0' && p->text[at + n] <= '9')
        n++;
    return n;
}

/* Length of the number at p->at, 0 if there is none; *whole: it is written as an integer. */
static size_t number_length(const reader *p, bool *whole)
{
    size_t at = p->at + (p->text[p->at] == '-'), n = digits(p, at), fraction = 0;
    if (n == 0)
        return 0;
    at += p->text[at] == '0' ? 1 : n; /* no leading zeros */
    *whole = true;
    if (at < p->size && p->text[at] == '.') {
        fraction = digits(p, at + 1);
        if (fraction == 0)
            return 0;
        at += 1 + fraction;
        *whole = false;
    }
    if (at < p->size && (p->text[at] == 'e' || p->text[at] == 'E')) {
        size_t sign = at + 1 < p->size && memchr("+-", p->text[at + 1], 2) ? 1 : 0;
        n = digits(p, at + 1 + sign);
        if (n == 0)
            return 0;
        at += 1 + sign + n;
        *whole = false;
    }
    return at - p->at;
}

/* `number` is the text by itself. */
static json_t *convert(reader *p, const char *number, bool whole)
{
    errno = 0;
    if (whole) {
        json_int_t i = strtoll(number, NULL, 10);
        if (errno == ERANGE)
            return wrong(p, i < 0 ? "too big negative integer" : "too big integer");
        json_t *value = json_integer(i);
        return value ? value : no_memory(p);
    }
    double x = vt_strtod(number, NULL);
    if (isinf(x))
        return wrong(p, "real number overflow");
    json_t *value = json_real(x);
    return value ? value : no_memory(p);
}

static json_t *read_number(reader *p)
{
    bool whole;
    char short_one[64];
    int before = errno;
    size_t n = number_length(p, &whole);
    if (n == 0)
        return unexpected(p, "invalid token");
    char *number = n < sizeof short_one ? short_one : malloc(n + 1);
    if (!number)
        return no_memory(p);
    memcpy(number, p->text + p->at, n);
    number[n] = '\0';
    p->at += n;
    json_t *value = convert(p, number, whole);
    errno = before;
    if (number != short_one)
        free(number);
    return value;
}

/* ---- containers ---- */

/* "KEY": VALUE into the object; 0, or -1 with the error told. */
static int read_member(reader *p, json_t *object)
{
    size_t length;
    if (peek(p) != '"')
        return unexpected(p,
                          json_object_size(object) ? "string expected" : "string or '}' expected"),
               -1;
    char *key = read_string(p, &length);
    json_t *value = NULL;
    if (key && json_object_get(object, key))
        wrong(p, "duplicate object key");
    else if (key && !take(p, ':'))
        unexpected(p, "':' expected");
    else if (key && (value = read_value(p)) && json_object_set_new_nocheck(object, key, value) != 0)
        value = no_memory(p);
    free(key);
    return value ? 0 : -1;
}

static json_t *read_object(reader *p)
{
    json_t *object = json_object();
    p->at++;
    if (!object)
        return no_memory(p);
    if (take(p, '}'))
        return object;
    while (read_member(p, object) == 0) {
        if (take(p, '}'))
            return object;
        if (!take(p, ',')) {
            unexpected(p, "'}' expected");
            break;
        }
    }
    json_decref(object);
    return NULL;
}

static json_t *read_array(reader *p)
{
    json_t *array = json_array(), *value;
    p->at++;
    if (!array)
        return no_memory(p);
    if (take(p, ']'))
        return array;
    while ((value = read_value(p))) {
        if (json_array_append_new(array, value) != 0) {
            no_memory(p);
            break;
        }
        if (take(p, ']'))
            return array;
        if (!take(p, ',')) {
            unexpected(p, "']' expected");
            break;
        }
    }
    json_decref(array);
    return NULL;
}

static json_t *read_word(reader *p)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (p->size - p->at < n || memcmp(p->text + p->at, words[i], n) != 0)
            continue;
        p->at += n;
        return i == 0 ? json_true() : i == 1 ? json_false() : json_null();
    }
    return unexpected(p, "invalid token");
}

static json_t *read_value(reader *p)
{
    int c = peek(p);
    if (p->depth >= DEEPEST)
        return unexpected(p, "maximum parsing depth reached");
    p->depth++;
    json_t *value = c == '{'                             ? read_object(p)
                    : c == '['                           ? read_array(p)
                    : c == '"'                           ? read_text(p)
                    : c == '-' || (c >= '0' && c <= '9') ? read_number(p)
                    : c < 0 || strchr("}],:", c)         ? unexpected(p, "unexpected token")
                                                         : read_word(p);
    p->depth--;
    return value;
}

json_t *vt_json_decode(const char *text, size_t size, size_t flags, json_error_t *error)
{
    reader p = {.text = text, .size = size, .error = error};
    *error = (json_error_t){.line = -1, .column = -1};
    int c = peek(&p);
    if (!(flags & JSON_DECODE_ANY) && c != '{' && c != '[')
        return unexpected(&p, "'[' or '{' expected");
    json_t *value = read_value(&p);
    if (value && !(flags & JSON_DISABLE_EOF_CHECK) && peek(&p) >= 0) {
        json_decref(value);
        return unexpected(&p, "end of file expected");
    }
    if (value)
        error->position = (int)p.at;
    return value;
}

char *vt_json_encode(const json_t *value, size_t flags)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int bad = !f || json_dumpf(value, f, flags) || ferror(f);
    if ((f && fclose(f) != 0) || bad) {
        free(text);
        return NULL;
    }
    return text;
}
