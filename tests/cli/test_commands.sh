#!/bin/sh
# vitrun info, mask, check, bench.
. tests/cli/lib.sh

succeeds info --weights "$vit"
says '8 x 8 patches and 1 prefix'
says 'planned memory'
grep -q 'kernel' "$tmp/out" && fail "layers are only shown with masks"
succeeds info --weights "$vit" --json
holds 'd["model"]["tokens"] == 65 and d["image"] == [3, 64, 64]'
holds '[m["batch"] for m in d["memory"]] == [1, 8, 32]'
holds 'd["memory"][2]["peak_bytes"] > d["memory"][0]["peak_bytes"] > 0'
holds 'd["facts"] and all(f["name"] and f["value"] and f["origin"] for f in d["facts"])'
succeeds info --weights "$vit" --mask 'axial_2d()' --batch 3,5
says 'kernel'
grep -Eq '^  0-1 +0-1( +\*?[0-9.]+){4}$' "$tmp/out" || fail "no line of all kernels' predicted times"
succeeds info --weights "$vit" --mask '1: axial_2d()' --batch 3,5 --json
holds '[m["batch"] for m in d["memory"]] == [3, 5] and len(d["layers"]) == 2'
holds 'd["layers"][1]["mask"] == "axial_2d()" and d["layers"][1]["density"] < 0.3'
succeeds info --list
says vit_base_patch16_224
succeeds info --list --json
holds 'any(a["architecture"] == "vit_base_patch16_224" and a["layers"] == 12 and
    a["image"] == [224, 224] and a["patch"] == 16 and a["parts"] == "" for a in d["architectures"])'
holds 'any(a["architecture"] == "beit_base_patch16_224" and
    "relative position bias" in a["parts"] for a in d["architectures"])'
ok "info: model card, layers, list"

# axial_2d on H x W: each patch sees its row and its column
succeeds mask --grid 6x8 --mask 'axial_2d()' --json
holds 'len(d["layers"]) == 1 and d["layers"][0]["tokens"] == 48'
holds 'd["layers"][0]["nnz"] == 48 * 13 and abs(d["layers"][0]["density"] - 13 / 48) < 1e-8'
holds 'd["layers"][0]["row_nnz"] == {"min": 13, "mean": 13.0, "max": 13}'
holds 'd["layers"][0]["tile_occupancy"].keys() == {"16", "32", "64"} and
    d["layers"][0]["empty_rows"] == 0'
succeeds mask --grid 6x8 --prefix 2 --mask 'axial_2d()' --json
holds 'd["layers"][0]["tokens"] == 50 and d["layers"][0]["nnz"] == 48 * 13 + 4 + 2 * 2 * 48'
succeeds mask --grid 6x8 --mask 'axial_2d()'
says 'axial_2d()'
succeeds mask --weights "$vit" --mask-config "$models/masks/per_head.json" --json
holds 'sorted({l["layer"] for l in d["layers"]}) == [0, 1] and len(d["layers"]) > 2'
succeeds mask --grid 3x3 --mask '~dense' --json
holds 'd["layers"][0]["empty_rows"] == 9 and d["layers"][0]["nnz"] == 0'
ok "mask: counts"

succeeds mask --grid 6x8 --prefix 1 --mask 'local_2d(distance=2)' --png "$tmp/png" --query 9 \
    --save "$tmp/masks.safetensors"
