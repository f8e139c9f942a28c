/* See support_pack.h. */
#include "tests/support_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void die(const char *what, const char *which)
{
    fprintf(stderr, "%s: %s\n", which, what);
    exit(1);
}

void pack_open(golden_pack *p, const char *path)
{
    *p = (golden_pack){0};
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        die("cannot open (run from the repository's root)", path);
    p->size = (size_t)ftell(f);
    rewind(f);
    p->bytes = malloc(p->size);
    if (!p->bytes || fread(p->bytes, 1, p->size, f) != p->size)
        die("cannot read", path);
    fclose(f);
}

bool pack_next(golden_pack *p)
{
    if (p->at == p->size)
        return false;
    const char *line = (const char *)p->bytes + p->at;
    const char *end = memchr(line, '\n', p->size - p->at);
    const char *bar = end ? memchr(line, '|', (size_t)(end - line)) : NULL;
    if (!bar || (size_t)(bar - line) >= sizeof p->name)
        die("broken pack after", p->name);
    snprintf(p->name, sizeof p->name, "%.*s", (int)(bar - line - 1), line);
    p->at += (size_t)(end - line) + 1;
    const char *c = bar + 1;
    for (int i = 0; i < 4; i++) {
        char *next = NULL;
        p->length[i] = c < end ? strtoul(c, &next, 10) : 0;
        c = next ? next : end;
        if (p->length[i] > p->size - p->at)
            die("broken pack at", p->name);
        p->blob[i] = p->bytes + p->at;
        p->at += p->length[i];
    }
    return true;
}

void pack_close(golden_pack *p)
{
    free(p->bytes);
}

uint64_t fnv1a(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

void pack_check(const golden_pack *p, int i, const void *data, size_t size)
{
    uint64_t hash;
    if (p->length[i] == size) {
        const uint8_t *bytes = data;
        for (size_t at = 0; at < size; at++)
            if (bytes[at] != p->blob[i][at])
                fail_msg("%s: byte %zu of %zu is %d, not %d", p->name, at, size, bytes[at],
                         p->blob[i][at]);
        return;
    }
    if (p->length[i] != sizeof hash)
        fail_msg("%s: %zu bytes, not %zu", p->name, size, p->length[i]);
    memcpy(&hash, p->blob[i], sizeof hash);
    if (hash != fnv1a(data, size))
        fail_msg("%s: the %zu bytes differ (by their hash)", p->name, size);
}

uint8_t *test_picture(int width, int height, const char *kind, uint32_t seed)
{
    size_t n = (size_t)width * (size_t)height * 3;
    bool noise = strcmp(kind, "noise") == 0;
    uint8_t *out = malloc(n);
    for (size_t i = 0; out && i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (uint8_t)(noise ? seed >> 24 : 255 * (seed >> 31));
    }
    return out;
}
