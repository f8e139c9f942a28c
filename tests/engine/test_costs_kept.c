/* Measured constants are what plans are made with afterwards, for this device, type and head size
 * only, and what is broken on disk is as if it were not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/costs.h"
#include "engine/session.h"

static char cache[64];
static vt_device *dev;

static int begin(void **state)
{
    (void)state;
    vt_status st;
    strcpy(cache, "/tmp/vitrun_costs_XXXXXX");
    dev = vt_cpu_open(VT_F32, 1, &st);
    return dev && mkdtemp(cache) ? setenv("XDG_CACHE_HOME", cache, 1) : -1;
}

static int end(void **state)
{
    (void)state;
    char command[128];
    dev->ops->close(dev);
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command);
}

/* Constants by which a kernel of the name is free, all others dear. */
static vt_attn_costs favour(vt_attn_kernel kernel)
{
    vt_attn_costs c = {.pack = 1, .tile = 1e3, .soft = 1, .mask = 1, .group = 1, .pair = 1e6};
    if (kernel == VT_ATTN_ROWS)
        c.pair = 1e-6;
    return c;
}

static void keep(const vt_attn_costs *c, int head_dim, char path[512])
{
    vt_status st;
    assert_int_equal(vt_costs_keep(dev, head_dim, c, path, 512, &st), 0);
}

static void unmeasured_devices_have_the_built_in_constants(void **state)
{
    (void)state;
    vt_attn_costs c;
    assert_false(vt_costs_of(dev, 64, &c));
    assert_memory_equal(&c, dev->ops->attention_costs(dev, 64), sizeof c);
}

static void measured_constants_serve_their_type_and_head_size(void **state)
{
    (void)state;
    vt_status st;
    char path[512];
    vt_attn_costs kept = favour(VT_ATTN_ROWS), c;
    keep(&kept, 64, path);
    assert_memory_equal(path, cache, strlen(cache));
    assert_true(vt_costs_of(dev, 64, &c));
    assert_true(c.pair == kept.pair && c.tile == kept.tile);
    assert_false(vt_costs_of(dev, 32, &c));
    vt_device *bf16 = vt_cpu_open(VT_BF16, 1, &st);
    assert_non_null(bf16);
    assert_false(vt_costs_of(bf16, 64, &c));
    bf16->ops->close(bf16);
}

static const char *planned(int head_dim)
{
    vt_status st;
    static char kernel[32];
    vitrun_attention_options o;
    vitrun_attention_options_init(&o);
    o.heads = 2, o.tokens = 257, o.head_dim = head_dim, o.mask = "axial_2d()";
    vitrun_attention *a = vt_attention_open_on(dev, &o, &st);
    assert_non_null(a);
    snprintf(kernel, sizeof kernel, "%s", vitrun_attention_layer(a)->kernel);
    vitrun_attention_close(a);
    return kernel;
}

static void plans_follow_them(void **state)
{
    (void)state;
    char path[512];
    vt_attn_costs rows = favour(VT_ATTN_ROWS), tiles = favour(VT_ATTN_TILES);
    keep(&rows, 64, path);
    keep(&tiles, 32, path);
    assert_string_equal(planned(64), "rows");
    assert_string_equal(planned(32), "tiles");
    keep(&tiles, 64, path); /* measured again: the last counts */
    assert_string_equal(planned(64), "tiles");
}

static void broken_files_are_as_if_absent(void **state)
{
    (void)state;
    char path[512], key[96];
    vt_attn_costs c = favour(VT_ATTN_ROWS);
    keep(&c, 64, path);
    FILE *f = fopen(path, "a");
    assert_non_null(f);
    snprintf(key, sizeof key, "%s fp32 64 = pack=1 tile=-3\n", VITRUN_VERSION);
    fputs(key, f);
    fclose(f);
    assert_false(vt_costs_of(dev, 64, &c));
    assert_memory_equal(&c, dev->ops->attention_costs(dev, 64), sizeof c);
}

static void a_place_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    char path[512];
    vt_status st;
    vt_attn_costs c = favour(VT_ATTN_ROWS);
    setenv("XDG_CACHE_HOME", "/dev/null", 1);
    assert_int_equal(vt_costs_keep(dev, 64, &c, path, sizeof path, &st), -1);
    assert_int_equal(st.code, VT_MACHINE);
    assert_non_null(strstr(st.text, "/dev/null/vitrun/"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(unmeasured_devices_have_the_built_in_constants, begin, end),
        cmocka_unit_test_setup_teardown(measured_constants_serve_their_type_and_head_size, begin,
                                        end),
        cmocka_unit_test_setup_teardown(plans_follow_them, begin, end),
        cmocka_unit_test_setup_teardown(broken_files_are_as_if_absent, begin, end),
        cmocka_unit_test_setup_teardown(a_place_that_cannot_be_written_is_an_error, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
