/* The configuration document: what it means, every error with its place, hostile documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/masks/json_where.h"
#include "engine/masks/masks.h"
#include "tests/support_mask.h"

static char folder[] = "/tmp/vitrun_masks_XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/m.json", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    remove(path);
    return rmdir(folder);
}

static void write_bytes(const char *text, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    fclose(f);
}

static vt_masks *load_with(const char *json, const char *const *texts, int count, vt_status *st)
{
    vt_mask_shape shape = {12, 12, 1, 14, 14};
    *st = (vt_status){VT_OK, ""};
    write_bytes(json, strlen(json));
    return vt_masks_load(path, texts, count, &shape, 1, st);
}

static vt_masks *load(const char *json)
{
    vt_status st;
    vt_masks *m = load_with(json, NULL, 0, &st);
    if (!m)
        fail_msg("%s", st.text);
    return m;
}

static int64_t nnz(const vt_mask *mask)
{
    vt_status st = {VT_OK, ""};
    vt_mask_stats s;
    assert_int_equal(vt_mask_count(mask, 1, &s, &st), 0);
    return s.nnz;
}

static const char example[] =
    "{\n"
    "  \"version\": 1,\n"
    "  \"density_threshold\": 0.30,\n"
    "  \"patterns\": {\n"
    "    \"cross\": {\"type\": \"axial_2d\"},\n"
    "    \"near\":  {\"type\": \"local_2d\", \"distance\": 5, \"p\": 2.0},\n"
    "    \"gauss\": {\"type\": \"random_from_probability\", \"probability\": {\"type\": "
    "\"local_2d_gaussian\", \"sigma\": 2},\n"
    "              \"sparsity\": 0.95, \"seed\": 7},\n"
    "    \"either\": \"cross | near\"\n"
    "  },\n"
    "  \"layers\": {\n"
    "    \"0-6\":  \"cross | near | gauss\",\n"
    "    \"7\":    \"either\",\n"
    "    \"8\":    {\"mask\": \"near\", \"density_threshold\": 0.5, \"kernel\": \"sparse\"},\n"
    "    \"9,10\": {\"heads\": {\"0-3\": \"near\", \"4-9\": \"dense\"}, \"prefix\": \"none\"}\n"
    "  }\n"
    "}\n";

static void the_example_means_what_it_says(void **state)
{
    (void)state;
    vt_masks *m = load(example);
    assert_int_equal(m->layers, 12);
    assert_true(m->density_threshold == 0.30);
    for (int i = 0; i < 12; i++)
        assert_true(m->layer[i].density_threshold == (i == 8 ? 0.5 : 0.30));
    for (int i = 1; i < 7; i++)
        assert_ptr_equal(m->layer[i].group[0].mask, m->layer[0].group[0].mask);
    assert_int_equal(m->layer[0].group[0].heads, 12);
    assert_string_equal(m->layer[0].group[0].text, "cross | near | gauss");
    assert_int_equal(nnz(m->layer[7].group[0].mask), 12869);
    assert_int_equal(nnz(m->layer[8].group[0].mask), 10349);
    assert_string_equal(m->layer[8].kernel, "sparse");
    assert_null(m->layer[7].kernel);
    const vt_layer_masks *nine = &m->layer[9];
    assert_int_equal(nine->groups, 2);
    assert_int_equal(nine->group[0].heads, 4);
    assert_int_equal(nine->group[0].head[3], 3);
    assert_int_equal(nnz(nine->group[0].mask), 9956 + 1);
    assert_ptr_equal(m->layer[10].group[0].mask, nine->group[0].mask);
    assert_int_equal(nine->group[1].heads, 8); /* 4-9 dense, 10 and 11 not named */
    assert_int_equal(nine->group[1].head[7], 11);
    assert_null(nine->group[1].mask);
    assert_string_equal(nine->group[1].text, "dense");
    assert_null(m->layer[11].group[0].mask);
    assert_int_equal(m->masks, 4);
    vt_masks_free(m);
}

