/* Statistics of a mask from one sweep over its rows: see mask.h.
 *
 * The unit of work is a band of 64 rows, the largest tile whose occupancy is counted. Every number
 * is an integer sum, a minimum or a maximum over bands, and the hash is a sum modulo 2^64 of one
 * hash per word, so no result depends on the number of threads.
 *
 * Does not decide anything: what the numbers mean for a kernel is dispatch's business.
 */
#include "kernels/mask.h"

#include <omp.h>

const int vt_occupancy_tile[3] = {16, 32, 64};

enum { BAND = 64 };

typedef struct {
    int64_t nnz;
    int64_t occupied[3];
    int empty_rows, row_min, row_max;
    uint64_t hash[2];
} tally;

/* A bijection of 64 bits in which every input bit reaches every output bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* Counts the pairs of a row and adds the hash of each word that is not zero: both are sums, so the
 * order of rows does not matter. `at` numbers the row's words over the whole mask. */
static void tally_row(tally *t, const uint64_t *bits, size_t words, uint64_t at)
{
    int on = 0;
    for (size_t w = 0; w < words; w++) {
        if (!bits[w])
            continue;
        uint64_t place = mix(at + w + 1);
        on += __builtin_popcountll(bits[w]);
        t->hash[0] += mix(bits[w] ^ place);
        t->hash[1] += mix(bits[w] * 0x9e3779b97f4a7c15u + ~place);
    }
    t->nnz += on;
    t->empty_rows += on == 0;
    t->row_min = on < t->row_min ? on : t->row_min;
    t->row_max = on > t->row_max ? on : t->row_max;
}

/* How many of a row of tiles hold a bit; seen is the OR of the tiles' rows. */
static int64_t occupied(const uint64_t *seen, size_t words, int tile)
{
    int64_t n = 0;
    for (size_t w = 0; w < words; w++)
        for (int at = 0; at < 64; at += tile)
            n += (seen[w] >> at & (UINT64_MAX >> (64 - tile))) != 0;
    return n;
}

/* ORs the rows of a band, 16 at a time, into `seen` (three rows of words: 16, 32 and 64 high). */
static void tally_band(tally *t, const vt_mask *mask, int first, uint64_t *bits, uint64_t *seen)
{
    size_t words = vt_mask_words(mask->tokens);
    int end = mask->tokens - first < BAND ? mask->tokens : first + BAND;
    for (int row = first; row < end; row++) {
        mask->row(mask, row, bits);
        tally_row(t, bits, words, (uint64_t)row * words);
        for (int s = 0; s < 3; s++) {
            uint64_t *or_of = seen + (size_t)s * words;
            bool opens = (row - first) % vt_occupancy_tile[s] == 0;
            for (size_t w = 0; w < words; w++)
                or_of[w] = opens ? bits[w] : or_of[w] | bits[w];
            if ((row + 1 - first) % vt_occupancy_tile[s] == 0 || row + 1 == end)
                t->occupied[s] += occupied(or_of, words, vt_occupancy_tile[s]);
        }
    }
}

static void add_tally(tally *sum, const tally *t)
{
    sum->nnz += t->nnz;
    sum->empty_rows += t->empty_rows;
    sum->row_min = t->row_min < sum->row_min ? t->row_min : sum->row_min;
    sum->row_max = t->row_max > sum->row_max ? t->row_max : sum->row_max;
    for (int s = 0; s < 3; s++)
        sum->occupied[s] += t->occupied[s];
    for (int h = 0; h < 2; h++)
        sum->hash[h] += t->hash[h];
}

static void conclude(vt_mask_stats *stats, const tally *t, int tokens)
{
    double n = tokens;
    *stats = (vt_mask_stats){
        .tokens = tokens,
        .nnz = t->nnz,
        .density = (double)t->nnz / (n * n),
        .empty_rows = t->empty_rows,
        .row_min = t->row_min,
        .row_max = t->row_max,
        .row_mean = (double)t->nnz / n,
        .hash = {t->hash[0], t->hash[1]},
    };
    for (int s = 0; s < 3; s++) {
        double side = (tokens - 1) / vt_occupancy_tile[s] + 1;
        stats->occupancy[s] = (double)t->occupied[s] / (side * side);
    }
}

int vt_mask_count(const vt_mask *mask, int threads, vt_mask_stats *stats, vt_status *st)
{
    size_t words = vt_mask_words(mask->tokens);
    int bands = (mask->tokens - 1) / BAND + 1;
    threads = threads < 1 ? 1 : threads > bands ? bands : threads;
    uint64_t *room = vt_alloc((size_t)threads * words, 4 * sizeof *room, "mask rows", st);
    if (!room)
        return -1;
    tally sum = {.row_min = mask->tokens};
#pragma omp parallel num_threads(threads)
    {
        uint64_t *bits = room + (size_t)omp_get_thread_num() * 4 * words;
        tally mine = {.row_min = mask->tokens};
#pragma omp for schedule(dynamic)
        for (int band = 0; band < bands; band++)
            tally_band(&mine, mask, band * BAND, bits, bits + words);
#pragma omp critical(vt_mask_count)
        add_tally(&sum, &mine);
    }
    conclude(stats, &sum, mask->tokens);
    vt_free(room);
    return 0;
}

void vt_mask_free(vt_mask *mask)
{
    if (mask)
        mask->destroy(mask);
}
