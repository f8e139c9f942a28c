/* PNG to RGB. The whole structure is checked before a pixel is decoded: signature, header, every
 * chunk's length and CRC, order and count of IHDR, PLTE, IDAT, IEND. Then the image data is
 * inflated (stb_image's inflater, into a buffer of exactly the size that the header implies),
 * unfiltered, deinterlaced and turned into RGB the way Pillow's .convert('RGB') does:
 *
 *   grey 1, 2, 4 bits   x 255, 85, 17        16-bit grey        saturates at 255 (not >> 8)
 *   alpha, tRNS         dropped              16-bit colour      high byte
 *   palette             looked up; an index past its end is black
 *   APNG                the default image    gAMA, iCCP, sRGB   ignored
 *
 * Not here: colour management, animation, text chunks.
 */
#include "engine/image/internal.h"

#include <limits.h>
#include <string.h>

enum { GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGB_ALPHA = 6 }; /* colour types */

/* Room past the image's end: encoders are known that write more rows than the header says. */
enum { SLACK = 1 << 16 };

/* A deflate stream grows at most this much: 258 bytes out of 2 bits. */
enum { MAX_INFLATION = 1032 };

typedef struct {
    int width, height;
    int depth, color;
    bool interlaced;
    int bits;               /* of a pixel */
    const uint8_t *palette; /* [entries, 3] in the file, or NULL */
    int entries;
    size_t first_idat; /* offset of the first IDAT chunk */
    size_t idat_bytes; /* sum over all of them */
} png_header;

typedef struct { /* one chunk; type and data point into the file */
    const uint8_t *type, *data;
    uint32_t length;
} chunk;

bool png_signature(const uint8_t *bytes, size_t size)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    return size >= 8 && memcmp(bytes, signature, 8) == 0;
}

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool is(const chunk *c, const char *type)
{
    return memcmp(c->type, type, 4) == 0;
}

/* ---- checks ---- */

static void make_crc_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
}

static uint32_t crc32_of(const uint32_t table[256], const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++)
        c = table[(c ^ p[i]) & 0xff] ^ (c >> 8);
    return c ^ 0xffffffffu;
}

static uint32_t adler32_of(const uint8_t *p, size_t n)
{
    uint32_t a = 1, b = 0;
    while (n > 0) {
        size_t run = n < 5552 ? n : 5552; /* the longest without overflow */
        for (size_t i = 0; i < run; i++) {
            a += p[i];
            b += a;
        }
        a %= 65521;
        b %= 65521;
        p += run;
        n -= run;
    }
    return b << 16 | a;
}

/* The chunk at `at`, whole and with a right CRC. */
static int read_chunk(chunk *c, const uint8_t *bytes, size_t size, size_t at,
                      const uint32_t table[256], const char *name, vt_status *st)
{
    if (size - at < 12)
        return image_fail(st, name, "PNG ends early (no IEND chunk; cut off at byte %zu)", size);
    c->length = big32(bytes + at);
    c->type = bytes + at + 4;
    c->data = bytes + at + 8;
    for (int i = 0; i < 4; i++)
        if (!((c->type[i] | 32) >= 'a' && (c->type[i] | 32) <= 'z'))
            return image_fail(st, name, "broken PNG (no chunk name at byte %zu)", at + 4);
    if (c->length > size - at - 12)
        return image_fail(st, name,
                          "PNG ends early (chunk %.4s at byte %zu: %u bytes declared, %zu there)",
                          (const char *)c->type, at, c->length, size - at - 12);
    uint32_t stored = big32(c->data + c->length);
    uint32_t found = crc32_of(table, c->type, (size_t)c->length + 4);
    if (stored != found)
        return image_fail(st, name,
                          "broken PNG (chunk %.4s at byte %zu: CRC %08x stored, %08x computed)",
                          (const char *)c->type, at, stored, found);
    return 0;
}

/* Channels of a colour type if it may have this depth, else 0. */
static int channels_of(int color, int depth)
{
    bool small = depth == 1 || depth == 2 || depth == 4, large = depth == 8 || depth == 16;
    switch (color) {
    case GREY:
        return small || large ? 1 : 0;
    case RGB:
        return large ? 3 : 0;
    case PALETTE:
        return small || depth == 8 ? 1 : 0;
    case GREY_ALPHA:
        return large ? 2 : 0;
    case RGB_ALPHA:
        return large ? 4 : 0;
    default:
        return 0;
    }
}