static void equal_expressions_share_a_mask_and_policies_part_it(void **state)
{
    (void)state;
    vt_masks *m = load("{\"prefix\": \"rows\", \"patterns\": {\"a\": \"local_2d(distance=2)\","
                       "\"b\": {\"type\": \"local_2d\", \"distance\": 2}},"
                       "\"layers\": {\"0\": \"a\", \"1\": \"b\", \"2\": \"local_2d(distance=2)\","
                       "\"3\": {\"mask\": \"b\", \"prefix\": \"full\"}, \"4\": \" (dense) \","
                       "\"5\": \"a | a\", \"6-\": \"a|a\"}}");
    assert_ptr_equal(m->layer[0].group[0].mask, m->layer[1].group[0].mask);
    assert_ptr_equal(m->layer[0].group[0].mask, m->layer[2].group[0].mask);
    assert_ptr_not_equal(m->layer[0].group[0].mask, m->layer[3].group[0].mask);
    assert_ptr_equal(m->layer[5].group[0].mask, m->layer[11].group[0].mask);
    assert_null(m->layer[4].group[0].mask);
    assert_int_equal(nnz(m->layer[0].group[0].mask), 1600 + 1 + 196);
    assert_int_equal(nnz(m->layer[3].group[0].mask), 1993);
    assert_int_equal(m->masks, 3);
    vt_masks_free(m);
}

static void nothing_is_needed(void **state)
{
    (void)state;
    vt_masks *m = load("{}");
    assert_true(m->density_threshold < 0);
    for (int i = 0; i < 12; i++) {
        assert_true(m->layer[i].density_threshold < 0);
        assert_int_equal(m->layer[i].groups, 1);
        assert_null(m->layer[i].group[0].mask);
    }
    vt_masks_free(m);
    vt_masks_free(NULL);
}

static void texts_replace_the_entries_of_their_layers(void **state)
{
    (void)state;
    vt_status st;
    const char *texts[] = {"0-2: near", "2,11: axial_2d()"};
    vt_masks *m = load_with("{\"prefix\": \"none\", \"patterns\": {\"near\": "
                            "\"local_2d(distance=2)\"}, \"layers\": {\"all\": {\"mask\": \"dense\","
                            "\"kernel\": \"rows\", \"prefix\": \"full\"}}}",
                            texts, 2, &st);
    assert_non_null(m);
    assert_null(m->layer[0].kernel);
    assert_string_equal(m->layer[3].kernel, "rows");
    assert_int_equal(nnz(m->layer[1].group[0].mask), 1601);
    assert_string_equal(m->layer[1].group[0].text, "near");
    assert_int_equal(nnz(m->layer[2].group[0].mask), 5293); /* the later text wins */
    assert_int_equal(nnz(m->layer[11].group[0].mask), 5293);
    assert_null(m->layer[3].group[0].mask);
    vt_masks_free(m);
}

static void a_fault_behind_a_text_is_placed_in_the_document(void **state)
{
    (void)state;
    vt_status st;
    const char *texts[] = {"0: far"};
    assert_null(load_with("{\"patterns\": {\"far\": {\"type\": \"file\", \"path\": \"no.npy\"}}}",
                          texts, 1, &st));
    assert_non_null(strstr(st.text, "/m.json:1:47: patterns.far.path: /tmp/"));
    assert_int_equal(st.code, VT_INPUT);
}

/* "LAYERS x HEADS" of masks loaded where no model says, or the error. */
static const char *extent(const char *config, const char *const *texts, int count, int heads)
{
    static vt_status st;
    static char found[32];
    vt_mask_shape shape = {0, heads, 1, 2, 2};
    vt_masks *m = vt_masks_load(config, texts, count, &shape, 1, &st);
    if (!m)
        return strchr(st.text, ':');
    snprintf(found, sizeof found, "%dx%d", m->layers, m->heads);
    vt_masks_free(m);
    return found;
}

