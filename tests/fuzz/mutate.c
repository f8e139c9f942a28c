/* Building blocks of mutators that know a format: change one part, leave the rest in order. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <string.h>

#pragma weak LLVMFuzzerMutate /* libFuzzer's; absent when inputs are replayed */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

fuzz_random fuzz_seeded(unsigned seed)
{
    return (fuzz_random){seed * 0x9e3779b97f4a7c15u + 1};
}

unsigned fuzz_below(fuzz_random *r, unsigned n)
{
    r->state ^= r->state << 13; /* xorshift */
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return (unsigned)((r->state >> 32) % n);
}

bool fuzz_replace(fuzz_buffer *b, size_t at, size_t length, const void *with, size_t size)
{
    if (b->size - length + size > b->most)
        return false;
    memmove(b->data + at + size, b->data + at + length, b->size - at - length);
    if (size > 0)
        memcpy(b->data + at, with, size);
    b->size += size - length;
    return true;
}

size_t fuzz_mutate_within(fuzz_buffer *b, size_t at, size_t length)
{
    enum { ROOM = 1 << 16 };
    static uint8_t part[ROOM];
    size_t most = b->most - (b->size - length);
    most = most < ROOM ? most : ROOM;
    if (length > most || most == 0 || !LLVMFuzzerMutate)
        return length;
    memcpy(part, b->data + at, length);
    size_t n = LLVMFuzzerMutate(part, length, most);
    return fuzz_replace(b, at, length, part, n) ? n : length;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* Numbers at which readers go wrong, and small changes of the old one. */
static int another_number(char out[32], unsigned long long old, fuzz_random *r)
{
    static const char *const odd[] = {"0",
                                      "1",
                                      "-1",
                                      "-0",
                                      "00",
                                      "1.0",
                                      "1e0",
                                      "1e999",
                                      "1e-999",
                                      "0.5",
                                      "127",
                                      "255",
                                      "256",
                                      "32768",
                                      "65535",
                                      "65536",
                                      "2147483647",
                                      "2147483648",
                                      "4294967295",
                                      "4294967296",
                                      "1073741824",
                                      "4611686018427387904",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "18446744073709551615",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    enum { ODD = sizeof odd / sizeof *odd };
    unsigned which = fuzz_below(r, ODD + 8);
    unsigned long long next = old;
    if (which < ODD)
        return snprintf(out, 32, "%s", odd[which]);
    switch (which - ODD) {
    case 0:
    case 1:
        next = old + 1;
        break;
    case 2:
    case 3:
        next = old - 1;
        break;
    case 4:
        next = old * 2;
        break;
    case 5:
        next = old / 2;
        break;
    case 6:
        next = old ^ 1ull << fuzz_below(r, 64);
        break;
    default:
        next = fuzz_below(r, 100);
    }
    return snprintf(out, 32, "%llu", next);
}

size_t fuzz_mutate_number(fuzz_buffer *b, size_t at, size_t length, fuzz_random *r)
{
    unsigned count = 0;
    for (size_t i = 0; i < length; i++)
        count += is_digit(b->data[at + i]) && (i == 0 || !is_digit(b->data[at + i - 1]));
    if (count == 0)
        return length;
    unsigned chosen = fuzz_below(r, count);
    size_t i = 0, n = 0;
    for (;; i++)
        if (is_digit(b->data[at + i]) && (i == 0 || !is_digit(b->data[at + i - 1])) &&
            chosen-- == 0)
            break;
    unsigned long long old = 0;
    for (; i + n < length && is_digit(b->data[at + i + n]); n++)
        old = old * 10 + (unsigned long long)(b->data[at + i + n] - '0');
    char text[32];
    size_t size = (size_t)another_number(text, old, r);
    return fuzz_replace(b, at + i, n, text, size) ? length - n + size : length;
}
