/* Where patterns live: the environment that owns them, its memory of what was built already, and
 * the operators that join patterns.
 *
 * Patterns are remembered by text, so that what is equal is built once and, later, is one mask.
 * Depth and cost of operators are bounded here: row functions recurse and repeat, and a few lines
 * of configuration could otherwise ask for more stack or time than any mask needs.
 */
#include "engine/masks/pattern.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 32, MAX_COST = 1000, MEMO_BUCKETS = 1024 };

/* ---- environment and memory ---- */

struct vt_memo {
    struct vt_memo *next;
    vt_pattern *pattern;
    char key[];
};

static uint64_t bucket_of(const char *key)
{
    uint64_t h = 14695981039346656037u;
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 1099511628211u;
    return vt_random_mix(h) % MEMO_BUCKETS;
}

vt_pattern *vt_memo_get(const vt_pattern_env *env, const char *key)
{
    for (const struct vt_memo *m = env->memo[bucket_of(key)]; m; m = m->next)
        if (strcmp(m->key, key) == 0)
            return m->pattern;
    return NULL;
}

int vt_memo_put(vt_pattern_env *env, const char *key, vt_pattern *p, vt_status *st)
{
    size_t size = strlen(key) + 1;
    struct vt_memo **at = &env->memo[bucket_of(key)];
    struct vt_memo *m = vt_alloc(1, sizeof *m + size, "pattern", st);
    if (!m)
        return -1;
    memcpy(m->key, key, size);
    m->pattern = p;
    m->next = *at;
    *at = m;
    return 0;
}

int vt_pattern_env_open(vt_pattern_env *env, const vt_mask_shape *shape, int threads, vt_status *st)
{
    *env = (vt_pattern_env){.shape = *shape, .threads = threads};
    env->memo = vt_alloc(MEMO_BUCKETS, sizeof *env->memo, "patterns", st);
    env->folder = env->memo ? vt_strdup("", st) : NULL;
    return env->folder ? 0 : -1;
}

void vt_pattern_env_close(vt_pattern_env *env)
{
    for (vt_pattern *p = env->all, *next; p; p = next) {
        next = p->next;
        vt_free(p->half);
        vt_free(p->bits);
        vt_free(p->child);
        vt_free(p);
    }
    for (int i = 0; env->memo && i < MEMO_BUCKETS; i++)
        for (struct vt_memo *m = env->memo[i], *next; m; m = next) {
            next = m->next;
            vt_free(m);
        }
    vt_free(env->memo);
    vt_free(env->folder);
    *env = (vt_pattern_env){0};
}

/* ---- patterns without parameters ---- */

vt_pattern *vt_pattern_new(vt_pattern_env *env, vt_status *st)
{
    vt_pattern *p = vt_alloc(1, sizeof *p, "pattern", st);
    if (!p)
        return NULL;
    p->grid_h = env->shape.grid_h;
    p->grid_w = env->shape.grid_w;
    p->size = p->grid_h * p->grid_w;
    p->cost = 1;
    p->id = env->patterns++;
    p->next = env->all;
    env->all = p;
    return p;
}

vt_pattern *vt_pattern_all(vt_pattern_env *env, vt_status *st)
{
    vt_pattern *p = vt_memo_get(env, "dense");
    if (p || !(p = vt_pattern_new(env, st)))
        return p;
    p->row = vt_row_all;
    return vt_memo_put(env, "dense", p, st) < 0 ? NULL : p;
}

/* Checks what the operator joins and takes over depth, cost and per_head. */
static int join(vt_pattern *p, vt_pattern **child, int children, vt_status *st)
{
    int64_t cost = 0;
    for (int c = 0; c < children; c++) {
        const vt_pattern *k = child[c];
        if (k->whole)
            return vt_fail(st, VT_USAGE,
                           "a mask file that covers all %d tokens stands alone, without operators "
                           "(one of the %d patches may be combined)",
                           k->size, k->grid_h * k->grid_w);
        p->depth = k->depth >= p->depth ? k->depth + 1 : p->depth;
        p->per_head |= k->per_head;
        cost += k->cost;
    }
    if (p->depth > MAX_DEPTH)
        return vt_fail(st, VT_USAGE, "operators nest too deeply (more than %d levels)", MAX_DEPTH);
    if (cost > MAX_COST)
        return vt_fail(st, VT_USAGE, "more than %d patterns are combined", MAX_COST);
    p->cost = (int)cost;
    return 0;
}

static char *combine_key(const vt_pattern_env *env, char op, vt_pattern **child, int children,
                         vt_status *st)
{
    size_t room = 12 * (size_t)children + 3;
    char *key = vt_alloc(room, 1, "pattern", st), *end = key;
    if (!key)
        return NULL;
    *end++ = op;
    *end++ = env->check_only ? '?' : ' ';
    for (int c = 0; c < children; c++)
        end += snprintf(end, room - (size_t)(end - key), "%d,", child[c]->id);
    return key;
}

vt_pattern *vt_pattern_combine(vt_pattern_env *env, char op, vt_pattern **child, int children,
                               vt_status *st)
{
    char *key = combine_key(env, op, child, children, st);
    vt_pattern *p = key ? vt_memo_get(env, key) : NULL;
    if (!key || p || !(p = vt_pattern_new(env, st)))
        goto done;
    p->row = op == '|' ? vt_row_or : op == '&' ? vt_row_and : vt_row_not;
    p->child = vt_alloc((size_t)children, sizeof *p->child, "pattern", st);
    if (!p->child || join(p, child, children, st) < 0) {
        p = NULL;
        goto done;
    }
    memcpy(p->child, child, (size_t)children * sizeof *child);
    p->children = children;
    if (vt_memo_put(env, key, p, st) < 0)
        p = NULL;
done:
    vt_free(key);
    return p;
}
