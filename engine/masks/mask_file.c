/* Masks from files: a boolean matrix [S, S], or [heads, S, S], non-zero = on.
 *
 *   safetensors  BOOL, U8, F16, BF16, F32, F64
 *   .npy         versions 1 to 3, C order, little-endian: b1, i1 .. i8, u1 .. u8, f2, f4, f8
 *   .png         grey or colour; a pixel that is not black is on
 * The content decides, not the name. Values are judged by their bits: a float is off when all bits
 * but the sign are zero. NaN and infinities are refused: they come from additive masks, whose
 * meaning is the reverse. Rows are read one at a time, so only the bits are ever held whole.
 */
#include "engine/masks/pattern.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/image/image.h"
#include "weights_tools/file.h"
#include "weights_tools/safetensors.h"
#include "weights_tools/timm_config.h"

enum { MAX_NPY_HEADER = 65536, RANK = 4 };

typedef struct {
    const char *name; /* of the file format's type */
    int bytes;
    uint64_t exponent; /* bits of a float that are all set in NaN and infinity; 0: an integer */
} number;

/* A matrix in a file, before its values are read. */
typedef struct source source;
struct source {
    const char *path;
    number type;
    int rank;
    uint64_t shape[RANK];
    /* Raw values [first, first + count) of the whole array into out. */
    int (*read)(const source *s, uint64_t first, uint64_t count, void *out, vt_status *st);
    int fd; /* .npy */
    uint64_t begin;
    const st_reader *reader; /* safetensors */
    const st_tensor *tensor;
};

typedef struct {
    const int *sizes;
    const char *fit;
    int heads, head;
} wanted;

/* ---- shape ---- */

static void shape_text(const source *s, char *out, size_t room)
{
    size_t used = 0;
    *out = '\0';
    for (int d = 0; d < s->rank && used < room; d++)
        used += (size_t)snprintf(out + used, room - used, "%s%llu", d ? "x" : "",
                                 (unsigned long long)s->shape[d]);
}

static int wrong_shape(const source *s, const wanted *w, vt_status *st)
{
    char is[96], or_other[32] = "";
    shape_text(s, is, sizeof is);
    if (w->sizes[1] && w->sizes[1] != w->sizes[0])
        snprintf(or_other, sizeof or_other, " or %dx%d", w->sizes[1], w->sizes[1]);
    return vt_fail(st, VT_INPUT,
                   "%s: mask is %s, %s (expected %dx%d%s, alone or for each of %d "
                   "heads)",
                   s->path, *is ? is : "a single value", w->fit, w->sizes[0], w->sizes[0], or_other,
                   w->heads);
}

/* Side and slice of a matrix that fits. */
static int check_shape(const source *s, const wanted *w, vt_mask_matrix *out, vt_status *st)
{
    out->per_head = s->rank == 3;
    if (s->rank != 2 && (s->rank != 3 || s->shape[0] != (uint64_t)w->heads))
        return wrong_shape(s, w, st);
    for (const int *size = w->sizes; *size; size++)
        if (s->shape[s->rank - 1] == (uint64_t)*size && s->shape[s->rank - 2] == (uint64_t)*size) {
            out->size = *size;
            return 0;
        }
    return wrong_shape(s, w, st);
}

/* ---- values ---- */

/* Value i of raw, little-endian. */
static uint64_t bits_of(const uint8_t *raw, size_t i, int bytes)
{
    uint64_t v = 0;
    memcpy(&v, raw + i * (size_t)bytes, (size_t)bytes);
    return v;
}

static int pack_row(const source *s, const uint8_t *raw, int size, int row, uint64_t *bits,
                    vt_status *st)
{
    uint64_t sign = s->type.exponent ? (uint64_t)1 << (8 * s->type.bytes - 1) : 0;
    for (int k = 0; k < size; k++) {
        uint64_t v = bits_of(raw, (size_t)k, s->type.bytes) & ~sign;
        if (s->type.exponent && (v & s->type.exponent) == s->type.exponent)
            return vt_fail(st, VT_INPUT,
                           "%s: mask holds %s at [%d, %d] (expected 0 for off, any "
                           "other finite number for on)",
                           s->path, v == s->type.exponent ? "an infinity" : "NaN", row, k);
        bits[k / 64] |= (uint64_t)(v != 0) << k % 64;
    }
    return 0;
}

