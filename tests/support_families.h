/* The operations that only some families of models use, through the seam, against double precision:
 * what every device's test runs, in each of its types. The stream runs FAMILY_IMAGES images. */
#ifndef TESTS_SUPPORT_FAMILIES_H
#define TESTS_SUPPORT_FAMILIES_H

#include "kernels/backend.h"

enum { FAMILY_IMAGES = 2 };

void check_rms(vt_stream *s);    /* a norm without beta is RMSNorm */
void check_rope(vt_stream *s);   /* queries and keys of patches turn, and nothing else */
void check_halves(vt_stream *s); /* gated, or subtracted */
void check_add(vt_stream *s);    /* of types that differ, too */
void check_latent(vt_stream *s); /* attention pooling is attention of one query */
void check_bias(vt_stream *s);   /* every kernel adds a relative position bias, under a mask */

#endif
