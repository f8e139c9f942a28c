/* See chart.h. Lengths are in the units of the viewBox, in which text is 12 high. */
#include "engine/experiments/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 720,
    HEIGHT = 420,
    LEFT = 64,
    RIGHT = 36,
    TOP = 20,
    BOTTOM = 96, /* axis, its name, the legend */
    MOST_NAMES = 24,
    MOST_LABELS = 64
};

static const char *const colour[] = {"#2563eb", "#d97706", "#059669", "#db2777",
                                     "#7c3aed", "#0891b2", "#65a30d", "#dc2626"};
enum { COLOURS = sizeof colour / sizeof *colour };
static const char grey[] = "#64748b";

/* ---- text ---- */
void vte_escape(FILE *f, const char *text)
{
    for (; text && *text; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        default:
            fputc((unsigned char)*text < 0x20 ? ' ' : *text, f);
        }
}

void vte_put_amount(FILE *f, vte_unit unit, double x)
{
    static const char *const name[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    if (unit == VTE_UNIT_PERCENT)
        fprintf(f, "%.4g %%", x);
    else if (unit == VTE_UNIT_MS)
        fprintf(f, x >= 1000 ? "%.3g s" : "%.3g ms", x >= 1000 ? x / 1000 : x);
    else {
        for (; x >= 1024 && u < 4; u++)
            x /= 1024;
        fprintf(f, "%.3g %s", x, name[u]);
    }
}

static void open_svg(FILE *f, int width, int height, const char *title)
{
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
            "font-family=\"system-ui,-apple-system,'Segoe UI',Roboto,sans-serif\" "
            "font-size=\"12\" fill=\"currentColor\"><title>",
            width, height);
    vte_escape(f, title);
    fputs("</title>\n", f);
}

/* ---- axes ---- */
typedef struct {
    double low, high, step; /* of the values; logarithmic: of their log2 */
    int is_log;
    double from, to; /* where these lie in the picture */
} axis;

static double place(const axis *a, double x)
{
    double v = a->is_log ? log2(x) : x;
    return a->from + (v - a->low) / (a->high - a->low) * (a->to - a->from);
}

/* The least of 1, 2, 5 x 10^n that leaves at most `ticks` steps. */
static double nice_step(double span, int ticks)
{
    double raw = span / ticks, ten = pow(10, floor(log10(raw)));
    double m = raw / ten;
    return ten * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

/* Ticks of bytes are round in the unit that they are shown in. */
static double unit_of(vte_unit unit, double most)
{
    double size = 1;
    while (unit == VTE_UNIT_BYTES && most >= 1024 * size)
        size *= 1024;
    return size;
}

static void fit_linear(axis *a, double low, double high, int ticks, vte_unit unit)
{
    double size = unit_of(unit, high);
    double pad = high > low ? (high - low) * 0.06 : fabs(high) * 0.1 + 1e-6;
    low -= pad, high += pad;
    a->step = size * nice_step((high - low) / size, ticks);
    a->low = floor(low / a->step) * a->step;
    a->high = ceil(high / a->step) * a->step;
}

static void fit_log(axis *a, double low, double high, int ticks)
{
    a->is_log = 1;
    a->low = floor(log2(low) - 0.2);
    a->high = ceil(log2(high) + 0.2);
    a->step = ceil((a->high - a->low) / ticks);
    a->high = a->low + a->step * ceil((a->high - a->low) / a->step);
}

static void fit(axis *a, const vte_chart *c, int is_x)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < c->points; i++) {
        double v = is_x ? c->point[i].x : c->point[i].y;
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    if (is_x && c->x_unit == VTE_UNIT_BYTES && low > 0 && high > 8 * low)
        fit_log(a, low, high, 7);
    else
        fit_linear(a, low, high, is_x ? 7 : 6, is_x ? c->x_unit : c->y_unit);
    if (!a->is_log && low >= 0 && a->low < 0)
        a->low = 0;
    if (!is_x && c->y_unit == VTE_UNIT_PERCENT && a->high > 100 && high <= 100)
        a->high = 100 + (high > 98 ? a->step * 0.2 : 0);
}

