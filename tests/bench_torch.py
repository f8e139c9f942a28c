#!/usr/bin/env python3
"""Times a whole model in vitrun and in PyTorch, in turn, in one run, and prints medians and ratios.

    tests/bench_torch.py build/vitrun [--model vit_base_patch16_224] [--threads 2] [--batch 1,8]
                         [--dtype fp32,bf16] [--rounds 5] [--img-size N]

Weights are random (weights_tools/random_vit.py), the same for both. A round is one `vitrun bench` and as many
forwards of timm's eager model; medians are over rounds. Needs torch and timm.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import timm
import torch

HERE = os.path.dirname(os.path.abspath(__file__))


def torch_ms(model, x, runs):
    times = []
    with torch.inference_mode():
        for _ in range(runs):
            start = time.perf_counter()
            model(x)
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def vitrun_ms(program, weights, batch, dtype, threads, runs, img_size):
    command = [program, 'bench', '--json', '--weights', weights, '--batch', str(batch), '--dtype', dtype,
               '--threads', str(threads), '--runs', str(runs)]
    if img_size:
        command += ['--img-size', str(img_size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)['runs'][0]['median_ms']


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('vitrun')
    parser.add_argument('--model', default='vit_base_patch16_224')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', default='1,8')
    parser.add_argument('--dtype', default='fp32,bf16')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--img-size', type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    changes = dict(img_size=args.img_size) if args.img_size else {}
    print(f'{args.model}, {args.threads} threads, PyTorch {torch.__version__}, timm {timm.__version__}')
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, 'random.safetensors')
        subprocess.run([sys.executable, os.path.join(HERE, '..', 'weights_tools', 'random_vit.py'), args.model,
                        '-o', weights], check=True)
        print(f'{"dtype":6} {"batch":>5} {"vitrun ms":>10} {"PyTorch ms":>11} {"an image":>9} {"ratio":>6}')
        for dtype in args.dtype.split(','):
            kind = dict(fp32=torch.float32, bf16=torch.bfloat16)[dtype]
            model = timm.create_model(args.model, **changes).eval().to(kind)
            for batch in map(int, args.batch.split(',')):
                side = args.img_size or model.patch_embed.img_size[0]
                x = torch.randn(batch, 3, side, side, dtype=kind)
                torch_ms(model, x, 2)
                ours, theirs = [], []
                for _ in range(args.rounds):
                    ours.append(vitrun_ms(args.vitrun, weights, batch, dtype, args.threads, 5, args.img_size))
                    theirs.append(torch_ms(model, x, 5))
                ratio = statistics.median(t / o for o, t in zip(ours, theirs))
                mine = statistics.median(ours)
                print(f'{dtype:6} {batch:5} {mine:10.1f} {statistics.median(theirs):11.1f} {mine / batch:9.1f} '
                      f'{ratio:6.2f}', flush=True)


if __name__ == '__main__':
    main()
