/* Walks a JPEG's markers before any decoder sees the file, from SOI to EOI, and refuses what is
 * broken or not supported: exactly one frame (baseline, extended or progressive, Huffman coded,
 * 8 bits), 1, 3 or 4 components with sampling factors 1 to 4, well-formed tables, every table
 * defined before the scan that uses it, every component in some scan, the image data long enough
 * for the declared size. Does not decode anything.
 */
#include "engine/image/internal.h"

#include <string.h>

enum {
    SOF0 = 0xc0,
    SOF2 = 0xc2,
    DHT = 0xc4,
    JPG = 0xc8,
    DAC = 0xcc,
    SOF15 = 0xcf,
    RST0 = 0xd0,
    RST7 = 0xd7,
    SOI = 0xd8,
    EOI = 0xd9,
    SOS = 0xda,
    DQT = 0xdb,
    DRI = 0xdd,
    DHP = 0xde,
    EXP = 0xdf,
    APP14 = 0xee,
    TEM = 0x01
};

/* A progressive file of a few kilobytes may ask for thousands of passes over a large picture;
 * encoders write about ten. */
enum { MAX_SCANS = 100 };

typedef struct {
    const char *name;
    vt_status *st;
    jpeg_header *out;
    int id[4], h[4], v[4], quant[4];
    unsigned quants, dc, ac; /* bit t: table t is defined */
    unsigned seen;           /* bit c: component c was in a scan with DC coefficients */
    int scans;
    size_t coded; /* bytes of image data */
} walk;

#define broken(w, ...) image_fail((w)->st, (w)->name, "broken JPEG " __VA_ARGS__)

bool jpeg_signature(const uint8_t *bytes, size_t size)
{
    return size >= 3 && bytes[0] == 0xff && bytes[1] == SOI && bytes[2] == 0xff;
}

static int read_dqt(walk *w, const uint8_t *p, size_t n)
{
    while (n > 0) {
        int wide = p[0] >> 4, id = p[0] & 15;
        size_t need = 1 + (wide ? 128 : 64);
        if (wide > 1 || id > 3 || n < need)
            return broken(w, "(quantisation table %d of %zu bytes)", id, n);
        w->quants |= 1u << id;
        p += need;
        n -= need;
    }
    return 0;
}

/* Canonical Huffman codes of `count[l]` codes of l + 1 bits must fit. */
static bool codes_fit(const uint8_t count[16])
{
    unsigned code = 0;
    for (int l = 0; l < 16; l++) {
        code = 2 * code + count[l];
        if (code > 2u << l)
            return false;
    }
    return true;
}

static int read_dht(walk *w, const uint8_t *p, size_t n)
{
    while (n > 0) {
        int class = p[0] >> 4, id = p[0] & 15;
        size_t symbols = 0;
        for (size_t l = 1; l <= 16 && n >= 17; l++)
            symbols += p[l];
        if (class > 1 || id > 3 || n < 17 || symbols == 0 || symbols > 256 || n < 17 + symbols ||
            !codes_fit(p + 1))
            return broken(w, "(Huffman table %d/%d with %zu symbols)", class, id, symbols);
        for (size_t i = 0; class == 0 && i < symbols; i++)
            if (p[17 + i] > 15)
                return broken(w, "(DC symbol %d; at most 15)", p[17 + i]);
        *(class == 0 ? &w->dc : &w->ac) |= 1u << id;
        p += 17 + symbols;
        n -= 17 + symbols;
    }
    return 0;
}

static int read_components(walk *w, const uint8_t *p, int count)
{
    for (int i = 0; i < count; i++, p += 3) {
        w->id[i] = p[0];
        w->h[i] = p[1] >> 4;
        w->v[i] = p[1] & 15;
        w->quant[i] = p[2];
        for (int j = 0; j < i; j++)
            if (w->id[j] == w->id[i])
                return broken(w, "(two components with id %d)", w->id[i]);
        if (w->h[i] < 1 || w->h[i] > 4 || w->v[i] < 1 || w->v[i] > 4 || w->quant[i] > 3)
            return broken(w, "(component %d: sampling %d x %d, quantisation table %d)", w->id[i],
                          w->h[i], w->v[i], w->quant[i]);
    }
    return 0;
}

