/* Mask configurations and expressions: parsed, checked, built, and every row asked for.
 *
 *   byte 0: the shape | JSON, NUL | --mask texts, one a line
 */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "engine/masks/masks.h"

const double fuzz_seconds = 1;

static const vt_mask_shape shapes[] = {
    {2, 2, 1, 4, 4}, {0, 0, 0, 3, 5}, {12, 6, 1, 4, 3}, {1, 1, 5, 8, 8},
    {3, 4, 2, 1, 7}, {2, 1, 1, 9, 8}, {1, 3, 0, 1, 1},  {4, 2, 4, 6, 6},
};

/* What lies beyond the last token is off, and the count is the rows'. */
static void look(const vt_mask *m)
{
    uint64_t bits[4];
    int64_t nnz = 0;
    vt_mask_stats stats;
    vt_status st = {0};
    fuzz_require(vt_mask_words(m->tokens) <= 4, "more tokens than the shape has");
    for (int q = 0; q < m->tokens; q++) {
        m->row(m, q, bits);
        for (size_t w = 0; w < vt_mask_words(m->tokens); w++)
            nnz += __builtin_popcountll(bits[w]);
        if (m->tokens % 64)
            fuzz_require(bits[m->tokens / 64] >> m->tokens % 64 == 0, "bits beyond the last token");
    }
    fuzz_require(vt_mask_count(m, 1, &stats, &st) == 0 && stats.nnz == nnz, "counted otherwise");
}

void fuzz_one(const uint8_t *data, size_t size)
{
    if (size == 0)
        return;
    fuzz_parts parts;
    const char *text[8];
    fuzz_split(&parts, 2, data + 1, size - 1);
    const char *config =
        parts.size[0] > 0 ? fuzz_file(0, (uint8_t *)parts.text[0], parts.size[0]) : NULL;
    int texts = fuzz_lines(parts.text[1], text, 8);
    vt_status st = {0};
    vt_masks *m = vt_masks_load(config, text, texts,
                                &shapes[data[0] % (sizeof shapes / sizeof *shapes)], 1, &st);
    if (!m)
        fuzz_require((st.code == VT_INPUT || st.code == VT_USAGE || st.code == VT_MACHINE) &&
                         st.text[0] && !strchr(st.text, '\n'),
                     "refused, but not in one line");
    for (int i = 0; m && i < m->masks; i++)
        look(m->mask[i]);
    for (int i = 0; m && i < m->layers; i++)
        for (int g = 0; g < m->layer[i].groups; g++)
            fuzz_require(m->layer[i].group[g].heads > 0, "a group without heads");
    vt_masks_free(m);
    fuzz_parts_free(&parts);
}