static int read_matrix(const source *s, const wanted *w, vt_mask_matrix *out, vt_status *st)
{
    if (check_shape(s, w, out, st) < 0)
        return -1;
    size_t n = (size_t)out->size, words = vt_mask_words(out->size), room;
    uint64_t first = out->per_head ? (uint64_t)w->head * n * n : 0;
    if (!vt_mul(n, words, &room))
        return vt_fail(st, VT_MACHINE, "%s: size overflows", s->path);
    uint8_t *raw = vt_alloc(n, (size_t)s->type.bytes, "mask row", st);
    out->bits = raw ? vt_alloc(room, sizeof *out->bits, "mask bits", st) : NULL;
    int rc = out->bits ? 0 : -1;
    for (size_t r = 0; r < n && rc == 0; r++) {
        rc = s->read(s, first + r * n, n, raw, st);
        if (rc == 0)
            rc = pack_row(s, raw, out->size, (int)r, out->bits + r * words, st);
    }
    vt_free(raw);
    return rc;
}

/* ---- safetensors ---- */

static int read_tensor(const source *s, uint64_t first, uint64_t count, void *out, vt_status *st)
{
    uint64_t bytes = (uint64_t)s->type.bytes;
    return st_read_bytes(s->reader, s->tensor, first * bytes, count * bytes, out, st);
}

static int unknown_tensor(const source *s, const char *name, vt_status *st)
{
    size_t n = st_count(s->reader);
    const char **names = vt_alloc(n + 1, sizeof *names, "names", st);
    if (!names)
        return -1;
    for (size_t i = 0; i < n; i++)
        names[i] = st_at(s->reader, i)->name;
    const char *near = vt_nearest(name, names);
    vt_fail(st, VT_INPUT, "%s: has no tensor '%.64s'%s%.64s%s", s->path, name,
            near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    vt_free(names);
    return -1;
}

static int find_tensor(source *s, const char *name, vt_status *st)
{
    if (!name && st_count(s->reader) != 1)
        return vt_fail(st, VT_INPUT, "%s: holds %zu tensors (name one of them as 'tensor')",
                       s->path, st_count(s->reader));
    s->tensor = name ? st_find(s->reader, name) : st_at(s->reader, 0);
    return s->tensor ? 0 : unknown_tensor(s, name, st);
}

static int describe_tensor(source *s, vt_status *st)
{
    static const struct {
        st_dtype dtype;
        number type;
    } known[] = {
        {ST_BOOL, {"BOOL", 1, 0}},        {ST_U8, {"U8", 1, 0}},
        {ST_F16, {"F16", 2, 0x7c00}},     {ST_BF16, {"BF16", 2, 0x7f80}},
        {ST_F32, {"F32", 4, 0x7f800000}}, {ST_F64, {"F64", 8, 0x7ff0000000000000}},
    };
    const st_tensor *t = s->tensor;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].dtype == t->dtype)
            s->type = known[i].type;
    if (!s->type.bytes)
        return vt_fail(st, VT_INPUT,
                       "%s: tensor '%.64s' is %s (expected BOOL, U8, F16, BF16, F32 "
                       "or F64)",
                       s->path, t->name, st_dtype_name(t->dtype));
    s->rank = t->rank < RANK ? t->rank : RANK;
    memcpy(s->shape, t->shape, (size_t)s->rank * sizeof *s->shape);
    return 0;
}

static int load_safetensors(const char *path, const char *tensor, const wanted *w,
                            vt_mask_matrix *out, vt_status *st)
{
    st_reader *reader = st_open(path, st);
    if (!reader)
        return -1;
    source s = {.path = path, .read = read_tensor, .reader = reader};
    int rc = find_tensor(&s, tensor, st);
    if (rc == 0)
        rc = describe_tensor(&s, st);
    if (rc == 0)
        rc = read_matrix(&s, w, out, st);
    if (rc == 0)
        rc = st_unchanged(reader, st);
    st_close(reader);
    return rc;
}

/* ---- .npy: magic, version, header length, a Python dict as text, then the values ---- */

typedef struct {
    const char *at; /* NUL-terminated */
    bool bad;
} cursor;

static bool accept(cursor *c, const char *token)
{
    c->at += strspn(c->at, " \t\n");
    size_t n = strlen(token);
    if (strncmp(c->at, token, n) != 0)
        return false;
    c->at += n;
    return true;
}

static void need(cursor *c, const char *token)
{
    if (!accept(c, token))
        c->bad = true;
}

