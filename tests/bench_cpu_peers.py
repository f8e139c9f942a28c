#!/usr/bin/env python3
"""Times whole models on the CPU in vitrun and in what others use, in turn, in one run: PyTorch (eager and
torch.compile), ONNX Runtime, OpenVINO. Same weights, threads, types; medians over rounds, and the ratio of
the best of the others to vitrun in the same round.

    tests/bench_cpu_peers.py build/vitrun [--model vit_base_patch16_224] [--threads 2] [--dtype fp32,bf16]
                             [--batch 1,8] [--img-size 224,512] [--rounds 5] [--longest 30]

A round is one `vitrun bench` and one measurement of each other, of as many forwards as fit into two
seconds; a forward that takes longer than --longest seconds is taken once and left out then. Each other's
logits are compared with eager PyTorch's in fp32 first. A type that one has not (ONNX Runtime has no bf16 on
the CPU) is a dash; OpenVINO says itself which type it takes, and is a dash where that is another.
Needs torch, timm, onnx, onnxruntime, openvino.
"""
import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
import tempfile
import warnings

import onnxruntime
import openvino
import timm
import torch
from safetensors.torch import load_file

from bench_torch import HERE, cpu_ms, vitrun_run

KINDS = dict(fp32=torch.float32, bf16=torch.bfloat16)
NATIVE_BF16 = 'avx512_bf16', 'amx_bf16', 'bf16'  # flags of /proc/cpuinfo, the last of arm64


def of_torch(model, x, dtype, compile_it):
    model, x = model.to(KINDS[dtype]), x.to(KINDS[dtype])
    if compile_it:
        torch._dynamo.reset()
        model = torch.compile(model, dynamic=False)
    return lambda: model(x).float()


def onnx_file(model, x, folder):
    path = os.path.join(folder, f'{x.shape[0]}_{x.shape[-1]}.onnx')
    if not os.path.exists(path):
        torch.onnx.export(model.float(), (x,), path, input_names=['x'], output_names=['y'], dynamo=False)
    return path


def of_onnxruntime(model, x, dtype, folder, threads):
    if dtype != 'fp32':
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_file(model, x, folder), options, providers=['CPUExecutionProvider'])
    inputs = {'x': x.numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def of_openvino(model, x, dtype, folder, threads):
    wanted = dict(fp32='f32', bf16='bf16')[dtype]
    compiled = openvino.Core().compile_model(
        onnx_file(model, x, folder), 'CPU',
        {'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1, 'PERFORMANCE_HINT': 'LATENCY',
         'INFERENCE_PRECISION_HINT': wanted})
    if compiled.get_property('INFERENCE_PRECISION_HINT').to_string() != wanted:
        return None
    request, array = compiled.create_infer_request(), x.numpy()
    return lambda: torch.from_numpy(request.infer({0: array})[0])


def others(model, x, dtype, folder, args):
    """{name: a function that runs the forward once and returns the logits; None: not in this type}."""
    return {'eager': of_torch(copy.deepcopy(model), x, dtype, False),
            'compile': of_torch(copy.deepcopy(model), x, dtype, True) if args.compile else None,
            'onnxruntime': of_onnxruntime(copy.deepcopy(model), x, dtype, folder, args.threads),
            'openvino': of_openvino(copy.deepcopy(model), x, dtype, folder, args.threads)}


def difference(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def vitrun_ms(args, weights, batch, dtype, size, runs):
    args.img_size, args.device, args.tokens = size, 'cpu', False
    return vitrun_run(args, weights, batch, dtype, runs)['median_ms']


def compare(args, model, weights, batch, dtype, size, folder):
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size)
    want = model(x)
    found = {name: run for name, run in others(model, x, dtype, folder, args).items() if run}
    error, first = {}, {}
    for name, run in found.items():
        error[name] = difference(run(), want)  # the first run also compiles
        first[name] = cpu_ms(run, 1)
    slow = {name for name in found if first[name] > 1e3 * args.longest}
    ours, theirs = [], {name: [first[name]] if name in slow else [] for name in found}
    runs = max(1, min(20, int(2e3 / min(first.values()))))
    for _ in range(args.rounds):
        ours.append(vitrun_ms(args, weights, batch, dtype, size, runs))
        for name in found.keys() - slow:
            theirs[name].append(cpu_ms(found[name], max(1, min(20, int(2e3 / first[name])))))
    medians = {name: statistics.median(times) for name, times in theirs.items()}
    best = min(medians, key=medians.get)
    ratio = statistics.median(t / o for o, t in zip(ours, theirs[best]))
    cells = '  '.join(f'{medians[n]:11.2f}' if n in medians else f'{"-":>11}'
                      for n in ('eager', 'compile', 'onnxruntime', 'openvino'))
    print(f'{dtype:5} {size:5} {batch:5} {statistics.median(ours):11.2f}  {cells}  {ratio:6.2f} x {best}'
          f'  (largest difference {max(error.values()):.1e})', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('vitrun')
    parser.add_argument('--model', default='vit_base_patch16_224')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', default='1,8')
    parser.add_argument('--img-size', default='224,512')
    parser.add_argument('--dtype', default='fp32,bf16')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--longest', type=float, default=30)
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='leave torch.compile out')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings('ignore')  # of tracing
    batches, sizes, dtypes = args.batch.split(','), args.img_size.split(','), args.dtype.split(',')
    cpu = open('/proc/cpuinfo', encoding='utf-8').read()
    native = set(NATIVE_BF16) & set(cpu.split())
    name = re.search(r'model name\s*: (.*)', cpu)
    print(f'{name[1] if name else "CPU"}, {args.threads} threads; PyTorch {torch.__version__}, ONNX Runtime '
          f'{onnxruntime.__version__}, OpenVINO {openvino.__version__.split("-")[0]}; {args.model}, ms a batch')
    if 'bf16' in dtypes:
        print('bf16 arithmetic: ' + (', '.join(sorted(native)) or 'this CPU has none; everybody emulates it'))
    print(f'{"dtype":5} {"pixel":>5} {"batch":>5} {"vitrun":>11}  {"eager":>11}  {"compile":>11}  {"onnxruntime":>11}'
          f'  {"openvino":>11}   ratio to the best')
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = os.path.join(folder, 'random.safetensors')
        subprocess.run([sys.executable, os.path.join(HERE, '..', 'weights_tools', 'random_vit.py'), args.model,
                        '-o', weights], check=True)
        for size in map(int, sizes):
            model = timm.create_model(args.model, img_size=size).eval()
            state = load_file(weights)
            model.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, model))
            for dtype in dtypes:
                for batch in map(int, batches):
                    compare(args, model, weights, batch, dtype, size, folder)


if __name__ == '__main__':
    main()
