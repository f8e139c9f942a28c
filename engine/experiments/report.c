/* See report.h. Every figure is taken from the rows; nothing is measured here. */
#include "engine/experiments/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/experiments/chart.h"
#include "engine/experiments/measure.h"

enum { MOST_PICTURES = 24, MATRIX = 64 };

typedef struct {
    char *title, *matrix, *grid; /* SVG texts; NULL where the mask cannot be opened */
} picture;

typedef struct {
    const json_t *doc, *rows;
    const json_t *dense;                  /* the first unmasked row */
    vte_harm harm;                        /* of one layer at a time */
    char *memory, *time, *layers, *harms; /* NULL: not there */
    picture picture[MOST_PICTURES];
    int pictures;
    int has_times;
    int *lost; /* memory was short somewhere: then nothing is written */
} report;

static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

static const char *text(const json_t *row, const char *key)
{
    const char *value = json_string_value(json_object_get(row, key));
    return value ? value : "";
}

/* ---- texts in memory ---- */
/* open_memstream; NULL where there is no memory, which is noted. */
static FILE *begin_text(const report *r, char **text, size_t *size)
{
    FILE *f = open_memstream(text, size);
    *r->lost |= !f;
    return f;
}

/* The text, to be freed; NULL where it was lost, which is noted, or where f is NULL. */
static char *end_text(const report *r, FILE *f, char **text)
{
    char *whole = vte_text_end(f, text);
    *r->lost |= f && !whole;
    return whole;
}

/* ---- what is plotted ---- */
/* "near d=3" -> "near": the pattern without its parameters. */
static json_t *series_of(const char *name)
{
    for (const char *at = strchr(name, ' '); at; at = strchr(at + 1, ' '))
        if (strcspn(at + 1, "=") < strcspn(at + 1, " "))
            return json_stringn(name, (size_t)(at - name));
    return json_string(name);
}

static json_t *label_of(const json_t *row)
{
    const char *layers = text(row, "layers");
    int all = !*layers || strcmp(layers, "all") == 0;
    return json_sprintf("%s%s%s", text(row, "name"), all ? "" : ", ", all ? "" : layers);
}

/* The text of s, which lives as long as `texts`. */
static const char *keep(json_t *texts, json_t *s)
{
    return json_array_append_new(texts, s) ? NULL : json_string_value(s);
}

static double attention_bytes(const json_t *row)
{
    return number(row, "attention_bytes") + number(row, "mask_bytes");
}

static double ms_an_image(const json_t *row)
{
    double batch = number(row, "batch");
    return number(row, "ms") / (batch > 0 ? batch : 1);
}

static char *scatter(const report *r, int of_time)
{
    size_t count = json_array_size(r->rows), i, size;
    vte_chart_point *point = calloc(count + 1, sizeof *point);
    vte_chart c = {.title = of_time ? "Accuracy against time" : "Accuracy against memory",
                   .x_label = of_time ? "forward pass, ms an image"
                                      : "attention memory: scratch and masks",
                   .y_label = "top-1 accuracy",
                   .x_unit = of_time ? VTE_UNIT_MS : VTE_UNIT_BYTES,
                   .y_unit = VTE_UNIT_PERCENT,
                   .point = point,
                   .points = point ? (int)count : 0};
    char *svg = NULL;
    json_t *row, *texts = json_array();
    *r->lost |= !point;
    FILE *f = begin_text(r, &svg, &size);
    json_array_foreach(r->rows, i, row)
    {
        if (!point)
            break;
        const char *layers = text(row, "layers");
        vte_chart_point *p = &point[i];
        p->name = keep(texts, label_of(row));
        p->series = keep(texts, series_of(text(row, "name")));
        p->shape = *layers ? layers : "by configuration";
        p->x = of_time ? ms_an_image(row) : attention_bytes(row);
        p->y = 100 * number(row, "top1");
        *r->lost |= !p->name || !p->series;
    }
    if (f && !*r->lost)
        *r->lost |= vte_chart_scatter(f, &c) != 0;
    json_decref(texts);
    free(point);
    return end_text(r, f, &svg);
}

/* Rows of one masked layer say nothing here: that chart shows them. */
static char *layers_chart(const report *r)
{
    char *svg = NULL;
    size_t size, i;
    json_t *row, *rows = json_array();
    json_array_foreach(r->rows, i, row)
    {
        if (!vte_harm_has(&r->harm, row))
            *r->lost |= json_array_append(rows, row) != 0;
    }
    int is_worth_it = !r->harm.masks || json_array_size(rows) > 1;
    FILE *f = is_worth_it ? begin_text(r, &svg, &size) : NULL;
    if (f)
        vte_chart_layers(f, rows);
    json_decref(rows);
    return end_text(r, f, &svg);
}

