/* Pictures and arrays on disk as a caller of the library sees them, and facts about the build. */
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/image/image.h"
#include "weights_tools/file.h"
#include "weights_tools/whole_file.h"

/* ---- pictures ---- */

static vitrun_image given(const vt_image *i)
{
    return (vitrun_image){.width = i->width, .height = i->height, .rgb = i->rgb};
}

int vitrun_image_load(vitrun_image *image, const char *path, vitrun_error *err)
{
    vt_status st = {0};
    vt_image i;
    if (vitrun_need(image, "image", err) || vitrun_need(path, "path", err))
        return -1;
    if (vt_image_load(&i, path, 0, &st))
        return vitrun_fail(err, &st);
    *image = given(&i);
    return 0;
}

int vitrun_image_load_for(const vitrun_model *model, vitrun_image *image, const char *path,
                          vitrun_error *err)
{
    vt_status st = {0};
    vt_image i;
    if (vitrun_need(model, "model", err) || vitrun_need(image, "image", err) ||
        vitrun_need(path, "path", err))
        return -1;
    if (vt_image_load(&i, path, model->picture_bytes, &st))
        return vitrun_fail(err, &st);
    *image = given(&i);
    return 0;
}

int vitrun_image_decode(vitrun_image *image, const void *bytes, size_t size, const char *name,
                        vitrun_error *err)
{
    vt_status st = {0};
    vt_image i;
    if (vitrun_need(image, "image", err) || vitrun_need(bytes, "bytes", err))
        return -1;
    if (vt_image_decode(&i, bytes, size, name ? name : "image", 0, &st))
        return vitrun_fail(err, &st);
    *image = given(&i);
    return 0;
}

/* More pixels than a decoder gives are no picture. */
static int check_size(int width, int height, vt_status *st)
{
    if (width < 1 || height < 1 || (int64_t)width * height > VT_MAX_PIXELS)
        return vt_fail(st, VT_USAGE,
                       "image of %dx%d pixels (expected at least 1x1, at most %d pixels)", width,
                       height, VT_MAX_PIXELS);
    return 0;
}

void vitrun_image_free(vitrun_image *image)
{
    if (!image)
        return;
    vt_free(image->rgb);
    *image = (vitrun_image){0};
}

int vitrun_png_write(const char *path, const uint8_t *rgb, int width, int height, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(path, "path", err) || vitrun_need(rgb, "rgb", err))
        return -1;
    return check_size(width, height, &st) || vt_png_write(path, rgb, width, height, &st)
               ? vitrun_fail(err, &st)
               : 0;
}

int vitrun_preprocess(const vitrun_model *m, const vitrun_image *image, float *out,
                      vitrun_error *err)
{
    if (vitrun_need(image, "image", err))
        return -1;
    return vitrun_preprocess_rgb(m, image->rgb, image->width, image->height, 0, out, err);
}

/* Rows one behind the other, as preprocessing wants them. NULL on failure. */
static uint8_t *packed(const uint8_t *rgb, int width, int height, ptrdiff_t stride, vt_status *st)
{
    size_t row = 3 * (size_t)width;
    uint8_t *to = vt_alloc((size_t)height, row, "image", st);
    for (int y = 0; to && y < height; y++)
        memcpy(to + (size_t)y * row, rgb + y * stride, row);
    return to;
}

int vitrun_preprocess_rgb(const vitrun_model *m, const uint8_t *rgb, int width, int height,
                          ptrdiff_t stride, float *out, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(m, "model", err) || vitrun_need(rgb, "rgb", err) ||
        vitrun_need(out, "out", err))
        return -1;
    if (check_size(width, height, &st))
        return vitrun_fail(err, &st);
    ptrdiff_t row = 3 * (ptrdiff_t)width;
    stride = stride ? stride : row;
    if (stride < row && -stride < row) {
        vt_fail(&st, VT_USAGE, "rows of %d pixels are %td bytes apart (expected at least %td)",
                width, stride, row);
        return vitrun_fail(err, &st);
    }
    uint8_t *copy = stride == row ? NULL : packed(rgb, width, height, stride, &st);
    vt_image i = {.width = width, .height = height, .rgb = copy ? copy : (uint8_t *)(uintptr_t)rgb};
    int failed = (stride != row && !copy) ||
                 vt_image_preprocess(out, &i, &m->cfg.pre, m->cfg.vit.channels, &st);
    vt_free(copy);
    return failed ? vitrun_fail(err, &st) : 0;
}

/* ---- arrays: .npy (NumPy format 1.0, little-endian fp32, C order) or .safetensors ---- */