static void the_extent_is_what_is_named(void **state)
{
    (void)state;
    const char *texts[] = {"17-: dense", "axial_2d()"}, *far = "99999999: dense";
    write_bytes(example, strlen(example));
    assert_string_equal(extent(path, NULL, 0, 0), "11x10");
    assert_string_equal(extent(path, texts, 1, 0), "18x10");
    assert_string_equal(extent(NULL, texts, 2, 10), "18x10");
    assert_string_equal(extent(NULL, texts + 1, 1, 0), "1x1");
    assert_string_equal(extent(NULL, &far, 1, 0), ": more than 4096 layers or heads are named");
}

static void few_bytes_cannot_ask_for_many_heads(void **state)
{
    (void)state;
    const char *last = "4095: dense";
    const char *json = "{\"layers\": {\"4095\": {\"heads\": {\"4095\": \"axial_2d()\"}}}}";
    write_bytes(json, strlen(json));
    assert_string_equal(extent(path, NULL, 0, 0),
                        ": 4096 layers of 4096 heads (expected at most 65536 heads in all layers)");
    assert_string_equal(extent(NULL, &last, 1, 17),
                        ": 4096 layers of 17 heads (expected at most 65536 heads in all layers)");
    assert_string_equal(extent(NULL, &last, 1, 16), "4096x16");
}

static void heads_with_equal_masks_are_one_group(void **state)
{
    (void)state;
    vt_masks *m = load("{\"patterns\": {\"a\": \"local_2d(distance=2)\", \"all\": \"dense\"},"
                       "\"layers\": {\"0\": {\"heads\": {\"1\": \"a\", \"0,5\": \"axial_2d()\","
                       "\"3\": \"local_2d(distance=2)\", \"4\": \"all\", \"9\": \" (a) \"}}}}");
    const vt_layer_masks *layer = &m->layer[0];
    const uint16_t axial[] = {0, 5}, near[] = {1, 3, 9}, dense[] = {2, 4, 6, 7, 8, 10, 11};
    assert_int_equal(layer->groups, 3);
    assert_int_equal(layer->group[0].heads, 2);
    assert_memory_equal(layer->group[0].head, axial, sizeof axial);
    assert_int_equal(layer->group[1].heads, 3);
    assert_memory_equal(layer->group[1].head, near, sizeof near);
    assert_string_equal(layer->group[1].text, "a");
    assert_null(layer->group[2].mask);
    assert_int_equal(layer->group[2].heads, 7);
    assert_memory_equal(layer->group[2].head, dense, sizeof dense);
    vt_masks_free(m);
}

/* Loads from a pipe what a child writes: `before` spaces, then text. */
static vt_masks *load_from_pipe(size_t before, const char *text, vt_status *st)
{
    int ends[2];
    char name[32];
    vt_mask_shape shape = {0, 0, 1, 2, 2};
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        FILE *f = fdopen(ends[1], "w");
        close(ends[0]);
        for (size_t i = 0; i < before && putc(' ', f) != EOF; i++)
            ;
        fputs(text, f);
        fclose(f);
        _exit(0);
    }
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    vt_masks *m = vt_masks_load(name, NULL, 0, &shape, 1, st);
    close(ends[0]);
    waitpid(child, NULL, 0);
    return m;
}

static void a_document_may_be_a_pipe(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    vt_masks *m = load_from_pipe(200000, "{\"layers\": {\"2\": \"axial_2d()\"}}", &st);
    if (!m)
        fail_msg("%s", st.text);
    assert_int_equal(m->layers, 3);
    assert_non_null(m->layer[2].group[0].mask);
    vt_masks_free(m);
    assert_null(load_from_pipe(0, "", &st));
    assert_non_null(strstr(st.text, ":1:1: unexpected token near end of file"));
    assert_null(load_from_pipe((16 << 20) + 1, "{}", &st));
    assert_non_null(strstr(st.text, "file is too large (at most 16777216 bytes are read)"));
    st.code = VT_OK;
    assert_null(vt_masks_load("/dev/zero", NULL, 0, &(vt_mask_shape){1, 1, 1, 2, 2}, 1, &st));
    assert_string_equal(st.text, "/dev/zero: is no regular file (expected a file)");
}

