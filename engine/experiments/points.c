/* See points.h. */
#include "engine/experiments/points.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"
#include "engine/masks/json_where.h"
#include "weights_tools/json_decode.h"

enum { LARGEST_FILE = 16 << 20 };

typedef struct {
    const char *path; /* of the file */
    char *text;
    size_t size;
    json_t *doc;
    vte_points *out;
    const vitrun_model *model;
    vitrun_error *err;
    vte_setting now; /* the values of the axes gone through so far */
    bool tried;      /* all masks, once: they come again for every value of the other axes */
} spec;

/* ---- errors ---- */
/* Puts file, line, column and path before the message in err, whose fault then is the file's, if
 * not the machine's. */
static int place(spec *s, const char *const *path, int keys, bool at_key)
{
    int line, column;
    char where[160], old[sizeof s->err->message];
    vt_json_line(s->text, vt_json_find(s->text, s->size, path, keys, at_key), &line, &column);
    vt_json_path_text(path, keys, where, sizeof where);
    memcpy(old, s->err->message, sizeof old);
    vitrun_code code = s->err->code == VITRUN_MACHINE ? VITRUN_MACHINE : VITRUN_INPUT;
    return vte_fail(s->err, code, "%s:%d:%d%s%s: %s", s->path, line, column, keys ? ": " : "",
                    where, old);
}

static int unexpected(spec *s, const char *const *path, int keys, const json_t *found,
                      const char *expected)
{
    char *text = found ? vt_json_encode(found, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    vte_fail(s->err, VITRUN_INPUT, "expected %s, found %.60s%s", expected,
             text ? text : "something else", text && strlen(text) > 60 ? "..." : "");
    free(text);
    return place(s, path, keys, false);
}

static int check_keys(spec *s)
{
    static const char *const known[] = {"version", "patterns",           "parameters",   "layers",
                                        "limit",   "density_thresholds", "mask_configs", "kernels",
                                        "batches", "img_sizes",          "dtypes",       "runs"};
    enum { KNOWN = sizeof known / sizeof *known };
    const char *key;
    json_t *value;
    json_object_foreach(s->doc, key, value)
    {
        int i = 0;
        while (i < KNOWN && strcmp(known[i], key) != 0)
            i++;
        if (i < KNOWN)
            continue;
        const char *near = vte_nearest(key, known, KNOWN);
        vte_fail(s->err, VITRUN_INPUT, "unknown key '%.64s'%s%s%s", key,
                 near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
        return place(s, &key, 1, true);
    }
    return 0;
}

static int no_memory(spec *s)
{
    return vte_fail(s->err, VITRUN_MACHINE, "out of memory (points)");
}

/* ---- the file ---- */
static int fill_text(spec *s, FILE *f)
{
    s->text = malloc(LARGEST_FILE);
    if (!s->text)
        return no_memory(s);
    s->size = fread(s->text, 1, LARGEST_FILE, f);
    if (ferror(f))
        return vte_fail(s->err, errno == EISDIR ? VITRUN_INPUT : VITRUN_MACHINE, "%s: %s", s->path,
                        strerror(errno));
    if (s->size == LARGEST_FILE)
        return vte_fail(s->err, VITRUN_INPUT, "%s: too large (expected less than 16 MiB)", s->path);
    return 0;
}

static int read_text(spec *s)
{
    FILE *f = fopen(s->path, "re");
    if (!f)
        return vte_fail_file(s->err, s->path);
    int bad = fill_text(s, f);
    fclose(f);
    return bad;
}

static int read_document(spec *s)
{
    json_error_t error;
    if (read_text(s) != 0)
        return -1;
    s->doc = vt_json_decode(s->text, s->size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!s->doc && vt_json_no_memory(&error))
        return no_memory(s);
    if (!s->doc)
        return vte_fail(s->err, VITRUN_INPUT, "%s:%d:%d: %s", s->path,
                        error.line > 0 ? error.line : 1, error.column > 0 ? error.column : 1,
                        error.text);
    if (!json_is_object(s->doc))
        return unexpected(s, NULL, 0, s->doc, "an object");
    return check_keys(s);
}

/* ---- axes ---- */
/* An axis: its array; NULL where it is left out; *bad set where it is no array or empty. */
static const json_t *axis(spec *s, const char *key, const char *expected, int *bad)
{
    const json_t *array = json_object_get(s->doc, key);
    if (array && (!json_is_array(array) || json_array_size(array) == 0))
        *bad = unexpected(s, &key, 1, array, expected);
    return array;
}

static int whole_number(spec *s, const char *key, const json_t *value, int least, int most,
                        int *out)
{
    char expected[64];
    snprintf(expected, sizeof expected, "a whole number from %d to %d", least, most);
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most)
        return unexpected(s, &key, 1, value, expected);
    *out = (int)json_integer_value(value);
    return 0;
}

static int text_of(spec *s, const char *key, const json_t *value, const char *expected,
                   const char **out)
{
    *out = json_string_value(value);
    return *out && **out ? 0 : unexpected(s, &key, 1, value, expected);
}

/* ---- expressions with parameters ---- */
static size_t name_length(const char *at)
{
    size_t n = 0;
    while (isalnum((unsigned char)at[n]) || at[n] == '_')
        n++;
    return n;
}

/* The first $name of the expression; NULL where none is left. */
static const char *next_parameter(const char *expr, char *name, size_t room)
{
    const char *at = strchr(expr, '$');
    if (at)
        snprintf(name, room, "%.*s", (int)name_length(at + 1), at + 1);
    return at;
}

/* `expr` with every $name replaced. To be freed. */
static char *substitute(const char *expr, const char *name, const char *value)
{
    char *text = NULL;
    size_t size, n = strlen(name);
    FILE *f = open_memstream(&text, &size);
    for (const char *p = expr; f && *p;) {
        if (*p == '$' && name_length(p + 1) == n && strncmp(p + 1, name, n) == 0) {
            fputs(value, f);
            p += n + 1;
        } else
            fputc(*p++, f);
    }
    return vte_text_end(f, &text);
}

/* Opens the mask on the model's grid, to find errors before anything runs. */
static int try_mask(spec *s, const char *mask, const char *config)
{
    const vitrun_info *i = s->model ? vitrun_info_get(s->model) : NULL;
    if (!i || s->tried)
        return 0;
    vitrun_mask_options o;
    vitrun_mask_options_init(&o);
    o.grid_h = i->grid_h, o.grid_w = i->grid_w, o.prefix = i->prefix_tokens;
    o.layers = i->layers, o.heads = i->heads, o.threads = i->threads;
    o.mask_config = config;
    o.masks = &mask;
    o.mask_count = mask ? 1 : 0;
    vitrun_masks *m = vitrun_masks_open(&o, s->err);
    vitrun_masks_free(m);
    return m ? 0 : -1;
}

static int add_point(spec *s, const vte_setting *point)
{
    if (vte_points_append(s->out, point, s->err) == 0)
        return 0;
    return s->err->code == VITRUN_INPUT ? place(s, NULL, 0, false) : -1;
}

static int add_on_layers(spec *s, const char *key, const char *name, const char *expr)
{
    const char *path[] = {"patterns", key};
    int bad = 0;
    const json_t *layers = axis(s, "layers", "a list of layers such as [\"all\", \"0-4\"]", &bad);
    size_t count = layers ? json_array_size(layers) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        vte_setting point = s->now;
        point.name = name;
        point.mask = expr;
        point.layers = "all";
        char *mask = NULL;
        if (layers)
            bad = text_of(s, "layers", json_array_get(layers, i), "texts such as \"0-4\"",
                          &point.layers);
        if (!bad && asprintf(&mask, "%s: %s", point.layers, expr) < 0)
            return vte_fail(s->err, VITRUN_MACHINE, "out of memory (points)");
        if (!bad && try_mask(s, mask, NULL) != 0)
            bad = place(s, path, 2, false);
        free(mask);
        bad = bad || add_point(s, &point) ? -1 : 0;
    }
    return bad;
}

