/* Where things stand in a JSON text: what jansson forgets once it has parsed it.
 *
 * All functions take the text as bytes and need no valid JSON: a cut or broken text is walked as
 * far as it makes sense. A path is a list of object keys; elements of arrays are not addressed.
 */
#ifndef VT_JSON_WHERE_H
#define VT_JSON_WHERE_H

#include <stdbool.h>
#include <stddef.h>

/* Byte offset of the value at `path` (at_key: of the key that names it), the nearest enclosing one
 * where it is absent. */
size_t vt_json_find(const char *text, size_t size, const char *const *path, int keys, bool at_key);

/* Line and column of a byte offset, from 1; columns count characters, not bytes. */
void vt_json_line(const char *text, size_t at, int *line, int *column);

/* Offset of the first number whose value is lost because it is too small for a double; else size. */
size_t vt_json_underflow(const char *text, size_t size);

/* The path in whose value (or key) the text ends, as text. */
void vt_json_path_at_end(const char *text, size_t size, char *out, size_t room);

/* A path as text: patterns.near.distance, layers."9,10"; quoted where not an identifier. */
void vt_json_path_text(const char *const *path, int keys, char *out, size_t room);

#endif
