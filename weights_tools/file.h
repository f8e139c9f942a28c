/* Reading files that strangers made: by descriptor, never mapped. Regular files only, but for
 * texts, which pipes may give too. */
#ifndef VT_FILE_H
#define VT_FILE_H

#include "kernels/status.h"

#include <sys/stat.h>

/* What decides whether a file is still the one that was opened. */
typedef struct {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec mtime;
} vt_file_id;

/* Opens for reading and tells in *info what it is. A folder succeeds too where `folder` is given,
 * and sets it; anything else that is no regular file is refused. Returns a descriptor or -1. */
int vt_file_open(const char *path, bool *folder, vt_file_id *id, vt_status *st);

/* Exactly `bytes` bytes from `offset`; a shorter file is an error. */
int vt_file_read(int fd, const char *path, uint64_t offset, void *out, size_t bytes, vt_status *st);

/* 0 if the descriptor's file still is what *id says. */
int vt_file_same(int fd, const char *path, const vt_file_id *id, vt_status *st);

/* The whole file, NUL-terminated, *bytes long without the NUL; more than `limit` bytes are refused.
 * A pipe is read until its writers have closed it; one that nobody has open for writing is empty.
 * Freed with vt_free. */
char *vt_file_text(const char *path, size_t limit, size_t *bytes, vt_status *st);

/* 1 where something has that name, 0 where nothing has, -1 where that cannot be told. */
int vt_file_there(const char *path, vt_status *st);

bool vt_ends_with(const char *path, const char *ending);

/* "FOLDER/NAME", freed with vt_free. */
char *vt_file_join(const char *folder, const char *name, vt_status *st);

#endif
