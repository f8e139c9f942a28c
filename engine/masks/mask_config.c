/* The mask configuration: JSON document and --mask texts -> masks of every layer and head.
 *
 *   1. read and parse the document; check every key, name, number and expression in it
 *   2. plan: which expression, prefix policy, threshold and kernel each layer and head gets,
 *      --mask texts last, because they replace the document's entry for their layers
 *   3. build the masks; heads of a layer that share one become a group
 * Errors in the document name file, line, column and the path inside it; jansson knows no positions
 * once a text is parsed, so json_where.c looks them up when an error needs one.
 */
#include "engine/masks/masks.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/masks/index_set.h"
#include "engine/masks/json_where.h"
#include "engine/masks/pattern.h"
#include "weights_tools/file.h"
#include "weights_tools/json_decode.h"
#include "weights_tools/timm_config.h"

enum { MAX_DOCUMENT = 16 << 20, MAX_EXTENT = 4096, MAX_HEADS = 1 << 16 };

/* An expression and where it stands: in the document at `path`, or in a --mask text. */
typedef struct entry {
    const char *expression;
    const char *path[4];
    int keys;
    const char *option; /* the --mask text, or NULL */
    int column;         /* of the expression in it */
    struct entry *next;
} entry;

typedef struct {
    entry **head;    /* [heads]; NULL: dense */
    const char *key; /* the document's key that named the layer, or NULL */
    vt_prefix_policy policy;
    double density_threshold; /* < 0: not given */
    const char *kernel;
} layer_plan;

typedef struct { /* what vt_masks really is: the patterns live with the masks */
    vt_masks masks;
    vt_pattern_env env;
} owned_masks;

typedef struct {
    owned_masks *out;
    vt_pattern_env *env;
    const vt_mask_shape *shape;
    const char *config;
    char *text;
    size_t size;
    json_t *doc;
    vt_prefix_policy policy;
    layer_plan *plan; /* [layers] */
    entry **head;     /* [layers * heads], the plans' */
    entry *entries;
    bool *in;   /* [layers + heads] a set being read */
    int *group; /* [heads] of the layer being built */
    vt_status *st;
} loader;

static const char *const policies[] = {"full", "rows", "columns", "none", NULL};
static const char *const kernels[] = {"reference", "dense", "sparse", "tiles", "rows", NULL};

/* ---- errors ---- */

/* Puts file, line, column and path before the text that st holds. */
static int place(loader *l, const char *const *path, int keys, bool at_key)
{
    int line, column;
    char where[192];
    size_t at = vt_json_find(l->text, l->size, path, keys, at_key);
    vt_json_line(l->text, at, &line, &column);
    vt_json_path_text(path, keys, where, sizeof where);
    if (l->st->code == VT_USAGE)
        l->st->code = VT_INPUT;
    return vt_prefix(l->st, "%s:%d:%d%s%s", l->config, line, column, keys ? ": " : "", where);
}

static int place_fault(loader *l)
{
    const struct vt_fault *f = &l->env->fault;
    return place(l, f->key, f->keys, f->at_key);
}

static int unknown_key(loader *l, const char *const *path, int keys, const char *const *known)
{
    const char *key = path[keys - 1], *near = vt_nearest(key, known);
    vt_fail(l->st, VT_INPUT, "unknown key '%.64s'%s%s%s", key, near ? " (did you mean '" : "",
            near ? near : "", near ? "'?)" : "");
    return place(l, path, keys, true);
}

static int unexpected(loader *l, const char *const *path, int keys, const json_t *value,
                      const char *expected)
{
    char found[48];
    vt_json_text(value, found, sizeof found);
    vt_fail(l->st, VT_INPUT, "expected %s, found %s", expected, found);
    return place(l, path, keys, false);
}

