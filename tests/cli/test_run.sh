#!/bin/sh
# vitrun run: results as text and JSON, batches, folders, feature files.
. tests/cli/lib.sh

succeeds --weights "$vit" --json --logits "$image"
holds 'd["vitrun"] and d["device"] == "cpu" and d["dtype"] == "fp32" and d["threads"] >= 1'
holds 'd["model"].keys() >= {"architecture", "layers", "heads", "width", "tokens",
    "prefix_tokens", "grid", "num_classes", "parameters"}'
holds 'd["model"]["tokens"] == 65 and d["model"]["grid"] == [8, 8] and d["model"]["layers"] == 2'
holds 'len(d["results"]) == 1 and len(d["results"][0]["logits"]) == 10'
holds '[t["probability"] for t in d["results"][0]["top"]] ==
    sorted((t["probability"] for t in d["results"][0]["top"]), reverse=True)'
holds 'all(abs(t["probability"] - math.exp(d["results"][0]["logits"][t["class"]]) /
    sum(map(math.exp, d["results"][0]["logits"]))) < 1e-7 for t in d["results"][0]["top"])'
holds 'len(d["layers"]) == 2 and all(l["kernel"] == "dense" and l["density"] == 1 and
    l["nnz"] == 65 * 65 and l["heads"] == "0-1" and l["reason"] and l["ms"] > 0 for l in d["layers"])'
holds 'd["memory"]["peak_bytes"] == sum(v for k, v in d["memory"].items() if k != "peak_bytes")'
holds 'd["time_ms"].keys() == {"load", "preprocess", "forward", "total"}'
holds 'd["time_ms"]["total"] >= d["time_ms"]["forward"] > 0'
ok "the JSON document says what was computed, by what, in which time and memory"

python3 - "$models/vit.json" "$tmp/out" <<'PY' || fail "the logits are not timm's"
import json, sys
want = json.load(open(sys.argv[1]))['cases'][0]['logits']
got = json.load(open(sys.argv[2]))['results'][0]['logits']
largest = max(map(abs, want))
sys.exit(any(abs(a - b) > 1e-4 * largest for a, b in zip(want, got, strict=True)))
PY
ok "the logits are timm's"

head -c 100 "$image" >"$tmp/bad.png"
for batch in 1 2; do # the first batch may have nothing to time
    run --weights "$vit" --json --batch $batch "$tmp/bad.png" "$image" "$image"
    [ "$status" -eq 3 ] || fail "expected status 3"
    holds 'all(l["ms"] > 0 for l in d["layers"])'
done
ok "layers have their time although the first picture is bad"

succeeds --weights "$vit" --topk 3 "$image"
[ "$(grep -cE '^ +[0-9]+\.[0-9] %  ' "$tmp/out")" -eq 3 ] || fail "expected three classes"
[ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "expected one line of what ran"
succeeds --weights "$vit" --topk 1000000 "$image"
[ "$(grep -c '%' "$tmp/out")" -eq 10 ] || fail "expected all ten classes"
seq -f 'kind %g' 0 9 >"$tmp/labels"
succeeds --weights "$vit" --labels "$tmp/labels" "$image"
grep -qE 'kind ([0-9]) \(\1\)$' "$tmp/out" || fail "no label before its class"
ok "text: classes, labels"

mkdir "$tmp/folder" "$tmp/folder/deeper"
for name in b a.jpg B .hidden; do cp "$image" "$tmp/folder/$name"; done
cp "$image" "$tmp/folder/deeper/c"
succeeds --weights "$vit" --topk 1 "$image" "$tmp/folder"
[ "$(grep -v '%' "$tmp/out" | grep .)" = "$image
$tmp/folder/B
$tmp/folder/a.jpg
$tmp/folder/b" ] || fail "the folder's files are not in bytewise order"
ok "a folder is its files in bytewise order, without hidden ones and subfolders"

for batch in 1 2 3 64; do
    succeeds --weights "$vit" --json --logits --batch $batch "$image" "$image" "$image" "$image" "$image"
    holds 'all(max(abs(a - b) for a, b in zip(r["logits"], d["results"][0]["logits"])) < 1e-5
        for r in d["results"]) and len(d["results"]) == 5'
done
# A quarter of --max-memory is for pictures: here, for small ones.
python3 - "$tmp/small.png" <<'PY'
import struct, sys, zlib

def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

with open(sys.argv[1], 'wb') as f:
    f.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 16, 16, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(16 * 49))) + chunk(b'IEND', b''))
