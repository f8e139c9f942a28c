/* The expression language.
 *
 *   expression = and { "|" and }
 *   and        = unary { "&" unary }
 *   unary      = "~" unary | "(" expression ")" | name | call
 *   call       = name "(" [ argument { "," argument } ] ")"
 *   argument   = name "=" ( JSON value | call )
 * A name is a pattern of the document or "dense" (every pair); a call constructs a pattern type.
 * A document's pattern may itself be an expression, as long as it does not lead back to itself.
 *
 * Expressions are evaluated as they are read: there is no tree besides the patterns.
 */
#include "engine/masks/pattern.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/masks/json_where.h"
#include "weights_tools/json_decode.h"
#include "weights_tools/timm_config.h"

enum { MAX_NESTING = 32, MAX_LENGTH = 65536, NAME = 64 };

struct vt_visit {
    const char *name;
    const struct vt_visit *outer;
    int depth;
};

typedef struct {
    vt_pattern_env *env;
    const char *text;
    size_t at;
    int column; /* of the text's first character */
    int nesting;
    vt_status *st;
} parser;

typedef struct {
    vt_pattern **item;
    int count, room;
} list;

/* ---- errors and characters ---- */

static int column_of(const parser *p, size_t at)
{
    int line, column;
    vt_json_line(p->text, at, &line, &column);
    return p->column + column - 1;
}

static int fail_at(const parser *p, size_t at, const char *what)
{
    return vt_fail(p->st, VT_USAGE, "column %d: %s", column_of(p, at), what);
}

static char peek(parser *p)
{
    while (p->text[p->at] && strchr(" \t\r\n", p->text[p->at]))
        p->at++;
    return p->text[p->at];
}

static bool take(parser *p, char c)
{
    if (peek(p) != c)
        return false;
    p->at++;
    return true;
}

static int fail_expected(parser *p, const char *expected)
{
    char found[16] = "the end", text[96];
    if (peek(p)) {
        int n = 1; /* one whole character, however many bytes it has */
        while (((unsigned char)p->text[p->at + (size_t)n] & 0xc0) == 0x80 && n < 4)
            n++;
        snprintf(found, sizeof found, "'%.*s'", n, p->text + p->at);
    }
    snprintf(text, sizeof text, "expected %s, found %s", expected, found);
    return fail_at(p, p->at, text);
}

static bool starts_name(char c)
{
    return isalpha((unsigned char)c) || c == '_';
}

/* Reads a name into out[NAME]. */
static int read_name(parser *p, const char *expected, char *out)
{
    size_t n = 0;
    if (!starts_name(peek(p)))
        return fail_expected(p, expected);
    const char *s = p->text + p->at;
    while (isalnum((unsigned char)s[n]) || s[n] == '_')
        n++;
    if (n >= NAME)
        return fail_at(p, p->at, "the name is longer than 63 characters");
    memcpy(out, s, n);
    out[n] = '\0';
    p->at += n;
    return 0;
}

/* Counts a level of nesting; the caller takes it back. */
static int deeper(parser *p)
{
    if (++p->nesting > MAX_NESTING)
        return fail_at(p, p->at, "nests too deeply (more than 32 levels)");
    return 0;
}

/* ---- calls ---- */

static int read_call(parser *p, json_t *spec, json_t *columns);

static bool call_follows(const parser *p)
{
    size_t at = p->at;
    while (isalnum((unsigned char)p->text[at]) || p->text[at] == '_')
        at++;
    while (p->text[at] == ' ')
        at++;
    return starts_name(p->text[p->at]) && p->text[at] == '(';
}

/* A call as an argument: {"type": name, ...}. */
static json_t *read_inner_call(parser *p)
{
    char name[NAME];
    json_t *spec = json_object();
    if (deeper(p) < 0 || read_name(p, "a name", name) < 0 ||
        json_object_set_new(spec, "type", json_string(name)) < 0 || read_call(p, spec, NULL) < 0) {
        json_decref(spec);
        return NULL;
    }
    p->nesting--;
    return spec;
}

static json_t *read_value(parser *p)
{
    json_error_t error;
    char text[128];
    if (!peek(p) || strchr(",)", peek(p))) {
        fail_expected(p, "a value");
        return NULL;
    }
    if (call_follows(p))
        return read_inner_call(p);
    const char *s = p->text + p->at;
    json_t *value = vt_json_decode(
        s, strlen(s), JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &error);
    if (!value && vt_json_no_memory(&error)) {
        vt_fail(p->st, VT_MACHINE, "not enough memory");
        return NULL;
    }
    if (!value) {
        snprintf(text, sizeof text, "not a JSON value such as 5, \"inf\" or [0, 1]: %.70s",
                 error.text);
        fail_at(p, p->at, text);
        return NULL;
    }
    if (vt_json_underflow(s, (size_t)error.position) < (size_t)error.position) {
        fail_at(p, p->at, "the number is too small for double precision");
        json_decref(value);
        return NULL;
    }
    p->at += (size_t)error.position;
    return value;
}

