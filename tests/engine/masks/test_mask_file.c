/* Masks from safetensors, .npy and .png: values, shapes, heads, and broken files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/image/image.h"
#include "engine/masks/masks.h"
#include "tests/support_mask.h"
#include "weights_tools/safetensors.h"

/* 2 x 3 patches and one prefix token: P = 6, N = 7; two heads. */
enum { P = 6, N = 7, HEADS = 2 };

static char folder[] = "/tmp/vitrun_mask_file_XXXXXX";
static char file[64], json[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/mask", folder);
    snprintf(json, sizeof json, "%s/m.json", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    remove(file);
    remove(json);
    return rmdir(folder);
}

static bool pattern_at(int head, int q, int k)
{
    return (q * 5 + k * 3 + head) % 4 == 1;
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

/* Loads {"layers": {"0": expression}} beside the file, so that its path is relative. */
static vt_masks *load(const char *expression, vt_status *st)
{
    vt_mask_shape shape = {1, HEADS, 1, 2, 3};
    char text[256];
    *st = (vt_status){VT_OK, ""};
    snprintf(text, sizeof text,
             "{\"patterns\": {\"m\": {\"type\": \"file\", \"path\": \"mask\"},"
             "\"t\": {\"type\": \"file\", \"path\": \"mask\", \"tensor\": \"layer3\"}},"
             "\"layers\": {\"0\": \"%s\"}}",
             expression);
    write_bytes(json, text, strlen(text));
    return vt_masks_load(json, NULL, 0, &shape, 1, st);
}

static void refused(const char *expression, const char *why)
{
    vt_status st;
    assert_null(load(expression, &st));
    if (!strstr(st.text, why))
        fail_msg("%s", st.text);
    assert_int_equal(st.code, VT_INPUT);
}

/* The file holds patches only: prefix pairs are added. */
static void check_patches(const char *expression)
{
    vt_status st;
    vt_masks *m = load(expression, &st);
    if (!m)
        fail_msg("%s", st.text);
    assert_int_equal(m->layer[0].groups, 1);
    for (int q = 0; q < N; q++)
        for (int k = 0; k < N; k++)
            assert_int_equal(mask_pair(m->layer[0].group[0].mask, q, k),
                             q == 0 || k == 0 || pattern_at(0, q - 1, k - 1));
    vt_masks_free(m);
}

/* ---- .npy ---- */

static size_t npy(uint8_t *out, int version, const char *dict, const void *data, size_t bytes)
{
    size_t n = strlen(dict), head = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version;
    out[7] = 0;
    for (size_t i = 8; i < head; i++)
        out[i] = (uint8_t)(n >> 8 * (i - 8));
    memcpy(out + head, dict, n);
    memcpy(out + head + n, data, bytes);
    return head + n + bytes;
}

static void write_npy(const char *descr, const char *shape, const void *data, size_t bytes)
{
    uint8_t out[4096];
    char dict[128];
    snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }   \n",
             descr, shape);
    write_bytes(file, out, npy(out, 1, dict, data, bytes));
}

static void every_type_of_npy_is_read(void **state)
{
    (void)state;
    const char *types[] = {"|b1", "|u1", "|i1", "<u2", "<i2", "<u4",
                           "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"};
    for (int t = 0; t < 12; t++) {
        size_t bytes = (size_t)(types[t][2] - '0');
        uint8_t data[P * P * 8] = {0};
        for (size_t i = 0; i < P * P; i++) {
            bool on = pattern_at(0, (int)i / P, (int)i % P);
            data[i * bytes + i % bytes] = on ? 0x31 : 0; /* any byte of the value */
            if (types[t][1] == 'f' && !on)
                data[i * bytes + bytes - 1] = (uint8_t)(i % 2 ? 0x80 : 0); /* minus zero is off */
        }
        write_npy(types[t], "(6, 6)", data, P * P * bytes);
        check_patches("m");
    }
}

static void fill_bytes(uint8_t *data)
{
    for (int i = 0; i < P * P; i++)
        data[i] = pattern_at(0, i / P, i % P);
}

static void versions_and_key_orders_of_npy_are_read(void **state)
{
    (void)state;
    uint8_t data[P * P], out[1024];
    fill_bytes(data);
    for (int version = 1; version <= 3; version++) {
        write_bytes(file, out,
                    npy(out, version, "{\"shape\":(6,6),'fortran_order':False,'descr':\"|b1\"}",
                        data, sizeof data));
        check_patches("m & dense");
    }
}

