"""Sparse attention in timm: mask configurations -> boolean matrices, and attention under them.

A second implementation of what vitrun does with a mask configuration, in the plainest form (whole
matrices, explicit softmax), for golden files and comparisons. Masks have the model's N tokens,
prefix (class, distillation, registers) first, then the patches of the grid in row-major order; True
means "may attend"; a row without True gives zeros. Deterministic patterns and mask files only:
random patterns come from vitrun's own generator (`vitrun mask --save` writes them as files).
"""
import contextlib
import json
import math
import os
import re

import numpy as np


# ---- patterns: (grid height, grid width, parameters) -> bool [P, P] ----

def _differences(h, w):
    """Row and column differences between all pairs of patches, int64 [P, P] each."""
    i, j = np.divmod(np.arange(h * w), w)
    return i[:, None] - i[None, :], j[:, None] - j[None, :]


def local_2d(h, w, distance, p=2):
    di, dj = (np.abs(d) for d in _differences(h, w))
    if p == 'inf':
        return np.maximum(di, dj) < distance
    if p == 2:
        return di * di + dj * dj < distance * distance
    return (di.astype(float) ** p + dj.astype(float) ** p) ** (1 / p) < distance


def axial_2d(h, w):
    di, dj = _differences(h, w)
    return (di == 0) | (dj == 0)


def horizontal_axial_2d(h, w, distance=1):
    return np.abs(_differences(h, w)[0]) < distance


def vertical_axial_2d(h, w, distance=1):
    return np.abs(_differences(h, w)[1]) < distance


def swin(h, w, window_size, shift_size=0):
    shift = -shift_size % window_size
    i, j = np.divmod(np.arange(h * w), w)
    row, column = (i + shift) // window_size, (j + shift) // window_size
    return (row[:, None] == row) & (column[:, None] == column)


def dilated_2d(h, w, k=2):
    di, dj = _differences(h, w)
    return (di % k == 0) & (dj % k == 0)


def _steps(h, w):
    t = np.arange(h * w)
    return t[:, None] - t[None, :]


def local_1d(h, w, window_size):
    return np.abs(_steps(h, w)) <= window_size // 2


def causal_1d(h, w):
    return _steps(h, w) >= 0


def strided_1d(h, w, stride):
    return _steps(h, w) % stride == 0


def global_tokens(h, w, tokens):
    chosen = np.zeros(h * w, bool)
    chosen[tokens] = True
    return chosen[:, None] | chosen[None, :]


def blocks(h, w, layout, block_size):
    block = np.arange(h * w) // block_size
    return np.asarray(layout, bool)[block[:, None], block[None, :]]


