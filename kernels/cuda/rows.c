/* Lists of allowed pairs (vt_csr) on the device, and what the host keeps of them: how many pairs
 * neighbouring rows have together, and which rows are much longer than the others. */
#include "kernels/cuda/cuda.h"

enum { SHORT = 128 /* keys: one warp does these soon enough */ };

static uint32_t keys_of(const vt_csr *c, int row)
{
    return c->start[row + 1] - c->start[row];
}

/* Four times the average is long. */
static uint32_t longest_short(const vt_csr *c)
{
    uint32_t limit = (uint32_t)(4 * (uint64_t)c->start[c->tokens] / (uint64_t)c->tokens);
    return limit < SHORT ? SHORT : limit;
}

/* Of `rows` rows together, without long ones. */
static uint32_t most_pairs(const vt_csr *c, int rows, uint32_t limit)
{
    uint32_t most = 0, pairs = 0;
    for (int i = 0; i < c->tokens; i++) {
        pairs = i % rows ? pairs : 0;
        pairs += keys_of(c, i) > limit ? 0 : keys_of(c, i);
        most = pairs > most ? pairs : most;
    }
    return most;
}

/* Fills the host's part, and `list` [tokens] with the long rows. */
static void describe(vt_cuda_rows *r, const vt_csr *c, uint32_t *list)
{
    *r = (vt_cuda_rows){.pairs = c->start[c->tokens], .long_keys = longest_short(c)};
    for (int i = 0; i < c->tokens; i++)
        if (keys_of(c, i) > r->long_keys)
            list[r->long_rows++] = (uint32_t)i;
    for (int i = 0; i < VT_CUDA_PANEL_LEVELS; i++)
        r->most[i] = most_pairs(c, VT_CUDA_PANEL_QUERIES >> i, r->long_keys);
}

void *vt_cuda_rows_load(vt_device *dev, const vt_csr *c, vt_cuda_rows *out, size_t *bytes,
                        vt_status *st)
{
    uint32_t *list = vt_alloc((size_t)c->tokens, sizeof *list, "mask", st);
    if (!list)
        return NULL;
    describe(out, c, list);
    bool narrow = c->key16 != NULL;
    const void *keys = narrow ? (const void *)c->key16 : (const void *)c->key32;
    const vt_cuda_piece pieces[] = {
        {c->start, ((size_t)c->tokens + 1) * sizeof *c->start, (const void **)&out->start},
        {list, (size_t)out->long_rows * sizeof *list, (const void **)&out->long_row},
        {keys, (size_t)out->pairs * (narrow ? sizeof *c->key16 : sizeof *c->key32),
         narrow ? (const void **)&out->key16 : (const void **)&out->key32}};
    void *block = vt_cuda_pieces_load(dev, pieces, 3, bytes, st);
    vt_free(list);
    return block;
}
