/* What calls of the public interface have in common: the error they fill, arguments that must be
 * there, and the process that they run in. */
#include "engine/session.h"

#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(((vitrun_error *)0)->message) == sizeof(((vt_status *)0)->text),
               "the two error texts have one length");

int vitrun_fail(vitrun_error *err, const vt_status *st)
{
    if (!err)
        return -1;
    err->code = (vitrun_code)st->code;
    memcpy(err->message, st->text, sizeof err->message);
    return -1;
}

int vitrun_need(const void *argument, const char *name, vitrun_error *err)
{
    vt_status st;
    if (argument)
        return 0;
    vt_fail(&st, VT_USAGE, "%s is NULL", name);
    return vitrun_fail(err, &st);
}

int vitrun_check_list(const char *const *item, int count, const char *name, vt_status *st)
{
    if (count < 0 || (count > 0 && !item))
        return vt_fail(st, VT_USAGE, "%s: %d texts%s", name, count, item ? "" : " in a NULL list");
    for (int i = 0; i < count; i++)
        if (!item[i])
            return vt_fail(st, VT_USAGE, "%s: text %d of %d is NULL", name, i, count);
    return 0;
}

/* What OpenMP keeps of a thread's team is copied when that thread forks, the team's threads are
 * not: the child would wait for them for ever. Nor has it the parent's GPU. */
int vitrun_check_process(bool binds, vt_status *st)
{
    static _Thread_local pid_t bound_to;
    if (bound_to && bound_to != getpid())
        return vt_fail(
            st, VT_USAGE,
            "this process was forked by a thread that had run vitrun on several threads or "
            "on a GPU: it must call exec first");
    if (binds)
        bound_to = getpid();
    return 0;
}

bool vitrun_binds(const vt_device *dev)
{
    return dev->threads > 1 || !dev->host_memory;
}