def _block_pattern(h, w, block_size, rule):
    side = -(-h * w // block_size)
    r, c = np.indices((side, side))
    return blocks(h, w, rule(r, c), block_size)


def longformer(h, w, block_size):
    return _block_pattern(h, w, block_size,
                          lambda r, c: (np.abs(r - c) <= 1) | (r == 0) | (c == 0))


def fixed(h, w, block_size, window=4):
    return _block_pattern(h, w, block_size, lambda r, c: (r // window == c // window)
                          | (c % window == window - 1))


def variable(h, w, block_size, window=4):
    return _block_pattern(h, w, block_size,
                          lambda r, c: (r // window == c // window) | (c == 0))


PATTERNS = {f.__name__: f for f in (
    local_2d, axial_2d, horizontal_axial_2d, vertical_axial_2d, swin, dilated_2d, local_1d,
    causal_1d, strided_1d, global_tokens, blocks, longformer, fixed, variable)}


# ---- expressions ----

class Scanner:
    """Reads an expression from left to right: names, signs, JSON values."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def match(self, pattern):
        """The text that `pattern` matches here, behind spaces, or ''."""
        found = re.compile(rf'\s*({pattern})').match(self.text, self.at)
        if found is None:
            return ''
        self.at = found.end()
        return found.group(1)

    def need(self, pattern, what):
        found = self.match(pattern)
        if not found:
            raise ValueError(f'{self.text!r}: expected {what} at column {self.at + 1}')
        return found

    def value(self):
        self.at += len(self.text[self.at:]) - len(self.text[self.at:].lstrip())
        value, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
        return value


class Masks:
    """Builds masks for a grid of h x w patches behind `prefix` tokens. `folder` is where relative
    paths of mask files start; `patterns` are the named ones of a configuration."""

    def __init__(self, h, w, prefix, patterns=None, folder='.'):
        self.h, self.w, self.prefix, self.folder = h, w, prefix, folder
        self.patterns = patterns or {}

    def build(self, kind, parameters):
        if kind == 'file':
            return self.load(**parameters)
        if kind not in PATTERNS:
            raise ValueError(f'pattern {kind!r} is not one of {", ".join(sorted(PATTERNS))}, file')
        return PATTERNS[kind](self.h, self.w, **parameters)

    def load(self, path, tensor=None):
        path = os.path.join(self.folder, path)
        if path.endswith('.npy'):
            return np.load(path) != 0
        from safetensors.numpy import load_file
        return load_file(path)[tensor] != 0

    def expression(self, text):
        """bool [P, P]; or what a file with the prefix included holds."""
        scan = Scanner(text)
        value = self.union(scan)
        if scan.text[scan.at:].strip():
            raise ValueError(f'{text!r}: unexpected text at column {scan.at + 1}')
        return value

    def union(self, scan):
        value = self.intersection(scan)
        while scan.match(r'\|'):
            value = value | self.intersection(scan)
        return value

    def intersection(self, scan):
        value = self.factor(scan)
        while scan.match('&'):
            value = value & self.factor(scan)
        return value

    def factor(self, scan):
        if scan.match('~'):
            return ~self.factor(scan)
        if scan.match(r'\('):
            value = self.union(scan)
            scan.need(r'\)', ')')
            return value
        name = scan.need(r'[A-Za-z_]\w*', 'a pattern')
        if scan.match(r'\('):
            return self.build(name, self.arguments(scan))
        if name == 'dense':
            return np.ones((self.h * self.w,) * 2, bool)
        if name not in self.patterns:
            raise ValueError(f'{scan.text!r}: no pattern {name!r}')
        parameters = dict(self.patterns[name])
        return self.build(parameters.pop('type'), parameters)

    @staticmethod
    def arguments(scan):
        found = {}
        while not scan.match(r'\)'):
            if found:
                scan.need(',', ',')
            name = scan.need(r'\w+', 'a parameter')
            scan.need('=', '=')
            found[name] = scan.value()
        return found

    def with_prefix(self, pairs, policy='full'):
        """bool [.., N, N] from [.., P, P]; what already has N tokens stays as it is."""
        x, p = self.prefix, self.h * self.w
        if pairs.shape[-1] == x + p and x > 0:
            return pairs
        full = np.zeros(pairs.shape[:-2] + (x + p, x + p), bool)
        full[..., x:, x:] = pairs
        full[..., :x, :x] = True
        full[..., :x, x:] = policy in ('full', 'rows')
        full[..., x:, :x] = policy in ('full', 'columns')
        return full


# ---- configurations ----

def indexes(text, count):
    """The indexes that a key such as "0-3,5", "8-" or "all" names."""
    if text == 'all':
        return list(range(count))
    found = []
    for part in text.split(','):
        first, dash, last = part.strip().partition('-')
        end = int(last) if last.strip() else count - 1 if dash else int(first)
        found += range(int(first), end + 1)
    if any(i >= count for i in found):
        raise ValueError(f'{text!r} names index {max(found)}, there are {count}')
    return found


def layer_masks(config, layers, heads, prefix, grid, folder='.'):
    """One mask a layer: None (dense), bool [N, N], or bool [heads, N, N]. `config` is the document,
    as a dict."""
    make = Masks(grid[0], grid[1], prefix, config.get('patterns'), folder)
    tokens = prefix + grid[0] * grid[1]
    result = [None] * layers
    for key, entry in config.get('layers', {}).items():
        if isinstance(entry, str):
            entry = {'mask': entry}
        policy = entry.get('prefix', config.get('prefix', 'full'))

        def mask(text):
            return None if text == 'dense' else make.with_prefix(make.expression(text), policy)

        if 'heads' in entry:
            value = np.ones((heads, tokens, tokens), bool)
            for which, text in entry['heads'].items():
                one = mask(text)
                for head in indexes(which, heads):
                    value[head] = True if one is None else one
        else:
            value = mask(entry['mask'])
        for layer in indexes(key, layers):
            result[layer] = value
    return result


def density(mask):
    return 1.0 if mask is None else float(np.mean(mask))


# ---- timm's attention under a mask ----

def attentions(block):
    """The modules of a block that attend: one, but for blocks of several side by side."""
    return [module for module in block.modules() if hasattr(module, 'fused_attn')]


@contextlib.contextmanager
def masked(model, masks):
    """Within the block, layer i of `model` attends under masks[i] (as layer_masks gives them): timm's
    own attention, whichever of its classes that is, with a softmax over the allowed pairs. A row
    without any gives 0, not NaN. The heads of attentions side by side follow each other."""
    import torch
    softmax, current = torch.Tensor.softmax, []

    def over_allowed(scores, *args, **kwargs):
        if not current or current[-1] is None:
            return softmax(scores, *args, **kwargs)
        mask = current[-1].to(scores.device)
        if mask.ndim == 3:  # differential attention has two sets of scores a head
            mask = mask.repeat_interleave(scores.shape[1] // mask.shape[0], 0)
        weights = softmax(scores.masked_fill(~mask, -math.inf), *args, **kwargs)
        return weights.masked_fill(~mask, 0.0)

    def wrap(attn, mask):
        inner = type(attn).forward

        def forward(*args, **kwargs):
            current.append(mask)
            try:
                return inner(attn, *args, **kwargs)
            finally:
                current.pop()
        attn.fused_attn, attn.forward = False, forward

    changed = []
    for block, mask in zip(model.blocks, masks):
        found = attentions(block)
        if mask is not None:
            mask = torch.from_numpy(np.ascontiguousarray(mask))
        for j, attn in enumerate(found):
            own = mask
            if mask is not None and mask.ndim == 3:
                heads = mask.shape[0] // len(found)
                own = mask[j * heads:(j + 1) * heads]
            changed.append((attn, attn.fused_attn))
            wrap(attn, own)
    torch.Tensor.softmax = over_allowed
    try:
        yield model
    finally:
        torch.Tensor.softmax = softmax
        for attn, fused in changed:
            attn.fused_attn = fused
            del attn.forward
