/* The JSON header of a safetensors file: text in, checked tensors out. Knows no file. */
#ifndef VT_ST_HEADER_H
#define VT_ST_HEADER_H

#include "weights_tools/safetensors.h"

enum { ST_MAX_HEADER = 100000000 }; /* bytes; the reference implementation's cap */

typedef struct {
    const char *key, *value;
    size_t key_len;
} st_pair;

typedef struct {
    char *text; /* owned; names, keys and values point into it */
    st_tensor *tensor;
    size_t count;
    st_pair *meta; /* __metadata__, sorted by key */
    size_t metas;
} st_header;

/* Parses and checks `text` of `n` bytes, whose file has data_bytes behind the header. Takes `text`
 * (from vt_alloc) and changes it. Tensors come out sorted by offset, their `begin` counted from the
 * start of the file and `file` 0. On failure *h is to be freed too. */
int st_header_parse(st_header *h, const char *path, char *text, size_t n, uint64_t data_bytes,
                    vt_status *st);
void st_header_free(st_header *h);

/* Orders names as st_find needs them: bytewise, a prefix before what it begins. */
int st_compare_names(const char *a, size_t a_len, const char *b, size_t b_len);

/* A name for error texts: quoted, control characters escaped, cut after some 64 bytes. */
enum { ST_SHOWN = 88 };
const char *st_show(char out[ST_SHOWN], const char *name, size_t len);

unsigned st_dtype_bits(st_dtype t);

#endif
