/* Reader of the safetensors container: one file, a sharded set with an index, opened as one list of
 * named tensors. Strict: what the reference implementation (Rust `safetensors`) rejects is
 * rejected.
 *
 * Bytes are read with pread when asked for, never mapped: a file that shrinks while it is read is
 * an error, not a signal. What the tensors mean is nobody's business here.
 */
#ifndef VT_SAFETENSORS_H
#define VT_SAFETENSORS_H

#include "kernels/status.h"
#include "kernels/tensor.h"
#include "weights_tools/whole_file.h"

typedef enum { /* every type of the format; only F32, F16, BF16 (and BOOL, U8 for masks) are read */
               ST_BOOL,
               ST_F4,
               ST_F6_E2M3,
               ST_F6_E3M2,
               ST_U8,
               ST_I8,
               ST_F8_E5M2,
               ST_F8_E4M3,
               ST_F8_E8M0,
               ST_F8_E4M3FNUZ,
               ST_F8_E5M2FNUZ,
               ST_I16,
               ST_U16,
               ST_F16,
               ST_BF16,
               ST_I32,
               ST_U32,
               ST_F32,
               ST_C64,
               ST_F64,
               ST_I64,
               ST_U64,
               ST_DTYPES
} st_dtype;

enum { ST_MAX_RANK = 8 };

typedef struct {
    const char *name; /* NUL-terminated copy; name_len counts (names may hold NULs) */
    size_t name_len;
    st_dtype dtype;
    int rank;
    uint64_t shape[ST_MAX_RANK];
    uint64_t count; /* elements */
    uint64_t begin; /* byte offset in its file */
    uint64_t bytes;
    int file; /* index of its file among st_file()s */
} st_tensor;

typedef struct st_reader st_reader;

/* `path` names a .safetensors file, or a folder as the hub lays it out: model.safetensors, or
 * model.safetensors.index.json with its shards (every shard's tensors must be those of weight_map),
 * or open_clip_model.safetensors.
 * Reads and checks all headers; no tensor bytes. NULL with st set on failure. */
st_reader *st_open(const char *path, vt_status *st);
void st_close(st_reader *r); /* NULL is fine */

size_t st_count(const st_reader *r);
const st_tensor *st_at(const st_reader *r, size_t i);           /* by file, then offset */
const st_tensor *st_find(const st_reader *r, const char *name); /* O(log n); NULL: absent */
const char *st_file(const st_reader *r, int file);              /* its path, for messages */
const char *st_metadata(const st_reader *r, const char *key);   /* of the (first) file, or NULL */
const char *st_dtype_name(st_dtype t);

/* Elements [first, first + count) as fp32 (F32, F16, BF16, F64; BOOL and U8 too). A non-finite
 * value is an error that names tensor, flat index and value. Several threads may read at once. */
int st_read_f32(const st_reader *r, const st_tensor *t, uint64_t first, uint64_t count, float *out,
                vt_status *st);

/* Raw bytes [first, first + count) of the tensor. */
int st_read_bytes(const st_reader *r, const st_tensor *t, uint64_t first, uint64_t count, void *out,
                  vt_status *st);

/* 0 if every file is still as it was when opened (size, mtime, inode); else an error. Call it after
 * the last read. */
int st_unchanged(const st_reader *r, vt_status *st);

/* Writing: whole files or nothing (temporary file in the same folder, then rename). */
typedef struct {
    const char *name;
    st_dtype dtype;
    int rank;
    uint64_t shape[ST_MAX_RANK];
    const void *data;
} st_entry;
int st_write(const char *path, const st_entry *entries, size_t count, vt_status *st);

/* The same for tensors that are not in memory: put(what) appends the bytes of all entries in their
 * order, exactly as many as their types and shapes say; their data is not looked at. */
int st_write_from(const char *path, const st_entry *entries, size_t count, vt_put_fn put,
                  const void *what, vt_status *st);

#endif
