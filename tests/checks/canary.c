/* Commits the fault that it is told to: how tests/checks/awake.sh sees that a checking tool is at work.
 *
 *   canary overflow | overflow_sum | uninitialised | race
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    const char *fault = argc == 2 ? argv[1] : "";
    volatile int room = 4, *p = malloc(sizeof(int) * (size_t)room), sum = argc;
    if (strcmp(fault, "overflow") == 0)
        p[room] = 1;
    else if (strcmp(fault, "overflow_sum") == 0)
        sum = INT_MAX + argc;
    else if (strcmp(fault, "uninitialised") == 0) {
        if (p[1] > 0)
            p[0] = 1;
    } else if (strcmp(fault, "race") == 0) {
#pragma omp parallel for num_threads(4)
        for (int i = 0; i < 1000; i++)
            sum += i;
    } else
        return fprintf(stderr, "usage: canary overflow|overflow_sum|uninitialised|race\n"), 2;
    free((void *)p);
    return sum == 0;
}