static int index_of(const char *const *names, const char *name)
{
    for (int i = 0; name && names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

/* Whether all keys of the object at path[0 .. keys - 1] are among `known`. */
static int check_keys(loader *l, json_t *object, const char **path, int keys,
                      const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (index_of(known, key) >= 0)
            continue;
        path[keys] = key;
        return unknown_key(l, path, keys + 1, known);
    }
    return 0;
}

/* ---- the file ---- */

static int read_document(loader *l)
{
    json_error_t error;
    l->text = vt_file_text(l->config, MAX_DOCUMENT, &l->size, l->st);
    if (!l->text)
        return -1;
    l->doc = vt_json_decode(l->text, l->size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!l->doc && vt_json_no_memory(&error))
        return vt_fail(l->st, VT_MACHINE, "%s: not enough memory", l->config);
    if (!l->doc) {
        char path[192];
        size_t end = error.position < 0 ? 0 : (size_t)error.position;
        vt_json_path_at_end(l->text, end < l->size ? end : l->size, path, sizeof path);
        return vt_fail(l->st, VT_INPUT, "%s:%d:%d%s%s: %s", l->config,
                       error.line > 0 ? error.line : 1, error.column > 0 ? error.column : 1,
                       *path ? ": " : "", path, error.text);
    }
    size_t lost = vt_json_underflow(l->text, l->size);
    if (lost < l->size) {
        int line, column;
        char path[192];
        vt_json_line(l->text, lost, &line, &column);
        vt_json_path_at_end(l->text, lost, path, sizeof path);
        return vt_fail(l->st, VT_INPUT,
                       "%s:%d:%d: %s: the number is too small for double precision", l->config,
                       line, column, path);
    }
    return 0;
}

/* "masks/a.json" -> "masks/". */
static int keep_folder(loader *l)
{
    const char *slash = strrchr(l->config, '/');
    if (!slash)
        return 0;
    char *folder = vt_strdup(l->config, l->st);
    if (!folder)
        return -1;
    folder[slash - l->config + 1] = '\0';
    vt_free(l->env->folder);
    l->env->folder = folder;
    return 0;
}

/* ---- values of the document; path[keys] is the key to look up in object ---- */

static int read_threshold(loader *l, json_t *object, const char **path, int keys, double *out)
{
    path[keys] = "density_threshold";
    json_t *value = json_object_get(object, path[keys]);
    if (!value)
        return 0;
    *out = json_number_value(value);
    if (!json_is_number(value) || !(*out >= 0 && *out <= 1))
        return unexpected(l, path, keys + 1, value, "a number from 0 to 1");
    return 0;
}

static int read_policy(loader *l, json_t *object, const char **path, int keys,
                       vt_prefix_policy *out)
{
    path[keys] = "prefix";
    json_t *value = json_object_get(object, path[keys]);
    int policy = index_of(policies, json_string_value(value));
    if (value && policy < 0)
        return unexpected(l, path, keys + 1, value, "\"full\", \"rows\", \"columns\" or \"none\"");
    if (value)
        *out = (vt_prefix_policy)policy;
    return 0;
}

static int read_kernel(loader *l, json_t *object, const char **path, int keys, const char **out)
{
    path[keys] = "kernel";
    json_t *value = json_object_get(object, path[keys]);
    *out = json_string_value(value);
    if (value && index_of(kernels, *out) < 0)
        return unexpected(l, path, keys + 1, value,
                          "\"reference\", \"dense\", \"sparse\", \"tiles\" or \"rows\"");
    return 0;
}

/* ---- planning ---- */

static entry *new_entry(loader *l, const char *expression)
{
    entry *e = vt_alloc(1, sizeof *e, "mask configuration", l->st);
    if (!e)
        return NULL;
    e->expression = expression;
    e->next = l->entries;
    l->entries = e;
    return e;
}

/* The pattern of an entry for the environment's head, or NULL with a placed error. */
static vt_pattern *build_entry(loader *l, const entry *e)
{
    l->env->fault.keys = 0;
    vt_pattern *p = vt_expr_build(l->env, e->expression, e->column ? e->column : 1, l->st);
    if (p)
        return p;
    if (l->env->fault.keys)
        place_fault(l);
    else if (e->option)
        vt_prefix(l->st, "--mask '%.120s'", e->option);
    else
        place(l, e->path, e->keys, false);
    return NULL;
}

/* The entry of the expression at path[0 .. keys - 1], checked but not built. */
static entry *read_expression(loader *l, const json_t *value, const char *const *path, int keys)
{
    if (!json_is_string(value)) {
        unexpected(l, path, keys, value, "an expression");
        return NULL;
    }
    entry *e = new_entry(l, json_string_value(value));
    if (!e)
        return NULL;
    memcpy(e->path, path, (size_t)keys * sizeof *path);
    e->keys = keys;
    l->env->check_only = true;
    bool ok = build_entry(l, e) != NULL;
    l->env->check_only = false;
    return ok ? e : NULL;
}

/* "heads": {set: expression}; path[0 .. 1] is the layer's. Writes e[heads]. */
static int read_heads(loader *l, json_t *heads, const char **path, entry **e)
{
    const char *key;
    json_t *value;
    path[2] = "heads";
    if (!json_is_object(heads))
        return unexpected(l, path, 3, heads, "an object such as {\"0-3\": \"EXPRESSION\"}");
    json_object_foreach(heads, key, value)
    {
        path[3] = key;
        if (vt_index_set_read(key, "head", l->shape->heads, l->in, l->st) < 0)
            return place(l, path, 4, true);
        entry *one = read_expression(l, value, path, 4);
        if (!one)
            return -1;
        for (int h = 0; h < l->shape->heads; h++) {
            if (l->in[h] && e[h]) {
                vt_fail(l->st, VT_INPUT, "head %d is named twice (also by \"%.64s\")", h,
                        e[h]->path[3]);
                return place(l, path, 4, true);
            }
            e[h] = l->in[h] ? one : e[h];
        }
    }
    return 0;
}

/* A layer's value into *plan and plan->head, which is [heads] NULLs before. */
static int read_layer(loader *l, json_t *value, const char **path, layer_plan *plan)
{
    static const char *const known[] = {"mask",   "heads",  "density_threshold",
                                        "kernel", "prefix", NULL};
    json_t *mask = json_is_string(value) ? value : json_object_get(value, "mask");
    json_t *heads = json_object_get(value, "heads");
    if (!json_is_string(value) && !json_is_object(value))
        return unexpected(l, path, 2, value, "an expression, or an object with mask or heads");
    if (check_keys(l, value, path, 2, known) < 0)
        return -1;
    if (!mask == !heads) {
        vt_fail(l->st, VT_INPUT, "expected %s",
                mask ? "only one of mask and heads" : "mask or heads, found neither");
        return place(l, path, 2, false);
    }
    if (read_threshold(l, value, path, 2, &plan->density_threshold) < 0 ||
        read_policy(l, value, path, 2, &plan->policy) < 0 ||
        read_kernel(l, value, path, 2, &plan->kernel) < 0)
        return -1;
    if (heads)
        return read_heads(l, heads, path, plan->head);
    path[2] = "mask";
    entry *e = read_expression(l, mask, path, json_is_string(value) ? 2 : 3);
    for (int h = 0; h < l->shape->heads; h++)
        plan->head[h] = e;
    return e ? 0 : -1;
}

/* Gives the layers in l->in what `from` says. */
static void assign(loader *l, const layer_plan *from)
{
    for (int i = 0; i < l->shape->layers; i++) {
        if (!l->in[i])
            continue;
        entry **head = l->plan[i].head;
        memcpy(head, from->head, (size_t)l->shape->heads * sizeof *head);
        l->plan[i] = *from;
        l->plan[i].head = head;
    }
}

static int read_layers_entry(loader *l, const char *key, json_t *value, entry **head)
{
    const char *path[4] = {"layers", key};
    layer_plan plan = {head, key, l->policy, -1, NULL};
    if (read_layer(l, value, path, &plan) < 0)
        return -1;
    if (vt_index_set_read(key, "layer", l->shape->layers, l->in, l->st) < 0)
        return place(l, path, 2, true);
    for (int i = 0; i < l->shape->layers; i++)
        if (l->in[i] && l->plan[i].key) {
            vt_fail(l->st, VT_INPUT, "layer %d is named twice (also by \"%.64s\")", i,
                    l->plan[i].key);
            return place(l, path, 2, true);
        }
    assign(l, &plan);
    return 0;
}

static int read_layers(loader *l, json_t *layers)
{
    const char *key, *path[] = {"layers"};
    json_t *value;
    size_t heads = (size_t)l->shape->heads;
    if (layers && !json_is_object(layers))
        return unexpected(l, path, 1, layers, "an object such as {\"0-7\": \"EXPRESSION\"}");
    entry **head = vt_alloc(heads, sizeof *head, "mask configuration", l->st);
    int rc = head ? 0 : -1;
    json_object_foreach(layers, key, value)
    {
        if (rc < 0)
            break;
        memset(head, 0, heads * sizeof *head);
        rc = read_layers_entry(l, key, value, head);
    }
    vt_free(head);
    return rc;
}

/* ---- named patterns ---- */

static bool is_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n > 0 && n < 64 && s[n] == '\0' && !isdigit((unsigned char)*s);
}

