/* The pattern types: names, parameters, checks, and what their row functions (pattern_rows.c) read.
 *
 * A pattern is described by a JSON object {"type": NAME, parameters}; an expression's constructor
 * call makes the same object. Every parameter is checked here, unknown ones are refused, and
 * xFormers' own spellings are accepted as aliases. Nothing of size P^2 is stored but the bits of
 * random patterns and of files.
 */
#include "engine/masks/pattern.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/json_decode.h"
#include "weights_tools/timm_config.h"

/* One pattern being built. Functions that read parameters return 0 or -1 with st set. */
typedef struct {
    vt_pattern_env *env;
    json_t *spec;
    struct vt_fault *fault;
    vt_status *st;
    const char *type; /* canonical name */
} build;

typedef struct {
    const char *name;
    const char *parameter[6]; /* NULL-terminated */
    int (*build)(build *b, vt_pattern *p);
} type;

/* ---- parameters ---- */

void vt_json_text(const json_t *value, char *out, size_t room)
{
    char *text =
        value ? vt_json_encode(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15))
              : NULL;
    size_t size = text ? strlen(text) : 0;
    if (size < room) {
        memcpy(out, text ? text : "", size + 1);
    } else {
        memcpy(out, text, room - 4);
        memcpy(out + room - 4, "...", 4);
    }
    free(text);
}

static int at_parameter(build *b, const char *key)
{
    if (b->fault->keys < (int)(sizeof b->fault->key / sizeof b->fault->key[0]))
        b->fault->key[b->fault->keys++] = key;
    return -1;
}

static int unexpected(build *b, const char *key, const char *expected)
{
    char found[48];
    json_t *value = json_object_get(b->spec, key);
    if (!value)
        return vt_fail(b->st, VT_USAGE, "%s needs %s (expected %s)", b->type, key, expected);
    vt_json_text(value, found, sizeof found);
    vt_fail(b->st, VT_USAGE, "expected %s, found %s", expected, found);
    return at_parameter(b, key);
}

/* *out keeps its value where the parameter is absent and not needed. */
static int read_integer(build *b, const char *key, bool needed, int64_t low, int64_t high,
                        int64_t *out)
{
    json_t *value = json_object_get(b->spec, key);
    if (!value && !needed)
        return 0;
    if (json_is_integer(value) && json_integer_value(value) >= low &&
        json_integer_value(value) <= high) {
        *out = json_integer_value(value);
        return 0;
    }
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low,
             (long long)high);
    return unexpected(b, key, expected);
}

static int read_int(build *b, const char *key, bool needed, int low, int high, int *out)
{
    int64_t wide = *out;
    if (read_integer(b, key, needed, low, high, &wide) < 0)
        return -1;
    *out = (int)wide;
    return 0;
}

static int read_positive(build *b, const char *key, bool needed, double *out)
{
    json_t *value = json_object_get(b->spec, key);
    if (!value && !needed)
        return 0;
    if (!json_is_number(value) || !(json_number_value(value) > 0))
        return unexpected(b, key, "a number > 0");
    *out = json_number_value(value);
    return 0;
}

static int read_seed(build *b, uint64_t *seed)
{
    int64_t value = 0;
    if (read_integer(b, "seed", false, 0, INT64_MAX, &value) < 0)
        return -1;
    *seed = (uint64_t)value;
    return 0;
}

/* From sparsity or nnz: exactly one of them. */
static int read_nnz(build *b, int64_t *nnz)
{
    int64_t patches = (int64_t)b->env->shape.grid_h * b->env->shape.grid_w;
    json_t *sparsity = json_object_get(b->spec, "sparsity");
    bool counted = json_object_get(b->spec, "nnz") != NULL;
    if (!sparsity == !counted)
        return vt_fail(b->st, VT_USAGE, "%s needs %s sparsity %s nnz", b->type,
                       counted ? "only one of" : "either", counted ? "and" : "or");
    if (counted)
        return read_integer(b, "nnz", true, 0, patches * patches, nnz);
    double share = json_number_value(sparsity);
    if (!json_is_number(sparsity) || !(share >= 0) || !(share < 1))
        return unexpected(b, "sparsity", "a number >= 0 and < 1");
    *nnz = (int64_t)((double)(patches * patches) * (1.0 - share));
    return 0;
}