static const struct {
    const char *json, *error; /* after the file's name and ':' */
} errors[] = {
    {"", "1:1: unexpected token near end of file"},
    {"[]", "1:1: expected an object, found []"},
    {"{\"version\": 2}", "1:13: version: expected 1, found 2"},
    {"{\"version\": 1.0}", "1:13: version: expected 1, found 1.0"},
    {"{\"version\": \"1\"}", "1:13: version: expected 1, found \"1\""},
    {"{\"versoin\": 1}", "1:2: versoin: unknown key 'versoin' (did you mean 'version'?)"},
    {"{\"x\": 1}", "1:2: x: unknown key 'x'"},
    {"{\"layers\": {}} x", "1:16: end of file expected near 'x'"},
    {"{\"layers\": {\"3\": \"dense\"", "1:24: layers.\"3\": '}' expected near end of file"},
    {"{\n \"layers\": {\n  \"3\": \"dense\",\n  \"3\": \"dense\"}}",
     "4:5: layers.\"3\": duplicate object key near '\"3\"'"},
    {"{\"density_threshold\": 1e999}",
     "1:27: density_threshold: real number overflow near '1e999'"},
    {"{\"density_threshold\": 1e-999}",
     "1:23: density_threshold: the number is too small for double precision"},
    {"{\"density_threshold\": 1.5}",
     "1:23: density_threshold: expected a number from 0 to 1, found 1.5"},
    {"{\"density_threshold\": -0.1}",
     "1:23: density_threshold: expected a number from 0 to 1, found -0.1"},
    {"{\"density_threshold\": \"a\"}",
     "1:23: density_threshold: expected a number from 0 to 1, found \"a\""},
    {"{\"prefix\": \"all\"}",
     "1:12: prefix: expected \"full\", \"rows\", \"columns\" or \"none\", found \"all\""},
    {"{\"prefix\": null}",
     "1:12: prefix: expected \"full\", \"rows\", \"columns\" or \"none\", found null"},
    {"{\"patterns\": []}", "1:14: patterns: expected an object of named patterns, found []"},
    {"{\"patterns\": {\"a\": 7}}",
     "1:20: patterns.a: expected an object with a type, or an expression"},
    {"{\"patterns\": {\"a-b\": \"dense\"}}",
     "1:15: patterns.\"a-b\": expected a name of letters, digits and '_', and not 'dense'"},
    {"{\"patterns\": {\"dense\": \"axial_2d()\"}}",
     "1:15: patterns.dense: expected a name of letters, digits and '_', and not 'dense'"},
    {"{\"patterns\": {\"a\": \"b\", \"b\": \"~c\", \"c\": \"dense | a\"}}",
     "1:20: patterns.a: the pattern refers to itself"},
    {"{\"patterns\": {\"a\": \"axial_2d() | nearr\", \"near\": \"dense\"}}",
     "1:20: patterns.a: column 14: unknown pattern 'nearr' (did you mean 'near'?)"},
    {"{\"patterns\": {\"near\": {\n\"type\": \"local_2d\",\n\"distance\": -1}}}",
     "3:13: patterns.near.distance: expected a number > 0, found -1"},
    {"{\"patterns\": {\"near\": {\"type\": \"local_2d\", \"distnce\": 1}}}",
     "1:44: patterns.near.distnce: local_2d has no parameter 'distnce' (did you mean 'distance'?)"},
    {"{\"patterns\": {\"near\": {\"tpe\": \"local_2d\"}}}",
     "1:23: patterns.near: a pattern needs type (expected the name of a pattern type)"},
    {"{\"patterns\": {\"near\": {\"type\": \"locl_2d\"}}}",
     "1:32: patterns.near.type: unknown pattern type 'locl_2d' (did you mean 'local_2d'?)"},
    {"{\"patterns\": {\"g\": {\"type\": \"random_from_probability\", \"nnz\": 3,\n"
     "\"probability\": {\"type\": \"local_2d_gaussian\", \"sgma\": 2}}}}",
     "2:46: patterns.g.probability.sgma: local_2d_gaussian has no parameter 'sgma' (did you mean "
     "'sigma'?)"},
    {"{\"patterns\": {\"n\": {\"type\": \"random\", \"nnz\": 10000000000000000000}}}",
     "1:65: patterns.n.nnz: too big integer near '10000000000000000000'"},
    {"{\"layers\": []}",
     "1:12: layers: expected an object such as {\"0-7\": \"EXPRESSION\"}, found []"},
    {"{\"layers\": {\"0-12\": \"dense\"}}",
     "1:13: layers.\"0-12\": layer 12: the model has layers 0 to 11"},
    {"{\"layers\": {\"-1\": \"dense\"}}",
     "1:13: layers.\"-1\": expected layers such as 3 or 0-7 or 9,10 or 8- or all, found '-1'"},
    {"{\"layers\": {\"0-7\": \"dense\", \"7\": \"dense\"}}",
     "1:29: layers.\"7\": layer 7 is named twice (also by \"0-7\")"},
    {"{\"layers\": {\"0\": [\"dense\"]}}",
     "1:18: layers.\"0\": expected an expression, or an object with mask or heads, found "
     "[\"dense\"]"},
    {"{\"layers\": {\"0\": \"nera\"}, \"patterns\": {\"near\": \"dense\"}}",
     "1:18: layers.\"0\": column 1: unknown pattern 'nera' (did you mean 'near'?)"},
    {"{\"layers\": {\"9,10\": {\"msk\": \"dense\"}}}",
     "1:22: layers.\"9,10\".msk: unknown key 'msk' (did you mean 'mask'?)"},
    {"{\"layers\": {\"9,10\": {\"kernel\": \"rows\"}}}",
     "1:21: layers.\"9,10\": expected mask or heads, found neither"},
    {"{\"layers\": {\"9,10\": {\"mask\": \"dense\", \"heads\": {}}}}",
     "1:21: layers.\"9,10\": expected only one of mask and heads"},
    {"{\"layers\": {\"9,10\": {\"mask\": 3}}}",
     "1:30: layers.\"9,10\".mask: expected an expression, found 3"},
    {"{\"layers\": {\"9,10\": {\"mask\": \"dense\", \"kernel\": \"fast\"}}}",
     "1:49: layers.\"9,10\".kernel: expected \"reference\", \"dense\", \"sparse\", \"tiles\" or "
     "\"rows\", found \"fast\""},
    {"{\"layers\": {\"9,10\": {\"mask\": \"dense\", \"density_threshold\": 2}}}",
     "1:60: layers.\"9,10\".density_threshold: expected a number from 0 to 1, found 2"},
    {"{\"layers\": {\"9,10\": {\"heads\": \"dense\"}}}",
     "1:31: layers.\"9,10\".heads: expected an object such as {\"0-3\": \"EXPRESSION\"}, found "
     "\"dense\""},
    {"{\"layers\": {\"9,10\": {\"heads\": {\"4-11\": \"axial_2d(\"}}}}",
     "1:40: layers.\"9,10\".heads.\"4-11\": column 10: expected NAME=VALUE, found the end"},
    {"{\"layers\": {\"9,10\": {\"heads\": {\"0-12\": \"dense\"}}}}",
     "1:32: layers.\"9,10\".heads.\"0-12\": head 12: the model has heads 0 to 11"},
    {"{\"layers\": {\"9,10\": {\"heads\": {\"0-3\": \"dense\", \"3\": \"dense\"}}}}",
     "1:48: layers.\"9,10\".heads.\"3\": head 3 is named twice (also by \"0-3\")"},
    {"{\"patterns\": {\"\xc3\xa9\xc3\xa9\": \"dense\"}}",
     "1:15: patterns.\"\xc3\xa9\xc3\xa9\": expected a name of letters, digits and '_', and not "
     "'dense'"},
    {"{\"layers\": {\"\\u0033\": {\"mask\": \"\xc3\xa9\"}, \"\xc3\xa9\": 1}}",
     "1:32: layers.\"3\".mask: column 1: expected a pattern, found '\xc3\xa9'"},
};