/* Checks every pattern of the document, used or not. */
static int check_patterns(loader *l)
{
    const char *name;
    json_t *value;
    l->env->check_only = true;
    json_object_foreach(l->env->named, name, value)
    {
        const char *path[] = {"patterns", name};
        if (!is_name(name) || strcmp(name, "dense") == 0) {
            vt_fail(l->st, VT_INPUT, "expected a name of letters, digits and '_', and not 'dense'");
            return place(l, path, 2, true);
        }
        l->env->fault.keys = 0;
        if (!vt_expr_build(l->env, name, 1, l->st))
            return l->env->fault.keys ? place_fault(l) : place(l, path, 2, false);
    }
    l->env->check_only = false;
    return 0;
}

static int read_top(loader *l)
{
    static const char *const known[] = {"version", "density_threshold", "prefix", "patterns",
                                        "layers",  "measured",          NULL};
    const char *path[4] = {NULL};
    json_t *doc = l->doc;
    if (!json_is_object(doc))
        return unexpected(l, path, 0, doc, "an object");
    if (check_keys(l, doc, path, 0, known) < 0)
        return -1;
    path[0] = "version";
    json_t *version = json_object_get(doc, "version"), *patterns = json_object_get(doc, "patterns");
    if (version && (!json_is_integer(version) || json_integer_value(version) != 1))
        return unexpected(l, path, 1, version, "1");
    if (read_threshold(l, doc, path, 0, &l->out->masks.density_threshold) < 0 ||
        read_policy(l, doc, path, 0, &l->policy) < 0)
        return -1;
    path[0] = "measured";
    json_t *measured = json_object_get(doc, path[0]); /* for people: what is in it does not count */
    if (measured && !json_is_object(measured))
        return unexpected(l, path, 1, measured, "an object");
    path[0] = "patterns";
    if (patterns && !json_is_object(patterns))
        return unexpected(l, path, 1, patterns, "an object of named patterns");
    l->env->named = patterns;
    return check_patterns(l) < 0 ? -1 : read_layers(l, json_object_get(doc, "layers"));
}

