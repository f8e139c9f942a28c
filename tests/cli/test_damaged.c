/* Files cut at every byte, and with a bit flipped in every byte of what describes them: refused in
 * one line, or read as something that is valid; never a crash. Whole command lines, in this process.
 * VITRUN_TEST_THOROUGH=1 flips all eight bits, not one, of each byte.
 */
#include "tests/cli/capture.h"
#include "tests/support_pack.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODELS "tests/golden/models/"

static char folder[] = "/tmp/vitrun-damaged-XXXXXX";

typedef struct {
    char path[80];
    uint8_t *bytes; /* as they were */
    size_t size;
    int fd;
} damaged;

static damaged hold(const char *name, const uint8_t *bytes, size_t size)
{
    damaged d = {.size = size, .bytes = malloc(size)};
    assert_non_null(d.bytes);
    memcpy(d.bytes, bytes, size);
    snprintf(d.path, sizeof d.path, "%s/%s", folder, name);
    d.fd = open(d.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(pwrite(d.fd, bytes, size, 0), size);
    return d;
}

static damaged hold_file(const char *name, const char *from)
{
    static uint8_t bytes[1 << 17];
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    return hold(name, bytes, n);
}

static void release(damaged *d)
{
    close(d->fd);
    unlink(d->path);
    free(d->bytes);
}

typedef struct {
    int argc;
    char *argv[12];
} command;

/* A command line; the file's path follows its last argument. */
static command line(const damaged *d, int count, const char *const *arguments)
{
    command c = {.argc = count + 2, .argv = {"vitrun"}};
    for (int i = 0; i < count; i++)
        c.argv[1 + i] = (char *)arguments[i];
    c.argv[1 + count] = (char *)d->path;
    return c;
}

#define LINE(d, ...)                                                                               \
    line(d, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static int run(command *c, const char *what, size_t at)
{
    captured r;
    capture_run(&r, c->argc, c->argv);
    const char *fault = capture_fault(&r, 0);
    if (fault)
        fail_msg("%s at byte %zu: %s (status %d): %s", what, at, fault, r.status, r.err);
    return r.status;
}

/* Every prefix but the last `free` bytes' is refused as a bad input. */
static void cut_everywhere(damaged *d, command c, size_t free)
{
    assert_int_equal(run(&c, "whole", d->size), 0);
    for (size_t n = d->size - free; n-- > 0;) {
        assert_int_equal(ftruncate(d->fd, (off_t)n), 0);
        int status = run(&c, "cut", n);
        if (status != 3)
            fail_msg("%s cut to %zu bytes: status %d", d->path, n, status);
    }
    assert_int_equal(pwrite(d->fd, d->bytes, d->size, 0), d->size);
}

/* Returns how many of the damaged files were taken. */
static size_t flip_everywhere(damaged *d, command c, size_t bytes)
{
    bool thorough = getenv("VITRUN_TEST_THOROUGH");
    size_t taken = 0;
    for (size_t i = 0; i < bytes * 8; i++) {
        size_t at = i / 8;
        if (!thorough && at >= 8 && i % 8 != at * 5 % 8)
            continue;
        uint8_t changed = (uint8_t)(d->bytes[at] ^ 1u << i % 8);
        assert_int_equal(pwrite(d->fd, &changed, 1, (off_t)at), 1);
        taken += run(&c, "flipped", at) == 0;
        assert_int_equal(pwrite(d->fd, d->bytes + at, 1, (off_t)at), 1);
    }
    return taken;
}

static void weights(void **state)
{
    (void)state;
    damaged d = hold_file("w.safetensors", MODELS "dinov3.safetensors");
    command info = LINE(&d, "info", "--threads", "1", "--weights");
    size_t header = 0;
    for (int i = 0; i < 8; i++)
        header |= (size_t)d.bytes[i] << 8 * i;
    cut_everywhere(&d, info, 0);
    size_t taken = flip_everywhere(&d, info, 8 + header);
    assert_in_range(taken, 1, header * 4); /* texts that nobody reads */
    release(&d);
}

static void mask_configuration(void **state)
{
    static const char text[] =
        "{\"version\": 1, \"density_threshold\": 0.25, \"prefix\": \"rows\",\n"
        " \"patterns\": {\"near\": {\"type\": \"local_2d\", \"distance\": 2, \"p\": \"inf\"}},\n"
        " \"layers\": {\"0-1\": \"near | ~axial_2d()\", \"2\": {\"heads\": {\"0\": \"near\"}}}}";
    (void)state;
    damaged d = hold("m.json", (const uint8_t *)text, sizeof text - 1);
    command mask = LINE(&d, "mask", "--grid", "3x4", "--prefix", "1", "--mask-config");
    cut_everywhere(&d, mask, 0);
    flip_everywhere(&d, mask, d.size);
    release(&d);
}

/* A file of a 4 x 4 mask, which a configuration beside it names. */
static void mask_file(const char *name, const uint8_t *bytes, size_t size)
{
    char text[200];
    int n = snprintf(text, sizeof text,
                     "{\"patterns\": {\"f\": {\"type\": \"file\", \"path\": \"%s\"}}, "
                     "\"layers\": {\"0\": \"f\"}}",
                     name);
    damaged config = hold("f.json", (const uint8_t *)text, (size_t)n), d = hold(name, bytes, size);
    command mask = LINE(&config, "mask", "--grid", "2x2", "--mask-config");
    cut_everywhere(&d, mask, 0);
    flip_everywhere(&d, mask, d.size);
    release(&d);
    release(&config);
}

static void mask_files(void **state)
{
    static const char dict[] = "{'descr': '|b1', 'fortran_order': False, 'shape': (4, 4), }";
    static const char header[] =
        "{\"m\":{\"dtype\":\"BOOL\",\"shape\":[4,4],\"data_offsets\":[0,16]}}";
    (void)state;
    uint8_t file[256] = "\x93NUMPY\x01\x00";
    file[8] = sizeof dict; /* with a line's end */
    snprintf((char *)file + 10, sizeof file - 10, "%s\n", dict);
    memset(file + 10 + sizeof dict, 1, 16);
    mask_file("f.npy", file, 10 + sizeof dict + 16);
    memset(file, 0, sizeof file);
    file[0] = sizeof header - 1;
    memcpy(file + 8, header, sizeof header - 1);
    mask_file("f.safetensors", file, 8 + sizeof header - 1 + 16);
}

/* One picture of each kind of coding. A PNG's bits are under its CRCs: none may go unnoticed, but
 * in what is not read; a JPEG's may make other pictures. */
static void pictures(void **state)
{
    static const char *const wanted[] = {"png color3_bits2_interlace1",
                                         "png color6_bits16_interlace0", "jpeg size_8x8",
                                         "jpeg progressive_420", "jpeg cmyk "};
    (void)state;
    golden_pack p;
    pack_open(&p, "tests/golden/image_decode.pack");
    int found = 0;
    while (pack_next(&p)) {
        bool is_wanted = false;
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            is_wanted |= strncmp(p.name, wanted[i], strlen(wanted[i])) == 0;
        if (!is_wanted)
            continue;
        damaged d = hold("picture", p.blob[0], p.length[0]);
        command classify = LINE(&d, "--threads", "1", "--weights", MODELS "dinov3.safetensors");
        cut_everywhere(&d, classify, 0);
        size_t taken = flip_everywhere(&d, classify, d.size);
        if (strncmp(p.name, "png", 3) == 0)
            assert_int_equal(taken, 0);
        release(&d);
        found++;
    }
    pack_close(&p);
    assert_int_equal(found, sizeof wanted / sizeof *wanted);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights),
        cmocka_unit_test(mask_configuration),
        cmocka_unit_test(mask_files),
        cmocka_unit_test(pictures),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
