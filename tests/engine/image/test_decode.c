/* Decoding: PNG as Pillow's .convert('RGB') byte for byte; JPEG too where libjpeg decodes, within a
 * few levels otherwise. Broken files and other formats are refused with a reason
 * (tests/golden/image_decode.pack, image_broken.pack). */
#include "engine/image/image.h"
#include "tests/support_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static bool by_libjpeg(void)
{
    return strncmp(vt_image_jpeg_decoder(), "libjpeg", 7) == 0;
}

/* The record's file, in memory of its exact size, so that a sanitizer sees a read past its end. */
static uint8_t *copy(const uint8_t *bytes, size_t size)
{
    uint8_t *out = malloc(size ? size : 1);
    assert_non_null(out);
    memcpy(out, bytes, size);
    return out;
}

static int decode(vt_image *out, const uint8_t *bytes, size_t size, vt_status *st)
{
    uint8_t *own = copy(bytes, size);
    memset(st, 0, sizeof *st);
    int rc = vt_image_decode(out, own, size, "x", 0, st);
    free(own);
    if (rc == 0) {
        assert_int_equal(st->code, VT_OK);
        assert_non_null(out->rgb);
    } else {
        assert_true(st->code == VT_INPUT && st->text[0] != 0);
        assert_null(out->rgb);
    }
    return rc;
}

static void assert_close(const golden_pack *p, const vt_image *image, int most)
{
    size_t n = (size_t)image->width * (size_t)image->height * 3;
    assert_int_equal(p->length[1], n);
    for (size_t i = 0; i < n; i++)
        if (abs(image->rgb[i] - p->blob[1][i]) > most)
            fail_msg("%s: byte %zu is %d, libjpeg says %d", p->name, i, image->rgb[i],
                     p->blob[1][i]);
}

static void equals_pillow(void **state)
{
    (void)state;
    golden_pack p;
    int pngs = 0, jpegs = 0;
    pack_open(&p, "tests/golden/image_decode.pack");
    while (pack_next(&p)) {
        char kind[8];
        int w, h;
        vt_image image;
        vt_status st;
        assert_int_equal(sscanf(p.name, "%7s %*s %d %d", kind, &w, &h), 3);
        bool png = strcmp(kind, "png") == 0;
        *(png ? &pngs : &jpegs) += 1;
        if (decode(&image, p.blob[0], p.length[0], &st) != 0) {
            if (!by_libjpeg() && strstr(p.name, "cmyk_without_adobe"))
                continue; /* stb_image can't; refused with a reason */
            fail_msg("%s: %s", p.name, st.text);
        }
        assert_int_equal(image.width, w);
        assert_int_equal(image.height, h);
        if (png || by_libjpeg())
            pack_check(&p, 1, image.rgb, (size_t)w * (size_t)h * 3);
        else
            assert_close(&p, &image, 8);
        vt_image_free(&image);
    }
    assert_int_equal(pngs, 84);
    assert_int_equal(jpegs, 34);
    pack_close(&p);
}