static void draw_axis(FILE *f, const axis *a, int is_x, vte_unit unit, const char *label)
{
    for (double v = a->low; v <= a->high + 1e-9 * a->step; v += a->step) {
        double at = a->from + (v - a->low) / (a->high - a->low) * (a->to - a->from);
        if (is_x)
            fprintf(f,
                    "<path d=\"M%.1f %dV%d\" stroke=\"currentColor\" stroke-opacity=\".1\"/>"
                    "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" opacity=\".75\">",
                    at, TOP, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 18);
        else
            fprintf(f,
                    "<path d=\"M%d %.1fH%d\" stroke=\"currentColor\" stroke-opacity=\".1\"/>"
                    "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" opacity=\".75\">",
                    LEFT, at, WIDTH - RIGHT, LEFT - 8, at + 4);
        vte_put_amount(f, unit, a->is_log ? exp2(v) : v);
        fputs("</text>\n", f);
    }
    if (is_x)
        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" font-weight=\"600\">",
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38);
    else
        fprintf(f,
                "<text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\" "
                "font-weight=\"600\">",
                (TOP + HEIGHT - BOTTOM) / 2);
    vte_escape(f, label);
    fputs("</text>\n", f);
}

/* ---- names that share a colour or a marker ---- */
typedef struct {
    const char *name[MOST_NAMES];
    int count;
} names;

static int index_of(names *n, const char *text)
{
    for (int i = 0; i < n->count; i++)
        if (strcmp(n->name[i], text) == 0)
            return i;
    if (n->count == MOST_NAMES)
        return MOST_NAMES - 1;
    n->name[n->count] = text;
    return n->count++;
}

static const char *colour_of(names *series, const char *text)
{
    return strcmp(text, "dense") == 0 ? grey : colour[index_of(series, text) % COLOURS];
}

static void marker(FILE *f, int shape, double x, double y, const char *fill)
{
    static const char *const path[] = {"M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
                                       "M0-6L6 5H-6z",
                                       "M-5-5h10v10h-10z",
                                       "M0-7L7 0 0 7-7 0z",
                                       "M0 6L6-5H-6z",
                                       "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z"};
    fprintf(f,
            "<path transform=\"translate(%.1f %.1f)\" d=\"%s\" fill=\"%s\" stroke=\"#fff\" "
            "stroke-width=\"1\"",
            x, y, path[shape % 6], fill);
}

/* ---- the front ---- */
int vte_chart_on_front(const vte_chart *c, int i)
{
    const vte_chart_point *p = &c->point[i];
    for (int j = 0; j < c->points; j++) {
        const vte_chart_point *q = &c->point[j];
        if (q->x <= p->x && q->y >= p->y && (q->x < p->x || q->y > p->y))
            return 0;
    }
    return 1;
}

