/* The container: files opened, headers checked, bytes read as fp32.
 *
 *   u64 N (little endian) | N bytes of JSON: st_header.c | the tensors' bytes, without gaps
 *
 * A hub folder is model.safetensors; or model.safetensors.index.json, whose weight_map says in which
 * shard each tensor lies; or open_clip_model.safetensors, a CLIP model with the text's tower. Tensors may start at any byte, so values are read through a buffer,
 * except F32, which goes straight to its place.
 */
#include "weights_tools/file.h"
#include "weights_tools/json.h"
#include "weights_tools/st_header.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char *path;
    int fd; /* -1: not open */
    vt_file_id id;
    st_header header; /* its tensors have moved to the reader's list */
} st_part;

struct st_reader {
    st_part *part;
    int parts;
    st_tensor *tensor; /* by file, then offset */
    const st_tensor **named;
    size_t count;
};

/* ---- one file ---- */

/* What a file that is no safetensors file seems to be, with what to do; NULL: no idea. */
static const char *foreign(const unsigned char *b, size_t n)
{
#define CONVERT "; convert it with weights_tools/export_timm.py MODEL --checkpoint FILE"
    static const struct {
        const char *bytes;
        size_t n;
        const char *what;
    } formats[] = {
        {"PK\3\4", 4, "a zip archive, such as PyTorch's .pth or .bin" CONVERT},
        {"\x80\2", 2, "a pickle, such as PyTorch's older .pth" CONVERT},
        {"\x80\3", 2, "a pickle" CONVERT},
        {"\x80\4", 2, "a pickle" CONVERT},
        {"\x80\5", 2, "a pickle" CONVERT},
        {"GGUF", 4, "a GGUF file; export the original model with weights_tools/export_timm.py"},
        {"\x89HDF", 4, "an HDF5 file; export the model with weights_tools/export_timm.py"},
        {"\x93NUMPY", 6, "a .npy file; export the model with weights_tools/export_timm.py"},
        {"version https://git-lfs", 23, "a git-lfs pointer; fetch the file with: git lfs pull"},
        {"<!DOCTYPE", 9, "an HTML page; download the file itself"},
        {"<!doctype", 9, "an HTML page; download the file itself"},
        {"<html", 5, "an HTML page; download the file itself"},
        {"\x1f\x8b", 2, "gzip; unpack it with: gunzip FILE"},
    };
#undef CONVERT
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (n >= formats[i].n && memcmp(b, formats[i].bytes, formats[i].n) == 0)
            return formats[i].what;
    return NULL;
}

/* The header's length, believed only where the file is large enough for it. */
static int read_length(const st_part *f, uint64_t *length, vt_status *st)
{
    unsigned char start[32];
    uint64_t size = (uint64_t)f->id.size;
    size_t have = size < sizeof start ? (size_t)size : sizeof start;
    if (vt_file_read(f->fd, f->path, 0, start, have, st))
        return -1;
    uint64_t n = 0;
    for (int i = 0; i < 8 && i < (int)have; i++)
        n |= (uint64_t)start[i] << 8 * i;
    *length = n;
    if (size >= 8 && n <= ST_MAX_HEADER && n <= size - 8)
        return 0;
    const char *what = foreign(start, have);
    if (what)
        return vt_fail(st, VT_INPUT, "%s: not a safetensors file, but %s", f->path, what);
    if (size < 8)
        return vt_fail(st, VT_INPUT,
                       "%s: not a safetensors file (%" PRIu64 " byte%s, expected at least 8)",
                       f->path, size, size == 1 ? "" : "s");
    if (n > ST_MAX_HEADER)
        return vt_fail(st, VT_INPUT,
                       "%s: not a safetensors file (header of %" PRIu64 " bytes, at most %d)",
                       f->path, n, ST_MAX_HEADER);
    return vt_fail(st, VT_INPUT,
                   "%s: file is truncated: header of %" PRIu64 " bytes, %" PRIu64 " left", f->path,
                   n, size - 8);
}

static int read_header(st_part *f, vt_status *st)
{
    uint64_t n;
    if (read_length(f, &n, st))
        return -1;
    char *text = vt_alloc((size_t)n + 1, 1, "safetensors header", st);
    if (!text)
        return -1;
    if (vt_file_read(f->fd, f->path, 8, text, (size_t)n, st)) {
        vt_free(text);
        return -1;
    }
    return st_header_parse(&f->header, f->path, text, (size_t)n, (uint64_t)f->id.size - 8 - n, st);
}

/* Takes `path` (from vt_alloc). */
static int add_part(st_reader *r, char *path, vt_status *st)
{
    if (!path)
        return -1;
    st_part *f = r->part + r->parts++;
    *f = (st_part){.path = path};
    f->fd = vt_file_open(path, NULL, &f->id, st);
    if (f->fd < 0 || read_header(f, st))
        return -1;
    /* all of it will be read: let the disk be ahead of the conversion */
    posix_fadvise(f->fd, 0, 0, POSIX_FADV_WILLNEED);
    return 0;
}

