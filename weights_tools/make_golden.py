#!/usr/bin/env python3
"""Makes the golden files in tests/golden/models: tiny random models of every family that vitrun
runs, and what timm computes with them in float64, with and without masks.

    make_golden.py [-o tests/golden/models] [--only NAME ...]

Every parameter is drawn anew (biases, norms, layer scales too), so that no part of the forward pass
can be left out unnoticed. The form of the files is described in tests/golden/models/README.md.
Needs torch, timm, numpy, Pillow, safetensors. The same versions on the same kind of processor give the same files.
"""
import argparse
import copy
import functools
import inspect
import json
import os
import re
import sys
import zlib

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from timm.data import create_transform
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer, clean_state_dict
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

import timm_masks
from export_timm import export

CLASSES = 10


# ---- models: registered names made small, and plain VisionTransformers for what has no name ----

def named(arch, **changes):
    settings = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES,
                    img_size=56, patch_size=8)
    return timm.create_model(arch, **{**settings, **changes})


def plain(**changes):
    settings = dict(img_size=48, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2,
                    num_classes=CLASSES)
    model = VisionTransformer(**{**settings, **changes})
    channels = model.in_chans
    model.pretrained_cfg = dict(interpolation='bicubic', crop_pct=1.0, crop_mode='center',
                                mean=(0.45, 0.5, 0.4)[:channels], std=(0.25, 0.2, 0.22)[:channels])
    return model


LAYER_NORM_1E5 = functools.partial(torch.nn.LayerNorm, eps=1e-5)

# name: (how to make it, saved type). Widths and head widths vary on purpose; most are saved in two
# bytes a weight to keep the set small.
MODELS = {
    'vit': (lambda: named('vit_base_patch16_224', img_size=64), 'F32'),
    'vit_miil': (lambda: named('vit_base_patch16_224_miil', num_heads=4), 'F16'),
    'vit_384': (lambda: named('vit_tiny_patch16_384', embed_dim=30, num_heads=3), 'BF16'),
    'deit': (lambda: named('deit_tiny_patch16_224', img_size=112, patch_size=16,
                           embed_dim=24), 'F16'),
    'deit_distilled': (lambda: named('deit_tiny_distilled_patch16_224', depth=3, embed_dim=24),
                       'F32'),
    'deit3': (lambda: named('deit3_small_patch16_224'), 'BF16'),
    'clip': (lambda: named('vit_base_patch32_clip_224'), 'F16'),
    'clip_quickgelu': (lambda: named('vit_base_patch32_clip_quickgelu_224'), 'BF16'),
    'clip_squash': (lambda: named('vit_large_patch14_clip_336.openai_ft_in12k_in1k'), 'F16'),
    'dinov2': (lambda: named('vit_small_patch14_dinov2', num_classes=0, img_size=70, patch_size=14,
                             embed_dim=24), 'BF16'),
    'dinov2_reg4': (lambda: named('vit_small_patch14_reg4_dinov2', num_classes=0, embed_dim=24,
                                  num_heads=3), 'F16'),
    'siglip_gap': (lambda: named('vit_base_patch16_siglip_gap_224'), 'BF16'),
    'siglip_gap_tanh': (lambda: named('vit_large_patch16_siglip_gap_512', embed_dim=24), 'F32'),
    'gap': (lambda: named('vit_base_patch16_gap_224', num_heads=1), 'F16'),
    'gap_scaled': (lambda: named('vit_medium_patch16_gap_256'), 'BF16'),
    'sbb_reg1': (lambda: named('vit_little_patch16_reg1_gap_256', embed_dim=40, num_heads=5),
                 'F16'),
    'sbb_reg4': (lambda: named('vit_betwixt_patch16_reg4_gap_256'), 'BF16'),
    'so150m': (lambda: named('vit_so150m_patch16_reg4_gap_256', num_heads=4), 'F16'),
    'so150m2': (lambda: named('vit_so150m2_patch16_reg1_gap_256', embed_dim=36), 'BF16'),
    'eva_large': (lambda: named('eva_large_patch14_196', img_size=42, patch_size=6), 'F16'),
    'flexivit': (lambda: named('flexivit_small', img_size=80, embed_dim=24), 'BF16'),
    'intern300m': (lambda: named('vit_intern300m_patch14_448', num_classes=0, embed_dim=24), 'F16'),
    # Not square: a bilinear model, for some versions of timm resize to such sizes by bilinear
    # whatever the configuration says, others (1.0.31) as it says.
    'not_square': (lambda: named('vit_base_patch16_224_miil', img_size=(48, 88), embed_dim=24),
                   'BF16'),
    'qk_norm': (lambda: plain(qk_norm=True), 'F32'),
    'grey': (lambda: plain(in_chans=1, img_size=28, patch_size=4), 'F32'),
    'no_positions': (lambda: plain(pos_embed='none'), 'F16'),
    'no_proj_bias': (lambda: plain(proj_bias=False), 'BF16'),
    'pool_max': (lambda: plain(global_pool='max', class_token=False), 'F32'),
    'pool_avgmax': (lambda: plain(global_pool='avgmax', reg_tokens=2), 'F16'),
    'pool_prefix': (lambda: plain(global_pool='avg', reg_tokens=4, pool_include_prefix=True),
                    'BF16'),
    'grid14_f16': (lambda: named('vit_small_patch16_224', img_size=56, patch_size=4, embed_dim=64,
                                 num_heads=1, mlp_ratio=1), 'F16'),
    'head80_bf16': (lambda: named('vit_huge_patch14_224', embed_dim=80, num_heads=1,
                                  mlp_ratio=1), 'BF16'),
    # The model of the xFormers how-to.
    'howto': (lambda: plain(img_size=224, patch_size=16, embed_dim=96, depth=8, num_heads=8,
                            mlp_ratio=3.0, qkv_bias=False, norm_layer=LAYER_NORM_1E5), 'F16'),
}

