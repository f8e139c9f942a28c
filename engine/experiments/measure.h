/* What every measurement needs: a clock, the spread of samples, an error of one's own. */
#ifndef VTE_MEASURE_H
#define VTE_MEASURE_H

#include <stdio.h>

#include <jansson.h>

#include "engine/vitrun.h"

#if defined(__GNUC__)
#define VTE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define VTE_PRINTF(fmt, args)
#endif

/* Sets code and message. Always returns -1. */
int vte_fail(vitrun_error *err, vitrun_code code, const char *fmt, ...) VTE_PRINTF(3, 4);

/* Puts "PATH: " before the message, of a long path its end; "-" is called standard input. Always
 * returns -1. */
int vte_prefix(vitrun_error *err, const char *path);

/* Ends a text that was written to f, an open_memstream, and returns it, to be freed; NULL where any
 * of it was lost for want of memory, or f is NULL. */
char *vte_text_end(FILE *f, char **text);
/* The value as a text, to be freed; NULL where memory is short. */
char *vte_json_encode(const json_t *value, size_t flags);

/* "PATH: what errno says", the fault of the machine or of the path (VITRUN_INPUT). Always -1. */
int vte_fail_file(vitrun_error *err, const char *path);

/* The candidate nearest to `text`, or NULL where none is near. Longer names are near to nothing. */
enum { VTE_LONGEST_NAME = 48 };
const char *vte_nearest(const char *text, const char *const *candidates, int count);

/* Steps over the next range of a list of heads such as "0-3,5"; 0 at its end. */
int vte_next_range(const char **list, int *first, int *last);

double vte_now_ms(void); /* of a clock that only goes forward */

typedef struct {
    int count;
    double median, min, p90, max; /* p90: the smallest sample that 90 % do not exceed */
} vte_spread;

/* Sorts the `count` >= 1 samples. */
vte_spread vte_spread_of(double *samples, int count);

/* Bytes that new work may take without pushing other work out of RAM; 0 where nothing tells. */
uint64_t vte_available_memory(void);

/* The most memory that this process ever held in RAM, in bytes. */
uint64_t vte_resident_peak(void);

#endif