static int needs_text(build *b, const char *key, const char **out)
{
    json_t *value = json_object_get(b->spec, key);
    const char *text = json_string_value(value);
    if (text && *text) {
        *out = text;
        return 0;
    }
    unexpected(b, key, "a text");
    return -1;
}

/* ---- balls: half widths by row distance ---- */

/* Whether squared distance < distance^2, exactly: the product's rounding error settles a tie. */
static bool square_below(double square, double distance)
{
    double product = distance * distance;
    return square < product || square == 0 ||
           (square == product && fma(distance, distance, -product) > 0);
}

/* D_p((0, 0), (di, dj)) < distance. Exact for p = 1, 2, infinity and along the axes. */
static bool closer(int di, int dj, double p, double distance)
{
    double a = di, b = dj, far = a > b ? a : b;
    if (!(far < distance))
        return false;
    if (p == INFINITY || a == 0 || b == 0)
        return true;
    if (p == 1)
        return a + b < distance;
    if (p == 2)
        return square_below(a * a + b * b, distance);
    double limit = pow(distance, p);
    if (isnormal(limit) && limit < 0x1p52)
        return pow(a, p) + pow(b, p) < limit;
    return pow(a / distance, p) + pow(b / distance, p) < 1;
}

static int make_half(build *b, vt_pattern *p)
{
    p->half = vt_alloc((size_t)p->grid_h, sizeof *p->half, "pattern", b->st);
    p->row = vt_row_ball;
    return p->half ? 0 : -1;
}

static int build_local_2d(build *b, vt_pattern *p)
{
    double distance = 0, norm = 2;
    json_t *given = json_object_get(b->spec, "p");
    if (read_positive(b, "distance", true, &distance) < 0)
        return -1;
    if (json_is_string(given) && strcmp(json_string_value(given), "inf") == 0)
        norm = INFINITY;
    else if (given && !(json_number_value(given) > 0))
        return unexpected(b, "p", "a number > 0 or \"inf\"");
    else if (given)
        norm = json_number_value(given);
    if (make_half(b, p) < 0)
        return -1;
    int half = p->grid_w - 1; /* shrinks as rows go away: the ball is monotone */
    for (int di = 0; di < p->grid_h; di++) {
        while (half >= 0 && !closer(di, half, norm, distance))
            half--;
        p->half[di] = half;
    }
    return 0;
}

static int build_axial_2d(build *b, vt_pattern *p)
{
    if (make_half(b, p) < 0)
        return -1;
    p->half[0] = p->grid_w - 1; /* the row; of other rows, the own column: 0 */
    return 0;
}

static int build_horizontal(build *b, vt_pattern *p)
{
    double distance = 1;
    if (read_positive(b, "distance", false, &distance) < 0 || make_half(b, p) < 0)
        return -1;
    for (int di = 0; di < p->grid_h; di++)
        p->half[di] = di < distance ? p->grid_w - 1 : -1;
    return 0;
}

static int build_vertical(build *b, vt_pattern *p)
{
    double distance = 1;
    if (read_positive(b, "distance", false, &distance) < 0 || make_half(b, p) < 0)
        return -1;
    int half = p->grid_w - 1;
    while (!(half < distance))
        half--;
    for (int di = 0; di < p->grid_h; di++)
        p->half[di] = half;
    return 0;
}

/* ---- the other parametric ones ---- */

static int build_swin(build *b, vt_pattern *p)
{
    int shift = 0;
    p->row = vt_row_swin;
    if (read_int(b, "window_size", true, 1, INT_MAX, &p->window) < 0 ||
        read_int(b, "shift_size", false, -INT_MAX, INT_MAX, &shift) < 0)
        return -1;
    int rest = shift % p->window;
    p->shift = rest > 0 ? p->window - rest : -rest; /* (-shift) mod window */
    return 0;
}

static int build_dilated(build *b, vt_pattern *p)
{
    p->window = 2;
    p->row = vt_row_dilated;
    return read_int(b, "k", false, 1, INT_MAX, &p->window);
}