# Families that differ from the plain ViT inside the block, in attention or in pooling; with few masks.
SWIN_BIAS = dict(img_size=56, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2,
                 num_classes=CLASSES, rel_pos_type='mlp-swin', rel_pos_dim=16, shared_rel_pos=True,
                 class_token=True, global_pool='token')


def relative(**changes):
    model = VisionTransformerRelPos(**{**SWIN_BIAS, **changes})
    model.pretrained_cfg = dict(interpolation='bicubic', crop_pct=1.0, crop_mode='center',
                                mean=(0.45, 0.5, 0.4), std=(0.25, 0.2, 0.22))
    return model


FAMILIES = {
    'siglip': (lambda: named('vit_base_patch16_siglip_224', embed_dim=24), 'F16'),
    'siglip_tanh': (lambda: named('vit_so400m_patch16_siglip_256', embed_dim=24, num_classes=0),
                    'BF16'),
    'test_vit3': (lambda: named('test_vit3', embed_dim=24), 'F16'),
    'test_vit4': (lambda: named('test_vit4', embed_dim=24), 'F16'),
    'dinov2_giant': (lambda: named('vit_giant_patch14_dinov2', embed_dim=24, num_classes=0,
                                   mlp_ratio=4), 'BF16'),
    'aimv2': (lambda: named('aimv2_large_patch14_224', num_classes=0), 'F16'),
    'beit3': (lambda: named('beit3_base_patch16_224', embed_dim=24), 'F16'),
    'eva_giant': (lambda: named('eva_giant_patch14_224', embed_dim=24), 'F16'),
    'eva02_tiny': (lambda: named('eva02_tiny_patch14_336', embed_dim=24), 'F16'),
    'eva02_base': (lambda: named('eva02_base_patch14_448', embed_dim=24), 'F16'),
    'eva02_clip': (lambda: named('eva02_base_patch16_clip_224', embed_dim=24), 'BF16'),
    'eva02_enormous': (lambda: named('eva02_enormous_patch14_clip_224', embed_dim=24), 'F16'),
    'rope_gap': (lambda: named('vit_medium_patch16_rope_reg1_gap_256', embed_dim=24), 'F16'),
    'rope_axial': (lambda: named('vit_small_patch16_rope_224', embed_dim=24), 'F16'),
    'rope_mixed': (lambda: named('vit_small_patch16_rope_mixed_ape_224', embed_dim=24), 'F16'),
    'dinov3': (lambda: named('vit_small_patch16_dinov3', embed_dim=24, num_classes=0), 'F16'),
    'dinov3_qkvb': (lambda: named('vit_small_plus_patch16_dinov3_qkvb', embed_dim=24,
                                  num_classes=0), 'BF16'),
    'pe_core': (lambda: named('vit_pe_core_base_patch16_224', attn_pool_num_heads=4), 'F16'),
    'pe_spatial': (lambda: named('vit_pe_spatial_tiny_patch16_512', embed_dim=24, num_classes=0),
                   'F16'),
    'sapiens2': (lambda: named('vit_base_patch16_sapiens2', num_classes=0, img_size=(64, 48),
                               num_heads=4, num_kv_heads=[4, 2]), 'F16'),
    'beit': (lambda: named('beit_base_patch16_224', embed_dim=24), 'F32'),
    'relpos': (lambda: named('vit_relpos_small_patch16_224', embed_dim=24), 'F16'),
    'relpos_cls': (lambda: named('vit_relpos_base_patch16_clsgap_224', embed_dim=24), 'F16'),
    'srelpos': (lambda: named('vit_srelpos_small_patch16_224', embed_dim=24), 'F16'),
    'relpos_rpn': (lambda: named('vit_relpos_base_patch16_rpn_224', embed_dim=24), 'F16'),
    'relpos_swin': (relative, 'F16'),
    'rpn': (lambda: named('vit_base_patch16_rpn_224', embed_dim=24), 'F16'),
    'xp': (lambda: named('vit_base_patch16_xp_224', embed_dim=24), 'F16'),
    'pwee': (lambda: named('vit_pwee_patch16_reg1_gap_256', embed_dim=24), 'F16'),
    'branches': (lambda: named('vit_small_patch16_18x2_224', embed_dim=24), 'F16'),
    'dwee': (lambda: named('vit_dwee_patch16_reg1_gap_256', embed_dim=24), 'F16'),
    'dpwee': (lambda: named('vit_dpwee_patch16_reg1_gap_256', embed_dim=24), 'F16'),
    'tipsv2': (lambda: named('vit_base_patch14_reg1_tipsv2', embed_dim=24, num_classes=0), 'F16'),
}