static int read_header(png_header *h, const chunk *c, const char *name, vt_status *st)
{
    if (!is(c, "IHDR") || c->length != 13)
        return image_fail(st, name, "broken PNG (its first chunk is no IHDR of 13 bytes)");
    uint32_t w = big32(c->data), height = big32(c->data + 4);
    h->depth = c->data[8];
    h->color = c->data[9];
    if (w == 0 || height == 0 || w > INT_MAX || height > INT_MAX)
        return image_fail(st, name, "broken PNG (%u x %u pixels)", w, height);
    if ((uint64_t)w * height > VT_MAX_PIXELS)
        return image_fail(st, name, "too large: %u x %u pixels (at most %d in all)", w, height,
                          VT_MAX_PIXELS);
    int channels = channels_of(h->color, h->depth);
    if (channels == 0)
        return image_fail(st, name, "broken PNG (colour type %d with %d bits)", h->color, h->depth);
    if (c->data[10] != 0 || c->data[11] != 0 || c->data[12] > 1)
        return image_fail(st, name,
                          "broken PNG (compression %d, filter %d, interlace %d; expected 0, 0, "
                          "0 or 1)",
                          c->data[10], c->data[11], c->data[12]);
    h->width = (int)w;
    h->height = (int)height;
    h->bits = channels * h->depth;
    h->interlaced = c->data[12] == 1;
    return 0;
}

static int read_palette(png_header *h, const chunk *c, const char *name, vt_status *st)
{
    if (h->palette || h->idat_bytes || h->color == GREY || h->color == GREY_ALPHA)
        return image_fail(st, name, "broken PNG (a PLTE chunk where none may be)");
    if (c->length == 0 || c->length % 3 != 0 || c->length > 768)
        return image_fail(st, name, "broken PNG (PLTE chunk of %u bytes)", c->length);
    h->palette = c->data;
    h->entries = (int)(c->length / 3);
    return 0;
}

/* What remains to be said about a chunk after the first; *ended: an IDAT run is over. */
static int check_chunk(png_header *h, const chunk *c, size_t at, bool *ended, const char *name,
                       vt_status *st)
{
    if (is(c, "PLTE"))
        return read_palette(h, c, name, st);
    if (is(c, "IDAT")) {
        if (h->color == PALETTE && !h->palette)
            return image_fail(st, name, "broken PNG (a palette picture without PLTE chunk)");
        if (*ended)
            return image_fail(st, name, "broken PNG (IDAT chunks are not in one run)");
        if (h->first_idat == 0)
            h->first_idat = at;
        h->idat_bytes += c->length;
        return 0;
    }
    if (is(c, "IHDR"))
        return image_fail(st, name, "broken PNG (two IHDR chunks)");
    if (!is(c, "IEND") && !(c->type[0] & 32))
        return image_fail(st, name, "PNG has the unknown critical chunk %.4s",
                          (const char *)c->type);
    return 0;
}

/* Bytes of a row of `width` pixels, without its filter byte. */
static size_t row_bytes(const png_header *h, int width)
{
    return ((size_t)width * (size_t)h->bits + 7) / 8;
}

typedef struct { /* an Adam7 pass, or the whole picture */
    int x0, y0, dx, dy;
    int w, h; /* its pixels; none where either is 0 */
} pass;

static int pass_count(const png_header *h)
{
    return h->interlaced ? 7 : 1;
}