PY
small=$tmp/small.png
succeeds --weights "$vit" --json --max-memory 1M "$small" "$small" "$small" "$small"
holds 'd["memory"]["peak_bytes"] <= 3 << 18 and len(d["results"]) == 4'
peak()
{
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["memory"]["peak_bytes"])' "$tmp/out"
}
succeeds --weights "$vit" --json --batch 2 "$small" "$small" "$small" "$small"
two=$(peak)
succeeds --weights "$vit" --json --batch 4 "$small" "$small" "$small" "$small"
four=$(peak)
[ "$two" -lt "$four" ] || fail "more images a pass take no more memory"
enough=$(((four * 4 + 2) / 3))
for limit in $(((two * 4 + 2) / 3)) $((enough - 2)); do
    succeeds --weights "$vit" --json --max-memory "$limit" "$small" "$small" "$small" "$small"
    [ "$(peak)" -eq "$two" ] || fail "two images a pass fit into $limit bytes"
done
succeeds --weights "$vit" --json --max-memory "$enough" "$small" "$small" "$small" "$small"
[ "$(peak)" -eq "$four" ] || fail "four images a pass fit into $enough bytes"
ok "any batch size gives the same results, and --max-memory chooses one that fits"

succeeds --weights "$dinov2" "$image"
grep -qE '^  24 features, norm [0-9]' "$tmp/out" || fail "no features"
succeeds --weights "$dinov2" --json --logits "$image"
holds 'd["results"][0]["top"] == [] and len(d["results"][0]["logits"]) == 24'
ok "a model without a head gives features"

succeeds --weights "$vit" --profile "$image"
grep -q '^operation\|^  operation' "$tmp/err" || fail "no table"
grep -q 'attention' "$tmp/err" || fail "no attention in the table"
ok "the profile is on standard error"

succeeds --weights "$vit" --mask 'axial_2d()' --mask '1: dense' --json "$image"
holds '[l["nnz"] for l in d["layers"]] == [64 * 15 + 1 + 2 * 64, 65 * 65]'
holds 'd["layers"][0]["mask"] == "axial_2d()"'
for kernel in reference dense sparse tiles rows; do
    succeeds --weights "$vit" --mask 'axial_2d()' --kernel $kernel --json --logits "$image"
    [ $kernel = sparse ] || holds "all(l['kernel'] == '$kernel' for l in d['layers'])"
    cp "$tmp/out" "$tmp/$kernel.json"
    python3 - "$tmp/reference.json" "$tmp/$kernel.json" <<'PY' || fail "kernel $kernel differs"
import json, sys
a, b = (json.load(open(p))['results'][0]['logits'] for p in sys.argv[1:])
sys.exit(any(abs(x - y) > 1e-4 for x, y in zip(a, b, strict=True)))
PY
done
succeeds --weights "$vit" --mask 'axial_2d()' --dispatch density --density-threshold 0.01 --json "$image"
holds 'all(l["kernel"] == "dense" for l in d["layers"])'
succeeds --weights "$vit" --mask 'axial_2d()' --dispatch density --density-threshold 1 --json "$image"
holds 'all(l["kernel"] in ("tiles", "rows") for l in d["layers"])'
ok "masks, forced kernels, dispatch by density"

succeeds --weights "$vit" --mask-config "$models/masks/per_head.json" --json "$image"
holds 'len(d["layers"]) > 2 and all(l["ms"] > 0 for l in d["layers"])'
succeeds --weights "$vit" --mask-config "$models/masks/empty_rows.json" "$image"
ok "head groups are reported one by one"