# Checkpoints by other names than timm's: as their authors published them.

def renamed(rules):
    """A function that applies rules (timm's text, theirs) to the names of a state_dict, in order."""
    def rename(state):
        found = {}
        for name, value in state.items():
            for ours, theirs in rules:
                name = re.sub(ours, theirs, name)
            found[name] = value
        return found
    return rename


def openai_names(state):
    """One of two towers, with a projection that is transposed and has no bias."""
    state = renamed([
        (r'^patch_embed\.proj', 'conv1'), (r'^pos_embed', 'positional_embedding'),
        (r'^cls_token', 'class_embedding'), (r'^norm_pre', 'ln_pre'), (r'^norm\.', 'ln_post.'),
        (r'^blocks', 'transformer.resblocks'), (r'\.norm(\d)', r'.ln_\1'),
        (r'attn\.qkv\.', 'attn.in_proj_'), (r'attn\.proj', 'attn.out_proj'),
        (r'mlp\.fc1', 'mlp.c_fc'), (r'mlp\.fc2', 'mlp.c_proj'), (r'^', 'visual.')])(state)
    state['visual.proj'] = state.pop('visual.head.weight').T.contiguous()
    del state['visual.head.bias']
    for name in ('class_embedding', 'positional_embedding'):
        state['visual.' + name] = state['visual.' + name][0].squeeze(0)
    state['logit_scale'] = torch.ones(1, dtype=state['visual.proj'].dtype)
    return state


def perception_names(state):
    """OpenAI's names, and attention pooling with one projection of q, k and v."""
    pool = {kind: torch.cat([state.pop(f'attn_pool.{part}.{kind}') for part in ('q', 'kv')])
            for kind in ('weight', 'bias')}
    state = renamed([(r'^attn_pool\.latent', 'attn_pool.probe'),
                     (r'^attn_pool\.norm', 'attn_pool.layernorm'),
                     (r'^attn_pool\.proj', 'attn_pool.attn.out_proj')])(state)
    state = openai_names(state)
    for kind, value in pool.items():
        state['visual.attn_pool.attn.in_proj_' + kind] = value
    return state


