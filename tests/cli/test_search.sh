#!/bin/sh
# vitrun calibrate and search: masks that hold what they promise when they are read again; budgets.
. tests/cli/lib.sh

succeeds mask --grid 8x8 --mask 'axial_2d()' --png "$tmp/drawn"
data=$tmp/data
mkdir -p "$data/0" "$data/3" "$data/9"
cp "$image" "$data/0/a.png"
cp "$(find "$tmp/drawn" -name '*.png' | sort | head -n 1)" "$data/3/b.png"
cp "$(find "$tmp/drawn" -name '*.png' | sort | tail -n 1)" "$data/9/c.png"
calibrate()
{
    succeeds calibrate --weights "$vit" --data "$data" --json "$@"
}

calibrate --save "$tmp/mass.safetensors" --keep-mass 0.9 --per head --batch 2
holds 'd["images"] == 3 and len(d["heads"]) == 4'
holds 'all(0 < h["keys50"] <= h["keys90"] <= h["keys99"] <= 65 and 0 < h["entropy"] <= math.log(65) + 1e-6
    and 0 <= h["prefix_share"] <= 1 and 0 < h["distance"] < 10 for h in d["heads"])'
cp "$tmp/out" "$tmp/heads.json"
succeeds mask --weights "$vit" --mask-config "$tmp/mass.json" --json
cp "$tmp/out" "$tmp/masks.json"
python3 - "$tmp" <<'PY' || fail "the saved masks do not have the keys that were counted"
import json, sys
heads = json.load(open(f'{sys.argv[1]}/heads.json'))['heads']
groups = json.load(open(f'{sys.argv[1]}/masks.json'))['layers']
nnz = {(g['layer'], int(h)): g['nnz'] for g in groups for h in g['heads'].replace('-', ',').split(',')}
for h in heads:
    assert abs(nnz[h['layer'], h['head']] / 65 - h['keys90']) < 1e-6, h
PY
calibrate --mask-config "$tmp/mass.json"
holds 'all(0 < h["mass_lost"] <= 0.1 + 1e-5 for h in d["heads"])'
calibrate --save "$tmp/keys.safetensors" --keep-keys 5
succeeds mask --weights "$vit" --mask-config "$tmp/keys.json" --json
holds 'all(l["nnz"] == 65 * 5 and l["heads"] == "0-1" for l in d["layers"])'
succeeds run --weights "$vit" --mask-config "$tmp/keys.json" "$image"
calibrate --mask 'dense'
holds 'all(abs(h["mass_lost"]) < 1e-9 for h in d["heads"])'
succeeds calibrate --weights "$vit" --data "$data" --limit 1
says 'keys 50 %'
refuses 2 '--save goes with' calibrate --weights "$vit" --data "$data" --save "$tmp/x.safetensors"
refuses 2 '--save: bad value' calibrate --weights "$vit" --data "$data" --save "$tmp/x.npy" --keep-keys 1
ok "calibrate: masks that hold the attention they promise"

search()
{
    succeeds search --weights "$vit" --data "$data" --mask 'axial_2d()' --mask 'local_2d(distance=2)' "$@"
}
search --max-lost 100 --json --save "$tmp/found.json"
holds 'd["mask_config"]["layers"] == {"0": "local_2d(distance=2)", "1": "local_2d(distance=2)"}'
holds 'd["mask_config"]["measured"]["masked"]["pairs"] < d["mask_config"]["measured"]["dense"]["pairs"]'
cp "$tmp/out" "$tmp/search.json"
succeeds eval --weights "$vit" --data "$data" --mask-config "$tmp/found.json" --json
python3 - "$tmp" <<'PY' || fail "the figures in the configuration are not those of eval"
import json, sys
e, c = json.load(open(f'{sys.argv[1]}/out')), json.load(open(f'{sys.argv[1]}/found.json'))
m = c['measured']['masked']
assert m['top1'] == e['top1'] and m['agreement_top1'] == e['agreement_top1']
assert abs(m['kl_to_dense'] - e['kl_to_dense']) < 1e-6
assert m['pairs'] == 2 * sum(l['nnz'] for l in e['layers'])
PY
search --max-lost 0 --json
holds 'd["mask_config"]["measured"]["masked"]["top1"] >= d["mask_config"]["measured"]["dense"]["top1"]'
search --max-bytes 1 --json # which no mask reaches: as far down as they go
holds 'd["reached"] is False'
search --max-ms 100000 --runs 1 --json # which holds without any
holds 'd["reached"] is True and set(d["mask_config"]["layers"].values()) == {"dense"}'
search --max-lost 100
says 'models measured'
refuses 2 'no budget' search --weights "$vit" --data "$data" --mask 'axial_2d()'
refuses 2 'two budgets' search --weights "$vit" --data "$data" --mask 'axial_2d()' --max-ms 1 --max-bytes 1
refuses 2 'axial_3d' search --weights "$vit" --data "$data" --mask 'axial_3d()' --max-lost 1
echo '{"layers": {}, "measured": 3}' >"$tmp/bad.json"
refuses 3 'measured: expected an object' mask --weights "$vit" --mask-config "$tmp/bad.json"
ok "search: what it writes is what eval measures"
