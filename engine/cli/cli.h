/* What the files of the command line share: options, output, reports.
 *
 *   main.c      the process: signals.c, then cli_main
 *   commands.c  the table of commands, the way through one of them, exit statuses
 *   options.c   the table of options and the one parser; help.c prints it
 *   output.c    results and notes held until they are complete; JSON; escaping
 *   table.c     aligned columns of text
 *   report.c    what several commands say about a model, its layers, its memory
 *   files.c     image arguments -> files
 *   features.c  what run keeps of each image, and its file
 *   opening.c   options -> an open model
 *   study.c     points run, kept and written: what sweep and sensitivity share
 *   run.c info.c mask.c check.c bench.c bench_attention.c tune.c eval.c sweep.c sensitivity.c
 *   calibrate.c search.c   one command each
 *
 * Only this folder prints or exits. A command returns an exit status, with its results in io->out,
 * or -1 with err set: then nothing but the error is printed.
 */
#ifndef VT_CLI_H
#define VT_CLI_H

#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "engine/experiments/batches.h"
#include "engine/experiments/evaluate.h"
#include "engine/experiments/maps.h"
#include "engine/experiments/measure.h"
#include "engine/experiments/points.h"
#include "engine/experiments/sweep.h"
#include "engine/vitrun.h"

/* ---- options ---- */
typedef struct {
    const char **item; /* pointers into argv */
    int count;
} cli_list;

typedef struct {
    int h, w; /* 0: not given */
} cli_size;

enum { CLI_MAX_INTS = 32 };
typedef struct {
    int value[CLI_MAX_INTS];
    int count;
} cli_ints;

typedef struct {
    /* the model */
    const char *weights, *config, *arch, *labels;
    cli_list set;
    cli_size img_size;
    /* masks and kernels */
    const char *mask_config, *kernel, *dispatch;
    cli_list masks;
    double density_threshold; /* < 0: not given */
    /* the device */
    const char *device, *dtype;
    int threads, batch;  /* 0: not given */
    cli_ints batches;    /* of info and bench */
    uint64_t max_memory; /* 0: no limit */
    /* run */
    int topk, json, logits, tokens, profile;
    const char *features, *maps, *intermediate;
    int norm, reshape, prefix_tokens; /* of --intermediate */
    int rollout;
    /* info, mask, bench */
    int list;
    cli_size grid;
    int prefix, query; /* -1: not given */
    const char *png, *save, *attention;
    int runs, head_dim; /* 0: not given */
    int end_to_end;
    /* eval */
    const char *data;
    int limit; /* 0: not given */
    int no_agreement;
    /* sweep, sensitivity */
    const char *spec, *out, *shard, *study;
    int merge;
    /* calibrate, search */
    int keep_keys;
    double keep_mass, max_lost; /* < 0: not given */
    const char *per;
    double max_ms;
    uint64_t max_bytes;
    int help, version;
    cli_list images; /* what is no option */
} cli_options;

enum {
    CMD_RUN = 1,
    CMD_INFO = 2,
    CMD_MASK = 4,
    CMD_CHECK = 8,
    CMD_BENCH = 16,
    CMD_EVAL = 32,
    CMD_SWEEP = 64,
    CMD_SENSITIVITY = 128,
    CMD_CALIBRATE = 256,
    CMD_SEARCH = 512,
    CMD_TUNE = 1024,
    CMD_MODEL = 1023,
    CMD_ALL = 2047
};

typedef struct cli_io cli_io;

typedef struct {
    const char *name;
    unsigned bit; /* CMD_... */
    int (*run)(const cli_options *o, cli_io *io, vitrun_error *err);
    const char *usage; /* what follows "vitrun "; lines of a help text */
    const char *line;  /* for the table of commands */
    const char *about; /* for its own help */
    int arguments;     /* how many arguments that are no options it takes */
} cli_command;

typedef enum {
    OPT_FLAG,   /* int */
    OPT_TEXT,   /* const char * */
    OPT_LIST,   /* cli_list; may be repeated */
    OPT_INT,    /* int, min to max */
    OPT_INTS,   /* cli_ints, each min to max */
    OPT_REAL,   /* double, min to max */
    OPT_BYTES,  /* uint64_t: 512M, 2GiB */
    OPT_SIZE,   /* cli_size: HxW */
    OPT_SQUARE, /* cli_size: N or HxW */
    OPT_CHOICE, /* const char *, one of `choices` */
} cli_kind;