static int build_local_1d(build *b, vt_pattern *p)
{
    p->row = vt_row_local_1d;
    if (read_int(b, "window_size", true, 1, INT_MAX, &p->window) < 0)
        return -1;
    if (p->window % 2 == 0)
        return unexpected(b, "window_size", "an odd integer");
    p->window /= 2;
    return 0;
}

static int build_causal_1d(build *b, vt_pattern *p)
{
    (void)b;
    p->row = vt_row_causal_1d;
    return 0;
}

static int build_strided_1d(build *b, vt_pattern *p)
{
    p->row = vt_row_strided_1d;
    return read_int(b, "stride", true, 1, INT_MAX, &p->window);
}

static int build_global(build *b, vt_pattern *p)
{
    json_t *tokens = json_object_get(b->spec, "tokens"), *token;
    char expected[80];
    size_t i;
    snprintf(expected, sizeof expected, "a list of patch indexes from 0 to %d", p->size - 1);
    if (!json_is_array(tokens))
        return unexpected(b, "tokens", expected);
    p->row = vt_row_global;
    p->words = vt_mask_words(p->size);
    p->bits = vt_alloc(p->words, sizeof *p->bits, "pattern", b->st);
    if (!p->bits)
        return -1;
    json_array_foreach(tokens, i, token)
    {
        json_int_t t = json_integer_value(token);
        if (!json_is_integer(token) || t < 0 || t >= p->size) {
            char found[48];
            vt_json_text(token, found, sizeof found);
            vt_fail(b->st, VT_USAGE, "expected %s, found %s", expected, found);
            return at_parameter(b, "tokens");
        }
        p->bits[t / 64] |= (uint64_t)1 << t % 64;
    }
    return 0;
}

/* ---- random ---- */

static int make_bits(build *b, vt_pattern *p)
{
    size_t room;
    p->row = vt_row_bits;
    p->words = vt_mask_words(p->size);
    if (!vt_mul((size_t)p->size, p->words, &room))
        return vt_fail(b->st, VT_MACHINE, "pattern bits: size overflows (%d patches)", p->size);
    p->bits = vt_alloc(room, sizeof *p->bits, "pattern bits", b->st);
    return p->bits ? 0 : -1;
}

static int build_random(build *b, vt_pattern *p)
{
    int64_t nnz = 0;
    if (read_nnz(b, &nnz) < 0 || read_seed(b, &p->seed) < 0)
        return -1;
    if (b->env->check_only)
        return 0;
    if (make_bits(b, p) < 0)
        return -1;
    return vt_random_uniform(p->bits, p->size, nnz, p->seed, b->env->threads, b->st);
}

static const type *find_type(const type *table, const char *name);
static int check_names(build *b, const type *t);
static const type probabilities[];

/* Reads {"type": "local_2d_gaussian", "sigma": s}, the only probability there is. */
static int read_sigma(build *b, double *sigma)
{
    json_t *spec = json_object_get(b->spec, "probability");
    if (!json_is_object(spec))
        return unexpected(b, "probability", "{\"type\": \"local_2d_gaussian\", \"sigma\": ...}");
    at_parameter(b, "probability");
    build inner = {b->env, spec, b->fault, b->st, "local_2d_gaussian"};
    const char *name = json_string_value(json_object_get(spec, "type"));
    const type *t = name ? find_type(probabilities, name) : NULL;
    if (!t)
        return unexpected(&inner, "type", "\"local_2d_gaussian\"");
    if (check_names(&inner, t) < 0 || read_positive(&inner, "sigma", false, sigma) < 0)
        return -1;
    b->fault->keys--;
    return 0;
}

static int build_weighted(build *b, vt_pattern *p)
{
    int64_t nnz = 0;
    double sigma = 1;
    if (read_sigma(b, &sigma) < 0 || read_nnz(b, &nnz) < 0 || read_seed(b, &p->seed) < 0)
        return -1;
    if (b->env->check_only)
        return 0;
    if (make_bits(b, p) < 0)
        return -1;
    return vt_random_gaussian(p->bits, p->grid_h, p->grid_w, sigma, nnz, p->seed, b->env->threads,
                              b->st);
}

