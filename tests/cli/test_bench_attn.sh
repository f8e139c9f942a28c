#!/bin/sh
# tests/bench_attn.py writes a row for each mask and kernel, and a picture of them; its formulas of masks
# are vitrun's.
. tests/cli/lib.sh

python3 tests/bench_attn.py "$vitrun" --no-torch --device cpu --dtype fp32 --heads 2 --tokens 197 --batch 1 2 \
    --masks 'local 10%' axial swin --rounds 2 --runs 2 --csv "$tmp/a.csv" --svg "$tmp/a.svg" \
    >"$tmp/out" 2>"$tmp/err" || fail "bench_attn.py"
says '6 cells'
python3 - "$tmp" <<'PY' || fail "what bench_attn.py wrote"
import csv, sys, xml.dom.minidom
rows = list(csv.DictReader(open(sys.argv[1] + '/a.csv', newline='')))
cells = {}
for r in rows:
    assert float(r['ms']) > 0 and (r['contender'] != 'dense' or float(r['of_vitrun_dense']) == 1)
    cells.setdefault((r['batch'], r['name']), []).append(r)
assert len(cells) == 6
for cell in cells.values():
    assert {'dense', 'tiles', 'rows'} <= {r['contender'] for r in cell}
    assert sum(int(r['is_auto']) for r in cell) == 1
picture = xml.dom.minidom.parse(sys.argv[1] + '/a.svg')
titles = [t.firstChild.data for t in picture.getElementsByTagName('title')]
assert len(titles) == sum(r['contender'] != 'reference' for r in rows)
PY
ok "rows and picture"

python3 - "$vitrun" <<'PY' || fail "the formulas of masks"
import json, subprocess, sys
sys.dont_write_bytecode = True
sys.path.insert(0, 'tests')
import bench_attn as b
for tokens, side in ((197, 14), (577, 24)):
    for name, mask in b.masks_of(tokens).items():
        allowed = b.formula(mask, side, lambda a, b: a // b)
        if not allowed or 'random' in name:
            assert not allowed, name
            continue
        done = subprocess.run([sys.argv[1], 'mask', '--grid', f'{side}x{side}', '--mask', mask, '--json'],
                              capture_output=True, check=True)
        pairs = sum(bool(allowed(q, k)) for q in range(side * side) for k in range(side * side))
        assert pairs == json.loads(done.stdout)['layers'][0]['nnz'], (tokens, name)
PY
ok "formulas of masks"
