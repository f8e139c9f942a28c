#!/usr/bin/env python3
"""Compares vitrun with timm on any model, with timm's weights or random ones.

    compare_timm.py vit_base_patch16_dinov3 --pretrained --image cat.png
    compare_timm.py eva02_base_patch14_448.mim_in22k_ft_in22k_in1k --pretrained --image photos/
    compare_timm.py vit_small_patch16_224 beit_base_patch16_224 --mask-config masks.json
    compare_timm.py vit_base_patch16_224 --device cuda --dtype fp16
    compare_timm.py vit_small_patch14_reg4_dinov2 --features

For each model: timm builds it and loads its weights from the hub, or every parameter is drawn anew;
export_timm.py writes it; vitrun runs it on the image, or on all of a folder, unmasked and under each
mask configuration; timm computes the same in float64. Prints a line a case: the largest difference
of a logit (of a feature, where the model has no head), relative to the largest of them. With
--features also what --features FILE writes: pooled features (timm's forward_head with pre_logits),
all tokens (forward_features), and what every block gives (forward_intermediates), with and without
the final norm. Exit status 1 if one is over --allowed, or if vitrun fails.

On a GPU the dense case is judged by PyTorch in the same type, on the same GPU, over --images random
pictures: vitrun's root mean square distance from float64 must be at most 1.05 times PyTorch's.
Random patterns are vitrun's own: compare them as files, written by `vitrun mask --save`. Needs
torch, timm, numpy, Pillow, safetensors.
"""
import argparse
import copy
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
from safetensors.numpy import load_file

import timm_masks
from export_timm import Unsupported, export
from make_golden import photo, randomise, transform

KINDS = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16,
         'fp16': torch.float16}
PICTURES = ('.png', '.jpg', '.jpeg')


def pictures(path):
    """The images of a folder, in the order in which vitrun takes them; or the one."""
    if not os.path.isdir(path):
        return [path]
    found = sorted((name for name in os.listdir(path) if name.lower().endswith(PICTURES)),
                   key=os.fsencode)
    return [os.path.join(path, name) for name in found]


def vitrun(args, weights, images, masks, *options):
    """What the program prints; raises RuntimeError with its message."""
    command = [args.vitrun, '--weights', weights, '--dtype', args.dtype, '--device', args.device]
    command += [*args.option, *options]
    if masks:
        command += ['--mask-config', masks]
    done = subprocess.run([*command, *images], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'exit status {done.returncode}: {done.stderr.strip()}')
    return done.stdout


def vitrun_logits(args, weights, images, masks=None):
    """[images, outputs]"""
    document = json.loads(vitrun(args, weights, images, masks, '--json', '--logits'))
    return np.array([result['logits'] for result in document['results']])


def vitrun_features(args, weights, images, masks, file):
    """What --features writes into `file`, by name: pooled, tokens, layerL, layerL normed."""
    found = {}
    for options, names in (([], '{}'), (['--tokens'], '{}'),
                           (['--intermediate', 'all', '--prefix-tokens'], '{}'),
                           (['--intermediate', 'all', '--prefix-tokens', '--norm'], '{} normed')):
        vitrun(args, weights, images, masks, '--features', file, *options)
        found.update({names.format(name): value for name, value in load_file(file).items()})
    return found


@torch.no_grad()
def timm_features(model, pixels, config):
    """The same of timm, in float64."""
    found, prefix = {}, model.num_prefix_tokens > 0
    with masked(model, config):
        tokens = model.forward_features(pixels)
        found['tokens'], found['features'] = tokens, model.forward_head(tokens, pre_logits=True)
        for norm, names in ((False, '{}'), (True, '{} normed')):
            blocks = model.forward_intermediates(pixels, norm=norm, return_prefix_tokens=prefix,
                                                 output_fmt='NLC', intermediates_only=True)
            for i, block in enumerate(blocks):
                patches, first = block if prefix else (block, None)
                found[names.format(f'layer{i}')] = patches
                if prefix:
                    found[names.format(f'layer{i}.prefix')] = first
    return {name: value.numpy() for name, value in found.items()}


def masked(model, config):
    """`model` under the mask configuration file `config` (or None), as a context."""
    masks = [None] * len(model.blocks)
    if config:
        attns = timm_masks.attentions(model.blocks[0])
        with open(config, encoding='utf-8') as file:
            document = json.load(file)
        masks = timm_masks.layer_masks(document, len(model.blocks),
                                       len(attns) * attns[0].num_heads, model.num_prefix_tokens,
                                       model.patch_embed.grid_size,
                                       os.path.dirname(config) or '.')
    return timm_masks.masked(model, masks)


@torch.no_grad()
def timm_logits(model, pixels, config):
    """float64 logits of `model` under the mask configuration file `config` (or None)."""
    with masked(model, config):
        return np.concatenate([model(one[None]).numpy() for one in pixels])