/* ---- the list over all files ---- */

static int by_name(const void *x, const void *y)
{
    const st_tensor *a = *(const st_tensor *const *)x, *b = *(const st_tensor *const *)y;
    return st_compare_names(a->name, a->name_len, b->name, b->name_len);
}

static int gather(st_reader *r, vt_status *st)
{
    for (int i = 0; i < r->parts; i++)
        r->count += r->part[i].header.count;
    r->tensor = vt_alloc(r->count, sizeof *r->tensor, "tensor list", st);
    r->named = vt_alloc(r->count, sizeof *r->named, "tensor list", st);
    if (!r->tensor || !r->named)
        return -1;
    size_t at = 0;
    for (int i = 0; i < r->parts; i++) {
        st_header *h = &r->part[i].header;
        for (size_t j = 0; j < h->count; j++, at++) {
            r->tensor[at] = h->tensor[j];
            r->tensor[at].file = i;
            r->named[at] = r->tensor + at;
        }
        vt_free(h->tensor);
        h->tensor = NULL;
    }
    if (r->count)
        qsort(r->named, r->count, sizeof *r->named, by_name);
    return 0;
}

/* ---- folders and shards ---- */

/* A shard is a file of the index's own folder. */
static bool plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && vt_ends_with(name, ".safetensors");
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of weight_map, sorted; *names is freed by the caller, the texts are the
 * document's. */
static int shard_names(const char *path, json_t *map, const char ***names, int *count,
                       vt_status *st)
{
    size_t room = json_object_size(map), n = 0;
    const char **name = *names = vt_alloc(room, sizeof *name, "shard list", st);
    if (!name)
        return -1;
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value)
    {
        const char *file = json_string_value(value);
        if (!file || !plain_name(file))
            return vt_fail(st, VT_INPUT,
                           "%s: weight_map.\"%.80s\": expected the name of a .safetensors file in "
                           "the same folder, found %.80s",
                           path, key, file ? file : "no string");
        name[n++] = file;
    }
    qsort(name, n, sizeof *name, compare_text);
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(name[i], name[i - 1]) != 0)
            name[(*count)++] = name[i];
    return 0;
}

/* Every tensor of the shards stands in weight_map with its shard, and as many as stand there. */
static int check_map(const st_reader *r, const char *path, json_t *map, const char **shard,
                     vt_status *st)
{
    char shown[ST_SHOWN];
    for (size_t i = 0; i < r->count; i++) {
        const st_tensor *t = r->tensor + i;
        json_t *v = strlen(t->name) == t->name_len ? json_object_get(map, t->name) : NULL;
        if (!v || strcmp(json_string_value(v), shard[t->file]) != 0)
            return vt_fail(st, VT_INPUT, "%s: has tensor %s, which %s puts %s%s",
                           r->part[t->file].path, st_show(shown, t->name, t->name_len), path,
                           v ? "into " : "nowhere", v ? json_string_value(v) : "");
    }
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) if (!st_find(r, key)) return vt_fail(
        st, VT_INPUT, "%s: puts tensor \"%.80s\" into %.80s, which lacks it", path, key,
        json_string_value(value));
    return 0;
}

static int open_shards(st_reader *r, const char *folder, const char *path, json_t *index,
                       vt_status *st)
{
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return vt_fail(st, VT_INPUT, "%s: weight_map: expected an object that names tensors", path);
    const char **shard = NULL;
    int shards = 0, rc = shard_names(path, map, &shard, &shards, st);
    if (rc == 0) {
        r->part = vt_alloc((size_t)shards, sizeof *r->part, "shard list", st);
        rc = r->part ? 0 : -1;
    }
    for (int i = 0; rc == 0 && i < shards; i++)
        rc = add_part(r, vt_file_join(folder, shard[i], st), st);
    if (rc == 0)
        rc = gather(r, st) || check_map(r, path, map, shard, st) ? -1 : 0;
    vt_free(shard);
    return rc;
}

static int open_index(st_reader *r, const char *folder, const char *path, vt_status *st)
{
    json_t *index = vt_json_load(path, ST_MAX_HEADER, st);
    if (!index)
        return -1;
    int rc = open_shards(r, folder, path, index, st);
    json_decref(index);
    return rc;
}

static int open_one(st_reader *r, char *path, vt_status *st)
{
    r->part = vt_alloc(1, sizeof *r->part, "file list", st);
    if (!r->part) {
        vt_free(path);
        return -1;
    }
    return add_part(r, path, st) || gather(r, st) ? -1 : 0;
}

