/* Error texts of the library that no other test brings about, with their codes. */
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

#include "engine/image/image.h"
#include "engine/vitrun.h"
#include "tests/support_pack.h"
#include "weights_tools/file.h"
#include "weights_tools/safetensors.h"

#define WEIGHTS "tests/golden/models/vit.safetensors"

static void says(const char *message, const char *text)
{
    if (!strstr(message, text))
        fail_msg("\"%s\" is not in \"%s\"", text, message);
}

static vitrun_options usual(void)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = WEIGHTS;
    o.device = "cpu";
    o.threads = 1;
    return o;
}

static void options_that_the_program_checks_itself_are_checked_by_the_library_too(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_options o = usual();
    o.kernel = "bogus";
    assert_null(vitrun_open(&o, &err));
    assert_int_equal(err.code, VITRUN_USAGE);
    says(err.message, "kernel \"bogus\" is unknown (expected reference");
    o = usual();
    o.dtype = "fp8";
    assert_null(vitrun_open(&o, &err));
    assert_int_equal(err.code, VITRUN_USAGE);
    says(err.message, "dtype \"fp8\" is unknown (expected fp32, tf32, bf16 or fp16)");
}

static void one_forward_at_a_time_and_none_timed_before_it_has_run(void **state)
{
    (void)state;
    vitrun_error err;
    vitrun_outputs none = {0};
    double ms;
    vitrun_options o = usual();
    vitrun_model *m = vitrun_open(&o, &err);
    vitrun_context *c = vitrun_context_open(m, 1, &err);
    assert_int_equal(vitrun_time(c, &ms, &err), -1);
    says(err.message, "only a context that has run, runs nothing and is not profiled can be timed");
    assert_int_equal(vitrun_submit(c, 1, &err), 0);
    assert_int_equal(vitrun_submit(c, 1, &err), -1);
    assert_int_equal(err.code, VITRUN_USAGE);
    says(err.message, "a forward is under way: wait for it first");
    assert_int_equal(vitrun_wait(c, &none, &err), 0);
    vitrun_context_close(c);
    vitrun_close(m);
}

static void an_attention_runs_kernels_that_exist_and_have_a_mask(void **state)
{
    (void)state;
    vitrun_error err;
    double ms;
    vitrun_attention_options o;
    vitrun_attention_options_init(&o);
    o.heads = 1, o.tokens = 16, o.head_dim = 16, o.batch = 1, o.threads = 1;
    o.device = "cpu";
    vitrun_attention *a = vitrun_attention_open(&o, &err);
    assert_non_null(a);
    assert_int_equal(vitrun_attention_run(a, "tiles", 1, &ms, &err), -1);
    says(err.message, "kernel \"tiles\" needs a mask");
    assert_int_equal(vitrun_attention_run(a, "bogus", 1, &ms, &err), -1);
    says(err.message, "kernel \"bogus\" is unknown (expected ");
    assert_int_equal(err.code, VITRUN_USAGE);
    vitrun_attention_close(a);
}

static void arrays_of_sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    vitrun_error err;
    float x = 0;
    const uint64_t shape[] = {(uint64_t)1 << 40, (uint64_t)1 << 40};
    assert_int_equal(vitrun_save_f32("/tmp/never.npy", "x", &x, shape, 2, &err), -1);
    says(err.message, "/tmp/never.npy: shape overflows");
    assert_int_equal(access("/tmp/never.npy", F_OK), -1);
}

static void values_beyond_a_tensor_are_refused(void **state)
{
    (void)state;
    vt_status st;
    float x[4];
    st_reader *r = st_open(WEIGHTS, &st);
    const st_tensor *t = st_find(r, "head.bias");
    assert_int_equal(st_read_f32(r, t, 8, 4, x, &st), -1);
    says(st.text, "tensor \"head.bias\": has 10 values, not 12");
    assert_int_equal(st_read_bytes(r, t, 39, 4, x, &st), -1);
    says(st.text, "tensor \"head.bias\": has 40 bytes, not 43");
    assert_int_equal(st_read_f32(r, t, 11, 0, x, &st), -1);
    st_close(r);
}

