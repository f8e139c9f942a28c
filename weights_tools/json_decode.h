/* json_loadb, but a shortage of memory is told from a text that is wrong.
 *
 * jansson 2.14 does not: where it gets no memory for a string it finds a syntax error there, and
 * where a number or a string outgrows its buffer it goes on without the rest.
 */
#ifndef VT_JSON_DECODE_H
#define VT_JSON_DECODE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

/* NULL with error->text set where the text is wrong; NULL with error->text empty where memory was
 * short. */
json_t *vt_json_decode(const char *text, size_t size, size_t flags, json_error_t *error);

/* json_stringn with the same distinction: NULL where the text is no UTF-8, or (*lost) there is no
 * memory. */
json_t *vt_json_string(const char *text, size_t size, bool *lost);

/* Which of the two a failure was. */
bool vt_json_no_memory(const json_error_t *error);

#endif