def dinov2_names(state):
    """Registers beside a position embedding that has a place for the class token."""
    state = renamed([(r'^reg_token', 'register_tokens'), (r'mlp\.fc1', 'mlp.w12'),
                     (r'mlp\.fc2', 'mlp.w3')])(state)
    place = torch.full_like(state['cls_token'], 0.25)
    state['cls_token'] = state['cls_token'] - place
    state['pos_embed'] = torch.cat([place, state['pos_embed']], 1)
    state['mask_token'] = torch.zeros_like(place[0])
    return state


def dinov3_names(state):
    """One bias of which the keys' part is masked."""
    state = renamed([(r'^reg_token', 'storage_tokens'), (r'gamma_(\d)', r'ls\1.gamma'),
                     (r'mlp\.fc1_g', 'mlp.w1'), (r'mlp\.fc1_x', 'mlp.w2'),
                     (r'mlp\.fc2', 'mlp.w3')])(state)
    for name in [name for name in state if name.endswith('q_bias')]:
        attn = name[:-len('q_bias')]
        q, v = state.pop(name), state.pop(attn + 'v_bias')
        state[attn + 'qkv.bias'] = torch.cat([q, torch.full_like(q, 3.0), v])
        state[attn + 'qkv.bias_mask'] = torch.cat([q * 0 + 1, q * 0, q * 0 + 1])
    state['rope_embed.periods'] = torch.ones(4, dtype=q.dtype)
    state['mask_token'] = torch.zeros_like(state['cls_token'][0])
    return state


EVA_NAMES = renamed([
    (r'q_proj\.bias', 'q_bias'), (r'v_proj\.bias', 'v_bias'), (r'mlp\.fc1_g', 'mlp.w1'),
    (r'mlp\.fc1_x', 'mlp.w2'), (r'mlp\.fc2', 'mlp.w3'), (r'mlp\.norm', 'mlp.ffn_ln'),
    (r'attn\.norm', 'attn.inner_attn_ln'), (r'^', 'visual.')])
ORIGINALS = {
    'openai': (lambda: named('vit_base_patch16_clip_224', embed_dim=24), 'F16', openai_names),
    'pe_meta': (lambda: named('vit_pe_core_base_patch16_224', embed_dim=24, attn_pool_num_heads=4),
                'F16', perception_names),
    'dinov2_fb': (lambda: named('vit_giant_patch14_reg4_dinov2', num_classes=0, embed_dim=24,
                                mlp_ratio=4), 'F32', dinov2_names),
    'dinov3_fb': (lambda: named('vit_small_plus_patch16_dinov3_qkvb', embed_dim=24,
                                num_classes=0), 'F16', dinov3_names),
    'eva_baai': (lambda: named('eva02_base_patch16_clip_224', embed_dim=24), 'F16', EVA_NAMES),
    'module': (lambda: named('vit_tiny_patch16_224', embed_dim=24), 'F16',
               renamed([(r'^', 'module.')])),
}
FAMILIES.update({name: row[:2] for name, row in ORIGINALS.items()})
FEW_MASKS = ('axial', 'per_head', 'columns', 'empty_rows')
MODELS.update(FAMILIES)
DTYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}

# Other image sizes, [height, width]: the position embedding is resampled as timm's loader does.
SIZES = {
    'vit': [(80, 80), (40, 40)],
    'vit_miil': [(56, 72)],
    'not_square': [(64, 48), (56, 56)],
    'deit_distilled': [(72, 72)],
    'deit3': [(64, 64)],
    'sbb_reg4': [(72, 72)],
    'so150m': [(64, 64)],
    'flexivit': [(56, 56), (96, 96)],
    'dinov2': [(98, 98)],
    'eva02_base': [(72, 72)],
    'rope_axial': [(72, 72)],
    'rope_mixed': [(40, 40)],
    'dinov3': [(72, 72)],
    'pe_core': [(72, 72)],
    'beit': [(72, 72), (40, 40)],
    'relpos': [(72, 72)],
    'sapiens2': [(48, 80)],
}
FEATURES = ('vit', 'dinov2_reg4')  # tokens are written too

