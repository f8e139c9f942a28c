#!/usr/bin/env python3
"""Checks that vitrun would load every pretrained tag of every architecture that it says it runs.

    check_archs.py [--vitrun build/vitrun] [--only TEXT]

For each tag: the names and shapes of the model that timm builds become the header of a file without
data (the rest is a hole), a config.json as the hub has it lies beside, and vitrun is to open it in a
kilobyte of memory. It looks at names and shapes first, so that one that does not fit is told; else
it says that memory is short, which is what is hoped for. Prints what does not fit. Exit status 1
where anything does not. Needs torch and timm.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from math import prod

import timm
import torch
from timm.models import _registry

from make_archs import MODULES

ENOUGH = 'more memory than --max-memory allows'


def write(folder, model, name, cfg):
    """FOLDER/model.safetensors, all header, and FOLDER/config.json."""
    table, end = {}, 0
    for tensor, value in model.state_dict().items():
        begin, end = end, end + 4 * prod(value.shape)
        table[tensor] = {'dtype': 'F32', 'shape': list(value.shape), 'data_offsets': [begin, end]}
    text = json.dumps(table).encode()
    with open(os.path.join(folder, 'model.safetensors'), 'wb') as out:
        out.write(len(text).to_bytes(8, 'little') + text)
        out.truncate(8 + len(text) + end)
    known = dict(tag=cfg.tag, input_size=cfg.input_size, fixed_input_size=cfg.fixed_input_size,
                 interpolation=cfg.interpolation, crop_pct=cfg.crop_pct, crop_mode=cfg.crop_mode,
                 mean=cfg.mean, std=cfg.std, num_classes=cfg.num_classes)
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as out:
        json.dump(dict(architecture=name, num_classes=cfg.num_classes, pretrained_cfg=known), out)


def build(name, cfg):
    """Without memory for its weights, as timm builds it for the tag."""
    size = {}
    if cfg.fixed_input_size:
        size = dict(img_size=cfg.input_size[1:])
    with torch.device('meta'):
        return timm.create_model(name, num_classes=cfg.num_classes, **size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--vitrun', default='build/vitrun')
    parser.add_argument('--only', default='', metavar='TEXT', help='names that contain TEXT')
    args = parser.parse_args()
    listed = subprocess.run([args.vitrun, 'info', '--list', '--json'], capture_output=True,
                            text=True, check=True)
    runs = {row['architecture'] for row in json.loads(listed.stdout)['architectures']}
    tried = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted({n for m in MODULES for n in timm.list_models(module=m)} & runs):
            known = _registry._model_default_cfgs[name]
            for tag, cfg in known.cfgs.items():
                if args.only not in name:
                    continue
                write(folder, build(name, cfg), name, cfg)
                done = subprocess.run([args.vitrun, 'info', '--weights', folder,
                                       '--max-memory', '1K'], capture_output=True, text=True)
                tried += 1
                if ENOUGH not in done.stderr:
                    wrong += 1
                    print(f'{name}.{tag}: {done.stderr.strip()}', flush=True)
    print(f'{tried} tags of {len(runs)} architectures: {wrong} do not fit')
    sys.exit(1 if wrong or not tried else 0)


if __name__ == '__main__':
    main()
