/* The whole program, in this process: a command line and the files that it names.
 *
 *   arguments, one a line | an empty line | "@NAME", a line, and what the file holds, for each file
 *
 * It runs in a folder of its own, where small models, a mask and pictures lie. Checked: the exit
 * status is one of the documented ones; a failure says one line on standard error (with several
 * images, one for each) and nothing on standard output; no file is left half written.
 *
 * Left out: arguments with a '/', for files are written where they say; measuring commands without
 * `--runs 1`, and numbers of 3 to 7 digits, which make honest work that takes long.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cli/cli.h"
#include "tests/cli/capture.h"

const double fuzz_seconds = 20; /* a command may be asked for much */

enum { MOST_ARGUMENTS = 24 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

/* LLVM's OpenMP keeps some buffers to the end. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libomp.so";
}

/* ---- the folder ---- */

static const char *const given[] = {
    "m.safetensors", "d.safetensors", "k.safetensors", "i.png", "data", "c.json", NULL};
static int home, folder; /* descriptors of the folders */
static char folder_path[64];

static void copy(const char *to, const char *from)
{
    const char *models = getenv("MODELS");
    char path[512], command[1200];
    snprintf(path, sizeof path, "%s/%s", models ? models : "tests/golden/models", from);
    snprintf(command, sizeof command, "cp '%s' '%s/%s'", path, folder_path, to);
    fuzz_require(system(command) == 0, "models are not there (MODELS)");
}

static void put(const char *name, const char *bytes, size_t size)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return; /* a name that is no file's, such as "." */
    ssize_t n = write(fd, bytes, size);
    fuzz_require(n == (ssize_t)size, "no room for files");
    close(fd);
}

static void remove_folder(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder_path);
    if (system(command) != 0)
        fprintf(stderr, "%s is left\n", folder_path);
}

static void make_folder(void)
{
    static const char config[] =
        "{\"layers\": {\"0\": \"axial_2d()\", \"1\": \"local_2d(distance=2)\"}}";
    snprintf(folder_path, sizeof folder_path, "%s/vitrun-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    fuzz_require(mkdtemp(folder_path) != NULL, "no folder to work in");
    atexit(remove_folder);
    home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    folder = open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    copy("m.safetensors", "vit.safetensors");
    copy("d.safetensors", "dinov2_reg4.safetensors");
    copy("k.safetensors", "beit.safetensors");
    copy("i.png", "image.png");
    mkdirat(folder, "data", 0700);
    mkdirat(folder, "data/0", 0700);
    mkdirat(folder, "data/3", 0700);
    copy("data/0/a.png", "image.png");
    copy("data/3/b.png", "image.png");
    put("c.json", config, sizeof config - 1);
    setenv("XDG_CACHE_HOME", "cache", 1);
    setenv("OMP_THREAD_LIMIT", "1", 1);
    setenv("KMP_WARNINGS", "off", 1); /* of LLVM's OpenMP, about that */
}

static void remove_all(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_all(fd, e->d_name);
    if (d)
        closedir(d);
    unlinkat(at, name, d ? AT_REMOVEDIR : 0);
}

static bool is_given(const char *name)
{
    for (int i = 0; given[i]; i++)
        if (strcmp(given[i], name) == 0)
            return true;
    return false;
}

/* What the run has left; a temporary file is a fault. */
static void clean_folder(void)
{
    DIR *d = fdopendir(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || is_given(e->d_name))
            continue;
        fuzz_require(!strstr(e->d_name, ".tmp."), "a temporary file is left");
        remove_all(folder, e->d_name);
    }
    closedir(d);
}

/* ---- one run ---- */

static bool takes_long(const char *text)
{
    for (const char *c = text; *c;) {
        size_t n = strspn(c, "0123456789");
        if (n >= 3 && n <= 7)
            return true;
        c += n ? n : 1;
    }
    return false;
}

/* Arguments that this target does not run. */
static bool is_left_out(int argc, char **argv)
{
    bool measures = false, once = false;
    for (int i = 1; i < argc; i++) {
        if (strchr(argv[i], '/') || strstr(argv[i], ".tmp.") || takes_long(argv[i]))
            return true;
        measures |= strcmp(argv[i], "bench") == 0 || strcmp(argv[i], "tune") == 0;
        once |= strcmp(argv[i], "--runs") == 0 && i + 1 < argc && strcmp(argv[i + 1], "1") == 0;
        once |= strcmp(argv[i], "--help") == 0;
    }
    return measures && !once;
}

