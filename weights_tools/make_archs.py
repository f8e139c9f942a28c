#!/usr/bin/env python3
"""Writes timm_archs.c and imagenet_labels.c: what timm's registered names stand for.

    make_archs.py [FOLDER]      (the folder of this script, if not given)

Every architecture of timm's ViT modules is built without memory for its weights, and its switches
are read from the modules (export_timm.describe), so the table says what timm does and not what its
names suggest. What vitrun lacks becomes a row that names the missing part. Needs torch and timm.
"""
import os
import sys
import textwrap
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import export_timm  # noqa: E402

MODULES = ('vision_transformer', 'deit', 'eva', 'beit', 'vision_transformer_relpos',
           'vision_transformer_sam', 'vision_transformer_hybrid', 'naflexvit')
POOLS = {'token': 'TOKEN', 'avg': 'AVG', 'max': 'MAX', 'avgmax': 'AVGMAX', 'map': 'MAP'}
STATS = {  # (mean, std) by the name of their macro in timm_rows.h
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): 'HALF',
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): 'IMAGENET',
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)): 'CLIP',
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): 'UNIT',
    ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)): 'SATELLITE',
}


def flags(a):
    words = [(a['class_token'], 'CLS'), (a['distilled'], 'DIST'),
             (a['init_values'] is not None, 'SCALE'), (a['pre_norm'], 'PRE_NORM'),
             (a['fc_norm'], 'FC_NORM'), (a['qk_norm'], 'QK_NORM'),
             (a['no_embed_class'], 'PATCH_POS'), (a['pool_include_prefix'], 'POOL_ALL'),
             (a['pos_embed'] == 'none', 'NO_POS'), (not a['final_norm'], 'NO_NORM'),
             (not a['qkv_bias'], 'NO_QKV_BIAS'), (not a['proj_bias'], 'NO_PROJ_BIAS'),
             (a['norm_layer'] == 'rmsnorm', 'RMS'), (a['embed_norm_layer'], 'PATCH_NORM'),
             (a['scale_attn_norm'], 'ATTN_NORM'), (a['scale_mlp_norm'], 'MLP_NORM'),
             (a['swiglu_mlp'], 'GATED'), (a['attn_only_layer_scale'], 'SCALE_ATTN'),
             (a['attn_layer'] == 'diff', 'DIFFERENTIAL'),
             (a['block_fn'] == 'ParallelThingsBlock', 'BRANCHES')]
    return ' | '.join(word for given, word in words if given) or '0'


def sides(size):
    return f'{size[0]}, {size[1]}'


def square(size):
    assert size[0] == size[1], size
    return size[0]


def extras(a):
    """What follows the flags: fields of vit_config, or timm_rows.h's words for several."""
    found = [f'.act = {a["act"].upper()}']
    blocks = {'ResPostBlock': 'POST', 'ParallelScalingBlock': 'PARALLEL'}
    if a['block_fn'] in blocks:
        found.append(f'.block = {blocks[a["block_fn"]]}')
    xy = a.get('rope_grid_indexing', 'ij').upper()
    if a['rope_type'] == 'cat':
        reference = square(a.get('ref_feat_shape', (0, 0)))
        assert not a['rope_rotate_half']
        found.append(f'ROPE_CAT({a["rope_temperature"]:g}, {reference}, '
                     f'{a.get("rope_grid_offset", 0):g}, {xy})')
    elif a['rope_type'] == 'mixed':
        found.append(f'ROPE_MIXED({xy})')
    elif a['rope_type'] == 'dinov3':
        assert a['rope_rotate_half'] and xy == 'IJ'
        found.append(f'ROPE_DINOV3({a["rope_temperature"]:g})')
    biases = {'bias': 'BIAS_TABLE', 'mlp': 'BIAS_MLP', 'mlp-swin': 'BIAS_SWIN'}
    if a['rel_pos_type'] in biases:
        found.append(f'.rel_pos = {biases[a["rel_pos_type"]]}')
    if a['global_pool'] == 'map':
        hidden = int(a['embed_dim'] * a['attn_pool_mlp_ratio'])
        found.append(f'.pool_heads = {a["attn_pool_num_heads"]}, .pool_hidden = {hidden}')
    return ', '.join(found)


