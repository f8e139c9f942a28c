#!/usr/bin/env python3
"""Times a whole model in vitrun and in PyTorch, in turn, in one run, and prints medians and ratios.

    tests/bench_torch.py build/vitrun [--model vit_base_patch16_224] [--threads 2] [--batch 1,8]
                         [--dtype fp32,bf16] [--rounds 5] [--img-size N]
    tests/bench_torch.py build/vitrun --device cuda --batch 1,8,32,256 --dtype fp16

Weights are random (weights_tools/random_vit.py), the same for both. A round is one `vitrun bench` and as many
forwards of timm's model; medians are over rounds. On the CPU that is the eager model; on a GPU the eager
model, the same inside a CUDA graph, and torch.compile with max-autotune, and the ratio is to the best of
them. Times are of forwards alone, with the input on the device; memory is what a forward takes beyond
the weights. Needs torch and timm.
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


def cpu_ms(run, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def gpu_ms(run, runs):
    """Each run between two events, enqueued ahead of the device."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for begin, end in events:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def recorded(model, x):
    """The forward as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return graph.replay


def ways(model, x, device, compile_it):
    """{name: a function that runs the forward once}."""
    found = {'eager': lambda: model(x)}
    if device == 'cuda':
        found['graph'] = recorded(model, x)
        if compile_it:
            compiled = torch.compile(model, mode='max-autotune', dynamic=False)
            for _ in range(3):
                compiled(x)
            found['compiled'] = lambda: compiled(x)
    return found


def extra_mib(model, x):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(x)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before + x.nbytes) / 2**20


def vitrun_run(args, weights, batch, dtype, runs):
    command = [args.vitrun, 'bench', '--json', '--weights', weights, '--batch', str(batch), '--dtype', dtype,
               '--device', args.device, '--threads', str(args.threads), '--runs', str(runs)]
    if args.img_size:
        command += ['--img-size', str(args.img_size)]
    if args.tokens:
        command += ['--tokens']
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)['runs'][0]


def compare(args, model, weights, batch, dtype):
    runs = args.runs or (5 if args.device == 'cpu' else 20)
    side = args.img_size or model.patch_embed.img_size[0]
    kind = next(model.parameters()).dtype
    x = torch.randn(batch, 3, side, side, dtype=kind, device=args.device)
    clock = cpu_ms if args.device == 'cpu' else gpu_ms
    found = ways(model, x, args.device, args.compile)
    theirs = {name: [] for name in found}
    for run in found.values():
        clock(run, 2)
    ours = []
    for _ in range(args.rounds):
        mine = vitrun_run(args, weights, batch, dtype, runs)
        ours.append(mine['median_ms'])
        for name, run in found.items():
            theirs[name].append(clock(run, runs))
    medians = {name: statistics.median(times) for name, times in theirs.items()}
    best = min(medians, key=medians.get)
    ratio = statistics.median(t / o for o, t in zip(ours, theirs[best]))
    memory = ''
    if args.device == 'cuda':
        beyond = (mine['memory']['peak_bytes'] - mine['memory']['weights_bytes']) / 2**20
        memory = f'  {beyond:6.0f} / {extra_mib(model, x):6.0f} MiB'
    print(f'{dtype:5} {batch:5} {statistics.median(ours):9.3f}  '
          + '  '.join(f'{name} {ms:8.3f}' for name, ms in medians.items()) + f'  {ratio:5.2f} x{memory}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('vitrun')
    parser.add_argument('--model', default='vit_base_patch16_224')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', default='1,8')
    parser.add_argument('--dtype', default='fp32,bf16')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--runs', type=int, help='forwards a round (default: 5 on the CPU, 20 on a GPU)')
    parser.add_argument('--img-size', type=int)
    parser.add_argument('--tokens', action='store_true',
                        help='let vitrun compute all tokens of the last block, of which the logits need one')
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='leave torch.compile out')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    changes = dict(img_size=args.img_size) if args.img_size else {}
    where = torch.cuda.get_device_name() if args.device == 'cuda' else f'{args.threads} threads'
    print(f'{args.model}, {where}, PyTorch {torch.__version__}, timm {timm.__version__}; ms a batch, medians; '
          'ratio to the best of PyTorch' + ('; memory beyond the weights, vitrun / eager' if args.device == 'cuda' else ''))
    print(f'{"dtype":5} {"batch":>5} {"vitrun":>9}')
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = os.path.join(folder, 'random.safetensors')
        subprocess.run([sys.executable, os.path.join(HERE, '..', 'weights_tools', 'random_vit.py'), args.model,
                        '-o', weights], check=True)
        for dtype in args.dtype.split(','):
            kind = dict(fp32=torch.float32, tf32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[dtype]
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
            model = timm.create_model(args.model, **changes).eval().to(kind).to(args.device)
            for batch in map(int, args.batch.split(',')):
                compare(args, model, weights, batch, dtype)


if __name__ == '__main__':
    main()
