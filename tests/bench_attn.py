#!/usr/bin/env python3
"""Masked attention over a grid of token counts, masks and batch sizes: every kernel of vitrun, what auto takes, and,
in the same run, PyTorch's dense cuDNN attention and FlexAttention with the same mask.

    tests/bench_attn.py build/vitrun --csv attn.csv --svg attn.svg             everything, half an hour
    tests/bench_attn.py build/vitrun --csv attn.csv --svg attn.svg --quick     windows and crosses, some minutes
    tests/bench_attn.py build/vitrun --csv attn.csv --svg attn.svg --no-torch  the whole grid, vitrun's kernels only

Contenders take turns, round by round: within a round vitrun's kernels in turn (vitrun bench --attention), then
PyTorch's. Times and ratios are medians over rounds, ratios of the rounds' own. FlexAttention's mask is a formula where
the pattern has one, else a table; that it allows exactly the pairs that vitrun's does is counted before it is timed.
It is compiled anew for each cell; where that takes longer than --compile-limit, the cell goes without it.
Rows are written as they come; what is being done is told on stderr. PyTorch needs a GPU; without it (--no-torch),
everything is compared with vitrun's dense.
"""
import argparse
import bisect
import collections
import csv
import functools
import itertools
import json
import math
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import bench_attn_svg

SIDES = {197: 14, 577: 24, 1025: 32, 4097: 64, 16385: 128,  # and one prefix token; further ones on demand
         257: 16, 785: 28, 1370: 37, 2305: 48}
GRID = (197, 577, 1025, 4097, 16385)
BATCHES = {4097: (1, 4, 32), 16385: (1, 4)}  # else 1 and 32
QUICK = ((1025, 32), (4097, 4), (16385, 1))  # tokens, batch
QUICK_MASKS = ('local 1%', 'local 3%', 'local 10%', 'axial')
COLUMNS = ('tokens', 'batch', 'name', 'mask', 'density', 'contender', 'ms', 'predicted_ms', 'is_auto', 'of_vitrun_dense',
           'speedup_over_cudnn', 'speedup_over_flex', 'rounds', 'device', 'dtype', 'heads', 'head_dim')
MOST_LOSS, MOST_MEAN, MOST_OFF = 1.03, 1.05, 1.15  # of --check: auto to dense; to the best kernel, on average and ever
WORST = 5  # cells that are told at the end


# ---- masks ----

def local_distance(side, density):
    """The distance whose local_2d comes nearest to the density."""
    pairs = collections.Counter()  # by squared distance
    for y in range(side):
        for x in range(side):
            pairs[y * y + x * x] += (1 + (y > 0)) * (1 + (x > 0)) * (side - y) * (side - x)
    squares = sorted(pairs)
    up_to = list(itertools.accumulate(pairs[s] for s in squares))

    def error(distance):
        within = up_to[bisect.bisect_left(squares, distance * distance) - 1]
        return abs(math.log(within / side**4 / density))

    return min((1 + i / 2 for i in range(1, 3 * side)), key=error)


@functools.cache
def masks_of(tokens):
    """{name: expression}; equal expressions once."""
    side = SIDES[tokens]
    masks = {f'local {p}%': f'local_2d(distance={local_distance(side, p / 100):g})' for p in (1, 3, 10, 25)}
    masks['axial'] = 'axial_2d()'
    masks['swin'] = f'swin(window_size={7 if side % 7 == 0 else 8})'
    for p in (1, 3, 10):
        sigma = max(1, round(1.5 * math.sqrt(p / 100 * side * side / (2 * math.pi))))
        masks[f'gauss {p}%'] = (f'random_from_probability(probability=local_2d_gaussian(sigma={sigma}), '
                                f'sparsity={1 - p / 100:g})')
    masks.update({f'random {p}%': f'random(sparsity={1 - p / 100:g})' for p in (0.3, 1, 3, 10)})
    masks['axial | local 1%'] = f'axial_2d() | {masks["local 1%"]}'
    masks['axial | local 3%'] = f'axial_2d() | {masks["local 3%"]}'
    masks['local 1% | random 0.3%'] = f'{masks["local 1%"]} | {masks["random 0.3%"]}'
    return {name: mask for i, (name, mask) in enumerate(masks.items()) if mask not in list(masks.values())[:i]}