/* A quoted text of at most room - 1 characters. */
static void quoted(cursor *c, char *out, size_t room)
{
    const char *quote = accept(c, "'") ? "'" : "\"";
    if (*quote == '"')
        need(c, "\"");
    size_t n = strcspn(c->at, quote);
    if (c->bad || n >= room) {
        c->bad = true;
        return;
    }
    memcpy(out, c->at, n);
    out[n] = '\0';
    c->at += n;
    need(c, quote);
}

static void dimension(cursor *c, source *s)
{
    uint64_t v = 0;
    c->at += strspn(c->at, " \t\n");
    if (!isdigit((unsigned char)*c->at) || s->rank == RANK) {
        c->bad = true;
        return;
    }
    for (; isdigit((unsigned char)*c->at); c->at++) {
        if (v > UINT32_MAX)
            c->bad = true;
        else
            v = v * 10 + (uint64_t)(*c->at - '0');
    }
    s->shape[s->rank++] = v;
}

static void tuple(cursor *c, source *s)
{
    need(c, "(");
    while (!c->bad && !accept(c, ")")) {
        dimension(c, s);
        if (!accept(c, ",")) {
            need(c, ")");
            return;
        }
    }
}

typedef struct {
    char descr[8];
    bool fortran;
    int seen; /* keys, one bit each */
} npy_dict;

/* One KEY: VALUE, each key once. */
static void item(cursor *c, source *s, npy_dict *d)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    char key[16] = "";
    int k = 0;
    quoted(c, key, sizeof key);
    need(c, ":");
    while (k < 3 && strcmp(keys[k], key) != 0)
        k++;
    if (c->bad || k == 3 || d->seen >> k & 1) {
        c->bad = true;
        return;
    }
    d->seen |= 1 << k;
    if (k == 0)
        quoted(c, d->descr, sizeof d->descr);
    else if (k == 2)
        tuple(c, s);
    else if (!(d->fortran = accept(c, "True")))
        need(c, "False");
}

/* {'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }: in any order. */
static int parse_dict(source *s, const char *text, npy_dict *d, vt_status *st)
{
    cursor c = {text, false};
    need(&c, "{");
    while (!c.bad && !accept(&c, "}")) {
        item(&c, s, d);
        if (!accept(&c, ",")) {
            need(&c, "}");
            break;
        }
    }
    c.at += strspn(c.at, " \t\n");
    if (c.bad || d->seen != 7 || *c.at)
        return vt_fail(st, VT_INPUT,
                       "%s: broken .npy header (expected descr, fortran_order and a "
                       "shape of up to %d sizes)",
                       s->path, RANK);
    return 0;
}

static int describe_npy(source *s, const npy_dict *d, vt_status *st)
{
    static const number known[] = {
        {"|b1", 1, 0}, {"|u1", 1, 0},      {"|i1", 1, 0},          {"<u2", 2, 0},
        {"<i2", 2, 0}, {"<u4", 4, 0},      {"<i4", 4, 0},          {"<u8", 8, 0},
        {"<i8", 8, 0}, {"<f2", 2, 0x7c00}, {"<f4", 4, 0x7f800000}, {"<f8", 8, 0x7ff0000000000000},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, d->descr) == 0)
            s->type = known[i];
    if (!s->type.bytes)
        return vt_fail(st, VT_INPUT,
                       "%s: .npy type is '%s' (expected booleans, integers or floats "
                       "in little-endian order)",
                       s->path, d->descr);
    if (d->fortran && s->rank > 1)
        return vt_fail(st, VT_INPUT,
                       "%s: .npy is in Fortran order (expected C order, as "
                       "numpy.ascontiguousarray gives)",
                       s->path);
    return 0;
}

/* Reads the header; s->begin is then the offset of the first value. */
static int open_npy(source *s, uint64_t file_size, vt_status *st)
{
    uint8_t head[12];
    npy_dict dict = {.seen = 0};
    if (file_size < sizeof head)
        return vt_fail(st, VT_INPUT, "%s: .npy file is cut short", s->path);
    if (vt_file_read(s->fd, s->path, 0, head, sizeof head, st) < 0)
        return -1;
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return vt_fail(st, VT_INPUT, "%s: .npy version %d.%d (expected 1.0, 2.0 or 3.0)", s->path,
                       head[6], head[7]);
    uint64_t start = head[6] == 1 ? 10 : 12;
    uint64_t size = bits_of(head + 8, 0, head[6] == 1 ? 2 : 4);
    s->begin = start + size;
    if (size > MAX_NPY_HEADER || s->begin > file_size)
        return vt_fail(st, VT_INPUT, "%s: .npy header of %llu bytes (the file has %llu)", s->path,
                       (unsigned long long)size, (unsigned long long)file_size);
    char *text = vt_alloc((size_t)size + 1, 1, ".npy header", st);
    int rc = text ? vt_file_read(s->fd, s->path, start, text, (size_t)size, st) : -1;
    if (rc == 0)
        rc = parse_dict(s, text, &dict, st);
    vt_free(text);
    return rc < 0 ? -1 : describe_npy(s, &dict, st);
}

