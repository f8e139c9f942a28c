/* The table of commands, and the way through the program: finds the command, reads its options, runs
 * it, and turns the outcome into an exit status.
 *
 *   0 done  1 machine  2 usage  3 input  130 interrupted  141 closed pipe  143 terminated
 *
 * A failing run writes one line to standard error and nothing to standard output; only where some
 * of several images are bad do results and errors both appear.
 */
#include <string.h>
#include <unistd.h>

#include "engine/cli/cli.h"

const cli_command cli_commands[] = {
    {"run", CMD_RUN, cmd_run, "[run] --weights PATH [OPTION]... IMAGE...",
     "classify (or embed) images; the command when none is named",
     "Prints the likeliest classes of each image, or its features where the model has no\n"
     "head. With several images a bad one is reported, the rest still run, and the exit\n"
     "status is 3.\n",
     INT_MAX},
    {"info", CMD_INFO, cmd_info, "info --weights PATH [OPTION]...\ninfo --list [--json]",
     "print the model card: switches, tokens, labels, planned memory",
     "Prints the architecture, every switch of the forward pass with the place it was\n"
     "learnt from, preprocessing, labels and planned memory; with masks, also each layer's\n"
     "density, kernel, reason and bytes.\n",
     0},
    {"mask", CMD_MASK, cmd_mask,
     "mask --weights PATH (--mask-config FILE | --mask EXPR) [OPTION]...\n"
     "mask --grid HxW [--prefix P] (--mask-config FILE | --mask EXPR) [OPTION]...",
     "look at masks without running a model: counts, drawings, files",
     "Prints, for each layer and group of heads: allowed pairs (nnz), density, empty rows,\n"
     "pairs a row, and the share of square tiles, 16, 32 and 64 wide, with a pair on.\n",
     0},
    {"check", CMD_CHECK, cmd_check, "check --weights PATH [OPTION]... IMAGE",
     "run every kernel on one image and compare their results",
     "Runs each layer's attention through every kernel that can serve it and compares with\n"
     "the reference kernel. Exit status 1 where one differs by more than rounding explains;\n"
     "the first such layer is named.\n",
     1},
    {"bench", CMD_BENCH, cmd_bench,
     "bench --weights PATH [OPTION]... [IMAGE]\n"
     "bench --attention HEADSxTOKENSxHEADDIM [--grid HxW] [--mask EXPR] [OPTION]...",
     "measure latency, images/s, memory, time per operation",
     "Times forward passes of each batch size after a warm-up; with --end-to-end preparing\n"
     "the images as well: IMAGE, or a generated 640x480 picture that needs no decoding.\n"
     "With masks also those of the model without them, and how much masks could gain.\n"
     "With --attention: one attention alone, all kernels in turn, round by round. Without\n"
     "--grid its tokens are the squarest grid, perhaps with one prefix token.\n",
     1},
    {"eval", CMD_EVAL, cmd_eval,
     "eval --weights PATH --data DIR|CSV [--mask-config FILE | --mask EXPR] [OPTION]...",
     "accuracy over labelled images, agreement with the unmasked model",
     "Prints top-1, top-5, loss, calibration error, a table per class, images/s and memory;\n"
     "with masks also the unmasked model's figures and how far the two agree: same class,\n"
     "Kullback-Leibler divergence in nats, cosine of the logits. DIR has one folder a class,\n"
     "named by labels or class indexes, or one for every class in the order of its index; CSV\n"
     "has lines path,label. A bad image is reported and left out; the exit status is then 3.\n",
     0},
    {"sweep", CMD_SWEEP, cmd_sweep,
     "sweep --weights PATH --data DIR|CSV --spec FILE --out DIR [--shard I/N] [OPTION]...\n"
     "sweep --merge --out DIR",
     "experiments: layers x patterns x ... -> accuracy, memory, time; a report",
     "Runs every point of the specification's axes; each row is on disk before the next point\n"
     "begins, and a run that was stopped goes on where it was. --shard 2/8 runs the second of\n"
     "eight shares (one process each); --merge then joins their rows. Writes results.csv,\n"
     "results.json, report.html (one file, works offline) and report.md with its charts.\n",
     0},
    {"sensitivity", CMD_SENSITIVITY, cmd_sensitivity,
     "sensitivity --weights PATH --data DIR|CSV --mask EXPR... [--out DIR] [OPTION]...",
     "how much each layer suffers under each mask",
     "Puts each mask on one layer at a time, the others dense; with --study out on all layers\n"
     "but one. With --out, rows are kept there and a report is written, as sweep does.\n",
     0},
    {"calibrate", CMD_CALIBRATE, cmd_calibrate,
     "calibrate --weights PATH --data DIR|CSV [--mask EXPR] [OPTION]...\n"
     "calibrate --weights PATH --data DIR|CSV --save FILE (--keep-keys K | --keep-mass X)",
     "where attention goes on average; masks made from it",
     "Runs unmasked and keeps the average attention of each layer and head. Prints, each the\n"
     "mean over queries: the keys that hold 50, 90 and 99 % of it, its entropy in nats, the\n"
     "share that goes to prefix tokens, the distance in patches; with masks, the share of the\n"
     "attention that they would leave out.\n",
     0},
    {"search", CMD_SEARCH, cmd_search,
     "search --weights PATH --data DIR|CSV --mask EXPR... --max-lost POINTS [OPTION]...",
     "choose a mask for each layer under a budget",
     "Tries each mask on each layer alone, then adds them in the order of what they save for\n"
     "the harm that they do, as long as the budget holds: --max-lost alone leaves out as many\n"
     "pairs as it can; --max-bytes or --max-ms stop where that is reached (with --max-lost,\n"
     "without losing more). Greedy: the best combination is not promised.\n",
     0},
    {"tune", CMD_TUNE, cmd_tune, "tune [--device DEVICE] [--dtype TYPE] [--head-dim N]",
     "measure this device, so that masked layers get the fastest kernel",
     "Times every attention kernel on small and large shapes and masks, for some seconds, "
     "fits\n"
     "the constants that times are predicted with, and keeps them in the cache folder\n"
     "(~/.cache/vitrun) for this device, type and head size. Run it on a quiet machine: where\n"
     "times contradict each other nothing is kept. Deleting the file that it names brings the\n"
     "built-in constants back.\n",
     0},
    {0},
};

