/* The safetensors reader and writer: what the format allows is read, what it forbids is refused
 * with a text that says what and where. Files are built here, byte by byte.
 */
#include "weights_tools/safetensors.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/vitrun-test-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][300];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void put_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* The file: length, header, then `data` zero bytes. Returns its path. */
static const char *build(const char *header, size_t header_len, size_t data)
{
    const char *path = in_dir("x.safetensors");
    char *all = calloc(1, 8 + header_len + data);
    for (int i = 0; i < 8; i++)
        all[i] = (char)((uint64_t)header_len >> 8 * i);
    memcpy(all + 8, header, header_len);
    put_file(path, all, 8 + header_len + data);
    free(all);
    return path;
}

static void refused(const char *header, size_t len, size_t data, const char *text)
{
    vt_status st = {0};
    st_reader *r = st_open(build(header, len, data), &st);
    if (r)
        fail_msg("accepted: %.200s", header);
    assert_int_equal(st.code, VT_INPUT);
    if (!strstr(st.text, text))
        fail_msg("\"%s\" does not say \"%s\"", st.text, text);
    assert_non_null(strstr(st.text, "x.safetensors: "));
}

static st_reader *accepted(const char *header, size_t len, size_t data)
{
    vt_status st = {0};
    st_reader *r = st_open(build(header, len, data), &st);
    if (!r)
        fail_msg("refused %.200s: %s", header, st.text);
    return r;
}

#define F32_4 "\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]"
#define GOOD  "{\"a\":{" F32_4 "}}"

