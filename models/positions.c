/* Position inside attention: the tables of rotary embeddings and of relative position biases, on the
 * model's grid. (The embeddings that are added to tokens are vit_bind.c's.)
 *
 * Rotary. A patch at row i, column j of an H x W grid turns pair n of head_dim / 2 by
 *   axial     y b_n for the first half of the pairs, x b_(n - half) for the second, b_n = T^(-n / half),
 *             with y = i + offset, x = j + offset, scaled by reference / grid where there is one
 *   centered  the same with y = 2 pi (2 (i + 0.5) / H - 1), x likewise
 *   mixed     j f0_n + i f1_n with frequencies learnt for each layer and head
 * Where the grid is indexed by columns first ("xy"), x comes before y in the first two; in the last
 * it is how f0, f1 are told apart. Prefix tokens are not turned.
 *
 * Relative. With D = 2 W - 1 columns of distances, timm's entry of the table for query (i, j) and key
 * (k, l) is (i - k + H - 1) D + (j - l + W - 1): the sum of one number for each. Ours is read from
 * the end, so that it grows with the key, and goes on behind the L = (2 H - 1) D distances with
 * regions for a query or a key that is in the prefix (vt_attn_bias).
 */
#include "models/vit_read.h"

#include <math.h>
#include <stdio.h>

/* ---- rotary ---- */

static void put_angle(float *pair, double angle)
{
    pair[0] = (float)cos(angle);
    pair[1] = (float)sin(angle);
}

static double place(const vit_config *c, int i, int grid, int reference)
{
    if (c->rope == VIT_ROPE_CENTERED)
        return 2 * 3.14159265358979323846 * (2 * (i + 0.5) / grid - 1);
    double at = i + c->rope_offset;
    return reference ? at / grid * reference : at;
}

/* table [P][pairs][2] */
static void turn_along_axes(float *table, const vit_model *m)
{
    const vit_config *c = &m->cfg;
    int half = m->head_dim / 4;
    for (int i = 0; i < m->grid_h; i++)
        for (int j = 0; j < m->grid_w; j++) {
            double y = place(c, i, m->grid_h, c->rope_ref_h);
            double x = place(c, j, m->grid_w, c->rope_ref_w);
            for (int n = 0; n < half; n++, table += 2) {
                double band = pow(c->rope_temperature, -(double)n / half);
                put_angle(table, (c->rope_xy ? x : y) * band);
                put_angle(table + (size_t)half * 2, (c->rope_xy ? y : x) * band);
            }
            table += (size_t)half * 2;
        }
}

/* freqs [2][layers][heads][pairs]; table [layers][heads][P][pairs][2] */
static void turn_as_learnt(float *table, const vit_model *m, const float *freqs)
{
    size_t pairs = (size_t)m->head_dim / 2, tables = (size_t)m->cfg.layers * (size_t)m->heads;
    for (size_t t = 0; t < tables; t++) {
        const float *f0 = freqs + t * pairs, *f1 = f0 + tables * pairs;
        for (int i = 0; i < m->grid_h; i++)
            for (int j = 0; j < m->grid_w; j++) {
                float first = (float)(m->cfg.rope_xy ? j : i);
                float second = (float)(m->cfg.rope_xy ? i : j);
                for (size_t n = 0; n < pairs; n++, table += 2)
                    put_angle(table, first * f0[n] + second * f1[n]);
            }
    }
}

static size_t rope_floats(const vit_model *m)
{
    return (size_t)m->grid_h * (size_t)m->grid_w * (size_t)m->head_dim;
}

static float *read_tables(vit_walk *w, const st_tensor *freqs, size_t tables)
{
    size_t floats = rope_floats(w->m);
    float *host = vt_alloc(tables * floats, sizeof *host, "rotary position embedding", w->st);
    float *table = NULL;
    w->failed = w->failed || !host;
    if (host && freqs && vit_read(w, freqs, 0, freqs->count, w->stage))
        turn_as_learnt(host, w->m, w->stage);
    else if (host && !freqs)
        turn_along_axes(host, w->m);
    if (!w->failed)
        table = vit_to_device(w, host, tables, (int)floats, "rotary position embedding");
    vt_free(host);
    return table;
}

