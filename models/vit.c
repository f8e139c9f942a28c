/* The forward pass of timm's plain Vision Transformer (Dosovitskiy et al. 2020), eval mode:
 *
 *   x  = [prefix tokens, patches W + b] + position embedding           norm_pre(x) in CLIP's
 *   x += proj(attention(norm1(x)));  x += fc2(act(fc1(norm2(x))))      in each block: attend, mlp;
 *                                     norms may stand behind instead, or attend and mlp side by side
 *   logits = head(fc_norm(pool(norm(x))))
 *
 * and the buffers that it runs in. One text for every device and type; what a family of models
 * does differently is a switch of vit_config, decided when the model was opened.
 */
#include "models/vit.h"

#include <omp.h>

#include "kernels/watch.h"

static vt_mat mat(void *p, vt_dtype type, size_t rows, int cols)
{
    return (vt_mat){p, type, rows, cols};
}

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* The memory `bytes` into a buffer. While shapes are only prepared for, buffers may be absent:
 * hence no arithmetic on pointers. */
static void *behind(void *buffer, size_t bytes)
{
    return (void *)((uintptr_t)buffer + bytes);
}

/* The slice's rows of a buffer that holds `rows` rows for each image of the whole batch. */
static vt_mat slice_of(const vt_stream *s, void *buffer, vt_dtype type, size_t rows, int cols)
{
    vt_mat before = mat(buffer, type, (size_t)s->first * rows, cols);
    return mat(behind(buffer, vt_mat_bytes(before)), type, (size_t)s->images * rows, cols);
}

/* How many rows the MLP takes at a time: all, unless their hidden layer is large, and larger than
 * q, k and v, which use the same memory before it; then as many as fit there, in whole waves. */
static size_t mlp_rows(const vit_model *m, size_t rows)
{
    const size_t large = (size_t)128 << 20;
    size_t hidden = (size_t)m->mlp_columns, qkv = 3 * (size_t)m->attn_width;
    size_t wave = m->dev->wave_rows ? (size_t)m->dev->wave_rows : 1, fit = rows * qkv / hidden;
    if (hidden <= qkv || rows * hidden * vt_dtype_bytes(m->dev->dtype) <= large || fit < wave)
        return rows;
    return fit / wave * wave;
}

static vt_mat residual(const vt_stream *s, const vit_model *m, const vit_acts *a)
{
    return slice_of(s, a->x, s->dev->residual, (size_t)m->tokens, m->cfg.width);
}

static void norm(vt_stream *s, const char *name, vt_mat y, vt_mat x, vit_norm n, double eps)
{
    if (n.gamma)
        op_norm(s, name, y, x, n.gamma, n.beta, eps);
}

/* Rows first .. first + rows of m. */
static vt_mat rows_of(vt_mat m, size_t first, size_t rows)
{
    vt_mat before = mat(m.p, m.type, first, m.cols);
    return mat(behind(m.p, vt_mat_bytes(before)), m.type, rows, m.cols);
}

/* Do the products of x normalise it themselves? */
static bool in_products(const vit_model *m, vt_mat x)
{
    return m->folds_norm && x.rows <= m->dev->fold_rows;
}

/* Where products keep the moments of x, from row `first` on; NULL where they are not wanted. */
static float *moments(const vit_model *m, const vit_acts *a, vt_mat x, size_t first)
{
    size_t row = 2 * (size_t)(m->cfg.width / VT_MOMENTS) * sizeof(float);
    return in_products(m, x) ? behind(a->moments, first * row) : NULL;
}

/* What a branch of a block reads: normed x, or x itself where the norm stands behind, or nothing
 * yet where the product does it. A parallel block's attention has no norm of its own and reads what
 * its MLP has read. */
static void branch_in(vt_stream *s, const vit_model *m, const char *name, vt_mat xn, vt_mat x,
                      vit_norm n)
{
    if (m->cfg.block == VIT_BLOCK_POST)
        op_cast(s, xn, x);
    else if (!m->folds_norm)
        norm(s, name, xn, x, n, m->cfg.norm_eps);
    else if (!in_products(m, x))
        op_norm(s, name, xn, x, NULL, NULL, m->cfg.norm_eps);
}

