/* See scenarios.h. */
#include "tests/faults/scenarios.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support_pack.h"
#include "weights_tools/json_decode.h"
#include "weights_tools/safetensors.h"

char scenario_folder[] = "/tmp/vitrun-faults-XXXXXX";

static void see(outcome *o, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++)
        o->hash = (o->hash ^ p[i]) * 0x100000001b3u + 1;
}

static void see_text(outcome *o, const char *text)
{
    see(o, text ? text : "-", text ? strlen(text) : 1);
}

/* The path of a name in the folder. */
static const char *in_folder(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", scenario_folder, name);
    return path[turn];
}

/* ---- models ---- */
vitrun_options scenario_options(const char *weights)
{
    vitrun_options o;
    vitrun_options_init(&o);
    o.weights = weights;
    o.device = "cpu";
    o.threads = 1;
    return o;
}

enum { MOST = 1 << 16 /* values of an output */ };
static float logits[MOST], features[MOST], tokens[MOST], between[MOST];

static int load_input(vitrun_context *c, const vitrun_model *m, vitrun_error *err)
{
    vitrun_image image = {0};
    int bad = vitrun_image_load(&image, IMAGE, err) ||
              vitrun_preprocess(m, &image, vitrun_context_input(c), err);
    vitrun_image_free(&image);
    return bad ? -1 : 0;
}

int scenario_classify(vitrun_context *c, const vitrun_model *m, outcome *seen, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(m);
    vitrun_outputs out = {.logits = logits, .features = features};
    assert(info->outputs <= MOST && info->width <= MOST);
    if (load_input(c, m, err) || vitrun_forward(c, 1, &out, err))
        return -1;
    see(seen, logits, (size_t)info->outputs * sizeof *logits);
    see(seen, features, (size_t)info->width * sizeof *features);
    return 0;
}

static int open_and_classify(const vitrun_options *o, outcome *seen, vitrun_error *err)
{
    vitrun_model *m = vitrun_open(o, err);
    vitrun_context *c = m ? vitrun_context_open(m, 2, err) : NULL;
    int bad = c ? scenario_classify(c, m, seen, err) : -1;
    for (int i = 0; !bad && i < vitrun_layer_count(m); i++)
        see_text(seen, vitrun_layer_at(m, i)->mask);
    for (int i = 0; !bad && i < vitrun_info_get(m)->fact_count; i++)
        see_text(seen, vitrun_info_get(m)->facts[i].value);
    for (int i = 0; !bad && i < vitrun_warning_count(m); i++)
        see_text(seen, vitrun_warning_at(m, i));
    for (int i = 0; !bad && i < vitrun_info_get(m)->classes; i++)
        see_text(seen, vitrun_label(m, i));
    vitrun_context_close(c);
    vitrun_close(m);
    return bad;
}

int scenario_model(const char *weights, outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(weights);
    return open_and_classify(&o, seen, err);
}

static int dense_model(outcome *seen, vitrun_error *err)
{
    return scenario_model(WEIGHTS, seen, err);
}

static int masked_model(outcome *seen, vitrun_error *err)
{
    static const char *const masks[] = {"1: local_2d(distance=2) | random(sparsity=0.9, seed=3)"};
    vitrun_options o = scenario_options(WEIGHTS);
    o.mask_config = MASKS;
    o.masks = masks;
    o.mask_count = 1;
    return open_and_classify(&o, seen, err);
}

static int bf16_tiles(outcome *seen, vitrun_error *err)
{
    static const char *const masks[] = {"axial_2d()"};
    vitrun_options o = scenario_options(WEIGHTS);
    o.dtype = "bf16";
    o.masks = masks;
    o.mask_count = 1;
    o.kernel = "tiles";
    return open_and_classify(&o, seen, err);
}

static int masks_from_files(outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(GOLDEN "sbb_reg1.safetensors");
    o.mask_config = GOLDEN "masks/files.json";
    return open_and_classify(&o, seen, err);
}

