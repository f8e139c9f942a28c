/* Fits the cost model's constants (kernels/costs.h) to what tests/bench_attn.py has measured, and
 * says what `auto` would choose by them. Not a test: it makes the constants that are built in.
 *
 *   build/tests/bench_costs_fit attn.csv [dtype=TYPE] [head_dim=SIZE,...] [hold=N] [NAME=VALUE ...]
 *
 * Reads the rows of one type and of some head sizes (fp16 and 64 unless given). The fit begins at
 * the NAME=VALUE, a constant that is not given is no part of the formulas; after it constants are
 * moved a little where that makes choices better. hold=N: every Nth cell takes no part in it, and
 * shows what the constants are worth where they were not fitted. Prints the constants, each cell
 * where the choice is more than 3 % slower than the best kernel, and how good the choices are over
 * all. The masks are made again from their expressions, for what the formulas want to know. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/masks/masks.h"
#include "kernels/costs.h"

#define FAR_BEHIND 2.5 /* times the fastest */

enum { FIELDS = 20, MOST = 8192 };

typedef struct {
    int tokens, batch, heads, head_dim;
    char name[64], mask[256], contender[32];
    double ms;
} row;

static const char *dtype = "fp16";
static const char *head_dims = "64"; /* "32,128" */
static int hold;                     /* every such cell is held out; 0: none */

static row rows[MOST];
static vt_attn_sample samples[MOST];
static int cell_of[MOST];  /* of a sample: index of the cell's first row */
static bool is_held[MOST]; /* of a sample: does its cell take no part in the fit? */

/* ---- the table ---- */

/* The next field of a line of CSV, unquoted in place; *line goes on behind it. */
static char *next_field(char **line)
{
    char *from = *line, *to = from, *begin = from;
    int quoted = *from == '"';
    from += quoted;
    while (*from && (quoted || *from != ',') && *from != '\n' && *from != '\r') {
        if (quoted && *from == '"' && *++from != '"') {
            quoted = 0;
            continue;
        }
        *to++ = *from++;
    }
    *line = *from ? from + 1 : from;
    *to = '\0';
    return begin;
}

static bool is_wanted(int head_dim)
{
    const char *at = head_dims;
    for (char *end; *at; at = end + (*end == ','))
        if (strtol(at, &end, 10) == head_dim || end == at)
            return end != at;
    return false;
}

static int read_rows(FILE *f)
{
    static const char *const wanted[] = {"tokens", "batch", "name",  "mask",    "contender",
                                         "ms",     "dtype", "heads", "head_dim"};
    enum { WANTED = sizeof wanted / sizeof *wanted };
    char line[1024];
    int at[WANTED], count = 0;
    for (int w = 0; w < WANTED; w++)
        at[w] = -1;
    for (int n = 0; count < MOST && fgets(line, sizeof line, f); n++) {
        char *field[FIELDS], *rest = line;
        int fields = 0;
        while (*rest && fields < FIELDS)
            field[fields++] = next_field(&rest);
        for (int i = 0; n == 0 && i < fields; i++)
            for (int w = 0; w < WANTED; w++)
                at[w] = strcmp(field[i], wanted[w]) ? at[w] : i;
        for (int w = 0; w < WANTED; w++)
            if (at[w] < 0 || at[w] >= fields)
                return -1;
        if (n == 0 || strcmp(field[at[6]], dtype) || !is_wanted(atoi(field[at[8]])))
            continue;
        row *r = &rows[count++];
        r->tokens = atoi(field[at[0]]);
        r->batch = atoi(field[at[1]]);
        snprintf(r->name, sizeof r->name, "%s", field[at[2]]);
        snprintf(r->mask, sizeof r->mask, "%s", field[at[3]]);
        snprintf(r->contender, sizeof r->contender, "%s", field[at[4]]);
        r->ms = atof(field[at[5]]);
        r->heads = atoi(field[at[7]]);
        r->head_dim = atoi(field[at[8]]);
    }
    return count;
}

/* ---- samples ---- */

static void check(int failed, const vt_status *st)
{
    if (failed) {
        fprintf(stderr, "bench_costs_fit: %s\n", st->text);
        exit(1);
    }
}

