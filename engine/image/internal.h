/* Shared by the files of engine/image/ only. */
#ifndef VT_IMAGE_INTERNAL_H
#define VT_IMAGE_INTERNAL_H

#include "engine/image/image.h"

/* Fails with "NAME: ..."; the name is cut so that the reason always has room. */
#define image_fail(st, name, ...) image_fail_at(st, VT_INPUT, name, __VA_ARGS__)
int image_fail_at(vt_status *st, vt_code code, const char *name, const char *fmt, ...)
    VT_PRINTF(4, 5);

/* Fails (VT_MACHINE) where `needed` bytes are more than max_bytes, if that is not 0. */
int image_check_memory(const char *name, uint64_t needed, uint64_t max_bytes, vt_status *st);

/* Allocates out->rgb for width x height pixels; more than VT_MAX_PIXELS is refused. */
int image_alloc(vt_image *out, int width, int height, vt_status *st);

/* ---- PNG (png.c): checks the whole file's structure, then decodes ---- */
bool png_signature(const uint8_t *bytes, size_t size);
int png_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
               uint64_t max_bytes, vt_status *st);

/* ---- JPEG (jpeg_scan.c, jpeg.c) ---- */
typedef struct {
    int width, height;
    int components; /* 1, 3 or 4 */
    int adobe;      /* colour transform of an Adobe marker, or -1 without one */
    bool progressive;
} jpeg_header;

bool jpeg_signature(const uint8_t *bytes, size_t size);
/* Walks all markers to the end of the image; what the decoder need not cope with is refused. */
int jpeg_scan(jpeg_header *out, const uint8_t *bytes, size_t size, const char *name, vt_status *st);
int jpeg_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
                uint64_t max_bytes, vt_status *st);

/* ---- stb (stb.c) ---- */
/* Inflates a zlib stream into out[0..room); the number of bytes written, or -1 if it is broken,
 * ends early, or holds more than `room`. Does not check the Adler-32. */
int stb_inflate(uint8_t *out, int room, const uint8_t *zlib, int size);
/* Decodes a JPEG that jpeg_scan has passed into out[width * height * 3]. */
int stb_jpeg(uint8_t *out, const jpeg_header *h, const uint8_t *bytes, size_t size,
             const char *name, vt_status *st);
/* The PNG of an RGB picture, *size bytes; vt_free. */
uint8_t *stb_png(size_t *size, const uint8_t *rgb, int width, int height, vt_status *st);

/* ---- resampling (resize.c) ---- */
/* A window (x, y, w, h) of the picture resized to out_w x out_h: only that is computed. */
typedef struct {
    int64_t out_w, out_h;
    int64_t x, y;
    int w, h;
} resize_window;

/* out [window.h, window.w, channels]; in [in_h, in_w, channels]; channels 1 or 3. */
int resize_u8(uint8_t *out, const uint8_t *in, int in_w, int in_h, int channels,
              resize_window window, vt_interpolation how, vt_status *st);

#endif
