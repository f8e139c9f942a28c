#!/bin/sh
# vitrun sweep and sensitivity: points, rows as eval gives them, going on, shares, full disks, errors.
. tests/cli/lib.sh

succeeds mask --grid 8x8 --mask 'axial_2d()' --png "$tmp/drawn"
data=$tmp/data
mkdir -p "$data/0" "$data/3" "$data/9"
cp "$image" "$data/0/a.png"
cp "$(find "$tmp/drawn" -name '*.png' | sort | head -n 1)" "$data/3/b.png"
cp "$(find "$tmp/drawn" -name '*.png' | sort | tail -n 1)" "$data/9/c.png"

cat >"$tmp/spec.json" <<'END'
{
  "version": 1,
  "patterns": {"axial": "axial_2d()", "near": "local_2d(distance=$d)",
               "rare": "random(sparsity=0.8, seed=5)"},
  "parameters": {"d": [2, 3]},
  "layers": ["all", "0"],
  "mask_configs": ["mask.json"],
  "batches": [2],
  "runs": 2
}
END
echo '{"layers": {"1": "axial_2d()"}}' >"$tmp/mask.json"
sweep()
{
    run sweep --weights "$vit" --data "$data" --spec "$tmp/spec.json" "$@"
}

sweep --out "$tmp/a" --json
[ "$status" -eq 0 ] || fail "a sweep"
holds 'len(d["rows"]) == 1 + 4 * 2 + 1 and [r["index"] for r in d["rows"]] == list(range(10))'
holds '[r["name"] for r in d["rows"]] == ["dense", "axial", "axial", "near d=2", "near d=2",
    "near d=3", "near d=3", "rare", "rare", "mask.json"] and d["rows"][2]["layers"] == "0"'
holds 'all(r["agreement_top1"] == 1 and r["kl_to_dense"] == 0 and r["density"] == 1
    for r in d["rows"] if r["name"] == "dense")'
holds 'all(r["ms"] >= r["ms_min"] > 0 and r["peak_bytes"] > r["weights_bytes"] > 0 and
    r["images"] == 3 and len(r["layers_kernel"]) == 2 for r in d["rows"])'
cp "$tmp/out" "$tmp/sweep.json"
python3 - "$tmp" <<'PY' || fail "results.csv and results.json differ"
import csv, json, sys
d = json.load(open(f'{sys.argv[1]}/a/results.json'))
rows = list(csv.DictReader(open(f'{sys.argv[1]}/a/results.csv')))
assert len(rows) == len(d['rows']) == 10
for c, r in zip(rows, d['rows']):
    assert c['options'] == r['options'] and float(c['top1']) == r['top1'] and int(c['nnz']) == r['nnz']
PY
ok "sweep: the product of the axes, a row a point, as JSON and CSV"

