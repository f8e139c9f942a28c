/* The only file that compiles stb's single-file libraries: stb_image's zlib inflater, its JPEG
 * decoder where no libjpeg is there, stb_image_write's PNG encoder. Nothing of stb is visible
 * outside.
 *
 * Guards: stb's memory comes zeroed (its decoders read some fields before they set them) and under
 * a cap computed from the picture's size; its asserts are off (a broken file must not abort); the
 * encoder, which can't report a lack of memory, is left by longjmp, and everything that stb held is
 * freed. stb's own PNG reader and all its other formats are not compiled in.
 */
#include "engine/image/internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#ifndef VT_LIBJPEG
#define VT_LIBJPEG 0
#endif

/* ---- memory that stb may use ---- */

typedef struct block {
    struct block *next, **link; /* *link points at this block */
    size_t size;
    size_t pad;
} block;

typedef struct {
    block *blocks;
    size_t left;    /* bytes that may still be asked for */
    jmp_buf *leave; /* where to go when there is no memory; NULL: answer NULL */
    vt_status *st;
} heap;

/* stb's allocator takes no context; set for the length of one call. */
static _Thread_local heap *current;

static void *heap_alloc(size_t size)
{
    heap *h = current;
    block *b = NULL;
    if (size > h->left)
        vt_fail(h->st, VT_MACHINE, "picture: the decoder asked for more memory than it can need");
    else
        b = vt_alloc(1, sizeof *b + size, "picture", h->st);
    if (!b) {
        if (h->leave)
            longjmp(*h->leave, 1);
        return NULL;
    }
    h->left -= size;
    b->size = size;
    b->next = h->blocks;
    b->link = &h->blocks;
    if (b->next)
        b->next->link = &b->next;
    h->blocks = b;
    return b + 1;
}

static void heap_free(void *p)
{
    if (!p)
        return;
    block *b = (block *)p - 1;
    *b->link = b->next;
    if (b->next)
        b->next->link = b->link;
    vt_free(b);
}

static void *heap_realloc(void *p, size_t size)
{
    void *q = heap_alloc(size);
    if (p && q) {
        size_t old = ((block *)p - 1)->size;
        memcpy(q, p, old < size ? old : size);
        heap_free(p);
    }
    return q;
}

static void heap_end(heap *h)
{
    while (h->blocks)
        heap_free(h->blocks + 1);
    current = NULL;
}

/* ---- stb itself ---- */

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wclobbered" /* nothing of stb's is used after the longjmp */
#endif

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_SUPPORT_ZLIB
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS   65535 /* the most that a JPEG can say */
#define STBI_ASSERT(x)        ((void)0)
#define STBI_MALLOC(size)     heap_alloc(size)
#define STBI_REALLOC(p, size) heap_realloc(p, size)
#define STBI_FREE(p)          heap_free(p)
#include <stb/stb_image.h>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#define STBIW_ASSERT(x)        ((void)0)
#define STBIW_MALLOC(size)     heap_alloc(size)
#define STBIW_REALLOC(p, size) heap_realloc(p, size)
#define STBIW_FREE(p)          heap_free(p)
#include <stb/stb_image_write.h>

/* ---- what the project uses of it ---- */

int stb_inflate(uint8_t *out, int room, const uint8_t *zlib, int size)
{
    return stbi_zlib_decode_buffer((char *)out, room, (const char *)zlib, size);
}

#if !VT_LIBJPEG
/* Bytes that stb's decoder asks for: planes (rounded up to whole blocks of up to 4 x 4 samples),
 * with coefficients of 2 bytes when progressive; the RGB result; two decoder states and line
 * buffers. */
static size_t jpeg_memory(const jpeg_header *h)
{
    size_t plane = (size_t)(h->width + 31) * (size_t)(h->height + 31);
    size_t per_sample = h->progressive ? 3 : 1;
    return plane * per_sample * (size_t)h->components + plane * 3 + ((size_t)1 << 20);
}

int stb_jpeg(uint8_t *out, const jpeg_header *h, const uint8_t *bytes, size_t size,
             const char *name, vt_status *st)
{
    heap memory = {.left = jpeg_memory(h), .st = st};
    int w = 0, height = 0, n = 0;
    st->code = VT_OK;
    current = &memory;
    uint8_t *rgb = stbi_load_from_memory(bytes, (int)size, &w, &height, &n, 3);
    int rc = 0;
    if (!rgb && st->code == VT_OK)
        rc = image_fail(st, name, "broken JPEG (%s)", stbi_failure_reason());
    else if (!rgb)
        rc = -1;
    else if (w != h->width || height != h->height)
        rc = image_fail(st, name, "broken JPEG (two sizes)");
    else
        memcpy(out, rgb, (size_t)w * (size_t)height * 3);
    heap_end(&memory);
    return rc;
}
#endif

typedef struct {
    uint8_t *bytes;
    size_t size;
    vt_status *st;
} png_copy;

static void keep(void *context, void *data, int size)
{
    png_copy *c = context;
    c->bytes = vt_alloc((size_t)size, 1, "PNG file", c->st);
    c->size = (size_t)size;
    if (c->bytes)
        memcpy(c->bytes, data, (size_t)size);
}

/* A function of its own: what it changes must not live where setjmp is. */
static void encode(heap *memory, png_copy *copy, const uint8_t *rgb, int width, int height)
{
    jmp_buf leave;
    memory->leave = &leave;
    current = memory;
    if (setjmp(leave) == 0)
        stbi_write_png_to_func(keep, copy, width, height, 3, rgb, 0);
    memory->leave = NULL;
}

uint8_t *stb_png(size_t *size, const uint8_t *rgb, int width, int height, vt_status *st)
{
    png_copy copy = {.st = st};
    heap memory = {.left = SIZE_MAX, .st = st};
    encode(&memory, &copy, rgb, width, height);
    heap_end(&memory);
    *size = copy.size;
    return copy.bytes;
}
