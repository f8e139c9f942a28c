/* Output files appear whole or not at all: a temporary file in the same folder, written, synced,
 * renamed. A symbolic link stays, and what it leads to is replaced; one that leads nowhere is
 * replaced itself. Every short write, full disk and failed close is an error that names the file.
 */
#ifndef VT_WHOLE_FILE_H
#define VT_WHOLE_FILE_H

#include "kernels/status.h"

/* A file being written. */
typedef struct {
    int fd;
    int error; /* errno of the first write that failed; 0: none */
} vt_output;

/* Appends. A failure is kept in out->error, later calls do nothing then. */
void vt_put(vt_output *out, const void *data, size_t bytes);

/* Appends `what`, piece by piece. 0, or -1 with *st set for reasons other than writing. */
typedef int (*vt_put_fn)(const void *what, vt_output *out, vt_status *st);

/* The file is what put(what) appends. On failure whatever was at `path` is as it was. */
int vt_write_whole(const char *path, vt_put_fn put, const void *what, vt_status *st);

/* The same for what is in memory: the parts one after the other. */
typedef struct {
    const void *data;
    size_t bytes;
} vt_file_part;

int vt_write_file(const char *path, const vt_file_part *part, int parts, vt_status *st);

#endif