void vit_read_rope(vit_walk *w, int layer, vit_block *b)
{
    const vit_config *c = w->cfg;
    vit_model *m = w->m;
    bool mixed = c->rope == VIT_ROPE_MIXED;
    uint64_t layers = (uint64_t)c->layers, heads = (uint64_t)m->heads;
    uint64_t pairs = (uint64_t)m->head_dim / 2;
    size_t each = (mixed ? (size_t)m->heads : 1) * rope_floats(m);
    const st_tensor *freqs = NULL;
    if (mixed)
        freqs = vit_find(w, VIT_SHAPE(2, layers, heads, pairs), "rope.freqs");
    w->bytes += layer && !mixed ? 0 : each * sizeof(float);
    if (!w->loading || w->failed)
        return;
    if (!m->rope)
        m->rope = read_tables(w, freqs, mixed ? (size_t)(layers * heads) : 1);
    b->rope = (vt_rope){
        .table = m->rope ? m->rope + (mixed ? (size_t)layer * each : 0) : NULL,
        .heads = mixed ? m->heads : 1,
        .half = c->rope_half,
    };
}

/* ---- the table of relative biases on another grid ---- */

/* Where timm (after BEiT) takes the entries of a table to lie: in the middle 0, then apart by
 * powers of q, chosen so that they span the new distances. */
static void spread(double *at, int from, int to)
{
    double low = 1.01, high = 1.5, q = 0, sum = 0, power = 1;
    int half = from / 2;
    while (high - low > 1e-6) {
        q = (low + high) / 2;
        if ((1 - pow(q, half)) / (1 - q) > to / 2)
            high = q;
        else
            low = q;
    }
    at[half] = 0;
    for (int i = 1; i <= half; i++) {
        sum += power;
        power *= q;
        at[half + i] = sum;
        at[half - i] = -sum;
    }
}

/* The interval of `at` [n] that x lies in, the nearest where it lies in none, and how far. */
static int interval(const double *at, int n, double x, double *far)
{
    int i = 0;
    while (i + 2 < n && x > at[i + 1])
        i++;
    double t = n > 1 ? (x - at[i]) / (at[i + 1] - at[i]) : 0;
    *far = t < 0 ? 0 : t > 1 ? 1 : t;
    return i;
}

/* to [th][tw], row-major, from entries of `from` [fh * fw][heads] for one head. */
static void resize_head(float *to, int th, int tw, const float *from, int fh, int fw, int heads,
                        const double *y, const double *x)
{
    for (int i = 0; i < th; i++)
        for (int j = 0; j < tw; j++) {
            double v, h;
            int r = interval(y, fh, i - th / 2, &v), c = interval(x, fw, j - tw / 2, &h);
            int r1 = r + 1 < fh ? r + 1 : r, c1 = c + 1 < fw ? c + 1 : c;
            double a = from[(r * fw + c) * heads], b = from[(r * fw + c1) * heads];
            double d = from[(r1 * fw + c) * heads], e = from[(r1 * fw + c1) * heads];
            *to++ = (float)((1 - v) * ((1 - h) * a + h * b) + v * ((1 - h) * d + h * e));
        }
}

/* ---- relative ---- */

/* Distances, and floats of a head's table: see the top. */
typedef struct {
    size_t distances, region, stride;
} table_shape;

static table_shape shape_of(const vit_model *m)
{
    size_t h = (size_t)m->grid_h, w = (size_t)m->grid_w, columns = 2 * w - 1;
    table_shape s = {.distances = (2 * h - 1) * columns, .region = (h - 1) * columns + w};
    s.stride = 2 * s.distances + s.region + 1;
    return s;
}

/* Entry `distance` of timm's order, in the units of q . k. */
static void set_distance(vit_walk *w, float *head, const table_shape *s, size_t distance, double v)
{
    head[s->distances - 1 - distance] = (float)(v * sqrt((double)w->m->head_dim));
}

/* What a query in the prefix adds to any key, what a key there adds to any query, both. */
static void set_prefix(vit_walk *w, float *head, const table_shape *s, const float extra[3])
{
    float unit = (float)sqrt((double)w->m->head_dim);
    for (size_t i = 0; i < s->region; i++) {
        head[s->distances + i] = extra[0] * unit;
        head[s->distances + s->region + i] = extra[1] * unit;
    }
    head[2 * s->distances + s->region] = extra[2] * unit;
}

