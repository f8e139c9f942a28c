/* The built-in architecture table: what timm's registered names stand for. Generated from timm by
 * weights_tools/make_archs.py into timm_archs.c, one readable row an architecture. */
#ifndef VT_TIMM_ARCHS_H
#define VT_TIMM_ARCHS_H

#include "weights_tools/timm_config.h"

typedef struct timm_arch {
    const char *name;
    vit_config vit;          /* with the default tag's image size; classes of the default tag */
    const char *unsupported; /* NULL, or the switch that vitrun lacks: "attention pooling", ... */
    const char *default_tag;
} timm_arch;

typedef struct { /* preprocessing of a pretrained tag, where config.json does not say */
    const char *arch, *tag;
    vt_preprocess pre;
    int classes;
} timm_tag;

extern const timm_arch timm_archs[]; /* sorted by name */
extern const int timm_arch_count;
extern const timm_tag timm_tags[]; /* of the architectures that run; sorted by name, then tag */
extern const int timm_tag_count;

const timm_arch *timm_arch_find(const char *name); /* exact name; NULL: unknown */
const timm_tag *timm_tag_find(const char *arch, const char *tag);

/* ImageNet-1k's class names, 1000 of them. */
extern const char *const vt_imagenet_labels[1000];

#endif