static void npy_of_another_kind_is_refused(void **state)
{
    (void)state;
    uint8_t data[P * P] = {0}, out[1024];
    write_npy(">f4", "(3, 3)", data, 36);
    refused("m", "/mask: .npy type is '>f4' (expected booleans, integers or floats");
    write_npy("|O", "(6, 6)", data, 36);
    refused("m", ".npy type is '|O'");
    write_bytes(file, out,
                npy(out, 1, "{'descr': '|b1', 'fortran_order': True, 'shape': (6, 6)}", data, 36));
    refused("m", ".npy is in Fortran order (expected C order, as numpy.ascontiguousarray gives)");
    write_npy("|b1", "(6, 6)", data, 35);
    refused("m", ".npy holds 35 bytes of values, its shape and type say otherwise");
    write_npy("|b1", "(6, 6, 6, 6, 6)", data, 36);
    refused("m", "broken .npy header");
    write_npy("|b1", "(99999999999999999999, 6)", data, 36);
    refused("m", "broken .npy header");
    write_npy("<f8", "(4294967295, 4294967295, 4294967295)", data, 36);
    refused("m", "its shape and type say otherwise");
    write_bytes(file, out, npy(out, 4, "{}", data, 36));
    refused("m", ".npy version 4.0 (expected 1.0, 2.0 or 3.0)");
    write_npy("|b1", "(6, 6)", data, 36);
    refused("t", "a .npy file has no tensors to name (found tensor 'layer3')");
}

static void shapes_that_do_not_fit_say_what_does(void **state)
{
    (void)state;
    uint8_t data[512] = {0};
    const char *fit = ", model has 7 tokens (2x3 patches + 1 prefix) (expected 6x6 or 7x7, alone "
                      "or for each of 2 heads)";
    const struct {
        const char *tuple, *is;
        size_t bytes;
    } shape[] = {{"(8, 8)", "8x8", 64},       {"(6, 7)", "6x7", 42},
                 {"(36,)", "36", 36},         {"()", "a single value", 1},
                 {"(3, 6, 6)", "3x6x6", 108}, {"(1, 1, 6, 6)", "1x1x6x6", 36},
                 {"(0, 0)", "0x0", 0}};
    for (int i = 0; i < 7; i++) {
        char why[200];
        write_npy("|b1", shape[i].tuple, data, shape[i].bytes);
        snprintf(why, sizeof why, "mask is %s%s", shape[i].is, fit);
        refused("m", why);
    }
}

static void nan_and_infinity_are_refused(void **state)
{
    (void)state;
    float data[P * P] = {0};
    data[8] = -1.0f / 0.0f;
    write_npy("<f4", "(6, 6)", data, sizeof data);
    refused("m", "mask holds an infinity at [1, 2] (expected 0 for off, any other finite number");
    data[8] = 0.0f / 0.0f;
    write_npy("<f4", "(6, 6)", data, sizeof data);
    refused("m", "mask holds NaN at [1, 2]");
}

static void every_cut_of_an_npy_is_refused(void **state)
{
    (void)state;
    uint8_t data[P * P], out[1024];
    fill_bytes(data);
    size_t size = npy(out, 1, "{'descr': '|b1', 'fortran_order': False, 'shape': (6, 6), }\n", data,
                      sizeof data);
    for (size_t cut = 0; cut < size; cut++) {
        write_bytes(file, out, cut);
        refused("m", "/mask");
    }
    for (size_t i = 0; i < size - sizeof data; i++) { /* the header's bytes, changed */
        vt_status st;
        uint8_t was = out[i];
        for (int c = 0; c < 4; c++) {
            out[i] = (uint8_t) "\xff'(9"[c];
            write_bytes(file, out, size);
            vt_masks *m = load("m", &st);
            assert_true(m || st.code == VT_INPUT);
            vt_masks_free(m);
        }
        out[i] = was;
    }
}

/* ---- whole masks and heads ---- */

static void a_mask_of_all_tokens_stands_alone(void **state)
{
    (void)state;
    uint8_t data[N * N];
    vt_status st;
    for (int i = 0; i < N * N; i++)
        data[i] = pattern_at(0, i / N, i % N);
    write_npy("|b1", "(7, 7)", data, sizeof data);
    vt_masks *m = load("m", &st);
    assert_non_null(m);
    for (int q = 0; q < N; q++)
        for (int k = 0; k < N; k++)
            assert_int_equal(mask_pair(m->mask[0], q, k), pattern_at(0, q, k));
    vt_masks_free(m);
    refused("~m", "m.json:1:128: layers.\"0\": column 1: a mask file that covers all 7 tokens "
                  "stands alone, without operators (one of the 6 patches may be combined)");
    refused("m | dense", "column 3: a mask file that covers all 7 tokens stands alone");
    refused("(m) & dense", "stands alone");
}

