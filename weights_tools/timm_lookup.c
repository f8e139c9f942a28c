/* Finding rows of the built-in tables by name: binary search, both tables being sorted bytewise. */
#include "weights_tools/timm_archs.h"

#include <stdlib.h>
#include <string.h>

static int by_arch(const void *name, const void *row)
{
    return strcmp(name, ((const timm_arch *)row)->name);
}

const timm_arch *timm_arch_find(const char *name)
{
    return bsearch(name, timm_archs, (size_t)timm_arch_count, sizeof *timm_archs, by_arch);
}

static int by_tag(const void *key, const void *row)
{
    const timm_tag *a = key, *b = row;
    int order = strcmp(a->arch, b->arch);
    return order ? order : strcmp(a->tag, b->tag);
}

const timm_tag *timm_tag_find(const char *arch, const char *tag)
{
    timm_tag key = {.arch = arch, .tag = tag};
    return bsearch(&key, timm_tags, (size_t)timm_tag_count, sizeof *timm_tags, by_tag);
}