static int read_places(vit_walk *w)
{
    vit_model *m = w->m;
    table_shape s = shape_of(m);
    int columns = 2 * m->grid_w - 1;
    int32_t *row = vt_alloc(2 * (size_t)m->tokens, sizeof *row, "relative positions", w->st);
    int32_t *col = row + m->tokens;
    for (int t = 0; row && t < m->tokens; t++) {
        int i = (t - m->prefix) / m->grid_w, j = (t - m->prefix) % m->grid_w;
        bool prefix = t < m->prefix;
        row[t] = prefix ? (int32_t)s.distances : (m->grid_h - 1 - i) * columns + m->grid_w - 1 - j;
        col[t] = prefix ? (int32_t)(s.distances + s.region) : i * columns + j;
    }
    w->failed = w->failed || !row;
    if (row) /* as they are: a vector of fp32 is copied bit by bit */
        m->bias_places = vit_to_device(w, row, 2, m->tokens, "relative positions");
    vt_free(row);
    return w->failed ? -1 : 0;
}

/* The learnt table [distances of the saved grid + 3, heads] on the model's grid. */
static void from_table(vit_walk *w, const st_tensor *t, float *out, int fh, int fw)
{
    const vit_model *m = w->m;
    table_shape s = shape_of(m);
    int th = 2 * m->grid_h - 1, tw = 2 * m->grid_w - 1, heads = m->heads;
    double *y = vt_alloc((size_t)(fh + fw), sizeof *y, "relative positions", w->st);
    float *grid = vt_alloc(s.distances, sizeof *grid, "relative positions", w->st);
    w->failed = w->failed || !y || !grid;
    if (!w->failed && vit_read(w, t, 0, t->count, w->stage)) {
        spread(y, fh, th);
        spread(y + fh, fw, tw);
        for (int h = 0; h < heads; h++) {
            const float *from = w->stage + h,
                        *last = from + (size_t)fh * (size_t)fw * (size_t)heads;
            float *head = out + (size_t)h * s.stride, extra[3] = {0};
            for (int i = 0; i < 3 && m->prefix; i++)
                extra[i] = last[i * heads];
            if (fh != th || fw != tw)
                resize_head(grid, th, tw, from, fh, fw, heads, y, y + fh);
            for (size_t i = 0; i < s.distances; i++)
                set_distance(w, head, &s, i,
                             fh != th || fw != tw ? grid[i] : from[i * (size_t)heads]);
            set_prefix(w, head, &s, extra);
        }
    }
    vt_free(grid);
    vt_free(y);
}

/* sign(x) log(1 + |x|) of a distance; the swin way scales it to 8 at the edge of the grid first, and
 * takes logarithms to base 8. */
static double log_distance(int distance, int grid, bool swin)
{
    double x = swin && distance ? 8.0 * distance / (grid - 1) : distance;
    double l = swin ? log2(1 + fabs(x)) / 3 : log(1 + fabs(x));
    return x < 0 ? -l : l;
}

typedef struct {
    const st_tensor *w1, *b1, *w2, *b2; /* b2 NULL: none */
    size_t hidden;
} bias_mlp;

static double mlp_of(const bias_mlp *p, const float *weights, size_t heads, size_t head, double y,
                     double x)
{
    const float *w1 = weights, *b1 = w1 + 2 * p->hidden, *w2 = b1 + p->hidden;
    double sum = p->b2 ? (w2 + heads * p->hidden)[head] : 0;
    for (size_t i = 0; i < p->hidden; i++) {
        double v = w1[2 * i] * y + w1[2 * i + 1] * x + b1[i];
        sum += v > 0 ? v * w2[head * p->hidden + i] : 0;
    }
    return sum;
}

static void from_mlp(vit_walk *w, const bias_mlp *p, float *out)
{
    const vit_model *m = w->m;
    const float none[3] = {0};
    bool swin = w->cfg->rel_pos == VIT_BIAS_SWIN;
    table_shape s = shape_of(m);
    size_t heads = (size_t)m->heads, columns = 2 * (size_t)m->grid_w - 1;
    size_t floats = (3 + heads) * p->hidden + heads;
    float *weights = vt_alloc(floats, sizeof *weights, "relative positions", w->st);
    const st_tensor *of[4] = {p->w1, p->b1, p->w2, p->b2};
    float *at = weights;
    w->failed = w->failed || !weights;
    for (int i = 0; i < 4 && of[i] && !w->failed; at += of[i]->count, i++)
        vit_read(w, of[i], 0, of[i]->count, at);
    for (size_t i = 0; i < heads * s.distances && !w->failed; i++) {
        size_t head = i / s.distances, at_distance = i % s.distances;
        int dy = (int)(at_distance / columns) - (m->grid_h - 1);
        int dx = (int)(at_distance % columns) - (m->grid_w - 1);
        double v = mlp_of(p, weights, heads, head, log_distance(dy, m->grid_h, swin),
                          log_distance(dx, m->grid_w, swin));
        set_distance(w, out + head * s.stride, &s, at_distance, swin ? 16 / (1 + exp(-v)) : v);
    }
    for (size_t head = 0; head < heads && !w->failed; head++)
        set_prefix(w, out + head * s.stride, &s, none);
    vt_free(weights);
}

