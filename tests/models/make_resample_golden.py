#!/usr/bin/env python3
"""Prints the expectations of test_resample.c: PyTorch's interpolate on small grids."""
import torch
import torch.nn.functional as F

CASES = [  # in, out, plain bilinear
    ((3, 3), (5, 4), False), ((7, 5), (4, 6), False), ((4, 4), (2, 7), False), ((2, 2), (3, 5), True), ((5, 4), (3, 3), True),
]
for (ih, iw), (oh, ow), plain in CASES:
    x = torch.arange(ih * iw, dtype=torch.float32)
    x = (x * 37 % 11 - 5 + x / 8).reshape(1, 1, ih, iw)
    y = F.interpolate(x, (oh, ow), mode='bilinear' if plain else 'bicubic', antialias=not plain)
    numbers = ', '.join(f'{v:.7g}f' if '.' in f'{v:.7g}' else f'{v:.7g}.0f' for v in y.flatten().tolist())
    print(f'    {{{ih}, {iw}, {oh}, {ow}, {str(plain).lower()}, {{{numbers}}}}},')