enum { MOST_RANK = 8, NPY_HEADER = 320 };

/* Header: magic, version, length, then a dictionary padded so that the data begins at 64. */
static size_t npy_header(char out[NPY_HEADER], const uint64_t *shape, int rank)
{
    char dict[256], dims[MOST_RANK * 22 + 1] = "";
    size_t n = 0;
    for (int i = 0; i < rank; i++)
        n += (size_t)snprintf(dims + n, sizeof dims - n, "%llu,%s", (unsigned long long)shape[i],
                              i + 1 < rank ? " " : "");
    int length = snprintf(dict, sizeof dict,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", dims);
    size_t total = (10 + (size_t)length + 1 + 63) / 64 * 64;
    memset(out, ' ', NPY_HEADER);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (char)((total - 10) & 0xff);
    out[9] = (char)((total - 10) >> 8);
    memcpy(out + 10, dict, (size_t)length);
    out[total - 1] = '\n';
    return total;
}

static int npy_write(const char *path, const float *data, const uint64_t *shape, int rank,
                     size_t count, vt_status *st)
{
    char header[NPY_HEADER];
    vt_file_part part[2] = {{header, npy_header(header, shape, rank)},
                            {data, count * sizeof *data}};
    return vt_write_file(path, part, 2, st);
}

int vitrun_save_f32(const char *path, const char *name, const float *data, const uint64_t *shape,
                    int rank, vitrun_error *err)
{
    vt_status st = {0};
    st_entry e = {.name = name, .dtype = ST_F32, .rank = rank, .data = data};
    size_t count = 1;
    int failed = 0;
    if (vitrun_need(path, "path", err) || vitrun_need(name, "name", err) ||
        vitrun_need(data, "data", err) || (rank > 0 && vitrun_need(shape, "shape", err)))
        return -1;
    if (rank < 0 || rank > MOST_RANK)
        failed = vt_fail(&st, VT_USAGE, "%s: rank %d (expected 0 to %d)", path, rank, MOST_RANK);
    for (int i = 0; !failed && i < rank; i++) {
        e.shape[i] = shape[i];
        if (!vt_mul(count, shape[i], &count))
            failed = vt_fail(&st, VT_USAGE, "%s: shape overflows", path);
    }
    if (!failed && vt_ends_with(path, ".npy"))
        failed = npy_write(path, data, shape, rank, count, &st);
    else if (!failed && vt_ends_with(path, ".safetensors"))
        failed = st_write(path, &e, 1, &st);
    else if (!failed)
        failed =
            vt_fail(&st, VT_USAGE,
                    "%s: what format? (expected a name that ends in .npy or .safetensors)", path);
    return failed ? vitrun_fail(err, &st) : 0;
}

static int check_tensors(const vitrun_tensor *tensor, int count, vt_status *st)
{
    if (count < 0)
        return vt_fail(st, VT_USAGE, "%d tensors", count);
    for (int i = 0; i < count; i++)
        if (!tensor[i].name || !tensor[i].data || tensor[i].rank < 0 || tensor[i].rank > 4)
            return vt_fail(st, VT_USAGE,
                           "tensor %d of %d (expected a name, data, and a rank of 0 to 4)", i,
                           count);
    return 0;
}

int vitrun_save_tensors(const char *path, const vitrun_tensor *tensor, int count, vitrun_error *err)
{
    vt_status st = {0};
    if (vitrun_need(path, "path", err) || vitrun_need(tensor, "tensor", err))
        return -1;
    if (check_tensors(tensor, count, &st))
        return vitrun_fail(err, &st);
    st_entry *e = vt_alloc((size_t)count, sizeof *e, "list of tensors", &st);
    for (int i = 0; e && i < count; i++) {
        e[i] = (st_entry){.name = tensor[i].name,
                          .dtype = tensor[i].is_bool ? ST_BOOL : ST_F32,
                          .rank = tensor[i].rank,
                          .data = tensor[i].data};
        for (int d = 0; d < tensor[i].rank; d++)
            e[i].shape[d] = tensor[i].shape[d];
    }
    int failed = !e || st_write(path, e, (size_t)count, &st) ? -1 : 0;
    vt_free(e);
    return failed ? vitrun_fail(err, &st) : 0;
}

int vitrun_save_bytes(const char *path, const void *bytes, size_t size, vitrun_error *err)
{
    vt_status st = {0};
    vt_file_part part = {bytes, size};
    if (vitrun_need(path, "path", err) || (size && vitrun_need(bytes, "bytes", err)))
        return -1;
    return vt_write_file(path, &part, 1, &st) ? vitrun_fail(err, &st) : 0;
}
