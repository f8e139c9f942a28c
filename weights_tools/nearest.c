/* Suggestions for mistyped names: edit distance with transpositions, at most 2. */
#include "weights_tools/timm_config.h"

#include <string.h>

enum { LONGEST = 64, NEAR = 2 };

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Edits (insert, delete, replace, swap of neighbours) that make b of a; lengths up to LONGEST. */
static int edits(const char *a, size_t n, const char *b, size_t m)
{
    int row[3][LONGEST + 1]; /* the last three rows of the table, by i modulo 3 */
    for (size_t j = 0; j <= m; j++)
        row[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = row[i % 3], *above = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = least(above[j - 1] + (a[i - 1] != b[j - 1]), least(above[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

const char *vt_nearest(const char *typo, const char *const *names)
{
    const char *best = NULL;
    size_t n = strlen(typo);
    int best_edits = NEAR + 1;
    if (n > LONGEST)
        return NULL;
    for (; *names; names++) {
        size_t m = strlen(*names);
        if (m > LONGEST || m + NEAR < n || n + NEAR < m)
            continue;
        int e = edits(typo, n, *names, m);
        if (e < best_edits && (size_t)e < n && (size_t)e * 2 < m) {
            best_edits = e;
            best = *names;
        }
    }
    return best;
}