static int check_npy_size(const source *s, uint64_t file_size, vt_status *st)
{
    size_t bytes = (size_t)s->type.bytes;
    bool fits = true;
    for (int d = 0; d < s->rank && fits; d++)
        fits = vt_mul(bytes, (size_t)s->shape[d], &bytes);
    if (!fits || file_size - s->begin != bytes)
        return vt_fail(st, VT_INPUT,
                       "%s: .npy holds %llu bytes of values, its shape and type say "
                       "otherwise",
                       s->path, (unsigned long long)(file_size - s->begin));
    return 0;
}

static int read_npy(const source *s, uint64_t first, uint64_t count, void *out, vt_status *st)
{
    uint64_t bytes = (uint64_t)s->type.bytes;
    return vt_file_read(s->fd, s->path, s->begin + first * bytes, out, (size_t)(count * bytes), st);
}

static int load_npy(const char *path, int fd, const vt_file_id *id, const wanted *w,
                    vt_mask_matrix *out, vt_status *st)
{
    source s = {.path = path, .read = read_npy, .fd = fd};
    if (open_npy(&s, (uint64_t)id->size, st) < 0 ||
        check_npy_size(&s, (uint64_t)id->size, st) < 0 || read_matrix(&s, w, out, st) < 0)
        return -1;
    return vt_file_same(fd, path, id, st);
}

/* ---- .png ---- */

static int load_png(const char *path, const wanted *w, vt_mask_matrix *out, vt_status *st)
{
    vt_image image = {0};
    if (vt_image_load(&image, path, 0, st) < 0)
        return -1;
    source s = {.path = path, .rank = 2, .shape = {(uint64_t)image.height, (uint64_t)image.width}};
    int rc = check_shape(&s, w, out, st);
    size_t n = (size_t)out->size, words = vt_mask_words(out->size);
    if (rc == 0 && !(out->bits = vt_alloc(n, words * sizeof *out->bits, "mask bits", st)))
        rc = -1;
    for (size_t i = 0; i < n * n && rc == 0; i++) {
        const uint8_t *p = image.rgb + 3 * i;
        out->bits[i / n * words + i % n / 64] |= (uint64_t)(p[0] || p[1] || p[2]) << i % n % 64;
    }
    vt_image_free(&image);
    return rc;
}

/* ---- any ---- */

static int load_any(vt_mask_matrix *out, const char *path, const char *tensor, const wanted *w,
                    vt_status *st)
{
    static const uint8_t npy[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    uint8_t magic[8] = {0};
    vt_file_id id;
    int fd = vt_file_open(path, NULL, &id, st);
    if (fd < 0)
        return -1;
    size_t known = id.size < (off_t)sizeof magic ? (size_t)id.size : sizeof magic;
    int rc = vt_file_read(fd, path, 0, magic, known, st);
    bool is_npy = memcmp(magic, npy, sizeof npy) == 0, is_png = memcmp(magic, png, sizeof png) == 0;
    if (rc == 0 && tensor && (is_npy || is_png))
        rc = vt_fail(st, VT_INPUT, "%s: a %s file has no tensors to name (found tensor '%.64s')",
                     path, is_npy ? ".npy" : ".png", tensor);
    else if (rc == 0 && is_npy)
        rc = load_npy(path, fd, &id, w, out, st);
    close(fd);
    if (rc < 0 || is_npy)
        return rc;
    return is_png ? load_png(path, w, out, st) : load_safetensors(path, tensor, w, out, st);
}

int vt_mask_file_load(vt_mask_matrix *out, const char *path, const char *tensor, const int *sizes,
                      const char *fit, int heads, int head, vt_status *st)
{
    wanted w = {sizes, fit, heads, head};
    *out = (vt_mask_matrix){0};
    if (load_any(out, path, tensor, &w, st) == 0)
        return 0;
    vt_free(out->bits);
    out->bits = NULL;
    return -1;
}