static void heads_get_their_own_slices(void **state)
{
    (void)state;
    uint8_t data[HEADS * P * P];
    vt_status st;
    for (int i = 0; i < HEADS * P * P; i++)
        data[i] = pattern_at(i / (P * P), i / P % P, i % P);
    write_npy("|b1", "(2, 6, 6)", data, sizeof data);
    vt_masks *m = load("~m | causal_1d() & dense", &st);
    assert_non_null(m);
    assert_int_equal(m->layer[0].groups, 2);
    for (int h = 0; h < HEADS; h++) {
        const vt_mask_group *g = &m->layer[0].group[h];
        assert_int_equal(g->heads, 1);
        assert_int_equal(g->head[0], h);
        for (int q = 0; q < P; q++)
            for (int k = 0; k < P; k++)
                assert_int_equal(mask_pair(g->mask, q + 1, k + 1), !pattern_at(h, q, k) || k <= q);
    }
    vt_masks_free(m);
}

/* ---- safetensors ---- */

static void write_tensors(st_dtype dtype, const void *data, int tensors)
{
    vt_status st;
    st_entry e[2] = {{"layer3", dtype, 2, {P, P}, data}, {"layer4", dtype, 2, {P, P}, data}};
    if (st_write(file, e, (size_t)tensors, &st) < 0)
        fail_msg("%s", st.text);
}

static void safetensors_masks_are_read(void **state)
{
    (void)state;
    const struct {
        st_dtype dtype;
        size_t bytes;
    } types[] = {{ST_BOOL, 1}, {ST_U8, 1}, {ST_F16, 2}, {ST_BF16, 2}, {ST_F32, 4}, {ST_F64, 8}};
    for (int t = 0; t < 6; t++) {
        uint8_t data[P * P * 8] = {0};
        for (size_t i = 0; i < P * P; i++)
            data[i * types[t].bytes] = pattern_at(0, (int)i / P, (int)i % P);
        write_tensors(types[t].dtype, data, 1);
        check_patches("m"); /* the only tensor needs no name */
        write_tensors(types[t].dtype, data, 2);
        check_patches("t");
    }
}

static void a_tensor_must_be_named_and_be_there(void **state)
{
    (void)state;
    uint8_t data[P * P * 4] = {0};
    write_tensors(ST_U8, data, 2);
    refused("m", "/mask: holds 2 tensors (name one of them as 'tensor')");
    vt_status st;
    st_entry e = {"layer_3", ST_I32, 2, {P, P}, data};
    assert_int_equal(st_write(file, &e, 1, &st), 0);
    refused("t", "/mask: has no tensor 'layer3' (did you mean 'layer_3'?)");
    refused("m", "/mask: tensor 'layer_3' is I32 (expected BOOL, U8, F16, BF16, F32 or F64)");
}

/* ---- .png ---- */

static void png_masks_are_read(void **state)
{
    (void)state;
    vt_status st;
    uint8_t rgb[P * P * 3] = {0};
    for (int i = 0; i < P * P; i++)
        rgb[3 * i + i % 3] = pattern_at(0, i / P, i % P) ? 255 : 0;
    if (vt_png_write(file, rgb, P, P, &st) < 0)
        fail_msg("%s", st.text);
    check_patches("m");
    assert_int_equal(vt_png_write(file, rgb, P, P - 1, &st), 0);
    refused("m", "mask is 5x6, model has 7 tokens");
}

static void other_files_are_refused(void **state)
{
    (void)state;
    write_bytes(file, "", 0);
    refused("m", "/mask");
    write_bytes(file, "no mask at all", 14);
    refused("m", "/mask");
    remove(file);
    refused("m", "/mask: cannot be opened: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_of_npy_is_read),
        cmocka_unit_test(versions_and_key_orders_of_npy_are_read),
        cmocka_unit_test(npy_of_another_kind_is_refused),
        cmocka_unit_test(shapes_that_do_not_fit_say_what_does),
        cmocka_unit_test(nan_and_infinity_are_refused),
        cmocka_unit_test(every_cut_of_an_npy_is_refused),
        cmocka_unit_test(a_mask_of_all_tokens_stands_alone),
        cmocka_unit_test(heads_get_their_own_slices),
        cmocka_unit_test(safetensors_masks_are_read),
        cmocka_unit_test(a_tensor_must_be_named_and_be_there),
        cmocka_unit_test(png_masks_are_read),
        cmocka_unit_test(other_files_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