static vt_attn_work count(const row *r)
{
    int side = (int)sqrt((double)r->tokens), threads = 2;
    const char *text = r->mask;
    vt_mask_shape shape = {
        .layers = 1, .heads = 1, .prefix = r->tokens - side * side, .grid_h = side, .grid_w = side};
    vt_attn_work w = {.tokens = r->tokens, .threads = 1};
    vt_status st = {VT_OK, ""};
    vt_mask_stats stats;
    vt_masks *m = vt_masks_load(NULL, &text, 1, &shape, threads, &st);
    check(!m || vt_mask_count(m->layer[0].group[0].mask, threads, &stats, &st), &st);
    check(vt_columns_count_all(m->layer[0].group[0].mask, threads, w.columns, &st), &st);
    vt_masks_free(m);
    w.masked = true;
    w.nnz = stats.nnz;
    w.row_max = stats.row_max;
    w.occupied = stats.occupancy[2];
    return w;
}

/* Each mask is counted once; its cells may be anywhere. */
static vt_attn_work work_of(const row *r)
{
    static struct {
        const row *of;
        vt_attn_work work;
    } known[256];
    static int masks;
    int i = 0;
    while (i < masks && (known[i].of->tokens != r->tokens || strcmp(known[i].of->mask, r->mask)))
        i++;
    if (i == masks && masks < 256) {
        known[masks].of = r;
        known[masks++].work = count(r);
    }
    vt_attn_work w = i < 256 ? known[i].work : count(r);
    w.images = r->batch;
    w.heads = r->heads;
    w.head_dim = r->head_dim;
    return w;
}

static int make_samples(int count_of_rows)
{
    int n = 0, cell = 0, cells = 0;
    for (int i = 0; i < count_of_rows; i++) {
        const row *r = &rows[i], *c = &rows[cell];
        if (r->tokens != c->tokens || r->batch != c->batch || strcmp(r->name, c->name) ||
            r->head_dim != c->head_dim) {
            cell = i;
            cells++;
        }
        for (int k = VT_ATTN_DENSE; k < VT_ATTN_KERNELS; k++)
            if (!strcmp(r->contender, vt_attn_kernel_name((vt_attn_kernel)k))) {
                samples[n] = (vt_attn_sample){(vt_attn_kernel)k, work_of(r), r->ms};
                is_held[n] = hold && cells % hold == hold - 1;
                cell_of[n++] = cell;
            }
    }
    return n;
}

/* ---- what would be chosen ---- */

/* The sample of the kernel that is chosen among samples i .. end - 1, all of one cell. */
static const vt_attn_sample *chosen(const vt_attn_costs *costs, int i, int end)
{
    vt_attn_wish wish = {.rule = VT_RULE_AUTO, .threshold = 0.30};
    vt_attn_work work = samples[i].work;
    vt_attn_choice choice;
    vt_status st = {VT_OK, ""};
    for (int j = i; j < end; j++)
        work.serves[samples[j].kernel] = true;
    check(vt_attn_choose(&choice, &wish, &work, costs, &st), &st);
    while (samples[i].kernel != choice.kernel)
        i++;
    return &samples[i];
}

typedef struct {
    double mean, worst, loss; /* to the best: geometric mean, at worst; to dense: at worst */
    double regret;            /* what polishing lowers */
    int cells;
} judgement;

/* Of the cells that are held out, or of the others. `each`: prints those that are off. */
static judgement judge_choices(const vt_attn_costs *costs, int n, bool held, bool each)
{
    judgement sum = {0};
    for (int i = 0, j; i < n; i = j) {
        const vt_attn_sample *dense = &samples[i], *best = &samples[i], *taken;
        for (j = i; j < n && cell_of[j] == cell_of[i]; j++) {
            dense = samples[j].kernel == VT_ATTN_DENSE ? &samples[j] : dense;
            best = samples[j].ms < best->ms ? &samples[j] : best;
        }
        if (is_held[i] != held)
            continue;
        sum.cells++;
        taken = chosen(costs, i, j);
        double off = taken->ms / best->ms, loss = taken->ms / dense->ms;
        double density = (double)best->work.nnz / best->work.tokens / best->work.tokens;
        const row *r = &rows[cell_of[i]];
        if (each && off > 1.03)
            printf("%5d b%-2d d%-3d %-22s %5.1f %%: %-10s %8.4f ms, %-10s %8.4f ms, %.2f x; dense "
                   "%.4f "
                   "ms\n",
                   r->tokens, r->batch, r->head_dim, r->name, 100 * density,
                   vt_attn_kernel_name(taken->kernel), taken->ms, vt_attn_kernel_name(best->kernel),
                   best->ms, off, dense->ms);
        sum.mean += log(off);
        sum.worst = fmax(sum.worst, off);
        sum.loss = fmax(sum.loss, loss);
        sum.regret += log(off) * log(off) + 4 * fmax(0, log(loss)) * fmax(0, log(loss));
    }
    sum.mean = exp(sum.mean / sum.cells);
    return sum;
}