/* Switches, another size, names of classes, limits. */
static int options_of_all_kinds(outcome *seen, vitrun_error *err)
{
    static const char *const set[] = {"mean=0.5,0.5,0.5", "crop_pct=0.875",
                                      "interpolation=bilinear", "norm_eps=1e-5"};
    vitrun_options o = scenario_options(WEIGHTS);
    o.set = set;
    o.set_count = 4;
    o.image_height = 48;
    o.image_width = 64;
    o.labels = in_folder("labels.txt");
    o.max_memory = 1 << 30;
    o.mask_config = GOLDEN "masks/empty_rows.json";
    return open_and_classify(&o, seen, err);
}

static int hub_folder(outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(in_folder("hub"));
    return open_and_classify(&o, seen, err);
}

static int shards(outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(in_folder("sharded/model.safetensors.index.json"));
    return open_and_classify(&o, seen, err);
}

/* ---- what a context can do ---- */
static void see_weights(void *user, const vitrun_attention_rows *rows)
{
    see(user, rows->weights, sizeof *rows->weights);
}

static int look_inside(const vitrun_model *m, vitrun_context *c, outcome *seen, vitrun_error *err)
{
    const vitrun_info *info = vitrun_info_get(m);
    size_t size = (size_t)info->tokens * (size_t)info->width;
    vitrun_outputs out = {.logits = logits, .tokens = tokens, .intermediates = between};
    assert(size * (size_t)info->intermediate_count <= MOST);
    vitrun_profile(c, 1);
    if (load_input(c, m, err) || vitrun_forward(c, 1, &out, err) ||
        vitrun_attend(c, 1, 0, 1, see_weights, seen, NULL, err))
        return -1;
    see(seen, tokens, size * sizeof *tokens);
    see(seen, between, size * (size_t)info->intermediate_count * sizeof *between);
    vitrun_check *check = vitrun_check_run(c, 1, err);
    for (int i = 0; check && i < vitrun_check_count(check); i++)
        see_text(seen, vitrun_check_at(check, i)->b);
    vitrun_check_free(check);
    return check ? 0 : -1;
}

static int inside_of_a_model(outcome *seen, vitrun_error *err)
{
    vitrun_options o = scenario_options(WEIGHTS);
    o.mask_config = GOLDEN "masks/per_head.json";
    o.intermediates = "all";
    o.intermediate_norm = 1;
    o.tokens = 1;
    vitrun_model *m = vitrun_open(&o, err);
    vitrun_context *c = m ? vitrun_context_open(m, 1, err) : NULL;
    int bad = c ? look_inside(m, c, seen, err) : -1;
    vitrun_context_close(c);
    vitrun_close(m);
    return bad;
}

static int variants(outcome *seen, vitrun_error *err)
{
    static const char *const masks[] = {"axial_2d()"};
    vitrun_options o = scenario_options(WEIGHTS);
    vitrun_model *m = vitrun_open(&o, err), *v = NULL;
    vitrun_memory memory;
    o.masks = masks;
    o.mask_count = 1;
    o.batch = 2;
    if (m)
        v = vitrun_variant(m, &o, err);
    vitrun_context *c = v ? vitrun_context_open(v, 2, err) : NULL;
    int bad = c ? scenario_classify(c, v, seen, err) || vitrun_memory_plan(v, 2, &memory, err) : -1;
    vitrun_context_close(c);
    vitrun_close(v);
    vitrun_close(m);
    return bad ? -1 : 0;
}

/* ---- masks, pictures, files ---- */
static int masks_alone(outcome *seen, vitrun_error *err)
{
    static const char *const masks[] = {
        "(axial_2d() | local_1d(window_size=5)) & ~random(sparsity=0.5, seed=1)"};
    vitrun_mask_options o;
    uint8_t row[MOST];
    vitrun_mask_options_init(&o);
    o.grid_h = 6, o.grid_w = 8, o.prefix = 1, o.threads = 1;
    o.masks = masks;
    o.mask_count = 1;
    vitrun_masks *m = vitrun_masks_open(&o, err);
    int bad = !m || vitrun_masks_row(m, 0, 3, row, err) ? -1 : 0;
    if (!bad)
        see(seen, row, 49);
    vitrun_masks_free(m);
    return bad;
}

