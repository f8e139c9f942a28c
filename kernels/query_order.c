/* Fills the lists of query_order.h. Does not choose the order: columns.c does. */
#include "kernels/query_order.h"

#include "kernels/columns.h"

enum { TILE = VT_COLUMN_TILE, SIDE = 8 };

static void put_half(vt_query_list *q, int *fill, int32_t token)
{
    q->token[q->halves * TILE + (*fill)++] = token;
}

static void end_half(vt_query_list *q, int *fill)
{
    while (*fill < TILE)
        put_half(q, fill, -1);
    *fill = 0;
    q->halves++;
}

/* The rectangle of the grid with rows top .. bottom - 1, columns left .. right - 1, down its columns
 * if `down`, in halves of its own. */
static void put_rectangle(vt_query_list *q, const vt_mask *m, int top, int bottom, int left,
                          int right, bool down)
{
    int fill = 0, high = bottom - top, wide = right - left;
    for (int n = 0; n < high * wide; n++) {
        int i = top + (down ? n % high : n / wide), j = left + (down ? n / high : n % wide);
        if (fill == TILE)
            end_half(q, &fill);
        put_half(q, &fill, m->prefix + i * m->grid_w + j);
    }
    end_half(q, &fill);
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* Blocks of equal size, as nearly as can be. Two blocks that follow each other are neighbours. */
static void put_blocks(vt_query_list *q, const vt_mask *m)
{
    int high = m->grid_h < SIDE ? m->grid_h : SIDE;
    int wide = m->grid_w < TILE / high ? m->grid_w : TILE / high;
    high = m->grid_h < TILE / wide ? m->grid_h : TILE / wide;
    int down = ceil_div(m->grid_h, high), across = ceil_div(m->grid_w, wide);
    for (int n = 0; n < down * across; n++) {
        int y = n / across, x = n % across;
        if (across % 2 && y % 2)
            x = across - 1 - x;
        put_rectangle(q, m, y * m->grid_h / down, (y + 1) * m->grid_h / down,
                      x * m->grid_w / across, (x + 1) * m->grid_w / across, false);
    }
}

/* Lines of the grid: rows, or columns if `down`. As many whole ones as fit into a half; longer ones
 * in equal pieces. */
static void put_lines(vt_query_list *q, const vt_mask *m, bool down)
{
    int lines = down ? m->grid_w : m->grid_h, length = down ? m->grid_h : m->grid_w;
    int step = length < TILE ? TILE / length : 1, pieces = ceil_div(length, TILE);
    for (int i = 0; i < lines; i += step)
        for (int p = 0; p < pieces; p++) {
            int last = i + step < lines ? i + step : lines;
            int from = p * length / pieces, to = (p + 1) * length / pieces;
            if (down)
                put_rectangle(q, m, from, to, i, last, true);
            else
                put_rectangle(q, m, i, last, from, to, false);
        }
}

static void put_tokens(vt_query_list *q, int first, int end)
{
    int fill = 0;
    for (int t = first; t < end; t++) {
        if (fill == TILE)
            end_half(q, &fill);
        put_half(q, &fill, t);
    }
    if (fill)
        end_half(q, &fill);
}

size_t vt_query_halves_at_most(const vt_mask *m)
{
    size_t h = (size_t)m->grid_h, w = (size_t)m->grid_w;
    size_t lines = (h > w ? h : w) + 1; /* each may leave a half or two unfinished */
    return (size_t)m->tokens / TILE + 2 * lines + 8;
}

void vt_query_list_fill(vt_query_list *q, const vt_mask *m, vt_query_order how, bool prefix,
                        int halves)
{
    int fill = 0;
    q->halves = 0;
    if (prefix)
        put_tokens(q, 0, m->prefix);
    while (q->halves % halves)
        end_half(q, &fill);
    q->prefix_halves = q->halves;
    if (how == VT_ORDER_BLOCKS)
        put_blocks(q, m);
    else if (how == VT_ORDER_NATURAL)
        put_tokens(q, m->prefix, m->tokens);
    else
        put_lines(q, m, how == VT_ORDER_COLUMNS);
    while (q->halves % halves)
        end_half(q, &fill);
}
