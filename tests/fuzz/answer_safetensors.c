/* Answers for many safetensors files, for differential.py: reads files from standard input, each
 * after its length (u32, little-endian), and writes a line for each:
 *
 *   refused TEXT
 *   accepted METADATA TENSOR ...    METADATA: the entry "format" in hexadecimal, or -
 *                                   TENSOR: NAME in hexadecimal:TYPE:D0xD1...:BEGIN:END
 *
 * BEGIN and END count from the start of the file.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights_tools/safetensors.h"

static void put_hex(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%02x", (unsigned char)text[i]);
}

static void put_tensor(const st_tensor *t)
{
    putchar(' ');
    put_hex(t->name, t->name_len);
    printf(":%s:", st_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++)
        printf("%s%" PRIu64, d ? "x" : "", t->shape[d]);
    printf(":%" PRIu64 ":%" PRIu64, t->begin, t->begin + t->bytes);
}

static void answer(const char *path)
{
    vt_status st = {0};
    st_reader *r = st_open(path, &st);
    if (!r) {
        printf("refused %s\n", st.text);
        return;
    }
    const char *format = st_metadata(r, "format");
    printf("accepted ");
    put_hex(format ? format : "-", format ? strlen(format) : 0);
    printf("%s", format ? "" : "-");
    for (size_t i = 0; i < st_count(r); i++)
        put_tensor(st_at(r, i));
    putchar('\n');
    st_close(r);
}

int main(void)
{
    enum { MOST = 64 << 20 };
    unsigned char length[4];
    char path[32];
    int fd = memfd_create("file", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    while (fread(length, 1, 4, stdin) == 4) {
        size_t n =
            length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
        char *bytes = n <= MOST ? malloc(n + 1) : NULL;
        if (!bytes || fread(bytes, 1, n, stdin) != n || ftruncate(fd, 0) != 0 ||
            pwrite(fd, bytes, n, 0) != (ssize_t)n)
            return 1;
        free(bytes);
        answer(path);
        if (n == 0) /* the end of a batch, too */
            fflush(stdout);
    }
    return 0;
}
