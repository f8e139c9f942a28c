/* The program where memory runs out and files fail: its own main, run in a child process for each
 * call that may fail. Each time: exit status and output of a run without faults; or status 1 (3 for
 * a file that cannot be had), one line on standard error and nothing on standard output. Files
 * appear whole or not at all, and no temporary one stays.
 *
 * A sample of the calls is tried; FAULT_STRIDE=1: all; FAULT_COMMAND=WORDS: the commands with
 * these; FAULT_FROM=N: from that call on; FAULT_KEEP=1: what the last run left stays.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/faults/faults.h"
#include "tests/faults/scenarios.h"

int vitrun_main(int argc, char **argv); /* engine/cli/main.c's main */

/* ---- commands, run in a folder of their own below scenario_folder ---- */
#define W    "--weights ../vit.safetensors"
#define I    "../image.png"
#define D    "--data ../data"
#define MASK "--mask axial_2d()"

typedef struct {
    const char *arguments;
    long stride; /* of the calls that are tried after the first sixteen */
} command;

static const command commands[] = {
    {"--help", 29},
    {"sweep --help", 29},
    {"--version", 1},
    {W " " I, 17},
    {W " --json --logits " MASK " " I, 17},
    {W " " I " ../broken.png", 17},
    {W " --features f.npy --batch 2 " I " " I " " I, 17},
    {W " --features f.safetensors --tokens " I, 31},
    {W " --attention maps " I, 97},
    {W " --profile " I, 31},
    {"info " W " " MASK, 31},
    {"info " W " --json", 97},
    {"info --list --json", 1999},
    {"mask --grid 8x8 --mask local_2d(distance=2)", 17},
    {"mask " W " --json --mask local_2d(distance=2)", 31},
    {"mask --grid 8x8 " MASK " --png drawn", 97},
    {"mask --grid 8x8 " MASK " --save m.safetensors", 31},
    {"check " W " " MASK " " I, 97},
    {"check " W " --json " I, 97},
    {"bench " W " --runs 1 --json", 97},
    {"bench --attention 2x65x32 --mask local_2d(distance=2) --runs 1", 97},
    {"eval " W " --batch 2 " D " --mask local_2d(distance=2)", 97},
    {"eval " W " --batch 2 --data ../list.csv --json", 97},
    {"sweep " W " " D " --spec ../spec.json --out out", 397},
    {"sensitivity " W " --batch 2 " D " " MASK " --out out", 397},
    {"calibrate " W " --batch 2 " D " --save m.safetensors --keep-keys 5", 97},
    {"search " W " --batch 2 " D " " MASK " --max-lost 50 --save s.json", 397},
};
enum { COMMANDS = sizeof commands / sizeof *commands, LIMIT_S = 30 };

/* ---- a run in a child ---- */
typedef struct {
    char *bytes; /* NUL-terminated */
    size_t size;
} text;

typedef struct { /* a file that the run has left, by its name */
    char name[160];
    text content;
} left_file;

typedef struct {
    int status; /* as a shell tells it */
    long failed;
    char place[200]; /* of the first call that failed */
    text out, err;
    left_file file[64];
    int files;
} result;

static struct { /* what the child tells its parent */
    long failed;
    char place[200];
} * told;

static void tell(void)
{
    told->failed = fault_disarm();
    snprintf(told->place, sizeof told->place, "%s", fault_place());
}

static void run_child(const command *c, const fault_plan *plan)
{
    char words[512], *argv[32] = {"vitrun"};
    int argc = 1;
    snprintf(words, sizeof words, "%s", c->arguments);
    for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
        argv[argc++] = w;
    if (chdir("run") || !freopen("../out", "w", stdout) || !freopen("../err", "w", stderr) ||
        !freopen("/dev/null", "r", stdin))
        _exit(99);
    alarm(LIMIT_S);
    atexit(tell);
    fault_arm(plan);
    exit(vitrun_main(argc, argv));
}

