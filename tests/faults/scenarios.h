/* What is done to the library while its calls fail: each scenario opens what it needs, works, and
 * closes all of it, or fails on the way. */
#ifndef TESTS_FAULTS_SCENARIOS_H
#define TESTS_FAULTS_SCENARIOS_H

#include <stdint.h>

#include "engine/vitrun.h"

#define GOLDEN  "tests/golden/models/"
#define WEIGHTS GOLDEN "vit.safetensors"
#define MASKS   GOLDEN "masks/axial.json"
#define IMAGE   GOLDEN "image.png"

/* A hash of all that a scenario has seen: the same each time that nothing fails. */
typedef struct {
    uint64_t hash;
} outcome;

typedef struct {
    const char *name;
    int (*run)(outcome *seen, vitrun_error *err); /* 0, or -1 with err set */
    long stride;        /* of its calls that are tried after the first forty */
    const char *writes; /* a file in scenario_folder, or NULL */
} scenario;

extern const scenario scenarios[];
extern const int scenario_count;
extern char scenario_folder[]; /* made by scenarios_prepare, with the files that they read */

int scenarios_prepare(void);
void scenarios_end(void); /* removes the folder */

/* Opens the model of that file and classifies IMAGE. */
int scenario_model(const char *weights, outcome *seen, vitrun_error *err);

/* IMAGE through an open context; what comes out is seen. */
int scenario_classify(vitrun_context *c, const vitrun_model *m, outcome *seen, vitrun_error *err);

vitrun_options scenario_options(const char *weights);

#endif
