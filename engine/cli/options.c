/* The options of all commands in one table, and the one parser that reads it.
 *
 *   --name=value   --name value   -- (ends options)   - (standard input)
 *
 * Values are taken whole or refused: no trailing characters, no numbers out of range. Of an option
 * that is given twice the last one counts, except where it may be repeated.
 */
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cli/cli.h"

enum {
    STUDIES = CMD_SWEEP | CMD_SENSITIVITY,
    RUNS_MODEL = CMD_RUN | CMD_INFO | CMD_CHECK | CMD_BENCH | CMD_EVAL | STUDIES | CMD_CALIBRATE |
                 CMD_SEARCH,
    MASKED = CMD_MODEL & ~(STUDIES | CMD_SEARCH), /* take masks as they are */
    MAX_BATCH = 65536,
    MAX_SIDE = 65536,
    MAX_THREADS = 1024
};

#define FIELD(name) offsetof(cli_options, name)

const cli_option cli_option_table[] = {
    {"Model", "weights", "PATH", OPT_TEXT, FIELD(weights), 0, 0, NULL, CMD_MODEL,
     "a .safetensors file, or a folder as the Hugging Face hub lays\n"
     "it out: model.safetensors (or its shards) and config.json"},
    {NULL, "config", "FILE", OPT_TEXT, FIELD(config), 0, 0, NULL, CMD_MODEL,
     "timm's config.json, where it is not beside the weights"},
    {NULL, "arch", "NAME", OPT_TEXT, FIELD(arch), 0, 0, NULL, CMD_MODEL,
     "timm's name of the architecture, where nothing else tells it\n"
     "(vitrun info --list prints them)"},
    {NULL, "set", "KEY=VALUE", OPT_LIST, FIELD(set), 0, 0, NULL, CMD_MODEL,
     "any field of model_args or pretrained_cfg: num_heads, norm_eps,\n"
     "mean, crop_pct ... May be repeated"},
    {NULL, "img-size", "N|HxW", OPT_SQUARE, FIELD(img_size), 1, MAX_SIDE, NULL, CMD_MODEL,
     "run at another image size; positions are resampled as timm does"},
    {NULL, "labels", "FILE", OPT_TEXT, FIELD(labels), 0, 0, NULL,
     CMD_RUN | CMD_INFO | CMD_EVAL | STUDIES,
     "class names, one a line (default: those of the weights'\n"
     "configuration, or ImageNet-1k's for 1000 classes)"},

    {"Masks and kernels", "mask-config", "FILE", OPT_TEXT, FIELD(mask_config), 0, 0, NULL, MASKED,
     "JSON file of masks per layer (default: every layer dense)"},
    {NULL, "mask", "'[LAYERS:] EXPR'", OPT_LIST, FIELD(masks), 0, 0, NULL, MASKED,
     "a mask for some layers (all, where none is named); replaces\n"
     "their entry in the configuration. May be repeated:\n"
     "--mask '0-7: axial_2d() | local_2d(distance=5)'"},
    {NULL, "mask", "EXPR", OPT_LIST, FIELD(masks), 0, 0, NULL, CMD_SENSITIVITY | CMD_SEARCH,
     "a mask to put on layers. May be repeated"},
    {NULL, "density-threshold", "X", OPT_REAL, FIELD(density_threshold), 0, 1, NULL, RUNS_MODEL,
     "masks at least this dense take the dense kernel (default: the\n"
     "configuration's, else 0.30)"},
    {NULL, "dispatch", "auto|density", OPT_CHOICE, FIELD(dispatch), 0, 0, "auto|density",
     RUNS_MODEL,
     "below the threshold: auto takes the kernel predicted fastest,\n"
     "density always a sparse one (default: auto)"},
    {NULL, "kernel", "NAME", OPT_TEXT, FIELD(kernel), 0, 0, NULL,
     RUNS_MODEL & ~(CMD_SWEEP | CMD_CALIBRATE),
     "force one attention kernel for masked layers: reference, dense,\n"
     "sparse (the fastest sparse one), or a kernel's own name"},

    {"Device", "device", "auto|cpu|cuda[:N]", OPT_TEXT, FIELD(device), 0, 0, NULL,
     RUNS_MODEL | CMD_MASK | CMD_TUNE,
     "where to run; auto takes a GPU where there is one, and what is\n"
     "named is never replaced (default: auto)"},
    {NULL, "dtype", "fp32|tf32|bf16|fp16", OPT_TEXT, FIELD(dtype), 0, 0, NULL,
     RUNS_MODEL | CMD_TUNE,
     "arithmetic type; tf32 and fp16 need a GPU (default: fp16 on a GPU,\n"
     "fp32 on the CPU)"},
    {NULL, "threads", "N", OPT_INT, FIELD(threads), 1, MAX_THREADS, NULL, CMD_ALL,
     "CPU threads (default: the cores that this process may use)"},
    {NULL, "batch", "N", OPT_INT, FIELD(batch), 1, MAX_BATCH, NULL,
     CMD_RUN | CMD_EVAL | CMD_SENSITIVITY | CMD_CALIBRATE | CMD_SEARCH,
     "images a forward pass (default: 1 for one image, else up to 8 on\n"
     "the CPU and 64 on a GPU, as memory allows)"},
    {NULL, "batch", "N[,N...]", OPT_INTS, FIELD(batches), 1, MAX_BATCH, NULL, CMD_INFO | CMD_BENCH,
     "images a forward pass, one or several sizes (default: 1 for\n"
     "bench, 1,8,32 for info)"},
    {NULL, "max-memory", "SIZE", OPT_BYTES, FIELD(max_memory), 1, 0, NULL, RUNS_MODEL,
     "refuse, before allocating, to hold more, pictures that are read\n"
     "included: bytes, or 512M, 2G ...\n"
     "(K, M, G and T are powers of 1024)"},

    {"Data", "data", "DIR|CSV", OPT_TEXT, FIELD(data), 0, 0, NULL,
     CMD_EVAL | STUDIES | CMD_CALIBRATE | CMD_SEARCH,
     "labelled images: a folder of one folder a class, or a CSV file\n"
     "of path,label"},
    {NULL, "limit", "N", OPT_INT, FIELD(limit), 1, INT_MAX, NULL,
     CMD_EVAL | STUDIES | CMD_CALIBRATE | CMD_SEARCH,
     "use N of the images, evenly spaced (default: all)"},
    {NULL, "no-agreement", NULL, OPT_FLAG, FIELD(no_agreement), 0, 0, NULL, CMD_EVAL,
     "do not run the unmasked model too, to compare with it"},

    {"Study", "spec", "FILE", OPT_TEXT, FIELD(spec), 0, 0, NULL, CMD_SWEEP,
     "JSON file of the axes: patterns, parameters, layers,\n"
     "mask_configs, density_thresholds, kernels, batches, img_sizes,\n"
     "dtypes; limit, runs (README.md explains them)"},
    {NULL, "out", "DIR", OPT_TEXT, FIELD(out), 0, 0, NULL, STUDIES,
     "where rows are kept and results and report are written"},
    {NULL, "shard", "I/N", OPT_TEXT, FIELD(shard), 0, 0, NULL, CMD_SWEEP,
     "run the I-th of N shares of the points, I from 1"},
    {NULL, "merge", NULL, OPT_FLAG, FIELD(merge), 0, 0, NULL, CMD_SWEEP,
     "join the rows of all shares in --out; runs nothing"},
    {NULL, "study", "in|out|both", OPT_CHOICE, FIELD(study), 0, 0, "in|out|both", CMD_SENSITIVITY,
     "mask one layer, all but one, or try both (default: in)"},

    {NULL, "max-lost", "POINTS", OPT_REAL, FIELD(max_lost), 0, 100, NULL, CMD_SEARCH,
     "percent of the images' top-1 accuracy that may be lost"},
    {NULL, "max-bytes", "SIZE", OPT_BYTES, FIELD(max_bytes), 1, 0, NULL, CMD_SEARCH,
     "attention memory to come down to: 512K, 2M ..."},
    {NULL, "max-ms", "MS", OPT_REAL, FIELD(max_ms), 0, 1e9, NULL, CMD_SEARCH,
     "time of a batch's forward pass to come down to"},
    {NULL, "keep-keys", "K", OPT_INT, FIELD(keep_keys), 1, INT_MAX, NULL, CMD_CALIBRATE,
     "with --save: the K most attended keys of each query"},
    {NULL, "keep-mass", "X", OPT_REAL, FIELD(keep_mass), 0, 1, NULL, CMD_CALIBRATE,
     "with --save: the fewest keys that hold X (0 to 1) of the attention"},
    {NULL, "per", "layer|head", OPT_CHOICE, FIELD(per), 0, 0, "layer|head", CMD_CALIBRATE,
     "with --save: one mask a layer or one a head (default: layer)"},

    {"Results", "topk", "K", OPT_INT, FIELD(topk), 1, INT_MAX, NULL, CMD_RUN,
     "classes to print (default: 5)"},
    {NULL, "json", NULL, OPT_FLAG, FIELD(json), 0, 0, NULL, CMD_ALL,
     "results as one JSON document on standard output"},
    {NULL, "logits", NULL, OPT_FLAG, FIELD(logits), 0, 0, NULL, CMD_RUN,
     "with --json: all logits (features, where there is no head)"},
    {NULL, "features", "FILE", OPT_TEXT, FIELD(features), 0, 0, NULL, CMD_RUN,
     "write pooled features as .npy or .safetensors: one row for each\n"
     "image that could be used, in order"},
    {NULL, "tokens", NULL, OPT_FLAG, FIELD(tokens), 0, 0, NULL, CMD_RUN | CMD_BENCH,
     "with --features: all tokens after the final norm instead; for bench:\n"
     "compute them too, not only what the logits need"},
    {NULL, "intermediate", "LAYERS", OPT_TEXT, FIELD(intermediate), 0, 0, NULL, CMD_RUN,
     "with --features: the patch tokens that these blocks give instead:\n"
     "2,5,8,11 or 8- or all, counted from 0; or last:4"},
    {NULL, "norm", NULL, OPT_FLAG, FIELD(norm), 0, 0, NULL, CMD_RUN,
     "with --intermediate: after the final norm"},
    {NULL, "reshape", NULL, OPT_FLAG, FIELD(reshape), 0, 0, NULL, CMD_RUN,
     "with --intermediate: as maps [width, rows, columns]"},
    {NULL, "prefix-tokens", NULL, OPT_FLAG, FIELD(prefix_tokens), 0, 0, NULL, CMD_RUN,
     "with --intermediate: the class and register tokens too, as tensors\n"
     "of their own (.safetensors)"},
    {NULL, "attention", "DIR", OPT_TEXT, FIELD(maps), 0, 0, NULL, CMD_RUN,
     "write what a query attends to, of each image, layer and head:\n"
     "attention.npy, and laid over the image as .png, a folder each"},
    {NULL, "rollout", NULL, OPT_FLAG, FIELD(rollout), 0, 0, NULL, CMD_RUN,
     "with --attention: attention rollout, too"},
    {NULL, "profile", NULL, OPT_FLAG, FIELD(profile), 0, 0, NULL, CMD_RUN,
     "time per operation, on standard error"},
    {NULL, "list", NULL, OPT_FLAG, FIELD(list), 0, 0, NULL, CMD_INFO,
     "print the supported architectures and end"},
    {NULL, "png", "DIR", OPT_TEXT, FIELD(png), 0, 0, NULL, CMD_MASK,
     "draw each mask as a matrix, and what one query sees, into DIR"},
    {NULL, "query", "TOKEN", OPT_INT, FIELD(query), 0, INT_MAX, NULL, CMD_RUN | CMD_MASK,
     "the query, counted from 0 with the prefix tokens first (default:\n"
     "the patch in the middle; of --attention the class token)"},
    {NULL, "save", "FILE", OPT_TEXT, FIELD(save), 0, 0, NULL, CMD_MASK,
     "write the masks as .safetensors, usable as mask files again"},

    {NULL, "save", "FILE", OPT_TEXT, FIELD(save), 0, 0, NULL, CMD_CALIBRATE,
     "write masks as .safetensors, and FILE.json that reads them"},
    {NULL, "save", "FILE", OPT_TEXT, FIELD(save), 0, 0, NULL, CMD_SEARCH,
     "write the mask configuration that was found"},

    {"Without a model", "grid", "HxW", OPT_SIZE, FIELD(grid), 1, MAX_SIDE, NULL,
     CMD_MASK | CMD_BENCH, "patches: rows x columns (bench: with --attention)"},
    {NULL, "prefix", "P", OPT_INT, FIELD(prefix), 0, 65536, NULL, CMD_MASK,
     "class, distillation and register tokens (default: 0)"},

    {"Measuring", "runs", "N", OPT_INT, FIELD(runs), 1, 1000000, NULL, CMD_BENCH,
     "timed runs of each size (default: 20, or as many as fit into\n"
     "10 seconds, at least 5)"},
    {NULL, "runs", "N", OPT_INT, FIELD(runs), 1, 1000000, NULL, CMD_SENSITIVITY | CMD_SEARCH,
     "timed forward passes of each point (default: 10)"},
    {NULL, "end-to-end", NULL, OPT_FLAG, FIELD(end_to_end), 0, 0, NULL, CMD_BENCH,
     "time preparing the images too, not the forward pass alone"},
    {NULL, "attention", "HEADSxTOKENSxHEADDIM", OPT_TEXT, FIELD(attention), 0, 0, NULL, CMD_BENCH,
     "time one attention alone, through every kernel that can serve it"},
    {NULL, "head-dim", "N", OPT_INT, FIELD(head_dim), 1, 1024, NULL, CMD_TUNE,
     "the head size to measure for (default: 64)"},

    {"Other", "help", NULL, OPT_FLAG, FIELD(help), 0, 0, NULL, CMD_ALL, "print this text"},
    {NULL, "version", NULL, OPT_FLAG, FIELD(version), 0, 0, NULL, CMD_ALL,
     "print the version and what this build can do"},
    {0},
};

