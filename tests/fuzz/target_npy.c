/* Mask files: .npy above all; safetensors and PNG come by their content.
 *
 *   byte 0: head, and whether a tensor is named | the file
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "engine/masks/pattern.h"

const double fuzz_seconds = 1;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

void fuzz_one(const uint8_t *data, size_t size)
{
    static const int sizes[] = {4, 5, 0};
    if (size == 0)
        return;
    vt_mask_matrix m;
    vt_status st = {0};
    const char *tensor = data[0] & 2 ? "m" : NULL;
    int rc = vt_mask_file_load(&m, fuzz_file(0, data + 1, size - 1), tensor, sizes,
                               "which fits nothing", 2, data[0] & 1, &st);
    if (rc != 0) {
        fuzz_require(st.code == VT_INPUT && st.text[0] && !strchr(st.text, '\n') && !m.bits,
                     "refused, but not in one line");
        return;
    }
    fuzz_require(m.size == 4 || m.size == 5, "a size that was not asked for");
    for (int i = 0; i < m.size; i++)
        fuzz_require(m.bits[i] >> m.size == 0, "bits beyond the last column");
    vt_free(m.bits);
}

/* Keeps the header's length right while its text changes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    fuzz_buffer b = {data, size, most};
    fuzz_random r = fuzz_seeded(seed);
    unsigned way = fuzz_below(&r, 8);
    size_t n = size > 11 ? (size_t)data[9] | (size_t)data[10] << 8 : 0;
    if (size < 12 || data[1] != 0x93 || data[7] != 1 || n > size - 11 || way == 0)
        return fuzz_mutate_within(&b, 0, size) ? b.size : 1;
    if (way == 1) {
        fuzz_mutate_within(&b, 11 + n, size - 11 - n);
        return b.size;
    }
    n = way < 5 ? fuzz_mutate_number(&b, 11, n, &r) : fuzz_mutate_within(&b, 11, n);
    data[9] = (uint8_t)n;
    data[10] = (uint8_t)(n >> 8);
    return b.size;
}
