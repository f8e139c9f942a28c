/* JSON documents through jansson, strictly (no key twice, nothing behind the document), with this
 * house's errors: FILE: what is wrong (line, column).
 */
#ifndef VT_JSON_H
#define VT_JSON_H

#include "kernels/status.h"

#include <jansson.h>

/* The document in `text` (n bytes); `path` is for errors. json_decref gives it back. */
json_t *vt_json_parse(const char *path, const char *text, size_t n, vt_status *st);

/* The same from a file of at most `limit` bytes. */
json_t *vt_json_load(const char *path, size_t limit, vt_status *st);

#endif
