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
    'SATELLITE': ([0.43, 0.411, 0.296], [0.213, 0.156, 0.143]),
}


def rows(macro):
    """The arguments of every call of `macro` in timm_archs.c, as lists of texts."""
    with open(os.path.join(HERE, 'timm_archs.c'), encoding='utf-8') as table:
        calls = re.findall(rf'^    {macro}\((.*?)\),\n(?=    [A-Z]|\}};)', table.read(), re.S | re.M)
    apart = re.compile(r',(?![^(]*\))')  # not the commas of a macro's own arguments
    return [[item.strip().strip('"') for item in apart.split(' '.join(call.split()))]
            for call in calls]


def rope_args(extras):
    """The rotary embedding of a row as model_args."""
    for item in extras:
        kind, _, rest = item.partition('(')
        given = [text.strip() for text in rest.rstrip(')').split(',')]
        if kind == 'ROPE_MIXED':
            return dict(rope_type='mixed', rope_grid_indexing=given[0].lower())
        if kind == 'ROPE_DINOV3':
            return dict(rope_type='dinov3', rope_temperature=float(given[0]), rope_rotate_half=True)
        if kind == 'ROPE_CAT':
            side = int(given[1])
            return dict(rope_type='cat', rope_temperature=float(given[0]),
                        ref_feat_shape=[side, side] if side else None,
                        rope_grid_offset=float(given[2]), rope_grid_indexing=given[3].lower())
    return dict(rope_type='none')


def model_args(row):
    """model_args of a VIT row, complete as export_timm.describe gives them."""
    height, width, patch, dim, depth, heads, hidden, classes = map(int, row[2:10])
    flags = row[13].split(' | ')
    fields = dict(item.lstrip('.').split(' = ') for item in row[14:] if item.startswith('.'))
    blocks = {'POST': 'ResPostBlock', 'PARALLEL': 'ParallelScalingBlock', None: 'Block'}
    block = 'ParallelThingsBlock' if 'BRANCHES' in flags else blocks[fields.get('block')]
    biases = {'BIAS_TABLE': 'bias', 'BIAS_MLP': 'mlp', 'BIAS_SWIN': 'mlp-swin', None: 'none'}
    norm = 'rmsnorm' if 'RMS' in flags else 'layernorm'
    pool = {}
    if row[10] == 'MAP':
        pool = dict(attn_pool_num_heads=int(fields['pool_heads']),
                    attn_pool_mlp_ratio=export_timm.mlp_ratio(dim, int(fields['pool_hidden'])))
    return dict(
        img_size=[height, width], patch_size=[patch, patch], in_chans=3, num_classes=classes,
        global_pool=row[10].lower(), embed_dim=dim, depth=depth, num_heads=heads,
        mlp_ratio=export_timm.mlp_ratio(dim, hidden), qkv_bias='NO_QKV_BIAS' not in flags,
        qk_norm='QK_NORM' in flags, proj_bias='NO_PROJ_BIAS' not in flags,
        init_values=1.0 if 'SCALE' in flags else None, class_token='CLS' in flags,
        distilled='DIST' in flags, no_embed_class='PATCH_POS' in flags, reg_tokens=int(row[12]),
        pos_embed='none' if 'NO_POS' in flags else 'learn', pre_norm='PRE_NORM' in flags,
        final_norm='NO_NORM' not in flags, fc_norm='FC_NORM' in flags,
        pool_include_prefix='POOL_ALL' in flags, norm_layer=norm, norm_eps=float(row[11]),
        act=fields['act'].lower(), embed_norm_layer=norm if 'PATCH_NORM' in flags else None,
        scale_attn_norm='ATTN_NORM' in flags, scale_mlp_norm='MLP_NORM' in flags,
        swiglu_mlp='GATED' in flags, attn_only_layer_scale='SCALE_ATTN' in flags, block_fn=block,
        attn_layer='diff' if 'DIFFERENTIAL' in flags else 'attn',
        rel_pos_type=biases[fields.get('rel_pos')], **pool, **rope_args(row[14:]))