# Mask configurations, written to masks/NAME.json. Keys fit any depth from 2; per_head needs two heads.
NEAR, CROSS = {'type': 'local_2d', 'distance': 2}, {'type': 'axial_2d'}
CONFIGS = {
    'axial': {'layers': {'all': 'axial_2d()'}},
    'first_layer': {'layers': {'0': 'local_2d(distance=2)'}},
    'later_layers': {'layers': {'1-': {'mask': 'local_2d(distance=3, p="inf")',
                                       'prefix': 'columns'}}},
    'per_head': {'patterns': {'near': NEAR, 'cross': CROSS},
                 'layers': {'0': {'heads': {'0': 'near'}},
                            '1-': {'heads': {'0': 'cross | near', '1-': 'near'}}}},
    'rows': {'prefix': 'rows', 'layers': {'all': 'local_2d(distance=2.5)'}},
    'columns': {'prefix': 'columns', 'layers': {'all': 'local_2d(distance=2.5)'}},
    'none': {'prefix': 'none', 'layers': {'0': 'local_2d(distance=2.5, p=1)',
                                          '1-': {'mask': 'axial_2d()', 'prefix': 'full'}}},
    'expression': {'patterns': {'near': NEAR, 'cross': CROSS},
                   'layers': {'all': '(cross & ~near) | local_1d(window_size=3) | '
                                     'global_tokens(tokens=[0, 7])'}},
    'windows': {'layers': {'0': 'swin(window_size=3, shift_size=1)', '1-': 'dilated_2d(k=2)'}},
    'sequence': {'layers': {'0': 'causal_1d()', '1-': 'strided_1d(stride=5) | '
                            'horizontal_axial_2d(distance=1) | vertical_axial_2d()'}},
    'blocks': {'layers': {'0': 'longformer(block_size=4)',
                          '1-': 'fixed(block_size=4, window=2) & '
                                '~variable(block_size=3, window=1)'}},
    # Rows without any key: the first 20 patches in layer 0, the last one later.
    'empty_rows': {'prefix': 'rows', 'layers': {'0': 'global_tokens(tokens=[20]) & causal_1d()',
                                                '1-': '~causal_1d()'}},
}
# Masks from files fit one model alone.
FILES_FOR = 'sbb_reg1'
FILE_CONFIG = {
    'patterns': {'whole': {'type': 'file', 'path': 'files.safetensors', 'tensor': 'whole'},
                 'patches': {'type': 'file', 'path': 'files.safetensors', 'tensor': 'patches'},
                 'npy': {'type': 'file', 'path': 'patches.npy'}},
    'layers': {'0': 'whole', '1-': {'mask': '(patches & axial_2d()) | npy', 'prefix': 'rows'}},
}


def photo(width, height):
    """Something like a photograph: a shaded sky, a sun, a hill, texture at several scales."""
    random = np.random.default_rng(20)
    y, x = np.mgrid[0:height, 0:width] / height
    picture = np.stack([120 + 90 * y, 140 + 40 * y, 220 - 80 * y], 2)
    picture[(x - 0.8) ** 2 + (y - 0.3) ** 2 < 0.03] = (250, 230, 120)
    picture[y > 0.65 + 0.15 * np.sin(5 * x)] = (50, 110, 40)
    for cells, strength in ((4, 30), (12, 25), (height, 12)):
        noise = random.normal(size=(cells, cells, 3)) * strength
        for channel in range(3):
            plane = Image.fromarray(noise[..., channel].astype(np.float32), 'F')
            picture[..., channel] += np.asarray(plane.resize((width, height), Image.BICUBIC))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8), 'RGB')


@torch.no_grad()
def randomise(model, seed):
    """Draws every parameter: attention far from uniform, nothing at its initial value."""
    random = torch.Generator().manual_seed(seed)

    def normal(shape, scale, mean=0.0):
        return mean + scale * torch.randn(shape, generator=random)

    for name, p in model.named_parameters():
        if 'gamma' in name:
            value = normal(p.shape, 0.3, 0.8)
        elif 'norm' in name:
            value = normal(p.shape, 0.3, 1.0 if name.endswith('weight') else 0.0)
        elif name == 'rope.freqs':
            value = normal(p.shape, 0.7)
        elif p.ndim <= 1:
            value = normal(p.shape, 0.3)
        elif 'token' in name or 'pos_embed' in name:
            value = normal(p.shape, 0.7)
        else:
            gain = 1.6 if 'qkv' in name else 1.0
            value = normal(p.shape, gain / (p.numel() / p.shape[0]) ** 0.5)
        p.copy_(value)


