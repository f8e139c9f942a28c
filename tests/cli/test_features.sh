#!/bin/sh
# vitrun run --features: pooled features, tokens and intermediate layers are timm's, in the shapes of
# forward_head(pre_logits=True), forward_features and forward_intermediates; wrong use.
. tests/cli/lib.sh

# arrays EXPRESSION FILE...: f[i] is {name: (shape, values)} of the i-th file, in Python; golden(NAME) the
# document of a golden model.
arrays()
{
    expression=$1
    shift
    python3 - "$models" "$expression" "$@" <<'PY' || fail "does not hold: $expression"
import ast, json, struct, sys

def values(raw):
    return struct.unpack(f'<{len(raw) // 4}f', raw)

def npy(data):
    assert data[:8] == b'\x93NUMPY\x01\x00'
    size = 10 + int.from_bytes(data[8:10], 'little')
    header = ast.literal_eval(data[10:size].decode())
    assert header['descr'] == '<f4' and not header['fortran_order'] and size % 64 == 0
    return {None: (header['shape'], values(data[size:]))}

def safetensors(data):
    size = 8 + int.from_bytes(data[:8], 'little')
    return {name: (tuple(t['shape']), values(data[size + t['data_offsets'][0]:size + t['data_offsets'][1]]))
            for name, t in json.loads(data[8:size]).items() if name != '__metadata__'}

def load(path):
    data = open(path, 'rb').read()
    return npy(data) if path.endswith('.npy') else safetensors(data)

def golden(name, masks=None):
    cases = json.load(open(f'{sys.argv[1]}/{name}.json'))['cases']
    return next(c for c in cases if c['masks'] == masks and not c['img_size'])

def near(a, b):
    return len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b)) <= 1e-3 * max(map(abs, b))

f = [load(path) for path in sys.argv[3:]]
names = dict(f=f, golden=golden, near=near)
sys.exit(0 if eval('(' + sys.argv[2] + ')', names) else 1)
PY
}
features()
{
    model=$1 file=$2
    shift 2
    succeeds --weights "$models/$model.safetensors" --features "$tmp/$file" "$@" "$image"
}

# Every way to pool, with and without fc_norm, with and without a head.
for model in vit deit_distilled siglip gap so150m pool_max pool_avgmax pool_prefix dinov2_reg4 beit eva02_base aimv2 \
    pe_core test_vit3 sapiens2; do
    features $model pooled.npy
    arrays "near(f[0][None][1], golden('$model')['pooled'])" "$tmp/pooled.npy"
done
features vit tokens.npy --tokens
arrays 'f[0][None][0] == (1, 65, 32) and near(f[0][None][1], sum(golden("vit")["tokens"], []))' "$tmp/tokens.npy"
features dinov2_reg4 tokens.safetensors --tokens
arrays 'list(f[0]) == ["tokens"] and f[0]["tokens"][0] == (1, 54, 24)
    and near(f[0]["tokens"][1], sum(golden("dinov2_reg4")["tokens"], []))' "$tmp/tokens.safetensors"
ok "features are those of timm's forward_head(pre_logits=True), tokens those of forward_features"

# A class token, a class and four register tokens, no prefix token.
for model in vit:65:32:1 dinov2_reg4:54:24:5 siglip:49:24:0; do
    IFS=: read -r name tokens width prefix <<END
$model
END
    patches=$((tokens - prefix))
    for masks in '' masks/axial.json; do
        set -- --intermediate all
        [ -z "$masks" ] || set -- "$@" --mask-config "$models/$masks"
        want="golden('$name', '$masks' or None)"
        features $name plain.npy "$@"
        arrays "f[0][None][0] == (2, 1, $patches, $width) and all(
            near(f[0][None][1][(l + 1) * $patches * $width - $width:(l + 1) * $patches * $width],
                 $want['intermediates'][l][1]) for l in (0, 1))" "$tmp/plain.npy"
        features $name normed.safetensors "$@" --norm --prefix-tokens
        arrays "set(f[0]) == {'layer0', 'layer1'} | ({'layer0.prefix', 'layer1.prefix'} if $prefix else set())
            and all(f[0][f'layer{l}'][0] == (1, $patches, $width)
                and near(f[0][f'layer{l}'][1][-$width:], $want['intermediates_norm'][l][1])
                and ($prefix == 0 or f[0][f'layer{l}.prefix'][0] == (1, $prefix, $width)
                and near(f[0][f'layer{l}.prefix'][1][:$width], $want['intermediates_norm'][l][0])) for l in (0, 1))" \
            "$tmp/normed.safetensors"
    done
