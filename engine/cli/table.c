/* Text in aligned columns, two spaces apart. Widths count characters, not bytes of UTF-8. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

struct cli_table {
    const char *columns;
    char **cell; /* [count], row by row */
    size_t count, capacity;
};

cli_table *cli_table_new(const char *columns)
{
    cli_table *t = cli_alloc(1, sizeof *t);
    t->columns = columns;
    return t;
}

static void add(cli_table *t, char *text)
{
    if (t->count == t->capacity) {
        size_t capacity = 2 * t->capacity + 64;
        char **cell = cli_alloc(capacity, sizeof *cell);
        if (t->count)
            memcpy(cell, t->cell, t->count * sizeof *cell);
        free(t->cell);
        t->cell = cell;
        t->capacity = capacity;
    }
    t->cell[t->count++] = text;
}

void cli_cell(cli_table *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    add(t, cli_format_list(fmt, args));
    va_end(args);
}

void cli_cells(cli_table *t, const char *const *texts)
{
    for (; *texts; texts++)
        cli_cell(t, "%s", *texts);
}

static size_t width_of(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_row(const cli_table *t, char *const *row, const size_t *width, int indent,
                      FILE *f)
{
    size_t columns = strlen(t->columns);
    while (columns > 1 && !*row[columns - 1]) /* no spaces at the end of a line */
        columns--;
    fprintf(f, "%*s", indent, "");
    for (size_t c = 0; c < columns; c++) {
        int pad = (int)(width[c] - width_of(row[c])), last = c + 1 == columns;
        if (t->columns[c] == 'r')
            fprintf(f, "%*s", pad, "");
        cli_puts_escaped(row[c], f);
        if (!last)
            fprintf(f, "%*s  ", t->columns[c] == 'l' ? pad : 0, "");
    }
    fputc('\n', f);
}

void cli_table_drop(cli_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cell[i]);
    free(t->cell);
    free(t);
}

void cli_table_end(cli_table *t, int indent, FILE *f)
{
    size_t columns = strlen(t->columns);
    size_t *width = cli_alloc(columns, sizeof *width);
    for (size_t i = 0; i < t->count; i++) {
        size_t w = width_of(t->cell[i]);
        if (w > width[i % columns])
            width[i % columns] = w;
    }
    for (size_t i = 0; i + columns <= t->count; i += columns)
        print_row(t, t->cell + i, width, indent, f);
    free(width);
    cli_table_drop(t);
}
