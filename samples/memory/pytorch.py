#!/usr/bin/env python3
"""One attention under a random mask in PyTorch, fp32: time, and memory beyond q, k, v and the mask.

    pytorch.py SPARSITY

    softmax(mask(q k^T / sqrt(d))) v,  q k v [16, 1024, 1024],  mask [1024, 1024]

in three ways: scores written out, as xFormers' dense path does it; PyTorch's fused attention with a
boolean mask; and sparse products head by head, as its sparse path does it. Prints a table.
"""
import argparse
import math
import statistics
import warnings

import torch
import torch.nn.functional as F

HEADS, TOKENS, WIDTH = 16, 1024, 1024
warnings.filterwarnings('ignore', message='Sparse')  # that it is in beta


def materialised(q, k, v, mask):
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0,
                           alpha=1 / math.sqrt(WIDTH))
    scores.masked_fill_(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


def fused(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def sparse(q, k, v, pattern):
    """pattern: CSR, and the row of each of its pairs."""
    pattern, row = pattern
    crow, col = pattern.crow_indices(), pattern.col_indices()
    out = torch.empty_like(q)
    for head in range(HEADS):
        scores = torch.sparse.sampled_addmm(pattern, q[head], k[head].T,
                                            alpha=1 / math.sqrt(WIDTH), beta=0).values()
        top = scores.new_full((TOKENS,), -math.inf).scatter_reduce(0, row, scores, 'amax')
        e = torch.exp(scores - top[row])
        weights = e / e.new_zeros(TOKENS).index_add(0, row, e)[row]
        out[head] = torch.sparse_csr_tensor(crow, col, weights, pattern.shape) @ v[head]
    return out


def csr(mask):
    rows = mask.to_sparse_csr()
    crow, col = rows.crow_indices().int(), rows.col_indices().int()
    pattern = torch.sparse_csr_tensor(crow, col, torch.zeros(len(col), device=mask.device),
                                      mask.shape)
    return pattern, torch.repeat_interleave(torch.arange(TOKENS, device=mask.device),
                                            crow.diff().long())


def measure(way, *args, runs=20):
    """Median ms of a call, most bytes that it holds beyond its arguments, its result."""
    way(*args)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = way(*args)
    held = torch.cuda.max_memory_allocated() - before
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        way(*args)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), held, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('sparsity', type=float)
    sparsity = parser.parse_args().sparsity
    torch.manual_seed(0)
    q, k, v = (torch.randn(HEADS, TOKENS, WIDTH, device='cuda') for _ in range(3))
    mask = torch.rand(TOKENS, TOKENS, device='cuda') >= sparsity
    truth = torch.cat([materialised(*(x[i:i + 1].double() for x in (q, k, v)), mask)
                       for i in range(HEADS)])
    print(f'PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, fp32, mask of '
          f'{100 * mask.float().mean():.1f} %')
    print(f'  {"way":<12}  {"median":>8}  {"memory":>11}  {"of it output":>12}  {"error":>7}')
    for way in materialised, fused, sparse:
        ms, held, result = measure(way, q, k, v, csr(mask) if way is sparse else mask)
        error = (result.double() - truth).abs().max() / truth.abs().max()
        print(f'  {way.__name__:<12}  {ms:>5.2f} ms  {held / 2**20:>7.1f} MiB  '
              f'{result.nbytes / 2**20:>8.1f} MiB  {error:>7.1e}')
        del result


if __name__ == '__main__':
    with torch.no_grad():
        main()
