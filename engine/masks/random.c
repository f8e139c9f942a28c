/* Random patterns with an exact number of pairs, the same on every machine.
 *
 * Every pair i = t * P + t' gets a 64-bit key that depends on the seed and i alone, and the nnz
 * pairs with the smallest keys are on (equal keys: the smaller i).
 *   uniform    the key is a bijection of i, so no two are equal
 *   weighted   an exponential race: with u uniform in (0, 1) from the same bijection, -log(u) / w is
 *              exponential of rate w, and the nnz first arrivals are a weighted sample without
 *              replacement. The key is its logarithm, log(-log u) - log w, in fixed point.
 * The logarithm is our own, in plain IEEE double arithmetic: a math library's last bit differs from
 * machine to machine, and one bit may exchange two pairs.
 *
 * Selection: a histogram of the keys' leading 16 bits finds the bin in which the nnz-th key lies,
 * further histograms refine that bin until few keys are left in it, and these are sorted. Keys are
 * computed anew in each sweep; nothing of size P^2 is stored but the result's bits.
 */
#include "engine/masks/pattern.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { BIN_BITS = 16, BINS = 1 << BIN_BITS };

/* ---- numbers ---- */

uint64_t vt_random_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t vt_random_key(uint64_t seed, uint64_t i)
{
    return vt_random_mix(vt_random_mix(seed) + i * 0x9e3779b97f4a7c15u);
}

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1) / (m + 1), by its
 * series in s^2 <= 0.0295: the first term left out is below 2^-57 of the sum. */
double vt_random_log(double x)
{
    union {
        double d;
        uint64_t u;
    } v = {x};
    int e = 0;
    if (v.u < (uint64_t)1 << 52) {  /* subnormal */
        v.d *= 18014398509481984.0; /* 2^54 */
        e = -54;
    }
    e += (int)(v.u >> 52) - 1023;
    v.u = (v.u & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
    if (v.d > 1.4142135623730951) {
        v.d *= 0.5;
        e++;
    }
    double s = (v.d - 1.0) / (v.d + 1.0), z = s * s, sum = 0.0;
    for (int k = 21; k >= 3; k -= 2)
        sum = (sum + 1.0 / k) * z;
    return e * 0.69314718055994531 + (2.0 * s + 2.0 * s * sum);
}

/* ---- keys of one row of pairs ---- */

typedef struct source source;

struct source {
    void (*keys)(const source *s, int t, uint64_t *key); /* [patches] */
    int patches, grid_h, grid_w;
    uint64_t seed;
    double *far; /* [grid_h, grid_w] -log of the weight, by |i - i'| and |j - j'| */
};

static void uniform_keys(const source *s, int t, uint64_t *key)
{
    uint64_t first = (uint64_t)t * (uint64_t)s->patches;
    for (int k = 0; k < s->patches; k++)
        key[k] = vt_random_key(s->seed, first + (uint64_t)k);
}

/* -log of a weight at or beyond which it rounds to zero in single precision (150 log 2). The
 * original computes its matrix of weights in that, and such a pair is never drawn. */
static const double weightless = 103.97207708399179;

/* log(-log u) lies in (-37, 4) and far in [0, 104): 64 + their sum is positive and below 256 = 2^8,
 * so 55 bits of fraction fit. */
static uint64_t arrival(uint64_t random, double far)
{
    double u = ((double)(random >> 12) + 0.5) * 0x1p-52;
    return (uint64_t)((64.0 + (vt_random_log(-vt_random_log(u)) + far)) * 0x1p55);
}

static void gaussian_keys(const source *s, int t, uint64_t *key)
{
    int i = t / s->grid_w, j = t % s->grid_w;
    uniform_keys(s, t, key);
    for (int y = 0; y < s->grid_h; y++) {
        const double *far = s->far + (size_t)abs(y - i) * (size_t)s->grid_w;
        for (int x = 0; x < s->grid_w; x++, key++)
            *key = far[abs(x - j)] < weightless ? arrival(*key, far[abs(x - j)]) : UINT64_MAX;
    }
}

/* ---- selection ---- */

typedef struct {
    uint64_t key, pair;
} entry;

static int by_key(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->pair < y->pair ? -1 : x->pair > y->pair;
}

typedef struct {
    const source *from;
    uint64_t *bits;
    int threads;
    int64_t wanted;     /* keys to take among those that begin with `prefix` */
    uint64_t prefix;    /* the leading bits of the nnz-th key ... */
    int known;          /* ... as many as are known */
    int64_t in_bin;     /* how many keys begin so */
    uint64_t *row;      /* [threads][patches] */
    int64_t *histogram; /* [threads][BINS] */
} selection;

static bool begins(const selection *s, uint64_t key)
{
    return s->known == 0 || key >> (64 - s->known) == s->prefix;
}

/* Learns BIN_BITS more bits of the nnz-th key. */
static void refine(selection *s)
{
    int n = s->from->patches, shift = 64 - BIN_BITS - s->known;
    memset(s->histogram, 0, (size_t)s->threads * BINS * sizeof *s->histogram);
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int t = 0; t < n; t++) {
        uint64_t *key = s->row + (size_t)omp_get_thread_num() * (size_t)n;
        int64_t *count = s->histogram + (size_t)omp_get_thread_num() * BINS;
        s->from->keys(s->from, t, key);
        for (int k = 0; k < n; k++)
            if (begins(s, key[k]))
                count[key[k] >> shift & (BINS - 1)]++;
    }
    uint64_t bin = 0;
    for (;; bin++) {
        s->in_bin = 0;
        for (int w = 0; w < s->threads; w++)
            s->in_bin += s->histogram[(size_t)w * BINS + bin];
        if (s->in_bin >= s->wanted)
            break;
        s->wanted -= s->in_bin;
    }
    s->prefix = s->prefix << BIN_BITS | bin;
    s->known += BIN_BITS;
}

