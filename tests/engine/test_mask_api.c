/* Masks without a model, by the handles of vitrun.h: what is saved, and in how much memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/vitrun.h"
#include "weights_tools/safetensors.h"

static char folder[] = "/tmp/vitrun_mask_api_XXXXXX";
static char config[64], saved[64];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(config, sizeof config, "%s/masks.json", folder);
    snprintf(saved, sizeof saved, "%s/saved.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    remove(config);
    remove(saved);
    return rmdir(folder);
}

static vitrun_masks *open_masks(const char *json, int side)
{
    vitrun_mask_options o;
    vitrun_error err;
    FILE *f = fopen(config, "wb");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    vitrun_mask_options_init(&o);
    o.mask_config = config;
    o.grid_h = o.grid_w = side;
    o.prefix = 1;
    vitrun_masks *m = vitrun_masks_open(&o, &err);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

/* Whether the tensor's values from `first` on are the i-th mask. */
static void holds(const st_reader *r, const st_tensor *t, uint64_t first, const vitrun_masks *m,
                  int i, int tokens)
{
    uint8_t want[32], found[32];
    vt_status st = {0};
    vitrun_error err;
    for (int q = 0; q < tokens; q++) {
        assert_int_equal(vitrun_masks_row(m, i, q, want, &err), 0);
        assert_int_equal(
            st_read_bytes(r, t, first + (uint64_t)(q * tokens), (uint64_t)tokens, found, &st), 0);
        assert_memory_equal(found, want, (size_t)tokens);
    }
}

static void layers_are_saved_whole_or_by_head(void **state)
{
    (void)state;
    enum { N = 26 };
    vt_status st = {0};
    vitrun_error err;
    vitrun_masks *m = open_masks("{\"layers\": {\"0\": \"axial_2d()\", \"2\": {\"heads\": "
                                 "{\"0,2\": \"local_2d(distance=2)\", \"3\": \"axial_2d()\"}}}}",
                                 5);
    assert_int_equal(vitrun_masks_count(m), 5);
    assert_int_equal(vitrun_masks_save(m, saved, &err), 0);
    st_reader *r = st_open(saved, &st);
    assert_non_null(r);
    assert_int_equal(st_count(r), 3);
    for (int layer = 0; layer < 2; layer++) {
        const st_tensor *t = st_find(r, layer ? "layer1" : "layer0");
        assert_int_equal(t->rank, 2);
        assert_int_equal(t->bytes, N * N);
        holds(r, t, 0, m, layer, N);
    }
    const st_tensor *t = st_find(r, "layer2");
    const int group[] = {2, 3, 2, 4}; /* of the heads; head 1 is dense */
    assert_int_equal(t->rank, 3);
    assert_int_equal(t->shape[0], 4);
    assert_int_equal(t->bytes, 4 * N * N);
    for (int h = 0; h < 4; h++)
        holds(r, t, (uint64_t)(h * N * N), m, group[h], N);
    st_close(r);
    vitrun_masks_free(m);
}

/* 6 layers of 2 heads of 1025 x 1025 are 12.6 MB. */
static void saving_takes_little_memory(void **state)
{
    (void)state;
    struct rusage before, after;
    vitrun_error err;
    vitrun_masks *m =
        open_masks("{\"layers\": {\"0-5\": {\"heads\": {\"1\": \"axial_2d()\"}}}}", 32);
    assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
    assert_int_equal(vitrun_masks_save(m, saved, &err), 0);
    assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
    assert_true(after.ru_maxrss - before.ru_maxrss < 1024); /* KiB */
    vitrun_masks_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_saved_whole_or_by_head),
        cmocka_unit_test(saving_takes_little_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