static char *harm_chart(const report *r)
{
    char *svg = NULL;
    size_t size;
    FILE *f = r->harm.masks ? begin_text(r, &svg, &size) : NULL;
    if (f)
        vte_chart_harm(f, &r->harm);
    return end_text(r, f, &svg);
}

/* ---- pictures of masks ---- */
static vitrun_masks *open_masks(const report *r, const json_t *row)
{
    const json_t *model = json_object_get(r->doc, "model"), *grid = json_object_get(model, "grid");
    const char *config = text(row, "mask_config"), *mask = text(row, "mask");
    vitrun_mask_options o;
    vitrun_error err;
    vitrun_mask_options_init(&o);
    o.grid_h = (int)json_integer_value(json_array_get(grid, 0));
    o.grid_w = (int)json_integer_value(json_array_get(grid, 1));
    o.prefix = (int)number(model, "prefix_tokens");
    o.threads = 1;
    if (*config)
        o.mask_config = config, o.layers = (int)number(model, "layers"),
        o.heads = (int)number(model, "heads");
    else
        o.masks = &mask, o.mask_count = 1;
    vitrun_masks *m = vitrun_masks_open(&o, &err);
    *r->lost |= !m && err.code == VITRUN_MACHINE;
    return m;
}

/* Share of pairs that are on in each of side x side parts of the matrix. */
static int matrix_shares(const vitrun_masks *m, int i, float *share, int side)
{
    int n = vitrun_masks_at(m, i)->tokens, bad = 0;
    uint8_t *row = malloc((size_t)n);
    double *on = calloc((size_t)side * (size_t)side, sizeof *on);
    vitrun_error ignored;
    for (int q = 0; row && on && q < n && !bad; q++) {
        bad = vitrun_masks_row(m, i, q, row, &ignored);
        for (int k = 0; k < n && !bad; k++)
            on[(long)q * side / n * side + (long)k * side / n] += row[k];
    }
    for (int a = 0; row && on && a < side; a++)
        for (int b = 0; b < side; b++) {
            long h = ((long)(a + 1) * n + side - 1) / side - ((long)a * n + side - 1) / side;
            long w = ((long)(b + 1) * n + side - 1) / side - ((long)b * n + side - 1) / side;
            share[a * side + b] = h * w > 0 ? (float)(on[a * side + b] / (double)(h * w)) : 0;
        }
    bad = bad || !row || !on;
    free(row);
    free(on);
    return bad;
}

static char *draw_matrix(const report *r, const vitrun_masks *m, int i, const char *title)
{
    int n = vitrun_masks_at(m, i)->tokens, side = n < MATRIX ? n : MATRIX;
    float *share = calloc((size_t)side * (size_t)side, sizeof *share);
    char *svg = NULL;
    size_t size;
    FILE *f = share && matrix_shares(m, i, share, side) == 0 ? begin_text(r, &svg, &size) : NULL;
    *r->lost |= !f;
    if (f)
        vte_chart_matrix(f, title, share, side);
    free(share);
    return end_text(r, f, &svg);
}

/* What the patch in the middle sees. */
static char *draw_query(const report *r, const vitrun_masks *m, int i, const char *title)
{
    const json_t *model = json_object_get(r->doc, "model"), *grid = json_object_get(model, "grid");
    int h = (int)json_integer_value(json_array_get(grid, 0)),
        w = (int)json_integer_value(json_array_get(grid, 1)),
        prefix = (int)number(model, "prefix_tokens"), query = h / 2 * w + w / 2;
    uint8_t *row = malloc((size_t)vitrun_masks_at(m, i)->tokens);
    char *svg = NULL;
    size_t size;
    vitrun_error ignored;
    FILE *f = row && vitrun_masks_row(m, i, prefix + query, row, &ignored) == 0
                  ? begin_text(r, &svg, &size)
                  : NULL;
    *r->lost |= !f;
    if (f)
        vte_chart_grid(f, title, row + prefix, h, w, query);
    free(row);
    return end_text(r, f, &svg);
}

