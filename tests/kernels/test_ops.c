/* The gate in front of the operations, against a device that only records what reaches it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/ops.h"

struct vt_linear {
    int in, out;
};

static int norms, linears, prepared_linears, prepared_attentions, attentions, last_groups;

static bool fits(const vt_linear *w, int in, int out)
{
    return w->in == in && w->out == out;
}

static void do_norm(vt_stream *s, vt_mat y, vt_mat x, const float *g, const float *b, float eps)
{
    (void)y, (void)x, (void)g, (void)b, (void)eps;
    if (++norms == 3)
        vt_fail(&s->error, VT_MACHINE, "third norm broke");
}

static void do_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e)
{
    (void)s, (void)y, (void)x, (void)w, (void)e;
    linears++;
}

static int prepare_linear(vt_stream *s, vt_mat y, vt_mat x, const vt_linear *w, vt_epilogue e,
                          vt_status *st)
{
    (void)s, (void)w, (void)x, (void)y, (void)e, (void)st;
    prepared_linears++;
    return 0;
}

static int prepare_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan,
                             int images, vt_status *st)
{
    (void)s, (void)out, (void)qkv, (void)plan, (void)images, (void)st;
    prepared_attentions++;
    return 0;
}

static void do_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan)
{
    (void)s, (void)out, (void)qkv;
    attentions++;
    last_groups = plan->groups;
}

static const vt_backend_ops table = {.name = "recorder",
                                     .linear_fits = fits,
                                     .norm = do_norm,
                                     .linear = do_linear,
                                     .prepare_linear = prepare_linear,
                                     .prepare_attention = prepare_attention,
                                     .attention = do_attention};
static vt_device device = {.ops = &table, .dtype = VT_F32, .threads = 1};
static float memory[1024];

static vt_stream fresh(void)
{
    norms = linears = prepared_linears = prepared_attentions = attentions = last_groups = 0;
    return (vt_stream){.dev = &device, .images = 1, .layer = 5};
}

static vt_mat mat(size_t rows, int cols)
{
    return (vt_mat){memory, VT_F32, rows, cols};
}

static void wrong_shapes_name_operation_and_layer_and_run_nothing(void **state)
{
    (void)state;
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    op_linear(&s, "fc1", mat(2, 4), mat(2, 7), &w, (vt_epilogue){0});
    assert_int_equal(linears, 0);
    assert_int_equal(s.error.code, VT_MACHINE);
    assert_non_null(strstr(s.error.text, "fc1"));
    assert_non_null(strstr(s.error.text, "layer 5"));
}

static void after_a_failure_nothing_runs_and_the_first_error_stays(void **state)
{
    (void)state;
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    for (int i = 0; i < 5; i++)
        op_norm(&s, "norm1", mat(2, 8), mat(2, 8), memory, memory, 1e-6);
    op_linear(&s, "fc1", mat(2, 4), mat(2, 8), &w, (vt_epilogue){0});
    assert_int_equal(norms, 3);
    assert_int_equal(linears, 0);
    assert_string_equal(s.error.text, "third norm broke");
}

static void a_preparing_pass_prepares_and_computes_nothing(void **state)
{
    (void)state;
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    vt_attn_plan plan = {.tokens = 3, .heads = 2, .head_dim = 4};
    s.preparing = true;
    op_norm(&s, "norm1", mat(2, 8), mat(2, 8), memory, memory, 1e-6);
    op_linear(&s, "fc1", mat(2, 4), mat(2, 8), &w, (vt_epilogue){0});
    op_attention(&s, mat(3, 8), mat(3, 24), &plan);
    assert_int_equal(norms + linears + attentions, 0);
    assert_int_equal(prepared_linears, 1);
    assert_int_equal(prepared_attentions, 1);
}

static void an_activation_cannot_go_with_a_residual(void **state)
{
    (void)state;
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    op_linear(&s, "fc2", mat(2, 4), mat(2, 8), &w, (vt_epilogue){.act = VT_ACT_GELU, .add = true});
    assert_int_equal(s.error.code, VT_MACHINE);
}

static void the_profile_sums_by_name_and_layer(void **state)
{
    (void)state;
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    vt_profile(&s, true);
    for (int i = 0; i < 2; i++)
        for (s.layer = 0; s.layer < 2; s.layer++)
            op_linear(&s, "fc1", mat(2, 4), mat(2, 8), &w, (vt_epilogue){0});
    assert_int_equal(s.profile_count, 2);
    assert_string_equal(s.profile[1].name, "fc1");
    assert_string_equal(s.profile[1].op, "linear");
    assert_int_equal(s.profile[1].layer, 1);
    assert_int_equal(s.profile[1].calls, 2);
    assert_true(s.profile[1].ms >= 0);
    vt_profile(&s, true);
    assert_int_equal(s.profile_count, 0);
    vt_free(s.profile);
}

static void a_profiled_attention_times_each_head_group(void **state)
{
    (void)state;
    vt_stream s = fresh();
    uint16_t head[2] = {0, 1};
    vt_attn_group group[2] = {{.heads = 1, .head = head, .name = "0"},
                              {.heads = 1, .head = head + 1, .name = "1"}};
    vt_attn_plan plan = {.tokens = 3, .heads = 2, .head_dim = 4, .groups = 2, .group = group};
    op_attention(&s, mat(3, 8), mat(3, 24), &plan);
    assert_int_equal(attentions, 1);
    assert_int_equal(last_groups, 2);
    vt_profile(&s, true);
    op_attention(&s, mat(3, 8), mat(3, 24), &plan);
    assert_int_equal(attentions, 3);
    assert_int_equal(last_groups, 1);
    assert_int_equal(s.profile_count, 2);
    assert_string_equal(s.profile[0].name, "0");
    assert_string_equal(s.profile[1].name, "1");
    vt_free(s.profile);
}

static void count_calls(void *user, vt_stream *s, const char *name, vt_mat y, vt_mat x)
{
    (void)s, (void)y, (void)x;
    strcat(user, name);
}

static void the_observer_sees_every_operation(void **state)
{
    (void)state;
    char seen[64] = "";
    vt_stream s = fresh();
    vt_linear w = {.in = 8, .out = 4};
    s.observe = count_calls;
    s.observe_user = seen;
    op_norm(&s, "norm1 ", mat(2, 8), mat(2, 8), memory, memory, 1e-6);
    op_linear(&s, "fc1", mat(2, 4), mat(2, 8), &w, (vt_epilogue){0});
    assert_string_equal(seen, "norm1 fc1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_shapes_name_operation_and_layer_and_run_nothing),
        cmocka_unit_test(after_a_failure_nothing_runs_and_the_first_error_stays),
        cmocka_unit_test(a_preparing_pass_prepares_and_computes_nothing),
        cmocka_unit_test(an_activation_cannot_go_with_a_residual),
        cmocka_unit_test(the_profile_sums_by_name_and_layer),
        cmocka_unit_test(a_profiled_attention_times_each_head_group),
        cmocka_unit_test(the_observer_sees_every_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