/* ---- --mask '[LAYERS:] EXPR' ---- */

static int read_option(loader *l, const char *text, entry **head)
{
    size_t colon = vt_index_set_prefix(text);
    layer_plan plan = {head, NULL, l->policy, -1, NULL};
    char *set = vt_strdup(colon ? text : "all", l->st);
    if (!set)
        return -1;
    if (colon)
        set[colon - 1] = '\0';
    int rc = vt_index_set_read(set, "layer", l->shape->layers, l->in, l->st);
    vt_free(set);
    if (rc < 0)
        return vt_prefix(l->st, "--mask '%.120s'", text);
    entry *e = new_entry(l, text + colon);
    if (!e)
        return -1;
    e->option = text;
    e->column = (int)colon + 1;
    l->env->check_only = true;
    rc = build_entry(l, e) ? 0 : -1;
    l->env->check_only = false;
    for (int h = 0; h < l->shape->heads; h++)
        head[h] = e;
    assign(l, &plan);
    return rc;
}

static int read_options(loader *l, const char *const *texts, int count)
{
    entry **head = vt_alloc((size_t)l->shape->heads, sizeof *head, "masks", l->st);
    int rc = head ? 0 : -1;
    for (int i = 0; i < count && rc == 0; i++)
        rc = read_option(l, texts[i], head);
    vt_free(head);
    return rc;
}

/* ---- building ---- */

/* The mask of a pattern under a policy: one object for equal ones. */
static const vt_mask *mask_of(loader *l, vt_pattern *p, vt_prefix_policy policy)
{
    vt_masks *m = &l->out->masks;
    if (p->whole || l->shape->prefix == 0)
        policy = VT_PREFIX_FULL;
    if (p->mask[policy])
        return p->mask[policy];
    vt_mask *mask = vt_mask_compose(p, l->shape->prefix, policy, l->st);
    if (mask)
        m->mask[m->masks++] = mask;
    return p->mask[policy] = mask;
}