static void odd_but_valid_headers_are_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data, count;
    } cases[] = {
        {GOOD, 16, 1},
        {GOOD "     ", 16, 1},
        {GOOD " \t\r\n", 16, 1},
        {"{}", 0, 0},
        {"{ \n}", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"__metadata__\":{\"format\":\"pt\",\"\":\"\"}}", 0, 0},
        {"{\"\":{" F32_4 "}}", 16, 1},
        {"{\"a\" : { \"data_offsets\" : [ 0 , 16 ] , \"shape\" : [ 4 ] , \"dtype\" : \"F32\" } }",
         16, 1},
        {"{\"a\":{\"dtype\":\"\\u0046\\u00332\",\"shape\":[4],\"data_offsets\":[0,16]}}", 16, 1},
        {"{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]}}", 0,
         1},
        {"{\"z\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[3,3]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"c\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[3,7]}}",
         7, 4},
        {"{\"q\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, 1},
        {"{\"q\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, 1},
        {"{\"q\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, 1},
        {"{\"q\":{\"dtype\":\"F8_E5M2FNUZ\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1},
        {"{\"\\ud83d\\ude00 \xf0\x9f\x98\x80\":{" F32_4 "}}", 16, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        st_reader *r = accepted(cases[i].header, strlen(cases[i].header), cases[i].data);
        assert_int_equal(st_count(r), cases[i].count);
        st_close(r);
    }
}

static void broken_headers_are_refused_with_the_reason(void **state)
{
    (void)state;
#define ONE(fields) "{\"a\":{" fields "}}"
#define SHAPE(s)    ONE("\"dtype\":\"F32\",\"shape\":" s ",\"data_offsets\":[0,16]")
#define OFFSETS(o)  ONE("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":" o)
#define DTYPE(d)    ONE("\"dtype\":" d ",\"shape\":[4],\"data_offsets\":[0,16]")
#define B(at, n)    "\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":" at
    static const struct {
        const char *header;
        size_t data;
        const char *text;
    } cases[] = {
        /* R4 UTF-8 */
        {"{\"\xff\":{" F32_4 "}}", 16, "invalid UTF-8 (0xff) (byte 10 of the file)"},
        {"{\"\xc0\x80\":{" F32_4 "}}", 16, "invalid UTF-8 (0xc0)"},
        {"{\"\xed\xa0\x80\":{" F32_4 "}}", 16, "invalid UTF-8 (0xed)"},
        {"{\"\xe0\x80\x80\":{" F32_4 "}}", 16, "invalid UTF-8 (0xe0)"},
        {"{\"\xf0\x80\x80\x80\":{" F32_4 "}}", 16, "invalid UTF-8 (0xf0)"},
        {"{\"\xf4\x90\x80\x80\":{" F32_4 "}}", 16, "invalid UTF-8 (0xf4)"},
        {"{\"\xe2\x82\":{" F32_4 "}}", 16, "invalid UTF-8 (0xe2)"},
        {GOOD "\xe2\x82", 16, "invalid UTF-8 (0xe2)"},
        {"{\"\\ud800\":{" F32_4 "}}", 16, "invalid \\u escape in a string (byte 10 of"},
        {"{\"\\ud800\\n\":{" F32_4 "}}", 16, "invalid \\u escape"},
        {"{\"\\ud800\\ u0000\":{" F32_4 "}}", 16, "invalid \\u escape"},
        {"{\"\\ud800\\u0041\":{" F32_4 "}}", 16, "invalid \\u escape"},
        {"{\"\\udc00\":{" F32_4 "}}", 16, "invalid \\u escape"},
        {"{\"\\u12g4\":{" F32_4 "}}", 16, "invalid \\u escape"},
        /* R5, R6 JSON */
        {" " GOOD, 16, "expected '{' at once, found"},
        {"\xef\xbb\xbf" GOOD, 16, "expected '{' at once"},
        {"[]", 0, "expected '{' at once, found ["},
        {"null", 0, "expected '{' at once, found null"},
        {GOOD "x", 16, "expected nothing but spaces, found x"},
        {GOOD GOOD, 16, "expected nothing but spaces, found {"},
        {"{\"a\":{" F32_4 "},}", 16, "expected a string, found }"},
        {"{\"a\":{" F32_4 ",}}", 16, "expected a string, found }"},
        {"{'a':{" F32_4 "}}", 16, "expected a string, found 'a'"},
        {"{a:{" F32_4 "}}", 16, "expected a string, found a"},
        {"{\"a\" {" F32_4 "}}", 16, "expected ':', found {"},
        {"{\"a\":{" F32_4 "}", 16, "expected ',' or '}', found the end of the header"},
        {"{\"a\":{" F32_4, 16, "found the end of the header"},
        {"{\"a", 16, "string does not end (byte 9 of the file)"},
        {"{\"a\n\":{" F32_4 "}}", 16, "control character 0x0a in a string"},
        {"{\"\\x\":{" F32_4 "}}", 16, "invalid escape in a string"},
        {"{/**/\"a\":{" F32_4 "}}", 16, "expected a string, found /**/"},
        {"{", 0, "found the end of the header"},
        {"{\"", 0, "string does not end"},
        {"{\"\\", 0, "invalid escape"},
        {"{\"\\u", 0, "invalid \\u escape"},
        /* R8 no key twice */
        {"{\"a\":{" F32_4 "},\"a\":{" F32_4 "}}", 16,
         "tensor \"a\" stands twice (first at byte 9)"},
        {"{\"a\":{" F32_4 "},\"\\u0061\":{" F32_4 "}}", 16, "tensor \"a\" stands twice"},
        {ONE(F32_4 ",\"shape\":[4]"), 16, "tensor \"a\": shape: stands twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__: stands twice"},
        {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0, "__metadata__ key \"k\" stands twice"},
        /* R10 fields */
        {ONE("\"shape\":[4],\"data_offsets\":[0,16]"), 16, "tensor \"a\": field dtype is missing"},
        {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,16]"), 16, "field shape is missing"},
        {ONE("\"dtype\":\"F32\",\"shape\":[4]"), 16, "field data_offsets is missing"},
        {"{\"a\":{}}", 16, "field dtype is missing"},
        {ONE(F32_4 ",\"extra\":1"), 16, "tensor \"a\": unknown field \"extra\""},
        {"{\"a\":[\"F32\",[4],[0,16]]}", 16, "tensor \"a\": expected an object, found ["},
        {"{\"a\":null}", 16, "tensor \"a\": expected an object, found null"},
        /* R11 types */
        {DTYPE("\"f32\""), 16, "tensor \"a\": dtype: unknown type \"f32\" (expected F32"},
        {DTYPE("\"F33\""), 16, "unknown type \"F33\""},
        {DTYPE("\"F32\\u0000\""), 16, "unknown type \"F32\\u0000\""},
        {DTYPE("{\"F32\":null}"), 16, "tensor \"a\": dtype: expected a string, found {"},
        {DTYPE("7"), 16, "dtype: expected a string, found 7"},
        /* R12 integers */
        {SHAPE("[-0]"), 16, "tensor \"a\": shape[0]: expected a non-negative integer, found -0"},
        {SHAPE("[1,4.0]"), 16, "shape[1]: expected a non-negative integer, found 4.0"},
        {SHAPE("[4e0]"), 16, "found 4e0"},
        {SHAPE("[04]"), 16, "found 04"},
        {SHAPE("[+4]"), 16, "found +4"},
        {SHAPE("[0x4]"), 16, "found 0x4"},
        {SHAPE("[\"4\"]"), 16, "found \"4\""},
        {SHAPE("[true]"), 16, "found true"},
        {SHAPE("[NaN]"), 16, "found NaN"},
        {SHAPE("[]]"), 16, "expected"},
        {SHAPE("[4,]"), 16, "shape[1]: expected a non-negative integer, found ]"},
        {SHAPE("[4 4]"), 16, "shape: expected ',' or ']', found 4"},
        {SHAPE("4"), 16, "shape: expected a list of integers, found 4"},
        {SHAPE("[18446744073709551616]"), 16, "expected an integer below 2^64"},
        {SHAPE("[99999999999999999999999999]"), 16, "expected an integer below 2^64"},
        /* R13 rank, R14 products */
        {SHAPE("[1,1,1,1,1,1,1,1,4]"), 16, "shape: more than 8 numbers"},
        {SHAPE("[4294967296,4294967296]"), 16, "tensor \"a\": shape is too large"},
        {SHAPE("[9223372036854775808,4,0]"), 16, "tensor \"a\": shape is too large"},
        {SHAPE("[4611686018427387904]"), 16, "tensor \"a\": shape is too large"},
        {ONE("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]"), 1,
         "3 values of F4 do not fill"},
        /* R15 offsets */
        {OFFSETS("[0]"), 16, "tensor \"a\": data_offsets: expected 2 numbers, found 1"},
        {OFFSETS("[0,16,16]"), 16, "data_offsets: more than 2 numbers"},
        {OFFSETS("[16,0]"), 16, "data_offsets are 16 to 0, but its shape takes 16 bytes"},
        {OFFSETS("[0,15]"), 16, "data_offsets are 0 to 15, but its shape takes 16 bytes"},
        {OFFSETS("[0,20]"), 20, "but its shape takes 16 bytes"},
        {OFFSETS("[18446744073709551604,4]"), 16, "but its shape takes 16 bytes"},
        {OFFSETS("[-16,0]"), 16, "data_offsets[0]: expected a non-negative integer, found -16"},
        {OFFSETS("[0,16.0]"), 16, "data_offsets[1]: expected a non-negative integer, found 16.0"},
        /* R16 tiling, R17 size */
        {OFFSETS("[4,20]"), 20, "tensor \"a\": data begins at 4 (expected 0: no gap, no overlap)"},
        {OFFSETS("[18446744073709551599,18446744073709551615]"), 16, "data begins at"},
        {"{\"a\":{" B("[0,4]", "4") "},\"b\":{" B("[3,7]", "4") "}}", 7,
         "tensor \"b\": data begins at 3 (expected 4"},
        {"{\"a\":{" B("[0,4]", "4") "},\"b\":{" B("[0,4]", "4") "}}", 4,
         "data begins at 0 (expected 4"},
        {"{\"a\":{" B("[0,4]", "4") "},\"b\":{" B("[2,2]", "0") "}}", 4,
         "data begins at 2 (expected 4"},
        {GOOD, 15, "file is truncated: 1 byte missing"},
        {GOOD, 0, "file is truncated: 16 bytes missing"},
        {GOOD, 17, "1 byte too many after the last tensor"},
        {"{}", 1, "1 byte too many"},
        /* R19 metadata */
        {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ \"k\": expected a string, found 1"},
        {"{\"__metadata__\":{\"k\":null}}", 0, "__metadata__ \"k\": expected a string, found null"},
        {"{\"__metadata__\":{\"k\":{\"l\":\"m\"}}}", 0, "__metadata__ \"k\": expected a string"},
        {"{\"__metadata__\":[]}", 0, "__metadata__: expected an object, found ["},
        {"{\"__metadata__\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 16,
         "__metadata__ \"shape\": expected a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].header, strlen(cases[i].header), cases[i].data, cases[i].text);
}

static void nul_in_a_name_is_part_of_the_name(void **state)
{
    (void)state;
    static const char two[] = "{\"a\":{" B("[0,1]", "1") "},\"a\\u0000b\":{" B("[1,2]", "1") "}}";
    st_reader *r = accepted(two, strlen(two), 2);
    assert_int_equal(st_find(r, "a")->begin, 8 + strlen(two));
    assert_int_equal(st_at(r, 1)->name_len, 3);
    st_close(r);
    static const char one[] = "{\"a\\u0000b\":{" B("[0,1]", "1") "}}";
    r = accepted(one, strlen(one), 1);
    assert_null(st_find(r, "a"));
    st_close(r);
    refused("{}\0", 3, 0, "expected nothing but spaces");
    refused("{\"a\0\":{}}", 9, 0, "control character 0x00");
    refused("{\"a\\u0000\\u001b\":{}}", 20, 0, "tensor \"a\\u0000\\u001b\": field dtype");
}

static void long_names_are_cut_in_messages(void **state)
{
    (void)state;
    char header[6000] = "{\"";
    for (int i = 0; i < 1000; i++)
        strcat(header, "\xc3\xa9");
    strcat(header, "\":{}}");
    refused(header, strlen(header), 0, "...\": field dtype is missing");
}

static void deep_nesting_is_refused_at_once(void **state)
{
    (void)state;
    static char deep[1 << 20];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    refused(deep, sizeof deep, 0, "tensor \"a\": expected an object, found [");
    for (size_t i = 0; i + 5 < sizeof deep; i += 5)
        memcpy(deep + i, "{\"a\":", 5);
    refused(deep, sizeof deep, 0, "tensor \"a\": unknown field \"a\"");
}

static void the_length_is_checked_before_it_is_believed(void **state)
{
    (void)state;
    static const struct {
        uint64_t n;
        const char *text;
    } cases[] = {
        {UINT64_MAX, "header of 18446744073709551615 bytes, at most 100000000"},
        {UINT64_MAX - 7, "at most 100000000"},
        {100000001, "header of 100000001 bytes, at most 100000000"},
        {100000000, "file is truncated: header of 100000000 bytes, 18 left"},
        {19, "file is truncated: header of 19 bytes, 18 left"},
        {0, "expected '{' at once, found the end of the header"},
        {1, "found the end of the header"},
    };
    const char *path = in_dir("n.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char bytes[26] = "........{}                ";
        for (int k = 0; k < 8; k++)
            bytes[k] = (char)(cases[i].n >> 8 * k);
        put_file(path, bytes, sizeof bytes);
        vt_status st = {0};
        assert_null(st_open(path, &st));
        assert_int_equal(st.code, VT_INPUT);
        if (!strstr(st.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].text);
    }
}

static void foreign_formats_are_named_with_the_way_out(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"PK\3\4\24\10\10\10\10\10\10\10",
         "a zip archive, such as PyTorch's .pth or .bin; convert"},
        {"\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.",
         "a pickle, such as PyTorch's older .pth; convert"},
        {"GGUF\3\1\1\1\1\1\1\1", "a GGUF file"},
        {"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer; fetch the file with"},
        {"<!DOCTYPE html><html>", "an HTML page"},
        {"\x89HDF\r\n\x1a\n", "an HDF5 file"},
        {"PK\3\4", "a zip archive"},
        {"", "not a safetensors file (0 bytes, expected at least 8)"},
        {"1234567", "not a safetensors file (7 bytes, expected at least 8)"},
    };
    const char *path = in_dir("model.bin");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_file(path, cases[i].bytes, strlen(cases[i].bytes));
        vt_status st = {0};
        assert_null(st_open(path, &st));
        assert_int_equal(st.code, VT_INPUT);
        if (!strstr(st.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].text);
    }
}

static void only_regular_files_and_folders_are_opened(void **state)
{
    (void)state;
    vt_status st = {0};
    assert_null(st_open(in_dir("absent"), &st));
    assert_int_equal(st.code, VT_INPUT);
    assert_non_null(strstr(st.text, "absent: cannot be opened: No such file"));
    const char *fifo = in_dir("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_null(st_open(fifo, &st));
    assert_non_null(strstr(st.text, "fifo: is no regular file"));
    assert_null(st_open("/dev/zero", &st));
    assert_non_null(strstr(st.text, "/dev/zero: is no regular file"));
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"k\":\"v\"},\"a\":{" B("[0,4]", "4") "},"
                                                                  "\"b\":{" B("[4,9]", "5") "}}  ";
    size_t n = 8 + strlen(header) + 9;
    char all[300] = {0};
    all[0] = (char)strlen(header);
    memcpy(all + 8, header, strlen(header));
    const char *path = in_dir("cut.safetensors");
    for (size_t i = 0; i <= n; i++) {
        put_file(path, all, i);
        vt_status st = {0};
        st_reader *r = st_open(path, &st);
        if (i < n) {
            assert_null(r);
            assert_int_equal(st.code, VT_INPUT);
        } else {
            assert_non_null(r);
            st_close(r);
        }
    }
}

/* Reading a header with one bit changed ends with a result or a text, whatever the bit. */
static void every_flipped_bit_ends_well(void **state)
{
    (void)state;
    static const char header[] = "{\"a\":{" B("[0,4]", "4") "},\"\\u00e9\":{" B("[4,9]", "5") "}}";
    size_t n = 8 + strlen(header) + 9;
    char all[300] = {0};
    all[0] = (char)strlen(header);
    memcpy(all + 8, header, strlen(header));
    const char *path = in_dir("flip.safetensors");
    int same = 0;
    for (size_t bit = 0; bit < 8 * (n - 9); bit++) {
        all[bit / 8] ^= (char)(1 << bit % 8);
        put_file(path, all, n);
        vt_status st = {0};
        st_reader *r = st_open(path, &st);
        if (r) {
            assert_int_equal(st_count(r), 2);
            assert_int_equal(st_at(r, 0)->bytes + st_at(r, 1)->bytes, 9);
            same++;
        } else {
            assert_int_equal(st.code, VT_INPUT);
            assert_true(strlen(st.text) > 20);
        }
        st_close(r);
        all[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(same > 0 && same < 200); /* other names, BOOL or I8 for U8 */
}

static void a_hundred_thousand_tensors_open_within_a_second(void **state)
{
    (void)state;
    enum { N = 100000 };
    char *header = malloc(N * 100);
    size_t n = 0;
    for (int i = 0; i < N; i++) {
        int at = (int)((long)i * 7919 % N); /* not in the order of the data */
        n += (size_t)sprintf(header + n, "%c\"blocks.%d.mlp.fc1.weight\":{" B("[%d,%d]", "1") "}",
                             i ? ',' : '{', at, at, at + 1);
    }
    header[n++] = '}';
    const char *path = build(header, n, N);
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    vt_status st = {0};
    st_reader *r = st_open(path, &st);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    assert_non_null(r);
    assert_int_equal(st_count(r), N);
    assert_string_equal(st_at(r, 500)->name, "blocks.500.mlp.fc1.weight");
    assert_ptr_equal(st_find(r, "blocks.99999.mlp.fc1.weight"), st_at(r, 99999));
    double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    print_message("header of %zu bytes: %.3f s\n", n, seconds);
    assert_true(seconds < (getenv("VITRUN_TEST_SLOW") ? 60 : 1)); /* under a tool that watches */
    st_close(r);
    free(header);
}

static void values_of_every_readable_type_are_exact(void **state)
{
    (void)state;
    static const float f32[] = {1.5f, -0.0f, 1e-45f, 3.4e38f};
    static const uint16_t f16[] = {0x3c00, 0x8001, 0x7bff, 0x0400, 0x03ff, 0x8000, 0xc248};
    static const float f16_is[] = {1, -0x1p-24f, 65504, 0x1p-14f, 0x1.ff8p-15f, -0.0f, -3.140625f};
    static const uint16_t bf16[] = {0x3f80, 0x0001, 0xc049};
    static const float bf16_is[] = {1, 0x1p-133f, -3.140625f};
    static const double f64[] = {0.1, -1e-300};
    static const uint8_t u8[] = {0, 1, 255}, flag[] = {0, 1, 2};
    const st_entry entries[] = {
        {"u8", ST_U8, 1, {3}, u8},       {"f32", ST_F32, 2, {2, 2}, f32},
        {"f16", ST_F16, 1, {7}, f16},    {"flag", ST_BOOL, 1, {3}, flag},
        {"bf16", ST_BF16, 1, {3}, bf16}, {"f64", ST_F64, 1, {2}, f64},
        {"none", ST_F32, 1, {0}, NULL},  {"say \"hi\"\n\\", ST_U8, 0, {0}, u8 + 2},
    };
    const char *path = in_dir("types.safetensors");
    vt_status st = {0};
    assert_int_equal(st_write(path, entries, 8, &st), 0);
    st_reader *r = st_open(path, &st);
    assert_non_null(r);
    assert_int_equal(st_count(r), 8);
    float x[8];
    assert_int_equal(st_read_f32(r, st_find(r, "f32"), 0, 4, x, &st), 0);
    assert_memory_equal(x, f32, sizeof f32);
    assert_int_equal(st_find(r, "f32")->shape[1], 2);
    assert_int_equal(st_read_f32(r, st_find(r, "f16"), 0, 7, x, &st), 0);
    assert_memory_equal(x, f16_is, sizeof f16_is);
    assert_int_equal(st_read_f32(r, st_find(r, "f16"), 6, 1, x, &st), 0);
    assert_true(x[0] == -3.140625f);
    assert_int_equal(st_read_f32(r, st_find(r, "bf16"), 0, 3, x, &st), 0);
    assert_memory_equal(x, bf16_is, sizeof bf16_is);
    assert_int_equal(st_read_f32(r, st_find(r, "f64"), 0, 2, x, &st), 0);
    assert_true(x[0] == 0.1f && x[1] == 0);
    assert_int_equal(st_read_f32(r, st_find(r, "u8"), 0, 3, x, &st), 0);
    assert_true(x[0] == 0 && x[1] == 1 && x[2] == 255);
    assert_int_equal(st_read_f32(r, st_find(r, "flag"), 0, 3, x, &st), 0);
    assert_true(x[0] == 0 && x[1] == 1 && x[2] == 1);
    assert_int_equal(st_read_f32(r, st_find(r, "none"), 0, 0, x, &st), 0);
    assert_int_equal(st_read_f32(r, st_find(r, "say \"hi\"\n\\"), 0, 1, x, &st), 0);
    assert_true(x[0] == 255);
    uint8_t raw[2];
    assert_int_equal(st_read_bytes(r, st_find(r, "u8"), 1, 2, raw, &st), 0);
    assert_memory_equal(raw, u8 + 1, 2);
    assert_int_equal(st_read_f32(r, st_find(r, "f32"), 2, 3, x, &st), -1);
    assert_int_equal(st_read_f32(r, st_find(r, "f32"), 5, UINT64_MAX - 4, x, &st), -1);
    assert_int_equal(st_read_bytes(r, st_find(r, "f32"), 17, 1, x, &st), -1);
    st_close(r);
}

static void every_half_converts_exactly(void **state)
{
    (void)state;
    enum { N = 0x7c00 };
    static uint16_t h[2 * N];
    static float x[2 * N];
    for (int i = 0; i < N; i++)
        h[i] = (uint16_t)i, h[N + i] = (uint16_t)(i | 0x8000);
    const st_entry e = {"h", ST_F16, 1, {2 * N}, h};
    vt_status st = {0};
    const char *path = in_dir("half.safetensors");
    assert_int_equal(st_write(path, &e, 1, &st), 0);
    st_reader *r = st_open(path, &st);
    assert_int_equal(st_read_f32(r, st_at(r, 0), 0, 2 * N, x, &st), 0);
    for (int i = 0; i < N; i++) {
        int exponent = i >> 10, mantissa = i & 0x3ff;
        float is = exponent ? ldexpf((float)(1024 + mantissa), exponent - 25)
                            : ldexpf((float)mantissa, -24);
        assert_true(x[i] == is && x[N + i] == -is);
    }
    st_close(r);
}

static void values_that_are_not_finite_are_named(void **state)
{
    (void)state;
    enum { N = 200000 };
    static float big[N];
    big[150001] = NAN;
    big[199999] = INFINITY;
    static const uint16_t half[] = {0, 0xfc00, 0x7e00};
    const st_entry entries[] = {{"big", ST_F32, 1, {N}, big}, {"half", ST_F16, 1, {3}, half}};
    vt_status st = {0};
    const char *path = in_dir("nan.safetensors");
    assert_int_equal(st_write(path, entries, 2, &st), 0);
    st_reader *r = st_open(path, &st);
    static float x[N];
    assert_int_equal(st_read_f32(r, st_at(r, 0), 0, N, x, &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_non_null(strstr(st.text, "tensor \"big\": value nan at flat index 150001 is not finite "
                                    "(2 such values)"));
    assert_int_equal(st_read_f32(r, st_at(r, 0), 150002, 100, x, &st), 0);
    assert_int_equal(st_read_f32(r, st_at(r, 0), 150000, 3, x, &st), -1);
    assert_non_null(strstr(st.text, "flat index 150001"));
    assert_int_equal(st_read_f32(r, st_at(r, 1), 0, 3, x, &st), -1);
    assert_non_null(strstr(st.text, "tensor \"half\": value -inf at flat index 1"));
    st_close(r);
}

static void a_type_that_is_not_read_is_named(void **state)
{
    (void)state;
    static const char header[] =
        "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    st_reader *r = accepted(header, strlen(header), 2);
    vt_status st = {0};
    float x[2];
    assert_int_equal(st_read_f32(r, st_at(r, 0), 0, 2, x, &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_non_null(strstr(st.text, "tensor \"a\": type F8_E4M3 is not supported"));
    st_close(r);
}

static void a_file_that_changes_is_noticed(void **state)
{
    (void)state;
    vt_status st = {0};
    float x[4];
    st_reader *r = accepted(GOOD, strlen(GOOD), 16);
    assert_int_equal(st_unchanged(r, &st), 0);
    assert_int_equal(truncate(st_file(r, 0), 8 + (off_t)strlen(GOOD) + 7), 0);
    assert_int_equal(st_read_f32(r, st_at(r, 0), 0, 4, x, &st), -1);
    assert_int_equal(st.code, VT_INPUT);
    assert_non_null(strstr(st.text, "file changed while being read (ends at byte"));
    assert_int_equal(st_unchanged(r, &st), -1);
    assert_non_null(strstr(st.text, "file changed while being read (size was"));
    st_close(r);
    r = accepted(GOOD, strlen(GOOD), 16);
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    assert_int_equal(utimensat(AT_FDCWD, st_file(r, 0), times, 0), 0);
    assert_int_equal(st_unchanged(r, &st), -1);
    st_close(r);
}

static void metadata_is_found_by_key(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"vitrun.config\":\"{\\\"a\\\": 1}\",\"a\":\"b\"}}";
    st_reader *r = accepted(header, strlen(header), 0);
    assert_string_equal(st_metadata(r, "vitrun.config"), "{\"a\": 1}");
    assert_string_equal(st_metadata(r, "a"), "b");
    assert_null(st_metadata(r, "b"));
    st_close(r);
}

/* ---- folders ---- */

static const char *folder(const char *name)
{
    const char *path = in_dir(name);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static void put_shard(const char *path, const char *tensor, float value)
{
    vt_status st = {0};
    const st_entry e = {tensor, ST_F32, 1, {1}, &value};
    assert_int_equal(st_write(path, &e, 1, &st), 0);
}

static void a_folder_with_one_file_is_read(void **state)
{
    (void)state;
    folder("hub");
    put_shard(in_dir("hub/model.safetensors"), "w", 2);
    vt_status st = {0};
    st_reader *r = st_open(in_dir("hub/"), &st);
    assert_non_null(r);
    assert_int_equal(st_count(r), 1);
    st_close(r);
}

static void shards_are_read_as_one_list(void **state)
{
    (void)state;
    folder("shards");
    put_shard(in_dir("shards/model-1.safetensors"), "b", 1);
    put_shard(in_dir("shards/model-2.safetensors"), "a", 2);
    const char *index = in_dir("shards/model.safetensors.index.json");
    static const char map[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":"
                              "{\"a\":\"model-2.safetensors\",\"b\":\"model-1.safetensors\"}}";
    put_file(index, map, strlen(map));
    vt_status st = {0};
    for (int i = 0; i < 2; i++) {
        st_reader *r =
            st_open(i ? in_dir("shards/model.safetensors.index.json") : in_dir("shards"), &st);
        if (!r)
            fail_msg("%s", st.text);
        float a, b;
        assert_int_equal(st_count(r), 2);
        assert_int_equal(st_read_f32(r, st_find(r, "a"), 0, 1, &a, &st), 0);
        assert_int_equal(st_read_f32(r, st_find(r, "b"), 0, 1, &b, &st), 0);
        assert_true(a == 2 && b == 1);
        assert_int_equal(st_unchanged(r, &st), 0);
        st_close(r);
    }
}

static void an_index_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *map, *text;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../m.safetensors\"}}",
         "expected the name of a .safetensors file"},
        {"{\"weight_map\":{\"a\":\"/m.safetensors\"}}", "in the same folder, found /m.safetensors"},
        {"{\"weight_map\":{\"a\":\"x/m.safetensors\"}}", "found x/m.safetensors"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "found .."},
        {"{\"weight_map\":{\"a\":7}}", "found no string"},
        {"{\"weight_map\":{}}", "weight_map: expected an object that names tensors"},
        {"{\"weight_map\":[]}", "weight_map: expected an object"},
        {"[]", "weight_map: expected an object"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"m.safetensors\"}}",
         "puts tensor \"b\" into m.safetensors, which lacks it"},
        {"{\"weight_map\":{\"b\":\"m.safetensors\"}}", "has tensor \"a\", which"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"n.safetensors\"}}",
         "n.safetensors: cannot be opened"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",\"c\":\"o.safetensors\"}}",
         "puts into m.safetensors"},
        {"{\"weight_map\":", "not valid JSON"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"m.safetensors\"}}",
         "not valid JSON: duplicate"},
    };
    folder("bad");
    put_shard(in_dir("bad/m.safetensors"), "a", 1);
    put_shard(in_dir("bad/o.safetensors"), "a", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_file(in_dir("bad/model.safetensors.index.json"), cases[i].map, strlen(cases[i].map));
        vt_status st = {0};
        assert_null(st_open(in_dir("bad"), &st));
        assert_int_equal(st.code, VT_INPUT);
        if (!strstr(st.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].text);
    }
}

static void a_folder_without_weights_says_what_lies_there(void **state)
{
    (void)state;
    vt_status st = {0};
    folder("other");
    assert_null(st_open(in_dir("other"), &st));
    assert_non_null(
        strstr(st.text, "other: no model.safetensors and no model.safetensors.index.json"));
    put_file(in_dir("other/pytorch_model.bin"), "x", 1);
    assert_null(st_open(in_dir("other"), &st));
    assert_non_null(strstr(st.text, "only pytorch_model.bin; convert it with"));
    put_shard(in_dir("other/vit.safetensors"), "a", 1);
    assert_null(st_open(in_dir("other"), &st));
    assert_non_null(strstr(st.text, "there is vit.safetensors: give that file's path"));
    put_shard(in_dir("other/open_clip_model.safetensors"), "a", 1);
    st_reader *r = st_open(in_dir("other"), &st); /* a whole CLIP model */
    assert_non_null(r);
    st_close(r);
}

/* ---- writing ---- */

static void writing_fails_without_leaving_anything(void **state)
{
    (void)state;
    vt_status st = {0};
    const st_entry e = {"q", ST_F4, 1, {3}, "xx"};
    assert_int_equal(st_write(in_dir("half-bytes.safetensors"), &e, 1, &st), -1);
    assert_int_equal(access(in_dir("half-bytes.safetensors"), F_OK), -1);
    const st_entry good = {"q", ST_U8, 1, {2}, "xx"};
    assert_int_equal(st_write(in_dir("no/such/folder.safetensors"), &good, 1, &st), -1);
    assert_non_null(strstr(st.text, "no/such/folder.safetensors: cannot be written"));
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_but_valid_headers_are_accepted),
        cmocka_unit_test(broken_headers_are_refused_with_the_reason),
        cmocka_unit_test(nul_in_a_name_is_part_of_the_name),
        cmocka_unit_test(long_names_are_cut_in_messages),
        cmocka_unit_test(deep_nesting_is_refused_at_once),
        cmocka_unit_test(the_length_is_checked_before_it_is_believed),
        cmocka_unit_test(foreign_formats_are_named_with_the_way_out),
        cmocka_unit_test(only_regular_files_and_folders_are_opened),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_ends_well),
        cmocka_unit_test(a_hundred_thousand_tensors_open_within_a_second),
        cmocka_unit_test(values_of_every_readable_type_are_exact),
        cmocka_unit_test(every_half_converts_exactly),
        cmocka_unit_test(values_that_are_not_finite_are_named),
        cmocka_unit_test(a_type_that_is_not_read_is_named),
        cmocka_unit_test(a_file_that_changes_is_noticed),
        cmocka_unit_test(metadata_is_found_by_key),
        cmocka_unit_test(a_folder_with_one_file_is_read),
        cmocka_unit_test(shards_are_read_as_one_list),
        cmocka_unit_test(an_index_that_does_not_fit_is_refused),
        cmocka_unit_test(a_folder_without_weights_says_what_lies_there),
        cmocka_unit_test(writing_fails_without_leaving_anything),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
