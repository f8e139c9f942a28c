/* Linear layers of the CPU: every instruction set that the machine has, both matrix libraries, both
 * types, all epilogues, shapes that no block size divides; into memory full of NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>
#include <omp.h>

#include "kernels/cpu/cpu.h"
#include "tests/oracle.h"

typedef struct {
    size_t rows;
    int out, in;
    bool bias;
    vt_epilogue e;
    vt_dtype type, x_type, y_type;
    int threads;
} shape;

typedef struct {
    float *x, *w, *bias, *add; /* representable in the types that they will have */
    double *want;
    double error; /* of the plainest implementation in the same types */
} problem;

static problem make_problem(const shape *s)
{
    problem p;
    size_t nx = s->rows * (size_t)s->in, nw = (size_t)s->out * (size_t)s->in;
    size_t ny = s->rows * (size_t)s->out;
    p.x = malloc(nx * sizeof *p.x);
    p.w = malloc(nw * sizeof *p.w);
    p.bias = s->bias ? malloc((size_t)s->out * sizeof *p.bias) : NULL;
    p.add = s->e.add ? malloc(ny * sizeof *p.add) : NULL;
    p.want = malloc(ny * sizeof *p.want);
    oracle_random(p.x, nx, 1, 1);
    oracle_random(p.w, nw, 2 / sqrtf((float)s->in), 2); /* outputs of about 2: all of the curves */
    if (p.bias)
        oracle_random(p.bias, (size_t)s->out, 1, 3);
    if (p.add)
        oracle_random(p.add, ny, 1, 4);
    if (s->type == VT_BF16) {
        oracle_round_bf16(p.x, nx);
        oracle_round_bf16(p.w, nw);
    }
    if (p.add && s->y_type == VT_BF16)
        oracle_round_bf16(p.add, ny);
    oracle_act act = (oracle_act)s->e.act; /* the same order */
    oracle_linear(p.want, p.x, p.w, p.bias, p.add, s->rows, s->out, s->in, act);
    float *plain = malloc(ny * sizeof *plain);
    plain_linear(plain, p.x, p.w, p.bias, p.add, s->rows, s->out, s->in, act);
    if (s->y_type == VT_BF16)
        oracle_round_bf16(plain, ny);
    p.error = oracle_error(plain, p.want, ny);
    free(plain);
    return p;
}

static void free_problem(problem *p)
{
    free(p->x), free(p->w), free(p->bias), free(p->add), free(p->want);
}

static vt_mat new_mat(vt_device *dev, vt_dtype type, size_t rows, int cols)
{
    vt_status st;
    vt_mat m = {NULL, type, rows, cols};
    m.p = malloc(vt_mat_bytes(m)); /* exactly: the sanitizer sees a step beyond */
    memset(m.p, 0xff, vt_mat_bytes(m));
    (void)dev, (void)st;
    return m;
}

/* NULL where oneDNN cannot do this type on this machine. */
static float *run(const shape *s, const problem *p, const char *isa, int onednn)
{
    vt_status st = {VT_OK, ""};
    vt_device *dev = vt_cpu_open_as(s->type, s->threads, isa, onednn, &st);
    assert_non_null(dev);
    float *w = malloc((size_t)s->out * (size_t)s->in * sizeof *w);
    memcpy(w, p->w, (size_t)s->out * (size_t)s->in * sizeof *w);
    vt_linear *l = dev->ops->linear_load(dev, w, p->bias, s->out, s->in, s->rows, &st);
    free(w); /* nothing refers to it */
    if (!l) {
        assert_true(onednn && s->type == VT_BF16);
        dev->ops->close(dev);
        return NULL;
    }
    assert_true(dev->ops->linear_fits(l, s->in, s->out));
    assert_false(dev->ops->linear_fits(l, s->in, s->out + 1));
    vt_stream *stream = dev->ops->stream_open(dev, &st);
    vt_mat x = new_mat(dev, s->x_type, s->rows, s->in);
    vt_mat y = new_mat(dev, s->y_type, s->rows, s->out);
    dev->ops->upload(dev, x, p->x, &st);
    if (p->add)
        dev->ops->upload(dev, y, p->add, &st);
    int threads = omp_get_max_threads();
    if (dev->ops->prepare_linear(stream, y, x, l, s->e, &st) != 0)
        fail_msg("%s", st.text);
    cpu_stream *cs = (cpu_stream *)stream;
    if (cs->scratch)
        memset(cs->scratch, 0xff, cs->scratch_bytes);
    dev->ops->linear(stream, y, x, l, s->e);
    assert_int_equal(dev->ops->finish(stream, &st), 0);
    assert_int_equal(omp_get_max_threads(), threads);
    float *got = malloc(s->rows * (size_t)s->out * sizeof *got);
    dev->ops->download(dev, got, y, &st);
    free(x.p), free(y.p);
    dev->ops->stream_close(stream);
    dev->ops->linear_free(dev, l);
    dev->ops->close(dev);
    return got;
}