done
ok "intermediate layers are timm's, with and without prefix tokens, norm, masks"

features vit maps.npy --intermediate 1 --reshape
features vit rows.npy --intermediate last:1
arrays 'f[0][None][0] == (1, 1, 32, 8, 8) and f[1][None][0] == (1, 1, 64, 32)
    and f[0][None][1] == tuple(f[1][None][1][t * 32 + c] for c in range(32) for t in range(64))' \
    "$tmp/maps.npy" "$tmp/rows.npy"
features vit last.safetensors --intermediate 1 --norm
arrays 'f[0]["layer1"][1] == f[1][None][1][32:]' "$tmp/last.safetensors" "$tmp/tokens.npy" # after the norm: the tokens
features vit maps.safetensors --intermediate 0,1 --reshape --prefix-tokens
arrays '{n: t[0] for n, t in f[0].items()} == {"layer0": (1, 32, 8, 8), "layer0.prefix": (1, 1, 32),
    "layer1": (1, 32, 8, 8), "layer1.prefix": (1, 1, 32)}' "$tmp/maps.safetensors"
ok "maps are the same values, channels first; the last block under the norm is forward_features"

head -c 100 "$image" >"$tmp/broken.png"
features vit one.npy --intermediate all
features vit one.safetensors
run --weights "$vit" --features "$tmp/many.npy" --intermediate all --batch 2 "$image" "$tmp/broken.png" "$image" "$image"
[ "$status" -eq 3 ] || fail "expected status 3"
arrays 'f[0][None][0] == (2, 3, 64, 32) and f[0][None][1] ==
    f[1][None][1][:2048] * 3 + f[1][None][1][2048:] * 3' "$tmp/many.npy" "$tmp/one.npy"
run --weights "$vit" --features "$tmp/many.safetensors" "$tmp/broken.png" "$image" "$image"
[ "$status" -eq 3 ] || fail "expected status 3"
arrays 'f[0]["features"][0] == (2, 32) and f[0]["features"][1] == f[1]["features"][1] * 2' "$tmp/many.safetensors" \
    "$tmp/one.safetensors"
ok "one row for each image that could be used, in order"

succeeds --weights "$vit" --json "$image"
cp "$tmp/out" "$tmp/plain.json"
features vit x.npy --intermediate all --json
python3 - "$tmp" <<'PY' || fail "the plan does not count what is kept"
import json, sys
a, b = (json.load(open(f'{sys.argv[1]}/{n}'))['memory']['activations_bytes'] for n in ('plain.json', 'out'))
assert b - a >= 2 * 65 * 32 * 4
PY
ok "kept layers are in the planned memory"

to="--features $tmp/x.npy"
# shellcheck disable=SC2086
{
    refuses 2 '--intermediate needs --features' --weights "$vit" --intermediate 1 "$image"
    refuses 2 '--reshape needs --intermediate' --weights "$vit" $to --reshape "$image"
    refuses 2 'room for one' --weights "$vit" $to --tokens --intermediate 1 "$image"
    refuses 2 'expected --features FILE.safetensors' --weights "$vit" $to --intermediate 1 --prefix-tokens "$image"
    refuses 2 '--intermediate: layer 2: the model has layers 0 to 1' --weights "$vit" $to --intermediate 2 "$image"
    refuses 2 'last:N with N from 1 to 2' --weights "$vit" $to --intermediate last:3 "$image"
    refuses 2 '--intermediate: expected layers such as' --weights "$vit" $to --intermediate x "$image"
    refuses 2 'named twice' --weights "$vit" $to --intermediate 1,1 "$image"
}
refuses 2 '.npy or .safetensors' --weights "$vit" --features "$tmp/x.txt" "$image"
ok "wrong use is refused"