static pass get_pass(const png_header *h, int i)
{
    static const uint8_t adam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                        {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    pass p = {0, 0, 1, 1, h->width, h->height};
    if (h->interlaced) {
        p.x0 = adam7[i][0];
        p.y0 = adam7[i][1];
        p.dx = adam7[i][2];
        p.dy = adam7[i][3];
        p.w = h->width > p.x0 ? (h->width - p.x0 - 1) / p.dx + 1 : 0;
        p.h = h->height > p.y0 ? (h->height - p.y0 - 1) / p.dy + 1 : 0;
    }
    return p;
}

/* Bytes of all filtered rows. No overflow: at most VT_MAX_PIXELS of 8 bytes and their filters. */
static size_t raw_bytes(const png_header *h)
{
    size_t total = 0;
    for (int i = 0; i < pass_count(h); i++) {
        pass p = get_pass(h, i);
        if (p.w > 0)
            total += (size_t)p.h * (1 + row_bytes(h, p.w));
    }
    return total;
}

static int scan(png_header *h, const uint8_t *bytes, size_t size, const char *name, vt_status *st)
{
    uint32_t table[256];
    make_crc_table(table);
    chunk c;
    size_t at = 8;
    if (read_chunk(&c, bytes, size, at, table, name, st) != 0 || read_header(h, &c, name, st) != 0)
        return -1;
    bool ended = false;
    do {
        at += (size_t)c.length + 12;
        if (read_chunk(&c, bytes, size, at, table, name, st) != 0 ||
            check_chunk(h, &c, at, &ended, name, st) != 0)
            return -1;
        ended = h->first_idat != 0 && !is(&c, "IDAT");
    } while (!is(&c, "IEND"));
    if (c.length != 0)
        return image_fail(st, name, "broken PNG (IEND chunk of %u bytes)", c.length);
    size_t raw = raw_bytes(h);
    if (h->idat_bytes < 6 || raw / MAX_INFLATION > h->idat_bytes || h->idat_bytes > INT_MAX ||
        raw > INT_MAX - SLACK)
        return image_fail(st, name,
                          "broken PNG (%zu bytes of image data can't hold %d x %d pixels)",
                          h->idat_bytes, h->width, h->height);
    return 0;
}

/* ---- image data ---- */

/* The zlib stream: the data of all IDAT chunks one after the other. vt_free. */
static uint8_t *gather(const png_header *h, const uint8_t *bytes, vt_status *st)
{
    uint8_t *zlib = vt_alloc(h->idat_bytes, 1, "PNG image data", st);
    size_t at = h->first_idat;
    for (size_t n = 0; zlib && n < h->idat_bytes;) {
        size_t length = big32(bytes + at);
        memcpy(zlib + n, bytes + at + 8, length);
        n += length;
        at += length + 12;
    }
    return zlib;
}

/* All filtered rows, inflated. vt_free. */
static uint8_t *inflate_rows(const png_header *h, const uint8_t *bytes, const char *name,
                             vt_status *st)
{
    size_t raw = raw_bytes(h);
    uint8_t *zlib = gather(h, bytes, st);
    uint8_t *rows = zlib ? vt_alloc(raw + SLACK, 1, "PNG rows", st) : NULL;
    int n = rows ? stb_inflate(rows, (int)(raw + SLACK), zlib, (int)h->idat_bytes) : 0;
    bool good = rows && n >= 0 && (size_t)n >= raw &&
                big32(zlib + h->idat_bytes - 4) == adler32_of(rows, (size_t)n);
    vt_free(zlib);
    if (rows && !good) {
        vt_free(rows);
        rows = NULL;
        image_fail(st, name, "broken PNG (its image data is cut off or damaged)");
    }
    return rows;
}

static int paeth(int a, int b, int c)
{
    int pa = b > c ? b - c : c - b;
    int pb = a > c ? a - c : c - a;
    int pc = a + b - 2 * c;
    pc = pc < 0 ? -pc : pc;
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/* Undoes a row's filter in place. `step` bytes back is the pixel to the left; `up` is the row
 * above, NULL at the top. False for an unknown filter. */
static bool unfilter(uint8_t *row, const uint8_t *up, size_t n, size_t step, int filter)
{
    switch (filter) {
    case 0:
        return true;
    case 1:
        for (size_t i = step; i < n; i++)
            row[i] = (uint8_t)(row[i] + row[i - step]);
        return true;
    case 2:
        for (size_t i = 0; up && i < n; i++)
            row[i] = (uint8_t)(row[i] + up[i]);
        return true;
    case 3:
        for (size_t i = 0; i < n; i++)
            row[i] = (uint8_t)(row[i] + ((i < step ? 0 : row[i - step]) + (up ? up[i] : 0)) / 2);
        return true;
    case 4:
        for (size_t i = 0; i < n; i++)
            row[i] = (uint8_t)(row[i] + paeth(i < step ? 0 : row[i - step], up ? up[i] : 0,
                                              i < step || !up ? 0 : up[i - step]));
        return true;
    default:
        return false;
    }
}

/* RGB of every value that a pixel of one channel can have, reduced to 8 bits. */
static void make_colors(uint8_t colors[256][3], const png_header *h)
{
    int scale = h->color == GREY && h->depth < 8 ? 255 / ((1 << h->depth) - 1) : 1;
    memset(colors, 0, 256 * sizeof *colors);
    if (h->color == PALETTE)
        memcpy(colors, h->palette, (size_t)h->entries * 3);
    else
        for (int v = 0; v < 256; v++)
            memset(colors[v], (uint8_t)(v * scale), 3);
}

/* Pixel i of a row of one-channel (or grey and alpha) pixels, in 8 bits. */
static int grey_at(const png_header *h, const uint8_t *row, int i)
{
    size_t bit = (size_t)i * (size_t)h->bits;
    const uint8_t *p = row + bit / 8;
    if (h->depth == 16 && h->color == GREY)
        return p[0] ? 255 : p[1];
    if (h->depth >= 8)
        return p[0];
    return p[0] >> (8 - h->depth - (int)(bit % 8)) & ((1 << h->depth) - 1);
}

/* Row y of a pass into the picture. */
static void emit_row(uint8_t *rgb, const png_header *h, uint8_t colors[256][3], pass p, int y,
                     const uint8_t *row)
{
    size_t first = (size_t)(p.y0 + y * p.dy) * (size_t)h->width + (size_t)p.x0;
    uint8_t *out = rgb + 3 * first;
    size_t step = 3 * (size_t)p.dx;
    if (h->color != RGB && h->color != RGB_ALPHA) {
        for (int i = 0; i < p.w; i++, out += step)
            memcpy(out, colors[grey_at(h, row, i)], 3);
        return;
    }
    int sample = h->depth / 8, pixel = h->bits / 8; /* bytes */
    for (int i = 0; i < p.w; i++, out += step, row += pixel) {
        out[0] = row[0];
        out[1] = row[sample];
        out[2] = row[2 * sample];
    }
}

static int rows_to_rgb(uint8_t *rgb, const png_header *h, uint8_t *rows, const char *name,
                       vt_status *st)
{
    uint8_t colors[256][3];
    make_colors(colors, h);
    size_t step = h->bits < 8 ? 1 : (size_t)h->bits / 8;
    for (int i = 0; i < pass_count(h); i++) {
        pass p = get_pass(h, i);
        size_t n = row_bytes(h, p.w);
        const uint8_t *up = NULL;
        for (int y = 0; p.w > 0 && y < p.h; y++) {
            int filter = *rows++;
            if (!unfilter(rows, up, n, step, filter))
                return image_fail(st, name, "broken PNG (filter %d in a row; known: 0 to 4)",
                                  filter);
            emit_row(rgb, h, colors, p, y, rows);
            up = rows;
            rows += n;
        }
    }
    return 0;
}

/* Bytes that decoding holds: the file, its zlib stream, the filtered rows, the pixels. */
static uint64_t memory_needed(const png_header *h, size_t size)
{
    return (uint64_t)size + h->idat_bytes + raw_bytes(h) + SLACK +
           3 * (uint64_t)h->width * (uint64_t)h->height;
}

int png_decode(vt_image *out, const uint8_t *bytes, size_t size, const char *name,
               uint64_t max_bytes, vt_status *st)
{
    png_header h = {0};
    if (scan(&h, bytes, size, name, st) != 0 ||
        image_check_memory(name, memory_needed(&h, size), max_bytes, st) != 0)
        return -1;
    uint8_t *rows = inflate_rows(&h, bytes, name, st);
    if (!rows)
        return -1;
    int rc = image_alloc(out, h.width, h.height, st);
    if (rc == 0)
        rc = rows_to_rgb(out->rgb, &h, rows, name, st);
    if (rc != 0)
        vt_image_free(out);
    vt_free(rows);
    return rc;
}