static void broken_and_foreign_files_are_refused_with_a_reason(void **state)
{
    (void)state;
    golden_pack p;
    int cases = 0;
    pack_open(&p, "tests/golden/image_broken.pack");
    for (; pack_next(&p); cases++) {
        vt_image image;
        vt_status st;
        if (decode(&image, p.blob[0], p.length[0], &st) == 0)
            fail_msg("%s: accepted", p.name);
        if (strncmp(st.text, "x: ", 3) != 0 || !strstr(st.text, (const char *)p.blob[1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", p.name, st.text, (const char *)p.blob[1]);
    }
    assert_int_equal(cases, 134);
    pack_close(&p);
}

/* A limit below what the pixels and the file take is kept before anything is allocated, one of some
 * times the pixels is none. */
static void memory_has_a_limit(void **state)
{
    (void)state;
    golden_pack p;
    pack_open(&p, "tests/golden/image_decode.pack");
    while (pack_next(&p)) {
        int w, h;
        vt_image image;
        vt_status st = {0};
        assert_int_equal(sscanf(p.name, "%*s %*s %d %d", &w, &h), 2);
        uint64_t least = 3 * (uint64_t)w * (uint64_t)h + p.length[0];
        uint8_t *own = copy(p.blob[0], p.length[0]);
        assert_int_equal(vt_image_decode(&image, own, p.length[0], "x", least, &st), -1);
        assert_int_equal(st.code, VT_MACHINE);
        assert_non_null(strstr(st.text, "x: picture takes more memory than is left"));
        if (by_libjpeg() || !strstr(p.name, "cmyk_without_adobe"))
            assert_int_equal(
                vt_image_decode(&image, own, p.length[0], "x", 20 * least + (3 << 20), &st), 0);
        vt_image_free(&image);
        free(own);
    }
    pack_close(&p);
}

/* Bytes up to and with the PNG's IEND chunk or the JPEG's EOI: what may not be cut. */
static size_t needed(const golden_pack *p)
{
    bool png = p->blob[0][0] == 0x89;
    size_t n = p->length[0];
    while (memcmp(p->blob[0] + n - (png ? 8 : 2), png ? "IEND\xae\x42\x60\x82" : "\xff\xd9",
                  png ? 8 : 2) != 0)
        n--;
    return n;
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    golden_pack p;
    pack_open(&p, "tests/golden/image_decode.pack");
    while (pack_next(&p)) {
        vt_image image;
        vt_status st;
        size_t n = needed(&p), step = n > 2000 ? 7 : 1;
        for (size_t size = 0; size < n; size += step)
            if (decode(&image, p.blob[0], size, &st) == 0)
                fail_msg("%s: accepted when cut to %zu of %zu bytes", p.name, size, p.length[0]);
        assert_int_equal(decode(&image, p.blob[0], n, &st) == 0,
                         by_libjpeg() || !strstr(p.name, "cmyk_without_adobe"));
        vt_image_free(&image);
    }
    pack_close(&p);
}

/* Any one byte changed: a PNG is refused (a CRC covers every byte but the signature); a JPEG is
 * refused or decoded, without harm. */
static void changed_bytes_do_no_harm(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    golden_pack p;
    pack_open(&p, "tests/golden/image_decode.pack");
    while (pack_next(&p)) {
        bool png = p.blob[0][0] == 0x89;
        size_t n = needed(&p), most = n < 700 ? n : 700;
        uint8_t *bytes = copy(p.blob[0], n);
        for (size_t i = 0; i < most; i++) {
            vt_image image;
            vt_status st;
            uint8_t was = bytes[i];
            bytes[i] ^= masks[i % sizeof masks];
            int rc = decode(&image, bytes, n, &st);
            if (png && rc == 0)
                fail_msg("%s: accepted with byte %zu changed", p.name, i);
            if (rc == 0)
                vt_image_free(&image);
            bytes[i] = was;
        }
        free(bytes);
    }
    pack_close(&p);
}

/* The decoders may not take more than a small multiple of what a picture needs, and nothing before
 * the header is believed: with an address space of 300 MB left, all broken files still get their
 * reason and not a lack of memory. */
static void bombs_are_refused_without_allocating(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* shadow memory needs address space */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    skip();
#endif
#endif
    struct rlimit old, small;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld", &pages) != 1)
        skip();
    fclose(f);
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    small = old;
    small.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (300u << 20);
    assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
    broken_and_foreign_files_are_refused_with_a_reason(state);
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
}

/* ---- files ---- */

static void load_fails(const char *path, vt_code code, const char *text)
{
    vt_image image;
    vt_status st = {0};
    assert_int_equal(vt_image_load(&image, path, 0, &st), -1);
    assert_int_equal(st.code, code);
    assert_null(image.rgb);
    if (!strstr(st.text, text))
        fail_msg("\"%s\" does not say \"%s\"", st.text, text);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    load_fails("tests/golden", VT_INPUT, "tests/golden: is a folder");
    load_fails("tests/golden/absent.png", VT_INPUT, "absent.png: cannot open: No such file");
    load_fails("tests/golden/image_resize.pack", VT_INPUT, "not a PNG or JPEG (starts with 72 65");
    load_fails("/dev/zero", VT_INPUT, "/dev/zero: not a regular file; use - for a stream");
    load_fails("", VT_INPUT, "cannot open");
    char fifo[64]; /* which nobody writes to: opening it must not wait */
    snprintf(fifo, sizeof fifo, "/tmp/vitrun-test-%ld.fifo", (long)getpid());
    assert_int_equal(mkfifo(fifo, 0600), 0);
    alarm(20);
    load_fails(fifo, VT_INPUT, "not a regular file");
    alarm(0);
    unlink(fifo);
}

static void a_long_path_keeps_its_reason(void **state)
{
    (void)state;
    char path[900] = "/tmp";
    for (size_t n = 4; n + 102 < sizeof path; n += 101) {
        path[n] = '/';
        memset(path + n + 1, 'd', 100);
    }
    load_fails(path, VT_INPUT, "d: cannot open: No such file");
}

/* A picture above the first read's size: noise of 200 x 200. */
enum { SIDE = 200 };

static char *write_noise(char path[64], uint8_t **rgb)
{
    vt_status st = {0};
    *rgb = test_picture(SIDE, SIDE, "noise", 9);
    snprintf(path, 64, "/tmp/vitrun-test-%ld.png", (long)getpid());
    assert_int_equal(vt_png_write(path, *rgb, SIDE, SIDE, &st), 0);
    return path;
}

static void a_written_png_reads_back(void **state)
{
    (void)state;
    char path[64];
    uint8_t *rgb;
    vt_image image;
    vt_status st = {0};
    assert_int_equal(vt_image_load(&image, write_noise(path, &rgb), 0, &st), 0);
    assert_int_equal(image.width, SIDE);
    assert_memory_equal(image.rgb, rgb, SIDE * SIDE * 3);
    vt_image_free(&image);
    unlink(path);
    free(rgb);
}

static void standard_input_is_read_to_its_end(void **state)
{
    (void)state;
    char path[64], command[128];
    uint8_t *rgb;
    vt_image image;
    vt_status st = {0};
    snprintf(command, sizeof command, "cat %s", write_noise(path, &rgb));
    FILE *pipe = popen(command, "r");
    int saved = dup(STDIN_FILENO);
    assert_true(pipe && saved >= 0 && dup2(fileno(pipe), STDIN_FILENO) == STDIN_FILENO);
    int rc = vt_image_load(&image, "-", 0, &st);
    dup2(saved, STDIN_FILENO);
    close(saved);
    pclose(pipe);
    assert_int_equal(rc, 0);
    assert_memory_equal(image.rgb, rgb, SIDE * SIDE * 3);
    vt_image_free(&image);
    unlink(path);
    free(rgb);
}

static void png_write_fails(const char *path, int width, int height, vt_code code, const char *text)
{
    static const uint8_t rgb[3 * 64];
    vt_status st = {0};
    assert_int_equal(vt_png_write(path, rgb, width, height, &st), -1);
    assert_int_equal(st.code, code);
    if (!strstr(st.text, text))
        fail_msg("\"%s\" does not say \"%s\"", st.text, text);
}

static void a_png_is_written_whole_or_not_at_all(void **state)
{
    (void)state;
    char folder[64], path[96], command[192];
    snprintf(folder, sizeof folder, "/tmp/vitrun-test-%ld.d", (long)getpid());
    snprintf(path, sizeof path, "%s/folder.png/x", folder);
    snprintf(command, sizeof command, "mkdir -p %s", path);
    assert_int_equal(system(command), 0);
    path[strlen(path) - 2] = 0; /* the folder itself: it can't be replaced */
    png_write_fails(path, 8, 8, VT_MACHINE, "folder.png: cannot be written (Is a directory");
    png_write_fails("/nowhere/at/all.png", 8, 8, VT_MACHINE, "cannot be written (No such file");
    png_write_fails("/dev/full", 8, 8, VT_MACHINE, "/dev/full: cannot be written (No space left");
    png_write_fails(path, 0, 8, VT_USAGE, "0 x 8");
    png_write_fails(path, 1 << 20, 1 << 20, VT_USAGE, "1048576 x 1048576");
    snprintf(command, sizeof command, "test \"$(ls %s)\" = folder.png && rm -r %s", folder, folder);
    assert_int_equal(system(command), 0); /* no temporary file is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),
        cmocka_unit_test(memory_has_a_limit),
        cmocka_unit_test(broken_and_foreign_files_are_refused_with_a_reason),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(changed_bytes_do_no_harm),
        cmocka_unit_test(bombs_are_refused_without_allocating),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(a_long_path_keeps_its_reason),
        cmocka_unit_test(a_written_png_reads_back),
        cmocka_unit_test(standard_input_is_read_to_its_end),
        cmocka_unit_test(a_png_is_written_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
