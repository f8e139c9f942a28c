/* How anything in vitrun fails, and how sizes and memory are asked for.
 *
 * A fallible function takes a vt_status as its last parameter and returns 0 or -1 (or a pointer or
 * NULL). The place that notices sets the text once; callers hand it on. The text is complete for a
 * user: "FILE: what is wrong (where; expected ..., found ...)". Nothing below engine/cli prints.
 */
#ifndef VT_STATUS_H
#define VT_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { /* the values are the program's exit statuses */
               VT_OK = 0,
               VT_MACHINE = 1,   /* memory, disk, device, a read that fails after opening */
               VT_USAGE = 2,     /* unknown option, bad value, impossible combination */
               VT_INPUT = 3,     /* a given file is absent, broken or does not fit */
               VT_CANCELLED = 4, /* the caller asked to stop; the program never does */
} vt_code;

typedef struct {
    vt_code code;
    char text[512];
} vt_status;

#if defined(__GNUC__)
#define VT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define VT_PRINTF(fmt, args)
#endif

/* Sets code and text: control characters become '?', and a text that is too long, as a path may be,
 * loses its middle, never its end, which is the reason. Always returns -1. */
int vt_fail(vt_status *st, vt_code code, const char *fmt, ...) VT_PRINTF(3, 4);

/* Puts a formatted prefix and ": " before the text that st already holds. Always returns -1. */
int vt_prefix(vt_status *st, const char *fmt, ...) VT_PRINTF(2, 3);

/* snprintf, and strtod, that have a decimal point whatever the host program's locale. */
int vt_format(char *out, size_t room, const char *fmt, ...) VT_PRINTF(3, 4);
double vt_strtod(const char *text, char **end);

/* a * b and a + b; false where the result does not fit, and *out is then untouched. */
bool vt_mul(size_t a, size_t b, size_t *out);
bool vt_add(size_t a, size_t b, size_t *out);

/* count * size zeroed bytes, aligned to 64. NULL with VT_MACHINE set where there is no memory or
 * the product overflows; count * size == 0 gives a valid pointer. `what` names the buffer in the
 * error. Freed with vt_free. Every allocation of the library goes through here. */
void *vt_alloc(size_t count, size_t size, const char *what, vt_status *st);
void vt_free(void *p);

/* A copy of the text s; freed with vt_free. */
char *vt_strdup(const char *s, vt_status *st);

#endif