/* ---- the tensors ---- */

/* What the name of a layer's bias begins with: its own, or one that all layers share. */
static const char *bias_prefix(const vit_walk *w, int layer, char own[VIT_NAME], const char *last)
{
    static const char *const shared[] = {"shared_rel_pos", "rel_pos_bias"};
    for (int i = 0; i < 2; i++)
        if (vit_peek(w, "%s.%s", shared[i], last))
            return shared[i];
    snprintf(own, VIT_NAME, "blocks.%d.attn.rel_pos", layer);
    if (!vit_peek(w, "%s.%s", own, last))
        snprintf(own, VIT_NAME, "blocks.%d.attn", layer);
    return own;
}

static bias_mlp find_mlp(vit_walk *w, int layer)
{
    char own[VIT_NAME];
    const char *prefix = bias_prefix(w, layer, own, "mlp.fc1.weight");
    const st_tensor *fc1 = vit_peek(w, "%s.mlp.fc1.weight", prefix);
    uint64_t heads = (uint64_t)w->m->heads;
    uint64_t hidden = fc1 && fc1->rank == 2 && fc1->shape[0] < 1 << 16 ? fc1->shape[0] : 0;
    bias_mlp p = {.hidden = (size_t)hidden};
    p.w1 = vit_find(w, VIT_SHAPE(hidden, 2), "%s.mlp.fc1.weight", prefix);
    p.b1 = vit_find(w, VIT_SHAPE(hidden), "%s.mlp.fc1.bias", prefix);
    p.w2 = vit_find(w, VIT_SHAPE(heads, hidden), "%s.mlp.fc2.weight", prefix);
    if (w->cfg->rel_pos != VIT_BIAS_SWIN)
        p.b2 = vit_find(w, VIT_SHAPE(heads), "%s.mlp.fc2.bias", prefix);
    return p;
}

static const st_tensor *find_table(vit_walk *w, int layer, int fh, int fw)
{
    char own[VIT_NAME];
    uint64_t extra = w->m->prefix ? 3 : 0, rows = (uint64_t)fh * (uint64_t)fw + extra;
    const char *prefix = bias_prefix(w, layer, own, "relative_position_bias_table");
    return vit_find(w, VIT_SHAPE(rows, (uint64_t)w->m->heads), "%s.relative_position_bias_table",
                    prefix);
}

void vit_read_bias(vit_walk *w, int layer, vit_block *b)
{
    const vit_config *c = w->cfg;
    vit_model *m = w->m;
    table_shape s = shape_of(m);
    bool learnt = c->rel_pos == VIT_BIAS_TABLE;
    int fh = 2 * (c->saved_h / c->patch_h) - 1, fw = 2 * (c->saved_w / c->patch_w) - 1;
    const st_tensor *table = learnt ? find_table(w, layer, fh, fw) : NULL;
    bias_mlp mlp = {0};
    if (!learnt)
        mlp = find_mlp(w, layer);
    w->bytes += ((size_t)m->heads * s.stride + (layer ? 0 : 2 * (size_t)m->tokens)) * sizeof(float);
    if (!w->loading || w->failed || (!m->bias_places && read_places(w)))
        return;
    float *host = vt_alloc((size_t)m->heads * s.stride, sizeof *host, "relative bias", w->st);
    w->failed = !host;
    if (host && learnt)
        from_table(w, table, host, fh, fw);
    else if (host)
        from_mlp(w, &mlp, host);
    const int32_t *places = (const int32_t *)(const void *)m->bias_places;
    b->bias = (vt_attn_bias){.stride = s.stride, .row = places, .col = places + m->tokens};
    if (!w->failed)
        b->bias.table = vit_to_device(w, host, (size_t)m->heads, (int)s.stride, "relative bias");
    vt_free(host);
}
