/* What the program writes: results are held in memory and reach standard output whole; notes wait
 * for success; an error is one line at once. JSON numbers have 9 digits and are always finite. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/cli/cli.h"

enum { CLOSED_PIPE = 141 }; /* what a shell reports for a program that SIGPIPE ended */

/* ---- memory ---- */
void cli_out_of_memory(void)
{
    cli_print_error("out of memory");
    exit(VITRUN_MACHINE);
}

void *cli_alloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        cli_out_of_memory();
    return p;
}

char *cli_format_list(const char *fmt, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0)
        cli_out_of_memory();
    return text;
}

char *cli_format(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = cli_format_list(fmt, args);
    va_end(args);
    return text;
}

FILE *cli_memory_stream(char **text, size_t *size)
{
    FILE *f = open_memstream(text, size);
    if (!f)
        cli_out_of_memory();
    return f;
}

/* ---- streams ---- */
void cli_io_open(cli_io *io)
{
    *io = (cli_io){.start_ms = vte_now_ms()};
    io->out = cli_memory_stream(&io->out_text, &io->out_size);
    io->notes = cli_memory_stream(&io->notes_text, &io->notes_size);
}

void cli_io_close(cli_io *io)
{
    fclose(io->out);
    fclose(io->notes);
    free(io->out_text);
    free(io->notes_text);
}

static int write_all(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        text += n;
        size -= (size_t)n;
    }
    return 0;
}

int cli_commit(cli_io *io, vitrun_error *err)
{
    if (fflush(io->out) != 0 || ferror(io->out))
        return vte_fail(err, VITRUN_MACHINE, "out of memory (results)");
    cli_progress_clear(io);
    cli_protect(1);
    int bad = write_all(io->out_text, io->out_size), why = errno;
    cli_protect(0);
    rewind(io->out);
    if (bad && why == EPIPE) {
        err->code = (vitrun_code)CLOSED_PIPE;
        err->message[0] = '\0';
        return -1;
    }
    return bad ? vte_fail(err, VITRUN_MACHINE, "standard output: %s", strerror(why)) : 0;
}

void cli_print_notes(cli_io *io)
{
    if (fflush(io->notes) == 0)
        fwrite(io->notes_text, 1, io->notes_size, stderr);
}

void cli_puts_escaped(const char *text, FILE *f)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f)
            fprintf(f, "\\x%02x", c);
        else
            fputc(c, f);
    }
}

void cli_warn(cli_io *io, const char *message)
{
    fputs("vitrun: warning: ", io->notes);
    cli_puts_escaped(message, io->notes);
    fputc('\n', io->notes);
}

void cli_print_error(const char *message)
{
    fputs("vitrun: ", stderr);
    cli_puts_escaped(message, stderr);
    fputc('\n', stderr);
}

void cli_progress(cli_io *io, size_t done, size_t total, const char *what)
{
    enum { QUIET_MS = 2000, INTERVAL_MS = 200 };
    double now = vte_now_ms();
    if (io->phase_ms == 0 || done <= io->progress_done) { /* another piece of work has begun */
        io->phase_ms = now;
        io->phase_done = done;
    }
    io->progress_done = done;
    if (now - io->start_ms < QUIET_MS || now - io->progress_ms < INTERVAL_MS || !isatty(2))
        return;
    io->progress_ms = now;
    io->progress_shown = 1;
    fprintf(stderr, "\r%zu of %zu %s", done, total, what);
    if (done > io->phase_done && total > done) {
        double each = (now - io->phase_ms) / (double)(done - io->phase_done);
        long left = (long)(each * (double)(total - done) / 1e3);
        fprintf(stderr, ", %ld:%02ld left", left / 60, left % 60);
    }
    fputs("\033[K", stderr);
}

void cli_progress_clear(cli_io *io)
{
    if (io->progress_shown)
        fputs("\r\033[K", stderr);
    io->progress_shown = 0;
}

/* ---- JSON ---- */
static const size_t layout = JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY;

static json_t *made(json_t *value)
{
    if (!value)
        cli_out_of_memory();
    return value;
}

static void dump(cli_io *io, json_t *value)
{
    if (json_dumpf(value, io->out, layout) != 0)
        cli_out_of_memory();
    json_decref(value);
}

void cli_json_begin(cli_io *io)
{
    fputc('{', io->out);
    io->keys = 0;
}

static void key_of(cli_io *io, const char *key)
{
    fprintf(io->out, "%s\"%s\": ", io->keys++ ? ",\n " : "", key);
}

void cli_json_put(cli_io *io, const char *key, json_t *value)
{
    if (json_is_array(value) && json_is_object(json_array_get(value, 0))) {
        cli_json_array(io, key);
        for (size_t i = 0; i < json_array_size(value); i++)
            cli_json_element(io, json_incref(json_array_get(value, i)));
        cli_json_array_end(io);
        json_decref(value);
        return;
    }
    key_of(io, key);
    dump(io, value);
}

void cli_json_array(cli_io *io, const char *key)
{
    key_of(io, key);
    fputc('[', io->out);
    io->items = 0;
}

void cli_json_element(cli_io *io, json_t *value)
{
    fputs(io->items++ ? ",\n  " : "\n  ", io->out);
    dump(io, value);
}

void cli_json_array_end(cli_io *io)
{
    fputs(io->items ? "\n ]" : "]", io->out);
}

void cli_json_end(cli_io *io)
{
    fputs("}\n", io->out);
}

json_t *cli_object(void)
{
    return made(json_object());
}

json_t *cli_array(void)
{
    return made(json_array());
}

void cli_append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) != 0)
        cli_out_of_memory();
}

void cli_set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) != 0)
        cli_out_of_memory();
}

json_t *cli_real(double x)
{
    return isfinite(x) ? made(json_real(x)) : json_null();
}

json_t *cli_integer(uint64_t x)
{
    return made(json_integer((json_int_t)x));
}

/* Length of the well-formed UTF-8 sequence at p, 0 where there is none. */
static size_t utf8_length(const unsigned char *p)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (n < 2)
        return n;
    unsigned code = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        code = code << 6 | (p[i] & 0x3fu);
    }
    return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

json_t *cli_text(const char *text)
{
    if (!text)
        return json_null();
    char *clean = cli_alloc(strlen(text) + 1, 3), *at = clean;
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t n = utf8_length(p);
        memcpy(at, n ? (const char *)p : "\xef\xbf\xbd", n ? n : 3);
        at += n ? n : 3;
        p += n ? n : 1;
    }
    json_t *value = made(json_string(clean));
    free(clean);
    return value;
}

/* ---- amounts ---- */
const char *cli_bytes(char *buffer, uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double x = (double)bytes;
    int u = 0;
    for (; x >= 1024 && u < 6; u++)
        x /= 1024;
    snprintf(buffer, CLI_AMOUNT, u ? "%.1f %s" : "%.0f %s", x, unit[u]);
    return buffer;
}

const char *cli_time(char *buffer, double ms)
{
    if (ms >= 1000)
        snprintf(buffer, CLI_AMOUNT, "%.2f s", ms / 1000);
    else
        snprintf(buffer, CLI_AMOUNT, ms >= 100 ? "%.0f ms" : ms >= 1 ? "%.1f ms" : "%.3f ms", ms);
    return buffer;
}

const char *cli_count(char *buffer, uint64_t n)
{
    char digits[CLI_AMOUNT];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            buffer[at++] = ',';
        buffer[at++] = digits[i];
    }
    buffer[at] = '\0';
    return buffer;
}
