#!/usr/bin/env python3
"""Compares vitrun with timm on models of full size, on random weights.

    compare_timm.py --models vit_base_patch16_224,deit3_small_patch16_224 --image cat.png
    compare_timm.py --models vit_small_patch16_224 --mask-config masks.json --image cat.png

For each model: timm builds it, every parameter is drawn anew, export_timm.py writes it, vitrun runs
it on the image (unmasked, and under each mask configuration), and timm computes the same in
float64. Prints a line a case: the largest difference of a logit, relative to the largest logit.
Exit status 1 if one is over --allowed, or if vitrun fails. Random patterns are vitrun's own:
compare them as files, written by `vitrun mask --save`. Needs torch, timm, numpy, Pillow, safetensors.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import safe_open

import timm_masks
from export_timm import Unsupported, export
from make_golden import photo, randomise, transform


def vitrun_logits(args, weights, masks):
    """What the program prints as logits; raises RuntimeError with its message."""
    command = [args.vitrun, '--weights', weights, '--json', '--logits', '--dtype', args.dtype]
    command += ['--device', args.device] + args.option
    if masks:
        command += ['--mask-config', masks]
    done = subprocess.run([*command, args.image], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'exit status {done.returncode}: {done.stderr.strip()}')
    return np.array(json.loads(done.stdout)['results'][0]['logits'])


@torch.no_grad()
def timm_logits(model, pixels, config):
    """float64 logits of `model` under the mask configuration file `config` (or None)."""
    masks = [None] * len(model.blocks)
    if config:
        with open(config, encoding='utf-8') as file:
            document = json.load(file)
        masks = timm_masks.layer_masks(document, len(model.blocks), model.blocks[0].attn.num_heads,
                                       model.num_prefix_tokens, model.patch_embed.grid_size,
                                       os.path.dirname(config) or '.')
    with timm_masks.masked(model, masks):
        return model(pixels)[0].numpy()


def compare(name, args, folder):
    """Prints the cases of one model; returns the number that failed."""
    model = timm.create_model(name).eval()
    randomise(model, zlib.crc32(name.encode()))
    weights = os.path.join(folder, 'model.safetensors')
    export(model, weights)
    with safe_open(weights, 'pt') as file:
        cfg = json.loads(file.metadata()['vitrun.config'])['pretrained_cfg']
    model = model.double()
    picture = Image.open(args.image).convert('L' if model.in_chans == 1 else 'RGB')
    pixels = transform(cfg, model.patch_embed.img_size)(picture).double()[None]
    failed = 0
    for config in [None, *args.mask_config]:
        expected = timm_logits(model, pixels, config)
        case = f'{name:44} {os.path.basename(config) if config else "dense":24}'
        try:
            found = vitrun_logits(args, weights, config)
        except RuntimeError as error:
            print(f'{case} {error}', flush=True)
            failed += 1
            continue
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        good = difference <= args.allowed
        failed += not good
        print(f'{case} {difference:.2e}  {"ok" if good else "TOO FAR"}', flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--models', required=True, help='timm names, separated by commas')
    parser.add_argument('--vitrun', default='build/vitrun',
                        help='the program (default: %(default)s)')
    parser.add_argument('--image', help='an image file (default: a made-up one)')
    parser.add_argument('--mask-config', action='append', default=[], metavar='FILE',
                        help='compare under these masks too; may be repeated')
    parser.add_argument('--allowed', type=float, default=1e-4, help='default: %(default)s')
    parser.add_argument('--dtype', default='fp32')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--option', action='append', default=[], metavar='OPTION',
                        help='one more argument for vitrun, as in --option=--kernel=sparse')
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        if not args.image:
            args.image = os.path.join(folder, 'photo.png')
            photo(500, 375).save(args.image)
        for name in args.models.split(','):
            try:
                failed += compare(name, args, folder)
            except Unsupported as error:
                print(f'{name}: vitrun cannot run this model: {error}')
                failed += 1
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
