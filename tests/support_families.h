/* The operations that only some families of models use, through the seam, against double precision:
 * what every device's test runs, in each of its types. The stream runs FAMILY_IMAGES images. */
#ifndef TESTS_SUPPORT_FAMILIES_H
#define TESTS_SUPPORT_FAMILIES_H

#include "kernels/backend.h"

enum { FAMILY_IMAGES = 2 };

/* The tests of those operations; `each` runs a check on a stream of every kind that the device has. */
int run_family_tests(void (*each)(void (*check)(vt_stream *)));

#endif