/* A folder without the two names: says what lies there instead. */
static int nothing_there(const char *folder, vt_status *st)
{
    char other[256] = "", pickle[256] = "";
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (vt_ends_with(e->d_name, ".safetensors") && (!*other || strcmp(e->d_name, other) < 0))
            snprintf(other, sizeof other, "%s", e->d_name);
        else if ((vt_ends_with(e->d_name, ".bin") || vt_ends_with(e->d_name, ".pth")) && !*pickle)
            snprintf(pickle, sizeof pickle, "%s", e->d_name);
    }
    if (d)
        closedir(d);
    if (*other)
        return vt_fail(st, VT_INPUT,
                       "%s: no model.safetensors there (there is %s: give that file's path)",
                       folder, other);
    if (*pickle)
        return vt_fail(st, VT_INPUT,
                       "%s: no model.safetensors there, only %s; convert it with "
                       "weights_tools/export_timm.py MODEL --checkpoint FILE",
                       folder, pickle);
    return vt_fail(st, VT_INPUT,
                   "%s: no model.safetensors and no model.safetensors.index.json there", folder);
}

static int open_folder(st_reader *r, const char *folder, vt_status *st)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json",
                                        "open_clip_model.safetensors"};
    for (int i = 0; i < 3; i++) {
        char *path = vt_file_join(folder, names[i], st);
        if (!path)
            return -1;
        int there = vt_file_there(path, st);
        if (there > 0 && i != 1)
            return open_one(r, path, st);
        int rc = there > 0 ? open_index(r, folder, path, st) : there;
        vt_free(path);
        if (there)
            return rc;
    }
    return nothing_there(folder, st);
}

/* An index file given by its own path: the shards lie beside it. */
static int open_index_file(st_reader *r, const char *path, vt_status *st)
{
    char *folder = vt_strdup(path, st);
    if (!folder)
        return -1;
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0;
    int rc = open_index(r, slash ? folder : ".", path, st);
    vt_free(folder);
    return rc;
}

st_reader *st_open(const char *path, vt_status *st)
{
    st_reader *r = vt_alloc(1, sizeof *r, "safetensors reader", st);
    if (!r)
        return NULL;
    vt_file_id id;
    bool folder;
    int rc = -1, fd = vt_file_open(path, &folder, &id, st);
    if (fd >= 0) {
        close(fd);
        char *copy;
        if (folder)
            rc = open_folder(r, path, st);
        else if (vt_ends_with(path, ".safetensors.index.json"))
            rc = open_index_file(r, path, st);
        else if ((copy = vt_strdup(path, st)))
            rc = open_one(r, copy, st);
    }
    if (rc == 0)
        return r;
    st_close(r);
    return NULL;
}

void st_close(st_reader *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->parts; i++) {
        if (r->part[i].fd >= 0)
            close(r->part[i].fd);
        st_header_free(&r->part[i].header);
        vt_free(r->part[i].path);
    }
    vt_free(r->part);
    vt_free(r->tensor);
    vt_free(r->named);
    vt_free(r);
}

/* ---- looking ---- */

size_t st_count(const st_reader *r)
{
    return r->count;
}

const st_tensor *st_at(const st_reader *r, size_t i)
{
    return r->tensor + i;
}

static int name_against(const void *key, const void *item)
{
    const st_tensor *t = *(const st_tensor *const *)item;
    return st_compare_names(key, strlen(key), t->name, t->name_len);
}

const st_tensor *st_find(const st_reader *r, const char *name)
{
    const st_tensor **hit =
        r->count ? bsearch(name, r->named, r->count, sizeof *r->named, name_against) : NULL;
    return hit ? *hit : NULL;
}

const char *st_file(const st_reader *r, int file)
{
    return r->part[file].path;
}

static int key_against(const void *key, const void *item)
{
    const st_pair *pair = item;
    return st_compare_names(key, strlen(key), pair->key, pair->key_len);
}

const char *st_metadata(const st_reader *r, const char *key)
{
    const st_header *h = &r->part[0].header;
    const st_pair *hit =
        h->metas ? bsearch(key, h->meta, h->metas, sizeof *h->meta, key_against) : NULL;
    return hit ? hit->value : NULL;
}

int st_unchanged(const st_reader *r, vt_status *st)
{
    for (int i = 0; i < r->parts; i++)
        if (vt_file_same(r->part[i].fd, r->part[i].path, &r->part[i].id, st))
            return -1;
    return 0;
}

/* ---- reading ---- */

enum { BUFFER = 1 << 16 /* bytes */, DIRECT = 1 << 16 /* fp32 values read and checked at once */ };

static int check_range(const st_reader *r, const st_tensor *t, uint64_t first, uint64_t count,
                       vt_status *st)
{
    if (first <= t->count && count <= t->count - first)
        return 0;
    return vt_fail(st, VT_INPUT, "%s: tensor \"%.64s\": has %" PRIu64 " values, not %" PRIu64,
                   st_file(r, t->file), t->name, t->count, first + count);
}