/* ---- values ---- */
int cli_parse_int(const char *text, long min, long max, int *out)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits])
        return -1;
    long long value = atoll(text);
    if (value < min || value > max || value > INT_MAX)
        return -1;
    *out = (int)value;
    return 0;
}

static int parse_ints(const char *text, const cli_option *opt, cli_ints *out)
{
    cli_ints ints = {.count = 0};
    for (;;) {
        char number[16];
        size_t n = strcspn(text, ",");
        if (n >= sizeof number || ints.count == CLI_MAX_INTS)
            return -1;
        memcpy(number, text, n);
        number[n] = '\0';
        if (cli_parse_int(number, (long)opt->min, (long)opt->max, &ints.value[ints.count++]) != 0)
            return -1;
        if (!text[n])
            break;
        text += n + 1;
    }
    *out = ints;
    return 0;
}

static int parse_real(const char *text, double min, double max, double *out)
{
    char *end;
    if (!*text || strspn(text, "+-.eE0123456789") != strlen(text)) /* no hex, inf, nan, spaces */
        return -1;
    errno = 0;
    double value = strtod(text, &end);
    if (*end || errno == ERANGE || !(value >= min && value <= max))
        return -1;
    *out = value;
    return 0;
}

/* Digits, perhaps with a fraction, perhaps with K, M, G or T and then perhaps B or iB. */
static int parse_bytes(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    size_t n = strspn(text, "0123456789.");
    if (n == 0 || n > 24)
        return -1;
    char number[32], *end;
    memcpy(number, text, n);
    number[n] = '\0';
    double value = strtod(number, &end);
    const char *suffix = text + n, *unit = *suffix ? strchr(units, *suffix & ~0x20) : NULL;
    if (*end)
        return -1;
    if (unit) {
        for (const char *u = units; u <= unit; u++)
            value *= 1024;
        suffix++;
    }
    if (*suffix && strcmp(suffix, "B") != 0 && !(unit && strcmp(suffix, "iB") == 0))
        return -1;
    if (!(value >= 1 && value < 9e18))
        return -1;
    *out = (uint64_t)value;
    return 0;
}

