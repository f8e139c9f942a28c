/* Who looks on while something long runs, and may end it: progress and cancelling.
 *
 * A watch serves one job at a time, whose threads may all step it and ask whether to go on. That it
 * was stopped holds until it is taken back (vt_watch_stop), so that no wish to stop is lost. A NULL
 * watch is one that nobody looks through.
 */
#ifndef VT_WATCH_H
#define VT_WATCH_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/status.h"

typedef struct vt_watch vt_watch;

/* Is told that `done` of `total` steps of `what` are done; not 0: stop. */
typedef int (*vt_watch_fn)(void *user, const char *what, uint64_t done, uint64_t total);

struct vt_watch {
    vt_watch_fn fn; /* NULL: nobody is told */
    void *user;
    pthread_mutex_t lock; /* calls of fn come one by one, with `done` growing */
    const char *what;
    uint64_t done, total;
    atomic_bool stopped;
};

void vt_watch_open(vt_watch *w, vt_watch_fn fn, void *user);
void vt_watch_close(vt_watch *w);
/* Another function from now on. */
void vt_watch_tell(vt_watch *w, vt_watch_fn fn, void *user);

/* A job of `total` steps begins; `steps` more of them are done; all are. */
void vt_watch_begin(vt_watch *w, const char *what, uint64_t total);
void vt_watch_step(vt_watch *w, uint64_t steps);
void vt_watch_end(vt_watch *w);

/* Asks the job to stop, or takes that back. */
void vt_watch_stop(vt_watch *w, bool on);
/* 0, or fails with VT_CANCELLED where the job was asked to stop. */
int vt_watch_stopped(vt_watch *w, vt_status *st);

#endif
