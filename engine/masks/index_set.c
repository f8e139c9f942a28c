/* See index_set.h.
 *
 *   set   = range { "," range }
 *   range = "all" | index | index "-" index | index "-"
 */
#include "engine/masks/index_set.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>

static const char *skip_blanks(const char *s)
{
    return s + strspn(s, " \t");
}

static bool read_index(const char **s, int64_t *out)
{
    int64_t value = 0;
    if (!isdigit((unsigned char)**s))
        return false;
    for (; isdigit((unsigned char)**s); ++*s) /* stays out of range once it is */
        value = value < INT64_MAX / 10 ? value * 10 + (**s - '0') : value;
    *out = value;
    return true;
}

/* One range at *s; an open one ends with the last of `count`, or where it begins if that is later. */
static bool read_range(const char **s, int count, int64_t *first, int64_t *last)
{
    if (strncmp(*s, "all", 3) == 0) {
        *s += 3;
        *first = 0;
        *last = count - 1;
        return true;
    }
    if (!read_index(s, first))
        return false;
    *last = *first;
    *s = skip_blanks(*s);
    if (**s != '-')
        return true;
    *s = skip_blanks(*s + 1);
    *last = count - 1 > *first ? count - 1 : *first;
    read_index(s, last);
    return true;
}

/* Steps over one range and what separates it from the next; *more: there is a next. */
static bool next_range(const char **s, int count, int64_t *first, int64_t *last, bool *more)
{
    *s = skip_blanks(*s);
    if (!read_range(s, count, first, last))
        return false;
    *s = skip_blanks(*s);
    *more = **s == ',';
    if (*more)
        ++*s;
    return *more || **s == '\0';
}

static int add_range(int64_t first, int64_t last, const char *what, int count, bool *in,
                     vt_status *st)
{
    if (last < first)
        return vt_fail(st, VT_USAGE, "the range %lld-%lld runs backwards", (long long)first,
                       (long long)last);
    if (last >= count)
        return vt_fail(st, VT_USAGE, "%s %lld: the model has %ss 0 to %d", what,
                       (long long)(first >= count ? first : last), what, count - 1);
    for (int64_t i = first; i <= last; i++) {
        if (in[i])
            return vt_fail(st, VT_USAGE, "%s %lld is named twice", what, (long long)i);
        in[i] = true;
    }
    return 0;
}

int vt_index_set_read(const char *text, const char *what, int count, bool *in, vt_status *st)
{
    const char *s = text;
    bool more = true;
    memset(in, 0, (size_t)count * sizeof *in);
    while (more) {
        int64_t first, last;
        if (!next_range(&s, count, &first, &last, &more))
            return vt_fail(st, VT_USAGE,
                           "expected %ss such as 3 or 0-7 or 9,10 or 8- or all, found '%.40s'",
                           what, text);
        if (add_range(first, last, what, count, in, st) < 0)
            return -1;
    }
    return 0;
}

int vt_index_set_extent(const char *text)
{
    const char *s = text;
    bool more = true;
    int extent = 1;
    while (more) {
        int64_t first, last;
        if (!next_range(&s, 1, &first, &last, &more))
            return 1;
        extent = last < extent ? extent : last < INT_MAX ? (int)last + 1 : INT_MAX;
    }
    return extent;
}

size_t vt_index_set_prefix(const char *text)
{
    const char *s = skip_blanks(text);
    if (!isdigit((unsigned char)*s) && strncmp(s, "all", 3) != 0)
        return 0;
    s += strspn(s, "0123456789,- \tal");
    return *s == ':' ? (size_t)(s - text) + 1 : 0;
}
