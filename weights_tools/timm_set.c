/* --set KEY=VALUE. A value is JSON (0.9, true, [0.5,0.5,0.5], "avg"); or a word as it stands (avg);
 * or numbers with commas (0.5,0.5,0.5); or HxW; or None.
 */
#include "weights_tools/timm_build.h"

#include <stdio.h>
#include <string.h>

#include "weights_tools/json_decode.h"
#include "weights_tools/utf8.h"

/* NULL where the text is no JSON, or (*lost) there is no memory. */
static json_t *decode(const char *text, bool *lost)
{
    json_error_t error;
    json_t *v =
        vt_json_decode(text, strlen(text), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    *lost = !v && vt_json_no_memory(&error);
    return v;
}

/* The text with its x between the parts as a comma, in brackets, if that is JSON. */
static json_t *decode_list(const char *text, bool *lost)
{
    char list[200];
    size_t n = strlen(text);
    if (n + 3 > sizeof list || n == 0 || !strchr("-.0123456789", text[0]))
        return NULL;
    snprintf(list, sizeof list, "[%s]", text);
    for (char *c = list; *c; c++)
        if (*c == 'x')
            *c = ',';
    return decode(list, lost);
}

static json_t *parse_value(const char *text, bool *lost)
{
    json_t *v = NULL;
    if (strcmp(text, "None") == 0)
        v = json_null();
    else if (strcmp(text, "True") == 0)
        v = json_true();
    else if (strcmp(text, "False") == 0)
        v = json_false();
    if (!v)
        v = decode(text, lost);
    if (!v && !*lost)
        v = decode_list(text, lost);
    if (v || *lost || !vt_utf8_valid(text, strlen(text)))
        return v;
    v = json_string_nocheck(text);
    *lost = !v;
    return v;
}

int timm_apply_set(timm_build *b, const char *text)
{
    char source[120], name[64];
    const char *equals = strchr(text, '=');
    snprintf(source, sizeof source, "--set %s", text);
    b->source = source;
    b->origin = VT_FROM_OPTION;
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof name)
        return timm_bad(b, "", "expected KEY=VALUE");
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    bool lost = false;
    json_t *v = parse_value(equals + 1, &lost);
    if (lost)
        return vt_fail(b->st, VT_MACHINE, "%s: not enough memory", source);
    if (!v)
        return timm_bad(b, "", "the value is no text in UTF-8");
    int rc = timm_apply_key(b, name, v);
    json_decref(v);
    return rc;
}