static void draw_mask(report *r, const json_t *row)
{
    vitrun_masks *m = open_masks(r, row);
    int i = 0, count = m ? vitrun_masks_count(m) : 0;
    while (i < count && vitrun_masks_at(m, i)->density == 1)
        i++;
    if (i < count) {
        picture *p = &r->picture[r->pictures++];
        p->title = strdup(text(row, "name"));
        *r->lost |= !p->title;
        p->matrix = draw_matrix(r, m, i, text(row, "name"));
        p->grid = draw_query(r, m, i, text(row, "name"));
    }
    vitrun_masks_free(m);
}

/* Those of other image sizes have another grid, and are not drawn. */
static void draw_masks(report *r)
{
    size_t i;
    json_t *row;
    json_array_foreach(r->rows, i, row)
    {
        int known = r->pictures == MOST_PICTURES || strcmp(text(row, "mask"), "dense") == 0 ||
                    *text(row, "img_size");
        for (int p = 0; p < r->pictures && !known; p++)
            known = r->picture[p].title && strcmp(r->picture[p].title, text(row, "name")) == 0;
        if (!known)
            draw_mask(r, row);
    }
}

/* ---- the texts that both forms share ---- */
static void put_command(FILE *f, const report *r, const json_t *row, const char *key)
{
    const char *options = text(row, "options");
    fprintf(f, "%s%s%s", text(r->doc, key), *options ? " " : "", options);
    if (!strstr(options, "--batch"))
        fprintf(f, " --batch %.0f", number(row, "batch"));
}

static void put_bytes(FILE *f, double bytes)
{
    vte_put_amount(f, VTE_UNIT_BYTES, bytes);
}

/* One sentence a line, without markup. */
static void put_findings(FILE *f, const report *r, const char *before, const char *after)
{
    const json_t *best = NULL, *fast = NULL, *row;
    size_t i;
    double dense = number(r->dense, "top1");
    json_array_foreach(r->rows, i, row)
    {
        if (strcmp(text(row, "mask"), "dense") == 0)
            continue;
        if (!best || number(row, "top1") > number(best, "top1"))
            best = row;
        if (!fast || ms_an_image(row) < ms_an_image(fast))
            fast = row;
    }
    if (r->dense)
        fprintf(f, "%sUnmasked: %.2f %% of %.0f images are right.%s", before, 100 * dense,
                number(r->dense, "images"), after);
    if (best)
        fprintf(f,
                "%sThe masked point that keeps most: %s, layers %s: %.2f %% (%+.2f points), mean "
                "density %.1f %%.%s",
                before, text(best, "name"),
                *text(best, "layers") ? text(best, "layers") : "by file",
                100 * number(best, "top1"), 100 * (number(best, "top1") - dense),
                100 * number(best, "density"), after);
    if (fast && r->has_times && ms_an_image(fast) > 0)
        fprintf(f,
                "%sThe fastest: %s, layers %s: %.3g ms an image, %.2f x the unmasked speed, at "
                "%.2f %%.%s",
                before, text(fast, "name"),
                *text(fast, "layers") ? text(fast, "layers") : "by file", ms_an_image(fast),
                ms_an_image(r->dense) / ms_an_image(fast), 100 * number(fast, "top1"), after);
}