/* ---- the way through the program ---- */
/* The command that argv[1] names, the default one, or NULL with err set. *first: its arguments. */
static const cli_command *choose(int argc, char **argv, int *first, vitrun_error *err)
{
    const char *names[16];
    int count = 0;
    *first = 1;
    if (argc < 2) {
        vte_fail(err, VITRUN_USAGE, "nothing to do (vitrun --help says what it can)");
        return NULL;
    }
    for (const cli_command *c = cli_commands; c->name; c++) {
        names[count++] = c->name;
        if (strcmp(argv[1], c->name) == 0) {
            *first = 2;
            return c;
        }
    }
    if (argv[1][0] == '-' || strpbrk(argv[1], "./") || access(argv[1], F_OK) == 0)
        return &cli_commands[0];
    const char *nearest = vte_nearest(argv[1], names, count);
    vte_fail(err, VITRUN_USAGE, "unknown command \"%.120s\" (%s%s%s)", argv[1],
             nearest ? "did you mean " : "vitrun --help lists them", nearest ? nearest : "",
             nearest ? "?" : "");
    return NULL;
}

/* Returns an exit status, or -1 with err set. */
static int act(int argc, char **argv, cli_io *io, vitrun_error *err)
{
    int first, status;
    const cli_command *command = choose(argc, argv, &first, err);
    if (!command)
        return -1;
    cli_options o;
    status = cli_parse(&o, command, argc, argv, first, err);
    if (status == 0 && o.help)
        cli_help(first == 2 ? command : NULL, io->out);
    else if (status == 0 && o.version)
        fprintf(io->out, "vitrun %s\n%s\n", vitrun_version(), vitrun_build_info());
    else if (status == 0)
        status = command->run(&o, io, err);
    cli_options_free(&o);
    if (status >= 0 && cli_commit(io, err) != 0)
        status = -1;
    return status;
}

int cli_main(int argc, char **argv)
{
    cli_io io;
    vitrun_error err = {VITRUN_OK, ""};
    cli_io_open(&io);
    int status = act(argc, argv, &io, &err);
    cli_progress_clear(&io);
    if (status == 0)
        cli_print_notes(&io);
    if (status < 0) {
        if (err.message[0])
            cli_print_error(err.message);
        status = err.code ? (int)err.code : VITRUN_MACHINE;
    }
    cli_io_close(&io);
    return status;
}