/* ---- blocks ---- */

static int read_block_size(build *b, vt_pattern *p)
{
    if (read_int(b, "block_size", true, 1, INT_MAX, &p->block) < 0)
        return -1;
    p->blocks = (p->size - 1) / p->block + 1;
    return 0;
}

static int build_longformer(build *b, vt_pattern *p)
{
    p->row = vt_row_longformer;
    return read_block_size(b, p);
}

static int build_bigbird(build *b, vt_pattern *p)
{
    p->row = vt_row_bigbird;
    p->random_blocks = 1;
    if (read_block_size(b, p) < 0 || read_seed(b, &p->seed) < 0)
        return -1;
    return read_int(b, "random_blocks", false, 0, p->blocks, &p->random_blocks);
}

static int build_fixed(build *b, vt_pattern *p)
{
    p->row = vt_row_fixed;
    p->window = 4;
    if (read_block_size(b, p) < 0)
        return -1;
    return read_int(b, "window", false, 1, INT_MAX, &p->window);
}

static int build_variable(build *b, vt_pattern *p)
{
    int rc = build_fixed(b, p);
    p->row = vt_row_variable;
    return rc;
}

static bool is_bit(const json_t *value)
{
    json_int_t i = json_integer_value(value);
    return json_is_boolean(value) || (json_is_integer(value) && (i == 0 || i == 1));
}

static bool is_layout(const json_t *layout, int blocks)
{
    size_t r, c;
    json_t *row, *cell;
    if (!json_is_array(layout) || json_array_size(layout) != (size_t)blocks)
        return false;
    json_array_foreach(layout, r, row)
    {
        if (!json_is_array(row) || json_array_size(row) != (size_t)blocks)
            return false;
        json_array_foreach(row, c, cell) if (!is_bit(cell)) return false;
    }
    return true;
}

static int read_layout(build *b, vt_pattern *p)
{
    json_t *layout = json_object_get(b->spec, "layout"), *row, *cell;
    char expected[96];
    size_t r, c;
    snprintf(expected, sizeof expected, "%d rows of %d zeros and ones (%d patches in blocks of %d)",
             p->blocks, p->blocks, p->size, p->block);
    if (!is_layout(layout, p->blocks))
        return unexpected(b, "layout", expected);
    p->bits = vt_alloc((size_t)p->blocks, p->words * sizeof *p->bits, "pattern", b->st);
    if (!p->bits)
        return -1;
    json_array_foreach(layout, r, row)
        json_array_foreach(row, c, cell) if (json_is_true(cell) || json_integer_value(cell))
            p->bits[r * p->words + c / 64] |= (uint64_t)1 << c % 64;
    return 0;
}

/* Loads a matrix from the file that parameter `key` names, relative to the configuration. */
static int read_matrix(build *b, const char *key, const int *sizes, const char *fit,
                       vt_mask_matrix *m)
{
    const char *name = NULL, *tensor = NULL;
    vt_pattern_env *env = b->env;
    if (needs_text(b, key, &name) < 0 ||
        (json_object_get(b->spec, "tensor") && needs_text(b, "tensor", &tensor) < 0))
        return -1;
    if (env->check_only)
        return 0;
    const char *folder = name[0] == '/' ? "" : env->folder;
    size_t room = strlen(folder) + strlen(name) + 1;
    char *path = vt_alloc(room, 1, "path", b->st);
    if (!path)
        return -1;
    snprintf(path, room, "%s%s", folder, name);
    int rc = vt_mask_file_load(m, path, tensor, sizes, fit, env->shape.heads, env->head, b->st);
    vt_free(path);
    return rc < 0 ? at_parameter(b, key) : 0;
}