/* Writes the files behind the arguments; false where one would make it work long. */
static bool put_files(char *text, size_t size)
{
    char *end = text + size;
    while (text < end && *text == '@') {
        char *name = text + 1, *line = memchr(name, '\n', (size_t)(end - name));
        if (!line)
            return true;
        *line = 0;
        char *bytes = line + 1, *next = memmem(bytes, (size_t)(end - bytes), "\n@", 2);
        size_t n = (size_t)((next ? next : end) - bytes);
        char kept = bytes[n];
        bytes[n] = 0;
        bool fine = !strchr(name, '/') && !strstr(name, ".tmp.") && *name && !takes_long(bytes);
        bytes[n] = kept;
        if (!fine)
            return false;
        if (!is_given(name))
            put(name, bytes, n);
        text = next ? next + 1 : end;
    }
    return true;
}

static int count_images(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++)
        n += argv[i][0] != '-' || strcmp(argv[i], "-") == 0 || strcmp(argv[i], "--data") == 0 ? 1
                                                                                              : 0;
    return n;
}

static void run(char *text, char *files, size_t size)
{
    char *argv[MOST_ARGUMENTS + 2] = {"vitrun"};
    int argc = 1 + fuzz_lines(text, (const char **)argv + 1, MOST_ARGUMENTS);
    if (is_left_out(argc, argv) || !put_files(files, size))
        return;
    captured c;
    capture_run(&c, argc, argv);
    const char *fault = capture_fault(&c, count_images(argc, argv) > 1);
    if (fault)
        fprintf(stderr, "status %d, %d lines: %s\n", c.status, c.lines, c.err);
    fuzz_require(!fault, fault);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    if (!folder)
        make_folder();
    char *text = malloc(size + 2);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = text[size + 1] = 0;
    char *gap = memmem(text, size, "\n\n", 2);
    if (gap)
        *gap = 0;
    if (fchdir(folder) == 0)
        run(text, gap ? gap + 2 : text + size, gap ? size - (size_t)(gap + 2 - text) : 0);
    clean_folder();
    if (fchdir(home) != 0)
        abort();
    free(text);
}

/* ---- the mutator: options by their table ---- */

static void add_option(fuzz_buffer *b, size_t at, size_t length, fuzz_random *r)
{
    static const char *const values[] = {"m.safetensors",
                                         "d.safetensors",
                                         "k.safetensors",
                                         "i.png",

                                         "data",
                                         "c.json",
                                         "x",
                                         "y.json",
                                         "z.png",
                                         "s.json",
                                         "l.txt",
                                         "0",
                                         "1",
                                         "2",
                                         "7",
                                         "99",
                                         "-1",
                                         "0.5",
                                         "1e9",
                                         "4294967296",
                                         "99999999999999999999",
                                         "8x8",
                                         "4x4",
                                         "1x1",
                                         "2x65x16",
                                         "cpu",
                                         "auto",
                                         "cuda",
                                         "cuda:1",
                                         "fp32",
                                         "bf16",
                                         "fp16",
                                         "axial_2d()",
                                         "0: local_2d(distance=2)",
                                         "dense",
                                         "all: ~causal_1d()",
                                         "sparse",
                                         "rows",
                                         "tiles",
                                         "density",
                                         "f.npy",
                                         "f.safetensors",
                                         "o",
                                         "1K",
                                         "64M",
                                         "1/2",
                                         "num_heads=2",
                                         "img_size=64",
                                         "crop_pct=1",
                                         "last:2",
                                         "0,1",
                                         "all",
                                         "head",
                                         "both",
                                         ""};
    unsigned options = 0;
    while (cli_option_table[options].name)
        options++;
    const cli_option *o = &cli_option_table[fuzz_below(r, options)];
    char text[160];
    const char *value = values[fuzz_below(r, sizeof values / sizeof *values)];
    int n = o->kind == OPT_FLAG ? snprintf(text, sizeof text, "--%s\n", o->name)
                                : snprintf(text, sizeof text, "--%s\n%s\n", o->name, value);
    fuzz_replace(b, at, length, text, (size_t)n);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    fuzz_buffer b = {data, size, most};
    fuzz_random r = fuzz_seeded(seed);
    const uint8_t *gap = size > 0 ? memmem(data, size, "\n\n", 2) : NULL;
    size_t n = gap ? (size_t)(gap - data) + 1 : size; /* with the last line's end */
    size_t at = n > 0 ? fuzz_below(&r, (unsigned)n) : 0;
    while (at > 0 && data[at - 1] != '\n')
        at--; /* a line's beginning */
    const uint8_t *end = n > at ? memchr(data + at, '\n', n - at) : NULL;
    size_t length = end ? (size_t)(end - data) + 1 - at : n - at;
    switch (fuzz_below(&r, 8)) {
    case 0:
    case 1:
        add_option(&b, at, 0, &r);
        break;
    case 2:
        add_option(&b, at, length, &r);
        break;
    case 3:
        fuzz_replace(&b, at, length, NULL, 0);
        break;
    case 4:
        fuzz_mutate_within(&b, at, length);
        break;
    default:
        if (gap)
            fuzz_mutate_within(&b, n + 1, size - n - 1);
        else
            fuzz_mutate_within(&b, 0, size);
    }
    return b.size ? b.size : 1;
}
