/* Pictures: decoded and preprocessed. The mutator changes a PNG's chunk or a JPEG's segment and
 * leaves the rest in order: CRCs are made right again, lengths too. Also built with stb_image in
 * the place of libjpeg (images_stb). */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "engine/image/image.h"

const double fuzz_seconds = 1;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

/* ---- the target ---- */

static void preprocess(const vt_image *image)
{
    float out[3 * 8 * 6];
    vt_status st = {0};
    vt_preprocess pre = {
        .height = 8, .width = 6, .crop_pct = 0.9, .mean = {0.5, 0.5, 0.5}, .std = {0.2, 0.2, 0.2}};
    vt_image_preprocess(out, image, &pre, 3, &st);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    vt_image image;
    vt_status st = {0};
    if (vt_image_decode(&image, data, size, "picture", 0, &st) == 0) {
        size_t n = (size_t)image.width * (size_t)image.height * 3;
        fuzz_require(n > 0 && n / 3 <= VT_MAX_PIXELS, "a picture of no or too many pixels");
        unsigned sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += image.rgb[i];
        fuzz_require(sum <= n * 255, "");
        if (n < 1 << 20)
            preprocess(&image);
    } else {
        fuzz_require(st.code == VT_INPUT && st.text[0] && !strchr(st.text, '\n'),
                     "refused, but not in one line");
    }
    vt_image_free(&image);
}

/* ---- the mutator ---- */

enum { MOST_PARTS = 64 };

/* Where chunks or segments begin; the last entry is the end of the last one. */
typedef struct {
    size_t at[MOST_PARTS + 1];
    unsigned count;
} part_list;

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void list_chunks(part_list *l, const fuzz_buffer *b)
{
    size_t at = 8;
    l->count = 0;
    while (at + 12 <= b->size && l->count < MOST_PARTS &&
           big32(b->data + at) <= b->size - at - 12) {
        l->at[l->count++] = at;
        at += 12 + (size_t)big32(b->data + at);
    }
    l->at[l->count] = at;
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

/* One chunk's type or data; its length and CRC follow. */
static void mutate_chunk(fuzz_buffer *b, size_t at, fuzz_random *r)
{
    size_t n = big32(b->data + at);
    if (fuzz_below(r, 8) == 0)
        fuzz_mutate_within(b, at + 4, 4 < n ? 4 : n);
    else
        n = fuzz_mutate_within(b, at + 8, n);
    if (at + 12 + n > b->size)
        return;
    put32(b->data + at, (uint32_t)n);
    put32(b->data + at + 8 + n, crc32_of(b->data + at + 4, n + 4));
}

static void list_segments(part_list *l, const fuzz_buffer *b)
{
    size_t at = 2;
    l->count = 0;
    while (at + 4 <= b->size && b->data[at] == 0xff && l->count < MOST_PARTS) {
        size_t n = (size_t)b->data[at + 2] << 8 | b->data[at + 3], scan = b->data[at + 1] == 0xda;
        if (n < 2 || at + 2 + n > b->size)
            break;
        l->at[l->count++] = at;
        at += 2 + n;
        while (scan && at + 2 <= b->size &&
               (b->data[at] != 0xff || b->data[at + 1] == 0 || (b->data[at + 1] & 0xf8) == 0xd0))
            at++;
    }
    l->at[l->count] = at;
}

static void mutate_segment(fuzz_buffer *b, size_t at, size_t end, fuzz_random *r)
{
    size_t n = (size_t)b->data[at + 2] << 8 | b->data[at + 3];
    if (b->data[at + 1] == 0xda && fuzz_below(r, 4)) {
        fuzz_mutate_within(b, at + 2 + n, end - at - 2 - n); /* the scan's data */
        return;
    }
    n = 2 + fuzz_mutate_within(b, at + 4, n - 2);
    b->data[at + 2] = (uint8_t)(n >> 8);
    b->data[at + 3] = (uint8_t)n;
}

/* Takes part i away, or puts a copy of it before part j. */
static void move_part(fuzz_buffer *b, const part_list *l, fuzz_random *r)
{
    unsigned i = fuzz_below(r, l->count), j = fuzz_below(r, l->count + 1);
    size_t at = l->at[i], n = l->at[i + 1] - at;
    if (fuzz_below(r, 2)) {
        fuzz_replace(b, at, n, NULL, 0);
        return;
    }
    uint8_t *copy = malloc(n);
    memcpy(copy, b->data + at, n);
    fuzz_replace(b, l->at[j], 0, copy, n);
    free(copy);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    fuzz_buffer b = {data, size, most};
    fuzz_random r = fuzz_seeded(seed);
    part_list l = {.count = 0};
    bool png = size > 8 && data[0] == 0x89;
    if (png)
        list_chunks(&l, &b);
    else if (size > 3 && data[0] == 0xff)
        list_segments(&l, &b);
    unsigned way = fuzz_below(&r, 16), i = l.count ? fuzz_below(&r, l.count) : 0;
    if (l.count == 0 || way == 0)
        return fuzz_mutate_within(&b, 0, size) ? b.size : 1;
    if (way < 3)
        move_part(&b, &l, &r);
    else if (png)
        mutate_chunk(&b, l.at[i], &r);
    else
        mutate_segment(&b, l.at[i], l.at[i + 1], &r);
    return b.size ? b.size : 1;
}
