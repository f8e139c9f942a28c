/* The library where memory runs out and files fail: every call that may fail does, in turn; alone,
 * and with all calls after it. Each time: a result like any other, or one line that says what is
 * wrong; nothing leaked, no file left open, none half written.
 *
 * Of long scenarios and of the many models a sample of the calls is tried; FAULT_STRIDE=1: all;
 * FAULT_TEST=*WORD* and FAULT_MODEL=WORD: that test, those models.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/faults/faults.h"
#include "tests/faults/scenarios.h"

/* ---- one run ---- */
typedef struct { /* of a scenario's file */
    char bytes[1 << 16];
    size_t size;
} content;

static const char old_bytes[] = "what was there before";

static const char *file_of(const scenario *s)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", scenario_folder, s->writes);
    return path;
}

static void put_old(const scenario *s)
{
    FILE *f = s->writes ? fopen(file_of(s), "w") : NULL;
    if (f) {
        fputs(old_bytes, f);
        fclose(f);
    }
}

static void get_file(const scenario *s, content *c)
{
    FILE *f = s->writes ? fopen(file_of(s), "r") : NULL;
    c->size = f ? fread(c->bytes, 1, sizeof c->bytes, f) : 0;
    if (f)
        fclose(f);
}

/* Fails the test, saying where. */
static void wrong(const scenario *s, const fault_plan *p, const char *what, const char *detail)
{
    fail_msg("%s, call %ld%s, error %d (%s): %s: \"%s\"", s->name, p->nth,
             p->onward ? " and all after" : "", p->error, fault_place(), what, detail);
}

static void check_error(const scenario *s, const fault_plan *p, const vitrun_error *err)
{
    bool memory = p->kind == FAULT_MEMORY || p->error == ENOMEM;
    if (err->code != VITRUN_MACHINE && (memory || p->error == EIO || err->code != VITRUN_INPUT))
        wrong(s, p, "wrong code", err->message);
    if (!err->message[0] || strchr(err->message, '\n') || strstr(err->message, "(null)") ||
        (p->kind == FAULT_MEMORY && !strstr(err->message, "memory")))
        wrong(s, p, "no proper text", err->message);
    if (p->error > 0 && !p->onward && !strstr(err->message, strerror(p->error)))
        wrong(s, p, "no reason", err->message);
    if (!p->onward && strncmp(fault_place(), "pread,", 6) == 0 &&
        !strstr(err->message, ": reading failed at byte "))
        wrong(s, p, "not what pread failed in", err->message);
    if (!p->onward && strncmp(fault_place(), "read,", 5) == 0 &&
        !strstr(err->message, ": cannot read: "))
        wrong(s, p, "not what read failed in", err->message);
    /* a call that does half does the rest; what was interrupted is done again */
    if (p->error == FAULT_SHORT)
        wrong(s, p, "a short call is no error", err->message);
    if (p->error == EINTR && (strstr(fault_place(), "read,") || strstr(fault_place(), "write,")))
        wrong(s, p, "an interrupted call is no error", err->message);
}

static void check_file(const scenario *s, const fault_plan *p, const content *clean, int rc)
{
    static content now;
    get_file(s, &now);
    const content *want = clean;
    static content old;
    if (rc) {
        old.size = strlen(old_bytes);
        memcpy(old.bytes, old_bytes, old.size);
        want = &old;
    }
    if (s->writes && (now.size != want->size || memcmp(now.bytes, want->bytes, now.size)))
        wrong(s, p, rc ? "a failure changed the file" : "another file", s->writes);
}

/* Names that a run has left behind; they are removed. */
static int leftovers(void)
{
    glob_t g;
    char pattern[256];
    snprintf(pattern, sizeof pattern, "%s/.vitrun-*", scenario_folder);
    int count = glob(pattern, 0, NULL, &g) == 0 ? (int)g.gl_pathc : 0;
    for (int i = 0; i < count; i++)
        unlink(g.gl_pathv[i]);
    globfree(&g);
    return count;
}

typedef struct {
    outcome seen;
    content file;
} clean_run;

