/* Whose fault it is that a file cannot be had: an errno -> the machine's, or that of the name or
 * file that was given. */
#ifndef VT_BLAME_H
#define VT_BLAME_H

#include <errno.h>
#include <stdbool.h>

static inline bool vt_machine_fault(int error)
{
    return error == ENOMEM || error == EMFILE || error == ENFILE || error == EIO ||
           error == ENOSPC || error == EINTR;
}

#endif