[ "$(find "$tmp/png" -name '*.png' | wc -l)" -eq 2 ] || fail "expected two drawings"
[ "$(find "$tmp/png" -name '*query9.png' | wc -l)" -eq 1 ] || fail "no drawing of the query"
for f in "$tmp"/png/*.png; do
    [ "$(head -c 4 "$f" | tail -c 3)" = PNG ] || fail "$f is no PNG"
done
name=$(python3 - "$tmp/masks.safetensors" <<'PY'
import json, struct, sys
data = open(sys.argv[1], 'rb').read()
header = json.loads(data[8:8 + struct.unpack('<Q', data[:8])[0]])
(name, entry), = ((k, v) for k, v in header.items() if k != '__metadata__')
assert entry['dtype'] == 'BOOL' and entry['shape'] == [49, 49], entry
print(name)
PY
) || fail "the saved masks"
cat >"$tmp/again.json" <<END
{"version": 1, "patterns": {"saved": {"type": "file", "path": "masks.safetensors", "tensor": "$name"}},
 "layers": {"0": "saved"}}
END
succeeds mask --grid 6x8 --prefix 1 --mask-config "$tmp/again.json" --json
again=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["layers"][0]["nnz"])' "$tmp/out")
succeeds mask --grid 6x8 --prefix 1 --mask 'local_2d(distance=2)' --json
holds "d['layers'][0]['nnz'] == $again"
cat >"$tmp/many.json" <<END
{"version": 1, "layers": {"0": {"heads": {
    "$(seq -s, 0 2 198)": "local_2d(distance=2)", "$(seq -s, 1 2 199)": "axial_2d()"}}}}
END
succeeds mask --grid 4x4 --mask-config "$tmp/many.json" --png "$tmp/many"
[ "$(find "$tmp/many" -name '*.png' | wc -l)" -eq 4 ] || fail "expected two drawings of two masks"
ok "mask: drawings, and saved masks that can be used again"

succeeds check --weights "$vit" --mask 'axial_2d()' "$image"
says 'all kernels agree'
succeeds check --weights "$vit" --mask 'axial_2d()' "$image" --json
holds 'd["ok"] is True and len(d["pairs"]) == 6'
holds 'all(p["max_error"] <= p["allowed"] and p["a"] == "reference" for p in d["pairs"])'
holds '{p["b"] for p in d["pairs"]} == {"dense", "tiles", "rows"}'
ok "check: all kernels of all layers agree"

succeeds bench --weights "$vit" --batch 1,3 --runs 3 --json
holds '[r["batch"] for r in d["runs"]] == [1, 3] and d["threads"] >= 1'
holds 'all(0 < r["min_ms"] <= r["median_ms"] <= r["p90_ms"] and r["runs"] == 3 and
    abs(r["images_per_s"] - 1000 * r["batch"] / r["median_ms"]) < 1e-3 * r["images_per_s"] and
    r["peak_bytes"] > 0 for r in d["runs"])'
holds 'len(d["layers"]) == 2 and d["layers"][0]["ms"] > 0 and d["end_to_end"] is False'
holds 'all({"attention", "linear"} <= {o["op"] for o in r["operations"]} for r in d["runs"])'
succeeds bench --weights "$vit" --runs 2 --mask 'axial_2d()' --end-to-end "$image"
says 'from the image file to logits'
succeeds bench --weights "$vit" --runs 2 --end-to-end --json
holds 'd["end_to_end"] is True'
succeeds bench --weights "$vit" --runs 3 --mask '1: axial_2d()' --batch 1,2 --json
holds 'all(r["dense"]["median_ms"] > 0 and 0 < r["dense"]["attention_share"] < 1 and
    abs(r["dense"]["most_speedup"] * (1 - r["dense"]["attention_share"]) - 1) < 1e-6 and
    abs(r["dense"]["speedup"] * r["median_ms"] / r["dense"]["median_ms"] - 1) < 1e-6 for r in d["runs"])'
succeeds bench --weights "$vit" --runs 3 --mask '0: axial_2d()'
says 'without masks'
succeeds bench --weights "$vit" --runs 3 --json
holds '"dense" not in d["runs"][0]'
ok "bench: whole models"

succeeds bench --attention 2x65x16 --grid 8x8 --mask 'axial_2d()' --runs 3 --json
holds '{k["kernel"] for k in d["kernels"]} == {"reference", "dense", "tiles", "rows"}'
holds 'd["attention"]["nnz"] == 64 * 15 + 1 + 2 * 64 and d["attention"]["prefix_tokens"] == 1'
holds 'all(0 < k["min_ms"] <= k["median_ms"] <= k["p90_ms"] for k in d["kernels"])'
holds '[k["ratio_to_dense"] for k in d["kernels"] if k["kernel"] == "dense"] == [1]'
succeeds bench --attention 2x65x16 --kernel sparse --mask 'axial_2d()' --runs 2 --json
holds 'len(d["kernels"]) == 1 and d["kernels"][0]["ratio_to_dense"] is None'
succeeds bench --attention 2x65x16 --grid 8x8 --mask 'axial_2d()' --mask 'local_1d(window_size=5)' --batch 1,3 \
    --runs 1 --json
holds '[(r["attention"]["mask"], r["attention"]["batch"]) for r in d["runs"]] ==
    [(m, b) for b in (1, 3) for m in ("axial_2d()", "local_1d(window_size=5)")]'
holds 'd["attention"] == d["runs"][0]["attention"] and d["kernels"] == d["runs"][0]["kernels"]'
succeeds bench --attention 2x64x16 --runs 2
says 'auto takes dense'
refuses 2 'fastest' bench --attention 2x64x16 --kernel fastest
ok "bench: one attention alone"