static int by_x(const void *a, const void *b)
{
    const vte_chart_point *p = *(const vte_chart_point *const *)a,
                          *q = *(const vte_chart_point *const *)b;
    return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

/* The best y to be had for at most x, as stairs. */
static void draw_front(FILE *f, const vte_chart *c, const axis *x, const axis *y)
{
    const vte_chart_point **on = calloc((size_t)c->points + 1, sizeof *on);
    int count = 0;
    for (int i = 0; on && i < c->points; i++)
        if (vte_chart_on_front(c, i))
            on[count++] = &c->point[i];
    if (count) {
        qsort(on, (size_t)count, sizeof *on, by_x);
        fprintf(f, "<path d=\"M%.1f %.1f", place(x, on[0]->x), place(y, on[0]->y));
        for (int i = 1; i < count; i++)
            fprintf(f, "H%.1fV%.1f", place(x, on[i]->x), place(y, on[i]->y));
        fprintf(f,
                "H%d\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\".45\" "
                "stroke-width=\"1.5\" stroke-dasharray=\"5 4\"/>\n",
                WIDTH - RIGHT);
    }
    free(on);
}

/* ---- names beside points: where they cover nothing that is there already ---- */
typedef struct {
    double x, y, w, h;
} box;

typedef struct {
    box box[2 * MOST_LABELS + 256];
    int count, limit;
} taken;

static int is_free(const taken *t, const box *b)
{
    if (b->x < LEFT || b->x + b->w > WIDTH - RIGHT || b->y < TOP - 8 ||
        b->y + b->h > HEIGHT - BOTTOM)
        return 0;
    for (int i = 0; i < t->count; i++) {
        const box *o = &t->box[i];
        if (b->x < o->x + o->w && o->x < b->x + b->w && b->y < o->y + o->h && o->y < b->y + b->h)
            return 0;
    }
    return 1;
}

static void take(taken *t, box b)
{
    if (t->count < t->limit)
        t->box[t->count++] = b;
}

static void draw_name(FILE *f, taken *t, const vte_chart_point *p, double x, double y, int bold)
{
    enum { HIGH = 12, GAP = 9 };
    double w = (bold ? 7.0 : 6.2) * (double)strlen(p->name);
    const box spot[] = {{x + GAP, y - HIGH / 2, w, HIGH},
                        {x - GAP - w, y - HIGH / 2, w, HIGH},
                        {x - w / 2, y - GAP - HIGH, w, HIGH},
                        {x - w / 2, y + GAP, w, HIGH},
                        {x + GAP, y + 4, w, HIGH},
                        {x + GAP, y - HIGH - 4, w, HIGH}};
    for (size_t i = 0; i < sizeof spot / sizeof *spot; i++) {
        if (!is_free(t, &spot[i]))
            continue;
        take(t, spot[i]);
        fprintf(f,
                "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" paint-order=\"stroke\" "
                "stroke-width=\"3\" style=\"stroke:var(--card,#fff)\"%s>",
                spot[i].x, spot[i].y + 10, bold ? " font-weight=\"600\"" : " opacity=\".8\"");
        vte_escape(f, p->name);
        fputs("</text>\n", f);
        return;
    }
}

static void draw_names(FILE *f, const vte_chart *c, const axis *x, const axis *y)
{
    taken *t = calloc(1, sizeof *t);
    if (!t)
        return;
    t->limit = sizeof t->box / sizeof *t->box;
    for (int i = 0; i < c->points; i++)
        take(t, (box){place(x, c->point[i].x) - 6, place(y, c->point[i].y) - 6, 12, 12});
    for (int front = 1; front >= 0; front--)
        for (int i = 0; i < c->points; i++)
            if (vte_chart_on_front(c, i) == front)
                draw_name(f, t, &c->point[i], place(x, c->point[i].x), place(y, c->point[i].y),
                          front);
    free(t);
}

static void draw_points(FILE *f, const vte_chart *c, const axis *x, const axis *y, names *series,
                        names *shapes)
{
    for (int i = 0; i < c->points; i++) {
        const vte_chart_point *p = &c->point[i];
        marker(f, index_of(shapes, p->shape), place(x, p->x), place(y, p->y),
               colour_of(series, p->series));
        fputs("><title>", f);
        vte_escape(f, p->name);
        fputs(": ", f);
        vte_put_amount(f, c->x_unit, p->x);
        fputs(", ", f);
        vte_put_amount(f, c->y_unit, p->y);
        fputs("</title></path>\n", f);
    }
}

static void draw_legend(FILE *f, names *series, const names *shapes)
{
    double x = LEFT, y = HEIGHT - 36;
    for (int k = 0; k < series->count + shapes->count; k++) {
        int is_shape = k >= series->count;
        const char *name = is_shape ? shapes->name[k - series->count] : series->name[k];
        double w = 28 + 6.4 * (double)strlen(name) + (is_shape ? 40 : 0);
        if (k == series->count || x + w > WIDTH)
            x = LEFT, y += k ? 18 : 0;
        marker(f, is_shape ? k - series->count : 0, x + 6, y - 4,
               is_shape ? grey : colour_of(series, name));
        fprintf(f, "/><text x=\"%.1f\" y=\"%.1f\" opacity=\".85\">%s", x + 16, y,
                is_shape ? "layers " : "");
        vte_escape(f, name);
        fputs("</text>\n", f);
        x += w;
    }
}

void vte_chart_scatter(FILE *f, const vte_chart *c)
{
    names series = {.count = 0}, shapes = {.count = 0};
    axis x = {.from = LEFT, .to = WIDTH - RIGHT}, y = {.from = HEIGHT - BOTTOM, .to = TOP};
    open_svg(f, WIDTH, HEIGHT, c->title);
    if (c->points > 0) {
        fit(&x, c, 1);
        fit(&y, c, 0);
        draw_axis(f, &x, 1, c->x_unit, c->x_label);
        draw_axis(f, &y, 0, c->y_unit, c->y_label);
        draw_front(f, c, &x, &y);
        draw_points(f, c, &x, &y, &series, &shapes);
        draw_names(f, c, &x, &y);
        draw_legend(f, &series, &shapes);
    }
    fputs("</svg>\n", f);
}

/* ---- layers ---- */
/* White to blue, by the fourth root: most masks are sparse, and should differ to the eye. */
static void density_colour(char out[8], double density)
{
    double t = density > 0 ? pow(density < 1 ? density : 1, 0.5) : 0;
    int r = (int)(239 + t * (30 - 239)), g = (int)(246 + t * (64 - 246)),
        b = (int)(255 + t * (175 - 255));
    snprintf(out, 8, "#%02x%02x%02x", r & 255, g & 255, b & 255);
}

static void draw_cell(FILE *f, double x, double y, double w, double density, const char *kernel)
{
    char fill[8], initials[8] = "";
    size_t n = 0;
    for (const char *k = kernel; k && *k && n < 4; k = strchr(k, '+') ? strchr(k, '+') + 1 : "")
        initials[n++] = *k;
    density_colour(fill, density);
    fprintf(f,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"18\" rx=\"2\" fill=\"%s\">"
            "<title>density %.1f %%, kernel ",
            x, y, w - 2, fill, 100 * density);
    vte_escape(f, kernel);
    fprintf(f,
            "</title></rect><text x=\"%.1f\" y=\"%.1f\" font-size=\"10\" text-anchor=\"middle\" "
            "fill=\"%s\" pointer-events=\"none\">%s</text>",
            x + w / 2 - 1, y + 13, density > 0.35 ? "#fff" : "#1e293b", initials);
}

void vte_chart_layers(FILE *f, const json_t *rows)
{
    enum { NAMES = 210, ROW = 20, HEAD = 24, FOOT = 44 };
    size_t i, count = json_array_size(rows);
    size_t layers = json_array_size(json_object_get(json_array_get(rows, 0), "layers_density"));
    json_t *row;
    double w = layers ? (double)(WIDTH - NAMES - RIGHT) / (double)layers : 1;
    w = w > 44 ? 44 : w;
    open_svg(f, WIDTH, HEAD + ROW * (int)count + FOOT, "Density and kernel of each layer");
    for (size_t l = 0; l < layers; l++)
        fprintf(f, "<text x=\"%.1f\" y=\"16\" text-anchor=\"middle\" opacity=\".75\">%zu</text>",
                NAMES + (l + 0.5) * w - 1, l);
    json_array_foreach(rows, i, row)
    {
        double y = HEAD + ROW * (double)i;
        const char *where = json_string_value(json_object_get(row, "layers"));
        fprintf(f, "\n<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", NAMES - 8, y + 13);
        vte_escape(f, json_string_value(json_object_get(row, "name")));
        if (where && *where && strcmp(where, "all") != 0)
            fputs(", ", f), vte_escape(f, where);
        fputs("</text>", f);
        for (size_t l = 0; l < layers; l++)
            draw_cell(f, NAMES + l * w, y, w,
                      json_number_value(json_array_get(json_object_get(row, "layers_density"), l)),
                      json_string_value(json_array_get(json_object_get(row, "layers_kernel"), l)));
    }
    double y = HEAD + ROW * (double)count + 14;
    static const double key[] = {0.01, 0.05, 0.1, 0.25, 0.5, 1};
    for (int k = 0; k < 6; k++) {
        char fill[8];
        density_colour(fill, key[k]);
        fprintf(f,
                "<rect x=\"%d\" y=\"%.1f\" width=\"16\" height=\"12\" rx=\"2\" fill=\"%s\"/>"
                "<text x=\"%d\" y=\"%.1f\" font-size=\"11\">%g %%</text>",
                NAMES + 72 * k, y, fill, NAMES + 20 + 72 * k, y + 10, 100 * key[k]);
    }
    fputs("\n</svg>\n", f);
}

/* ---- masks ---- */
void vte_chart_matrix(FILE *f, const char *title, const float *share, int side)
{
    enum { DEPTHS = 5 };
    open_svg(f, side, side, title);
    fprintf(f, "<rect width=\"%d\" height=\"%d\" fill=\"#eff6ff\"/>", side, side);
    for (int depth = 1; depth <= DEPTHS; depth++) {
        fprintf(f, "<path shape-rendering=\"crispEdges\" fill=\"#1e40af\" fill-opacity=\"%g\" d=\"",
                (double)depth / DEPTHS);
        for (int i = 0; i < side; i++)
            for (int j = 0, run; j < side; j += run) {
                int own = (int)ceilf(sqrtf(share[i * side + j]) * DEPTHS);
                for (run = 1; j + run < side; run++)
                    if ((int)ceilf(sqrtf(share[i * side + j + run]) * DEPTHS) != own)
                        break;
                if (own == depth)
                    fprintf(f, "M%d %dh%dv1h-%dz", j, i, run, run);
            }
        fputs("\"/>", f);
    }
    fputs("</svg>\n", f);
}

void vte_chart_grid(FILE *f, const char *title, const uint8_t *cell, int h, int w, int query)
{
    open_svg(f, w, h, title);
    fprintf(f, "<rect width=\"%d\" height=\"%d\" fill=\"#eff6ff\"/>", w, h);
    fputs("<path shape-rendering=\"crispEdges\" fill=\"#1e40af\" d=\"", f);
    for (int i = 0; i < h; i++)
        for (int j = 0, run; j < w; j += run) {
            for (run = 1; j + run < w && cell[i * w + j + run] == cell[i * w + j]; run++) {
            }
            if (cell[i * w + j])
                fprintf(f, "M%d %dh%dv1h-%dz", j, i, run, run);
        }
    fputs("\"/>", f);
    if (query >= 0)
        fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"1\" height=\"1\" fill=\"#f59e0b\"/>", query % w,
                query / w);
    fputs("</svg>\n", f);
}