/* Moves single constants, by steps that become smaller, as long as choices become better: what is
 * off in the predictions does not matter where it decides nothing. */
static void polish(vt_attn_costs *costs, int n)
{
    judgement now = judge_choices(costs, n, false, false);
    for (double step = 0.08; step > 0.005; step /= 2)
        for (int i = 0, moved = 0; i < vt_costs_count(); i++) {
            for (int way = -1; way <= 1 && !vt_costs_is_fact(i); way += 2) {
                vt_attn_costs other = *costs;
                ((double *)&other)[i] *= 1 + way * step;
                judgement then = judge_choices(&other, n, false, false);
                if (then.regret < now.regret - 1e-9) {
                    *costs = other;
                    now = then;
                    moved = 1;
                }
            }
            if (i == vt_costs_count() - 1 && moved)
                i = -1, moved = 0;
        }
}

/* Into `near`: samples that the choice is between, not those far behind the best of their cell. */
static int near_the_best(vt_attn_sample *near, int n)
{
    int count = 0;
    for (int i = 0, j; i < n; i = j) {
        double best = samples[i].ms;
        for (j = i; j < n && cell_of[j] == cell_of[i]; j++)
            best = fmin(best, samples[j].ms);
        for (int k = i; k < j; k++)
            if (samples[k].ms < FAR_BEHIND * best && !is_held[k])
                near[count++] = samples[k];
    }
    return count;
}

static void report(const char *what, const vt_attn_costs *costs, int n)
{
    char text[VT_COSTS_TEXT];
    vt_costs_miss miss = vt_costs_judge(costs, samples, n);
    vt_costs_write(costs, text);
    printf("%s: %.1f %% off on average, %.0f %% at worst\n%s\n", what, 100 * miss.mean,
           100 * miss.worst, text);
    for (int held = 0; held <= (hold > 0); held++) {
        judgement j = judge_choices(costs, n, held, true);
        printf("%d cells%s; the choice to dense: %.3f at worst; to the best kernel: geometric mean "
               "%.3f, %.3f at worst\n",
               j.cells, held ? " that were held out" : "", j.loss, j.mean, j.worst);
    }
}

static int set(vt_attn_costs *costs, const char *text)
{
    for (int i = 0; i < vt_costs_count(); i++) {
        size_t length = strlen(vt_costs_name(i));
        if (!strncmp(text, vt_costs_name(i), length) && text[length] == '=') {
            ((double *)costs)[i] = atof(text + length + 1);
            return 0;
        }
    }
    fprintf(stderr, "bench_costs_fit: no constant is called so: %s\n", text);
    return -1;
}

/* What comes before NAME=VALUE; false: it is neither. */
static bool read_filter(const char *text)
{
    if (!strncmp(text, "dtype=", 6))
        dtype = text + 6;
    else if (!strncmp(text, "head_dim=", 9))
        head_dims = text + 9;
    else if (!strncmp(text, "hold=", 5))
        hold = atoi(text + 5);
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    vt_attn_costs costs = {0};
    vt_status st = {VT_OK, ""};
    for (int i = 2; i < argc; i++)
        if (!read_filter(argv[i]) && set(&costs, argv[i]))
            return 2;
    FILE *f = argc > 1 ? fopen(argv[1], "r") : NULL;
    int count_of_rows = f ? read_rows(f) : -1;
    if (count_of_rows < 1) {
        fprintf(stderr,
                "bench_costs_fit: expected a table of tests/bench_attn.py with such rows\n");
        return 2;
    }
    fclose(f);
    int n = make_samples(count_of_rows);
    report("as given", &costs, n);
    static vt_attn_sample near[MOST];
    check(vt_costs_fit(&costs, near, near_the_best(near, n), &st), &st);
    report("fitted", &costs, n);
    polish(&costs, n);
    report("polished", &costs, n);
    return 0;
}