# The commands that the report prints for each row, run by themselves, give the row's figures.
for kind in eval:10 bench:2; do # of all points, and, for it takes seconds, of two
    most=${kind#*:} kind=${kind%:*}
    sed -n "s/^vitrun $kind /&--json /p" "$tmp/a/report.md" | head -n "$most" >"$tmp/commands"
    echo '[' >"$tmp/$kind.json"
    while IFS= read -r command <&3; do
        (PATH=$B:$PATH sh -c "$command") >>"$tmp/$kind.json" 2>"$tmp/err" || fail "$command"
        echo ',' >>"$tmp/$kind.json"
    done 3<"$tmp/commands"
    echo 'null]' >>"$tmp/$kind.json"
done
python3 - "$tmp" <<'PY' || fail "the commands of the report give other figures"
import json, sys
def load(name):
    return json.load(open(f'{sys.argv[1]}/{name}'))
rows, evals, benches = load('sweep.json')['rows'], load('eval.json')[:-1], load('bench.json')[:-1]
assert len(evals) == len(rows) == 10 and len(benches) == 2
for row, e in zip(rows, evals):
    for key in ('images', 'top1', 'top5', 'loss', 'ece', 'agreement_top1', 'kl_to_dense', 'cosine_to_dense', 'batch'):
        assert abs(e[key] - row[key]) <= 1e-6 * max(1, abs(row[key])), (row['name'], key)
    m = e['memory']
    for key, name in (('mask_bytes', 'masks_bytes'), ('attention_bytes',) * 2, ('weights_bytes',) * 2,
                      ('activation_bytes', 'activations_bytes'), ('peak_bytes',) * 2):
        assert m[name] == row[key], (row['name'], key)
    assert row['layers_density'] == [l['density'] for l in e['layers']]
    assert row['layers_kernel'] == [l['kernel'] for l in e['layers']]
    assert row['nnz'] == 2 * sum(l['nnz'] for l in e['layers'])
for row, b in zip(rows, benches):
    assert len(b['runs']) == 1 and b['runs'][0]['batch'] == row['batch'] and b['runs'][0]['median_ms'] > 0
    assert b['runs'][0]['peak_bytes'] == row['peak_bytes']
PY
ok "sweep: the commands that the report prints give every row's figures"

# Cut in the middle of a row, as a kill or a full disk does: the rest is kept, the row made anew.
mkdir "$tmp/b"
head -n 5 "$tmp/a/rows.jsonl" >"$tmp/b/rows.jsonl"
printf '{"name": "axi' >>"$tmp/b/rows.jsonl"
sweep --out "$tmp/b" --json
[ "$status" -eq 0 ] || fail "a sweep that goes on"
[ "$(head -n 5 "$tmp/a/rows.jsonl")" = "$(head -n 5 "$tmp/b/rows.jsonl")" ] || fail "rows were changed"
same='{k: v for k, v in r.items() if "ms" not in k and "per_s" not in k and k != "layers_kernel"}'
cat >"$tmp/same.py" <<PY
import json, sys
a, b = ([$same for r in json.load(open(name))["rows"]] for name in sys.argv[1:])
assert a == b, (a, b)
PY
python3 "$tmp/same.py" "$tmp/sweep.json" "$tmp/out" || fail "other figures after going on"
sweep --out "$tmp/b" --json
[ "$(wc -l <"$tmp/b/rows.jsonl")" -eq 11 ] || fail "a finished sweep was run again"
ok "sweep: goes on where it was stopped, with the same figures"

for share in 1 2 3; do
    sweep --out "$tmp/c" --shard $share/3
    [ "$status" -eq 0 ] || fail "share $share"
done
mv "$tmp/c/rows-2-of-3.jsonl" "$tmp/share"
succeeds sweep --merge --out "$tmp/c" --json
holds 'len(d["rows"]) == 7 and d["points"] == 10'
grep -q '7 of 10 points are there' "$tmp/err" || fail "a share that is not there is passed over in silence"
sed '1s/"threads":[0-9]*/"threads":99/' "$tmp/share" >"$tmp/c/rows-2-of-3.jsonl" # another machine's
succeeds sweep --merge --out "$tmp/c" --json
python3 "$tmp/same.py" "$tmp/sweep.json" "$tmp/out" || fail "other figures in shares"
[ -s "$tmp/c/results.csv" ] || fail "--merge writes results"
succeeds sweep --merge --out "$tmp/a" --json # the rows of one process
python3 "$tmp/same.py" "$tmp/sweep.json" "$tmp/out" || fail "other figures when merged alone"
ok "sweep: shares, joined, are the whole"

(trap '' XFSZ; ulimit -f 6; sweep --out "$tmp/d"; exit "$status")
[ $? -eq 1 ] || fail "expected status 1 where the file cannot grow"
grep -q 'rows.jsonl: File too large' "$tmp/err" || fail "expected the file to be named"
[ "$(wc -l <"$tmp/d/rows.jsonl")" -ge 2 ] || fail "finished rows are lost"
[ "$(tail -c 1 "$tmp/d/rows.jsonl" | wc -l)" -eq 1 ] || fail "a cut row was left"
sweep --out "$tmp/d" --json
[ "$status" -eq 0 ] || fail "going on after a full disk"
python3 "$tmp/same.py" "$tmp/sweep.json" "$tmp/out" || fail "other figures after a full disk"
ok "sweep: where the file cannot grow, no finished row is lost"

# bad SPEC TEXT: refused with this text
bad()
{
    printf '%s' "$1" >"$tmp/bad.json"
    refuses 3 "$2" sweep --weights "$vit" --data "$data" --spec "$tmp/bad.json" --out "$tmp/x"
    [ ! -e "$tmp/x" ] || fail "something was written for a bad specification"
}
bad '{"patern": {}}' "bad.json:1:2: patern: unknown key 'patern' (did you mean 'patterns'?)"
bad '{"patterns": {"a": "axial_3d()"}}' 'bad.json:1:20: patterns.a:'
bad '{"patterns": {"a": "local_2d(distance=$d)"}}' '$d is no list'
bad '{"patterns": {"a": "local_2d(distance=$d)"}, "parameters": {"d": ["$d"]}}' \
    "expected values without '$'"
bad '{"patterns": {"a": 3}}' 'patterns.a: expected a mask expression, found 3'
bad '{"patterns": {"a": "dense"}, "layers": ["0-7"]}' 'patterns.a'
bad '{"batches": [0]}' 'batches: expected a whole number from 1 to 65536, found 0'
bad '{"density_thresholds": [2]}' 'expected numbers from 0 to 1, found 2'
bad '{"layers": []}' 'layers: expected a list'
bad '{"mask_configs": ["absent.json"]}' 'absent.json'
bad '{"version": 2}' 'version'
bad '{"runs": 2' 'bad.json:1:'
bad '[]' 'expected an object'
refuses 3 'No such file' sweep --weights "$vit" --data "$data" --spec "$tmp/none.json" --out "$tmp/x"
refuses 2 '--out is missing' sweep --weights "$vit" --data "$data" --spec "$tmp/spec.json"
refuses 2 '--shard: bad value' sweep --weights "$vit" --data "$data" --spec "$tmp/spec.json" \
    --out "$tmp/x" --shard 3/2
refuses 2 'rows of other work (its "command": expected ' sweep --weights "$vit" --data "$data" \
    --spec "$tmp/spec.json" --out "$tmp/a" --limit 2
grep -q 'data --limit 2", found .*data")$' "$tmp/err" || fail "the difference is not shown"
mkdir "$tmp/e"
cp "$tmp"/c/rows-1-of-3.jsonl "$tmp/e"
sed '1s/"dtype":"fp32"/"dtype":"bf16"/' "$tmp/share" >"$tmp/e/rows-2-of-3.jsonl"
refuses 3 'rows-2-of-3.jsonl: holds rows of other work (its "dtype": expected "fp32", found "bf16")' sweep --merge \
    --out "$tmp/e"
refuses 3 'no rows' sweep --merge --out "$tmp/data"
ok "sweep: bad specifications name line, column and path"

succeeds sensitivity --weights "$vit" --data "$data" --mask 'axial_2d()' --mask 'local_2d(distance=2)' \
    --study both --runs 1 --json --out "$tmp/s"
holds '[r["layers"] for r in d["rows"]] == ["all", "0", "1", "0", "1"]' # of two, all but 0 is 1
holds 'd["rows"][1]["density"] < 1 and d["rows"][1]["layers_density"][1] == 1'
succeeds sensitivity --weights "$vit" --data "$data" --mask 'axial_2d()' --runs 1
says 'same class'
refuses 2 'axial_3d' sensitivity --weights "$vit" --data "$data" --mask 'axial_3d()'
refuses 2 '--mask is missing' sensitivity --weights "$vit" --data "$data"
ok "sensitivity: one layer at a time"