static void set_pair(const selection *s, uint64_t pair)
{
    uint64_t n = (uint64_t)s->from->patches, k = pair % n;
    s->bits[pair / n * vt_mask_words(s->from->patches) + k / 64] |= (uint64_t)1 << k % 64;
}

/* Sets all pairs below the bin and collects those in it: *found of them, in any order. */
static void mark_below(const selection *s, entry *in_bin, int64_t *found)
{
    int n = s->from->patches;
    int64_t at = 0;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int t = 0; t < n; t++) {
        uint64_t *key = s->row + (size_t)omp_get_thread_num() * (size_t)n;
        uint64_t first = (uint64_t)t * (uint64_t)n;
        s->from->keys(s->from, t, key);
        for (int k = 0; k < n; k++) {
            uint64_t leading = key[k] >> (64 - s->known);
            if (leading < s->prefix) {
                set_pair(s, first + (uint64_t)k);
            } else if (leading == s->prefix) {
                int64_t mine;
#pragma omp atomic capture
                mine = at++;
                in_bin[mine] = (entry){key[k], first + (uint64_t)k};
            }
        }
    }
    *found = at;
}

static int select_smallest(selection *s, vt_status *st)
{
    int64_t pairs = (int64_t)s->from->patches * s->from->patches, found;
    int64_t few = pairs / 256 > 4096 ? pairs / 256 : 4096;
    do
        refine(s);
    while (s->in_bin > few && s->known < 64);
    entry *in_bin = vt_alloc((size_t)s->in_bin, sizeof *in_bin, "random pattern", st);
    if (!in_bin)
        return -1;
    mark_below(s, in_bin, &found);
    qsort(in_bin, (size_t)found, sizeof *in_bin, by_key);
    for (int64_t i = 0; i < s->wanted; i++)
        set_pair(s, in_bin[i].pair);
    vt_free(in_bin);
    return 0;
}

static int draw(uint64_t *bits, const source *from, int64_t nnz, int threads, vt_status *st)
{
    if (nnz == 0)
        return 0;
    threads = threads < 1 ? 1 : threads > from->patches ? from->patches : threads;
    size_t t = (size_t)threads;
    selection s = {.from = from, .bits = bits, .threads = threads, .wanted = nnz};
    s.row = vt_alloc(t, (size_t)from->patches * sizeof *s.row, "random pattern", st);
    s.histogram = s.row ? vt_alloc(t, BINS * sizeof *s.histogram, "random pattern", st) : NULL;
    int rc = s.histogram ? select_smallest(&s, st) : -1;
    vt_free(s.row);
    vt_free(s.histogram);
    return rc;
}

int vt_random_uniform(uint64_t *bits, int patches, int64_t nnz, uint64_t seed, int threads,
                      vt_status *st)
{
    source s = {.keys = uniform_keys, .patches = patches, .seed = seed};
    return draw(bits, &s, nnz, threads, st);
}

/* Fills s->far; returns the number of pairs with a weight: a distance (|di|, |dj|) occurs
 * (H - |di|) (W - |dj|) times with each sign. */
static int64_t weigh(source *s, double sigma)
{
    int64_t pairs = 0;
    for (int di = 0; di < s->grid_h; di++)
        for (int dj = 0; dj < s->grid_w; dj++) {
            double square = (double)di * di + (double)dj * dj;
            double far = square == 0.0 ? 0.0 : square / (2.0 * (sigma * sigma));
            s->far[(size_t)di * (size_t)s->grid_w + (size_t)dj] = far;
            if (far < weightless)
                pairs += (int64_t)(s->grid_h - di) * (s->grid_w - dj) * (di ? 2 : 1) * (dj ? 2 : 1);
        }
    return pairs;
}

int vt_random_gaussian(uint64_t *bits, int grid_h, int grid_w, double sigma, int64_t nnz,
                       uint64_t seed, int threads, vt_status *st)
{
    source s = {.keys = gaussian_keys,
                .patches = grid_h * grid_w,
                .grid_h = grid_h,
                .grid_w = grid_w,
                .seed = seed};
    s.far = vt_alloc((size_t)s.patches, sizeof *s.far, "random pattern", st);
    if (!s.far)
        return -1;
    int64_t weighted = weigh(&s, sigma), all = (int64_t)s.patches * s.patches;
    int rc =
        nnz <= weighted
            ? draw(bits, &s, nnz, threads, st)
            : vt_fail(st, VT_USAGE,
                      "%lld pairs asked for, but only %lld of %lld have a non-zero weight "
                      "with sigma=%g on %dx%d patches",
                      (long long)nnz, (long long)weighted, (long long)all, sigma, grid_h, grid_w);
    vt_free(s.far);
    return rc;
}