/* The same with what is markup in the names replaced. */
static void put_findings_html(FILE *f, const report *r)
{
    char *plain = NULL, *save, *line;
    size_t size;
    FILE *t = begin_text(r, &plain, &size);
    if (!t)
        return;
    put_findings(t, r, "", "\n");
    if (end_text(r, t, &plain))
        for (line = strtok_r(plain, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            fputs("<li>", f);
            vte_escape(f, line);
            fputs("</li>\n", f);
        }
    free(plain);
}

static void put_setting(FILE *f, const report *r)
{
    const json_t *model = json_object_get(r->doc, "model");
    fprintf(f, "%s, %.0f layers, %.0f heads, %.0f tokens; %s, %s, %.0f threads; vitrun %s",
            text(model, "architecture"), number(model, "layers"), number(model, "heads"),
            number(model, "tokens"), text(r->doc, "device"), text(r->doc, "dtype"),
            number(r->doc, "threads"), text(r->doc, "vitrun"));
}

/* ---- HTML ---- */
static const char style[] =
    ":root{color-scheme:light dark;--fg:#0f172a;--bg:#f8fafc;--card:#fff;--line:#e2e8f0;"
    "--soft:#475569;--accent:#1d4ed8}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#0b1120;--card:#111a2e;"
    "--line:#24324d;--soft:#94a3b8;--accent:#93c5fd}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);"
    "font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    "main{max-width:1160px;margin:0 auto;padding:32px 16px 64px}"
    "h1{font-size:28px;line-height:1.2;margin:0 0 4px}h2{font-size:18px;margin:0 0 8px}"
    "p.setting{color:var(--soft);margin:0 0 24px}"
    "section{background:var(--card);border:1px solid var(--line);border-radius:12px;"
    "padding:20px;margin:0 0 20px}ul{margin:0;padding-left:20px}"
    "p.note{color:var(--soft);font-size:13px;margin:8px 0 0}"
    ".wide{overflow-x:auto}.wide>svg{display:block;width:100%;min-width:560px;height:auto}"
    ".masks{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:20px}"
    "figure{margin:0}figure>div{display:flex;gap:8px}"
    "figure svg{flex:1;min-width:0;height:auto;border-radius:4px}"
    "figcaption{font-size:13px;color:var(--soft);overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}"
    "th,td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--line);"
    "white-space:nowrap}th{color:var(--soft);font-weight:600}.l{text-align:left}"
    "tr.front td{font-weight:600}a{color:var(--accent);text-decoration:none}"
    "pre{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;white-space:pre-wrap;"
    "overflow-wrap:anywhere;margin:0 0 10px}"
    "@media print{:root{--fg:#000;--bg:#fff;--card:#fff;--line:#ccc;--soft:#444}"
    "main{max-width:none;padding:0}section{border:0;padding:0;margin:0 0 24px}"
    ".wide{overflow:visible}.wide>svg{min-width:0}"
    "section.chart,figure,tr{break-inside:avoid}table{font-size:9px}th,td{padding:2px 4px}}";

static void html_chart(FILE *f, const char *heading, const char *svg, const char *note)
{
    if (!svg)
        return;
    fprintf(f,
            "<section class=\"chart\"><h2>%s</h2><div class=\"wide\">%s</div>"
            "<p class=\"note\">%s</p></section>\n",
            heading, svg, note);
}

static void html_masks(FILE *f, const report *r)
{
    if (!r->pictures)
        return;
    fputs("<section><h2>The masks</h2><div class=\"masks\">\n", f);
    for (int i = 0; i < r->pictures; i++) {
        const picture *p = &r->picture[i];
        fprintf(f, "<figure><div>%s%s</div><figcaption>", p->matrix ? p->matrix : "",
                p->grid ? p->grid : "");
        vte_escape(f, p->title);
        fputs("</figcaption></figure>\n", f);
    }
    fputs("</div><p class=\"note\">Left: which token (row) sees which (column), darker where more "
          "pairs are on. Right: what the patch in the middle (orange) sees.</p></section>\n",
          f);
}

static int is_on_front(const report *r, size_t index)
{
    const json_t *own = json_array_get(r->rows, index), *row;
    size_t i;
    json_array_foreach(r->rows, i, row)
    {
        double dx = ms_an_image(own) - ms_an_image(row),
               dy = number(row, "top1") - number(own, "top1");
        if (dx >= 0 && dy >= 0 && (dx > 0 || dy > 0))
            return 0;
    }
    return r->has_times;
}

static void html_row(FILE *f, const report *r, size_t i)
{
    const json_t *row = json_array_get(r->rows, i);
    fprintf(f, "<tr%s><td><a href=\"#c%zu\">%zu</a></td><td class=\"l\">",
            is_on_front(r, i) ? " class=\"front\"" : "", i, i);
    vte_escape(f, text(row, "name"));
    fputs("</td><td class=\"l\">", f);
    vte_escape(f, text(row, "layers"));
    fprintf(f,
            "</td><td>%.1f %%</td><td>%.2f %%</td><td>%.2f %%</td><td>%.4f</td><td>%.2f %%</td>"
            "<td>%.4f</td><td>",
            100 * number(row, "density"), 100 * number(row, "top1"), 100 * number(row, "top5"),
            number(row, "loss"), 100 * number(row, "agreement_top1"), number(row, "kl_to_dense"));
    static const char *const bytes[] = {"attention_bytes", "mask_bytes", "activation_bytes",
                                        "peak_bytes"};
    for (int b = 0; b < 4; b++) {
        put_bytes(f, number(row, bytes[b]));
        fputs("</td><td>", f);
    }
    fprintf(f, "%.3g</td><td>%.0f</td></tr>\n", number(row, "ms"), number(row, "batch"));
}

static void html_table(FILE *f, const report *r)
{
    fputs("<section><h2>All points</h2><div class=\"wide\"><table><thead><tr><th>#</th>"
          "<th class=\"l\">mask</th><th class=\"l\">layers</th><th>density</th><th>top-1</th>"
          "<th>top-5</th><th>loss</th><th>same class</th><th>KL</th><th>attention</th>"
          "<th>masks</th><th>activations</th><th>peak</th><th>ms</th><th>batch</th></tr></thead>"
          "<tbody>\n",
          f);
    for (size_t i = 0; i < json_array_size(r->rows); i++)
        html_row(f, r, i);
    fputs("</tbody></table></div><p class=\"note\">Bold: on the front of accuracy against time. "
          "Same class and KL (nats) compare with the unmasked model; bytes are planned for one "
          "forward pass of the batch, milliseconds the median of such passes. The number leads "
          "to the commands.</p></section>\n",
          f);
}

static void html_commands(FILE *f, const report *r)
{
    fputs("<section><h2>To repeat it</h2><p class=\"note\">", f);
    vte_escape(f, text(r->doc, "build"));
    fputs("</p>\n", f);
    for (size_t i = 0; i < json_array_size(r->rows); i++) {
        char *line = NULL;
        size_t size;
        FILE *t = begin_text(r, &line, &size);
        if (!t)
            return;
        put_command(t, r, json_array_get(r->rows, i), "command");
        if (r->has_times) {
            fputc('\n', t);
            put_command(t, r, json_array_get(r->rows, i), "bench_command");
        }
        fprintf(f, "<pre id=\"c%zu\">%zu  ", i, i);
        if (end_text(r, t, &line)) {
            char *second = strchr(line, '\n');
            if (second)
                *second = '\0';
            vte_escape(f, line);
            if (second)
                fputs("\n   ", f), vte_escape(f, second + 1);
        }
        fputs("</pre>\n", f);
        free(line);
    }
    fputs("</section>\n", f);
}

static void write_html(FILE *f, const report *r)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
          f);
    vte_escape(f, text(r->doc, "title"));
    fprintf(f, ": what masks cost and save</title><style>%s</style></head><body><main>\n<h1>",
            style);
    vte_escape(f, text(r->doc, "title"));
    fputs(": what masks cost and save</h1><p class=\"setting\">", f);
    char *setting = NULL;
    size_t size;
    FILE *t = begin_text(r, &setting, &size);
    if (t) {
        put_setting(t, r);
        if (end_text(r, t, &setting))
            vte_escape(f, setting);
        free(setting);
    }
    fputs("</p>\n<section><h2>In short</h2><ul>\n", f);
    put_findings_html(f, r);
    fputs("</ul></section>\n", f);
    html_chart(
        f, "What each layer suffers", r->harms,
        "One layer masked at a time (or all but one). Numbers: points of top-1 that are lost. "
        "Colour: Kullback-Leibler divergence from the unmasked model.");
    html_chart(
        f, "Accuracy against memory", r->memory,
        "Dashed: the best accuracy to be had for at most so much memory. Attention memory is "
        "the kernels' scratch and the masks' data, for one forward pass.");
    html_chart(f, "Accuracy against time", r->time,
               "Dashed: the best accuracy to be had in at most so much time.");
    html_chart(f, "Layer by layer", r->layers,
               "Colour: density of the layer's masks. Letters: the first of its kernels' names "
               "(d dense, t tiles, r rows, c columns, a axial).");
    html_masks(f, r);
    html_table(f, r);
    html_commands(f, r);
    fputs("</main></body></html>\n", f);
}

