/* Runs whole command lines in this process: cli_main with its standard streams caught. */
#ifndef TESTS_CLI_CAPTURE_H
#define TESTS_CLI_CAPTURE_H

#include <stddef.h>

typedef struct {
    int status;
    size_t out_size; /* bytes on standard output */
    int lines;       /* on standard error */
    char err[4096];  /* what stands there, as much as fits */
} captured;

void capture_run(captured *c, int argc, char **argv);

/* NULL, or what is wrong: a failure says one line, "vitrun: ...", and nothing on standard output;
 * with `several` inputs, one or more. */
const char *capture_fault(const captured *c, int several);

#endif
