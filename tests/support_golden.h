/* Whole models against timm: every golden file, every case, through the public interface. The files
 * and their form: tests/golden/models/README.md. */
#ifndef TESTS_SUPPORT_GOLDEN_H
#define TESTS_SUPPORT_GOLDEN_H

typedef struct {
    const char *device; /* "cpu", "cuda" */
    const char *kernel; /* of masked layers; NULL: auto */
    const char *dtype;
    double tolerance; /* of the largest logit of timm in float64 */
} golden_variant;

/* Fails the test in progress where a case is off by more. Prints the worst. */
void golden_run_all(const golden_variant *v);

#endif
