/* See chart.h. Lengths are in the units of the viewBox, in which text is 12 high. */
#include "engine/experiments/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/measure.h"

enum {
    WIDTH = 720,
    LEFT = 64,
    RIGHT = 36,
    TOP = 20,
    FLOOR = 324,  /* where the x axis lies */
    LEGEND = 384, /* its first line */
    MOST_NAMES = 24,
    LONGEST_KEY = 60, /* of the legend's names */
    MARKERS = 6,
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

/* The text; of a longer one than `room` bytes the first whole characters, and dots. */
static void put_cut(FILE *f, const char *text, size_t room)
{
    size_t n = strlen(text);
    if (n <= room) {
        vte_escape(f, text);
        return;
    }
    for (n = room; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
        n--;
    char *shown = strndup(text, n);
    vte_escape(f, shown);
    fputs("…", f);
    free(shown);
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
                    at, TOP, FLOOR, at, FLOOR + 18);
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
                (LEFT + WIDTH - RIGHT) / 2, FLOOR + 38);
    else
        fprintf(f,
                "<text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\" "
                "font-weight=\"600\">",
                (TOP + FLOOR) / 2);
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
    static const char *const path[MARKERS] = {"M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
                                              "M0-6L6 5H-6z",
                                              "M-5-5h10v10h-10z",
                                              "M0-7L7 0 0 7-7 0z",
                                              "M0 6L6-5H-6z",
                                              "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z"};
    fprintf(f,
            "<path transform=\"translate(%.1f %.1f)\" d=\"%s\" fill=\"%s\" stroke=\"#fff\" "
            "stroke-width=\"1\"",
            x, y, path[shape % MARKERS], fill);
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

/* Points of the front from left to right: [points], to be freed; NULL where memory is short. */
static const vte_chart_point **front_of(const vte_chart *c, int *count)
{
    const vte_chart_point **on = calloc((size_t)c->points + 1, sizeof *on);
    *count = 0;
    for (int i = 0; on && i < c->points; i++)
        if (vte_chart_on_front(c, i))
            on[(*count)++] = &c->point[i];
    if (on)
        qsort(on, (size_t)*count, sizeof *on, by_x);
    return on;
}

/* The best y to be had for at most x, as stairs. */
static void draw_front(FILE *f, const vte_chart *c, const axis *x, const axis *y)
{
    int count;
    const vte_chart_point **on = front_of(c, &count);
    if (count) {
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
    if (b->x < LEFT || b->x + b->w > WIDTH - RIGHT || b->y < TOP - 8 || b->y + b->h > FLOOR)
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

/* Names keep off the front's treads. */
static void take_front(taken *t, const vte_chart *c, const axis *x, const axis *y)
{
    int count;
    const vte_chart_point **on = front_of(c, &count);
    for (int i = 0; i < count; i++) {
        double from = place(x, on[i]->x), to = i + 1 < count ? place(x, on[i + 1]->x) : x->to;
        take(t, (box){from, place(y, on[i]->y) - 1, to - from, 2});
    }
    free(on);
}

static void draw_names(FILE *f, const vte_chart *c, const axis *x, const axis *y)
{
    taken *t = calloc(1, sizeof *t);
    if (!t)
        return;
    t->limit = sizeof t->box / sizeof *t->box;
    for (int i = 0; i < c->points; i++)
        take(t, (box){place(x, c->point[i].x) - 6, place(y, c->point[i].y) - 6, 12, 12});
    take_front(t, c, x, y);
    for (int front = 1; front >= 0; front--)
        for (int i = 0; i < c->points; i++)
            if (vte_chart_on_front(c, i) == front)
                draw_name(f, t, &c->point[i], place(x, c->point[i].x), place(y, c->point[i].y),
                          front);
    free(t);
}

/* shapes NULL: all are circles. */
static void draw_points(FILE *f, const vte_chart *c, const axis *x, const axis *y, names *series,
                        names *shapes)
{
    for (int i = 0; i < c->points; i++) {
        const vte_chart_point *p = &c->point[i];
        marker(f, shapes ? index_of(shapes, p->shape) : 0, place(x, p->x), place(y, p->y),
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

/* Returns where it ends. */
static double draw_legend(FILE *f, names *series, const names *shapes)
{
    double x = LEFT, y = LEGEND;
    for (int k = 0; k < series->count + shapes->count; k++) {
        int is_shape = k >= series->count;
        const char *name = is_shape ? shapes->name[k - series->count] : series->name[k];
        size_t length = strlen(name) < LONGEST_KEY ? strlen(name) : LONGEST_KEY;
        double w = 28 + 6.4 * (double)length + (is_shape ? 40 : 0);
        if (k == series->count || x + w > WIDTH)
            x = LEFT, y += k ? 18 : 0;
        marker(f, is_shape ? k - series->count : 0, x + 6, y - 4,
               is_shape ? grey : colour_of(series, name));
        fprintf(f, "/><text x=\"%.1f\" y=\"%.1f\" opacity=\".85\">%s", x + 16, y,
                is_shape ? "layers " : "");
        put_cut(f, name, LONGEST_KEY);
        fputs("</text>\n", f);
        x += w;
    }
    return y;
}

/* Returns where the picture ends. */
static double draw_scatter(FILE *f, const vte_chart *c)
{
    names series = {.count = 0}, shapes = {.count = 0};
    axis x = {.from = LEFT, .to = WIDTH - RIGHT}, y = {.from = FLOOR, .to = TOP};
    fit(&x, c, 1);
    fit(&y, c, 0);
    draw_axis(f, &x, 1, c->x_unit, c->x_label);
    draw_axis(f, &y, 0, c->y_unit, c->y_label);
    draw_front(f, c, &x, &y);
    for (int i = 0; i < c->points; i++)
        index_of(&shapes, c->point[i].shape);
    if (shapes.count > MARKERS)
        shapes.count = 0;
    draw_points(f, c, &x, &y, &series, shapes.count ? &shapes : NULL);
    draw_names(f, c, &x, &y);
    return draw_legend(f, &series, &shapes) + 18;
}

/* How high it is turns out while it is drawn. */
int vte_chart_scatter(FILE *f, const vte_chart *c)
{
    char *body = NULL;
    size_t size;
    FILE *b = open_memstream(&body, &size);
    double height = b && c->points > 0 ? draw_scatter(b, c) : LEGEND;
    if (!vte_text_end(b, &body))
        return -1;
    open_svg(f, WIDTH, (int)height, c->title);
    fputs(body, f);
    free(body);
    fputs("</svg>\n", f);
    return 0;
}

/* ---- rows by layers ---- */
enum { NAMES = 210, LONGEST = 27 /* characters that fit into NAMES */ };

/* A row's name and what follows it. */
static void row_name(FILE *f, double y, const char *name, const char *more)
{
    size_t length = strlen(more), room = LONGEST > length ? LONGEST - length : 0;
    fprintf(f, "\n<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\"><title>", NAMES - 8, y);
    vte_escape(f, name);
    fputs("</title>", f);
    put_cut(f, name, room);
    vte_escape(f, more);
    fputs("</text>", f);
}

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
    enum { ROW = 20, HEAD = 24, FOOT = 44 };
    size_t i, count = json_array_size(rows);
    size_t layers = json_array_size(json_object_get(json_array_get(rows, 0), "layers_density"));
    json_t *row;
    double w = layers ? (double)(WIDTH - NAMES - RIGHT) / (double)layers : 1;
    w = w > 44 ? 44 : w;
    open_svg(f, WIDTH, HEAD + ROW * (int)count + FOOT, "Density and kernel of each layer");
    for (size_t l = 0; l < layers; l++)
        fprintf(f, "<text x=\"%.1f\" y=\"16\" text-anchor=\"middle\" opacity=\".75\">%zu</text>",
                NAMES + ((double)l + 0.5) * w - 1, l);
    json_array_foreach(rows, i, row)
    {
        double y = HEAD + ROW * (double)i;
        const char *where = json_string_value(json_object_get(row, "layers"));
        char more[LONGEST + 3] = "";
        if (where && *where && strcmp(where, "all") != 0)
            snprintf(more, sizeof more, ", %s", where);
        row_name(f, y + 13, json_string_value(json_object_get(row, "name")), more);
        for (size_t l = 0; l < layers; l++)
            draw_cell(f, NAMES + (double)l * w, y, w,
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

/* ---- harm ---- */
/* White to red; half way at a hundredth of what harms most, for harm spreads over many powers of ten. */
static void harm_colour(char out[8], double share)
{
    double t = share > 0 ? pow(share < 1 ? share : 1, 0.15) : 0;
    int r = (int)(255 + t * (190 - 255)), g = (int)(247 + t * (18 - 247)),
        b = (int)(242 + t * (60 - 242));
    snprintf(out, 8, "#%02x%02x%02x", r & 255, g & 255, b & 255);
}

static void draw_harm(FILE *f, double x, double y, double w, double kl, double lost, double most)
{
    char fill[8];
    if (isnan(kl))
        return;
    harm_colour(fill, most > 0 ? kl / most : 0);
    fprintf(f,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"22\" rx=\"2\" fill=\"%s\">"
            "<title>KL %.3g, %.2f points of top-1 lost</title></rect>",
            x, y, w - 2, fill, kl, lost);
    fprintf(f,
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%g\" text-anchor=\"middle\" fill=\"%s\" "
            "pointer-events=\"none\">%.*f</text>",
            x + w / 2 - 1, y + 15, w < 30 ? 8.0 : 11.0, kl > 0.02 * most ? "#fff" : "#1e293b",
            fabs(lost) < 9.95, fabs(lost) < 0.005 ? 0 : lost);
}

void vte_chart_harm(FILE *f, const vte_harm *h)
{
    enum { ROW = 24, HEAD = 40, FOOT = 6 };
    double w = h->layers ? (double)(WIDTH - NAMES - RIGHT) / h->layers : 1, most = 0;
    w = w > 44 ? 44 : w;
    for (int i = 0; i < h->masks * h->layers; i++)
        most = fmax(most, h->mask[i / h->layers].kl[i % h->layers]); /* NAN is no more */
    open_svg(f, WIDTH, HEAD + ROW * h->masks + FOOT, "What masks on one layer cost");
    fprintf(f, "<text x=\"%d\" y=\"12\" font-weight=\"600\">layer</text>", NAMES);
    for (int l = 0; l < h->layers; l++)
        fprintf(f, "<text x=\"%.1f\" y=\"32\" text-anchor=\"middle\" opacity=\".75\">%d</text>",
                NAMES + ((double)l + 0.5) * w - 1, l);
    for (int i = 0; i < h->masks; i++) {
        const vte_harm_mask *m = &h->mask[i];
        double y = HEAD + ROW * (double)i;
        row_name(f, y + 15, m->name, m->but_one ? ", all but it" : "");
        for (int l = 0; l < h->layers; l++)
            draw_harm(f, NAMES + (double)l * w, y, w, m->kl[l], m->lost[l], most);
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