static void every_error_names_line_column_and_path(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char expected[600];
        vt_status st;
        snprintf(expected, sizeof expected, "%s:%s", path, errors[i].error);
        assert_null(load_with(errors[i].json, NULL, 0, &st));
        assert_string_equal(st.text, expected);
        assert_int_equal(st.code, VT_INPUT);
    }
}

static void an_absent_file_and_a_folder_are_named(void **state)
{
    (void)state;
    vt_mask_shape shape = {1, 1, 0, 2, 2};
    vt_status st;
    assert_null(vt_masks_load("/nonexistent/m.json", NULL, 0, &shape, 1, &st));
    assert_string_equal(st.text,
                        "/nonexistent/m.json: cannot be opened: No such file or directory");
    assert_int_equal(st.code, VT_INPUT);
    assert_null(vt_masks_load(folder, NULL, 0, &shape, 1, &st));
    assert_int_equal(st.code, VT_INPUT);
}

/* A document cut anywhere is refused with a place, and nothing reads past its end. */
static void every_cut_of_a_document_is_refused(void **state)
{
    (void)state;
    size_t whole = strlen(example) - 2; /* the last brace; behind it only a line end */
    for (size_t cut = 0; cut <= whole; cut++) {
        vt_mask_shape shape = {12, 12, 1, 2, 2};
        vt_status st = {VT_OK, ""};
        write_bytes(example, cut);
        assert_null(vt_masks_load(path, NULL, 0, &shape, 1, &st));
        assert_int_equal(st.code, VT_INPUT);
        assert_int_equal(strncmp(st.text, path, strlen(path)), 0);
        assert_int_equal(st.text[strlen(path)], ':');
    }
}