int cli_parse_size(const char *text, int square, cli_size *out)
{
    char side[16];
    size_t n = strcspn(text, "x");
    if (n >= sizeof side)
        return -1;
    memcpy(side, text, n);
    side[n] = '\0';
    cli_size size;
    if (cli_parse_int(side, 1, MAX_SIDE, &size.h) != 0)
        return -1;
    if (!text[n] && !square)
        return -1;
    if (!text[n])
        size.w = size.h;
    else if (cli_parse_int(text + n + 1, 1, MAX_SIDE, &size.w) != 0)
        return -1;
    *out = size;
    return 0;
}

static int is_choice(const char *text, const char *choices)
{
    size_t length = strlen(text);
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (strcspn(c, "|") == length && strncmp(c, text, length) == 0)
            return 1;
    return 0;
}

static int bad_value(const cli_option *opt, const char *text, vitrun_error *err)
{
    char expected[160];
    if (opt->kind == OPT_INT || opt->kind == OPT_INTS)
        snprintf(expected, sizeof expected, "%s from %.0f to %.0f",
                 opt->kind == OPT_INT ? "a whole number" : "whole numbers with commas between,",
                 opt->min, opt->max);
    else if (opt->kind == OPT_REAL)
        snprintf(expected, sizeof expected, "a number from %g to %g", opt->min, opt->max);
    else if (opt->kind == OPT_BYTES)
        snprintf(expected, sizeof expected, "an amount of memory such as 1048576, 512M or 2G");
    else
        snprintf(expected, sizeof expected, "%s", opt->argument);
    return vte_fail(err, VITRUN_USAGE, "--%s: bad value (expected %s, found \"%.120s\")", opt->name,
                    expected, text);
}