/* One run with the plan's fault. True: the fault was not met, the scenario has fewer calls. */
static bool try(const scenario *s, const fault_plan *p, const clean_run *clean)
{
    outcome seen = {0};
    vitrun_error err = {VITRUN_OK, ""};
    put_old(s);
    long blocks = fault_blocks();
    int files = fault_open_files();
    fault_arm(p);
    int rc = s->run(&seen, &err);
    long failed = fault_disarm();
    if (rc)
        check_error(s, p, &err);
    else if (seen.hash != clean->seen.hash)
        wrong(s, p, "another result", "");
    if (fault_blocks() != blocks)
        wrong(s, p, "memory is leaked", err.message);
    if (fault_open_files() != files)
        wrong(s, p, "a file is left open", err.message);
    check_file(s, p, &clean->file, rc);
    if (leftovers() && !p->onward)
        wrong(s, p, "a temporary file is left", err.message);
    return failed == 0;
}

/* ---- all of them ---- */
static long step_of(const scenario *s, long nth)
{
    const char *all = getenv("FAULT_STRIDE");
    long stride = all ? atol(all) : s->stride;
    return nth < 40 && s->stride < 100 ? 1 : stride;
}

static long try_all(const scenario *s, fault_plan p, const clean_run *clean)
{
    long tried = 0;
    for (p.nth = 1; !try(s, &p, clean); p.nth += step_of(s, p.nth))
        tried++;
    return tried;
}

static void run_clean(const scenario *s, clean_run *clean)
{
    vitrun_error err;
    for (int i = 0; i < 2; i++) { /* the first fills what libraries keep */
        clean->seen = (outcome){0};
        if (s->run(&clean->seen, &err))
            fail_msg("%s: %s", s->name, err.message);
    }
    get_file(s, &clean->file);
}

static long without_memory(const scenario *s)
{
    static clean_run clean;
    long tried = 0;
    run_clean(s, &clean);
    for (int onward = 0; onward < 2; onward++)
        tried += try_all(s, (fault_plan){.kind = FAULT_MEMORY, .onward = onward}, &clean);
    return tried;
}

static long with_failing_files(const scenario *s)
{
    static const struct {
        int error;
        bool onward;
    } ways[] = {{EIO, false},   {EIO, true},    {ENOSPC, false},      {ENOSPC, true},
                {EINTR, false}, {EMFILE, true}, {FAULT_SHORT, false}, {FAULT_SHORT, true}};
    static clean_run clean;
    long tried = 0;
    run_clean(s, &clean);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        tried += try_all(
            s, (fault_plan){.kind = FAULT_FILES, .error = ways[i].error, .onward = ways[i].onward},
            &clean);
    return tried;
}

static void without_memory_every_scenario_ends_in_one_line_and_leaks_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < scenario_count; i++)
        print_message("%s: %ld runs\n", scenarios[i].name, without_memory(&scenarios[i]));
}

static void with_failing_files_every_scenario_ends_in_one_line_and_leaves_files_whole(void **state)
{
    (void)state;
    for (int i = 0; i < scenario_count; i++)
        print_message("%s: %ld runs\n", scenarios[i].name, with_failing_files(&scenarios[i]));
}

/* ---- files that change while they are read ---- */
static struct {
    char path[256], copy[256]; /* what is read; what it is restored from */
} victim;

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 20];
    struct timespec past[2] = {{1000000000, 0}, {1000000000, 0}}; /* so that a change shows */
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    size_t n = fread(bytes, 1, sizeof bytes, in);
    assert_true(n > 0 && n < sizeof bytes && fwrite(bytes, 1, n, out) == n);
    fclose(in);
    fclose(out);
    utimensat(AT_FDCWD, to, past, 0);
}

static off_t size_of(const char *path)
{
    struct stat s;
    return stat(path, &s) ? 0 : s.st_size;
}

static void cut_in_half(void)
{
    assert_int_equal(truncate(victim.path, size_of(victim.path) / 2), 0);
}

static void cut_to_nothing(void)
{
    assert_int_equal(truncate(victim.path, 0), 0);
}

static void grow_by_a_byte(void)
{
    assert_int_equal(truncate(victim.path, size_of(victim.path) + 1), 0);
}

static void write_over(void)
{
    int fd = open(victim.path, O_WRONLY);
    for (off_t at = size_of(victim.path) / 2; at < size_of(victim.path); at += 512)
        assert_int_equal(pwrite(fd, "vitrun!!", 8, at), 8);
    close(fd);
}

static void take_away(void)
{
    assert_int_equal(unlink(victim.path), 0);
}

