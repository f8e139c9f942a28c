/* Error texts, checked sizes, aligned zeroed memory: see status.h. */
#include "kernels/status.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* WHOLE: two paths of the longest kind and what is said of them. */
enum { ALIGNMENT = 64, WHOLE = 2 * 4096 + 1024, HEAD = 160 };

/* One line whatever a file's bytes were: control characters become '?'. */
static void flatten(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static bool is_continuation(char c) /* of a UTF-8 sequence */
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Takes the text over. One that does not fit loses its middle: errors begin with a path, which may
 * be long, and end with the reason, which is what matters. */
static void set_text(vt_status *st, char *whole)
{
    static const char dots[] = "...";
    size_t length = strlen(whole), room = sizeof st->text - 1, head = HEAD;
    flatten(whole);
    if (length <= room) {
        memcpy(st->text, whole, length + 1);
        return;
    }
    while (is_continuation(whole[head]) && head > 0)
        head--;
    const char *tail = whole + length - (room - head - strlen(dots));
    while (is_continuation(*tail))
        tail++;
    snprintf(st->text, sizeof st->text, "%.*s%s%s", (int)head, whole, dots, tail);
}

/* This thread's locale is "C" between the two. Where there is none to be had, nothing changes. */
typedef struct {
    locale_t c, before;
} c_locale;

static c_locale enter_c(void)
{
    c_locale l = {newlocale(LC_ALL_MASK, "C", (locale_t)0), (locale_t)0};
    if (l.c)
        l.before = uselocale(l.c);
    return l;
}

static void leave_c(c_locale l)
{
    if (!l.c)
        return;
    uselocale(l.before);
    freelocale(l.c);
}

static int format(char *out, size_t room, const char *fmt, va_list args)
{
    c_locale l = enter_c();
    int n = vsnprintf(out, room, fmt, args);
    leave_c(l);
    return n;
}

int vt_format(char *out, size_t room, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = format(out, room, fmt, args);
    va_end(args);
    return n;
}

double vt_strtod(const char *text, char **end)
{
    c_locale l = enter_c();
    double x = strtod(text, end);
    leave_c(l);
    return x;
}

int vt_fail(vt_status *st, vt_code code, const char *fmt, ...)
{
    char whole[WHOLE];
    va_list args;
    va_start(args, fmt);
    format(whole, sizeof whole, fmt, args);
    va_end(args);
    set_text(st, whole);
    st->code = code;
    return -1;
}

int vt_prefix(vt_status *st, const char *fmt, ...)
{
    char whole[WHOLE];
    va_list args;
    va_start(args, fmt);
    format(whole, sizeof whole - sizeof st->text - 2, fmt, args);
    va_end(args);
    size_t n = strlen(whole);
    snprintf(whole + n, sizeof whole - n, ": %s", st->text);
    set_text(st, whole);
    return -1;
}

bool vt_mul(size_t a, size_t b, size_t *out)
{
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *out = a * b;
    return true;
}

bool vt_add(size_t a, size_t b, size_t *out)
{
    if (b > SIZE_MAX - a)
        return false;
    *out = a + b;
    return true;
}

void *vt_alloc(size_t count, size_t size, const char *what, vt_status *st)
{
    size_t bytes, padded;
    if (!vt_mul(count, size, &bytes) || !vt_add(bytes, 2 * ALIGNMENT, &padded)) {
        vt_fail(st, VT_MACHINE, "%s: size overflows (%zu x %zu bytes)", what, count, size);
        return NULL;
    }
    char *block = calloc(padded, 1); /* large blocks come zeroed, untouched until used */
    if (!block) {
        vt_fail(st, VT_MACHINE, "%s: not enough memory (%zu bytes asked for)", what, bytes);
        return NULL;
    }
    void **p = (void **)(block + ALIGNMENT - (uintptr_t)block % ALIGNMENT);
    p[-1] = block; /* calloc aligns to 16, so there is room before p */
    return p;
}

void vt_free(void *p)
{
    if (p)
        free(((void **)p)[-1]);
}

char *vt_strdup(const char *s, vt_status *st)
{
    size_t n = strlen(s) + 1;
    char *copy = vt_alloc(n, 1, "text", st);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}