static int build_blocks(build *b, vt_pattern *p)
{
    bool file = json_object_get(b->spec, "file") != NULL;
    char fit[96];
    if (read_block_size(b, p) < 0)
        return -1;
    p->row = vt_row_blocks;
    p->words = vt_mask_words(p->blocks);
    if (file == (json_object_get(b->spec, "layout") != NULL))
        return vt_fail(b->st, VT_USAGE, "blocks needs %s layout %s file",
                       file ? "only one of" : "either", file ? "and" : "or");
    if (!file)
        return read_layout(b, p);
    vt_mask_matrix m = {0};
    snprintf(fit, sizeof fit, "there are %d blocks (%d patches in blocks of %d)", p->blocks,
             p->size, p->block);
    if (read_matrix(b, "file", (int[]){p->blocks, 0}, fit, &m) < 0)
        return -1;
    p->bits = m.bits;
    p->per_head = m.per_head;
    return 0;
}

static int build_file(build *b, vt_pattern *p)
{
    const vt_mask_shape *s = &b->env->shape;
    vt_mask_matrix m = {0};
    char fit[96];
    snprintf(fit, sizeof fit, "model has %d tokens (%dx%d patches + %d prefix)",
             s->prefix + p->size, s->grid_h, s->grid_w, s->prefix);
    if (read_matrix(b, "path", (int[]){p->size, s->prefix + p->size, 0}, fit, &m) < 0)
        return -1;
    if (b->env->check_only)
        return 0;
    p->row = vt_row_bits;
    p->whole = m.size != p->size;
    p->size = m.size;
    p->words = vt_mask_words(m.size);
    p->bits = m.bits;
    p->per_head = m.per_head;
    return 0;
}

/* ---- the tables ---- */

static const type types[] = {
    {"local_2d", {"distance", "p"}, build_local_2d},
    {"axial_2d", {NULL}, build_axial_2d},
    {"horizontal_axial_2d", {"distance"}, build_horizontal},
    {"vertical_axial_2d", {"distance"}, build_vertical},
    {"swin", {"window_size", "shift_size"}, build_swin},
    {"dilated_2d", {"k"}, build_dilated},
    {"local_1d", {"window_size"}, build_local_1d},
    {"causal_1d", {NULL}, build_causal_1d},
    {"strided_1d", {"stride"}, build_strided_1d},
    {"global_tokens", {"tokens"}, build_global},
    {"random", {"sparsity", "nnz", "seed"}, build_random},
    {"random_from_probability", {"probability", "sparsity", "nnz", "seed"}, build_weighted},
    {"blocks", {"layout", "file", "tensor", "block_size"}, build_blocks},
    {"longformer", {"block_size"}, build_longformer},
    {"bigbird", {"block_size", "random_blocks", "seed"}, build_bigbird},
    {"fixed", {"block_size", "window"}, build_fixed},
    {"variable", {"block_size", "window"}, build_variable},
    {"file", {"path", "tensor"}, build_file},
    {0},
};

static const type probabilities[] = {
    {"local_2d_gaussian", {"sigma"}, NULL},
    {0},
};

static const struct {
    const char *name, *means;
} aliases[] = {
    {"local_2d_pattern", "local_2d"},
    {"local_nd_pattern", "local_2d"},
    {"axial_2d_pattern", "axial_2d"},
    {"axial_nd_pattern", "axial_2d"},
    {"horizontal_axial_2d_distance", "horizontal_axial_2d"},
    {"vertical_axial_2d_distance", "vertical_axial_2d"},
    {"swin_attention_pattern", "swin"},
    {"dilated_2d_pattern", "dilated_2d"},
    {"local_1d_pattern", "local_1d"},
    {"causal_1d_pattern", "causal_1d"},
    {"global_token_pattern", "global_tokens"},
    {"random_pattern", "random"},
    {"random_pattern_from_probability_matrix", "random_from_probability"},
    {"local_2d_gausian_distribution", "local_2d_gaussian"},
    {"local_2d_gaussian_distribution", "local_2d_gaussian"},
    {"local_nd_gaussian_distribution", "local_2d_gaussian"},
    {"quick_fixed_layout", "fixed"},
    {"quick_variable_layout", "variable"},
    {"quick_bigbird_layout", "bigbird"},
    {"quick_bslongformer_layout", "longformer"},
};

enum { TYPES = sizeof types / sizeof types[0], ALIASES = sizeof aliases / sizeof aliases[0] };

