/* Pictures of masks.
 *
 *   matrix  queries down, keys across; allowed pairs in blue, those with a prefix token in orange.
 *           A small matrix is enlarged by a whole factor; in a large one a pixel stands for a
 *           square of pairs and is the darker the more of them are on, but never so light that a
 *           single pair vanishes.
 *   query   the patch grid as cells: those that the query sees in blue, the query itself framed;
 *           prefix tokens stand in a line of their own above the grid.
 */
#include "engine/masks/masks.h"

#include <string.h>

typedef struct {
    uint8_t r, g, b;
} colour;

static const colour paper = {250, 250, 248}, blank = {226, 228, 230}, seen = {31, 88, 168},
                    seen_prefix = {214, 110, 20}, frame = {190, 24, 40};

typedef struct {
    uint8_t *rgb;
    int width, height;
} canvas;

static int open_canvas(canvas *c, size_t width, size_t height, vt_status *st)
{
    size_t pixels;
    if (width > INT32_MAX || height > INT32_MAX || !vt_mul(width, height, &pixels))
        return vt_fail(st, VT_USAGE, "picture of %zux%zu pixels is too large", width, height);
    c->width = (int)width;
    c->height = (int)height;
    c->rgb = vt_alloc(pixels, 3, "picture", st);
    return c->rgb ? 0 : -1;
}

static void fill(canvas *c, int left, int top, int width, int height, colour paint)
{
    for (int y = top; y < top + height; y++)
        for (int x = left; x < left + width; x++)
            memcpy(c->rgb + 3 * ((size_t)y * (size_t)c->width + (size_t)x), &paint, 3);
}

static colour blend(colour from, colour to, double share)
{
    return (colour){(uint8_t)(from.r + share * (to.r - from.r) + 0.5),
                    (uint8_t)(from.g + share * (to.g - from.g) + 0.5),
                    (uint8_t)(from.b + share * (to.b - from.b) + 0.5)};
}

static bool is_on(const uint64_t *bits, int k)
{
    return bits[k / 64] >> k % 64 & 1;
}

/* ---- matrix ---- */

static void draw_enlarged(canvas *c, const vt_mask *mask, int scale, uint64_t *bits)
{
    for (int q = 0; q < mask->tokens; q++) {
        mask->row(mask, q, bits);
        for (int k = 0; k < mask->tokens; k++) {
            bool prefix = q < mask->prefix || k < mask->prefix;
            colour paint = !is_on(bits, k) ? paper : prefix ? seen_prefix : seen;
            fill(c, k * scale, q * scale, scale, scale, paint);
        }
    }
}

/* Pixel x covers tokens [begins(x), begins(x + 1)). */
static int begins(const vt_mask *mask, int x, int side)
{
    return (int)((int64_t)x * mask->tokens / side);
}

static void draw_reduced(canvas *c, const vt_mask *mask, uint64_t *bits, int *on)
{
    int side = c->width;
    for (int y = 0; y < side; y++) {
        int top = begins(mask, y, side), bottom = begins(mask, y + 1, side);
        memset(on, 0, (size_t)side * sizeof *on);
        for (int q = top; q < bottom; q++) {
            mask->row(mask, q, bits);
            for (int x = 0; x < side; x++)
                for (int k = begins(mask, x, side); k < begins(mask, x + 1, side); k++)
                    on[x] += is_on(bits, k);
        }
        for (int x = 0; x < side; x++) {
            int left = begins(mask, x, side), right = begins(mask, x + 1, side);
            double share = (double)on[x] / ((double)(bottom - top) * (right - left));
            bool prefix = top < mask->prefix || left < mask->prefix;
            colour ink = prefix ? seen_prefix : seen;
            fill(c, x, y, 1, 1, on[x] ? blend(paper, ink, 0.25 + 0.75 * share) : paper);
        }
    }
}