/* Replaces the expression's first parameter by each of its values, and goes on with the rest: values
 * have no '$', or there might be no end of it. */
static int expand(spec *s, const char *key, const char *name, const char *expr)
{
    char parameter[64];
    const char *path[] = {"patterns", key};
    if (!next_parameter(expr, parameter, sizeof parameter))
        return add_on_layers(s, key, name, expr);
    const json_t *all = json_object_get(s->doc, "parameters"),
                 *values = json_object_get(all, parameter);
    if (!json_is_array(values) || json_array_size(values) == 0) {
        vte_fail(s->err, VITRUN_INPUT, "$%s is no list in \"parameters\"", parameter);
        return place(s, path, 2, false);
    }
    int bad = 0;
    for (size_t i = 0; i < json_array_size(values) && !bad; i++) {
        const json_t *value = json_array_get(values, i);
        char *text = vt_json_encode(value, JSON_ENCODE_ANY | JSON_COMPACT), *longer = NULL;
        if (text && strchr(text, '$')) {
            const char *where[] = {"parameters", parameter};
            free(text);
            return unexpected(s, where, 2, value, "values without '$'");
        }
        char *next = text ? substitute(expr, parameter, text) : NULL;
        if (!next || asprintf(&longer, "%s %s=%s", name, parameter, text) < 0)
            bad = vte_fail(s->err, VITRUN_MACHINE, "out of memory (points)");
        else
            bad = expand(s, key, longer, next);
        free(longer);
        free(next);
        free(text);
    }
    return bad;
}