typedef struct {
    const char *group; /* heading in the help; NULL: the one before */
    const char *name, *argument;
    cli_kind kind;
    size_t field; /* offset in cli_options */
    double min, max;
    const char *choices; /* "auto|density" */
    unsigned commands;
    const char *help; /* lines */
} cli_option;

extern const cli_command cli_commands[];    /* ends with a NULL name; the first is the default */
extern const cli_option cli_option_table[]; /* ends with a NULL name */

/* Fills o from argv[first...]. cli_options_free frees what o owns. */
int cli_parse(cli_options *o, const cli_command *command, int argc, char **argv, int first,
              vitrun_error *err);
void cli_options_free(cli_options *o);
int cli_threads(const cli_options *o); /* --threads, else the cores that this process may use */

/* "512M" -> bytes; "HxW"; digits only. -1 where the text is anything else. */
int cli_parse_int(const char *text, long min, long max, int *out);
int cli_parse_size(const char *text, int square, cli_size *out);

/* Of the options that say what the model is, one that was given; NULL where none was. */
const char *cli_model_option(const cli_options *o);

void cli_help(const cli_command *command, FILE *f); /* NULL: of the program */
/* Parts of it, which the manual page says, too: lines. */
extern const char cli_intro[], cli_images_text[], cli_statuses[];

/* The options as the library takes them. -1 where --weights is missing. */
int cli_model_options(const cli_options *o, int batch, vitrun_options *out, vitrun_error *err);

/* Opens the model for `batch` images a forward pass, and adds its warnings to the notes (io NULL:
 * drops them). */
vitrun_model *cli_open(const cli_options *o, int batch, cli_io *io, vitrun_error *err);

/* The same for --batch images, or, without it, as many as suit the device and its free memory. */
vitrun_model *cli_open_fitting(const cli_options *o, size_t images, int *batch, cli_io *io,
                               vitrun_error *err);

/* ---- output ---- */
struct cli_io {
    FILE *out;   /* results: held in memory until cli_commit */
    FILE *notes; /* for standard error, printed only when all went well */
    char *out_text, *notes_text;
    size_t out_size, notes_size;
    double start_ms, progress_ms;
    int progress_shown;
    double phase_ms; /* since when `phase_done` of the progress grew without a break */
    size_t phase_done, progress_done;
    int keys, items; /* of the JSON document being written */
};

void cli_io_open(cli_io *io);
void cli_io_close(cli_io *io);
/* Writes the results so far to standard output. -1 with err set; a closed pipe sets the status 141
 * and an empty message. */
int cli_commit(cli_io *io, vitrun_error *err);
void cli_print_notes(cli_io *io);
void cli_warn(cli_io *io, const char *message); /* to the notes */
void cli_print_error(const char *message);      /* "vitrun: ..." now, in one line */
void cli_puts_escaped(const char *text, FILE *f);

/* "12 of 300 images, 1:05 left" on a terminal, once the work has taken 2 seconds. */
void cli_progress(cli_io *io, size_t done, size_t total, const char *what);
void cli_progress_clear(cli_io *io);

/* ---- the process ---- */
/* Runs the command line and returns the exit status; nothing is kept from one call to the next. */
int cli_main(int argc, char **argv);

void cli_occupy_streams(void);
void cli_catch_signals(void);
/* Between on and off an interruption waits until off; a second one ends the program at once. */
void cli_protect(int on);

/* Memory of the command line's own: exits with status 1 where there is none. */
void cli_out_of_memory(void); /* says so and ends the program */
void *cli_alloc(size_t count, size_t size);
FILE *cli_memory_stream(char **text, size_t *size);      /* open_memstream */
char *cli_format(const char *fmt, ...) VTE_PRINTF(1, 2); /* freed with free */
char *cli_format_list(const char *fmt, va_list args);

/* A JSON document, one key a line, an array's objects one a line. Values are consumed. */
void cli_json_begin(cli_io *io);
void cli_json_put(cli_io *io, const char *key, json_t *value);
void cli_json_array(cli_io *io, const char *key); /* its elements follow */
void cli_json_element(cli_io *io, json_t *value);
void cli_json_array_end(cli_io *io);
void cli_json_end(cli_io *io);
json_t *cli_object(void);
json_t *cli_array(void);
void cli_append(json_t *array, json_t *value);                /* consumes value */
void cli_set(json_t *object, const char *key, json_t *value); /* consumes value */
json_t *cli_real(double x);                                   /* null where not finite */
json_t *cli_integer(uint64_t x);
json_t *cli_text(const char *text); /* null for NULL; what is no UTF-8 becomes U+FFFD */

