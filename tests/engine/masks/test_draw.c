/* Pictures of masks: size, and the colour of every cell that matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "engine/masks/masks.h"
#include "tests/support_mask.h"

typedef struct {
    uint8_t *rgb;
    int width, height;
} picture;

static const uint8_t *at(const picture *p, int x, int y)
{
    assert_in_range(x, 0, p->width - 1);
    assert_in_range(y, 0, p->height - 1);
    return p->rgb + 3 * (y * p->width + x);
}

static bool is_blue(const uint8_t *c)
{
    return c[2] > c[0] + 20;
}

static bool is_orange(const uint8_t *c)
{
    return c[0] > c[2] + 20 && c[1] > 60;
}

static bool is_red(const uint8_t *c)
{
    return c[0] > 150 && c[1] < 60;
}

static picture matrix(const table_mask *t, int side)
{
    vt_status st = {VT_OK, ""};
    picture p;
    assert_int_equal(vt_mask_draw_matrix(&t->mask, side, &p.rgb, &p.width, &p.height, &st), 0);
    return p;
}

static void a_small_matrix_is_enlarged_by_a_whole_factor(void **state)
{
    (void)state;
    table_mask *t = table_mask_random(2, 3, 4, 0.4, 7);
    picture p = matrix(t, 100);
    assert_int_equal(p.width, 98); /* 14 tokens of 7 pixels */
    assert_int_equal(p.height, 98);
    for (int y = 0; y < 98; y++)
        for (int x = 0; x < 98; x++) {
            bool on = t->on[y / 7 * 14 + x / 7], prefix = y / 7 < 2 || x / 7 < 2;
            assert_int_equal(is_blue(at(&p, x, y)), on && !prefix);
            assert_int_equal(is_orange(at(&p, x, y)), on && prefix);
        }
    vt_free(p.rgb);
    vt_mask_free(&t->mask);
}

static void a_large_matrix_is_reduced_and_loses_no_pair(void **state)
{
    (void)state;
    table_mask *t = table_mask_new(0, 10, 10);
    t->on[57 * 100 + 31] = true;
    memset(t->on + 99 * 100, 1, 100);
    picture p = matrix(t, 33);
    assert_int_equal(p.width, 33);
    int blue = 0;
    for (int i = 0; i < 33 * 33; i++)
        blue += is_blue(p.rgb + 3 * i);
    assert_int_equal(blue, 1 + 33);
    vt_free(p.rgb);
    p = matrix(t, 1);
    assert_int_equal(p.width, 1);
    vt_free(p.rgb);
    p = matrix(t, 100);
    assert_true(is_blue(at(&p, 31, 57)));
    assert_false(is_blue(at(&p, 57, 31)));
    vt_free(p.rgb);
    vt_mask_free(&t->mask);
}

static void a_query_shows_what_it_sees_on_the_grid(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    table_mask *t = table_mask_random(3, 4, 5, 0.5, 3);
    for (int query = 0; query < 23; query++) {
        picture p;
        assert_int_equal(vt_mask_draw_query(&t->mask, query, 16, &p.rgb, &p.width, &p.height, &st),
                         0);
        assert_int_equal(p.width, 5 * 18 + 2);
        assert_int_equal(p.height, 5 * 18 + 2 + 8);
        for (int k = 0; k < 23; k++) {
            int cell = k < 3 ? k : k - 3, left = 2 + cell % 5 * 18;
            int top = 2 + cell / 5 * 18 + (k < 3 ? 0 : 18 + 8);
            const uint8_t *middle = at(&p, left + 8, top + 8);
            bool on = t->on[query * 23 + k];
            assert_int_equal(is_blue(middle), on && k >= 3);
            assert_int_equal(is_orange(middle), on && k < 3);
            if (k == query)
                assert_true(is_red(at(&p, left - 2, top - 2)) && is_red(at(&p, left + 17, top)));
        }
        int red = 0;
        for (int i = 0; i < p.width * p.height; i++)
            red += is_red(p.rgb + 3 * i);
        assert_int_equal(red, 20 * 20 - 16 * 16); /* the frame of the query and nothing else */
        vt_free(p.rgb);
    }
    vt_mask_free(&t->mask);
}

static void impossible_pictures_are_refused(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    table_mask *t = table_mask_new(1, 2, 2);
    picture p;
    assert_int_equal(vt_mask_draw_query(&t->mask, 5, 8, &p.rgb, &p.width, &p.height, &st), -1);
    assert_string_equal(st.text, "query token 5 (expected 0 to 4)");
    assert_int_equal(vt_mask_draw_query(&t->mask, -1, 8, &p.rgb, &p.width, &p.height, &st), -1);
    assert_int_equal(vt_mask_draw_query(&t->mask, 0, 0, &p.rgb, &p.width, &p.height, &st), -1);
    assert_int_equal(vt_mask_draw_matrix(&t->mask, 0, &p.rgb, &p.width, &p.height, &st), -1);
    vt_mask_free(&t->mask);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_matrix_is_enlarged_by_a_whole_factor),
        cmocka_unit_test(a_large_matrix_is_reduced_and_loses_no_pair),
        cmocka_unit_test(a_query_shows_what_it_sees_on_the_grid),
        cmocka_unit_test(impossible_pictures_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