/* y = act(w xn + b), where branch_in has made xn; else of N(x). */
static void branch_linear(vt_stream *s, const vit_model *m, const char *name, vt_mat y, vt_mat x,
                          vt_mat xn, const vt_linear *w, vt_activation act, const float *moments)
{
    const vt_input_norm norm = {(float)m->cfg.norm_eps, moments, xn};
    if (moments)
        op_linear(s, name, y, x, w, (vt_epilogue){.act = act, .norm = &norm});
    else
        op_linear(s, name, y, xn, w, (vt_epilogue){.act = act});
}

/* x += w y; or x += norm(w y), for which `between` has room. */
static void branch_out(vt_stream *s, const vit_model *m, const char *name, vt_mat x, vt_mat y,
                       const vt_linear *w, vt_mat between, vit_norm n, float *moments)
{
    if (m->cfg.block != VIT_BLOCK_POST) {
        op_linear(s, name, x, y, w, (vt_epilogue){.add = true, .moments = moments});
        return;
    }
    op_linear(s, name, between, y, w, (vt_epilogue){0});
    norm(s, "post_norm", between, between, n, m->cfg.norm_eps);
    op_add(s, "residual", x, between);
}

/* Differential attention: of each head, what its first queries and keys gave less lambda times what
 * the second did, normed. The result lies where q, k, v were. */
static vt_mat difference(vt_stream *s, const vit_model *m, const vit_block *b, const vit_acts *a,
                         vt_mat att)
{
    int width = m->cfg.width, head = width / m->cfg.heads;
    size_t heads = att.rows * (size_t)m->cfg.heads;
    vt_mat pairs = mat(att.p, att.type, heads, 2 * head), one = mat(a->wide, att.type, heads, head);
    op_halves(s, "difference", one, pairs, VT_HALVES_DIFFERENCE, b->lambda);
    norm(s, "head_norm", one, one, b->head_norm, 1e-5);
    return mat(one.p, one.type, att.rows, width);
}

/* What the heads of a block give of x, side by side. */
static vt_mat attend(vt_stream *s, const vit_model *m, const vit_block *b, const vit_acts *a,
                     vt_mat x, const vt_attn_plan *plan)
{
    const vit_config *c = &m->cfg;
    vt_dtype type = s->dev->dtype;
    vt_mat xn = mat(a->narrow, type, x.rows, c->width);
    vt_mat att = mat(a->narrow, type, x.rows, m->attn_width);
    vt_mat qkv = mat(a->wide, type, x.rows, 3 * m->attn_width);

    branch_in(s, m, "norm1", xn, x, b->norm1);
    branch_linear(s, m, "qkv", qkv, x, xn, b->qkv, VT_ACT_NONE, moments(m, a, x, 0));
    if (c->qk_norm)
        op_qk_norm(s, qkv, m->heads, m->head_dim, b->q_norm.gamma, b->q_norm.beta, b->k_norm.gamma,
                   b->k_norm.beta, c->norm_eps);
    if (b->rope.table)
        op_rope(s, qkv, m->heads, m->head_dim, m->tokens, m->prefix, &b->rope);
    op_attention(s, att, qkv, plan);
    if (c->differential)
        att = difference(s, m, b, a, att);
    norm(s, "attn_norm", att, att, b->attn_norm, c->norm_eps);
    return att;
}

static void project(vt_stream *s, const vit_model *m, const vit_block *b, const vit_acts *a,
                    vt_mat x, vt_mat att)
{
    vt_mat between = mat(a->wide, s->dev->dtype, x.rows, m->cfg.width);
    branch_out(s, m, "proj", x, att, b->proj, between, b->norm1, moments(m, a, x, 0));
}

/* The hidden layer of a gated MLP: silu(one half) * the other. */
static vt_mat gate(vt_stream *s, const vit_model *m, vt_mat both)
{
    vt_mat hid = mat(behind(both.p, aligned(vt_mat_bytes(both))), both.type, both.rows, m->hidden);
    op_halves(s, "gate", hid, both, VT_HALVES_SWIGLU, 0);
    return hid;
}

