/* The document of a study (results.json) -> a report: one HTML file that needs nothing else, and
 * the same as Markdown with charts beside it.
 */
#ifndef VTE_REPORT_H
#define VTE_REPORT_H

#include <jansson.h>

#include "engine/vitrun.h"

/* Writes report.html, report.md, memory.svg, time.svg, layers.svg and mask-*.svg into DIR, each
 * whole or not at all. `document`: what sweep.h's rows have in common, and "rows". */
int vte_report_write(const json_t *document, const char *dir, vitrun_error *err);

#endif
