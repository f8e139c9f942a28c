/* See json_decode.h. An allocator that fails leaves ENOMEM in errno. jansson clears errno before it
 * reads a number's value, but never between a failure and the next character that it takes: so it
 * is given one at a time, and errno is looked at each time. */
#include "weights_tools/json_decode.h"

#include <errno.h>
#include <string.h>

typedef struct {
    const char *text;
    size_t left;
    bool lost; /* memory was short */
} source;

static size_t next_byte(void *to, size_t room, void *user)
{
    source *s = user;
    (void)room;
    s->lost |= errno == ENOMEM;
    if (s->lost || s->left == 0)
        return 0;
    memcpy(to, s->text++, 1);
    s->left--;
    return 1;
}

json_t *vt_json_decode(const char *text, size_t size, size_t flags, json_error_t *error)
{
    source s = {text, size, false};
    int before = errno;
    errno = 0;
    json_t *value = json_load_callback(next_byte, &s, flags, error);
    s.lost |= errno == ENOMEM;
    errno = before;
    if (!s.lost)
        return value;
    json_decref(value);
    error->text[0] = '\0';
    errno = ENOMEM;
    return NULL;
}

json_t *vt_json_string(const char *text, size_t size, bool *lost)
{
    int before = errno;
    errno = 0;
    json_t *value = json_stringn(text, size);
    *lost = !value && errno == ENOMEM;
    errno = before;
    return value;
}

bool vt_json_no_memory(const json_error_t *error)
{
    return error->text[0] == '\0';
}