/* Over some rows at a time, so that the hidden layer takes no more memory than q, k, v. */
static void mlp(vt_stream *s, const vit_model *m, const vit_block *b, const vit_acts *a, vt_mat all)
{
    const vit_config *c = &m->cfg;
    vt_activation act = c->gated_mlp ? VT_ACT_NONE : c->act;
    vt_mat xn = mat(a->narrow, s->dev->dtype, all.rows, c->width);
    size_t step = mlp_rows(m, (size_t)a->slice * (size_t)m->tokens); /* what `wide` was made for */

    branch_in(s, m, "norm2", xn, all, b->norm2);
    for (size_t first = 0; first < all.rows; first += step) {
        size_t rows = all.rows - first < step ? all.rows - first : step;
        vt_mat x = rows_of(all, first, rows), in = rows_of(xn, first, rows);
        vt_mat hid = mat(a->wide, s->dev->dtype, rows, c->gated_mlp ? 2 * m->hidden : m->hidden);
        branch_linear(s, m, "fc1", hid, x, in, b->fc1, act, moments(m, a, all, first));
        if (c->gated_mlp)
            hid = gate(s, m, hid);
        norm(s, "mlp_norm", hid, hid, b->mlp_norm, c->norm_eps);
        branch_out(s, m, "fc2", x, hid, b->fc2, in, b->norm2, moments(m, a, all, first));
    }
}

static void embed(vt_stream *s, const vit_model *m, const vit_acts *a)
{
    const vit_config *c = &m->cfg;
    int patch = c->channels * c->patch_h * c->patch_w;
    size_t patches = (size_t)s->images * (size_t)(m->grid_h * m->grid_w);
    vt_mat input = slice_of(s, a->input, s->dev->input, 1, c->channels * c->img_h * c->img_w);
    vt_mat x = residual(s, m, a);
    vt_mat embedded = mat(a->wide, s->dev->residual, patches, c->width);
    vt_mat cols =
        mat(behind(a->wide, aligned(vt_mat_bytes(embedded))), s->dev->dtype, patches, patch);

    op_patches(s, cols, input, c->channels, c->img_h, c->img_w, c->patch_h, c->patch_w);
    op_linear(s, "patch_embed", embedded, cols, m->patch, (vt_epilogue){0});
    norm(s, "patch_norm", embedded, embedded, m->patch_norm, c->norm_eps);
    op_tokens(s, x, embedded, m->prefix_tokens, m->prefix, m->pos);
    norm(s, "norm_pre", x, x, m->norm_pre, c->norm_eps);
}

/* Attention pooling: one learnt query attends to the tokens, an MLP follows. */
static void attention_pool(vt_stream *s, const vit_model *m, const vit_acts *a, vt_mat pooled,
                           vt_mat operand, int first)
{
    const vit_config *c = &m->cfg;
    const vit_attn_pool *p = &m->attn_pool;
    vt_mat x = residual(s, m, a), kv = mat(a->wide, s->dev->dtype, x.rows, 2 * c->width);
    vt_mat hid = mat(a->wide, s->dev->dtype, (size_t)s->images, c->pool_hidden);

    op_linear(s, "pool_kv", kv, x, p->kv, (vt_epilogue){0});
    op_latent_pool(s, operand, kv, p->query, c->pool_heads, first);
    op_linear(s, "pool_proj", pooled, operand, p->proj, (vt_epilogue){0});
    norm(s, "pool_norm", operand, pooled, p->norm, c->norm_eps);
    op_linear(s, "pool_fc1", hid, operand, p->fc1, (vt_epilogue){.act = c->act});
    op_linear(s, "pool_fc2", pooled, hid, p->fc2, (vt_epilogue){.add = true});
}

/* features = pooled tokens; logits = head of them. A distilled model averages two tokens' heads:
 * the halves are in the weights. */
