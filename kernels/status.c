/* Error texts, checked sizes, aligned zeroed memory: see status.h. */
#include "kernels/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* One line whatever a file's bytes were: control characters become '?'. */
static void flatten(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

int vt_fail(vt_status *st, vt_code code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(st->text, sizeof st->text, fmt, args);
    va_end(args);
    flatten(st->text);
    st->code = code;
    return -1;
}

int vt_prefix(vt_status *st, const char *fmt, ...)
{
    char old[sizeof st->text];
    memcpy(old, st->text, sizeof old);
    va_list args;
    va_start(args, fmt);
    vsnprintf(st->text, sizeof st->text, fmt, args);
    va_end(args);
    strncat(st->text, ": ", sizeof st->text - 1 - strlen(st->text));
    strncat(st->text, old, sizeof st->text - 1 - strlen(st->text));
    flatten(st->text);
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
    if (!vt_mul(count, size, &bytes) || !vt_add(bytes, ALIGNMENT - 1, &padded)) {
        vt_fail(st, VT_MACHINE, "%s: size overflows (%zu x %zu bytes)", what, count, size);
        return NULL;
    }
    padded &= ~(size_t)(ALIGNMENT - 1);
    void *p = aligned_alloc(ALIGNMENT, padded ? padded : ALIGNMENT);
    if (!p) {
        vt_fail(st, VT_MACHINE, "%s: not enough memory (%zu bytes asked for)", what, bytes);
        return NULL;
    }
    memset(p, 0, padded);
    return p;
}

void vt_free(void *p)
{
    free(p);
}

char *vt_strdup(const char *s, vt_status *st)
{
    size_t n = strlen(s) + 1;
    char *copy = vt_alloc(n, 1, "text", st);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}
