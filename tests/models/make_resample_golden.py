#!/usr/bin/env python3
"""Prints the expectations of test_resample.c: PyTorch's interpolate on small grids."""
import torch
import torch.nn.functional as F

CASES = [  # in, out, how
    ((3, 3), (5, 4), 'VIT_BICUBIC_ANTIALIAS'), ((7, 5), (4, 6), 'VIT_BICUBIC_ANTIALIAS'), ((4, 4), (2, 7), 'VIT_BICUBIC_ANTIALIAS'), ((2, 2), (3, 5), 'VIT_BILINEAR'), ((5, 4), (3, 3), 'VIT_BILINEAR'),
    ((5, 4), (3, 7), 'VIT_BILINEAR_CORNERS'), ((2, 3), (4, 1), 'VIT_BILINEAR_CORNERS'),
]
for (ih, iw), (oh, ow), how in CASES:
    x = torch.arange(ih * iw, dtype=torch.float32)
    x = (x * 37 % 11 - 5 + x / 8).reshape(1, 1, ih, iw)
    cubic = how == 'VIT_BICUBIC_ANTIALIAS'
    y = F.interpolate(x, (oh, ow), mode='bicubic' if cubic else 'bilinear', antialias=cubic,
                      align_corners=how == 'VIT_BILINEAR_CORNERS')
    numbers = ', '.join(f'{v:.7g}f' if '.' in f'{v:.7g}' else f'{v:.7g}.0f' for v in y.flatten().tolist())
    print(f'    {{{ih}, {iw}, {oh}, {ow}, {how}, {{{numbers}}}}},')
