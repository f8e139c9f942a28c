/* Calls that may fail, made to fail: memory and files, for programs that are linked with faults.o.
 *
 * The program's own malloc, open, read, ... stand before those of the C library, for it and for
 * every library that it uses. Each counts, and fails where it is told to. The product knows nothing
 * of it. What is not made to fail: the OpenMP runtime, which ends the program where it has no
 * memory; and the dynamic linker.
 */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    FAULT_MEMORY = 1,
    FAULT_FILES = 2, /* opening, reading, writing, closing, names, folders */
} fault_kind;

enum { FAULT_SHORT = -1 /* as an error: reads and writes do half of what was asked for */ };

typedef struct {
    fault_kind kind;
    int error;             /* errno of a file's call that fails, or FAULT_SHORT */
    long nth;              /* the call that fails, from 1 on */
    bool onward;           /* and every later one */
    void (*instead)(void); /* called before that call, which then does not fail; or NULL */
} fault_plan;

/* From now on calls of the plan's kind are counted and fail as planned. */
void fault_arm(const fault_plan *plan);
/* Nothing fails any more. Returns how many calls have failed. */
long fault_disarm(void);
/* The first call that failed: its name, and its caller's place in the program for addr2line. */
const char *fault_place(void);
/* The file that it was to open; "" where it was another call. */
const char *fault_opening(void);
/* Blocks of memory that are in use, and open files: compared before and after. */
long fault_blocks(void);
int fault_open_files(void);

#endif
