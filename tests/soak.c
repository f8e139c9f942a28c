/* Long use: pictures go through the models of several masks in turn, one in a hundred inputs is bad,
 * models come and go; then models are loaded and freed. Memory, open files and, on a GPU, its memory
 * must be flat behind the first tenth, and every result that of the first time, to the bit.
 *
 *   soak [--images 1000000] [--loads 10000] [--seconds S] [--device cpu|cuda] [--threads 1]
 *        [--weights FILE --picture FILE]
 *
 * --seconds ends each of both parts early; how far it came is printed. Exit status 1 where something
 * is not as it should be.
 */
#include <dirent.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/experiments/measure.h"
#include "engine/session.h"
#include "kernels/ops.h"

enum { MASKS = 5, ANEW = 100 /* images between openings of a mask's model */, SAMPLES = 20 };
static const char *const masks[MASKS] = {NULL, "local_2d(distance=2)", "0: axial_2d()",
                                         "swin(window_size=4)", "random(sparsity=0.9)"};

typedef struct {
    vitrun_model *model;
    vitrun_context *context;
} place;

typedef struct {
    const char *weights, *picture, *device;
    long images, loads;
    double seconds;
    int threads;
    unsigned char file[1 << 16]; /* the picture's bytes */
    size_t size;
    size_t outputs;
    float *want[MASKS], *got; /* [outputs] */
    place base, at[MASKS];    /* at[] are variants of base */
    long bad, failed;         /* bad inputs that were refused; things that went wrong */
} soak;

typedef struct {
    double rss, gpu; /* MiB */
    int files;
} usage;

static void wrong(soak *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (s->failed++ < 10) {
        vprintf(fmt, args);
        putchar('\n');
    }
    va_end(args);
}

/* ---- what is in use ---- */

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n - 3; /* ".", ".." and d itself */
}

static usage look(const soak *s)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    usage u = {.rss = (double)resident * (double)sysconf(_SC_PAGESIZE) / 1048576,
               .files = count_files()};
    if (s->base.model && !s->base.model->dev->host_memory)
        u.gpu = -(double)vt_free_memory(s->base.model->dev) / 1048576;
    return u;
}

/* Less than 1 % more, or as much as an allocator may keep back. */
static void compare(soak *s, const char *part, usage before, usage now)
{
    double more = now.rss - before.rss, gpu = now.gpu - before.gpu;
    if (more > fmax(0.01 * before.rss, 0.75))
        wrong(s, "%s: resident memory grew from %.2f to %.2f MiB", part, before.rss, now.rss);
    if (now.files != before.files)
        wrong(s, "%s: %d files were open, now %d", part, before.files, now.files);
    if (gpu > 2)
        wrong(s, "%s: %.1f MiB more of the GPU's memory are in use", part, gpu);
}

/* ---- models ---- */

static vitrun_options options_of(const soak *s, const char *const *mask)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = s->weights;
    o.device = s->device;
    o.dtype = "fp32";
    o.threads = s->threads;
    o.masks = mask;
    o.mask_count = *mask != NULL;
    return o;
}

static void close_place(place *p)
{
    vitrun_context_close(p->context);
    vitrun_close(p->model);
    *p = (place){0};
}

/* A variant of `base`, or a model of its own where that is NULL. */
static int open_place(soak *s, place *p, const vitrun_model *base, int mask)
{
    vitrun_error err;
    vitrun_options o = options_of(s, &masks[mask]);
    p->model = base ? vitrun_variant(base, &o, &err) : vitrun_open(&o, &err);
    p->context = p->model ? vitrun_context_open(p->model, 1, &err) : NULL;
    if (p->context)
        return 0;
    wrong(s, "mask %d: %s", mask, err.message);
    close_place(p);
    return -1;
}

/* One picture from its bytes to logits; the first of a mask says what all must give. */
static void run(soak *s, place *p, int mask)
{
    vitrun_error err = {.message = "other results than the first time"};
    vitrun_image image;
    vitrun_outputs out = {.logits = s->got};
    int bad = vitrun_image_decode(&image, s->file, s->size, "picture", &err);
    if (!bad) {
        bad = vitrun_preprocess(p->model, &image, vitrun_context_input(p->context), &err) ||
              vitrun_forward(p->context, 1, &out, &err);
        vitrun_image_free(&image);
    }
    if (!bad && !s->want[mask] && (s->want[mask] = malloc(s->outputs * sizeof *s->got)))
        memcpy(s->want[mask], s->got, s->outputs * sizeof *s->got);
    if (bad || !s->want[mask] || memcmp(s->want[mask], s->got, s->outputs * sizeof *s->got) != 0)
        wrong(s, "mask %d: %s", mask, err.message);
}

/* ---- bad inputs ---- */

static int torn_picture(soak *s, place *p, vitrun_error *err)
{
    vitrun_image image;
    (void)p;
    return vitrun_image_decode(&image, s->file, s->size / 2, "torn", err);
}

static int no_picture(soak *s, place *p, vitrun_error *err)
{
    vitrun_image image;
    (void)s, (void)p;
    return vitrun_image_load(&image, "tests/soak.c", err);
}

static int not_a_number(soak *s, place *p, vitrun_error *err)
{
    vitrun_outputs out = {.logits = s->got};
    vitrun_context_input(p->context)[0] = NAN;
    return vitrun_forward(p->context, 1, &out, err);
}

