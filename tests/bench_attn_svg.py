#!/usr/bin/env python3
"""Draws what tests/bench_attn.py has written: a panel for each number of tokens and batch size, a line for each mask,
and on it how many times faster than dense (cuDNN's, where it was measured, else vitrun's) each contender is.

    tests/bench_attn_svg.py attn.csv attn.svg
"""
import csv
import math
import sys
from html import escape

LABEL, WIDTH, LINE, TOP, GAP, MARGIN = 190, 420, 18, 44, 30, 20  # pixels
COLOURS = {'dense': '#888888', 'tiles': '#8c564b', 'rows': '#2ca02c', 'columns64': '#1f77b4', 'columns128': '#17becf',
           'axial64': '#9467bd', 'axial128': '#e377c2', 'flex': '#ff7f0e'}
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def read(path):
    """{(tokens, batch): {name: [row]}} in the order of the file."""
    panels = {}
    with open(path, newline='', encoding='utf-8') as f:
        for row in csv.DictReader(f):
            panel = panels.setdefault((int(row['tokens']), int(row['batch'])), {})
            panel.setdefault(row['name'], []).append(row)
    return panels


def colour(contender):
    return COLOURS.get('flex' if contender.startswith('flex') else contender)


def speedup(row):
    return float(row['speedup_over_cudnn'] or 1 / float(row['of_vitrun_dense']))


def drawn(rows):
    return [row for row in rows if colour(row['contender'])]


class Scale:
    """Logarithmic, over all that is drawn."""

    def __init__(self, panels):
        values = [speedup(r) for p in panels.values() for rows in p.values() for r in drawn(rows)] + [0.8, 1.25]
        self.low, self.high = math.log(min(values)) - 0.1, math.log(max(values)) + 0.1

    def x(self, value):
        return MARGIN + LABEL + WIDTH * (math.log(value) - self.low) / (self.high - self.low)

    def ticks(self):
        return [t for t in TICKS if self.low <= math.log(t) <= self.high]


def text(x, y, content, anchor='start', weight='normal'):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(content)}</text>'


def mark(row, x, y):
    """A dot; a ring around what auto takes."""
    title = escape(f'{row["contender"]}: {float(row["ms"]):.4g} ms, {speedup(row):.2f} x')
    ring = f'<circle cx="{x:.1f}" cy="{y}" r="7" fill="none" stroke="black"/>' if row['is_auto'] == '1' else ''
    return (f'{ring}<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour(row["contender"])}">'
            f'<title>{title}</title></circle>')


def panel_svg(scale, key, panel, top):
    parts = [text(MARGIN, top + 14, f'{key[0]} tokens, batch {key[1]}', weight='bold')]
    bottom = top + TOP + LINE * len(panel)
    for tick in scale.ticks():
        x = scale.x(tick)
        stroke = '#444444' if tick == 1 else '#dddddd'
        parts += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 32}" y2="{bottom - 6}" stroke="{stroke}"/>',
                  text(x, top + 28, f'{tick:g}x', 'middle')]
    for i, (name, rows) in enumerate(panel.items()):
        y = top + TOP + LINE * i
        parts.append(text(MARGIN, y + 4, f'{name} ({100 * float(rows[0]["density"]):.1f} %)'))
        parts += [mark(row, scale.x(speedup(row)), y) for row in drawn(rows)]
    return parts, bottom


def legend(panels, top):
    names = []
    for panel in panels.values():
        for rows in panel.values():
            names += [r['contender'] for r in drawn(rows) if r['contender'] not in names]
    parts, x = [], MARGIN
    for name in names:
        parts += [f'<circle cx="{x + 5}" cy="{top}" r="4" fill="{colour(name)}"/>', text(x + 13, top + 4, name)]
        x += 24 + 7 * len(name)
    parts += [f'<circle cx="{x + 7}" cy="{top}" r="7" fill="none" stroke="black"/>', text(x + 18, top + 4, 'auto')]
    return parts


def draw(source, target):
    panels = read(source)
    scale = Scale(panels)
    rows = [r for p in panels.values() for rs in p.values() for r in rs]
    yardstick = 'cuDNN dense' if any(r['speedup_over_cudnn'] for r in rows) else "vitrun's dense"
    where = f', {rows[0]["device"]} {rows[0]["dtype"]}' if rows else ''
    parts = [text(MARGIN, 22, f'Masked attention: times faster than {yardstick}{where}', weight='bold')]
    parts += legend(panels, 42)
    top = 64
    for key, panel in panels.items():
        more, bottom = panel_svg(scale, key, panel, top)
        parts += more
        top = bottom + GAP
    width = 2 * MARGIN + LABEL + WIDTH
    with open(target, 'w', encoding='utf-8') as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif" '
                f'font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n' + '\n'.join(parts) + '\n</svg>\n')


if __name__ == '__main__':
    draw(*sys.argv[1:3])
