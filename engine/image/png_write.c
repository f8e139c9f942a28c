/* Writes drawings as PNG: encoded in memory by stb, then put in place whole or not at all. */
#include "engine/image/internal.h"

#include "weights_tools/whole_file.h"

enum { MAX_DRAWING = 1 << 26 };

int vt_png_write(const char *path, const uint8_t *rgb, int width, int height, vt_status *st)
{
    if (width < 1 || height < 1 || height > MAX_DRAWING / width)
        return image_fail_at(st, VT_USAGE, path, "cannot draw %d x %d pixels (at most %d)", width,
                             height, MAX_DRAWING);
    size_t size;
    uint8_t *png = stb_png(&size, rgb, width, height, st);
    if (!png)
        return vt_prefix(st, "%s", path);
    const vt_file_part whole = {png, size};
    int rc = vt_write_file(path, &whole, 1, st);
    vt_free(png);
    return rc;
}