/* The index of the layer's group with this mask, which may be a new one; -1 on failure. */
static int group_of(loader *l, vt_layer_masks *layer, const vt_mask *mask, const entry *e)
{
    for (int g = 0; g < layer->groups; g++)
        if (layer->group[g].mask == mask)
            return g;
    vt_mask_group *g = &layer->group[layer->groups++];
    g->mask = mask;
    g->text = vt_strdup(mask ? e->expression + strspn(e->expression, " \t") : "dense", l->st);
    return g->text ? layer->groups - 1 : -1;
}

/* Fills the groups' head lists from the groups of the heads. */
static int list_heads(loader *l, vt_layer_masks *layer)
{
    for (int g = 0; g < layer->groups; g++) {
        vt_mask_group *group = &layer->group[g];
        group->head = vt_alloc((size_t)group->heads, sizeof *group->head, "masks", l->st);
        if (!group->head)
            return -1;
        group->heads = 0;
    }
    for (int h = 0; h < l->shape->heads; h++) {
        vt_mask_group *group = &layer->group[l->group[h]];
        group->head[group->heads++] = (uint16_t)h;
    }
    return 0;
}

static int build_layer(loader *l, const layer_plan *plan, vt_layer_masks *layer)
{
    const entry *last = NULL;
    vt_pattern *p = NULL;
    for (int h = 0; h < l->shape->heads; h++) {
        const entry *e = plan->head[h];
        const vt_mask *mask = NULL;
        l->env->head = h;
        if (e && (e != last || p->per_head) && !(p = build_entry(l, e)))
            return -1;
        if (e && p->row != vt_row_all && !(mask = mask_of(l, p, plan->policy)))
            return -1;
        last = e ? e : last;
        if ((l->group[h] = group_of(l, layer, mask, e)) < 0)
            return -1;
        layer->group[l->group[h]].heads++;
    }
    return list_heads(l, layer);
}

static int build_layers(loader *l)
{
    vt_masks *m = &l->out->masks;
    for (int i = 0; i < m->layers; i++) {
        const layer_plan *plan = &l->plan[i];
        vt_layer_masks *layer = &m->layer[i];
        layer->density_threshold =
            plan->density_threshold >= 0 ? plan->density_threshold : m->density_threshold;
        if (plan->kernel && !(layer->kernel = vt_strdup(plan->kernel, l->st)))
            return -1;
        layer->group = vt_alloc((size_t)l->shape->heads, sizeof *layer->group, "masks", l->st);
        if (!layer->group || build_layer(l, plan, layer) < 0)
            return -1;
    }
    return 0;
}

/* ---- layers and heads, where no model says ---- */

static void raise_to(int *out, int extent)
{
    *out = extent > *out ? extent : *out;
}

/* Keys that are no sets, and values of the wrong kind, are vt_masks_load's to refuse. */
static void document_extent(json_t *doc, int *layers, int *heads)
{
    const char *key, *head;
    json_t *value, *ignored;
    json_object_foreach(json_object_get(doc, "layers"), key, value)
    {
        raise_to(layers, vt_index_set_extent(key));
        json_object_foreach(json_object_get(value, "heads"), head, ignored)
            raise_to(heads, vt_index_set_extent(head));
    }
}

static int text_extent(const char *text, int *layers, vt_status *st)
{
    size_t colon = vt_index_set_prefix(text);
    char *set = colon ? vt_strdup(text, st) : NULL;
    if (colon && !set)
        return -1;
    if (set) {
        set[colon - 1] = '\0';
        raise_to(layers, vt_index_set_extent(set));
    }
    vt_free(set);
    return 0;
}

