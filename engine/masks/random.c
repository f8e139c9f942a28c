/* Random patterns with an exact number of pairs, the same on every machine.
 *
 * Every pair i = t * P + t' gets a 64-bit key that depends on the seed and i alone, and the nnz
 * pairs with the smallest keys are on (equal keys: the smaller i).
 *   uniform    the key is a bijection of i, so no two are equal
 *   weighted   an exponential race: with u uniform in (0, 1) from the same bijection, -log(u) / w
 *              is exponential of rate w, and the nnz first arrivals are a weighted sample without
 *              replacement. The key is its logarithm, log(-log u) - log w, in fixed point.
 * The logarithm is our own, in plain IEEE double arithmetic: a math library's last bit differs from
 * machine to machine, and one bit may exchange two pairs.
 *
 * Selection: the keys' distribution is known, so a window of keys that very likely holds the nnz-th
 * is, too. One sweep sets the pairs below the window and collects the few inside, which are sorted.
 * The counts show whether the nnz-th key was in the window; if not, a wider one is tried. So the
 * window, for which the math library's exp will do, decides how long it takes and nothing else.
 * Nothing of size P^2 is stored but the result's bits.
 */
#include "engine/masks/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

uint64_t vt_random_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static const uint64_t key_step = 0x9e3779b97f4a7c15u;

