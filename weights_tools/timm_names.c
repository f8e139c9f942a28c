/* See timm_names.h. */
#include "weights_tools/timm_names.h"

#include <stdio.h>
#include <string.h>

enum { NAME = 192 };

typedef struct {
    const char *timm, *other;
} alias;

/* Applied one at a time, where the tensor has not got timm's name. */
static const alias single[] = {
    {"reg_token", "register_tokens"},
    {"reg_token", "storage_tokens"},
    {".mlp.fc1.", ".mlp.w12."},
    {".mlp.fc2.", ".mlp.w3."},
    {".mlp.fc1_g.", ".mlp.w1."},
    {".mlp.fc1_x.", ".mlp.w2."},
    {".mlp.norm.", ".mlp.ffn_ln."},
    {".attn.norm.", ".attn.inner_attn_ln."},
    {".attn.q_proj.bias", ".attn.q_bias"},
    {".attn.v_proj.bias", ".attn.v_bias"},
};

/* Applied all together, in this order. */
static const alias clip[] = {
    {"patch_embed.proj", "conv1"},
    {"pos_embed", "positional_embedding"},
    {"cls_token", "class_embedding"},
    {"blocks.", "transformer.resblocks."},
    {"norm_pre", "ln_pre"},
    {"attn_pool.norm", "attn_pool.layernorm"},
    {"attn_pool.latent", "attn_pool.probe"},
    {"attn_pool.proj", "attn_pool.attn.out_proj"},
    {".norm1", ".ln_1"},
    {".norm2", ".ln_2"},
    {".ls1.gamma", ".ls_1.gamma"},
    {".ls2.gamma", ".ls_2.gamma"},
    {".attn.qkv.", ".attn.in_proj_"},
    {".attn.proj", ".attn.out_proj"},
    {".mlp.fc1", ".mlp.c_fc"},
    {".mlp.fc2", ".mlp.c_proj"},
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* name with the first `from` in it replaced; false where there is none. */
static bool replace(char out[NAME], const char *name, const char *from, const char *to)
{
    const char *at = strstr(name, from);
    if (at)
        snprintf(out, NAME, "%.*s%s%s", (int)(at - name), name, to, at + strlen(from));
    return at != NULL;
}

static const st_tensor *find(const timm_names *n, const char *name)
{
    char full[2 * NAME];
    snprintf(full, sizeof full, "%s%s", n->prefix, name);
    return st_find(n->r, full);
}

static const st_tensor *find_clip(const timm_names *n, const char *name)
{
    char now[NAME], next[NAME];
    snprintf(now, sizeof now, "%s", name);
    if (!strncmp(now, "norm.", 5))
        replace(now, name, "norm.", "ln_post.");
    for (size_t i = 0; i < COUNT(clip); i++)
        if (replace(next, now, clip[i].timm, clip[i].other))
            memcpy(now, next, sizeof now);
    return find(n, now);
}

const st_tensor *timm_names_find(const timm_names *n, const char *name)
{
    char other[NAME];
    const st_tensor *t = find(n, name);
    if (!t && n->clip)
        return find_clip(n, name);
    for (size_t i = 0; !t && i < COUNT(single); i++)
        if (replace(other, name, single[i].timm, single[i].other))
            t = find(n, other);
    return t;
}

static bool has(const timm_names *n, const char *name)
{
    return find(n, name) != NULL;
}

void timm_names_open(timm_names *n, const st_reader *r)
{
    static const struct {
        const char *text;
        bool tower;
    } prefixes[] = {{"", false},
                    {"module.", false},
                    {"_orig_mod.", false},
                    {"module._orig_mod.", false},
                    {"_orig_mod.module.", false},
                    {"visual.trunk.", true},
                    {"module.visual.trunk.", true},
                    {"visual.", true},
                    {"module.visual.", true},
                    {"vision_encoder.", true}};
    *n = (timm_names){.r = r, .prefix = ""};
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        n->prefix = prefixes[i].text;
        n->tower = prefixes[i].tower;
        n->clip = !has(n, "patch_embed.proj.weight") && has(n, "conv1.weight");
        if (n->clip || has(n, "patch_embed.proj.weight"))
            break;
        n->prefix = "";
        n->tower = false;
    }
    n->dinov2 = has(n, "register_tokens");
    n->dinov3 = has(n, "storage_tokens");
}

static bool starts(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

static bool ends(const char *name, const char *with)
{
    size_t a = strlen(name), b = strlen(with);
    return a >= b && strcmp(name + a - b, with) == 0;
}

/* timm's SigLIP models without attention pooling are cut from checkpoints that have one. */
bool timm_names_dropped(const timm_names *n, const vit_config *c, const char *name)
{
    if (!starts(name, n->prefix))
        return n->tower;
    name += strlen(n->prefix);
    if (strstr(name, "pre_logits") || !strcmp(name, "mask_token") ||
        strstr(name, "relative_position_index"))
        return true;
    if (strstr(c->architecture, "siglip") && starts(name, "attn_pool."))
        return true;
    if (c->rope != VIT_ROPE_NONE && strstr(name, "rope") && strcmp(name, "rope.freqs") != 0)
        return true;
    return n->dinov3 &&
           (ends(name, ".periods") || ends(name, ".bias_mask") || starts(name, "local_cls_norm") ||
            starts(name, "projectors.") || (!c->qkv_bias && ends(name, ".attn.qkv.bias")));
}