/* Amounts as people read them, into a buffer of 32: "331.2 MiB", "1.24 s", "86,567,656". */
enum { CLI_AMOUNT = 32 };
const char *cli_bytes(char *buffer, uint64_t bytes);
const char *cli_time(char *buffer, double ms);
const char *cli_count(char *buffer, uint64_t n);

/* ---- tables: one letter a column, l or r; cells are given row by row ---- */
typedef struct cli_table cli_table;
cli_table *cli_table_new(const char *columns);
void cli_cell(cli_table *t, const char *fmt, ...) VTE_PRINTF(2, 3);
void cli_cells(cli_table *t, const char *const *texts); /* up to a NULL: headings */
void cli_table_drop(cli_table *t);                      /* frees, prints nothing */
void cli_table_end(cli_table *t, int indent, FILE *f);  /* prints and frees */

/* ---- reports ---- */
json_t *report_model(const vitrun_info *info);
json_t *report_memory(const vitrun_memory *m);
json_t *report_layer(const vitrun_layer *l); /* all but "ms" */
json_t *report_mask(const vitrun_layer *l);
void report_head(cli_io *io, const vitrun_info *info); /* "vitrun", "device", "dtype", "threads" */
/* "layers" with the times of the profile; context may be NULL: without times. */
void report_layers(cli_io *io, const vitrun_model *model, const vitrun_context *context);
void report_layers_text(FILE *f, const vitrun_model *model, const vitrun_context *context);
/* What each kernel is predicted to take under each mask; layers that agree share a line. */
void report_candidates_text(FILE *f, const vitrun_model *model);
/* Milliseconds a forward pass that the layer's attention took; < 0 where not profiled. */
double report_attention_ms(const vitrun_context *context, const vitrun_model *model,
                           const vitrun_layer *layer);
/* "dense x4, tiles x8" */
void report_kernels(FILE *f, const vitrun_model *model);
/* Time per operation, summed over layers, of `forwards` forward passes. */
void report_profile_text(FILE *f, const vitrun_context *context, long forwards);
json_t *report_profile(const vitrun_context *context, long forwards);

/* ---- files ---- */
typedef struct {
    vte_file *file;
    size_t count;
} cli_files;

int cli_ends_with(const char *path, const char *ending);

/* Folders become their files in bytewise order; errors of folders become bad files. -1: usage. */
int cli_files_open(cli_files *files, const cli_list *arguments, vitrun_error *err);
void cli_files_close(cli_files *files);

/* ---- features of images, for --features ---- */
typedef struct cli_features cli_features;

int cli_features_check(const cli_options *o, vitrun_error *err);
/* Room for those of `images` images; NULL with err set where there is none. */
cli_features *cli_features_new(const cli_options *o, const vitrun_info *info, size_t images,
                               vitrun_error *err);
void cli_features_put(cli_features *f, const vte_result *r);
int cli_features_save(cli_features *f, vitrun_error *err); /* of no image: no file */
void cli_features_free(cli_features *f);                   /* NULL is fine */

/* ---- studies ---- */
typedef struct {
    const cli_options *o;
    cli_io *io;
    const char *title;
    vte_points points;
    json_t *common; /* what all rows have in common; also the head of results.json */
    json_t *rows;
    int shard, shards;
    size_t bad_images;
} cli_study;

/* Fills `common` from the options and the model. */
void cli_study_open(cli_study *s, const cli_options *o, cli_io *io, const char *title,
                    const vitrun_model *model);
void cli_study_close(cli_study *s);
/* Runs the points that --out does not have yet, into it and s->rows (in the points' order). */
int cli_study_run(cli_study *s, vitrun_error *err);
/* results.csv, results.json and the report in --out, where it is given. */
int cli_study_write(const cli_study *s, vitrun_error *err);
void cli_study_json(const cli_study *s); /* the document of results.json to io->out */

/* ---- commands ---- */
int cmd_run(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_info(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_mask(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_check(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_eval(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_sweep(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_sensitivity(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_calibrate(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_search(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_bench(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_tune(const cli_options *o, cli_io *io, vitrun_error *err);
int cmd_bench_attention(const cli_options *o, cli_io *io, vitrun_error *err);

#endif