def formula(mask, side, div):
    """The expression as a function of patches q and k, or None where it has none; div(a, b) is a // b for a >= 0."""
    call, _, rest = mask.partition(' | ')
    if rest:
        parts = [formula(part, side, div) for part in (call, rest)]
        return None if None in parts else lambda q, k: parts[0](q, k) | parts[1](q, k)
    name, _, argument = call.rstrip(')').partition('(')
    value = float(argument.partition('=')[2]) if name in ('local_2d', 'swin') else 0

    def place(t):
        return div(t, side), t - div(t, side) * side

    if name == 'axial_2d':
        return lambda q, k: (place(q)[0] == place(k)[0]) | (place(q)[1] == place(k)[1])
    if name == 'local_2d':  # distances are multiples of a half: compare in whole numbers
        most = int(math.ceil(value * value)) - 1
        return lambda q, k: sum((a - b) * (a - b) for a, b in zip(place(q), place(k))) <= most
    if name == 'swin':
        window = int(value)
        return lambda q, k: ((div(place(q)[0], window) == div(place(k)[0], window)) &
                             (div(place(q)[1], window) == div(place(k)[1], window)))
    return None


def table(torch, vitrun, mask, side):
    """The mask as vitrun saves it, [tokens, tokens] on the device."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'mask.safetensors')
        run([vitrun, 'mask', '--grid', f'{side}x{side}', '--prefix', '1', '--mask', mask, '--save', path])
        with open(path, 'rb') as f:
            size, = struct.unpack('<Q', f.read(8))
            header = {k: v for k, v in json.loads(f.read(size)).items() if k != '__metadata__'}
            (entry,) = header.values()
            data = bytearray(f.read())
    return torch.frombuffer(data, dtype=torch.uint8).view(entry['shape']).bool().cuda()


# ---- contenders ----

BEGIN = time.monotonic()
LONGEST = 300  # seconds that a command may take


def tell(what):
    print(f'[{time.monotonic() - BEGIN:6.1f} s] {what}', file=sys.stderr, flush=True)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    if done.returncode:
        sys.exit(f'{" ".join(command)}\n{done.stderr}')
    return done.stdout


def vitrun_times(args, tokens, batch, masks):
    """What vitrun says of each mask, in one process, because starting one takes half a second."""
    side = SIDES[tokens]
    chosen = [word for mask in masks for word in ('--mask', mask)]
    return json.loads(run([args.vitrun, 'bench', '--attention', f'{args.heads}x{tokens}x{args.head_dim}', '--grid',
                           f'{side}x{side}', '--batch', str(batch), '--device', args.device, '--dtype', args.dtype,
                           '--runs', str(args.runs), '--json'] + chosen))


class TooLong(Exception):
    pass


class limit:
    """Raises TooLong in what runs within, after so many seconds."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        def give_up(*_):
            raise TooLong
        self.before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


class Torch:
    """cuDNN's dense attention and FlexAttention on views of one buffer, as a model has them."""

    def __init__(self, args):
        import torch
        from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel
        self.args, self.torch, self.flex = args, torch, flex_attention
        self.cudnn = lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
        self.kind = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[args.dtype]

    def open(self, tokens, batch, mask, nnz):
        """Makes the contenders of a cell: {name: function}."""
        torch = self.torch
        buffer = torch.randn(batch, tokens, 3, self.args.heads, self.args.head_dim, dtype=self.kind, device='cuda')
        q, k, v = buffer.permute(2, 0, 3, 1, 4)
        self.attend = {}

        def dense():
            with self.cudnn():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        self.add('cudnn', dense)
        mask_mod, name = self.mask_mod(tokens, mask)
        self.check(mask_mod, tokens, mask, nnz)
        block_mask = self.flex.create_block_mask(mask_mod, None, None, tokens, tokens, device='cuda')
        torch.cuda.empty_cache()  # it leaves gigabytes behind, which vitrun's processes may want
        torch._dynamo.reset()
        compiled = torch.compile(self.flex.flex_attention, dynamic=False)
        self.add(name, lambda: compiled(q, k, v, block_mask=block_mask))

    def add(self, name, attend):
        begin = time.monotonic()
        try:
            with limit(self.args.compile_limit), self.torch.inference_mode():
                attend()
                self.torch.cuda.synchronize()
            self.attend[name] = attend
        except TooLong:
            tell(f'{name} took more than {self.args.compile_limit} s to compile: left out')
        except Exception as e:  # a back end that does not serve the type, or cannot be compiled here
            tell(f'{name}: left out: {str(e).splitlines()[0] if str(e) else type(e).__name__}')
        else:
            tell(f'{name} ready after {time.monotonic() - begin:.1f} s')

    def mask_mod(self, tokens, mask):
        """vitrun's mask as FlexAttention wants it, with one prefix token; and the contender's name."""
        torch, side = self.torch, SIDES[tokens]
        pairs = formula(mask, side, lambda a, b: torch.div(a, b, rounding_mode='trunc'))
        if pairs:
            return lambda b, h, q, k: (q == 0) | (k == 0) | pairs(q - 1, k - 1), 'flex'
        on = table(torch, self.args.vitrun, mask, side)
        return lambda b, h, q, k: on[q, k], 'flex (table)'

    def check(self, mask_mod, tokens, mask, nnz):
        """Exits where the function allows other pairs, to judge by their number, than vitrun's mask."""
        index, count = self.torch.arange(tokens, device='cuda'), 0
        for rows in index.split(1024):
            count += int(mask_mod(0, 0, rows[:, None], index[None, :]).sum())
        if count != nnz:
            sys.exit(f'{mask}: {tokens} tokens: PyTorch sees {count} pairs, vitrun {nnz}')

    def median_ms(self, attend):
        torch = self.torch
        for _ in range(3):
            attend()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.args.runs)]
        for begin, end in events:
            begin.record()
            attend()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events)

    def times(self):
        with self.torch.inference_mode():
            return {name: self.median_ms(attend) for name, attend in self.attend.items()}