uint64_t vt_random_key(uint64_t seed, uint64_t i)
{
    return vt_random_mix(vt_random_mix(seed) + i * key_step);
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

/* ---- keys and their distribution ---- */

typedef struct source source;

/* Keys from `low` to `high`, and the pairs that have them. */
typedef struct {
    uint64_t low, high;
    struct entry {
        uint64_t key, pair;
    } * entry;           /* [room], in any order */
    int64_t room, found; /* found > room: not all are in entry */
} window;

struct source {
    /* Sets the pairs of row t whose keys lie below the window in zeroed bits, collects those in it,
     * and returns how many it set. */
    int64_t (*row)(const source *s, int t, uint64_t *bits, window *w);
    /* The key below which about `count` keys lie: 0 for no key, UINT64_MAX for all. */
    uint64_t (*quantile)(const source *s, double count);
    int64_t pairs; /* that may be drawn */
    int patches, grid_h, grid_w;
    uint64_t seed;
    double *far;   /* [grid_h, grid_w] -log of the weight, by |i - i'| and |j - j'| */
    uint64_t *cut; /* [grid_h, grid_w] random bits below this give a key above the window */
    int *reach;    /* [grid_h] from this |j - j'| on no pair has a key in or below the window */
};

static void collect(window *w, uint64_t key, uint64_t pair)
{
    int64_t at;
#pragma omp atomic capture
    at = w->found++;
    if (at < w->room)
        w->entry[at] = (struct entry){key, pair};
}

/* ---- uniform ---- */

static int64_t uniform_row(const source *s, int t, uint64_t *bits, window *w)
{
    uint64_t base = vt_random_mix(s->seed), width = w->high - w->low;
    uint64_t pair = (uint64_t)t * (uint64_t)s->patches, end = pair + (uint64_t)s->patches;
    int64_t below = 0;
    for (; pair < end; bits++) {
        uint64_t word = 0;
        for (int b = 0; b < 64 && pair < end; b++, pair++) {
            uint64_t key = vt_random_mix(base + pair * key_step);
            word |= (uint64_t)(key < w->low) << b;
            if (key - w->low <= width)
                collect(w, key, pair);
        }
        *bits = word;
        below += __builtin_popcountll(word);
    }
    return below;
}

static uint64_t uniform_quantile(const source *s, double count)
{
    double share = count / (double)s->pairs;
    return share <= 0 ? 0 : share >= 1 ? UINT64_MAX : (uint64_t)(share * 0x1p64);
}

/* ---- weighted by distance ---- */

/* -log of a weight at or beyond which it rounds to zero in single precision (150 log 2). The
 * original computes its matrix of weights in that, and such a pair is never drawn. */
static const double weightless = 103.97207708399179;

/* log(-log u) is above this for every u that arrival() makes: the last has 1 - u = 2^-53. */
static const double earliest = -36.74;

/* log(-log u) lies in (-37, 4) and far in [0, 104): 64 + their sum is positive and below 256 = 2^8,
 * so 55 bits of fraction fit. */
static uint64_t arrival(uint64_t random, double far)
{
    double u = ((double)(random >> 12) + 0.5) * 0x1p-52;
    return (uint64_t)((64.0 + (vt_random_log(-vt_random_log(u)) + far)) * 0x1p55);
}

static int64_t gaussian_row(const source *s, int t, uint64_t *bits, window *w)
{
    int i = t / s->grid_w, j = t % s->grid_w;
    int64_t below = 0;
    for (int y = 0; y < s->grid_h; y++) {
        size_t at = (size_t)abs(y - i) * (size_t)s->grid_w;
        int reach = s->reach[abs(y - i)], first = j - reach + 1, end = j + reach;
        for (int x = first < 0 ? 0 : first; x < end && x < s->grid_w; x++) {
            int k = y * s->grid_w + x;
            uint64_t pair = (uint64_t)t * (uint64_t)s->patches + (uint64_t)k;
            uint64_t random = vt_random_key(s->seed, pair);
            if (random < s->cut[at + (size_t)abs(x - j)])
                continue;
            uint64_t key = arrival(random, s->far[at + (size_t)abs(x - j)]);
            if (key < w->low) {
                bits[k / 64] |= (uint64_t)1 << k % 64;
                below++;
            } else if (key <= w->high) {
                collect(w, key, pair);
            }
        }
    }
    return below;
}

/* How often the distance (di, dj) occurs between patches, with all signs: H - |di| times in one
 * direction, W - |dj| in the other. */
static double occurrences(const source *s, int di, int dj)
{
    return (double)(s->grid_h - di) * (s->grid_w - dj) * (di ? 2 : 1) * (dj ? 2 : 1);
}

/* The expected number of arrivals before the logarithm of a time. */
static double arrivals(const source *s, double until)
{
    double sum = 0;
    for (int di = 0; di < s->grid_h; di++)
        for (int dj = 0; dj < s->grid_w; dj++) {
            double far = s->far[(size_t)di * (size_t)s->grid_w + (size_t)dj];
            if (far >= weightless || far + earliest > until)
                break;
            sum += occurrences(s, di, dj) * -expm1(-exp(until - far));
        }
    return sum;
}

static uint64_t gaussian_quantile(const source *s, double count)
{
    double low = -37, high = 108;
    if (count <= 0 || count >= (double)s->pairs)
        return count <= 0 ? 0 : UINT64_MAX;
    for (int i = 0; i < 40; i++) {
        double middle = (low + high) / 2;
        if (arrivals(s, middle) < count)
            low = middle;
        else
            high = middle;
    }
    return (uint64_t)((64 + low) * 0x1p55);
}

/* Most pairs are seen to be too late by their random bits, without a logarithm: a key is at most
 * `high` only if 1 - u <= 1 - exp(-exp(high - far)), enlarged here by much more than rounding. */
static void gaussian_aim(source *s, uint64_t high)
{
    double until = (double)high * 0x1p-55 - 64;
    for (int di = 0; di < s->grid_h; di++) {
        const double *far = s->far + (size_t)di * (size_t)s->grid_w;
        uint64_t *cut = s->cut + (size_t)di * (size_t)s->grid_w;
        int dj = 0;
        for (; dj < s->grid_w && far[dj] < weightless && far[dj] + earliest <= until; dj++) {
            double early = -expm1(-exp(until - far[dj])) * (1 + 1e-9) * 0x1p52 + 2;
            cut[dj] = early >= 0x1p52 ? 0 : (((uint64_t)1 << 52) - (uint64_t)early) << 12;
        }
        s->reach[di] = dj;
    }
}

/* ---- selection ---- */

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->pair < y->pair ? -1 : x->pair > y->pair;
}

static void set_pair(const source *s, uint64_t *bits, uint64_t pair)
{
    uint64_t n = (uint64_t)s->patches, k = pair % n;
    bits[pair / n * vt_mask_words(s->patches) + k / 64] |= (uint64_t)1 << k % 64;
}