/* Gives shape->layers and shape->heads that are 0 what is named, and bounds both. */
static int find_shape(const loader *l, const char *const *texts, int count, vt_mask_shape *shape)
{
    const char *source = l->config ? l->config : "--mask";
    int layers = 1, heads = 1;
    document_extent(l->doc, &layers, &heads);
    for (int i = 0; i < count; i++)
        if (text_extent(texts[i], &layers, l->st))
            return -1;
    layers = shape->layers ? shape->layers : layers;
    heads = shape->heads ? shape->heads : heads;
    if ((!shape->layers && layers > MAX_EXTENT) || (!shape->heads && heads > MAX_EXTENT))
        return vt_fail(l->st, l->config ? VT_INPUT : VT_USAGE,
                       "%s: more than %d layers or heads are named", source, MAX_EXTENT);
    if ((int64_t)layers * heads > MAX_HEADS)
        return vt_fail(l->st, l->config ? VT_INPUT : VT_USAGE,
                       "%s: %d layers of %d heads (expected at most %d heads in all layers)",
                       source, layers, heads, MAX_HEADS);
    shape->layers = layers;
    shape->heads = heads;
    return 0;
}

/* ---- all of it ---- */

static int load(loader *l, const char *const *texts, int count)
{
    for (int i = 0; i < l->shape->layers; i++)
        l->plan[i] =
            (layer_plan){l->head + (size_t)i * (size_t)l->shape->heads, NULL, l->policy, -1, NULL};
    if (l->doc && (keep_folder(l) < 0 || read_top(l) < 0))
        return -1;
    return read_options(l, texts, count) < 0 ? -1 : build_layers(l);
}

/* Room for layers * heads, which find_shape() bounds. */
static int open_loader(loader *l, owned_masks *o, const vt_mask_shape *shape, int threads)
{
    size_t layers = (size_t)shape->layers, heads = (size_t)shape->heads, both = layers * heads;
    l->out = o;
    l->env = &o->env;
    l->shape = &o->env.shape;
    o->masks.layers = shape->layers;
    o->masks.heads = shape->heads;
    o->masks.density_threshold = -1;
    if (vt_pattern_env_open(&o->env, shape, threads, l->st) < 0)
        return -1;
    o->masks.layer = vt_alloc(layers, sizeof *o->masks.layer, "masks", l->st);
    o->masks.mask = o->masks.layer ? vt_alloc(both, sizeof *o->masks.mask, "masks", l->st) : NULL;
    l->plan = o->masks.mask ? vt_alloc(layers, sizeof *l->plan, "masks", l->st) : NULL;
    l->head = l->plan ? vt_alloc(both, sizeof *l->head, "masks", l->st) : NULL;
    l->in = l->head ? vt_alloc(layers + heads, sizeof *l->in, "masks", l->st) : NULL;
    l->group = l->in ? vt_alloc(heads, sizeof *l->group, "masks", l->st) : NULL;
    return l->group ? 0 : -1;
}

static void close_loader(loader *l)
{
    for (entry *e = l->entries, *next; e; e = next) {
        next = e->next;
        vt_free(e);
    }
    vt_free(l->text);
    vt_free(l->plan);
    vt_free(l->head);
    vt_free(l->in);
    vt_free(l->group);
    json_decref(l->doc);
    if (l->env)
        l->env->named = NULL;
}

vt_masks *vt_masks_load(const char *config, const char *const *texts, int count,
                        const vt_mask_shape *shape, int threads, vt_status *st)
{
    loader l = {.config = config, .policy = VT_PREFIX_FULL, .st = st};
    vt_mask_shape full = *shape;
    owned_masks *o = vt_alloc(1, sizeof *o, "masks", st);
    if (!o)
        return NULL;
    bool ok = (!config || read_document(&l) == 0) && find_shape(&l, texts, count, &full) == 0 &&
              open_loader(&l, o, &full, threads) == 0 && load(&l, texts, count) == 0;
    close_loader(&l);
    if (ok)
        return &o->masks;
    vt_masks_free(&o->masks);
    return NULL;
}

static void free_layer(vt_layer_masks *layer)
{
    for (int g = 0; g < layer->groups; g++) {
        vt_free(layer->group[g].head);
        vt_free(layer->group[g].text);
    }
    vt_free(layer->group);
    vt_free(layer->kernel);
}

void vt_masks_free(vt_masks *m)
{
    if (!m)
        return;
    owned_masks *o = (owned_masks *)m;
    for (int i = 0; m->layer && i < m->layers; i++)
        free_layer(&m->layer[i]);
    for (int i = 0; i < m->masks; i++)
        vt_mask_free(m->mask[i]);
    vt_free(m->layer);
    vt_free(m->mask);
    if (o->env.memo)
        vt_pattern_env_close(&o->env);
    vt_free(o);
}
