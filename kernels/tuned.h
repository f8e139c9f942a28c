/* What measuring found best on a device, as texts under texts: in memory, and in a file of the user's
 * cache folder, so that the next run need not measure again. See tuned.c for the file. */
#ifndef VT_TUNED_H
#define VT_TUNED_H

#include "kernels/status.h"

typedef struct vt_tuned vt_tuned;

/* Reads the file NAME.tuned, where it is there; letters and digits of the name count, the rest become
 * '_'. NULL with st set where there is no memory. The caller closes, and locks where threads share. */
vt_tuned *vt_tuned_open(const char *name, vt_status *st);
void vt_tuned_close(vt_tuned *t); /* NULL is fine */
/* NULL where nothing is known. */
const char *vt_tuned_get(const vt_tuned *t, const char *key);
/* False where the file could not be written; in memory it is known all the same. */
bool vt_tuned_put(vt_tuned *t, const char *key, const char *value);
/* The file's path; empty where there is no folder for it. */
const char *vt_tuned_path(const vt_tuned *t);

#endif
