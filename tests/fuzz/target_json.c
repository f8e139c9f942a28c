/* The JSON reader against jansson's: both take the same texts, to the same values. Only where anything
 * may follow may ours take more: of "00" the first digit. jansson takes a NUL byte for the end.
 *
 *   byte 0: flags | the text
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "weights_tools/json_decode.h"

const double fuzz_seconds = 1;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

void fuzz_one(const uint8_t *data, size_t size)
{
    if (size == 0)
        return;
    size_t flags = JSON_REJECT_DUPLICATES | (data[0] & 1 ? JSON_DECODE_ANY : 0) |
                   (data[0] & 2 ? JSON_DISABLE_EOF_CHECK : 0);
    const char *text = (const char *)data + 1;
    json_error_t ours, theirs;
    json_t *a = vt_json_decode(text, size - 1, flags, &ours);
    json_t *b = json_loadb(text, size - 1, flags, &theirs);
    bool has_nul = size > 1 && memchr(text, 0, size - 1);
    fuzz_require(a || !b || has_nul, "refused, but not by jansson");
    fuzz_require(b || !a || flags & JSON_DISABLE_EOF_CHECK, "taken, but not by jansson");
    fuzz_require(!a || !b || json_equal(a, b), "read as another value than by jansson");
    fuzz_require(!a || !b || ours.position == theirs.position, "reading ended elsewhere");
    fuzz_require(a || (ours.text[0] && memchr(ours.text, 0, sizeof ours.text)),
                 "refused without a word");
    json_decref(a);
    json_decref(b);
}

/* One time in four a number is changed. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    fuzz_buffer b = {data, size, most};
    fuzz_random r = fuzz_seeded(seed);
    if (size > 1 && fuzz_below(&r, 4) == 0)
        fuzz_mutate_number(&b, 1, size - 1, &r);
    else
        fuzz_mutate_within(&b, 0, size);
    return b.size ? b.size : 1;
}
