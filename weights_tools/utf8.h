/* What is UTF-8: no overlong form, no surrogate, nothing over U+10FFFF. */
#ifndef VT_UTF8_H
#define VT_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Length of the character at s (left bytes remain), 0 if there is none. */
static inline size_t vt_utf8_length(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return 1;
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || left < len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

static inline bool vt_utf8_valid(const char *s, size_t size)
{
    size_t length;
    for (size_t i = 0; i < size; i += length)
        if (!(length = vt_utf8_length((const unsigned char *)s + i, size - i)))
            return false;
    return true;
}

#endif