/* ---- a PNG of given chunks ---- */
static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put_big(uint8_t *to, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(v >> (24 - 8 * i));
}

static size_t put_chunk(uint8_t *to, const char *type, const void *data, uint32_t n)
{
    put_big(to, n);
    memcpy(to + 4, type, 4);
    memcpy(to + 8, data, n);
    put_big(to + 8 + n, crc_of(to + 4, n + 4));
    return n + 12;
}

/* color: 0 grey, 2 RGB; then the chunk `type`. */
static void refused_png(uint8_t color, const char *type, const char *data, uint32_t n,
                        const char *text)
{
    const uint8_t header[13] = {0, 0, 0, 1, 0, 0, 0, 1, 8, color, 0, 0, 0};
    uint8_t file[256] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    size_t size = 8;
    vt_image image;
    vt_status st;
    size += put_chunk(file + size, "IHDR", header, sizeof header);
    size += put_chunk(file + size, type, data, n);
    size += put_chunk(file + size, "IEND", "", 0);
    assert_int_equal(vt_image_decode(&image, file, size, "x.png", 0, &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    says(st.text, text);
}

static void chunks_that_may_not_be_in_a_png_are_named(void **state)
{
    (void)state;
    refused_png(0, "PLTE", "abc", 3, "x.png: broken PNG (a PLTE chunk where none may be)");
    refused_png(2, "PLTE", "abcd", 4, "x.png: broken PNG (PLTE chunk of 4 bytes)");
    refused_png(2, "Crit", "", 0, "x.png: PNG has the unknown critical chunk Crit");
}

/* Broken where only the decoder looks: the codes themselves. */
static void jpegs_whose_codes_are_broken_are_told_from_good_ones(void **state)
{
    (void)state;
    golden_pack p;
    int refused = 0;
    pack_open(&p, "tests/golden/image_decode.pack");
    while (pack_next(&p)) {
        uint8_t *bytes = memcpy(malloc(p.length[0]), p.blob[0], p.length[0]);
        vt_image image = {0};
        vt_status st;
        if (strncmp(p.name, "jpeg ", 5) == 0) {
            for (size_t i = p.length[0] / 2; i < p.length[0] - 2; i++)
                bytes[i] = bytes[i] == 0xff || bytes[i - 1] == 0xff ? bytes[i] : 0xfe;
            if (vt_image_decode(&image, bytes, p.length[0], "x.jpg", 0, &st)) {
                assert_int_equal(st.code, VT_INPUT);
                refused += strstr(st.text, "x.jpg: broken JPEG (") != NULL;
            }
        }
        vt_image_free(&image);
        free(bytes);
    }
    assert_true(refused > 0);
    pack_close(&p);
}

static void bytes_without_a_marker_are_no_jpeg(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0xff, 0xd8, 0xff, 0xfe, 0, 4, 'a', 'b', 'x', 'y', 0xff, 0xd9};
    vt_image image;
    vt_status st;
    assert_int_equal(vt_image_decode(&image, bytes, sizeof bytes, "x.jpg", 0, &st), -1);
    says(st.text, "x.jpg: broken JPEG (no marker at byte 8)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_that_the_program_checks_itself_are_checked_by_the_library_too),
        cmocka_unit_test(one_forward_at_a_time_and_none_timed_before_it_has_run),
        cmocka_unit_test(an_attention_runs_kernels_that_exist_and_have_a_mask),
        cmocka_unit_test(arrays_of_sizes_that_overflow_are_refused),
        cmocka_unit_test(values_beyond_a_tensor_are_refused),
        cmocka_unit_test(jpegs_whose_codes_are_broken_are_told_from_good_ones),
        cmocka_unit_test(bytes_without_a_marker_are_no_jpeg),
        cmocka_unit_test(chunks_that_may_not_be_in_a_png_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
