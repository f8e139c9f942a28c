/* Progress and cancelling: see watch.h. */
#include "kernels/watch.h"

void vt_watch_open(vt_watch *w, vt_watch_fn fn, void *user)
{
    w->fn = fn;
    w->user = user;
    w->what = "";
    w->done = w->total = 0;
    atomic_init(&w->stopped, false);
    pthread_mutex_init(&w->lock, NULL);
}

void vt_watch_close(vt_watch *w)
{
    pthread_mutex_destroy(&w->lock);
}

void vt_watch_tell(vt_watch *w, vt_watch_fn fn, void *user)
{
    pthread_mutex_lock(&w->lock);
    w->fn = fn;
    w->user = user;
    pthread_mutex_unlock(&w->lock);
}

/* Under the lock, also while fn runs: two threads' calls neither overlap nor overtake each other.
 */
static void tell(vt_watch *w, uint64_t done)
{
    w->done = done < w->total ? done : w->total;
    if (w->fn && w->fn(w->user, w->what, w->done, w->total))
        atomic_store(&w->stopped, true);
}

void vt_watch_begin(vt_watch *w, const char *what, uint64_t total)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->what = what;
    w->total = total;
    tell(w, 0);
    pthread_mutex_unlock(&w->lock);
}

void vt_watch_step(vt_watch *w, uint64_t steps)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    tell(w, w->done + steps);
    pthread_mutex_unlock(&w->lock);
}

void vt_watch_end(vt_watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    if (w->done < w->total)
        tell(w, w->total);
    pthread_mutex_unlock(&w->lock);
}

void vt_watch_stop(vt_watch *w, bool on)
{
    atomic_store(&w->stopped, on);
}

int vt_watch_stopped(vt_watch *w, vt_status *st)
{
    if (w && atomic_load(&w->stopped))
        return vt_fail(st, VT_CANCELLED, "cancelled");
    return 0;
}