static int open_victim(outcome *seen, vitrun_error *err)
{
    return scenario_model(victim.path, seen, err);
}

/* A safetensors file of one mask. */
static int open_victim_mask(outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(WEIGHTS);
    char text[512];
    const char *masks[] = {text};
    snprintf(text, sizeof text, "file(path=\"%s\")", victim.path);
    o.masks = masks;
    o.mask_count = 1;
    vitrun_model *m = vitrun_open(&o, err);
    if (m)
        seen->hash = (uint64_t)vitrun_layer_at(m, 0)->nnz;
    vitrun_close(m);
    return m ? 0 : -1;
}

static void leave_alone(void)
{
}

/* The last call that opens the victim. */
static long last_opening(const scenario *s)
{
    long last = 0;
    outcome seen;
    vitrun_error err;
    for (fault_plan p = {.kind = FAULT_FILES, .nth = 1, .instead = leave_alone};; p.nth++) {
        fault_arm(&p);
        assert_int_equal(s->run(&seen, &err), 0);
        if (!fault_disarm())
            return last;
        if (strcmp(fault_opening(), victim.path) == 0)
            last = p.nth;
    }
}

/* Each call on a file in turn, with the change right before it. */
static void change_at_each_call(const scenario *s, const char *from)
{
    static void (*const changes[])(void) = {cut_in_half, cut_to_nothing, grow_by_a_byte, write_over,
                                            take_away};
    long runs = 0, noticed = 0;
    static clean_run clean;
    copy_file(from, victim.path);
    run_clean(s, &clean);
    long last_open = last_opening(s);
    for (int i = 0; i < 5; i++) {
        for (fault_plan p = {.kind = FAULT_FILES, .nth = 1, .instead = changes[i]};; p.nth++) {
            outcome seen = {0};
            vitrun_error err = {VITRUN_OK, ""};
            copy_file(from, victim.path);
            long blocks = fault_blocks();
            int files = fault_open_files();
            fault_arm(&p);
            int rc = s->run(&seen, &err);
            if (!fault_disarm())
                break;
            bool begun = p.nth > last_open + 1; /* before it was looked at, it was another file */
            if (rc && begun && (err.code == VITRUN_MACHINE || !strstr(err.message, victim.path)))
                wrong(s, &p, "no error of the file", err.message);
            if (!rc && begun && seen.hash != clean.seen.hash)
                wrong(s, &p, "another result", "");
            if (fault_blocks() != blocks || fault_open_files() != files)
                wrong(s, &p, "something is leaked", err.message);
            runs++, noticed += rc != 0;
        }
    }
    print_message("%s: %ld runs, %ld of them ended in an error\n", s->name, runs, noticed);
    assert_true(noticed > 0);
}

static void a_file_that_changes_while_it_is_read_is_an_error_or_does_not_matter(void **state)
{
    (void)state;
    snprintf(victim.path, sizeof victim.path, "%s/victim.safetensors", scenario_folder);
    change_at_each_call(&(scenario){"weights that change", open_victim, 1, NULL}, WEIGHTS);
    const uint64_t shape[] = {65, 65};
    static float ones[65 * 65];
    vitrun_error err;
    for (int i = 0; i < 65 * 65; i++)
        ones[i] = i % 3 == 0;
    snprintf(victim.copy, sizeof victim.copy, "%s/mask.safetensors", scenario_folder);
    assert_int_equal(vitrun_save_f32(victim.copy, "m", ones, shape, 2, &err), 0);
    change_at_each_call(&(scenario){"a mask that changes", open_victim_mask, 1, NULL}, victim.copy);
    snprintf(victim.path, sizeof victim.path, "%s/victim.npy", scenario_folder);
    snprintf(victim.copy, sizeof victim.copy, "%s/mask.npy", scenario_folder);
    assert_int_equal(vitrun_save_f32(victim.copy, "m", ones, shape, 2, &err), 0);
    change_at_each_call(&(scenario){"an array that changes", open_victim_mask, 1, NULL},
                        victim.copy);
}

