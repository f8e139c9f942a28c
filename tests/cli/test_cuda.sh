#!/bin/sh
# The program on a GPU: the same commands, results as on the CPU. Skipped where there is no GPU, and fails
# there if VITRUN_TEST_GPU=1 says that there must be one.
. tests/cli/lib.sh

run bench --attention 1x4x8 --runs 1 --device cuda
if [ "$status" -ne 0 ]; then
    [ "${VITRUN_TEST_GPU:-0}" != 1 ] || fail "no GPU"
    echo "SKIPPED: no GPU to test: $(cat "$tmp/err")"
    exit 0
fi

# same_logits TOLERANCE OTHER_DOCUMENT: as a share of the largest one
same_logits()
{
    python3 - "$tmp/out" "$2" "$1" <<'PY' || fail "logits differ by more than $1"
import json, sys
a, b = (json.load(open(f))['results'] for f in sys.argv[1:3])
assert len(a) == len(b) > 0
for x, y in zip(a, b):
    largest = max(map(abs, y['logits']))
    assert max(abs(p - q) for p, q in zip(x['logits'], y['logits'])) <= float(sys.argv[3]) * largest
PY
}

for masks in '0: local_2d(distance=2)' '0-1: axial_2d() | local_2d(distance=3)'; do
    succeeds --weights "$vit" --json --logits --device cpu --mask "$masks" "$image"
    cp "$tmp/out" "$tmp/cpu"
    for kernel in reference dense rows sparse; do
        for dtype in fp32:1e-5 tf32:5e-3 fp16:5e-3 bf16:5e-2; do
            succeeds --weights "$vit" --json --logits --device cuda --dtype ${dtype%:*} --kernel $kernel \
                --mask "$masks" "$image"
            holds 'd["device"] == "cuda" and d["dtype"] == "'${dtype%:*}'"'
            holds 'all(l["ms"] >= 0 and l["kernel"] for l in d["layers"])'
            same_logits ${dtype#*:} "$tmp/cpu"
        done
    done
done
ok "every kernel and type gives what the CPU gives"

succeeds --weights "$vit" "$image"
grep -q '^cuda fp16, ' "$tmp/err" || fail "auto does not say that it took the GPU"
ok "auto takes the GPU, in fp16, and says so"

mkdir "$tmp/folder"
for i in $(seq 100 130); do cp "$image" "$tmp/folder/$i.png"; done
head -c 100 "$image" >"$tmp/folder/115.png"
run --weights "$vit" --device cuda --batch 4 --topk 1 "$tmp/folder"
[ "$status" -eq 3 ] || fail "expected status 3"
[ "$(grep -c '%' "$tmp/out")" -eq 30 ] || fail "expected 30 results"
[ "$(grep '%' "$tmp/out" | sed 's/.*%//' | sort -u | wc -l)" -eq 1 ] || fail "equal pictures, different classes"
[ "$(grep -v '%' "$tmp/out" | grep -c png)" -eq 30 ] || fail "expected 30 names"
[ "$(grep -v '%' "$tmp/out" | grep png)" = "$(grep -v '%' "$tmp/out" | grep png | sort)" ] ||
    fail "results are not in order"
ok "batches in flight keep the order, and a bad picture is a line"

# same_arrays: $tmp/gpu.npy and $tmp/cpu.npy
same_arrays()
{
    python3 - "$tmp/gpu.npy" "$tmp/cpu.npy" <<'PY'
import struct, sys
def read(path):
    b = open(path, 'rb').read()
    n = struct.unpack('<H', b[8:10])[0]
    return b[:10 + n], struct.unpack(f'<{(len(b) - 10 - n) // 4}f', b[10 + n:])
(ha, a), (hb, b) = map(read, sys.argv[1:])
assert ha == hb and len(a) == len(b) > 1000
assert max(abs(x - y) for x, y in zip(a, b)) <= 2e-5 * max(map(abs, b))
PY
}
succeeds --weights "$vit" --device cuda --features "$tmp/gpu.npy" --tokens --dtype fp32 "$image"
succeeds --weights "$vit" --device cpu --features "$tmp/cpu.npy" --tokens "$image"
same_arrays || fail "tokens differ"
for how in '' '--norm --reshape'; do
    for device in gpu:cuda cpu:cpu; do # 200 pictures: more than go through the model at a time
        # shellcheck disable=SC2086
        succeeds --weights "$vit" --device ${device#*:} --dtype fp32 --batch 200 --features "$tmp/${device%:*}.npy" \
            --intermediate all $how samples/images/*
    done
    same_arrays || fail "intermediate layers differ"
done
ok "all tokens come back, and what single blocks give"

succeeds check --weights "$vit" --device cuda --mask '0: local_2d(distance=2)' --json "$image"
holds 'd["ok"] and any("cpu" in p["b"] for p in d["pairs"])'
succeeds info --weights "$vit" --device cuda --mask '0: local_2d(distance=2)'
succeeds bench --weights "$vit" --device cuda --batch 1,3 --runs 3 --json
holds 'd["device"] == "cuda" and all(r["median_ms"] > 0 for r in d["runs"])'
ok "check compares the GPU with the CPU too; info and bench run"

refuses 2 'tiles' --weights "$vit" --device cuda --kernel tiles --mask 'axial_2d()' "$image"
refuses 1 'cuda:999' --weights "$vit" --device cuda:999 "$image"
refuses 1 'memory' bench --attention 64x65536x64 --device cuda --kernel reference
ok "what the GPU has not got is refused by name"