static void append(cli_list *list, const char *text, int argc)
{
    if (!list->item)
        list->item = cli_alloc((size_t)argc, sizeof *list->item);
    list->item[list->count++] = text;
}

/* Reads a number or sizes into the field; -1 where the text is something else. */
static int parse_value(void *field, const cli_option *opt, const char *text)
{
    switch (opt->kind) {
    case OPT_INT:
        return cli_parse_int(text, (long)opt->min, (long)opt->max, field);
    case OPT_INTS:
        return parse_ints(text, opt, field);
    case OPT_REAL:
        return parse_real(text, opt->min, opt->max, field);
    case OPT_BYTES:
        return parse_bytes(text, field);
    default:
        return cli_parse_size(text, opt->kind == OPT_SQUARE, field);
    }
}

static int store(cli_options *o, const cli_option *opt, const char *text, int argc,
                 vitrun_error *err)
{
    void *field = (char *)o + opt->field;
    int bad = 0;
    switch (opt->kind) {
    case OPT_FLAG:
        *(int *)field = 1;
        break;
    case OPT_TEXT:
    case OPT_CHOICE:
        bad = opt->kind == OPT_TEXT ? !*text : !is_choice(text, opt->choices);
        *(const char **)field = text;
        break;
    case OPT_LIST:
        bad = !*text;
        append(field, text, argc);
        break;
    default:
        bad = parse_value(field, opt, text);
    }
    return bad ? bad_value(opt, text, err) : 0;
}

