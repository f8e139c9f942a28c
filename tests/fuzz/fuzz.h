/* What the fuzz targets share. A target is one file, target_NAME.c, with one function, fuzz_one, and
 * perhaps a mutator that knows the format. fuzz.c calls it and holds it to the limits; mutate.c
 * helps mutators. Built with libFuzzer (make fuzz), or with replay.c, which runs given inputs.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The target: whatever the bytes are, it returns. Keeps nothing for the next input. */
void fuzz_one(const uint8_t *data, size_t size);
extern const double fuzz_seconds; /* of processor time that an input may take; the target's */

/* Ends the program with `what`: a finding. */
void fuzz_require(bool holds, const char *what);

/* The path of a file in memory with these bytes, of slot 0 to 3; good until the slot's next use. */
const char *fuzz_file(int slot, const uint8_t *data, size_t size);

/* The input in parts that a NUL byte separates; the last part takes the rest. Missing parts are
 * empty. Parts are NUL-terminated copies, for fuzz_parts_free. */
typedef struct {
    char *text[4];
    size_t size[4];
} fuzz_parts;
void fuzz_split(fuzz_parts *parts, int count, const uint8_t *data, size_t size);
void fuzz_parts_free(fuzz_parts *parts);

/* Cuts `text` into its lines in place: at most `most`, returns how many. */
int fuzz_lines(char *text, const char **line, int most);

/* ---- for mutators ---- */
typedef struct {
    uint64_t state;
} fuzz_random;

fuzz_random fuzz_seeded(unsigned seed);
unsigned fuzz_below(fuzz_random *r, unsigned n); /* 0 to n - 1; n > 0 */

/* The bytes being mutated. */
typedef struct {
    uint8_t *data;
    size_t size, most;
} fuzz_buffer;

/* Puts `with` in the place of [at, at + length); does nothing where there is no room. */
bool fuzz_replace(fuzz_buffer *b, size_t at, size_t length, const void *with, size_t size);
/* libFuzzer's own mutation of [at, at + length) alone; returns the new length. */
size_t fuzz_mutate_within(fuzz_buffer *b, size_t at, size_t length);
/* Replaces one of the decimal numbers in [at, at + length), or does nothing where there is none;
 * returns the new length. */
size_t fuzz_mutate_number(fuzz_buffer *b, size_t at, size_t length, fuzz_random *r);

#endif
