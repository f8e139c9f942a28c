#!/usr/bin/env python3
"""Writes a checkpoint with random weights for any architecture that vitrun runs: for speed and
memory measurements, and for tests, where no trained weights are at hand.

    random_vit.py vit_base_patch16_224 -o random.safetensors
    random_vit.py vit_giant_patch14_224 --dtype bf16 --seed 7 -o giant.safetensors

Weights are scaled so that activations neither vanish nor grow with depth. The same seed gives the
same file. Tensors are made and written piece by piece, so that memory stays small. Needs numpy
only; the architectures are read from timm_archs.c.
"""
import argparse
import json
import os
import re
import sys
from math import prod

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import export_timm  # noqa: E402

PIECE = 1 << 22  # values made at once
DTYPES = {'f32': ('F32', 4), 'f16': ('F16', 2), 'bf16': ('BF16', 2)}
STATS = {  # as in timm_rows.h
    'HALF': ([0.5] * 3, [0.5] * 3),
    'IMAGENET': ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    'CLIP': ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    'UNIT': ([0.0] * 3, [1.0] * 3),
}


def rows(macro):
    """The arguments of every call of `macro` in timm_archs.c, as lists of texts."""
    with open(os.path.join(HERE, 'timm_archs.c'), encoding='utf-8') as table:
        calls = re.findall(rf'^    {macro}\((.*?)\),\n', table.read(), re.S | re.M)
    return [[item.strip().strip('"') for item in ' '.join(call.split()).split(',')]
            for call in calls]


def model_args(row):
    """model_args of a VIT row, complete as export_timm.describe gives them."""
    size, patch, width, depth, heads, hidden, classes = map(int, row[2:9])
    flags = row[13].split(' | ')
    return dict(
        img_size=[size, size], patch_size=[patch, patch], in_chans=3, num_classes=classes,
        global_pool=row[9].lower(), embed_dim=width, depth=depth, num_heads=heads,
        mlp_ratio=export_timm.mlp_ratio(width, hidden), qkv_bias='NO_QKV_BIAS' not in flags,
        qk_norm='QK_NORM' in flags, proj_bias='NO_PROJ_BIAS' not in flags,
        init_values=1.0 if 'SCALE' in flags else None, class_token='CLS' in flags,
        distilled='DIST' in flags, no_embed_class='PATCH_POS' in flags, reg_tokens=int(row[12]),
        pos_embed='none' if 'NO_POS' in flags else 'learn', pre_norm='PRE_NORM' in flags,
        final_norm='NO_NORM' not in flags, fc_norm='FC_NORM' in flags,
        pool_include_prefix='POOL_ALL' in flags, norm_eps=float(row[11]), act=row[10].lower())


def describe(name):
    """The document for vitrun.config: the architecture, and its default tag's preprocessing."""
    arch = next((row for row in rows('VIT') if row[0] == name), None)
    if arch is None:
        known = {row[0]: row[2] for row in rows('NOT')}
        sys.exit(f'random_vit.py: {name}: ' + (f'vitrun lacks {known[name]}' if name in known else
                                               'unknown architecture'))
    args = model_args(arch)
    tag = next(row for row in rows('TAG') if row[:2] == [name, arch[1]])
    mean, std = STATS[tag[6]]
    cfg = dict(input_size=[3, *args['img_size']], fixed_input_size=True,
               interpolation=tag[3].lower(), crop_mode=tag[4].lower(), crop_pct=float(tag[5]),
               mean=mean, std=std)
    return dict(architecture=name, num_classes=args['num_classes'], model_args=args,
                pretrained_cfg=cfg)


def distribution(name, shape):
    """(mean, standard deviation) of a tensor's values."""
    if name.endswith('.gamma'):
        return 0.5, 0.05
    if 'norm' in name:
        return (1.0, 0.1) if name.endswith('.weight') else (0.0, 0.02)
    if name.endswith('.weight'):
        return 0.0, 0.7 / prod(shape[1:]) ** 0.5
    return 0.0, 0.02


def encode(values, dtype):
    if dtype == 'f16':
        return values.astype('<f2')
    if dtype == 'bf16':  # the upper half, rounded to nearest even
        bits = values.view(np.uint32)
        return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype('<u2')
    return values.astype('<f4')


def header(shapes, doc, dtype):
    name, size = DTYPES[dtype]
    table, end = {'__metadata__': {'format': 'pt', 'vitrun.config': json.dumps(doc)}}, 0
    for tensor, shape in shapes.items():
        begin, end = end, end + prod(shape) * size
        table[tensor] = {'dtype': name, 'shape': list(shape), 'data_offsets': [begin, end]}
    text = json.dumps(table, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text


def write(path, doc, seed=0, dtype='f32'):
    shapes = export_timm.tensor_shapes(doc['model_args'])
    with open(f'{path}.partial', 'wb') as out:
        out.write(header(shapes, doc, dtype))
        for i, (name, shape) in enumerate(shapes.items()):
            mean, deviation = distribution(name, shape)
            random, left = np.random.Generator(np.random.PCG64([seed, i])), prod(shape)
            while left > 0:
                values = random.standard_normal(min(left, PIECE), dtype=np.float32)
                values = values * np.float32(deviation) + np.float32(mean)
                out.write(encode(values, dtype).tobytes())
                left -= values.size
    os.replace(f'{path}.partial', path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('arch', help='a timm architecture, as vitrun info --list prints them')
    parser.add_argument('-o', '--output', required=True)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--dtype', choices=DTYPES, default='f32')
    parser.add_argument('--classes', type=int, help='number of classes, where not the usual')
    args = parser.parse_args()
    doc = describe(args.arch)
    if args.classes is not None:
        doc['num_classes'] = doc['model_args']['num_classes'] = args.classes
    try:
        write(args.output, doc, args.seed, args.dtype)
    except OSError as error:
        sys.exit(f'random_vit.py: {error}')


if __name__ == '__main__':
    main()