@torch.no_grad()
def save_as_published(name, model, path):
    """Gives the tensors of a file the names that ORIGINALS says; timm's loader must undo it."""
    rename = ORIGINALS[name][2]
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}
    published = rename(state)
    module = sys.modules[type(model).__module__]
    filtered = module.checkpoint_filter_fn(clean_state_dict(dict(published)), model)
    for key, value in state.items():
        torch.testing.assert_close(filtered[key], value, check_dtype=False)
    save_torch({key: value.contiguous() for key, value in published.items()}, path, metadata)


def sort_header(path):
    """Orders the metadata of a .safetensors file, which its writer leaves to chance."""
    with open(path, 'r+b') as file:
        size = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(size))
        header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
        text = json.dumps(header, separators=(',', ':')).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def transform(cfg, size):
    """timm's evaluation transform by the exported configuration, at `size` pixels."""
    channels = cfg['input_size'][0]
    return create_transform((channels, *size), is_training=False, mean=cfg['mean'], std=cfg['std'],
                            interpolation=cfg['interpolation'], crop_pct=cfg['crop_pct'],
                            crop_mode=cfg['crop_mode'])


def resized(model, arch, size):
    """A float64 copy of `model` for images of `size`, as timm's loader would make it."""
    other = copy.deepcopy(model)
    saved, grid = getattr(model, 'pos_embed', None), model.patch_embed.grid_size
    other.set_input_size(img_size=size)
    if saved is None or 'flexi' not in arch:
        return other.double()  # it has resized what it has
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    way = dict(interpolation='bilinear', antialias=False)
    other.pos_embed = torch.nn.Parameter(resample_abs_pos_embed(
        saved, new_size=other.patch_embed.grid_size, old_size=grid, num_prefix_tokens=prefix,
        **way))
    return other.double()


def intermediates(model, pixels, norm):
    """[layers][2][width]: the first and the last token that each block gives, in 7 digits."""
    blocks = model.forward_intermediates(pixels, norm=norm, output_fmt='NLC',
                                         return_prefix_tokens=model.num_prefix_tokens > 0,
                                         intermediates_only=True)
    ends = []
    for block in blocks:
        patches, prefix = block if isinstance(block, tuple) else (block, block)
        ends.append([[float(f'{x:.7g}') for x in token.tolist()]
                     for token in (prefix[0, 0], patches[0, -1])])
    return ends


@torch.no_grad()
def run(model, pixels, masks, outputs=()):
    """One case's results: logits, and those of `outputs`."""
    with timm_masks.masked(model, masks):
        tokens = model.forward_features(pixels)
        found = {'logits': model.forward_head(tokens)[0].tolist()}
        if 'pooled' in outputs:
            found['pooled'] = model.forward_head(tokens, pre_logits=True)[0].tolist()
        if 'tokens' in outputs:
            found['tokens'] = tokens[0].tolist()
        if 'intermediates' in outputs:
            found['intermediates'] = intermediates(model, pixels, norm=False)
            found['intermediates_norm'] = intermediates(model, pixels, norm=True)
    return found


@torch.no_grad()
def check(model):
    """The attention in timm_masks is timm's: same results without a mask and with one for all."""
    grid, prefix = model.patch_embed.grid_size, model.num_prefix_tokens
    pixels = torch.randn(1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size, dtype=torch.float64)
    mask = timm_masks.layer_masks(CONFIGS['axial'], 1, 1, prefix, grid)[0]
    if 'attn_mask' not in inspect.signature(type(model).forward).parameters:
        return
    for one in (None, mask):
        with timm_masks.masked(model, [one] * len(model.blocks)):
            ours = model(pixels)
        theirs = model(pixels, attn_mask=None if one is None else torch.from_numpy(one))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def allowed_pairs(mask, heads, tokens):
    """Allowed pairs of each head."""
    if mask is None:
        return [tokens * tokens] * heads
    return np.broadcast_to(mask, (heads, tokens, tokens)).sum((1, 2)).tolist()