def arch_row(name, tag, a):
    assert a['in_chans'] == 3
    hidden = int(a['embed_dim'] * a['mlp_ratio'])
    row = (f'VIT("{name}", "{tag}", {sides(a["img_size"])}, {square(a["patch_size"])}, '
           f'{a["embed_dim"]}, {a["depth"]}, {a["num_heads"]}, {hidden}, {a["num_classes"]}, '
           f'{POOLS[a["global_pool"]]}, {a["norm_eps"]:g}, {a["reg_tokens"]}, {flags(a)}, '
           f'{extras(a)}),')
    return textwrap.fill(row, 100, initial_indent=' ' * 4, subsequent_indent=' ' * 8,
                         break_on_hyphens=False)


def tag_row(name, tag, cfg):
    stats = STATS[tuple(map(float, cfg.mean)), tuple(map(float, cfg.std))]
    assert cfg.input_size[0] == 3
    return (f'    TAG("{name}", "{tag}", {sides(cfg.input_size[1:])}, '
            f'{cfg.interpolation.upper()}, {cfg.crop_mode.upper()}, {cfg.crop_pct:g}, {stats}, '
            f'{cfg.num_classes}),')


def tables():
    """Rows of both tables and the counts for the file's opening comment."""
    import timm
    import torch
    from timm.models import _registry
    archs, tags, total = [], [], 0
    for name in sorted({n for m in MODULES for n in timm.list_models(module=m)}):
        known = _registry._model_default_cfgs[name]
        default = known.tags[0]
        total += len(known.cfgs)
        try:
            with torch.device('meta'):
                model = timm.create_model(name)
            archs.append(arch_row(name, default, export_timm.describe(model)))
        except export_timm.Unsupported as lacking:
            archs.append(f'    NOT("{name}", "{default}", "{lacking}"),')
            continue
        tags += [tag_row(name, tag, known.cfgs[tag]) for tag in sorted(known.cfgs)]
    return archs, tags, total


def write_archs(path):
    import timm
    archs, tags, total = tables()
    runs = sum(row.startswith('    VIT(') for row in archs)
    with open(path, 'w', encoding='utf-8') as out:
        out.write(f'''/* Generated by make_archs.py from timm {timm.__version__}; do not edit.
 *
 * {len(archs)} architectures, {runs} of them run; {len(tags)} of {total} pretrained tags.
 * Both tables are sorted by name (tags within their architecture too), bytewise.
 */
#include "weights_tools/timm_rows.h"

/* name, default tag, image height and width, patch, width, layers, heads, hidden, classes, pool, eps,
 * register tokens, flags, other fields; or name, default tag, what is missing */
const timm_arch timm_archs[] = {{
''' + '\n'.join(archs) + '''
};
const int timm_arch_count = sizeof timm_archs / sizeof *timm_archs;

/* architecture, tag, image height and width, interpolation, crop mode, crop_pct, mean and std, classes */
const timm_tag timm_tags[] = {
''' + '\n'.join(tags) + '''
};
const int timm_tag_count = sizeof timm_tags / sizeof *timm_tags;
''')


def short_labels():
    """The first name of each ImageNet-1k class; where two classes share it, the whole list."""
    from timm.data import ImageNetInfo
    info = ImageNetInfo('imagenet-1k')
    full = [info.index_to_description(i) for i in range(info.num_classes())]
    first = [text.split(',')[0].strip() for text in full]
    shared = Counter(name.lower() for name in first)
    labels = [text if shared[name.lower()] > 1 else name for text, name in zip(full, first)]
    again = Counter(label.lower() for label in labels)
    return [f'{label} ({info.index_to_label_name(i)})' if again[label.lower()] > 1 else label
            for i, label in enumerate(labels)]


def write_labels(path):
    labels = short_labels()
    assert len(labels) == 1000 and len(set(labels)) == 1000
    lines, line = [], ''
    for text in labels:
        item = '"' + text.replace('\\', '\\\\').replace('"', '\\"') + '",'
        if line and len(line) + 1 + len(item) > 96:
            lines.append('    ' + line)
            line = ''
        line = f'{line} {item}' if line else item
    lines.append('    ' + line)
    with open(path, 'w', encoding='utf-8') as out:
        out.write('''/* Generated by make_archs.py; do not edit.
 *
 * ImageNet-1k's classes by their first WordNet name.
 */
#include "weights_tools/timm_archs.h"

const char *const vt_imagenet_labels[1000] = {
''' + '\n'.join(lines) + '\n};\n')


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    write_labels(os.path.join(folder, 'imagenet_labels.c'))
    write_archs(os.path.join(folder, 'timm_archs.c'))


if __name__ == '__main__':
    main()
