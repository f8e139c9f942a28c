/* See faults.h. Sanitizers bring an allocator of their own; then it is theirs that stands behind. */
#include "tests/faults/faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define CALLER (uintptr_t) __builtin_return_address(0)

/* ---- the plan ---- */
static fault_plan plan;
static atomic_bool armed;
static atomic_long calls, failed, blocks;
static _Atomic(const char *) failed_name;
static atomic_uintptr_t failed_caller;
static char opening[512];

/* Code whose allocations are left alone. */
typedef struct {
    uintptr_t begin, end;
} code;
static code exempt[4];
static int exempts;

static int note_library(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    if (!strstr(info->dlpi_name, "libgomp") && !strstr(info->dlpi_name, "/ld-"))
        return 0;
    for (int i = 0; i < info->dlpi_phnum && exempts < 4; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_LOAD && (p->p_flags & PF_X))
            exempt[exempts++] = (code){begin, begin + p->p_memsz};
    }
    return 0;
}

__attribute__((constructor)) static void note_libraries(void)
{
    dl_iterate_phdr(note_library, NULL);
}

static bool is_exempt(uintptr_t caller)
{
    for (int i = 0; i < exempts; i++)
        if (caller >= exempt[i].begin && caller < exempt[i].end)
            return true;
    return false;
}

/* Counts a call; true: it is to fail. */
static bool counts(fault_kind kind, const char *name, uintptr_t caller)
{
    if (!armed || plan.kind != kind)
        return false;
    long n = ++calls;
    if (n < plan.nth || (n > plan.nth && !plan.onward))
        return false;
    if (failed++ == 0) {
        failed_name = name;
        failed_caller = caller;
    }
    if (!plan.instead)
        return true;
    armed = false;
    plan.instead();
    return false;
}

void fault_arm(const fault_plan *p)
{
    plan = *p;
    opening[0] = '\0';
    calls = failed = 0;
    armed = true;
}

long fault_disarm(void)
{
    armed = false;
    return failed;
}

const char *fault_place(void)
{
    static char text[200];
    Dl_info info = {0};
    uintptr_t caller = failed_caller;
    if (!failed_name)
        return "no call failed";
    dladdr((void *)caller, &info);
    snprintf(text, sizeof text, "%s, called from %s+%#lx", failed_name,
             info.dli_fname ? info.dli_fname : "?",
             (unsigned long)(caller - (uintptr_t)info.dli_fbase));
    return text;
}

#pragma GCC visibility push(default)

/* ---- memory ---- */
#if defined(__has_feature)
#define CLANG_ASAN __has_feature(address_sanitizer)
#else
#define CLANG_ASAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CLANG_ASAN
#define BEHIND(name) __interceptor_##name
#define COUNTED      0 /* it has a strdup of its own, and finds leaks itself */
#else
#define BEHIND(name) __libc_##name
#define COUNTED      1
#endif
void *BEHIND(malloc)(size_t);
void *BEHIND(calloc)(size_t, size_t);
void *BEHIND(realloc)(void *, size_t);
void *BEHIND(memalign)(size_t, size_t);
void BEHIND(free)(void *);

static bool refused(const char *name, uintptr_t caller)
{
    if (is_exempt(caller) || !counts(FAULT_MEMORY, name, caller))
        return false;
    errno = ENOMEM;
    return true;
}

static void *given(void *p)
{
    blocks += p != NULL;
    return p;
}

void *malloc(size_t size)
{
    return refused("malloc", CALLER) ? NULL : given(BEHIND(malloc)(size));
}

void *calloc(size_t count, size_t size)
{
    return refused("calloc", CALLER) ? NULL : given(BEHIND(calloc)(count, size));
}

void *realloc(void *p, size_t size)
{
    if (refused("realloc", CALLER))
        return NULL;
    void *q = BEHIND(realloc)(p, size);
    return p ? q : given(q);
}