int vt_mask_draw_matrix(const vt_mask *mask, int side, uint8_t **rgb, int *width, int *height,
                        vt_status *st)
{
    canvas c = {0};
    int n = mask->tokens;
    if (side < 1)
        return vt_fail(st, VT_USAGE, "picture side %d (expected at least 1)", side);
    int scale = side / n, pixels = scale ? n * scale : side;
    uint64_t *bits = vt_alloc(vt_mask_words(n), sizeof *bits, "mask row", st);
    int *on = bits ? vt_alloc((size_t)pixels, sizeof *on, "picture", st) : NULL;
    int rc = on ? open_canvas(&c, (size_t)pixels, (size_t)pixels, st) : -1;
    if (rc == 0 && scale)
        draw_enlarged(&c, mask, scale, bits);
    else if (rc == 0)
        draw_reduced(&c, mask, bits, on);
    vt_free(bits);
    vt_free(on);
    *rgb = c.rgb;
    *width = c.width;
    *height = c.height;
    return rc;
}

/* ---- query ---- */

typedef struct {
    int cell, gap; /* side of a cell, space around it */
    int columns;   /* of the wider of prefix lines and grid */
    int prefix_rows;
} plan;

static plan make_plan(const vt_mask *mask, int cell)
{
    plan p = {.cell = cell, .gap = cell / 8 > 1 ? cell / 8 : 1, .columns = mask->grid_w};
    p.prefix_rows = mask->prefix ? (mask->prefix - 1) / p.columns + 1 : 0;
    return p;
}

/* Top left of a token's cell; the prefix lines are set off from the grid by half a cell. */
static void cell_of(const vt_mask *mask, const plan *p, int token, int *x, int *y)
{
    int step = p->cell + p->gap, t = token - (token < mask->prefix ? 0 : mask->prefix);
    *x = p->gap + t % p->columns * step;
    *y = p->gap + t / p->columns * step;
    if (token >= mask->prefix && mask->prefix)
        *y += p->prefix_rows * step + p->cell / 2;
}

static void draw_cell(canvas *c, const vt_mask *mask, const plan *p, int token, int query, bool on)
{
    int x, y, edge = p->gap;
    colour paint = !on ? blank : token < mask->prefix ? seen_prefix : seen;
    cell_of(mask, p, token, &x, &y);
    if (token == query) /* the frame fills the gap around the cell */
        fill(c, x - edge, y - edge, p->cell + 2 * edge, p->cell + 2 * edge, frame);
    fill(c, x, y, p->cell, p->cell, paint);
}

int vt_mask_draw_query(const vt_mask *mask, int query, int cell, uint8_t **rgb, int *width,
                       int *height, vt_status *st)
{
    canvas c = {0};
    if (query < 0 || query >= mask->tokens)
        return vt_fail(st, VT_USAGE, "query token %d (expected 0 to %d)", query, mask->tokens - 1);
    if (cell < 1 || cell > 1024)
        return vt_fail(st, VT_USAGE, "cell of %d pixels (expected 1 to 1024)", cell);
    plan p = make_plan(mask, cell);
    size_t step = (size_t)(p.cell + p.gap), gap = (size_t)p.gap;
    size_t rows = (size_t)(p.prefix_rows + mask->grid_h);
    size_t extra = mask->prefix ? (size_t)cell / 2 : 0;
    uint64_t *bits = vt_alloc(vt_mask_words(mask->tokens), sizeof *bits, "mask row", st);
    int rc =
        bits ? open_canvas(&c, (size_t)p.columns * step + gap, rows * step + gap + extra, st) : -1;
    if (rc == 0) {
        fill(&c, 0, 0, c.width, c.height, paper);
        mask->row(mask, query, bits);
        for (int t = 0; t < mask->tokens; t++)
            draw_cell(&c, mask, &p, t, query, is_on(bits, t));
    }
    vt_free(bits);
    *rgb = c.rgb;
    *width = c.width;
    *height = c.height;
    return rc;
}
