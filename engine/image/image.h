/* From an image file to the network's input, bit-exact with Pillow and timm's eval transform.
 *
 *   decode       PNG and JPEG, each behind a scan that refuses what a decoder must not see
 *   resize       Pillow's 8-bit two-pass bicubic / bilinear resampling
 *   preprocess   resize, crop, to float, normalise: timm's eval transform
 *   png          writes drawings
 * EXIF orientation is not applied, alpha is dropped, palettes are looked up: as .convert('RGB').
 */
#ifndef VT_IMAGE_H
#define VT_IMAGE_H

#include "kernels/status.h"
#include "weights_tools/timm_config.h"

typedef struct {
    int width, height;
    uint8_t *rgb; /* [height, width, 3]; vt_free */
} vt_image;

enum { VT_MAX_PIXELS = 178956970 }; /* twice Pillow's MAX_IMAGE_PIXELS: it refuses above this */

/* `name` is for messages. The content decides the format. Other formats are refused by name. A picture
 * that takes more than max_bytes of memory to decode, its pixels and its file included, is refused
 * (VT_MACHINE) before it takes any; 0: no limit. */
int vt_image_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
                    uint64_t max_bytes, vt_status *st);
/* "-": standard input. */
int vt_image_load(vt_image *out, const char *path, uint64_t max_bytes, vt_status *st);
void vt_image_free(vt_image *image);

/* The JPEG decoder of this build: "libjpeg-turbo VERSION" (then pixels are Pillow's, exactly) or
 * "stb_image" (then they differ by a few levels). */
const char *vt_image_jpeg_decoder(void);

/* Pillow's Image.resize((width, height), BICUBIC | BILINEAR) on RGB. */
int vt_image_resize(vt_image *out, const vt_image *in, int width, int height, vt_interpolation how,
                    vt_status *st);

/* out [channels, pre->height, pre->width] fp32. channels 3, or 1: timm's in_chans=1 takes
 * .convert('L') of the picture (ITU-R 601-2 luma, Pillow's integer formula). */
int vt_image_preprocess(float *out, const vt_image *in, const vt_preprocess *pre, int channels,
                        vt_status *st);

/* Writes an RGB picture as PNG, whole or not at all. */
int vt_png_write(const char *path, const uint8_t *rgb, int width, int height, vt_status *st);

#endif
