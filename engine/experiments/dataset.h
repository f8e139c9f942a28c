/* Labelled pictures: a folder of one folder a class, or a CSV file of `path,label` lines.
 *
 * Folders: each name that does not begin with a dot is a class; its files, in all folders below,
 * in bytewise order, as far as their endings are those of pictures. The names are the model's
 * labels, or whole numbers (class indexes), or, where there is a folder for every class, classes in
 * bytewise order, as torchvision's ImageFolder counts them. Anything else is refused: a wrong
 * mapping would give a wrong accuracy.
 *
 * CSV: fields may be quoted ("a, ""b"".png"); a first line `path,label` is a heading; empty lines
 * and a byte order mark are skipped; paths are relative to the file's folder; a label is a class index or a label.
 */
#ifndef VTE_DATASET_H
#define VTE_DATASET_H

#include "engine/experiments/batches.h"

typedef struct {
    vte_file *file; /* [count]; paths are owned */
    int *label;     /* [count] class indexes of the model */
    size_t count, room;
} vte_dataset;

/* limit: at most so many pictures, evenly spaced over the whole, 0: all. A model without classes is
 * refused. On failure *d is left freed. */
int vte_dataset_open(vte_dataset *d, const char *path, size_t limit, const vitrun_model *model,
                     vitrun_error *err);
void vte_dataset_close(vte_dataset *d);

#endif
