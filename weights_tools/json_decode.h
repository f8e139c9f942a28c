/* JSON texts to jansson's values, by a reader of our own: RFC 8259 and nothing more.
 *
 * jansson's takes a shortage of memory for a syntax error, goes on without the rest of a text that
 * outgrew its buffer, and reads past a string whose closing quote had no room (2.14).
 */
#ifndef VT_JSON_DECODE_H
#define VT_JSON_DECODE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

/* The document in `text`: an object or array, with JSON_DECODE_ANY any value, with
 * JSON_DISABLE_EOF_CHECK followed by anything. Keys are there once; nesting ends at 2048. NULL with
 * error's text, line, column and position set where the text is wrong; NULL with an empty text where
 * memory was short. error->position is where reading ended, on success too. */
json_t *vt_json_decode(const char *text, size_t size, size_t flags, json_error_t *error);

/* The value as a text (json_dumps), to be freed; NULL where memory is short. jansson's own goes on
 * without a key that got none (2.14), and says nothing. */
char *vt_json_encode(const json_t *value, size_t flags);

/* Which of the two a failure was. */
bool vt_json_no_memory(const json_error_t *error);

#endif