/* Any one byte replaced: loaded or refused with one line, never worse. */
static void every_changed_byte_is_survived(void **state)
{
    (void)state;
    size_t size = strlen(example);
    char *text = test_malloc(size + 1);
    memcpy(text, example, size + 1);
    for (size_t i = 0; i < size; i++)
        for (int c = 0; c < 4; c++) {
            vt_mask_shape shape = {12, 12, 1, 2, 2};
            vt_status st = {VT_OK, ""};
            text[i] = "\0\"}9"[c];
            write_bytes(text, size);
            vt_masks *m = vt_masks_load(path, NULL, 0, &shape, 1, &st);
            assert_true(m || (st.code == VT_INPUT && st.text[0] && !strchr(st.text, '\n')));
            vt_masks_free(m);
            text[i] = example[i];
        }
    test_free(text);
}

static void refused(const char *json, const char *why)
{
    vt_status st;
    assert_null(load_with(json, NULL, 0, &st));
    if (!strstr(st.text, why))
        fail_msg("%s", st.text);
}

static void hostile_documents_are_refused(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *deep = test_calloc(DEPTH + 1, 1);
    memset(deep, '[', DEPTH);
    refused(deep, "maximum parsing depth reached");
    for (int i = 0; i + 5 <= DEPTH; i += 5)
        memcpy(deep + i, "{\"a\":", 5);
    refused(deep, "maximum parsing depth reached");
    test_free(deep);
    refused("{\"a\\u0000b\": 1}", "\\u0000 is not allowed");
    refused("{\"\xff\": 1}", "unable to decode byte 0xff");
}