static void classify(vt_stream *s, const vit_model *m, const vit_acts *a, vt_mat x)
{
    const vit_config *c = &m->cfg;
    vt_mat pooled = slice_of(s, a->pooled, VT_F32, 1, c->width);
    vt_mat operand = mat(a->operand, s->dev->dtype, (size_t)s->images, c->width);
    vt_mat logits = slice_of(s, a->logits, VT_F32, 1, m->outputs);
    int first = c->pool == VT_POOL_TOKEN || c->pool_include_prefix ? 0 : m->prefix;

    if (c->pool == VT_POOL_MAP)
        attention_pool(s, m, a, pooled, operand, first);
    else
        op_pool(s, pooled, x, (int)(x.rows / (size_t)s->images), c->pool, first);
    norm(s, "fc_norm", pooled, pooled, m->fc_norm, c->norm_eps);
    if (!m->head) {
        op_cast(s, logits, pooled);
        return;
    }
    op_cast(s, operand, pooled);
    op_linear(s, "head", logits, operand, m->head, (vt_epilogue){0});
    if (m->head_dist) {
        vt_mat second = slice_of(s, a->pooled2, VT_F32, 1, c->width);
        op_pool(s, second, x, m->tokens, VT_POOL_TOKEN, 1);
        op_cast(s, operand, second);
        op_linear(s, "head_dist", logits, operand, m->head_dist, (vt_epilogue){.add = true});
    }
}

/* Keeps a copy of what block `layer` gives, where it is wanted. */
static void keep(vt_stream *s, const vit_model *m, const vit_acts *a, int layer)
{
    const vt_mat x = residual(s, m, a);
    size_t rows = (size_t)a->images * (size_t)m->tokens;
    for (int i = 0; i < a->want.count; i++) {
        if (a->want.layer[i] != layer)
            continue;
        vt_mat before = mat(a->kept, x.type, (size_t)i * rows, x.cols);
        vt_mat y =
            slice_of(s, behind(a->kept, vt_mat_bytes(before)), x.type, (size_t)m->tokens, x.cols);
        if (a->want.norm && m->norm.gamma)
            norm(s, "intermediate_norm", y, x, m->norm, m->cfg.norm_eps);
        else
            op_cast(s, y, x);
    }
}

/* Behind the attention of the last block, only the pooled token's way leads to the logits. */
static bool pooled_alone(const vit_model *m, const vit_acts *a, int layer)
{
    const vit_config *c = &m->cfg;
    const vit_intermediates *w = &a->want;
    bool kept = w->count && w->layer[w->count - 1] == layer;
    return layer == c->layers - 1 && !w->tokens && !kept && c->pool == VT_POOL_TOKEN &&
           !m->head_dist && c->block != VIT_BLOCK_PARALLEL;
}

/* x and att become those of the pooled tokens. */
static void take_pooled(vt_stream *s, const vit_model *m, const vit_acts *a, vt_mat *x, vt_mat *att)
{
    vt_mat tokens = mat(a->last, x->type, (size_t)s->images, x->cols);
    vt_mat of_heads = mat(a->operand, att->type, (size_t)s->images, att->cols);
    op_take(s, "take_x", tokens, *x, m->tokens, 0);
    op_take(s, "take_attention", of_heads, *att, m->tokens, 0);
    *x = tokens, *att = of_heads;
}

static void forward_slice(vt_stream *s, const vit_model *m, const vit_acts *a,
                          const vt_attn_plan *const *plan)
{
    vt_mat x = residual(s, m, a);
    s->layer = -1;
    embed(s, m, a);
    if (in_products(m, x))
        op_moments(s, "moments", moments(m, a, x, 0), x);
    for (int i = 0; i < m->cfg.layers; i++) {
        const vit_block *b = &m->block[i];
        bool parallel = m->cfg.block == VIT_BLOCK_PARALLEL;
        s->layer = i;
        if (parallel)
            mlp(s, m, b, a, x);
        vt_mat att = attend(s, m, b, a, x, plan[i]);
        if (pooled_alone(m, a, i))
            take_pooled(s, m, a, &x, &att);
        project(s, m, b, a, x, att);
        if (!parallel)
            mlp(s, m, b, a, x);
        keep(s, m, a, i);
        if (!s->preparing && s->error.code == VT_OK)
            vt_watch_step(s->watch, (uint64_t)s->images);
    }
    s->layer = -1;
    norm(s, "norm", x, x, m->norm, m->cfg.norm_eps);
    classify(s, m, a, x);
}

/* ---- slices ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* In how many lanes a slice of `slice` images goes. */
static int lanes_of(const vit_model *m, int slice)
{
    return m->dev->lanes > 1 && slice >= m->dev->lanes ? m->dev->lanes : 1;
}