int st_read_bytes(const st_reader *r, const st_tensor *t, uint64_t first, uint64_t count, void *out,
                  vt_status *st)
{
    const st_part *f = r->part + t->file;
    if (first > t->bytes || count > t->bytes - first)
        return vt_fail(st, VT_INPUT, "%s: tensor \"%.64s\": has %" PRIu64 " bytes, not %" PRIu64,
                       f->path, t->name, t->bytes, first + count);
    return vt_file_read(f->fd, f->path, t->begin + first, out, (size_t)count, st);
}

/* Exact. A half's bits, moved to where a float's are, read as 2^-112 of the value; subnormals
 * too. */
static float f16_to_f32(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &magnitude, 4);
    f *= 0x1p112f;
    memcpy(&magnitude, &f, 4);
    if ((h & 0x7c00) == 0x7c00) /* infinity, NaN */
        magnitude = 0x7f800000u | (uint32_t)(h & 0x3ff) << 13;
    magnitude |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &magnitude, 4);
    return f;
}

/* n values of type t from unaligned bytes. */
static void convert(st_dtype t, const unsigned char *from, float *out, size_t n)
{
    uint16_t half;
    double wide;
    switch (t) {
    case ST_F16:
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, 2);
            out[i] = f16_to_f32(half);
        }
        break;
    case ST_BF16:
        for (size_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, 2);
            out[i] = vt_bf16_to_f32(half);
        }
        break;
    case ST_F64:
        for (size_t i = 0; i < n; i++) {
            memcpy(&wide, from + 8 * i, 8);
            out[i] = (float)wide;
        }
        break;
    case ST_BOOL:
        for (size_t i = 0; i < n; i++)
            out[i] = from[i] != 0;
        break;
    default: /* ST_U8 */
        for (size_t i = 0; i < n; i++)
            out[i] = from[i];
    }
}

static bool not_finite(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static uint64_t count_not_finite(const float *x, size_t n)
{
    uint32_t bad = 0; /* n is small: a chunk */
    for (size_t i = 0; i < n; i++)
        bad += not_finite(x[i]);
    return bad;
}

/* The chunk's first value that is not finite, for the error text at the end. */
typedef struct {
    uint64_t count, first;
    float value;
} nonfinite;

static void inspect(nonfinite *found, const float *x, size_t n, uint64_t index)
{
    uint64_t bad = count_not_finite(x, n);
    if (bad && !found->count) {
        size_t i = 0;
        while (!not_finite(x[i]))
            i++;
        found->first = index + i;
        found->value = x[i];
    }
    found->count += bad;
}

static int readable(const st_reader *r, const st_tensor *t, vt_status *st)
{
    switch (t->dtype) {
    case ST_F32:
    case ST_F16:
    case ST_BF16:
    case ST_F64:
    case ST_BOOL:
    case ST_U8:
        return 0;
    default:
        return vt_fail(st, VT_INPUT,
                       "%s: tensor \"%.64s\": type %s is not supported (expected F32, F16 or BF16)",
                       st_file(r, t->file), t->name, st_dtype_name(t->dtype));
    }
}

/* n values from byte `at` on: at most DIRECT in fp32, BUFFER bytes of another type. */
static int read_chunk(const st_part *f, st_dtype type, uint64_t at, float *out, size_t n,
                      vt_status *st)
{
    unsigned char buffer[BUFFER];
    if (type == ST_F32)
        return vt_file_read(f->fd, f->path, at, out, n * sizeof *out, st);
    if (vt_file_read(f->fd, f->path, at, buffer, n * (st_dtype_bits(type) / 8), st))
        return -1;
    convert(type, buffer, out, n);
    return 0;
}

int st_read_f32(const st_reader *r, const st_tensor *t, uint64_t first, uint64_t count, float *out,
                vt_status *st)
{
    if (readable(r, t, st) || check_range(r, t, first, count, st))
        return -1;
    const st_part *f = r->part + t->file;
    size_t size = st_dtype_bits(t->dtype) / 8;
    size_t chunk = t->dtype == ST_F32 ? DIRECT : BUFFER / size;
    nonfinite found = {0};
    for (uint64_t done = 0; done < count; done += chunk) {
        size_t n = count - done < chunk ? (size_t)(count - done) : chunk;
        if (read_chunk(f, t->dtype, t->begin + (first + done) * size, out + done, n, st))
            return -1;
        inspect(&found, out + done, n, first + done);
    }
    if (found.count)
        return vt_fail(st, VT_INPUT,
                       "%s: tensor \"%.64s\": value %g at flat index %" PRIu64
                       " is not finite (%" PRIu64 " such values)",
                       f->path, t->name, (double)found.value, found.first, found.count);
    return 0;
}
