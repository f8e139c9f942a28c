#!/bin/sh
# vitrun eval: every figure against the same computed from `run --logits`; folders, CSV, bad images.
. tests/cli/lib.sh

# Pictures that differ: the drawings that `mask` makes, in folders named by class indexes.
succeeds mask --grid 8x8 --mask 'axial_2d()' --png "$tmp/drawn"
a=$(find "$tmp/drawn" -name '*.png' | sort | head -n 1)
b=$(find "$tmp/drawn" -name '*.png' | sort | tail -n 1)
data=$tmp/data
mkdir -p "$data/0" "$data/3/deep/er" "$data/9" "$data/.hidden"
cp "$image" "$data/0/a.png"
cp "$a" "$data/3/deep/er/b.png"
cp "$b" "$data/3/c.png"
cp "$b" "$data/9/d.PNG"
cp "$a" "$data/.hidden/never.png"
echo text >"$data/9/notes.txt"

# logits FILE OPTIONS...: of the four pictures in the order of eval
logits()
{
    to=$1
    shift
    succeeds run --weights "$vit" --json --logits --topk 10 "$@" "$data/0/a.png" "$data/3/c.png" \
        "$data/3/deep/er/b.png" "$data/9/d.PNG"
    cp "$tmp/out" "$tmp/$to"
}
logits dense.json
logits masked.json --mask 'local_2d(distance=2)'

succeeds eval --weights "$vit" --data "$data" --mask 'local_2d(distance=2)' --batch 3 --json
python3 - "$tmp" <<'PY' || fail "figures differ from those of run --logits"
import json, math, sys
load = lambda name: json.load(open(f'{sys.argv[1]}/{name}'))
e, d, m = load('out'), load('dense.json'), load('masked.json')
labels = [0, 3, 3, 9]
def softmax(x):
    p = [math.exp(v - max(x)) for v in x]
    return [v / sum(p) for v in p]
xs, ds = ([r['logits'] for r in doc['results']] for doc in (m, d))
ps, qs = [softmax(x) for x in xs], [softmax(x) for x in ds]
def order(x):
    return sorted(range(len(x)), key=lambda i: (-x[i], i))
def near(a, b):
    assert abs(a - b) <= 1e-5 * max(1, abs(b)), (a, b)
n = len(labels)
def check(doc, xs, ps):
    near(doc['top1'], sum(order(x)[0] == l for x, l in zip(xs, labels)) / n)
    near(doc['top5'], sum(l in order(x)[:5] for x, l in zip(xs, labels)) / n)
    near(doc['loss'], sum(-math.log(p[l]) for p, l in zip(ps, labels)) / n)
    bins = {}
    for x, p, l in zip(xs, ps, labels):
        bins.setdefault(min(int(max(p) * 15), 14), []).append((max(p), order(x)[0] == l))
    near(doc['ece'], sum(abs(sum(r for _, r in b) - sum(c for c, _ in b)) for b in bins.values()) / n)
check(e, xs, ps)
check(e['dense'], ds, qs)
near(e['agreement_top1'], sum(order(x)[0] == order(y)[0] for x, y in zip(xs, ds)) / n)
near(e['kl_to_dense'], sum(q * math.log(q / p) for a, b in zip(ps, qs) for p, q in zip(a, b)) / n)
dot = lambda a, b: sum(u * v for u, v in zip(a, b))
near(e['cosine_to_dense'], sum(dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)) for x, y in zip(xs, ds)) / n)
assert {c['class']: c['images'] for c in e['classes'] if c['images']} == {0: 1, 3: 2, 9: 1}
assert sum(c['predicted'] for c in e['classes']) == n and e['images'] == n
assert e['batch'] == 3 and e['images_per_s'] > 0 and len(e['layers']) == 2
assert e['memory']['peak_bytes'] > e['memory']['weights_bytes'] > 0
PY
ok "eval: every figure is the one that the logits give"

succeeds eval --weights "$vit" --data "$data" --json
holds 'd["agreement_top1"] == 1 and d["kl_to_dense"] == 0 and "dense" not in d'
succeeds eval --weights "$vit" --data "$data" --mask 'axial_2d()' --no-agreement --json
holds 'd["agreement_top1"] is None and d["kl_to_dense"] is None'
succeeds eval --weights "$vit" --data "$data" --limit 2 --json
holds 'd["images"] == 2 and {c["class"] for c in d["classes"] if c["images"]} == {0, 3}'
succeeds eval --weights "$vit" --data "$data" --mask 'axial_2d()'
says 'same class as unmasked'
ok "eval: without masks, without agreement, part of the images, as text"

cp "$b" "$data/a, \"b\".png"
printf '\357\273\277path,label\r\n"data/0/a.png",0\r\n\r\ndata/3/c.png,3\r\n"data/a, ""b"".png",9\r\n' >"$tmp/list.csv"
succeeds eval --weights "$vit" --data "$tmp/list.csv" --json
holds 'd["images"] == 3 and {c["class"] for c in d["classes"] if c["images"]} == {0, 3, 9}'
echo 'data/0/a.png,frog' >"$tmp/strange.csv"
refuses 3 'strange.csv:1: unknown label "frog"' eval --weights "$vit" --data "$tmp/strange.csv"
printf 'data/0/a.png,0\ndata/0/a.png\n' >"$tmp/short.csv"
refuses 3 'short.csv:2: no path,label' eval --weights "$vit" --data "$tmp/short.csv"
echo '"data/0/a.png,0' >"$tmp/open.csv"
refuses 3 'open.csv:1' eval --weights "$vit" --data "$tmp/open.csv"
: >"$tmp/empty.csv"
refuses 3 'no images' eval --weights "$vit" --data "$tmp/empty.csv"
printf 'a\0b,1\n' >"$tmp/nul.csv"
refuses 3 'NUL byte' eval --weights "$vit" --data "$tmp/nul.csv"
refuses 3 'No such file' eval --weights "$vit" --data "$tmp/absent"
refuses 2 '--data is missing' eval --weights "$vit"
ok "eval: CSV files, good and bad"

mkdir -p "$tmp/strange/cat" "$tmp/strange/0"
cp "$image" "$tmp/strange/cat"
refuses 3 'which class is "0"' eval --weights "$vit" --data "$tmp/strange"
refuses 3 'no folder in it' eval --weights "$vit" --data "$data/3/deep/er"
refuses 3 'without classes' eval --weights "$dinov2" --data "$data"
ok "eval: folders that name no class are refused"

echo 'no picture' >"$data/0/broken.png"
run eval --weights "$vit" --data "$data" --mask 'axial_2d()' --json
[ "$status" -eq 3 ] || fail "expected status 3 with a bad image"
[ "$(grep -c 'broken.png' "$tmp/err")" -eq 1 ] || fail "expected the bad image named once"
holds 'd["images"] == 4 and d["bad_images"] == 1 and "broken.png" in d["errors"][0]'
echo "$data/0/broken.png,0" >"$tmp/bad.csv"
run eval --weights "$vit" --data "$tmp/bad.csv"
[ "$status" -eq 3 ] && [ ! -s "$tmp/out" ] || fail "expected status 3 and no figures of no image"
ok "eval: a bad image is named, counted and left out"
