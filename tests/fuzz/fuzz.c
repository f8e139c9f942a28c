/* The frame around a target: libFuzzer's entry points and the limits of a run.
 *
 * An input may take fuzz_seconds of processor time and MEMORY bytes at any moment, whatever it says
 * about itself. Both are counted here: libFuzzer's own limits know wall-clock time, which other
 * programs on the machine stretch, and memory that was touched.
 */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 256 << 20, SLOTS = 4 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of the sanitizers' runtime; absent without it. */
#pragma weak __sanitizer_install_malloc_and_free_hooks
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));
#pragma weak __sanitizer_get_allocated_size
size_t __sanitizer_get_allocated_size(const volatile void *p);

static _Thread_local bool is_running;
static size_t held;

void fuzz_require(bool holds, const char *what)
{
    if (holds)
        return;
    is_running = false;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

static void on_malloc(const volatile void *p, size_t size)
{
    (void)p;
    if (!is_running)
        return;
    held += size;
    fuzz_require(held <= MEMORY, "the input makes it hold more than 256 MiB");
}

static void on_free(const volatile void *p)
{
    size_t size = is_running && p ? __sanitizer_get_allocated_size(p) : 0;
    held -= size < held ? size : held;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (__sanitizer_install_malloc_and_free_hooks)
        __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    return 0;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    double start = cpu_seconds();
    held = 0;
    is_running = true;
    fuzz_one(data, size);
    is_running = false;
    fuzz_require(cpu_seconds() - start < fuzz_seconds, "the input takes too long");
    return 0;
}

const char *fuzz_file(int slot, const uint8_t *data, size_t size)
{
    static int fd[SLOTS];
    static char path[SLOTS][32];
    if (fd[slot] == 0) {
        fd[slot] = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path[slot], sizeof path[slot], "/proc/self/fd/%d", fd[slot]);
    }
    bool good = fd[slot] > 0 && ftruncate(fd[slot], 0) == 0 &&
                pwrite(fd[slot], data, size, 0) == (ssize_t)size;
    fuzz_require(good, "no file in memory for the input");
    return path[slot];
}

void fuzz_split(fuzz_parts *parts, int count, const uint8_t *data, size_t size)
{
    for (int i = 0; i < count; i++) {
        const uint8_t *end = size > 0 && i + 1 < count ? memchr(data, 0, size) : NULL;
        size_t n = end ? (size_t)(end - data) : size;
        parts->text[i] = malloc(n + 1);
        if (n > 0)
            memcpy(parts->text[i], data, n);
        parts->text[i][n] = 0;
        parts->size[i] = n;
        size_t used = n + (end != NULL);
        data += used;
        size -= used;
    }
    for (int i = count; i < 4; i++)
        parts->text[i] = NULL;
}

void fuzz_parts_free(fuzz_parts *parts)
{
    for (int i = 0; i < 4; i++)
        free(parts->text[i]);
}

int fuzz_lines(char *text, const char **line, int most)
{
    int n = 0;
    while (*text && n < most) {
        line[n++] = text;
        text += strcspn(text, "\n");
        if (*text)
            *text++ = 0;
    }
    return n;
}
