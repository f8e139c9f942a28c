/* Output files appear whole or not at all: a temporary file in the same folder, written, synced,
 * renamed. A symbolic link stays, and what it leads to is replaced; one that leads nowhere is
 * replaced itself. Every short write, full disk and failed close is an error that names the file.
 */
#ifndef VT_WHOLE_FILE_H
#define VT_WHOLE_FILE_H

#include "kernels/status.h"

typedef struct {
    const void *data;
    size_t bytes;
} vt_file_part;

/* Writes the parts one after the other. On failure whatever was at `path` is as it was. */
int vt_write_file(const char *path, const vt_file_part *part, int parts, vt_status *st);

#endif