/* One NAME=VALUE into spec; its column into columns, where given. */
static int read_argument(parser *p, json_t *spec, json_t *columns)
{
    char name[NAME];
    peek(p);
    size_t at = p->at;
    if (read_name(p, "NAME=VALUE", name) < 0)
        return -1;
    if (!take(p, '='))
        return fail_expected(p, "'='");
    if (json_object_get(spec, name))
        return fail_at(p, at,
                       strcmp(name, "type") ? "the argument is given twice"
                                            : "type is the constructor's own name");
    json_t *value = read_value(p);
    if (!value)
        return -1;
    if (json_object_set_new(spec, name, value) < 0 ||
        (columns && json_object_set_new(columns, name, json_integer(column_of(p, at))) < 0))
        return vt_fail(p->st, VT_MACHINE, "expression: not enough memory");
    return 0;
}

/* "(" arguments ")". */
static int read_call(parser *p, json_t *spec, json_t *columns)
{
    if (!take(p, '('))
        return fail_expected(p, "'('");
    if (take(p, ')'))
        return 0;
    do
        if (read_argument(p, spec, columns) < 0)
            return -1;
    while (take(p, ','));
    return take(p, ')') ? 0 : fail_expected(p, "',' or ')'");
}

/* Says where the fault of a constructor lies: column and parameter. */
static void place_fault(const parser *p, size_t at, const char *name, const struct vt_fault *fault,
                        const json_t *columns)
{
    char path[160];
    int column = column_of(p, at);
    if (fault->keys == 0) {
        vt_prefix(p->st, "column %d", column);
        return;
    }
    const json_t *known = json_object_get(columns, fault->key[0]);
    if (strcmp(fault->key[0], "type") == 0) { /* the text has the name already */
        vt_prefix(p->st, "column %d", column);
        return;
    }
    vt_json_path_text(fault->key, fault->keys, path, sizeof path);
    vt_prefix(p->st, "column %d: %s: %s", known ? (int)json_integer_value(known) : column, name,
              path);
}

static vt_pattern *read_constructor(parser *p, size_t at, const char *name)
{
    struct vt_fault fault = {0};
    vt_pattern *pattern = NULL;
    json_t *spec = json_object(), *columns = json_object();
    if (!spec || !columns || json_object_set_new(spec, "type", json_string(name)) < 0) {
        vt_fail(p->st, VT_MACHINE, "expression: not enough memory");
    } else if (read_call(p, spec, columns) == 0) {
        pattern = vt_pattern_build(p->env, spec, &fault, p->st);
        if (!pattern)
            place_fault(p, at, name, &fault, columns);
    }
    json_decref(spec);
    json_decref(columns);
    return pattern;
}

/* ---- names ---- */

static vt_pattern *unknown_name(const parser *p, size_t at, const char *name)
{
    char text[256];
    const char *arguments = vt_pattern_arguments(name);
    if (arguments) {
        snprintf(text, sizeof text, "'%s' is a pattern type: write %s%s", name, name, arguments);
    } else {
        const char **names = vt_pattern_names(p->env, p->st);
        if (!names)
            return NULL;
        const char *near = vt_nearest(name, names);
        arguments = near && !json_object_get(p->env->named, near) ? vt_pattern_arguments(near) : "";
        snprintf(text, sizeof text, "unknown pattern '%s'%s%.63s%s%s", name,
                 near ? " (did you mean '" : "", near ? near : "", arguments ? arguments : "",
                 near ? "'?)" : "");
        vt_free(names);
    }
    fail_at(p, at, text);
    return NULL;
}

/* Puts "patterns", name before the keys of a fault inside a named pattern, unless the fault lies in
 * another named pattern that this one refers to. */
static void place_named_fault(vt_pattern_env *env, const char *name, const struct vt_fault *inner)
{
    if (env->fault.keys)
        return;
    env->fault = (struct vt_fault){.key = {"patterns", name}, .keys = 2, .at_key = inner->at_key};
    for (int k = 0; k < inner->keys && env->fault.keys < 8; k++)
        env->fault.key[env->fault.keys++] = inner->key[k];
}

