/* vitrun tune: measures the constants behind predicted times, and keeps them for the next runs. */
#include <string.h>

#include "engine/cli/cli.h"

static int show_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    cli_progress(user, (size_t)done, (size_t)total, what);
    return 0;
}

static json_t *constant_json(const vitrun_constant *c)
{
    json_t *constant = cli_object();
    cli_set(constant, "name", cli_text(c->name));
    cli_set(constant, "built_in", cli_real(c->built_in));
    cli_set(constant, "measured", cli_real(c->measured));
    return constant;
}

static json_t *sample_json(const vitrun_tuning_sample *s)
{
    json_t *sample = cli_object();
    cli_set(sample, "kernel", cli_text(s->kernel));
    cli_set(sample, "mask", cli_text(s->mask));
    cli_set(sample, "heads", cli_integer((uint64_t)s->heads));
    cli_set(sample, "tokens", cli_integer((uint64_t)s->tokens));
    cli_set(sample, "batch", cli_integer((uint64_t)s->batch));
    cli_set(sample, "ms", cli_real(s->ms));
    cli_set(sample, "built_in_ms", cli_real(s->built_in_ms));
    cli_set(sample, "measured_ms", cli_real(s->measured_ms));
    return sample;
}

static json_t *miss_json(double mean, double worst)
{
    json_t *miss = cli_object();
    cli_set(miss, "mean", cli_real(mean));
    cli_set(miss, "worst", cli_real(worst));
    return miss;
}

static void print_json(const vitrun_tuning *t, const char *path, cli_io *io)
{
    const vitrun_tuning_summary *s = vitrun_tuning_get(t);
    cli_json_begin(io);
    cli_json_put(io, "vitrun", cli_text(vitrun_version()));
    cli_json_put(io, "device", cli_text(s->device));
    cli_json_put(io, "hardware", cli_text(s->hardware));
    cli_json_put(io, "dtype", cli_text(s->dtype));
    cli_json_put(io, "threads", cli_integer((uint64_t)s->threads));
    cli_json_put(io, "head_dim", cli_integer((uint64_t)s->head_dim));
    cli_json_put(io, "file", cli_text(path));
    cli_json_put(io, "built_in_miss", miss_json(s->built_in_mean, s->built_in_worst));
    cli_json_put(io, "measured_miss", miss_json(s->measured_mean, s->measured_worst));
    cli_json_array(io, "constants");
    for (int i = 0; i < s->constants; i++) {
        vitrun_constant c;
        vitrun_tuning_constant(t, i, &c);
        cli_json_element(io, constant_json(&c));
    }
    cli_json_array_end(io);
    cli_json_array(io, "samples");
    for (int i = 0; i < s->samples; i++) {
        vitrun_tuning_sample sample;
        vitrun_tuning_sample_at(t, i, &sample);
        cli_json_element(io, sample_json(&sample));
    }
    cli_json_array_end(io);
    cli_json_end(io);
}

static void print_text(const vitrun_tuning *t, const char *path, FILE *f)
{
    const vitrun_tuning_summary *s = vitrun_tuning_get(t);
    fprintf(f,
            "%s %s (%s), heads of %d: nanoseconds of a unit of work, fitted to %d measurements\n",
            s->device, s->dtype, s->hardware, s->head_dim, s->samples);
    cli_table *table = cli_table_new("lrr");
    cli_cells(table, (const char *const[]){"constant", "built in", "measured", NULL});
    for (int i = 0; i < s->constants; i++) {
        vitrun_constant c;
        vitrun_tuning_constant(t, i, &c);
        if (c.built_in == 0)
            continue;
        cli_cell(table, "%s", c.name);
        cli_cell(table, "%.4g", c.built_in);
        cli_cell(table, "%.4g", c.measured);
    }
    cli_table_end(table, 2, f);
    fprintf(f,
            "predictions miss by %.1f %% on average and %.0f %% at most; with the built-in "
            "constants by %.1f %% and %.0f %%\n",
            100 * s->measured_mean, 100 * s->measured_worst, 100 * s->built_in_mean,
            100 * s->built_in_worst);
    fprintf(f, "kept in %s\n", path);
}

int cmd_tune(const cli_options *o, cli_io *io, vitrun_error *err)
{
    vitrun_tune_options options;
    const char *path;
    vitrun_tune_options_init(&options);
    if (o->device)
        options.device = o->device;
    options.dtype = o->dtype;
    if (o->head_dim)
        options.head_dim = o->head_dim;
    options.threads = cli_threads(o);
    options.progress = show_progress;
    options.progress_user = io;
    vitrun_tuning *t = vitrun_tune(&options, err);
    cli_progress_clear(io);
    int status = t ? vitrun_tuning_keep(t, &path, err) : -1;
    if (status == 0)
        o->json ? print_json(t, path, io) : print_text(t, path, io->out);
    vitrun_tuning_free(t);
    return status;
}