int vit_slice(const vit_model *m, int images)
{
    if (!m->dev->slice_tokens)
        return images;
    int lanes = lanes_of(m, images), most = images / lanes;
    int each = m->dev->slice_tokens / lanes / m->tokens;
    return lanes * (each < 1 ? 1 : each < most ? each : most);
}

static size_t narrow_bytes(const vit_model *m, int images)
{
    size_t rows = (size_t)images * (size_t)m->tokens;
    return rows * larger((size_t)m->cfg.width, (size_t)m->attn_width) *
           vt_dtype_bytes(m->dev->dtype);
}

static size_t wide_bytes(const vit_model *m, int images)
{
    const vit_config *c = &m->cfg;
    size_t type = vt_dtype_bytes(m->dev->dtype), stream = vt_dtype_bytes(m->dev->residual);
    size_t b = (size_t)images, rows = b * (size_t)m->tokens;
    size_t patches = b * (size_t)(m->grid_h * m->grid_w);
    size_t patch = (size_t)c->channels * (size_t)c->patch_h * (size_t)c->patch_w;
    size_t mlp = mlp_rows(m, rows) * (size_t)m->mlp_columns * type + (c->gated_mlp ? 256 : 0);
    size_t embed = aligned(patches * (size_t)c->width * stream) + patches * patch * type;
    size_t qkv = rows * 3 * (size_t)m->attn_width * type, pool = b * (size_t)c->pool_hidden * type;
    return larger(larger(embed, mlp), larger(qkv, pool));
}

static size_t operand_bytes(const vit_model *m, int images)
{
    size_t columns = larger((size_t)m->cfg.width, (size_t)m->attn_width);
    return (size_t)images * columns * vt_dtype_bytes(m->dev->dtype);
}

static size_t last_bytes(const vit_model *m, int images)
{
    return (size_t)images * (size_t)m->cfg.width * vt_dtype_bytes(m->dev->residual);
}

static size_t moments_bytes(const vit_model *m, int images)
{
    size_t rows = (size_t)images * (size_t)m->tokens, most = m->dev->fold_rows;
    size_t row = 2 * (size_t)(m->cfg.width / VT_MOMENTS) * sizeof(float);
    return m->folds_norm ? (rows < most ? rows : most) * row : 0;
}

/* What serves a slice together, and its lanes side by side. */
static size_t slice_bytes(const vit_model *m, int slice,
                          size_t (*bytes)(const vit_model *m, int images))
{
    int lanes = lanes_of(m, slice);
    return larger(bytes(m, slice), (size_t)lanes * aligned(bytes(m, slice / lanes)));
}

/* The buffers of lane i. */
static vit_acts lane_acts(const vit_model *m, const vit_acts *a, int lanes, int i)
{
    vit_acts lane = *a;
    size_t n = (size_t)i;
    lane.slice = a->slice / lanes;
    lane.narrow = behind(a->narrow, n * aligned(narrow_bytes(m, lane.slice)));
    lane.wide = behind(a->wide, n * aligned(wide_bytes(m, lane.slice)));
    lane.operand = behind(a->operand, n * aligned(operand_bytes(m, lane.slice)));
    lane.last = behind(a->last, n * aligned(last_bytes(m, lane.slice)));
    lane.moments = behind(a->moments, n * aligned(moments_bytes(m, lane.slice)));
    return lane;
}

/* Part `part` of the first `images` images, on lane i. */
static void forward_part(vt_stream *s, const vit_model *m, const vit_acts *a,
                         const vt_attn_plan *const *plan, int lanes, int i, int part)
{
    vit_acts own = lane_acts(m, a, lanes, i);
    vt_stream *lane = s->lane[i];
    lane->preparing = s->preparing;
    lane->dry = s->dry;
    lane->watch = s->watch;
    lane->images = own.slice;
    lane->first = part * own.slice;
    forward_slice(lane, m, &own, plan);
}