static void check(const shape *s, const char *isa, int onednn)
{
    problem p = make_problem(s);
    float *got = run(s, &p, isa, onednn);
    if (got) {
        double error = oracle_error(got, p.want, s->rows * (size_t)s->out);
        double limit = 2 * p.error + (s->y_type == VT_F32 ? 3e-7 : 1e-6);
        if (!(error <= limit))
            fail_msg("%s %s: %zu x %d -> %d, act %d, add %d, types %d %d %d: error %g, limit %g",
                     isa, onednn ? "oneDNN" : "built-in", s->rows, s->in, s->out, s->e.act,
                     s->e.add, s->type, s->x_type, s->y_type, error, limit);
    }
    free(got);
    free_problem(&p);
}

static const char *const isas[] = {"generic", "neon", "avx2", "avx512"};

static bool have(const char *isa, int onednn)
{
    vt_status st;
    vt_device *dev = vt_cpu_open_as(VT_F32, 1, isa, onednn, &st);
    if (dev)
        dev->ops->close(dev);
    return dev != NULL;
}

/* Each of our instruction sets; and oneDNN once, which chooses its own. */
static void check_everywhere(const shape *s)
{
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (have(isas[i], 0))
            check(s, isas[i], 0);
    if (have(NULL, 1))
        check(s, vt_cpu_isa(), 1);
}

static void all_epilogues_and_types_give_the_layer(void **state)
{
    (void)state;
    const vt_epilogue es[] = {{.act = VT_ACT_NONE},
                              {.add = true},
                              {.act = VT_ACT_GELU},
                              {.act = VT_ACT_GELU_TANH},
                              {.act = VT_ACT_QUICK_GELU}};
    for (size_t i = 0; i < sizeof es / sizeof *es; i++)
        for (int types = 0; types < 5; types++) {
            /* device, x, y: f f f, then b b b, b b f, b f f, b f b */
            shape s = {.rows = 50,
                       .out = 72,
                       .in = 48,
                       .bias = i != 1,
                       .e = es[i],
                       .type = types ? VT_BF16 : VT_F32,
                       .x_type = types == 1 || types == 2 ? VT_BF16 : VT_F32,
                       .y_type = types == 1 || types == 4 ? VT_BF16 : VT_F32,
                       .threads = 1 + types % 3};
            check_everywhere(&s);
        }
}

static void shapes_that_no_block_divides_give_the_layer(void **state)
{
    (void)state;
    const int sizes[][3] = {{1, 1, 1},    {1, 10, 7},   {2, 33, 5},    {5, 17, 3},
                            {7, 31, 257}, {13, 64, 64}, {37, 100, 96}, {197, 48, 192},
                            {25, 7, 600}, {450, 65, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            vt_dtype type = bf16 ? VT_BF16 : VT_F32;
            shape s = {.rows = (size_t)sizes[i][0],
                       .out = sizes[i][1],
                       .in = sizes[i][2],
                       .bias = true,
                       .e = {.act = i % 2 ? VT_ACT_GELU : VT_ACT_NONE, .add = i % 2 == 0},
                       .type = type,
                       .x_type = type,
                       .y_type = VT_F32,
                       .threads = 1 + (int)i % 3};
            check_everywhere(&s);
        }
}

static void the_built_in_product_gives_the_same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    shape s = {.rows = 230, .out = 100, .in = 300, .bias = true, .e = {.act = VT_ACT_GELU}};
    s.threads = 1;
    problem p = make_problem(&s);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (have(isas[i], 0)) {
            s.threads = 1;
            float *one = run(&s, &p, isas[i], 0);
            for (s.threads = 2; s.threads <= 8; s.threads += 3) {
                float *more = run(&s, &p, isas[i], 0);
                assert_memory_equal(one, more, s.rows * (size_t)s.out * sizeof *one);
                free(more);
            }
            free(one);
        }
    free_problem(&p);
}