# ---- a cell ----

def measure(args, torch, tokens, batch, names):
    """The rows of each cell; with PyTorch there is but one, so that contenders take turns."""
    rounds, cells = {name: [] for name in names}, {}
    masks = [masks_of(tokens)[name] for name in names]
    tell(f'{tokens} tokens, batch {batch}, {", ".join(names)}')
    for i in range(args.rounds):
        found = vitrun_times(args, tokens, batch, masks)
        for name, one in zip(names, found['runs']):
            cells[name] = one
            rounds[name].append({k['kernel']: k['median_ms'] for k in one['kernels']})
        if torch and i == 0:
            torch.open(tokens, batch, masks[0], found['attention']['nnz'])
        if torch:
            rounds[names[0]][-1] |= torch.times()
    same = {'tokens': tokens, 'batch': batch, 'rounds': args.rounds, 'device': found['device'],
            'dtype': found['dtype'], 'heads': args.heads, 'head_dim': args.head_dim}
    return [rows_of(same | {'name': name, 'mask': mask}, cells[name], rounds[name])
            for name, mask in zip(names, masks)]


def rows_of(same, found, rounds):
    predicted = {k['kernel']: k['predicted_ms'] for k in found['kernels']}

    def ratio(of, to):
        return statistics.median(r[of] / r[to] for r in rounds) if {of, to} <= set(rounds[0]) else None

    flex = next((c for c in rounds[0] if c.startswith('flex')), None)
    return [same | {'density': found['attention']['density'], 'contender': c,
                    'ms': statistics.median(r[c] for r in rounds), 'predicted_ms': predicted.get(c),
                    'is_auto': int(c == found['attention']['kernel']), 'of_vitrun_dense': ratio(c, 'dense'),
                    'speedup_over_cudnn': ratio('cudnn', c), 'speedup_over_flex': ratio(flex, c)} for c in rounds[0]]


def print_cell(rows):
    """One line: dense, auto, the best kernel, and PyTorch's, in milliseconds."""
    ms = {r['contender']: r['ms'] for r in rows}
    auto = next(r for r in rows if r['is_auto'])
    best = best_kernel(rows)
    line = (f'{auto["tokens"]:6} b{auto["batch"]:<3} {auto["name"]:24} {100 * auto["density"]:5.1f} %  '
            f'dense {ms["dense"]:9.4f}  auto {auto["contender"]:10} {auto["ms"]:9.4f}  '
            f'best {best["contender"]:10} {best["ms"]:9.4f}')
    for other, name in (('cudnn', 'cudnn'), ('flex', 'flex'), ('flex (table)', 'flex')):
        if other in ms:
            line += f'  {other} {ms[other]:9.4f}: {auto["speedup_over_" + name]:.2f} x'
    print(line, flush=True)


def best_kernel(rows):
    own = [r for r in rows if r['contender'] != 'cudnn' and not r['contender'].startswith('flex')]
    return min(own, key=lambda r: r['ms'])