/* ---- Markdown ---- */
static void md_cell(FILE *f, const char *value)
{
    for (; *value; value++)
        fprintf(f, *value == '|' ? "\\|" : "%c", *value);
}

static void md_row(FILE *f, const report *r, size_t i)
{
    const json_t *row = json_array_get(r->rows, i);
    fprintf(f, "| %zu | ", i);
    md_cell(f, text(row, "name"));
    fputs(" | ", f);
    md_cell(f, text(row, "layers"));
    fprintf(f, " | %.1f %% | %.2f %% | %.2f %% | %.4f | %.2f %% | %.4f | ",
            100 * number(row, "density"), 100 * number(row, "top1"), 100 * number(row, "top5"),
            number(row, "loss"), 100 * number(row, "agreement_top1"), number(row, "kl_to_dense"));
    put_bytes(f, number(row, "attention_bytes"));
    fputs(" | ", f);
    put_bytes(f, number(row, "mask_bytes"));
    fputs(" | ", f);
    put_bytes(f, number(row, "peak_bytes"));
    fprintf(f, " | %.3g | %.0f |\n", number(row, "ms"), number(row, "batch"));
}

static void write_markdown(FILE *f, const report *r)
{
    fprintf(f, "# %s: what masks cost and save\n\n", text(r->doc, "title"));
    put_setting(f, r);
    fputs("\n\n", f);
    put_findings(f, r, "- ", "\n");
    if (r->harms)
        fputs("\n![What masks on one layer cost](harm.svg)\n", f);
    fputs("\n![Accuracy against memory](memory.svg)\n", f);
    if (r->time)
        fputs("\n![Accuracy against time](time.svg)\n", f);
    if (r->layers)
        fputs("\n![Density and kernel of each layer](layers.svg)\n", f);
    fputs("\n", f);
    for (int i = 0; i < r->pictures; i++) {
        fprintf(f, "%s![", i ? " " : "");
        md_cell(f, r->picture[i].title);
        fprintf(f, "](mask-%d.svg)", i);
    }
    fputs(
        "\n\n| # | mask | layers | density | top-1 | top-5 | loss | same class | KL | attention | "
        "masks | peak | ms | batch |\n"
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: | ---: |\n",
        f);
    for (size_t i = 0; i < json_array_size(r->rows); i++)
        md_row(f, r, i);
    fprintf(f, "\n%s\n\n```sh\n", text(r->doc, "build"));
    for (size_t i = 0; i < json_array_size(r->rows); i++) {
        fprintf(f, "# %zu\n", i);
        put_command(f, r, json_array_get(r->rows, i), "command");
        fputc('\n', f);
        if (r->has_times) {
            put_command(f, r, json_array_get(r->rows, i), "bench_command");
            fputc('\n', f);
        }
    }
    fputs("```\n", f);
}