def make(name, folder, image):
    """Writes NAME.safetensors and NAME.json; returns their size."""
    build, dtype = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    randomise(model, zlib.crc32(name.encode()))
    if name in ('openai', 'pe_meta'):
        torch.nn.init.zeros_(model.head.bias)
    path = os.path.join(folder, name + '.safetensors')
    for p in model.parameters():  # and nothing that is not saved
        p.data = p.data.to(DTYPES[dtype])
    export(model, path)
    if name in ORIGINALS:
        save_as_published(name, model, path)
    sort_header(path)
    os.chmod(path, 0o644)
    model.float()
    with safe_open(path, 'pt') as file:
        config = json.loads(file.metadata()['vitrun.config'])
    attns = timm_masks.attentions(model.blocks[0])
    depth, heads = len(model.blocks), len(attns) * attns[0].num_heads
    picture = image.convert('L' if model.patch_embed.proj.in_channels == 1 else 'RGB')
    cases = []

    double = copy.deepcopy(model).double()
    check(double)

    def case(masks_name, size):
        m = (resized(model, config['architecture'], size) if size else double).eval()
        shape = size or m.patch_embed.img_size
        pixels = transform(config['pretrained_cfg'], shape)(picture).double()[None]
        masks = [None] * depth
        if masks_name:
            document = FILE_CONFIG if masks_name == 'files' else CONFIGS[masks_name]
            masks = timm_masks.layer_masks(document, depth, heads, m.num_prefix_tokens,
                                           m.patch_embed.grid_size, os.path.join(folder, 'masks'))
        tokens = m.num_prefix_tokens + m.patch_embed.num_patches
        outputs = [] if size or masks_name not in (None, 'axial') else ['pooled', 'intermediates']
        outputs += ['tokens'] if name in FEATURES and not size and not masks_name else []
        cases.append(dict(masks=f'masks/{masks_name}.json' if masks_name else None,
                          img_size=list(size) if size else None,
                          pairs=[allowed_pairs(mask, heads, tokens) for mask in masks],
                          **run(m, pixels, masks, outputs)))

    case(None, None)
    for masks_name in FEW_MASKS if name in FAMILIES else CONFIGS:
        if masks_name != 'per_head' or heads > 1:
            case(masks_name, None)
    if name == FILES_FOR:
        case('files', None)
    for size in SIZES.get(name, ()):
        case(None, size)
        case('axial', size)
    document = os.path.join(folder, name + '.json')
    with open(document, 'w', encoding='utf-8') as file:
        lines = ',\n'.join('  ' + json.dumps(c) for c in cases)
        file.write(f'{{"weights": "{name}.safetensors", "image": "image.png", "cases": [\n'
                   f'{lines}\n]}}\n')
    return os.path.getsize(path) + os.path.getsize(document)


def write_masks(folder):
    """masks/NAME.json, and the mask files of FILE_CONFIG."""
    os.makedirs(folder, exist_ok=True)
    for name, config in [*CONFIGS.items(), ('files', FILE_CONFIG)]:
        with open(os.path.join(folder, name + '.json'), 'w', encoding='utf-8') as file:
            json.dump({'version': 1, **config}, file, indent=1)
            file.write('\n')
    model = MODELS[FILES_FOR][0]()
    patches = model.patch_embed.num_patches
    tokens, heads = patches + model.num_prefix_tokens, model.blocks[0].attn.num_heads
    random = np.random.default_rng(5)
    save_file({'whole': random.random((heads, tokens, tokens)) < 0.2,
               'patches': (random.random((patches, patches)) < 0.5).astype(np.float32) * -2.5},
              os.path.join(folder, 'files.safetensors'))
    os.chmod(os.path.join(folder, 'files.safetensors'), 0o644)
    np.save(os.path.join(folder, 'patches.npy'),
            (random.random((patches, patches)) < 0.1).astype(np.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('-o', '--output', default='tests/golden/models', metavar='DIR')
    parser.add_argument('--only', metavar='NAME', choices=sorted(MODELS), nargs='+')
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the same digits every time
    os.makedirs(args.output, exist_ok=True)
    image_path = os.path.join(args.output, 'image.png')
    photo(96, 80).save(image_path)
    write_masks(os.path.join(args.output, 'masks'))
    total = 0
    for name in args.only or MODELS:
        size = make(name, args.output, Image.open(image_path))
        total += size
        print(f'{name:16} {size:8} bytes', flush=True)
    print(f'{total} bytes')


if __name__ == '__main__':
    main()