static int with_masks(int (*work)(const vitrun_masks *, vitrun_error *), vitrun_error *err)
{
    vitrun_mask_options o;
    vitrun_mask_options_init(&o);
    o.grid_h = o.grid_w = 8, o.prefix = 1, o.threads = 1;
    o.mask_config = GOLDEN "masks/per_head.json";
    vitrun_masks *m = vitrun_masks_open(&o, err);
    int bad = m ? work(m, err) : -1;
    vitrun_masks_free(m);
    return bad;
}

static int draw_matrix(const vitrun_masks *m, vitrun_error *err)
{
    return vitrun_masks_draw_matrix(m, 0, in_folder("written.png"), err);
}

static int draw_query(const vitrun_masks *m, vitrun_error *err)
{
    return vitrun_masks_draw_query(m, 0, 5, in_folder("written.png"), err);
}

static int save(const vitrun_masks *m, vitrun_error *err)
{
    return vitrun_masks_save(m, in_folder("written.safetensors"), err);
}

static int matrix_drawn(outcome *seen, vitrun_error *err)
{
    (void)seen;
    return with_masks(draw_matrix, err);
}

static int query_drawn(outcome *seen, vitrun_error *err)
{
    (void)seen;
    return with_masks(draw_query, err);
}

static int masks_saved(outcome *seen, vitrun_error *err)
{
    (void)seen;
    return with_masks(save, err);
}

static int arrays_saved(outcome *seen, vitrun_error *err)
{
    (void)seen;
    static const uint64_t shape[] = {3, 1000};
    return vitrun_save_f32(in_folder("written.npy"), "x", logits, shape, 2, err);
}

static int tensors_saved(outcome *seen, vitrun_error *err)
{
    (void)seen;
    const vitrun_tensor t[] = {{"b", 1, 2, {2, 9}, logits}, {"a", 0, 1, {50}, features}};
    return vitrun_save_tensors(in_folder("written.safetensors"), t, 2, err);
}

static golden_pack pack;

/* The pack's good pictures, PNG and JPEG. */
static int pictures_decoded(outcome *seen, vitrun_error *err)
{
    int bad = 0;
    pack.at = 0;
    for (int i = 0; !bad && pack_next(&pack); i++) {
        vitrun_image image = {0};
        if (i % 9) /* some of each kind */
            continue;
        bad = vitrun_image_decode(&image, pack.blob[0], pack.length[0], pack.name, err);
        if (!bad)
            see(seen, image.rgb, (size_t)image.width * (size_t)image.height * 3);
        vitrun_image_free(&image);
    }
    return bad;
}

static int attention_alone(outcome *seen, vitrun_error *err)
{
    vitrun_attention_options o;
    vitrun_attention_options_init(&o);
    o.heads = 2, o.tokens = 65, o.head_dim = 32, o.batch = 1, o.threads = 1;
    o.mask = "local_2d(distance=2)";
    o.device = "cpu";
    double ms;
    uint64_t work, masks;
    vitrun_attention *a = vitrun_attention_open(&o, err);
    int bad = !a;
    for (int i = 0; !bad && i < vitrun_attention_layer(a)->candidate_count; i++) {
        const char *kernel = vitrun_attention_layer(a)->candidates[i].kernel;
        if (vitrun_attention_layer(a)->candidates[i].predicted_ms < 0)
            continue;
        bad = vitrun_attention_run(a, kernel, 1, &ms, err) ||
              vitrun_attention_memory(a, kernel, &work, &masks, err);
        see_text(seen, kernel);
    }
    vitrun_attention_close(a);
    return bad ? -1 : 0;
}

