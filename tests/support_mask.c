/* See support_mask.h. */
#include "tests/support_mask.h"

#include <stdlib.h>
#include <string.h>

static void table_row(const vt_mask *mask, int query, uint64_t *bits)
{
    const table_mask *t = (const table_mask *)mask;
    const bool *on = t->on + (size_t)query * (size_t)mask->tokens;
    memset(bits, 0, vt_mask_words(mask->tokens) * sizeof *bits);
    for (int k = 0; k < mask->tokens; k++)
        bits[k / 64] |= (uint64_t)on[k] << k % 64;
}

static void table_destroy(vt_mask *mask)
{
    table_mask *t = (table_mask *)mask;
    vt_free(t->on);
    vt_free(t);
}

table_mask *table_mask_new(int prefix, int grid_h, int grid_w)
{
    vt_status st = {VT_OK, ""};
    int n = prefix + grid_h * grid_w;
    table_mask *t = vt_alloc(1, sizeof *t, "test mask", &st);
    bool *on = vt_alloc((size_t)n * (size_t)n, sizeof *on, "test mask", &st);
    if (!t || !on)
        abort();
    *t = (table_mask){{n, prefix, grid_h, grid_w, table_row, table_destroy}, on};
    return t;
}

table_mask *table_mask_random(int prefix, int grid_h, int grid_w, double density, unsigned seed)
{
    table_mask *t = table_mask_new(prefix, grid_h, grid_w);
    size_t pairs = (size_t)t->mask.tokens * (size_t)t->mask.tokens;
    uint64_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < pairs; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        t->on[i] = (double)(state >> 33) < density * 2147483648.0;
    }
    return t;
}

bool mask_pair(const vt_mask *mask, int query, int key)
{
    vt_status st = {VT_OK, ""};
    uint64_t *bits = vt_alloc(vt_mask_words(mask->tokens), sizeof *bits, "mask row", &st);
    if (!bits)
        abort();
    mask->row(mask, query, bits);
    bool on = bits[key / 64] >> key % 64 & 1;
    vt_free(bits);
    return on;
}