def where(row):
    return f'{row["tokens"]} tokens, b{row["batch"]}, {row["name"]}'


def summarise(cells):
    """Prints how good auto's choices are, and the worst of them; True where they are as good as --check demands."""
    chosen = [(next(r for r in rows if r['is_auto']), best_kernel(rows)) for rows in cells]
    to_best = [auto['ms'] / best['ms'] for auto, best in chosen]
    mean = math.exp(statistics.fmean(map(math.log, to_best)))
    loss = max((auto for auto, _ in chosen), key=lambda r: r['of_vitrun_dense'])
    print(f'{len(cells)} cells; auto to dense: {loss["of_vitrun_dense"]:.3f} at worst ({where(loss)}); to the best '
          f'kernel: geometric mean {mean:.3f}, {max(to_best):.3f} at worst')
    for off, (auto, best) in sorted(zip(to_best, chosen), key=lambda x: -x[0])[:WORST]:
        print(f'  {off:.3f}: {where(auto)}: {auto["contender"]} {auto["ms"]:.4f} ms, {best["contender"]} '
              f'{best["ms"]:.4f} ms, {auto["of_vitrun_dense"]:.3f} of dense')
    for yardstick in ('cudnn', 'flex'):
        faster = [auto for auto, _ in chosen if auto['speedup_over_' + yardstick]]
        if faster:
            least = min(faster, key=lambda r: r['speedup_over_' + yardstick])
            print(f'auto is {least["speedup_over_" + yardstick]:.2f} times faster than {yardstick} at least '
                  f'({where(least)})')
    return loss['of_vitrun_dense'] <= MOST_LOSS and mean <= MOST_MEAN and max(to_best) <= MOST_OFF


def cells_of(args):
    """Cells that are measured together: (tokens, batch, names)."""
    sizes = QUICK if args.quick else [(t, batch) for t in args.tokens for batch in args.batch or BATCHES.get(t, (1, 32))]
    for tokens, batch in sizes:
        wanted = args.masks or (QUICK_MASKS if args.quick else masks_of(tokens))
        names = [name for name in masks_of(tokens) if name in wanted]
        yield from [(tokens, batch, names)] if args.no_torch else [(tokens, batch, [name]) for name in names]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('vitrun')
    parser.add_argument('--tokens', type=int, nargs='+', choices=SIDES, default=list(GRID))
    parser.add_argument('--batch', type=int, nargs='+', help='1, and 32 or what fits, unless given')
    parser.add_argument('--masks', nargs='+', help='names as printed, such as "local 3%%"; all unless given')
    parser.add_argument('--heads', type=int, default=12)
    parser.add_argument('--head-dim', type=int, default=64)
    parser.add_argument('--dtype', default='fp16')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--rounds', type=int, help='3, or 1 without PyTorch, unless given')
    parser.add_argument('--runs', type=int, default=10, help='of each contender in a round')
    parser.add_argument('--quick', action='store_true', help='three sizes, four masks')
    parser.add_argument('--no-torch', action='store_true')
    parser.add_argument('--compile-limit', type=float, default=60, help='seconds that FlexAttention may compile a cell')
    parser.add_argument('--check', action='store_true', 
                        help='fail where auto takes more than 3 %% longer than dense or 15 %% longer than the best '
                        'kernel, or 5 %% longer than that over all cells (geometric mean)')
    parser.add_argument('--csv', default='bench_attn.csv')
    parser.add_argument('--svg')
    args = parser.parse_args()
    unknown = set(args.masks or ()) - {name for tokens in SIDES for name in masks_of(tokens)}
    args.rounds = args.rounds or (1 if args.no_torch else 3)
    if unknown:
        parser.error(f'--masks: unknown: {", ".join(sorted(unknown))}')
    return args


def main():
    args = arguments()
    torch = None if args.no_torch else Torch(args)
    cells, good = [], True
    with open(args.csv, 'w', newline='', encoding='utf-8') as f:
        out = csv.DictWriter(f, COLUMNS)
        out.writeheader()
        for tokens, batch, names in cells_of(args):
            for rows in measure(args, torch, tokens, batch, names):
                out.writerows(rows)
                f.flush()
                print_cell(rows)
                cells.append(rows)
    if cells:
        good = summarise(cells)
    if args.svg:
        bench_attn_svg.draw(args.csv, args.svg)
    return 0 if good or not args.check else 1


if __name__ == '__main__':
    sys.exit(main())
