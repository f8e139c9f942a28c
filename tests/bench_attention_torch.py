#!/usr/bin/env python3
"""Times one attention on a GPU, without a mask, in vitrun and in PyTorch's backends, in turn, in one run.

    tests/bench_attention_torch.py build/vitrun [--shapes 12x197x64@32,12x4097x64@4,12x16385x64@1]
                                   [--dtype fp16] [--rounds 5]

A shape is HEADSxTOKENSxHEADDIM@BATCH. A round is one `vitrun bench --attention` (its `dense` kernel) and as many
runs of each backend of scaled_dot_product_attention; medians are over rounds, the ratio is to the best backend.
Needs torch and a GPU.
"""
import argparse
import json
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

RUNS = 20
BACKENDS = {'cudnn': SDPBackend.CUDNN_ATTENTION, 'flash': SDPBackend.FLASH_ATTENTION,
            'efficient': SDPBackend.EFFICIENT_ATTENTION}


def torch_ms(backend, q, k, v):
    with sdpa_kernel(BACKENDS[backend]):
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(RUNS)]
        for begin, end in events:
            begin.record()
            scaled_dot_product_attention(q, k, v)
            end.record()
        torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def vitrun_ms(program, shape, batch, dtype):
    done = subprocess.run([program, 'bench', '--attention', shape, '--batch', str(batch), '--device', 'cuda', '--dtype',
                           dtype, '--kernel', 'dense', '--runs', str(RUNS), '--json'], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)['kernels'][0]['median_ms']


def compare(args, text):
    shape, batch = text.split('@')
    heads, tokens, head_dim = map(int, shape.split('x'))
    kind = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[args.dtype]
    # as a model has them: views of one buffer [batch, tokens, 3, heads, head_dim]
    q, k, v = torch.randn(int(batch), tokens, 3, heads, head_dim, dtype=kind, device='cuda').permute(2, 0, 3, 1, 4)
    names = ['efficient'] if args.dtype == 'fp32' else list(BACKENDS)
    theirs, ours = {name: [] for name in names}, []
    for _ in range(args.rounds):
        ours.append(vitrun_ms(args.vitrun, shape, batch, args.dtype))
        for name in names:
            torch_ms(name, q, k, v)
            theirs[name].append(torch_ms(name, q, k, v))
    medians = {name: statistics.median(times) for name, times in theirs.items()}
    best = min(medians, key=medians.get)
    mine, flops = statistics.median(ours), 4 * int(batch) * heads * tokens * tokens * head_dim
    print(f'{text:18} {args.dtype} vitrun {mine:8.4f} ms ({flops / mine / 1e9:4.0f} TFLOP/s)  '
          + '  '.join(f'{name} {ms:8.4f}' for name, ms in medians.items()) + f'  {medians[best] / mine:5.2f} x',
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('vitrun')
    parser.add_argument('--shapes', default='12x197x64@32,12x197x64@256,12x1025x64@32,12x4097x64@4,12x16385x64@1')
    parser.add_argument('--dtype', default='fp16')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    print(f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; medians; ratio to the best of PyTorch')
    for text in args.shapes.split(','):
        compare(args, text)


if __name__ == '__main__':
    main()