static const type *find_type(const type *table, const char *name)
{
    for (int i = 0; i < ALIASES; i++)
        if (strcmp(aliases[i].name, name) == 0)
            name = aliases[i].means;
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

const char *vt_pattern_arguments(const char *name)
{
    const type *t = find_type(types, name);
    t = t ? t : find_type(probabilities, name);
    return !t ? NULL : t->parameter[0] ? "(...)" : "()";
}

const char **vt_pattern_names(const vt_pattern_env *env, vt_status *st)
{
    size_t n = 0;
    const char *name;
    json_t *value;
    const char **list =
        vt_alloc(TYPES + json_object_size(env->named) + 2, sizeof *list, "names", st);
    if (!list)
        return NULL;
    for (const type *t = types; t->name; t++)
        list[n++] = t->name;
    list[n++] = "dense";
    json_object_foreach(env->named, name, value) list[n++] = name;
    return list;
}

/* ---- building ---- */

/* Refuses parameters that the type does not take. */
static int check_names(build *b, const type *t)
{
    const char *key, *names[8] = {"type"};
    json_t *value;
    for (int i = 0; t->parameter[i]; i++)
        names[i + 1] = t->parameter[i];
    json_object_foreach(b->spec, key, value)
    {
        bool known = false;
        for (int i = 0; names[i]; i++)
            known |= strcmp(names[i], key) == 0;
        if (known)
            continue;
        const char *near = vt_nearest(key, names + 1);
        vt_fail(b->st, VT_USAGE, "%s has no parameter '%s'%s%s%s", t->name, key,
                near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
        b->fault->at_key = true;
        return at_parameter(b, key);
    }
    return 0;
}

static int unknown_type(build *b, const char *name)
{
    at_parameter(b, "type");
    if (find_type(probabilities, name))
        return vt_fail(b->st, VT_USAGE,
                       "%s is a probability, not a mask: it is what random_from_probability takes",
                       name);
    const char *known[TYPES];
    for (int i = 0; i < TYPES; i++)
        known[i] = types[i].name;
    const char *near = vt_nearest(name, known);
    return vt_fail(b->st, VT_USAGE, "unknown pattern type '%s'%s%s%s", name,
                   near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* The texts under which a specification is remembered: for all heads, or for the current one. */
static char *memo_key(const vt_pattern_env *env, const json_t *spec, bool per_head, vt_status *st)
{
    char *text = vt_json_encode(spec, JSON_COMPACT | JSON_SORT_KEYS);
    size_t room = text ? strlen(text) + 16 : 0;
    char *key = text ? vt_alloc(room, 1, "pattern", st) : NULL;
    if (!text)
        vt_fail(st, VT_MACHINE, "pattern: not enough memory");
    if (key && per_head)
        snprintf(key, room, "%d%s", env->head, text);
    else if (key)
        snprintf(key, room, "%s", text);
    free(text);
    return key;
}

static vt_pattern *build_new(build *b, const type *t)
{
    vt_pattern *p = vt_pattern_new(b->env, b->st);
    if (!p || t->build(b, p) < 0)
        return NULL;
    if (b->env->check_only)
        return p;
    char *key = memo_key(b->env, b->spec, p->per_head, b->st);
    if (!key || vt_memo_put(b->env, key, p, b->st) < 0)
        p = NULL;
    vt_free(key);
    return p;
}

vt_pattern *vt_pattern_build(vt_pattern_env *env, json_t *spec, struct vt_fault *fault,
                             vt_status *st)
{
    build b = {env, spec, fault, st, "a pattern"};
    *fault = (struct vt_fault){0};
    const char *name = json_string_value(json_object_get(spec, "type"));
    if (!name) {
        unexpected(&b, "type", "the name of a pattern type");
        return NULL;
    }
    const type *t = find_type(types, name);
    if (!t) {
        unknown_type(&b, name);
        return NULL;
    }
    b.type = t->name;
    if (check_names(&b, t) < 0)
        return NULL;
    for (int per_head = 0; per_head < 2 && !env->check_only; per_head++) {
        char *key = memo_key(env, spec, per_head, st);
        if (!key)
            return NULL;
        vt_pattern *known = vt_memo_get(env, key);
        vt_free(key);
        if (known)
            return known;
    }
    return build_new(&b, t);
}
