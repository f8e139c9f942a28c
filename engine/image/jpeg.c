/* JPEG to RGB, after jpeg_scan. With libjpeg (VT_LIBJPEG=1) with the library's default settings,
 * as Pillow: then the pixels are Pillow's. Otherwise through stb_image, whose inverse transform and
 * upsampling differ from libjpeg's by a few levels (by tens in the last columns of noise stored
 * with 4:2:2 chroma). EXIF orientation is not applied.
 *
 * Four components are CMYK (or YCCK) stored inverted, as Adobe does and Pillow assumes; with ink
 * values c and black k as stored, the colour is c * k / 255, rounded.
 */
#include "engine/image/internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VT_LIBJPEG
#define VT_LIBJPEG 0
#endif

#if VT_LIBJPEG

#include <jpeglib.h>
#include <jerror.h>

typedef struct {
    struct jpeg_error_mgr base; /* first: libjpeg hands back a pointer to it */
    jmp_buf leave;
    char text[JMSG_LENGTH_MAX];
} jpeg_error;

static void leave_decoder(j_common_ptr cinfo)
{
    jpeg_error *e = (jpeg_error *)cinfo->err;
    e->base.format_message(cinfo, e->text);
    longjmp(e->leave, 1);
}

/* libjpeg goes on after damage by inventing pixels; here damage to the data is an error. Stray
 * bytes between segments and odd headers stay harmless. */
static void judge_warning(j_common_ptr cinfo, int level)
{
    if (level >= 0)
        return;
    switch (cinfo->err->msg_code) {
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF:
    case JWRN_MUST_RESYNC:
        leave_decoder(cinfo);
    }
}

/* a * b / 255, rounded */
static uint8_t scaled(unsigned a, unsigned b)
{
    return (uint8_t)((a * b + 127) / 255);
}

/* A row of the decoder's samples in place to RGB; CMYK needs 4 bytes a pixel. */
static void row_to_rgb(uint8_t *out, const uint8_t *row, int width, int components)
{
    if (components == 1)
        for (int x = 0; x < width; x++)
            memset(out + 3 * (size_t)x, row[x], 3);
    else if (components == 4)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                out[3 * (size_t)x + (size_t)c] = scaled(row[4 * x + c], row[4 * x + 3]);
    else
        memcpy(out, row, (size_t)width * 3);
}

/* Leaves by longjmp to cinfo's error manager when the file is bad. */
static void read_rows(struct jpeg_decompress_struct *cinfo, uint8_t *out, uint8_t *row,
                      const jpeg_header *h)
{
    static const J_COLOR_SPACE result[5] = {[1] = JCS_GRAYSCALE, [3] = JCS_RGB, [4] = JCS_CMYK};
    jpeg_read_header(cinfo, TRUE);
    cinfo->out_color_space = result[h->components];
    jpeg_start_decompress(cinfo);
    while (cinfo->output_scanline < cinfo->output_height) {
        size_t y = cinfo->output_scanline;
        jpeg_read_scanlines(cinfo, &row, 1);
        row_to_rgb(out + y * (size_t)h->width * 3, row, h->width, h->components);
    }
    jpeg_finish_decompress(cinfo);
}

static int decode(uint8_t *out, uint8_t *row, const jpeg_header *h, const uint8_t *bytes,
                  size_t size, const char *name, vt_status *st)
{
    struct jpeg_decompress_struct cinfo;
    jpeg_error e;
    memset(&cinfo, 0, sizeof cinfo);
    cinfo.err = jpeg_std_error(&e.base);
    e.base.error_exit = leave_decoder;
    e.base.emit_message = judge_warning;
    if (setjmp(e.leave) != 0) {
        jpeg_destroy_decompress(&cinfo);
        if (e.base.msg_code == JERR_OUT_OF_MEMORY)
            return vt_fail(st, VT_MACHINE, "picture: not enough memory to decode the JPEG");
        return image_fail(st, name, "broken JPEG (%s)", e.text);
    }
    jpeg_create_decompress(&cinfo);
    jpeg_mem_src(&cinfo, (unsigned char *)bytes, size);
    read_rows(&cinfo, out, row, h);
    jpeg_destroy_decompress(&cinfo);
    return 0;
}

static int decode_into(uint8_t *out, const jpeg_header *h, const uint8_t *bytes, size_t size,
                       const char *name, vt_status *st)
{
    uint8_t *row = vt_alloc((size_t)h->width, 4, "JPEG row", st);
    int rc = row ? decode(out, row, h, bytes, size, name, st) : -1;
    vt_free(row);
    return rc;
}

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *vt_image_jpeg_decoder(void)
{
#ifdef LIBJPEG_TURBO_VERSION
    return "libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION);
#else
    return "libjpeg " TEXT(JPEG_LIB_VERSION);
#endif
}

#else

static int decode_into(uint8_t *out, const jpeg_header *h, const uint8_t *bytes, size_t size,
                       const char *name, vt_status *st)
{
    /* stb_image takes 4 components without a known Adobe transform for YCbCr and alpha */
    if (h->components == 4 && h->adobe != 0 && h->adobe != 2)
        return image_fail(st, name,
                          "CMYK JPEG without Adobe marker: this build can't tell its colours; "
                          "convert it first, e.g. magick FILE -colorspace sRGB out.png");
    return stb_jpeg(out, h, bytes, size, name, st);
}

const char *vt_image_jpeg_decoder(void)
{
    return "stb_image";
}

#endif

/* Bytes that decoding holds, at most: the file, the pixels, the samples of whole blocks of up to
 * 4 x 4, in a progressive file their coefficients too, and some buffers. */
static uint64_t memory_needed(const jpeg_header *h, size_t size)
{
    uint64_t plane = ((uint64_t)h->width + 31) * ((uint64_t)h->height + 31);
    return size + 3 * (uint64_t)h->width * (uint64_t)h->height +
           plane * (uint64_t)h->components * (h->progressive ? 3 : 1) + ((uint64_t)1 << 20);
}

int jpeg_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
                uint64_t max_bytes, vt_status *st)
{
    jpeg_header h;
    if (jpeg_scan(&h, bytes, size, name, st) != 0 ||
        image_check_memory(name, memory_needed(&h, size), max_bytes, st) != 0)
        return -1;
    if (image_alloc(out, h.width, h.height, st) != 0)
        return -1;
    if (decode_into(out->rgb, &h, bytes, size, name, st) == 0)
        return 0;
    vt_image_free(out);
    return -1;
}