/* ---- files ---- */
static int save(const char *dir, const char *name, const char *content, vitrun_error *err)
{
    char *path = NULL;
    if (!content || asprintf(&path, "%s/%s", dir, name) < 0)
        return vte_fail(err, VITRUN_MACHINE, "out of memory (%s)", name);
    int bad = vitrun_save_bytes(path, content, strlen(content), err);
    free(path);
    return bad;
}

static int save_form(const report *r, const char *dir, const char *name,
                     void (*write)(FILE *, const report *), vitrun_error *err)
{
    char *content = NULL;
    size_t size;
    FILE *f = begin_text(r, &content, &size);
    if (f)
        write(f, r);
    int bad = save(dir, name, end_text(r, f, &content) && !*r->lost ? content : NULL, err);
    free(content);
    return bad;
}

static int save_masks(const report *r, const char *dir, vitrun_error *err)
{
    int bad = 0;
    for (int i = 0; i < r->pictures && !bad; i++) {
        char name[32];
        snprintf(name, sizeof name, "mask-%d.svg", i);
        if (r->picture[i].matrix)
            bad = save(dir, name, r->picture[i].matrix, err);
    }
    return bad;
}

static void free_report(report *r)
{
    free(r->memory);
    free(r->time);
    free(r->layers);
    free(r->harms);
    vte_harm_free(&r->harm);
    for (int i = 0; i < r->pictures; i++) {
        free(r->picture[i].title);
        free(r->picture[i].matrix);
        free(r->picture[i].grid);
    }
}

int vte_report_write(const json_t *document, const char *dir, vitrun_error *err)
{
    int lost = 0;
    report r = {.doc = document, .rows = json_object_get(document, "rows"), .lost = &lost};
    r.dense = json_array_get(r.rows, 0);
    r.has_times = number(r.dense, "ms") > 0;
    r.memory = scatter(&r, 0);
    r.time = r.has_times ? scatter(&r, 1) : NULL;
    lost |= vte_harm_of(&r.harm, r.rows, r.dense) != 0;
    r.layers = layers_chart(&r);
    r.harms = harm_chart(&r);
    draw_masks(&r);
    int bad = (lost && vte_fail(err, VITRUN_MACHINE, "out of memory (report)")) ||
              save_form(&r, dir, "report.html", write_html, err) ||
              save_form(&r, dir, "report.md", write_markdown, err) ||
              save(dir, "memory.svg", r.memory, err) ||
              ((r.layers || !r.harm.masks) && save(dir, "layers.svg", r.layers, err)) ||
              (r.harm.masks && save(dir, "harm.svg", r.harms, err)) ||
              (r.has_times && save(dir, "time.svg", r.time, err)) || save_masks(&r, dir, err);
    free_report(&r);
    return bad ? -1 : 0;
}