static text read_text(const char *path)
{
    struct stat s;
    text t = {NULL, 0};
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &s))
        fail_msg("%s: %s", path, strerror(errno));
    t.bytes = calloc((size_t)s.st_size + 1, 1);
    t.size = (size_t)read(fd, t.bytes, (size_t)s.st_size);
    close(fd);
    return t;
}

static result *collecting;

static int collect(const char *path, const struct stat *s, int type, struct FTW *at)
{
    (void)s, (void)at;
    left_file *f = &collecting->file[collecting->files];
    if (type != FTW_F)
        return 0;
    assert_true(collecting->files++ < 64);
    snprintf(f->name, sizeof f->name, "%s", path + strlen("run/"));
    f->content = read_text(path);
    return 0;
}

static int delete (const char *path, const struct stat *s, int type, struct FTW *at)
{
    (void)s, (void)type, (void)at;
    return remove(path);
}

static void run(const command *c, const fault_plan *plan, result *r)
{
    int status;
    memset(r, 0, sizeof *r);
    memset(told, 0, sizeof *told);
    nftw("run", delete, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir("run", 0700), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        run_child(c, plan);
    assert_int_equal(waitpid(child, &status, 0), child);
    r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    r->failed = told->failed;
    memcpy(r->place, told->place, sizeof r->place);
    r->out = read_text("out");
    r->err = read_text("err");
    collecting = r;
    nftw("run", collect, 16, FTW_PHYS);
}

static void release(result *r)
{
    free(r->out.bytes);
    free(r->err.bytes);
    for (int i = 0; i < r->files; i++)
        free(r->file[i].content.bytes);
}

/* ---- what must hold ---- */
static void wrong(const command *c, const fault_plan *p, const result *r, const char *what)
{
    fail_msg(
        "vitrun %s\ncall %ld%s, error %d (%s): %s\nstatus %d\n--- out:\n%.600s\n--- err:\n%.600s",
        c->arguments, p->nth, p->onward ? " and all after" : "", p->error, r->place, what,
        r->status, r->out.bytes, r->err.bytes);
}

/* Times differ from run to run: numbers count as equal, however long they are. */
static bool same_but_numbers(const text *a, const text *b)
{
    const char *x = a->bytes, *y = b->bytes;
    while (*x && *y) {
        size_t n = strspn(x, "0123456789.e+- "), m = strspn(y, "0123456789.e+- ");
        if ((n > 0) != (m > 0) || (n == 0 && *x != *y))
            return false;
        x += n ? n : 1;
        y += m ? m : 1;
    }
    return *x == *y;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

/* Reports hold charts of times; rows may be the first of many. */
static bool whole(const left_file *f, const text *want, bool done)
{
    const text *t = &f->content;
    if (ends_with(f->name, ".html"))
        return ends_with(t->bytes, "</html>\n");
    if (ends_with(f->name, ".svg"))
        return ends_with(t->bytes, "</svg>\n");
    if (ends_with(f->name, ".jsonl") && !done)
        return t->size == 0 || t->bytes[t->size - 1] == '\n';
    if (ends_with(f->name, ".json") || ends_with(f->name, ".jsonl") || ends_with(f->name, ".csv") ||
        ends_with(f->name, ".md"))
        return same_but_numbers(t, want);
    return t->size == want->size && memcmp(t->bytes, want->bytes, t->size) == 0;
}

static int find_file(const result *r, const char *name)
{
    for (int i = 0; i < r->files; i++)
        if (strcmp(r->file[i].name, name) == 0)
            return i;
    return -1;
}

static void check_files(const command *c, const fault_plan *p, const result *r, const result *clean)
{
    bool done = r->status == clean->status;
    if (done && r->files != clean->files)
        wrong(c, p, r, "other files than without faults");
    for (int i = 0; i < r->files; i++) {
        const char *name = r->file[i].name;
        bool temporary = strstr(name, ".vitrun-") != NULL;
        if (temporary && p->onward) /* removing it failed, too */
            continue;
        int k = find_file(clean, name);
        if (temporary || k < 0 || !whole(&r->file[i], &clean->file[k].content, done))
            wrong(c, p, r, name);
    }
}

static int lines(const text *t)
{
    int n = 0;
    for (const char *s = t->bytes; *s; s++)
        n += *s == '\n';
    return n;
}

static void check_failure(const command *c, const fault_plan *p, const result *r,
                          const result *clean)
{
    bool memory = p->kind == FAULT_MEMORY;
    int most = clean->status ? 2 : 1; /* a bad picture's line, and that of the fault */
    if (r->status != 1 && (memory || r->status != 3))
        wrong(c, p, r, "wrong status");
    if (r->out.size)
        wrong(c, p, r, "something on standard output");
    if (lines(&r->err) < 1 || lines(&r->err) > most || strncmp(r->err.bytes, "vitrun: ", 8) ||
        (memory && !strstr(r->err.bytes, "memory")))
        wrong(c, p, r, "not one proper line");
}

/* True: the fault was not met. */
static bool try(const command *c, const fault_plan *p, const result *clean)
{
    result r;
    run(c, p, &r);
    bool met = r.failed > 0;
    if (r.status != clean->status)
        check_failure(c, p, &r, clean);
    else if (!same_but_numbers(&r.out, &clean->out))
        wrong(c, p, &r, "another output");
    check_files(c, p, &r, clean);
    release(&r);
    return !met;
}

static long try_all(const command *c, fault_plan p, const result *clean)
{
    const char *all = getenv("FAULT_STRIDE"), *from = getenv("FAULT_FROM");
    long stride = all ? atol(all) : c->stride, tried = 0;
    for (p.nth = from ? atol(from) : 1; !try(c, &p, clean); p.nth += p.nth < 16 ? 1 : stride)
        tried++;
    return tried;
}

static void each_command(const fault_plan *plans, int count)
{
    const char *only = getenv("FAULT_COMMAND");
    for (int i = 0; i < COMMANDS; i++) {
        result clean;
        long tried = 0;
        if (only && !strstr(commands[i].arguments, only))
            continue;
        run(&commands[i], &(fault_plan){.kind = FAULT_MEMORY, .nth = 1L << 60}, &clean);
        if (clean.status != 0 && !strstr(commands[i].arguments, "broken"))
            fail_msg("vitrun %s: status %d: %s", commands[i].arguments, clean.status,
                     clean.err.bytes);
        for (int k = 0; k < count; k++)
            tried += try_all(&commands[i], plans[k], &clean);
        release(&clean);
        print_message("vitrun %s: %ld runs\n", commands[i].arguments, tried);
    }
}

static void without_memory_every_command_ends_in_one_line(void **state)
{
    (void)state;
    static const fault_plan plans[] = {{.kind = FAULT_MEMORY},
                                       {.kind = FAULT_MEMORY, .onward = true}};
    each_command(plans, 2);
}

static void with_failing_files_every_command_ends_in_one_line_and_files_are_whole(void **state)
{
    (void)state;
    static const fault_plan plans[] = {
        {.kind = FAULT_FILES, .error = EIO},
        {.kind = FAULT_FILES, .error = ENOSPC, .onward = true},
        {.kind = FAULT_FILES, .error = EINTR},
        {.kind = FAULT_FILES, .error = FAULT_SHORT, .onward = true},
    };
    each_command(plans, 4);
}

/* ---- interruption ---- */
static int number; /* of the signal */

static void interrupt(void)
{
    told->failed = 1; /* the process may end here */
    raise(number);
}

static void interrupt_twice(void)
{
    told->failed = 1;
    raise(number);
    raise(number);
    _exit(98); /* the second one has not ended it */
}

/* Each file's call of a command in turn, and a sample of those for memory. */
static void interrupt_command(const command *c, fault_kind kind, void (*how)(void))
{
    result clean;
    long stride = kind == FAULT_MEMORY ? c->stride : 1, runs = 0;
    run(c, &(fault_plan){.kind = FAULT_MEMORY, .nth = 1L << 60}, &clean);
    for (fault_plan p = {.kind = kind, .nth = 1, .instead = how};; p.nth += stride, runs++) {
        result r;
        run(c, &p, &r);
        bool met = r.failed > 0;
        if (met && r.status != 128 + number)
            wrong(c, &p, &r, "not the status of the signal");
        if (r.out.size && !same_but_numbers(&r.out, &clean.out))
            wrong(c, &p, &r, "half an output");
        if (met && r.err.size > clean.err.size)
            wrong(c, &p, &r, "something on standard error");
        if (how == interrupt)
            check_files(c, &p, &r, &clean);
        release(&r);
        if (!met)
            break;
    }
    release(&clean);
    print_message("vitrun %s: interrupted %ld times\n", c->arguments, runs);
}

static const char *const writing[] = {"f.npy",      "maps",      "drawn",
                                      "--save m.s", "sweep --w", "search"};

static void interrupted_at_any_call_a_command_says_so_and_leaves_whole_files(void **state)
{
    (void)state;
    for (int i = 0; i < COMMANDS; i++)
        for (size_t k = 0; k < sizeof writing / sizeof *writing; k++) {
            number = k % 2 ? SIGTERM : SIGINT;
            if (!strstr(commands[i].arguments, writing[k]))
                continue;
            interrupt_command(&commands[i], FAULT_FILES, interrupt);
            interrupt_command(&commands[i], FAULT_MEMORY, interrupt);
        }
}

static void a_second_interruption_ends_a_command_at_once(void **state)
{
    (void)state;
    number = SIGINT;
    for (int i = 0; i < COMMANDS; i++)
        if (strstr(commands[i].arguments, "sweep --w"))
            interrupt_command(&commands[i], FAULT_FILES, interrupt_twice);
}

/* ---- the folder ---- */
static void put(const char *name, const char *content)
{
    FILE *f = fopen(name, "w");
    fputs(content, f);
    fclose(f);
}

static int prepare(void **state)
{
    (void)state;
    char here[512], image[768], weights[768];
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one); /* one thread: others would count, too */
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (told == MAP_FAILED || scenarios_prepare() || !getcwd(here, sizeof here) ||
        chdir(scenario_folder))
        return -1;
    snprintf(image, sizeof image, "%s/%s", here, IMAGE);
    snprintf(weights, sizeof weights, "%s/%s", here, WEIGHTS);
    put("broken.png", "no picture");
    put("list.csv", "path,label\nimage.png,3\ndata/0/a.png,0\n");
    put("spec.json", "{\"version\": 1, \"patterns\": {\"near\": \"local_2d(distance=$d)\"}, "
                     "\"parameters\": {\"d\": [2, 3]}, \"batches\": [2], \"runs\": 1}");
    return symlink(weights, "vit.safetensors") || symlink(image, "image.png") ||
           mkdir("data", 0700) || mkdir("data/0", 0700) || mkdir("data/3", 0700) ||
           symlink(image, "data/0/a.png") || symlink(image, "data/3/b.png");
}

static int finish(void **state)
{
    (void)state;
    if (!getenv("FAULT_KEEP"))
        scenarios_end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_memory_every_command_ends_in_one_line),
        cmocka_unit_test(interrupted_at_any_call_a_command_says_so_and_leaves_whole_files),
        cmocka_unit_test(a_second_interruption_ends_a_command_at_once),
        cmocka_unit_test(with_failing_files_every_command_ends_in_one_line_and_files_are_whole),
    };
    cmocka_set_test_filter(getenv("FAULT_TEST")); /* *WORD* */
    return cmocka_run_group_tests(tests, prepare, finish);
}