static int add_patterns(spec *s)
{
    json_t *patterns = json_object_get(s->doc, "patterns"), *value;
    const char *key, *path[] = {"patterns", NULL};
    if (patterns && !json_is_object(patterns))
        return unexpected(s, path, 1, patterns, "an object of names and mask expressions");
    json_object_foreach(patterns, key, value)
    {
        path[1] = key;
        if (!json_is_string(value))
            return unexpected(s, path, 2, value, "a mask expression");
        if (expand(s, key, key, json_string_value(value)) != 0)
            return -1;
    }
    return 0;
}

/* "a/spec.json", "m.json" -> "a/m.json". */
static char *beside(const char *file, const char *path)
{
    char *joined = NULL;
    const char *slash = strrchr(file, '/');
    int folder = *path == '/' || !slash ? 0 : (int)(slash - file) + 1;
    return asprintf(&joined, "%.*s%s", folder, file, path) < 0 ? NULL : joined;
}

static int add_configs(spec *s)
{
    int bad = 0;
    const char *key = "mask_configs", *text;
    const json_t *configs = axis(s, key, "a list of mask configurations", &bad);
    for (size_t i = 0; i < json_array_size(configs) && !bad; i++) {
        vte_setting point = s->now;
        if (text_of(s, key, json_array_get(configs, i), "names of files", &text) != 0)
            return -1;
        char *file = beside(s->path, text);
        point.name = text;
        point.mask = "", point.layers = "";
        point.mask_config = file;
        if (!file)
            bad = vte_fail(s->err, VITRUN_MACHINE, "out of memory (points)");
        else if (try_mask(s, NULL, file) != 0)
            bad = place(s, &key, 1, false);
        bad = bad || add_point(s, &point) ? -1 : 0;
        free(file);
    }
    return bad;
}

/* ---- the product: each function goes through one axis and calls the next ---- */
static int each_kernel(spec *s)
{
    int bad = 0;
    const json_t *kernels = axis(s, "kernels", "a list of kernels", &bad);
    size_t count = kernels ? json_array_size(kernels) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        s->now.kernel = "auto";
        if (kernels)
            bad = text_of(s, "kernels", json_array_get(kernels, i), "names of kernels, or \"auto\"",
                          &s->now.kernel);
        bad = bad || add_patterns(s) || add_configs(s) ? -1 : 0;
        s->tried = true;
    }
    return bad;
}

static int each_threshold(spec *s)
{
    int bad = 0;
    const char *key = "density_thresholds";
    const json_t *list = axis(s, key, "a list of numbers from 0 to 1", &bad);
    size_t count = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        const json_t *value = json_array_get(list, i);
        double x = json_number_value(value);
        s->now.threshold = list ? x : -1;
        if (list && !(json_is_number(value) && x >= 0 && x <= 1))
            bad = unexpected(s, &key, 1, value, "numbers from 0 to 1");
        bad = bad || each_kernel(s) ? -1 : 0;
    }
    return bad;
}

static int each_batch(spec *s)
{
    int bad = 0;
    const json_t *list = axis(s, "batches", "a list of whole numbers", &bad);
    size_t count = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        s->now.batch = 0;
        if (list)
            bad = whole_number(s, "batches", json_array_get(list, i), 1, 65536, &s->now.batch);
        vte_setting dense = s->now;
        dense.name = dense.mask = "dense", dense.layers = "all", dense.kernel = "auto";
        dense.threshold = -1;
        bad = bad || add_point(s, &dense) || each_threshold(s) ? -1 : 0;
    }
    return bad;
}

static int each_size(spec *s)
{
    int bad = 0;
    const char *key = "img_sizes";
    const json_t *list = axis(s, key, "a list of image sizes such as [224, \"384x256\"]", &bad);
    size_t count = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        const json_t *value = json_array_get(list, i);
        char number[32] = "";
        if (json_is_integer(value) && json_integer_value(value) > 0)
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        s->now.img_size = json_is_string(value) ? json_string_value(value) : number;
        if (list && !*s->now.img_size)
            bad = unexpected(s, &key, 1, value, "image sizes such as 224 or \"384x256\"");
        bad = bad || each_batch(s) ? -1 : 0;
    }
    s->now.img_size = NULL; /* not `number`, which ends here */
    return bad;
}

static int each_dtype(spec *s)
{
    int bad = 0;
    const json_t *list = axis(s, "dtypes", "a list of types such as [\"fp32\"]", &bad);
    size_t count = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < count && !bad; i++) {
        s->now.dtype = "";
        if (list)
            bad = text_of(s, "dtypes", json_array_get(list, i), "types such as \"fp32\"",
                          &s->now.dtype);
        bad = bad || each_size(s) ? -1 : 0;
    }
    return bad;
}