/* Long enough for the text to outgrow its buffer again and again, between keys and within values. */
static int json_written(outcome *seen, vitrun_error *err)
{
    json_t *doc = json_object();
    char key[32], *text = NULL;
    int lost = !doc;
    for (int i = 0; i < 200 && !lost; i++) {
        snprintf(key, sizeof key, "a key of its own %d", i);
        lost = json_object_set_new(doc, key, json_integer(i)) != 0;
    }
    if (!lost)
        text = vt_json_encode(doc, JSON_COMPACT);
    json_decref(doc);
    if (text)
        see_text(seen, text);
    free(text);
    if (text)
        return 0;
    *err = (vitrun_error){VITRUN_MACHINE, "out of memory (text)"};
    return -1;
}

const scenario scenarios[] = {
    {"dense model", dense_model, 1, NULL},
    {"masked model", masked_model, 7, NULL},
    {"bf16, tiles", bf16_tiles, 7, NULL},
    {"masks from files", masks_from_files, 37, NULL},
    {"options of all kinds", options_of_all_kinds, 13, NULL},
    {"hub folder", hub_folder, 7, NULL},
    {"shards", shards, 7, NULL},
    {"inside of a model", inside_of_a_model, 13, NULL},
    {"variants", variants, 7, NULL},
    {"masks alone", masks_alone, 1, NULL},
    {"matrix drawn", matrix_drawn, 7, "written.png"},
    {"query drawn", query_drawn, 7, "written.png"},
    {"masks saved", masks_saved, 23, "written.safetensors"},
    {"array saved", arrays_saved, 1, "written.npy"},
    {"tensors saved", tensors_saved, 1, "written.safetensors"},
    {"pictures decoded", pictures_decoded, 11, NULL},
    {"attention alone", attention_alone, 7, NULL},
    {"JSON written", json_written, 1, NULL},
};
const int scenario_count = sizeof scenarios / sizeof *scenarios;

/* ---- the folder ---- */
static void write_text(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    FILE *f = fopen(in_folder(name), "w");
    vfprintf(f, fmt, args);
    fclose(f);
    va_end(args);
}

/* A hub folder whose weights, by the index, lie in one shard. */
static void write_index(void)
{
    vt_status st;
    st_reader *r = st_open(WEIGHTS, &st);
    FILE *f = fopen(in_folder("sharded/model.safetensors.index.json"), "w");
    fputs("{\"weight_map\": {", f);
    for (size_t i = 0; i < st_count(r); i++)
        fprintf(f, "%s\"%s\": \"model-1.safetensors\"", i ? ", " : "", st_at(r, i)->name);
    fputs("}}", f);
    fclose(f);
    st_close(r);
}

int scenarios_prepare(void)
{
    char here[512], weights[768];
    /* what oneDNN keeps for later would look like leaks */
    setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0", 1);
    setenv("DNNL_PRIMITIVE_CACHE_CAPACITY", "0", 1);
    if (!mkdtemp(scenario_folder) || !getcwd(here, sizeof here))
        return -1;
    setenv("XDG_CACHE_HOME", scenario_folder, 1);
    snprintf(weights, sizeof weights, "%s/%s", here, WEIGHTS);
    write_text("labels.txt", "nought\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n");
    mkdir(in_folder("hub"), 0700);
    mkdir(in_folder("sharded"), 0700);
    write_text("hub/config.json",
               "{\"architecture\": \"vit_base_patch16_224\", \"num_classes\": 10, \"model_args\": "
               "{\"img_size\": 64, \"patch_size\": 8, \"embed_dim\": 32, \"depth\": 2, "
               "\"num_heads\": 2, \"mlp_ratio\": 2}, \"label_names\": [\"a\", \"b\", \"c\", \"d\", "
               "\"e\", \"f\", \"g\", \"h\", \"i\", \"j\"]}");
    write_index();
    pack_open(&pack, "tests/golden/image_decode.pack");
    return symlink(weights, in_folder("hub/model.safetensors")) ||
           symlink(weights, in_folder("sharded/model-1.safetensors"));
}

void scenarios_end(void)
{
    pack_close(&pack);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", scenario_folder);
    if (system(command))
        fprintf(stderr, "%s is left\n", scenario_folder);
}
