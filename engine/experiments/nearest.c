/* Slips of the keyboard: which known name a text was meant to be. */
#include <string.h>

#include "engine/experiments/measure.h"

enum { LONGEST_NAME = VTE_LONGEST_NAME };

/* Edits that turn a into b: letters added, dropped, replaced, or two neighbours swapped. */
static int distance(const char *a, const char *b)
{
    int row[3][LONGEST_NAME + 1];
    int m = (int)strlen(a), n = (int)strlen(b);
    if (m > LONGEST_NAME || n > LONGEST_NAME)
        return LONGEST_NAME;
    for (int j = 0; j <= n; j++)
        row[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *now = row[i % 3], *before = row[(i + 2) % 3], *earlier = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            int same = a[i - 1] == b[j - 1], best = before[j - 1] + !same;
            best = before[j] + 1 < best ? before[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = earlier[j - 2] + 1 < best ? earlier[j - 2] + 1 : best;
            now[j] = best;
        }
    }
    return row[m % 3][n];
}

const char *vte_nearest(const char *text, const char *const *candidates, int count)
{
    const char *nearest = NULL;
    int least = 3; /* further away is no longer a slip of the keyboard */
    for (int i = 0; i < count; i++) {
        int d = distance(text, candidates[i]);
        if (d < least && d < (int)strlen(candidates[i])) {
            least = d;
            nearest = candidates[i];
        }
    }
    return nearest;
}