/* y [1, 1] = act(x w), over the whole range of x. */
static void activations_hold_from_end_to_end(void **state)
{
    (void)state;
    enum { N = 4001 };
    const float edge[] = {-INFINITY, -1e30f, -90, 90, 1e30f, INFINITY, NAN};
    for (int act = VT_ACT_GELU; act <= VT_ACT_QUICK_GELU; act++)
        for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
            if (!have(isas[i], 0))
                continue;
            shape s = {
                .rows = N, .out = 1, .in = 1, .e = {.act = (vt_activation)act}, .threads = 1};
            problem p = make_problem(&s);
            p.w[0] = 1;
            for (int j = 0; j < N; j++)
                p.x[j] = (float)(j - N / 2) * 0.01f;
            float *got = run(&s, &p, isas[i], 0), plain[N];
            plain_linear(plain, p.x, p.w, NULL, NULL, N, 1, 1, (oracle_act)act);
            oracle_linear(p.want, p.x, p.w, NULL, NULL, N, 1, 1, (oracle_act)act);
            for (int j = 0; j < N; j++) {
                double scale = fmax(1, fabs((double)p.x[j]));
                assert_true(fabs(got[j] - p.want[j]) <= 2e-7 * scale);
            }
            free(got);
            memcpy(p.x, edge, sizeof edge);
            s.rows = sizeof edge / sizeof *edge;
            got = run(&s, &p, isas[i], 0);
            assert_true(fabsf(got[1]) < 1 && fabsf(got[2]) < 1e-30f);
            assert_true(got[3] == 90 && got[4] == 1e30f && got[5] == INFINITY && isnan(got[6]));
            free(got);
            free_problem(&p);
        }
}

static void weights_are_held_once_and_counted(void **state)
{
    (void)state;
    enum { OUT = 96, IN = 64 };
    vt_status st;
    float *w = calloc(OUT * IN, sizeof *w);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        vt_device *dev = vt_cpu_open_as(bf16 ? VT_BF16 : VT_F32, 1, NULL, 0, &st);
        vt_linear *l = dev->ops->linear_load(dev, w, NULL, OUT, IN, 10, &st);
        size_t matrix = OUT * IN * vt_dtype_bytes(dev->dtype), bytes = dev->ops->linear_bytes(l);
        assert_true(bytes >= matrix + OUT * sizeof(float) && bytes < matrix + 1024);
        dev->ops->linear_free(dev, l);
        dev->ops->close(dev);
    }
    free(w);
}

static void an_unprepared_product_is_refused(void **state)
{
    (void)state;
    vt_status st = {VT_OK, ""};
    float w[64] = {0}, x[16] = {0}, y[8];
    for (int onednn = 0; onednn < 2; onednn++) {
        if (!have(NULL, onednn))
            continue;
        vt_device *dev = vt_cpu_open_as(VT_F32, 1, NULL, onednn, &st);
        vt_linear *l = dev->ops->linear_load(dev, w, NULL, 4, 8, 2, &st);
        vt_stream *s = dev->ops->stream_open(dev, &st);
        dev->ops->linear(s, (vt_mat){y, VT_F32, 2, 4}, (vt_mat){x, VT_F32, 2, 8}, l,
                         (vt_epilogue){0});
        assert_int_equal(dev->ops->finish(s, &st), -1);
        assert_non_null(strstr(st.text, "not prepared"));
        dev->ops->stream_close(s);
        dev->ops->linear_free(dev, l);
        dev->ops->close(dev);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_epilogues_and_types_give_the_layer),
        cmocka_unit_test(shapes_that_no_block_divides_give_the_layer),
        cmocka_unit_test(the_built_in_product_gives_the_same_bits_for_any_number_of_threads),
        cmocka_unit_test(activations_hold_from_end_to_end),
        cmocka_unit_test(weights_are_held_once_and_counted),
        cmocka_unit_test(an_unprepared_product_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