static int read_frame(walk *w, int marker, const uint8_t *p, size_t n)
{
    if (marker > SOF2)
        return image_fail(w->st, w->name,
                          "JPEG of a kind that is not supported (SOF%d: lossless, hierarchical or "
                          "arithmetic coding)",
                          marker - SOF0);
    if (w->out->components != 0)
        return broken(w, "(two frames)");
    if (n < 6)
        return broken(w, "(frame header of %zu bytes)", n);
    int height = p[1] << 8 | p[2], width = p[3] << 8 | p[4], count = p[5];
    if (p[0] != 8)
        return image_fail(w->st, w->name, "JPEG with %d bits a sample is not supported (only 8)",
                          p[0]);
    if (width == 0 || height == 0)
        return broken(w, "(%d x %d pixels)", width, height);
    if ((int64_t)width * height > VT_MAX_PIXELS)
        return image_fail(w->st, w->name, "too large: %d x %d pixels (at most %d in all)", width,
                          height, VT_MAX_PIXELS);
    if ((count != 1 && count != 3 && count != 4) || n != 6 + 3 * (size_t)count)
        return broken(w, "(%d components in a frame header of %zu bytes)", count, n);
    w->out->width = width;
    w->out->height = height;
    w->out->components = count;
    w->out->progressive = marker == SOF2;
    return read_components(w, p + 6, count);
}

/* Component i of a scan with the Huffman tables `tables`: they and its quantisation table must be
 * there. `start` is the first coefficient, `first` that nothing was sent of it before. */
static int check_tables(walk *w, int i, int tables, int start, bool first)
{
    int dc = tables >> 4, ac = tables & 15;
    bool need_dc = start == 0 && first, need_ac = start > 0 || !w->out->progressive;
    if (!(w->quants >> w->quant[i] & 1))
        return broken(w, "(quantisation table %d is used but not defined)", w->quant[i]);
    if (need_dc && (dc > 3 || !(w->dc >> dc & 1)))
        return broken(w, "(DC table %d is used but not defined)", dc);
    if (need_ac && (ac > 3 || !(w->ac >> ac & 1)))
        return broken(w, "(AC table %d is used but not defined)", ac);
    if (start == 0)
        w->seen |= 1u << i;
    return 0;
}

static int read_scan(walk *w, const uint8_t *p, size_t n)
{
    if (w->out->components == 0)
        return broken(w, "(a scan before the frame header)");
    if (++w->scans > MAX_SCANS)
        return image_fail(w->st, w->name, "JPEG with more than %d scans", MAX_SCANS);
    int count = n > 0 ? p[0] : 0;
    if (count < 1 || count > w->out->components || n != 4 + 2 * (size_t)count)
        return broken(w, "(%d components in a scan header of %zu bytes)", count, n);
    const uint8_t *band = p + 1 + 2 * count;
    int start = band[0], end = band[1], high = band[2] >> 4, low = band[2] & 15;
    bool dc_only = start == 0 && end == 0, ac_only = start > 0 && start <= end && count == 1;
    if (w->out->progressive && ((!dc_only && !ac_only) || end > 63 || high > 13 || low > 13))
        return broken(w, "(progressive scan of coefficients %d to %d, bits %d to %d)", start, end,
                      high, low);
    if (!w->out->progressive && (start != 0 || end != 63 || band[2] != 0))
        return broken(w, "(sequential scan of coefficients %d to %d)", start, end);
    int last = -1;
    for (int i = 0; i < count; i++) {
        int c = last + 1; /* components come in the frame's order */
        while (c < w->out->components && w->id[c] != p[1 + 2 * i])
            c++;
        if (c == w->out->components)
            return broken(w, "(scan of component %d, which is repeated or not there)",
                          p[1 + 2 * i]);
        if (check_tables(w, c, p[2 + 2 * i], start, high == 0) != 0)
            return -1;
        last = c;
    }
    return 0;
}