/* ---- names ---- */
enum { LONGEST_NAME = VTE_LONGEST_NAME };

static const cli_option *find(const char *name, size_t length, unsigned commands)
{
    for (const cli_option *opt = cli_option_table; opt->name; opt++)
        if (opt->commands & commands && strlen(opt->name) == length &&
            strncmp(opt->name, name, length) == 0)
            return opt;
    return NULL;
}

static int unknown(const char *argument, const char *name, size_t length,
                   const cli_command *command, vitrun_error *err)
{
    int shown = (int)(length < 80 ? length : 80);
    if (find(name, length, CMD_ALL))
        return vte_fail(err, VITRUN_USAGE, "--%.*s is no option of vitrun %s (vitrun %s --help)",
                        shown, name, command->name, command->name);
    const char *candidates[64];
    int count = 0;
    for (const cli_option *opt = cli_option_table; opt->name && count < 64; opt++)
        if (opt->commands & command->bit)
            candidates[count++] = opt->name;
    char given[LONGEST_NAME + 1];
    snprintf(given, sizeof given, "%.*s", shown, name);
    const char *nearest = vte_nearest(given, candidates, count);
    int prefix = (int)(name - argument); /* "-" or "--" */
    if (nearest)
        return vte_fail(err, VITRUN_USAGE, "unknown option %.*s%.*s (did you mean --%s?)", prefix,
                        argument, shown, name, nearest);
    return vte_fail(err, VITRUN_USAGE, "unknown option %.*s%.*s (vitrun %s --help lists them)",
                    prefix, argument, shown, name, command->name);
}

