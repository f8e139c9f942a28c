/* The safetensors reader: header, names, values. The mutator keeps the length field right most of
 * the time, and sets out again and again from a valid file, so that one thing alone is wrong. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/st_header.h"

const double fuzz_seconds = 1;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

/* ---- the target ---- */

static void read_values(const st_reader *r, const st_tensor *t)
{
    vt_status st = {0};
    float values[64];
    for (uint64_t i = 0; i < t->count; i += 64)
        if (st_read_f32(r, t, i, t->count - i < 64 ? t->count - i : 64, values, &st))
            break;
    fuzz_require(st_read_f32(r, t, t->count, 1, values, &st) != 0, "a value behind a tensor's end");
    unsigned char byte;
    fuzz_require(st_read_bytes(r, t, t->bytes, 1, &byte, &st) != 0, "a byte behind its end");
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* Whether the header's parser takes the header: no file is needed for that. */
static bool header_is_right(const uint8_t *data, size_t size)
{
    uint64_t n = get_u64(data);
    vt_status st = {0};
    st_header header;
    char *text = vt_alloc(n + 1, 1, "header", &st);
    memcpy(text, data + 8, n);
    bool right = st_header_parse(&header, "file", text, n, size - 8 - n, &st) == 0;
    st_header_free(&header);
    return right;
}

/* Of files with a wrong header one in eight is read as a file all the same. */
void fuzz_one(const uint8_t *data, size_t size)
{
    bool whole = size >= 8 && get_u64(data) <= size - 8,
         right = whole && header_is_right(data, size);
    if (whole && !right && size % 8)
        return;
    vt_status st = {0};
    st_reader *r = st_open(fuzz_file(0, data, size), &st);
    fuzz_require(!r == !right, "parser and reader differ");
    fuzz_require(r || (st.code == VT_INPUT && st.text[0] && !strchr(st.text, '\n')),
                 "refused, but not in one line");
    uint64_t end = 0;
    for (size_t i = 0; r && i < st_count(r); i++) {
        const st_tensor *t = st_at(r, i);
        fuzz_require(t->begin >= end && t->bytes <= size && t->begin <= size - t->bytes,
                     "a tensor outside the file");
        end = t->begin + t->bytes;
        bool plain = strlen(t->name) == t->name_len;
        fuzz_require(!plain || st_find(r, t->name) == t, "a tensor that is not found");
        read_values(r, t);
    }
    if (r) {
        fuzz_require(st_count(r) == 0 || end == size, "tensors do not fill the file");
        st_metadata(r, "vitrun.config");
        fuzz_require(st_unchanged(r, &st) == 0, "changed while being read");
    }
    st_close(r);
}

/* ---- the mutator ---- */

static void put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* A tensor's entry at the end of `text`; returns the offset behind its bytes. */
static unsigned add_tensor(char *text, int i, unsigned begin, fuzz_random *r)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {{"F32", 32}, {"F16", 16},    {"BF16", 16}, {"F64", 64},
                 {"BOOL", 8}, {"U8", 8},      {"F4", 4},    {"I64", 64},
                 {"C64", 64}, {"F6_E2M3", 6}, {"I16", 16},  {"F8_E4M3", 8}};
    unsigned which = fuzz_below(r, sizeof types / sizeof *types), rank = fuzz_below(r, 5);
    unsigned count = 1;
    char *out = text + strlen(text);
    out += sprintf(out, "%s\"%c%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", 'a' + i,
                   fuzz_below(r, 4) ? "" : ".weight", types[which].name);
    for (unsigned d = 0; d < rank; d++) {
        unsigned side = fuzz_below(r, 5);
        count *= side;
        out += sprintf(out, "%s%u", d ? "," : "", side);
    }
    unsigned end = begin + (count * types[which].bits + 7) / 8;
    sprintf(out, "],\"data_offsets\":[%u,%u]}", begin, end);
    return end;
}

/* A file that is right, or nearly: types of 4 and 6 bits may not fill bytes. */
static void make_file(fuzz_buffer *b, fuzz_random *r)
{
    char text[2048] = "{";
    unsigned tensors = fuzz_below(r, 6), end = 0;
    for (unsigned i = 0; i < tensors; i++)
        end = add_tensor(text, (int)i, end, r);
    if (fuzz_below(r, 3) == 0)
        sprintf(text + strlen(text), "%s\"__metadata__\":{\"format\":\"pt\"}", tensors ? "," : "");
    strcat(text, "}");
    size_t n = strlen(text);
    if (8 + n + end > b->most)
        return;
    put_u64(b->data, n);
    memcpy(b->data + 8, text, n);
    memset(b->data + 8 + n, 0, end);
    b->size = 8 + n + end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    fuzz_buffer b = {data, size, most};
    fuzz_random r = fuzz_seeded(seed);
    unsigned way = fuzz_below(&r, 16);
    if (way < 4)
        make_file(&b, &r);
    if (b.size < 8 || way == 15)
        return fuzz_mutate_within(&b, 0, b.size) ? b.size : 1;
    size_t n = get_u64(data) <= b.size - 8 ? (size_t)get_u64(data) : b.size - 8;
    if (way == 14) /* the values */
        fuzz_mutate_within(&b, 8 + n, b.size - 8 - n);
    else if (way % 2)
        n = fuzz_mutate_number(&b, 8, n, &r);
    else
        n = fuzz_mutate_within(&b, 8, n);
    put_u64(data, n);
    return b.size;
}
