/* Clock, spread of samples, resident peak. */
#include "engine/experiments/measure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "weights_tools/blame.h"
#include "weights_tools/json_decode.h"

int vte_fail(vitrun_error *err, vitrun_code code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    err->code = code;
    return -1;
}

int vte_fail_file(vitrun_error *err, const char *path)
{
    return vte_fail(err, vt_machine_fault(errno) ? VITRUN_MACHINE : VITRUN_INPUT, "%s: %s", path,
                    strerror(errno));
}

int vte_prefix(vitrun_error *err, const char *path)
{
    enum { SHOWN = 160 };
    char old[sizeof err->message];
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path, *dots = "";
    size_t length = strlen(name);
    if (length > SHOWN) {
        dots = "...";
        name += length - SHOWN;
        while (((unsigned char)*name & 0xc0) == 0x80) /* not from the middle of a character */
            name++;
    }
    memcpy(old, err->message, sizeof old);
    return vte_fail(err, err->code, "%s%s: %s", dots, name, old);
}

char *vte_text_end(FILE *f, char **text)
{
    int lost = f && ferror(f);
    if (f && (fclose(f) != 0 || lost)) {
        free(*text);
        *text = NULL;
    }
    return *text;
}

char *vte_json_encode(const json_t *value, size_t flags)
{
    return vt_json_encode(value, flags);
}

int vte_next_range(const char **list, int *first, int *last)
{
    int used;
    if (sscanf(*list, "%9d%n", first, &used) != 1)
        return 0;
    *list += used;
    *last = *first;
    if (**list == '-' && sscanf(*list + 1, "%9d%n", last, &used) == 1)
        *list += used + 1;
    *list += **list == ',';
    return 1;
}

double vte_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

vte_spread vte_spread_of(double *samples, int count)
{
    qsort(samples, (size_t)count, sizeof *samples, by_value);
    int middle = count / 2;
    return (vte_spread){
        .count = count,
        .median = count % 2 ? samples[middle] : 0.5 * (samples[middle - 1] + samples[middle]),
        .min = samples[0],
        .p90 = samples[(9 * count + 9) / 10 - 1],
        .max = samples[count - 1],
    };
}

uint64_t vte_available_memory(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

uint64_t vte_resident_peak(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (uint64_t)usage.ru_maxrss * 1024;
}