/* `parts` parts, each thread on a lane: none waits for another before the end. */
static void forward_lanes(vt_stream *s, const vit_model *m, const vit_acts *a,
                          const vt_attn_plan *const *plan, int lanes, int parts)
{
    for (int i = 0; i < lanes; i++)
        s->lane[i]->error.code = VT_OK;
    if (s->preparing)
        for (int i = 0; i < lanes; i++)
            forward_part(s, m, a, plan, lanes, i, i);
    else
#pragma omp parallel for schedule(dynamic) num_threads(lanes)
        for (int part = 0; part < parts; part++)
            forward_part(s, m, a, plan, lanes, omp_get_thread_num(), part);
    for (int i = 0; i < lanes; i++)
        if (s->error.code == VT_OK && s->lane[i]->error.code != VT_OK)
            s->error = s->lane[i]->error;
}

/* Whole slices by lanes, what is left together. All are prepared to go together, too, for the times
 * when somebody looks on. */
void vit_forward(vt_stream *s, const vit_model *m, const vit_acts *a,
                 const vt_attn_plan *const *plan)
{
    int images = s->images, lanes = s->lane ? lanes_of(m, a->slice) : 1, slices = images / a->slice;
    bool apart = lanes > 1 && slices > 0 && (s->preparing || !(s->profiling || s->observe));
    if (apart)
        forward_lanes(s, m, a, plan, lanes, slices * lanes);
    for (s->first = apart && !s->preparing ? slices * a->slice : 0; s->first < images;
         s->first += a->slice) {
        s->images = images - s->first < a->slice ? images - s->first : a->slice;
        forward_slice(s, m, a, plan);
    }
    s->images = images;
    s->first = 0;
}

/* ---- buffers ---- */

typedef struct {
    size_t bytes;
    void **p;
} buffer;

enum { BUFFERS = 11 };

/* The one table of activation memory, with room for the blocks of a->want: vit_acts_bytes adds it
 * up, vit_acts_alloc takes it. */
static void buffers(buffer out[BUFFERS], vit_acts *a, const vit_model *m, int images)
{
    const vit_config *c = &m->cfg;
    size_t stream = vt_dtype_bytes(m->dev->residual), width = (size_t)c->width, b = (size_t)images;
    int slice = vit_slice(m, images);
    const buffer table[BUFFERS] = {
        {b * (size_t)c->channels * (size_t)c->img_h * (size_t)c->img_w *
             vt_dtype_bytes(m->dev->input),
         &a->input},
        {b * (size_t)m->tokens * width * stream, &a->x},
        {slice_bytes(m, slice, narrow_bytes), &a->narrow},
        {slice_bytes(m, slice, wide_bytes), &a->wide},
        {b * width * 4, (void **)&a->pooled},
        {m->head_dist ? b * width * 4 : 0, (void **)&a->pooled2},
        {slice_bytes(m, slice, operand_bytes), &a->operand},
        {slice_bytes(m, slice, last_bytes), &a->last},
        {slice_bytes(m, slice, moments_bytes), (void **)&a->moments},
        {b * (size_t)m->outputs * 4, (void **)&a->logits},
        {(size_t)a->want.count * b * (size_t)m->tokens * width * stream, &a->kept},
    };
    for (int i = 0; i < BUFFERS; i++)
        out[i] = table[i];
}

size_t vit_acts_bytes(const vit_model *m, int images, vit_intermediates want)
{
    vit_acts a = {.want = want};
    buffer table[BUFFERS];
    buffers(table, &a, m, images);
    size_t sum = 0;
    for (int i = 0; i < BUFFERS; i++)
        sum += aligned(table[i].bytes);
    return sum;
}

/* One block for all. */
int vit_acts_alloc(vit_acts *a, const vit_model *m, int images, vit_intermediates want,
                   vt_status *st)
{
    buffer table[BUFFERS];
    *a = (vit_acts){.images = images, .slice = vit_slice(m, images), .want = want};
    buffers(table, a, m, images);
    a->bytes = vit_acts_bytes(m, images, want);
    a->block = m->dev->ops->alloc(m->dev, a->bytes, "activations", st);
    char *at = a->block;
    for (int i = 0; at && i < BUFFERS; at += aligned(table[i].bytes), i++)
        *table[i].p = at;
    return a->block ? 0 : -1;
}

void vit_acts_free(vit_acts *a, vt_device *dev)
{
    if (a->block)
        dev->ops->free(dev, a->block);
    *a = (vit_acts){0};
}
