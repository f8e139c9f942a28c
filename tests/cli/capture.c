/* See capture.h. The streams are files in memory meanwhile, standard input is /dev/null. */
#include "tests/cli/capture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/cli/cli.h"

/* A sanitizer's report must not be caught. */
#pragma weak __sanitizer_set_report_fd
void __sanitizer_set_report_fd(void *fd);

enum { STREAMS = 3 };
static int caught[STREAMS], real[STREAMS];

static void start(void)
{
    caught[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    caught[1] = memfd_create("out", MFD_CLOEXEC);
    caught[2] = memfd_create("err", MFD_CLOEXEC);
    for (int i = 0; i < STREAMS; i++)
        real[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
    if (__sanitizer_set_report_fd)
        __sanitizer_set_report_fd((void *)(size_t)real[2]);
}

static void point_streams_to(const int *fd)
{
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < STREAMS; i++)
        if (dup2(fd[i], i) < 0)
            abort();
}

void capture_run(captured *c, int argc, char **argv)
{
    if (!caught[2])
        start();
    for (int i = 1; i < STREAMS; i++)
        if (ftruncate(caught[i], 0) != 0 || lseek(caught[i], 0, SEEK_SET) != 0)
            abort();
    point_streams_to(caught);
    c->status = cli_main(argc, argv);
    point_streams_to(real);
    ssize_t n = pread(caught[2], c->err, sizeof c->err - 1, 0);
    c->err[n < 0 ? 0 : n] = 0;
    c->out_size = (size_t)lseek(caught[1], 0, SEEK_END);
    c->lines = 0;
    for (const char *p = c->err; (p = strchr(p, '\n')); p++)
        c->lines++;
}

const char *capture_fault(const captured *c, int several)
{
    if (c->status < 0 || c->status > 3)
        return "an exit status that is not documented";
    if (c->status == 0)
        return NULL;
    if (strncmp(c->err, "vitrun: ", 8) != 0)
        return "a failure that does not say vitrun: ...";
    if (!several && c->lines != 1)
        return "a failure of other than one line";
    return !several && c->out_size > 0 ? "a failure with something on standard output" : NULL;
}
