/* See json_where.h. One walker steps from value to value and knows the keys on the way there. */
#include "engine/masks/json_where.h"

#include <ctype.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/json_decode.h"

enum { LEVELS = 16 }; /* containers deeper than this are walked, but their keys not kept */

typedef struct {
    const char *text;
    size_t size, at; /* at: the next byte to look at */
    size_t begin;    /* of the value that the last step came to */
    int depth;       /* containers around it */
    bool opening;    /* that value is a container, which the next step enters */
    struct level {
        bool object, key_next;
        size_t key_at, key_size; /* the key with its quotes; size 0: none yet */
    } level[LEVELS];
} walker;

static struct level *innermost(walker *w)
{
    return w->depth > 0 && w->depth <= LEVELS ? &w->level[w->depth - 1] : NULL;
}

static void skip_string(walker *w)
{
    for (w->at++; w->at < w->size && w->text[w->at] != '"'; w->at++)
        w->at += w->text[w->at] == '\\';
    w->at = w->at < w->size ? w->at + 1 : w->size;
}

static void enter(walker *w)
{
    bool object = w->text[w->at++] == '{';
    w->opening = false;
    w->depth++;
    if (innermost(w))
        *innermost(w) = (struct level){.object = object, .key_next = object};
}

/* Punctuation between values. */
static void pass(walker *w, char c)
{
    struct level *in = innermost(w);
    w->at++;
    if (c == ',' && in && in->object)
        in->key_next = true;
    if ((c == '}' || c == ']') && w->depth > 0)
        w->depth--;
}

static void skip_scalar(walker *w)
{
    while (w->at < w->size && !strchr(",:{}[]\" \t\r\n", w->text[w->at]))
        w->at++;
}

/* Goes to the next value; false at the end of the text. */
static bool step(walker *w)
{
    if (w->opening)
        enter(w);
    while (w->at < w->size) {
        char c = w->text[w->at];
        struct level *in = innermost(w);
        w->begin = w->at;
        if (c == '"') {
            skip_string(w);
            if (!in || !in->key_next)
                return true;
            in->key_next = false;
            in->key_at = w->begin;
            in->key_size = w->at - w->begin;
        } else if (c == '{' || c == '[') {
            w->opening = true;
            return true;
        } else if (strchr(",:}] \t\r\n", c)) { /* a NUL byte too */
            pass(w, c);
        } else {
            skip_scalar(w);
            return true;
        }
    }
    return false;
}

/* The key of a level, decoded; NULL where it is not a whole string. Freed with free. */
static char *key_of(const walker *w, const struct level *l)
{
    json_error_t ignored;
    json_t *s = vt_json_decode(w->text + l->key_at, l->key_size, JSON_DECODE_ANY, &ignored);
    const char *text = json_string_value(s);
    char *copy = text ? strdup(text) : NULL;
    json_decref(s);
    return copy;
}

/* How many keys of the path lead to where the walker stands; -1: it stands elsewhere. */
static int on_path(const walker *w, const char *const *path, int keys)
{
    if (w->depth > keys || w->depth > LEVELS)
        return -1;
    for (int d = 0; d < w->depth; d++) {
        char *key = w->level[d].object ? key_of(w, &w->level[d]) : NULL;
        bool same = key && strcmp(key, path[d]) == 0;
        free(key);
        if (!same)
            return -1;
    }
    return w->depth;
}

size_t vt_json_find(const char *text, size_t size, const char *const *path, int keys, bool at_key)
{
    walker w = {.text = text, .size = size};
    size_t found = 0;
    int best = -1;
    while (best < keys && step(&w)) {
        int matched = on_path(&w, path, keys);
        if (matched <= best)
            continue;
        best = matched;
        found = at_key && matched == keys && matched > 0 ? w.level[matched - 1].key_at : w.begin;
    }
    return found;
}

void vt_json_line(const char *text, size_t at, int *line, int *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80) {
            ++*column;
        }
    }
}

static bool underflows(const char *number, size_t size)
{
    json_error_t ignored;
    json_t *value = vt_json_decode(number, size, JSON_DECODE_ANY, &ignored);
    double v = json_real_value(value);
    bool real = json_is_real(value), digits = false;
    json_decref(value);
    for (size_t i = 0; i < size && number[i] != 'e' && number[i] != 'E'; i++)
        digits |= number[i] >= '1' && number[i] <= '9';
    return real && digits && fabs(v) < DBL_MIN;
}

size_t vt_json_underflow(const char *text, size_t size)
{
    walker w = {.text = text, .size = size};
    while (step(&w)) {
        char c = text[w.begin];
        if ((c == '-' || isdigit((unsigned char)c)) && underflows(text + w.begin, w.at - w.begin))
            return w.begin;
    }
    return size;
}

void vt_json_path_at_end(const char *text, size_t size, char *out, size_t room)
{
    walker w = {.text = text, .size = size};
    char *key[LEVELS] = {0};
    int keys = 0;
    while (step(&w))
        ;
    for (int d = 0; d < w.depth && d < LEVELS; d++) {
        char *k = w.level[d].object && w.level[d].key_size ? key_of(&w, &w.level[d]) : NULL;
        if (!k)
            break;
        key[keys++] = k;
    }
    vt_json_path_text((const char *const *)key, keys, out, room);
    for (int k = 0; k < keys; k++)
        free(key[k]);
}

static bool is_identifier(const char *s)
{
    if (!isalpha((unsigned char)*s) && *s != '_')
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && *s != '_')
            return false;
    return true;
}

void vt_json_path_text(const char *const *path, int keys, char *out, size_t room)
{
    size_t used = 0;
    *out = '\0';
    for (int k = 0; k < keys && used < room; k++) {
        const char *quote = is_identifier(path[k]) ? "" : "\"", *dot = k ? "." : "";
        int n = snprintf(out + used, room - used, "%s%s%.64s%s", dot, quote, path[k], quote);
        used += n < 0 ? 0 : (size_t)n;
    }
}