class Shapes(dict):
    """{name: shape} of a checkpoint in the making."""

    def __init__(self, a):
        super().__init__()
        self.a, self.width = a, a['embed_dim']
        self.hidden = int(a['embed_dim'] * a['mlp_ratio'])
        self.head = self.width // a['num_heads']

    def norm(self, name, present=True, size=None):
        if present:
            self[name + '.weight'] = (size or self.width,)
            if self.a['norm_layer'] == 'layernorm':
                self[name + '.bias'] = (size or self.width,)

    def linear(self, name, rows, cols, bias=True):
        self[name + '.weight'] = (rows, cols)
        if bias:
            self[name + '.bias'] = (rows,)

    def scale(self, name, present=True):
        if present and self.a['init_values'] is not None:
            self[name + '.gamma'] = (self.width,)

    def relative(self, attn, grid):
        a = self.a
        if a['rel_pos_type'] == 'bias':
            distances = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3 * a['class_token']
            self[attn + '.relative_position_bias_table'] = (distances, a['num_heads'])
        elif a['rel_pos_type'] != 'none':
            self.linear(attn + '.rel_pos.mlp.fc1', 128, 2)
            self.linear(attn + '.rel_pos.mlp.fc2', a['num_heads'], 128, a['rel_pos_type'] == 'mlp')

    def inside_attention(self, attn, grid):
        a, differential = self.a, self.a['attn_layer'] == 'diff'
        head = self.head // 2 if differential else self.head
        self.norm(attn + '.q_norm', a['qk_norm'], head)
        self.norm(attn + '.k_norm', a['qk_norm'], head)
        self.norm(attn + '.norm', a['scale_attn_norm'])
        self.relative(attn, grid)
        if differential:
            for side in ('q1', 'k1', 'q2', 'k2'):
                self[f'{attn}.lambda_{side}'] = (head,)
            self[attn + '.sub_norm.weight'] = (2 * head,)

    def attention(self, attn, grid):
        self.linear(attn + '.qkv', 3 * self.width, self.width, self.a['qkv_bias'])
        self.inside_attention(attn, grid)
        self.linear(attn + '.proj', self.width, self.width, self.a['proj_bias'])

    def mlp(self, mlp):
        a = self.a
        rows = self.hidden * (2 if a['swiglu_mlp'] else 1)
        self.linear(mlp + '.fc1', rows, self.width, a['proj_bias'])
        self.norm(mlp + '.norm', a['scale_mlp_norm'], self.hidden)
        self.linear(mlp + '.fc2', self.width, self.hidden, a['proj_bias'])

    def block(self, b, grid):
        a = self.a
        if a['block_fn'] == 'ParallelScalingBlock':
            self.norm(b + 'in_norm')
            self.linear(b + 'in_proj', self.hidden + 3 * self.width, self.width, a['qkv_bias'])
            if not a['qkv_bias']:
                self[b + 'mlp_bias'] = (self.hidden,)
            self.inside_attention(b[:-1], grid)
            self.linear(b + 'attn_out_proj', self.width, self.width, a['proj_bias'])
            self.linear(b + 'mlp_out_proj', self.width, self.hidden, a['proj_bias'])
            self.scale(b + 'ls')
        elif a['block_fn'] == 'ParallelThingsBlock':
            for j in range(2):
                self.norm(f'{b}attns.{j}.norm')
                self.attention(f'{b}attns.{j}.attn', grid)
                self.scale(f'{b}attns.{j}.ls')
                self.norm(f'{b}ffns.{j}.norm')
                self.mlp(f'{b}ffns.{j}.mlp')
                self.scale(f'{b}ffns.{j}.ls')
        else:
            self.norm(b + 'norm1')
            self.attention(b + 'attn', grid)
            self.scale(b + 'ls1')
            self.norm(b + 'norm2')
            self.mlp(b + 'mlp')
            self.scale(b + 'ls2', not a['attn_only_layer_scale'])

    def tokens(self, grid):
        a = self.a
        prefix = a['class_token'] + a['distilled'] + a['reg_tokens']
        for name, count in (('cls_token', a['class_token']), ('dist_token', a['distilled']),
                            ('reg_token', a['reg_tokens'])):
            if count:
                self[name] = (1, int(count), self.width)
        if a['pos_embed'] == 'learn':
            covered = 0 if a['no_embed_class'] else prefix
            self['pos_embed'] = (1, grid[0] * grid[1] + covered, self.width)

    def attn_pool(self):
        hidden = int(self.width * self.a['attn_pool_mlp_ratio'])
        self['attn_pool.latent'] = (1, 1, self.width)
        self.linear('attn_pool.q', self.width, self.width)
        self.linear('attn_pool.kv', 2 * self.width, self.width)
        self.linear('attn_pool.proj', self.width, self.width)
        self.norm('attn_pool.norm')
        self.linear('attn_pool.mlp.fc1', hidden, self.width)
        self.linear('attn_pool.mlp.fc2', self.width, hidden)


def tensor_shapes(a):
    """{name: shape} of the checkpoint that model_args `a` describe, by names that vitrun knows."""
    shapes, width = Shapes(a), a['embed_dim']
    patch = a['patch_size']
    grid = [side // p for side, p in zip(a['img_size'], patch)]
    shapes.tokens(grid)
    shapes['patch_embed.proj.weight'] = (width, a['in_chans'], *patch)
    if not a['pre_norm']:
        shapes['patch_embed.proj.bias'] = (width,)
    shapes.norm('patch_embed.norm', a['embed_norm_layer'] is not None)
    shapes.norm('norm_pre', a['pre_norm'])
    if a['rope_type'] == 'mixed':
        shapes['rope.freqs'] = (2, a['depth'], a['num_heads'], shapes.head // 2)
    for i in range(a['depth']):
        shapes.block(f'blocks.{i}.', grid)
    shapes.norm('norm', a['final_norm'] and not a['fc_norm'])
    if a['global_pool'] == 'map':
        shapes.attn_pool()
    shapes.norm('fc_norm', a['final_norm'] and a['fc_norm'])
    for head in ('head', 'head_dist')[:1 + a['distilled']] if a['num_classes'] else ():
        shapes.linear(head, a['num_classes'], width)
    return shapes


def describe(name):
    """The document for vitrun.config: the architecture, and its default tag's preprocessing."""
    arch = next((row for row in rows('VIT') if row[0] == name), None)
    if arch is None:
        known = {row[0]: row[2] for row in rows('NOT')}
        sys.exit(f'random_vit.py: {name}: ' + (f'vitrun lacks {known[name]}' if name in known else
                                               'unknown architecture'))
    args = model_args(arch)
    tag = next(row for row in rows('TAG') if row[:2] == [name, arch[1]])
    mean, std = STATS[tag[7]]
    cfg = dict(input_size=[3, *args['img_size']], fixed_input_size=True,
               interpolation=tag[4].lower(), crop_mode=tag[5].lower(), crop_pct=float(tag[6]),
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
    shapes = tensor_shapes(doc['model_args'])
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