void *memalign(size_t alignment, size_t size)
{
    return refused("memalign", CALLER) ? NULL : given(BEHIND(memalign)(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return refused("aligned_alloc", CALLER) ? NULL : given(BEHIND(memalign)(alignment, size));
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *p = refused("posix_memalign", CALLER) ? NULL : given(BEHIND(memalign)(alignment, size));
    if (p)
        *out = p;
    return p ? 0 : ENOMEM;
}

void free(void *p)
{
    blocks -= p != NULL;
    BEHIND(free)(p);
}

long fault_blocks(void)
{
    return COUNTED ? blocks : 0;
}

/* ---- files ---- */

/* The C library's function of that name. */
#define NEXT(name)                                                                                 \
    static __typeof__(name) *next;                                                                 \
    if (!next)                                                                                     \
        *(void **)&next = dlsym(RTLD_NEXT, #name);

/* True: the call of that name is to fail, errno is set. What cannot be short cannot fail so. */
static bool spoilt(const char *name, uintptr_t caller)
{
    if (plan.error == FAULT_SHORT || !counts(FAULT_FILES, name, caller))
        return false;
    errno = plan.error;
    return true;
}

/* The bytes that a read or write may move: fewer where it is to be short. */
static size_t cut(const char *name, size_t bytes, uintptr_t caller)
{
    if (plan.error == FAULT_SHORT && bytes > 1 && counts(FAULT_FILES, name, caller))
        return bytes / 2;
    return bytes;
}

#define OR_FAIL(result, name, ...)                                                                 \
    NEXT(name)                                                                                     \
    return spoilt(#name, CALLER) ? (result) : next(__VA_ARGS__)

const char *fault_opening(void)
{
    return opening;
}

static mode_t mode_of(int flags, va_list *args)
{
    return flags & O_CREAT ? va_arg(*args, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, &args);
    va_end(args);
    if (armed && plan.kind == FAULT_FILES && calls + 1 == plan.nth)
        snprintf(opening, sizeof opening, "%s", path);
    OR_FAIL(-1, open, path, flags, mode);
}

/* Closed all the same, as Linux does it. */
int close(int fd)
{
    NEXT(close)
    int rc = next(fd);
    return spoilt("close", CALLER) ? -1 : rc;
}

ssize_t read(int fd, void *to, size_t bytes)
{
    bytes = cut("read", bytes, CALLER);
    OR_FAIL(-1, read, fd, to, bytes);
}

ssize_t pread(int fd, void *to, size_t bytes, off_t at)
{
    bytes = cut("pread", bytes, CALLER);
    OR_FAIL(-1, pread, fd, to, bytes, at);
}

ssize_t write(int fd, const void *from, size_t bytes)
{
    bytes = cut("write", bytes, CALLER);
    OR_FAIL(-1, write, fd, from, bytes);
}

int fsync(int fd)
{
    OR_FAIL(-1, fsync, fd);
}

int ftruncate(int fd, off_t size)
{
    OR_FAIL(-1, ftruncate, fd, size);
}

off_t lseek(int fd, off_t at, int whence)
{
    OR_FAIL(-1, lseek, fd, at, whence);
}

int dup(int fd)
{
    OR_FAIL(-1, dup, fd);
}

int flock(int fd, int how)
{
    OR_FAIL(-1, flock, fd, how);
}

int stat(const char *path, struct stat *s)
{
    OR_FAIL(-1, stat, path, s);
}

int fstat(int fd, struct stat *s)
{
    OR_FAIL(-1, fstat, fd, s);
}

int access(const char *path, int how)
{
    OR_FAIL(-1, access, path, how);
}

int rename(const char *from, const char *to)
{
    OR_FAIL(-1, rename, from, to);
}

int unlink(const char *path)
{
    OR_FAIL(-1, unlink, path);
}

int mkdir(const char *path, mode_t mode)
{
    OR_FAIL(-1, mkdir, path, mode);
}

char *realpath(const char *path, char *to)
{
    OR_FAIL(NULL, realpath, path, to);
}

DIR *opendir(const char *path)
{
    OR_FAIL(NULL, opendir, path);
}

struct dirent *readdir(DIR *d)
{
    OR_FAIL(NULL, readdir, d);
}

int scandir(const char *path, struct dirent ***list, int (*keep)(const struct dirent *),
            int (*order)(const struct dirent **, const struct dirent **))
{
    OR_FAIL(-1, scandir, path, list, keep, order);
}

/* ---- streams of files: over the calls above, which the C library's own would pass by ---- */
static ssize_t stream_read(void *cookie, char *to, size_t bytes)
{
    return read((int)(intptr_t)cookie, to, bytes);
}

static ssize_t stream_write(void *cookie, const char *from, size_t bytes)
{
    ssize_t n = write((int)(intptr_t)cookie, from, bytes);
    return n < 0 ? 0 : n; /* what such a stream is to return on failure */
}

static int stream_seek(void *cookie, off64_t *at, int whence)
{
    *at = lseek((int)(intptr_t)cookie, *at, whence);
    return *at < 0 ? -1 : 0;
}

static int stream_close(void *cookie)
{
    return close((int)(intptr_t)cookie);
}

FILE *fdopen(int fd, const char *mode)
{
    return fopencookie(
        (void *)(intptr_t)fd, mode,
        (cookie_io_functions_t){stream_read, stream_write, stream_seek, stream_close});
}

FILE *fopen(const char *path, const char *mode)
{
    int flags = *mode == 'r' ? O_RDONLY : O_WRONLY | O_CREAT | (*mode == 'w' ? O_TRUNC : O_APPEND);
    int fd = open(path, flags | O_CLOEXEC, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, mode);
    if (fd >= 0 && !f)
        close(fd);
    return f;
}

#pragma GCC visibility pop

int fault_open_files(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}
