/* JSON documents: see json.h. */
#include "weights_tools/json.h"
#include "weights_tools/file.h"
#include "weights_tools/json_decode.h"

json_t *vt_json_parse(const char *path, const char *text, size_t n, vt_status *st)
{
    json_error_t error;
    json_t *doc = vt_json_decode(text, n, JSON_REJECT_DUPLICATES, &error);
    if (doc)
        return doc;
    if (vt_json_no_memory(&error))
        vt_fail(st, VT_MACHINE, "%s: not enough memory", path);
    else
        vt_fail(st, VT_INPUT, "%s: not valid JSON: %s (line %d, column %d)", path, error.text,
                error.line, error.column);
    return NULL;
}

json_t *vt_json_load(const char *path, size_t limit, vt_status *st)
{
    size_t n;
    char *text = vt_file_text(path, limit, &n, st);
    if (!text)
        return NULL;
    json_t *doc = vt_json_parse(path, text, n, st);
    vt_free(text);
    return doc;
}
