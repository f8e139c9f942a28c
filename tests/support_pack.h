/* Reader of the packs in tests/golden/ (written by weights_tools/make_image_golden.py): records,
 * each a line "NAME | size size ...\n" and that many blobs. Also the pictures and the hash that the
 * generator shares with the tests.
 */
#ifndef TESTS_SUPPORT_PACK_H
#define TESTS_SUPPORT_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *bytes; /* the whole file */
    size_t size, at;
    char name[512]; /* of the current record */
    const uint8_t *blob[4];
    size_t length[4];
} golden_pack;

/* Each aborts the test program with a message where the pack is absent or broken. */
void pack_open(golden_pack *p, const char *path);
bool pack_next(golden_pack *p); /* false after the last record */
void pack_close(golden_pack *p);

uint64_t fnv1a(const void *data, size_t size);

/* Fails the test unless `data` is blob `i` of the record, or hashes to it where it is a hash. */
void pack_check(const golden_pack *p, int i, const void *data, size_t size);

/* [height, width, 3] of "noise" (random bytes) or "hard" (random 0 and 255); free(). */
uint8_t *test_picture(int width, int height, const char *kind, uint32_t seed);

#endif