/* p0, p1 = "p0 & ~x0 | ~p0 & x0" ...: each doubles the work of a row, forty would not end. */
static void patterns_that_multiply_are_refused(void **state)
{
    (void)state;
    char json[8192] = "{\"patterns\": {\"p0\": \"axial_2d()\"";
    for (int i = 1; i < 41; i++) {
        size_t used = strlen(json);
        snprintf(json + used, sizeof json - used, ", \"p%d\": \"p%d & causal_1d() | ~p%d\"", i,
                 i - 1, i - 1);
    }
    strcat(json, "}, \"layers\": {\"0\": \"p40\"}}");
    refused(json, "more than 1000 patterns are combined");
    snprintf(json, sizeof json, "{\"patterns\": {\"p0\": \"axial_2d()\"");
    for (int i = 1; i < 41; i++) {
        size_t used = strlen(json);
        snprintf(json + used, sizeof json - used, ", \"q%d\": \"~%s%d\"", i, i < 2 ? "p" : "q",
                 i - 1);
    }
    strcat(json, "}}");
    refused(json, "operators nest too deeply (more than 32 levels)");
    snprintf(json, sizeof json, "{\"patterns\": {");
    for (int i = 0; i < 60; i++) {
        size_t used = strlen(json);
        snprintf(json + used, sizeof json - used, "\"r%d\": \"r%d\", ", i, i + 1);
    }
    strcat(json, "\"r60\": \"dense\"}}");
    refused(json, "patterns refer to each other over more than 32 levels");
}

static void positions_are_found_in_any_text(void **state)
{
    (void)state;
    const char text[] = "{\"a\": [1, {\"b\": 2}], \"c\" : {\"b\": {\"d\": 3}}}";
    const char *p[] = {"c", "b", "d"};
    assert_int_equal(vt_json_find(text, sizeof text - 1, p, 3, false), strstr(text, "3") - text);
    assert_int_equal(vt_json_find(text, sizeof text - 1, p, 2, true),
                     strstr(text, "\"b\": {") - text);
    p[2] = "x"; /* absent: the value around it */
    assert_int_equal(vt_json_find(text, sizeof text - 1, p, 3, false),
                     strstr(text, "{\"d\"") - text);
    for (size_t cut = 0; cut < sizeof text; cut++) {
        char where[64];
        vt_json_path_at_end(text, cut, where, sizeof where);
        assert_true(vt_json_find(text, cut, p, 3, true) <= cut);
    }
    char where[64];
    vt_json_path_at_end(text, (size_t)(strstr(text, "3") - text), where, sizeof where);
    assert_string_equal(where, "c.b.d");
    assert_int_equal(vt_json_underflow("[1.5, 0.0, -0e5, 1e-400]", 24), 17);
    assert_int_equal(vt_json_underflow("[\"1e-400\", 0e-999]", 18), 18);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_means_what_it_says),
        cmocka_unit_test(equal_expressions_share_a_mask_and_policies_part_it),
        cmocka_unit_test(nothing_is_needed),
        cmocka_unit_test(texts_replace_the_entries_of_their_layers),
        cmocka_unit_test(a_fault_behind_a_text_is_placed_in_the_document),
        cmocka_unit_test(the_extent_is_what_is_named),
        cmocka_unit_test(few_bytes_cannot_ask_for_many_heads),
        cmocka_unit_test(heads_with_equal_masks_are_one_group),
        cmocka_unit_test(a_document_may_be_a_pipe),
        cmocka_unit_test(every_error_names_line_column_and_path),
        cmocka_unit_test(an_absent_file_and_a_folder_are_named),
        cmocka_unit_test(every_cut_of_a_document_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),
        cmocka_unit_test(hostile_documents_are_refused),
        cmocka_unit_test(patterns_that_multiply_are_refused),
        cmocka_unit_test(positions_are_found_in_any_text),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