/* argv[*at] begins with '-': reads the option and, where it stands apart, its value. */
static int parse_option(cli_options *o, const cli_command *command, int argc, char **argv, int *at,
                        vitrun_error *err)
{
    const char *argument = argv[*at], *name = argument + (argument[1] == '-' ? 2 : 1);
    size_t length = strcspn(name, "=");
    const cli_option *opt = NULL;
    if (strcmp(argument, "-h") == 0)
        opt = find("help", 4, command->bit);
    else if (argument[1] == '-')
        opt = find(name, length, command->bit);
    if (!opt)
        return unknown(argument, name, length, command, err);
    const char *value = name[length] ? name + length + 1 : NULL;
    if (opt->kind == OPT_FLAG && value)
        return vte_fail(err, VITRUN_USAGE, "--%s takes no value (found \"%.120s\")", opt->name,
                        value);
    if (opt->kind != OPT_FLAG && !value) {
        if (*at + 1 >= argc)
            return vte_fail(err, VITRUN_USAGE, "--%s: its value is missing (%s)", opt->name,
                            opt->argument);
        value = argv[++*at];
        if (strncmp(value, "--", 2) == 0)
            return vte_fail(err, VITRUN_USAGE,
                            "--%s: its value is missing (expected %s, found the option %.80s)",
                            opt->name, opt->argument, value);
    }
    return store(o, opt, value, argc, err);
}

int cli_parse(cli_options *o, const cli_command *command, int argc, char **argv, int first,
              vitrun_error *err)
{
    *o = (cli_options){.density_threshold = -1,
                       .topk = 5,
                       .prefix = -1,
                       .query = -1,
                       .max_lost = -1,
                       .max_ms = -1};
    int options_end = 0;
    for (int i = first; i < argc && !o->help && !o->version; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0)
            options_end = 1;
        else if (!options_end && argv[i][0] == '-' && argv[i][1]) {
            if (parse_option(o, command, argc, argv, &i, err) != 0)
                return -1;
        } else
            append(&o->images, argv[i], argc);
    }
    if (!o->help && !o->version && o->images.count > command->arguments)
        return vte_fail(err, VITRUN_USAGE, "%s takes %s (found \"%.120s\")", command->name,
                        command->arguments ? "one IMAGE" : "no arguments",
                        o->images.item[command->arguments]);
    return 0;
}

const char *cli_model_option(const cli_options *o)
{
    return o->weights      ? "--weights"
           : o->config     ? "--config"
           : o->arch       ? "--arch"
           : o->set.count  ? "--set"
           : o->img_size.h ? "--img-size"
                           : NULL;
}

int cli_threads(const cli_options *o)
{
    cpu_set_t cores;
    if (o->threads)
        return o->threads;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0)
        return 1;
    int count = CPU_COUNT(&cores);
    return count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count;
}

void cli_options_free(cli_options *o)
{
    free(o->set.item);
    free(o->masks.item);
    free(o->images.item);
}
