/* Rows of measurements, one JSON object a line, in files that only grow: DIR/rows.jsonl, or
 * DIR/rows-2-of-8.jsonl of the second of eight processes.
 *
 * A row is written whole and synced before the next point begins; what a full disk or a kill cut
 * off is taken away again, so that no finished row is lost. The first line says what all rows have
 * in common ("common"); other work is never added to it (but threads and build may differ, as they
 * do where several machines share a sweep, and the number of "points"). While a file is open it is
 * locked.
 */
#ifndef VTE_STORE_H
#define VTE_STORE_H

#include <jansson.h>

#include "engine/vitrun.h"

typedef struct vte_store vte_store;

/* Opens or begins DIR's file of shard i of n (1 of 1: rows.jsonl); makes DIR where it is missing.
 * Rows that are there already are appended to the array `rows`. */
vte_store *vte_store_open(const char *dir, int shard, int shards, const json_t *common,
                          json_t *rows, vitrun_error *err);
int vte_store_append(vte_store *s, const json_t *row, vitrun_error *err);
void vte_store_close(vte_store *s); /* NULL is fine */

/* Reads all files of DIR, in order of names; a row that stands in several of them counts once.
 * *common is theirs, to be released; files that differ in it are an error. */
int vte_store_read_all(const char *dir, json_t **common, json_t *rows, vitrun_error *err);

/* The row of `rows` whose "options" are these, or NULL. Borrowed. */
json_t *vte_row_find(const json_t *rows, const char *options);

#endif
