/* Intermediate layers, as timm's forward_intermediates hands them over: which blocks are wanted, and
 * the way of their outputs to the caller. Their copies are kept by the forward pass itself (vit.c). */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

#include "engine/masks/index_set.h"

/* in[layers] of a text such as "2,5,8-" or "last:4". */
static int read_layers(const char *text, int layers, bool *in, vt_status *st)
{
    static const char last[] = "last:";
    size_t skip = sizeof last - 1;
    char *end;
    if (strncmp(text, last, skip) != 0)
        return vt_index_set_read(text, "layer", layers, in, st);
    long n = strtol(text + skip, &end, 10);
    if (end == text + skip || *end || n < 1 || n > layers)
        return vt_fail(st, VT_USAGE, "expected last:N with N from 1 to %d, found '%.40s'", layers,
                       text);
    for (int i = 0; i < layers; i++)
        in[i] = i >= layers - n;
    return 0;
}

int vitrun_want_intermediates(vitrun_model *m, const vitrun_options *o, vt_status *st)
{
    int layers = m->cfg.vit.layers, count = 0;
    m->want.tokens = o->tokens != 0;
    if (!o->intermediates)
        return 0;
    bool *in = vt_alloc((size_t)layers, sizeof *in, "layers", st);
    m->wanted = in ? vt_alloc((size_t)layers, sizeof *m->wanted, "layers", st) : NULL;
    int failed = !m->wanted || read_layers(o->intermediates, layers, in, st);
    if (failed && m->wanted)
        vt_prefix(st, "--intermediate");
    for (int i = 0; i < layers && !failed; i++)
        if (in[i])
            m->wanted[count++] = i;
    m->want = (vit_intermediates){m->wanted, count, o->intermediate_norm != 0, o->tokens != 0};
    vt_free(in);
    return failed ? -1 : 0;
}

size_t vitrun_intermediate_floats(const vitrun_model *m)
{
    return (size_t)m->want.count * (size_t)m->vit.tokens * (size_t)m->vit.cfg.width;
}

/* From block by block to image by image. */
int vitrun_fetch_intermediates(const vitrun_context *c, int count, float *to, vt_status *st)
{
    const vit_model *m = &c->model->vit;
    vt_device *dev = c->model->dev;
    vt_mat image = {NULL, dev->residual, (size_t)m->tokens, m->cfg.width};
    size_t floats = image.rows * (size_t)image.cols, bytes = vt_mat_bytes(image);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < c->acts.want.count; k++, to += floats) {
            size_t at = (size_t)k * (size_t)c->acts.images + (size_t)i;
            image.p = (char *)c->acts.kept + at * bytes;
            if (dev->ops->download(dev, to, image, st))
                return -1;
        }
    return 0;
}
