/* Options -> an open model, at a batch that suits the device. */
#include <string.h>

#include "engine/cli/cli.h"

enum { CPU_BATCH = 8, GPU_BATCH = 64 }; /* at most, where nobody says */

int cli_model_options(const cli_options *o, int batch, vitrun_options *out, vitrun_error *err)
{
    if (!o->weights)
        return vte_fail(err, VITRUN_USAGE,
                        "--weights is missing (a .safetensors file or a folder; see --help)");
    vitrun_options_init(out);
    out->weights = o->weights;
    out->config = o->config;
    out->arch = o->arch;
    out->set = o->set.item;
    out->set_count = o->set.count;
    out->image_height = o->img_size.h;
    out->image_width = o->img_size.w;
    out->mask_config = o->mask_config;
    out->masks = o->masks.item;
    out->mask_count = o->masks.count;
    out->density_threshold = o->density_threshold;
    if (o->dispatch && strcmp(o->dispatch, "density") == 0)
        out->dispatch = VITRUN_DISPATCH_DENSITY;
    out->kernel = o->kernel;
    if (o->device)
        out->device = o->device;
    if (o->dtype)
        out->dtype = o->dtype;
    out->threads = o->threads;
    out->batch = batch;
    out->labels = o->labels;
    out->max_memory = o->max_memory;
    out->intermediates = o->intermediate;
    out->intermediate_norm = o->norm;
    out->tokens = o->tokens;
    return 0;
}

static int show(void *io, const char *what, uint64_t done, uint64_t total)
{
    cli_progress(io, (size_t)done, (size_t)total,
                 strcmp(what, "masks") == 0 ? "layers' masks" : "layers' weights");
    return 0;
}

vitrun_model *cli_open(const cli_options *o, int batch, cli_io *io, vitrun_error *err)
{
    vitrun_options options;
    if (cli_model_options(o, batch, &options, err) != 0)
        return NULL;
    if (io) {
        options.progress = show;
        options.progress_user = io;
    }
    vitrun_model *model = vitrun_open(&options, err);
    if (io)
        cli_progress_clear(io);
    for (int i = 0; model && io && i < vitrun_warning_count(model); i++)
        cli_warn(io, vitrun_warning_at(model, i));
    return model;
}

/* Pictures are read into what the plan leaves of the limit: a quarter of it. */
static int leaves_room(const vitrun_model *model, int batch, uint64_t limit)
{
    vitrun_memory memory;
    vitrun_error err;
    return vitrun_memory_plan(model, batch, &memory, &err) == 0 &&
           memory.peak_bytes <= limit - limit / 4;
}

/* Opens the model for the batch that will run, because the choice of kernels depends on it: up to
 * `most` images, as many as --max-memory and the device's free memory allow, found by halving. One
 * image is tried even where memory seems short. */
static vitrun_model *open_halving(const cli_options *o, int most, int on_cpu, int *batch,
                                  cli_io *io, vitrun_error *err)
{
    cli_options limited = *o;
    uint64_t available = on_cpu ? vte_available_memory() : 0;
    if (available && (!limited.max_memory || available < limited.max_memory))
        limited.max_memory = available;
    for (*batch = most; *batch > 1; *batch /= 2) {
        vitrun_model *model = cli_open(&limited, *batch, io, err);
        if (model ? !on_cpu || !limited.max_memory || leaves_room(model, *batch, limited.max_memory)
                  : err->code != VITRUN_MACHINE)
            return model;
        vitrun_close(model);
    }
    return cli_open(o, *batch, io, err);
}

vitrun_model *cli_open_fitting(const cli_options *o, size_t images, int *batch, cli_io *io,
                               vitrun_error *err)
{
    *batch = o->batch;
    if (*batch)
        return cli_open(o, *batch, io, err);
    const char *device = vitrun_device_found(o->device, o->dtype, err);
    if (!device)
        return NULL;
    int on_cpu = strcmp(device, "cpu") == 0;
    size_t most = on_cpu ? CPU_BATCH : GPU_BATCH;
    return open_halving(o, (int)(images < most ? images : most), on_cpu, batch, io, err);
}