@torch.no_grad()
def beside_pytorch(name, model, weights, transformed, args, folder):
    """Both engines' distances from float64 over several pictures; returns whether vitrun's is too
    far."""
    kind = KINDS[args.dtype]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.dtype == 'tf32'
    made, pixels = [], []
    for i in range(args.images):
        made.append(os.path.join(folder, f'{i}.png'))
        noise = np.random.default_rng(i).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((300, 280), Image.Resampling.BICUBIC).save(made[-1])
        pixels.append(transformed(Image.open(made[-1])))
    pixels = torch.stack(pixels)
    exact = copy.deepcopy(model).cuda().double()(pixels.double().cuda()).cpu().numpy()
    theirs = model.cuda().to(kind)(pixels.to(kind).cuda()).double().cpu().numpy()
    ours = vitrun_logits(args, weights, made)
    largest = np.abs(exact).max()
    far = [(np.sqrt(np.square(x - exact).mean()) / largest, np.abs(x - exact).max() / largest)
           for x in (ours, theirs)]
    good = far[0][0] <= 1.05 * far[1][0]
    print(f'{name:44} {args.dtype} from float64, rms (max): vitrun {far[0][0]:.2e} '
          f'({far[0][1]:.2e})  PyTorch {far[1][0]:.2e} ({far[1][1]:.2e})  '
          f'{"ok" if good else "TOO FAR"}', flush=True)
    return not good


def build(name, args, weights):
    """The model, exported to the file `weights`; and its preprocessing."""
    model = timm.create_model(name, pretrained=args.pretrained).eval()
    if not args.pretrained:
        randomise(model, zlib.crc32(name.encode()))
    export(model, weights)
    with safe_open(weights, 'pt') as file:
        cfg = json.loads(file.metadata()['vitrun.config'])['pretrained_cfg']
    return model, transform(cfg, model.patch_embed.img_size)


def compare(name, args, folder):
    """Prints the cases of one model; returns the number that failed."""
    weights = os.path.join(folder, 'model.safetensors')
    model, transformed = build(name, args, weights)
    if args.device != 'cpu' and not args.mask_config:
        return int(beside_pytorch(name, model, weights, transformed, args, folder))
    model, failed = model.double(), 0
    mode = 'L' if model.patch_embed.proj.in_channels == 1 else 'RGB'
    images = pictures(args.image)
    pixels = [transformed(Image.open(path).convert(mode)).double() for path in images]
    for config in [None, *args.mask_config]:
        expected = timm_logits(model, pixels, config)
        case = f'{name:44} {os.path.basename(config) if config else "dense":24}'
        try:
            found = vitrun_logits(args, weights, images, config)
        except RuntimeError as error:
            print(f'{case} {error}', flush=True)
            failed += 1
            continue
        largest = np.abs(expected).max(1, keepdims=True)
        difference = (np.abs(found - expected) / largest).max()
        if args.features:
            theirs = timm_features(model, torch.stack(pixels), config)
            ours = vitrun_features(args, weights, images, config,
                                   os.path.join(folder, 'features.safetensors'))
            assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
            difference = max(difference, *(np.abs(ours[name] - value).max() / np.abs(value).max()
                                           for name, value in theirs.items()))
        good = difference <= args.allowed
        failed += not good
        print(f'{case} {difference:.2e}  {"ok" if good else "TOO FAR"}', flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('models', nargs='+', help="timm's names, with or without .tag")
    parser.add_argument('--pretrained', action='store_true',
                        help="timm's weights from the hub (default: random ones)")
    parser.add_argument('--vitrun', default='build/vitrun',
                        help='the program (default: %(default)s)')
    parser.add_argument('--image', help='an image, or a folder of images (default: a made-up one)')
    parser.add_argument('--mask-config', action='append', default=[], metavar='FILE',
                        help='compare under these masks too; may be repeated')
    parser.add_argument('--features', action='store_true',
                        help='compare pooled features, tokens and intermediate layers too')
    parser.add_argument('--allowed', type=float, default=1e-4, help='default: %(default)s')
    parser.add_argument('--dtype', default='fp32')
    parser.add_argument('--images', type=int, default=8,
                        help='pictures of a comparison on a GPU (default: %(default)s)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--option', action='append', default=[], metavar='OPTION',
                        help='one more argument for vitrun, as in --option=--kernel=sparse')
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        if not args.image:
            args.image = os.path.join(folder, 'photo.png')
            photo(500, 375).save(args.image)
        for name in args.models:
            try:
                failed += compare(name, args, folder)
            except Unsupported as error:
                print(f'{name}: vitrun cannot run this model: {error}')
                failed += 1
            except (RuntimeError, OSError, ValueError) as error:
                print(f'{name}: {error}')
                failed += 1
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