static int read_segment(walk *w, int marker, const uint8_t *p, size_t n)
{
    if (marker == DQT)
        return read_dqt(w, p, n);
    if (marker == DHT)
        return read_dht(w, p, n);
    if (marker == SOS)
        return read_scan(w, p, n);
    if (marker == DRI && n != 2)
        return broken(w, "(restart interval of %zu bytes)", n);
    if (marker == APP14 && n >= 12 && memcmp(p, "Adobe", 5) == 0)
        w->out->adobe = p[11];
    if (marker == DAC || marker == JPG || marker == DHP || marker == EXP)
        return image_fail(w->st, w->name, "JPEG of a kind that is not supported (marker FF%02X)",
                          marker);
    if (marker >= SOF0 && marker <= SOF15)
        return read_frame(w, marker, p, n);
    return 0;
}

/* Blocks of 8 x 8 samples in all components. */
static size_t block_count(const walk *w)
{
    size_t h_max = 1, v_max = 1, total = 0;
    for (int i = 0; i < w->out->components; i++) {
        h_max = (size_t)w->h[i] > h_max ? (size_t)w->h[i] : h_max;
        v_max = (size_t)w->v[i] > v_max ? (size_t)w->v[i] : v_max;
    }
    for (int i = 0; i < w->out->components; i++)
        total += (((size_t)w->out->width * (size_t)w->h[i] - 1) / (8 * h_max) + 1) *
                 (((size_t)w->out->height * (size_t)w->v[i] - 1) / (8 * v_max) + 1);
    return total;
}

static int finish(const walk *w)
{
    unsigned all = (1u << w->out->components) - 1;
    if (w->scans == 0 || w->seen != all)
        return broken(w, "(it has no image data%s)", w->scans ? " for some components" : "");
    /* a block takes at least one bit */
    if (block_count(w) / 8 > w->coded)
        return broken(w, "(%zu bytes of image data can't hold %d x %d pixels)", w->coded,
                      w->out->width, w->out->height);
    return 0;
}

/* Where the entropy-coded data from `at` on ends: at a marker that is no restart. */
static size_t skip_coded(const uint8_t *bytes, size_t size, size_t at)
{
    for (; at + 1 < size; at++)
        if (bytes[at] == 0xff) {
            int m = bytes[at + 1];
            if (m != 0 && m != 0xff && (m < RST0 || m > RST7))
                return at;
        }
    return size;
}

int jpeg_scan(jpeg_header *out, const uint8_t *bytes, size_t size, const char *name, vt_status *st)
{
    *out = (jpeg_header){.adobe = -1};
    walk w = {.name = name, .st = st, .out = out};
    size_t at = 2;
    while (at + 2 <= size) {
        int marker = bytes[at + 1];
        if (bytes[at] != 0xff)
            return broken(&w, "(no marker at byte %zu)", at);
        at += marker == 0xff ? 1 : 2; /* fill bytes may precede a marker */
        if (marker == 0xff)
            continue;
        if (marker == EOI)
            return finish(&w);
        if (marker <= TEM || (marker >= RST0 && marker <= SOI))
            return broken(&w, "(marker FF%02X at byte %zu)", marker, at - 2);
        size_t length = size - at >= 2 ? (size_t)bytes[at] << 8 | bytes[at + 1] : 0;
        if (length > size - at || size - at < 2)
            break;
        if (length < 2)
            return broken(&w, "(marker FF%02X: segment of %zu bytes)", marker, length);
        if (read_segment(&w, marker, bytes + at + 2, length - 2) != 0)
            return -1;
        at += length;
        if (marker == SOS) {
            size_t end = skip_coded(bytes, size, at);
            w.coded += end - at;
            at = end;
        }
    }
    return image_fail(st, name, "JPEG ends early (no end marker; cut off at byte %zu)", size);
}