static vt_pattern *build_named(vt_pattern_env *env, const char *name, json_t *value, vt_status *st)
{
    struct vt_fault fault = {0};
    struct vt_visit visit = {name, env->visiting, env->visiting ? env->visiting->depth + 1 : 1};
    for (const struct vt_visit *v = env->visiting; v; v = v->outer)
        if (strcmp(v->name, name) == 0 || visit.depth > MAX_NESTING) {
            vt_fail(st, VT_USAGE,
                    visit.depth > MAX_NESTING
                        ? "patterns refer to each other over more than 32 levels"
                        : "the pattern refers to itself");
            place_named_fault(env, name, &fault);
            return NULL;
        }
    env->visiting = &visit;
    vt_pattern *p = NULL;
    if (json_is_object(value))
        p = vt_pattern_build(env, value, &fault, st);
    else if (json_is_string(value))
        p = vt_expr_build(env, json_string_value(value), 1, st);
    else
        vt_fail(st, VT_USAGE, "expected an object with a type, or an expression");
    env->visiting = visit.outer;
    if (!p)
        place_named_fault(env, name, &fault);
    return p;
}

static vt_pattern *find_name(parser *p, size_t at, const char *name)
{
    char key[NAME + 24];
    const char *own;
    json_t *value;
    if (strcmp(name, "dense") == 0)
        return vt_pattern_all(p->env, p->st);
    if (!json_object_get(p->env->named, name))
        return unknown_name(p, at, name);
    snprintf(key, sizeof key, "%s%d=%s", p->env->check_only ? "?" : "", p->env->head, name);
    vt_pattern *pattern = vt_memo_get(p->env, key);
    if (pattern)
        return pattern;
    /* the document's copy of the name outlives this expression */
    void *entry = json_object_iter_at(p->env->named, name);
    own = json_object_iter_key(entry);
    value = json_object_iter_value(entry);
    pattern = build_named(p->env, own, value, p->st);
    return pattern && vt_memo_put(p->env, key, pattern, p->st) == 0 ? pattern : NULL;
}

/* ---- the grammar ---- */

static vt_pattern *read_expression(parser *p);

static vt_pattern *read_named(parser *p)
{
    char name[NAME];
    peek(p);
    size_t at = p->at;
    if (read_name(p, "a pattern", name) < 0)
        return NULL;
    return peek(p) == '(' ? read_constructor(p, at, name) : find_name(p, at, name);
}

static vt_pattern *combine(parser *p, size_t at, char op, vt_pattern **child, int children)
{
    vt_pattern *joined = vt_pattern_combine(p->env, op, child, children, p->st);
    if (!joined)
        vt_prefix(p->st, "column %d", column_of(p, at));
    return joined;
}

static vt_pattern *read_unary(parser *p)
{
    vt_pattern *inner;
    char c = peek(p);
    size_t at = p->at;
    if (c != '~' && c != '(')
        return read_named(p);
    if (deeper(p) < 0)
        return NULL;
    p->at++;
    inner = c == '~' ? read_unary(p) : read_expression(p);
    if (!inner)
        return NULL;
    p->nesting--;
    if (c == '~')
        return combine(p, at, '~', &inner, 1);
    if (!take(p, ')')) {
        fail_expected(p, "'|', '&' or ')'");
        return NULL;
    }
    return inner;
}

static int append(list *l, vt_pattern *p, vt_status *st)
{
    if (l->count == l->room) {
        int room = l->room ? 2 * l->room : 8;
        vt_pattern **item = vt_alloc((size_t)room, sizeof *item, "expression", st);
        if (!item)
            return -1;
        if (l->count)
            memcpy(item, l->item, (size_t)l->count * sizeof *item);
        vt_free(l->item);
        l->item = item;
        l->room = room;
    }
    l->item[l->count++] = p;
    return 0;
}

/* operand { op operand }, joined in one pattern. */
static vt_pattern *read_chain(parser *p, char op, vt_pattern *(*operand)(parser *))
{
    list terms = {0};
    vt_pattern *joined = NULL;
    size_t at = 0;
    do {
        vt_pattern *term = operand(p);
        if (!term || append(&terms, term, p->st) < 0)
            goto done;
        if (terms.count == 1) {
            peek(p);
            at = p->at;
        }
    } while (take(p, op));
    joined = terms.count == 1 ? terms.item[0] : combine(p, at, op, terms.item, terms.count);
done:
    vt_free(terms.item);
    return joined;
}

static vt_pattern *read_and(parser *p)
{
    return read_chain(p, '&', read_unary);
}

static vt_pattern *read_expression(parser *p)
{
    return read_chain(p, '|', read_and);
}

vt_pattern *vt_expr_build(vt_pattern_env *env, const char *text, int column, vt_status *st)
{
    parser p = {.env = env, .text = text, .column = column, .st = st};
    if (strlen(text) > MAX_LENGTH) {
        fail_at(&p, 0, "the expression is longer than 65536 bytes");
        return NULL;
    }
    vt_pattern *pattern = read_expression(&p);
    if (pattern && peek(&p)) {
        fail_expected(&p, "'|', '&' or the end");
        return NULL;
    }
    return pattern;
}