/* A mask configuration may come through a pipe. */
static void a_pipe_that_cannot_be_read_is_told(void **state)
{
    (void)state;
    char path[256];
    vitrun_error err;
    vitrun_options o = scenario_options(WEIGHTS);
    fault_plan p = {.kind = FAULT_FILES, .error = EIO, .nth = 1};
    bool told = false;
    snprintf(path, sizeof path, "%s/pipe", scenario_folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    o.mask_config = path;
    for (long failed = 1; failed && !told; p.nth++) {
        fault_arm(&p);
        vitrun_model *m = vitrun_open(&o, &err);
        failed = fault_disarm();
        assert_null(m); /* nobody writes to it: it is empty */
        told = strstr(err.message, "/pipe: reading failed: Input/output error") != NULL;
    }
    assert_true(told);
    assert_int_equal(err.code, VITRUN_MACHINE);
    unlink(path);
}

/* ---- every family of models ---- */
static const char *family;

static int run_family(outcome *seen, vitrun_error *err)
{
    return scenario_model(family, seen, err);
}

static void without_memory_every_family_of_models_fails_cleanly(void **state)
{
    (void)state;
    glob_t g;
    long tried = 0;
    assert_int_equal(glob(GOLDEN "*.safetensors", 0, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        const char *only = getenv("FAULT_MODEL");
        family = g.gl_pathv[i];
        if (only && !strstr(family, only))
            continue;
        tried += without_memory(&(scenario){family, run_family, 101, NULL});
    }
    print_message("%zu models: %ld runs\n", g.gl_pathc, tried);
    globfree(&g);
}

/* ---- a handle after a failure ---- */
static struct {
    vitrun_model *model;
    vitrun_context *context;
} open_handle;

static int forward_again(outcome *seen, vitrun_error *err)
{
    return scenario_classify(open_handle.context, open_handle.model, seen, err);
}

/* Prepares for another number of images first, which allocates. */
static int forward_of_two(outcome *seen, vitrun_error *err)
{
    float logits[2 * 10];
    vitrun_outputs out = {.logits = logits};
    if (vitrun_forward(open_handle.context, 2, &out, err))
        return -1;
    return forward_again(seen, err);
}

static void attended(void *user, const vitrun_attention_rows *rows)
{
    (void)user, (void)rows;
}

static int attend_and_check(outcome *seen, vitrun_error *err)
{
    if (vitrun_attend(open_handle.context, 1, 0, 1, attended, NULL, NULL, err))
        return -1;
    vitrun_check *check = vitrun_check_run(open_handle.context, 1, err);
    if (!check)
        return -1;
    vitrun_check_free(check);
    return forward_again(seen, err);
}

static void after_a_failure_the_same_context_gives_the_same_bits(void **state)
{
    (void)state;
    static const scenario uses[] = {{"forward", forward_again, 1, NULL},
                                    {"forward of two", forward_of_two, 1, NULL},
                                    {"attend and check", attend_and_check, 1, NULL}};
    vitrun_error err;
    vitrun_options o = scenario_options(WEIGHTS);
    o.mask_config = MASKS;
    open_handle.model = vitrun_open(&o, &err);
    open_handle.context = vitrun_context_open(open_handle.model, 2, &err);
    assert_non_null(open_handle.context);
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        static clean_run clean;
        run_clean(&uses[i], &clean);
        fault_plan p = {.kind = FAULT_MEMORY};
        for (p.nth = 1; !try(&uses[i], &p, &clean); p.nth++) {
            outcome after = {0};
            if (uses[i].run(&after, &err) || after.hash != clean.seen.hash)
                wrong(&uses[i], &p, "the context is not what it was", err.message);
        }
        print_message("%s: %ld runs\n", uses[i].name, p.nth - 1);
    }
    vitrun_context_close(open_handle.context);
    vitrun_close(open_handle.model);
}

static int prepare(void **state)
{
    (void)state;
    return scenarios_prepare();
}

static int finish(void **state)
{
    (void)state;
    scenarios_end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_memory_every_scenario_ends_in_one_line_and_leaks_nothing),
        cmocka_unit_test(with_failing_files_every_scenario_ends_in_one_line_and_leaves_files_whole),
        cmocka_unit_test(a_pipe_that_cannot_be_read_is_told),
        cmocka_unit_test(a_file_that_changes_while_it_is_read_is_an_error_or_does_not_matter),
        cmocka_unit_test(without_memory_every_family_of_models_fails_cleanly),
        cmocka_unit_test(after_a_failure_the_same_context_gives_the_same_bits),
    };
    cmocka_set_test_filter(getenv("FAULT_TEST")); /* *WORD* */
    return cmocka_run_group_tests(tests, prepare, finish);
}