static int too_many(soak *s, place *p, vitrun_error *err)
{
    vitrun_outputs out = {.logits = s->got};
    return vitrun_forward(p->context, 2, &out, err);
}

static int bad_mask(soak *s, place *p, vitrun_error *err)
{
    static const char *const wrong_mask[] = {"99: local_2d(distance=)"};
    vitrun_options o = options_of(s, wrong_mask);
    (void)p;
    vitrun_model *m = vitrun_variant(s->base.model, &o, err);
    vitrun_close(m);
    return m ? 0 : -1;
}

static int bad_weights(soak *s, place *p, vitrun_error *err)
{
    vitrun_options o = options_of(s, masks);
    (void)p;
    o.weights = s->picture;
    vitrun_model *m = vitrun_open(&o, err);
    vitrun_close(m);
    return m ? 0 : -1;
}

static void try_bad(soak *s, place *p)
{
    static int (*const kinds[])(soak *, place *, vitrun_error *) = {
        torn_picture, no_picture, not_a_number, too_many, bad_mask, bad_weights};
    size_t kind = (size_t)s->bad % (sizeof kinds / sizeof *kinds);
    vitrun_error err = {.code = VITRUN_OK};
    if (kinds[kind](s, p, &err) == 0 || err.code == VITRUN_OK || !*err.message)
        wrong(s, "bad input %zu is taken", kind);
    s->bad++;
}

/* ---- the two parts ---- */

static void one_image(soak *s, long i)
{
    int mask = (int)(i % MASKS);
    place *p = &s->at[mask];
    if (i % ANEW == mask || !p->context) {
        close_place(p);
        if (open_place(s, p, s->base.model, mask))
            return;
    }
    if (i % 100 == 99)
        try_bad(s, p);
    run(s, p, mask);
}

static void one_load(soak *s, long i)
{
    int mask = (int)(i % MASKS);
    place p = {0};
    if (i % 100 == 99)
        try_bad(s, &s->at[0]);
    if (open_place(s, &p, NULL, mask) == 0)
        run(s, &p, mask);
    close_place(&p);
}

/* Samples what is in use along the way; the first tenth is warming up. */
static void part(soak *s, const char *name, long count, void (*one)(soak *, long))
{
    double begin = vte_now_ms(), end = s->seconds > 0 ? begin + s->seconds * 1e3 : INFINITY;
    usage first = {0}, now = {0};
    long done = 0, step = count / SAMPLES > 0 ? count / SAMPLES : 1, warm = count / 10;
    bool is_warm = false;
    for (; done < count && vte_now_ms() < end && s->failed < 10; done++) {
        one(s, done);
        if (!is_warm && (done >= warm || vte_now_ms() > begin + (end - begin) / 10)) {
            is_warm = true;
            first = look(s);
        }
        if (done % step == step - 1) {
            now = look(s);
            printf("%-6s %9ld  %8.2f MiB  %3d files\n", name, done + 1, now.rss, now.files);
            fflush(stdout);
        }
    }
    now = look(s);
    compare(s, name, first, now);
    double seconds = (vte_now_ms() - begin) / 1e3;
    printf("%s: %ld in %.1f s, %.0f a second; resident %.2f -> %.2f MiB, files %d -> %d, GPU %+.1f "
           "MiB\n",
           name, done, seconds, (double)done / seconds, first.rss, now.rss, first.files, now.files,
           now.gpu - first.gpu);
}

static void read_options(soak *s, int argc, char **argv)
{
    static const struct option known[] = {{"images", 1, NULL, 'i'},  {"loads", 1, NULL, 'l'},
                                          {"seconds", 1, NULL, 's'}, {"device", 1, NULL, 'd'},
                                          {"threads", 1, NULL, 't'}, {"weights", 1, NULL, 'w'},
                                          {"picture", 1, NULL, 'p'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;)
        switch (c) {
        case 'i':
            s->images = strtol(optarg, NULL, 10);
            break;
        case 'l':
            s->loads = strtol(optarg, NULL, 10);
            break;
        case 's':
            s->seconds = strtod(optarg, NULL);
            break;
        case 'd':
            s->device = optarg;
            break;
        case 't':
            s->threads = (int)strtol(optarg, NULL, 10);
            break;
        case 'w':
            s->weights = optarg;
            break;
        case 'p':
            s->picture = optarg;
            break;
        default:
            exit(2);
        }
}

int main(int argc, char **argv)
{
    static soak s = {.weights = "tests/golden/models/vit.safetensors",
                     .picture = "tests/golden/models/image.png",
                     .device = "cpu",
                     .images = 1000000,
                     .loads = 10000,
                     .threads = 1};
    read_options(&s, argc, argv);
    FILE *f = fopen(s.picture, "rb");
    s.size = f ? fread(s.file, 1, sizeof s.file, f) : 0;
    if (f)
        fclose(f);
    if (open_place(&s, &s.base, NULL, 0) == 0) {
        s.outputs = (size_t)vitrun_info_get(s.base.model)->outputs;
        s.got = calloc(s.outputs, sizeof *s.got);
        part(&s, "images", s.images, one_image);
        part(&s, "loads", s.loads, one_load);
    }
    for (int i = 0; i < MASKS; i++) {
        close_place(&s.at[i]);
        free(s.want[i]);
    }
    close_place(&s.base);
    free(s.got);
    printf("%ld bad inputs were refused; %s\n", s.bad,
           s.failed ? "NOT AS IT SHOULD BE" : "all results as the first");
    return s.failed != 0;
}