static int read_numbers(spec *s)
{
    const json_t *version = json_object_get(s->doc, "version"),
                 *limit = json_object_get(s->doc, "limit"), *runs = json_object_get(s->doc, "runs");
    int value = 0;
    int bad = 0;
    s->out->runs = VTE_RUNS;
    axis(s, "layers", "a list of layers such as [\"all\", \"0-4\"]",
         &bad); /* also without patterns */
    if (bad)
        return -1;
    if ((version && whole_number(s, "version", version, 1, 1, &value)) ||
        (runs && whole_number(s, "runs", runs, 1, 1000000, &s->out->runs)))
        return -1;
    if (limit && whole_number(s, "limit", limit, 1, 1 << 30, &value))
        return -1;
    s->out->limit = limit ? (size_t)value : 0;
    return 0;
}

int vte_points_read(vte_points *p, const char *path, const vitrun_model *model, vitrun_error *err)
{
    *p = (vte_points){0};
    vte_points_open(p);
    spec s = {.path = path, .out = p, .model = model, .err = err};
    s.now.threshold = -1;
    int bad = read_document(&s) || read_numbers(&s) || each_dtype(&s) ? -1 : 0;
    json_decref(s.doc);
    free(s.text);
    if (bad)
        vte_points_free(p);
    return bad;
}

void vte_points_open(vte_points *p)
{
    p->point = json_array();
    p->seen = json_object();
}

void vte_points_free(vte_points *p)
{
    json_decref(p->point);
    json_decref(p->seen);
    p->point = p->seen = NULL;
}

/* ---- one point ---- */
/* `text` as one word of a shell's command line. */
static void put_word(FILE *f, const char *text)
{
    size_t plain = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789._/-+:,=@");
    if (*text && !text[plain])
        return (void)fputs(text, f);
    fputc('\'', f);
    for (; *text; text++)
        *text == '\'' ? fputs("'\\''", f) : fputc(*text, f);
    fputc('\'', f);
}

void vte_put_option(FILE *f, const char *name, const char *value)
{
    if (!value)
        return;
    fprintf(f, " --%s ", name);
    put_word(f, value);
}

static char *options_of(const vte_setting *s)
{
    char *text = NULL, *mask = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    if (s->mask_config)
        vte_put_option(f, "mask-config", s->mask_config);
    else if (strcmp(s->mask, "dense") != 0) {
        int all = strcmp(s->layers, "all") == 0;
        if (asprintf(&mask, "%s%s%s", all ? "" : s->layers, all ? "" : ": ", s->mask) < 0) {
            free(vte_text_end(f, &text));
            return NULL;
        }
        vte_put_option(f, "mask", mask);
        free(mask);
    }
    if (s->threshold >= 0)
        fprintf(f, " --density-threshold %.9g", s->threshold);
    if (strcmp(s->kernel, "auto") != 0)
        vte_put_option(f, "kernel", s->kernel);
    if (s->batch)
        fprintf(f, " --batch %d", s->batch);
    if (*s->img_size)
        vte_put_option(f, "img-size", s->img_size);
    if (*s->dtype)
        vte_put_option(f, "dtype", s->dtype);
    return vte_text_end(f, &text);
}

json_t *vte_point_new(const vte_setting *s)
{
    char *options = options_of(s);
    json_t *point = options
                        ? json_pack("{s:s, s:s, s:s, s:s?, s:o, s:s, s:i, s:s, s:s, s:s}", "name",
                                    s->name, "mask", s->mask, "layers", s->layers, "mask_config",
                                    s->mask_config, "density_threshold",
                                    s->threshold < 0 ? json_null() : json_real(s->threshold),
                                    "kernel", s->kernel, "batch", s->batch, "img_size", s->img_size,
                                    "dtype", s->dtype, "options", *options ? options + 1 : options)
                        : NULL;
    free(options);
    return point;
}

/* The options that points have already are the keys of `seen`. */
int vte_points_append(vte_points *p, const vte_setting *s, vitrun_error *err)
{
    if (json_array_size(p->point) >= VTE_MOST_POINTS)
        return vte_fail(err, VITRUN_INPUT, "more than %d points", VTE_MOST_POINTS);
    json_t *point = vte_point_new(s);
    const char *options = json_string_value(json_object_get(point, "options"));
    if (options && json_object_get(p->seen, options)) {
        json_decref(point);
        return 0;
    }
    if (!options || json_object_set_new(p->seen, options, json_true()) != 0 ||
        json_array_append(p->point, point) != 0) {
        json_decref(point);
        return vte_fail(err, VITRUN_MACHINE, "out of memory or not UTF-8 (point %zu)",
                        json_array_size(p->point));
    }
    json_decref(point);
    return 0;
}
