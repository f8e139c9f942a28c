#!/bin/sh
# vitrun run --attention: arrays, overlays, rollout; the same from every kernel; wrong use.
. tests/cli/lib.sh

succeeds run --weights "$vit" --attention "$tmp/dense" --rollout "$image"
folder=$tmp/dense/0000-image
[ "$(find "$folder" -name 'layer*_head*.png' | wc -l)" -eq 4 ] || fail "a picture a layer and head"
for kernel in reference dense tiles rows; do
    succeeds run --weights "$vit" --mask '1: axial_2d()' --kernel $kernel --attention "$tmp/$kernel" "$image"
done
succeeds run --weights "$vit" --attention "$tmp/full" --query 20 --rollout "$image"
python3 - "$tmp" <<'PY' || fail "the arrays"
import ast, struct, sys
def load(path):
    raw = open(path, 'rb').read()
    size = 10 + int.from_bytes(raw[8:10], 'little')
    shape = ast.literal_eval(raw[10:size].decode())['shape']
    return shape, struct.unpack(f'<{(len(raw) - size) // 4}f', raw[size:])
shape, dense = load(f'{sys.argv[1]}/dense/0000-image/attention.npy')
assert shape == (2, 2, 65)
rows = [dense[i * 65:(i + 1) * 65] for i in range(4)]
assert all(abs(sum(r) - 1) < 1e-5 and min(r) >= 0 for r in rows)
base = load(f'{sys.argv[1]}/reference/0000-image/attention.npy')[1]
for kernel in 'dense', 'tiles', 'rows':
    other = load(f'{sys.argv[1]}/{kernel}/0000-image/attention.npy')[1]
    assert max(abs(a - b) for a, b in zip(base, other)) < 1e-5
assert base[:130] == dense[:130] # layer 0 is not masked
shape, rollout = load(f'{sys.argv[1]}/dense/0000-image/rollout.npy')
assert shape == (65,) and abs(sum(rollout) - 1) < 1e-5 and rollout[0] >= 0.25
other = load(f'{sys.argv[1]}/full/0000-image/rollout.npy')[1]
assert other[20] >= 0.25 and other != rollout
PY
succeeds run --weights "$vit" "$folder/layer01_head00.png" # which vitrun itself can read
ok "attention: arrays and overlays, the same from every kernel"

refuses 2 '--query: bad value' run --weights "$vit" --attention "$tmp/x" --query 65 "$image"
refuses 2 '--rollout needs --attention' run --weights "$vit" --rollout "$image"
refuses 2 'must be a file' run --weights "$vit" --attention "$tmp/x" -
refuses 1 'image.png' run --weights "$vit" --attention "$image/x" "$image"
ok "attention: wrong use is refused"

succeeds run --weights "$models/relpos_cls.safetensors" --attention "$tmp/bias" "$image"
succeeds run --weights "$models/dwee.safetensors" --attention "$tmp/difference" "$image"
ok "attention: relative biases count, and differential attention has weights"