/* One sweep. Whether the nnz-th key is in the window; then the first nnz pairs are set. */
static bool select_smallest(const source *s, uint64_t *bits, int64_t nnz, int threads, window *w)
{
    int64_t below = 0;
    size_t words = vt_mask_words(s->patches);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : below)
    for (int t = 0; t < s->patches; t++)
        below += s->row(s, t, bits + (size_t)t * words, w);
    if (below > nnz || below + w->found < nnz || w->found > w->room)
        return false;
    qsort(w->entry, (size_t)w->found, sizeof *w->entry, by_key);
    for (int64_t i = 0; i < nnz - below; i++)
        set_pair(s, bits, w->entry[i].pair);
    return true;
}

/* The number of keys below a quantile has a standard deviation of at most sqrt(nnz). 2.5 of them to
 * either side hold the nnz-th key in 99 draws of 100; a window that is wide enough holds all. */
static int draw(uint64_t *bits, source *s, int64_t nnz, int threads, vt_status *st)
{
    size_t size = (size_t)s->patches * vt_mask_words(s->patches) * sizeof *bits;
    bool done = nnz == 0;
    threads = threads < 1 ? 1 : threads > s->patches ? s->patches : threads;
    for (double spread = 2.5 * sqrt((double)nnz) + 1; !done; spread *= 4) {
        double room = 4 * spread + 64;
        window w = {.low = s->quantile(s, (double)nnz - spread),
                    .high = s->quantile(s, (double)nnz + spread),
                    .room = room < (double)s->pairs ? (int64_t)room : s->pairs};
        w.entry = vt_alloc((size_t)w.room, sizeof *w.entry, "random pattern", st);
        if (!w.entry)
            return -1;
        if (s->cut)
            gaussian_aim(s, w.high);
        memset(bits, 0, size);
        done = select_smallest(s, bits, nnz, threads, &w);
        vt_free(w.entry);
    }
    return 0;
}

int vt_random_uniform(uint64_t *bits, int patches, int64_t nnz, uint64_t seed, int threads,
                      vt_status *st)
{
    source s = {.row = uniform_row,
                .quantile = uniform_quantile,
                .pairs = (int64_t)patches * patches,
                .patches = patches,
                .seed = seed};
    return draw(bits, &s, nnz, threads, st);
}

/* Fills s->far and counts s->pairs, those with a weight. */
static void weigh(source *s, double sigma)
{
    for (int di = 0; di < s->grid_h; di++)
        for (int dj = 0; dj < s->grid_w; dj++) {
            double square = (double)di * di + (double)dj * dj;
            double far = square == 0.0 ? 0.0 : square / (2.0 * (sigma * sigma));
            s->far[(size_t)di * (size_t)s->grid_w + (size_t)dj] = far;
            if (far < weightless)
                s->pairs += (int64_t)occurrences(s, di, dj);
        }
}

int vt_random_gaussian(uint64_t *bits, int grid_h, int grid_w, double sigma, int64_t nnz,
                       uint64_t seed, int threads, vt_status *st)
{
    source s = {.row = gaussian_row,
                .quantile = gaussian_quantile,
                .patches = grid_h * grid_w,
                .grid_h = grid_h,
                .grid_w = grid_w,
                .seed = seed};
    size_t patches = (size_t)s.patches;
    s.far = vt_alloc(patches, sizeof *s.far, "random pattern", st);
    s.cut = s.far ? vt_alloc(patches, sizeof *s.cut, "random pattern", st) : NULL;
    s.reach = s.cut ? vt_alloc((size_t)grid_h, sizeof *s.reach, "random pattern", st) : NULL;
    int rc = -1;
    if (s.reach) {
        weigh(&s, sigma);
        rc = nnz <= s.pairs
                 ? draw(bits, &s, nnz, threads, st)
                 : vt_fail(st, VT_USAGE,
                           "%lld pairs asked for, but only %lld of %lld have a non-zero weight "
                           "with sigma=%g on %dx%d patches",
                           (long long)nnz, (long long)s.pairs, (long long)patches * s.patches,
                           sigma, grid_h, grid_w);
    }
    vt_free(s.far);
    vt_free(s.cut);
    vt_free(s.reach);
    return rc;
}
