#!/bin/sh
# Bad inputs and a failing machine: one line, nothing on standard output, the right exit status.
. tests/cli/lib.sh

echo 'not an image' >"$tmp/text.png"
: >"$tmp/empty"
head -c 5000 "$vit" >"$tmp/cut.safetensors"
head -c 5000 "$image" >"$tmp/cut.png"
echo '{"version": 1, "layrs": {}}' >"$tmp/typo.json"
echo '{"version": 1, "layers": {"0": "axial_2d("}}' >"$tmp/expression.json"
echo '{' >"$tmp/cut.json"
mkdir "$tmp/folder"

refuses 3 "$tmp/absent.safetensors" --weights "$tmp/absent.safetensors" "$image"
refuses 3 "$tmp/cut.safetensors" --weights "$tmp/cut.safetensors" "$image"
refuses 3 "$tmp/empty" info --weights "$tmp/empty"
refuses 3 "$tmp/text.png" --weights "$tmp/text.png" "$image"
refuses 3 "$tmp/folder" --weights "$tmp/folder" "$image"
refuses 3 "$tmp/absent.json" --weights "$vit" --config "$tmp/absent.json" "$image"
ok "weights and configuration"

for command in run info check mask bench; do
    case $command in run | check) picture=$image ;; *) picture= ;; esac
    # shellcheck disable=SC2086
    refuses 3 "$tmp/absent.json" $command --weights "$vit" --mask-config "$tmp/absent.json" $picture
done
refuses 3 'layers' --weights "$vit" --mask-config "$tmp/typo.json" "$image"
refuses 3 "$tmp/expression.json" --weights "$vit" --mask-config "$tmp/expression.json" "$image"
refuses 3 "$tmp/cut.json" mask --grid 8x8 --mask-config "$tmp/cut.json"
ok "mask configurations"

refuses 3 "$tmp/absent" --weights "$vit" --labels "$tmp/absent" "$image"
printf 'one\ntwo\n' >"$tmp/labels"
refuses 3 "$tmp/labels" --weights "$vit" --labels "$tmp/labels" "$image"
ok "labels"

for bad in "$tmp/absent.png" "$tmp/text.png" "$tmp/empty" "$tmp/cut.png" "$tmp/folder"; do
    refuses 3 "$bad" --weights "$vit" "$bad"
    refuses 3 "$bad" --weights "$vit" --json "$bad"
done
refuses 3 "$tmp/text.png" check --weights "$vit" "$tmp/text.png"
refuses 3 "$tmp/text.png" bench --weights "$vit" "$tmp/text.png"
refuses 3 'b.png' --weights "$vit" "$tmp/a
b.png" # still one line
python3 - "$tmp/narrow.png" <<'PY'
import struct, sys, zlib

def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

open(sys.argv[1], 'wb').write(
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 3000, 1, 8, 0, 0, 0, 0)) +
    chunk(b'IDAT', zlib.compress(bytes(3001))) + chunk(b'IEND', b''))
PY
for command in run check bench; do # what preprocessing refuses is named as well
    refuses 3 "$tmp/narrow.png: picture of 3000 x 1 pixels" $command --weights "$vit" \
        --set crop_mode=border "$tmp/narrow.png"
done
folder=$(printf '%0100d' 0)
long=/$folder/$folder/$folder/$folder/$folder/$folder
refuses 3 'No such file' --weights "$vit" "$long/a.png"
refuses 3 'No such file' --weights "$long/a.safetensors" "$image"
refuses 3 'No such file' --weights "$vit" --mask-config "$long/a.json" "$image"
refuses 3 'No such file' --weights "$vit" --labels "$long/a.txt" "$image"
mkfifo "$tmp/fifo.png"
refuses 3 'fifo.png: not a regular file; use - for a stream' --weights "$vit" "$tmp/fifo.png"
ok "images"

run --weights "$vit" --topk 1 "$tmp/absent.png" "$image" "$tmp/text.png" "$image"
[ "$status" -eq 3 ] || fail "expected status 3"
[ "$(grep -c '%' "$tmp/out")" -eq 2 ] || fail "the good images are not all there"
[ "$(wc -l <"$tmp/err")" -eq 2 ] || fail "expected a line for each bad image and nothing else"
run --weights "$vit" --json --batch 2 "$image" "$tmp/text.png" "$image"
[ "$status" -eq 3 ] || fail "expected status 3"
holds 'len(d["results"]) == 3 and d["results"][1].keys() == {"image", "error"}'
holds 'd["results"][0]["top"] == d["results"][2]["top"]'
ok "a bad image among others is reported and the rest still run"

refuses 1 'memory' --weights "$vit" --max-memory 1K "$image"
python3 - "$tmp/large.png" <<'PY'
import struct, sys, zlib

def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

open(sys.argv[1], 'wb').write( # 108 MB as RGB
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 6000, 6000, 1, 0, 0, 0, 0)) +
    chunk(b'IDAT', zlib.compress(bytes(6000 * 751))) + chunk(b'IEND', b''))
PY
refuses 1 'large.png: picture takes more memory than is left' --weights "$vit" --max-memory 64M "$tmp/large.png"
succeeds --weights "$vit" --max-memory 1G "$tmp/large.png" "$image"
refuses 1 'memory' bench --weights "$vit" --max-memory 50K --batch 4000
refuses 1 'cuda' --weights "$vit" --device cuda:999 "$image"
refuses 1 'cuda' bench --attention 2x65x16 --device cuda:999
refuses 1 "$tmp/nowhere" --weights "$vit" --features "$tmp/nowhere/f.npy" "$image"
refuses 1 "$tmp/nowhere" mask --grid 4x4 --mask 'axial_2d()' --save "$tmp/nowhere/m.safetensors"
refuses 1 "$tmp/empty" mask --grid 4x4 --mask 'axial_2d()' --png "$tmp/empty"
if [ -e /proc/self/mem ]; then # a file that opens, and then cannot be read
    refuses 1 '/proc/self/mem' --weights "$vit" --batch 1 "$image" /proc/self/mem
fi
ok "the machine: memory, device, disk; no results of the batches before"
