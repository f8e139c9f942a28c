#!/bin/sh
# Error texts that no other test brings about, with exit status and place.
. tests/cli/lib.sh

# spec TEXT, rows TEXT: a sweep's specification, a folder of rows
spec() { echo "{\"version\": 1, \"patterns\": {\"a\": \"axial_2d()\"}, $1}" >"$tmp/spec.json"; }
rows() { rm -rf "$tmp/rows" && mkdir "$tmp/rows" && printf '%b' "$1" >"$tmp/rows/rows.jsonl"; }
mkdir -p "$tmp/data/0" "$tmp/data/1"

refuses 2 'mask needs either --weights or --grid, not both' mask --weights "$vit" --grid 8x8 --mask 'dense'
refuses 2 'mask needs --weights PATH or --grid HxW' mask --mask 'dense'
refuses 2 '--mask is missing (vitrun search --help)' search --weights "$vit" --data "$tmp/data" --max-lost 1
refuses 2 '--data is missing (vitrun search --help)' search --weights "$vit" --mask 'axial_2d()' --max-lost 1
refuses 2 'kernel "bogus" is unknown (expected reference, dense' --weights "$vit" --kernel bogus "$image"
refuses 2 'norm_eps: expected' --weights "$vit" --set norm_eps=true "$image"
refuses 2 'init_values: expected a number or null' --weights "$vit" --set init_values=soft "$image"
refuses 2 'fc_norm: expected true, false or null' --weights "$vit" --set fc_norm=3 "$image"
refuses 3 "$tmp/data: no images in it" eval --weights "$vit" --data "$tmp/data"
cp "$image" "$tmp/data/0/a.png"
spec '"img_sizes": [true]'
refuses 3 'img_sizes: expected image sizes such as 224 or "384x256", found true' \
    sweep --weights "$vit" --data "$tmp/data" --spec "$tmp/spec.json" --out "$tmp/out"
ok "options and specifications"

mkdir "$tmp/nothing"
refuses 3 'no rows in it (expected rows*.jsonl)' sweep --merge --out "$tmp/nothing"
rows 'nonsense\n'
refuses 3 'rows.jsonl:1: no row of a sweep (' sweep --merge --out "$tmp/rows"
rows '{"a": 1}\n'
refuses 3 'rows.jsonl:1: "common" is missing (is this a file of rows?)' sweep --merge --out "$tmp/rows"
rows '{"common": {}}\n{"a": 1}\n'
refuses 3 'rows.jsonl:2: a row without "options"' sweep --merge --out "$tmp/rows"
spec '"runs": 1'
mkdir "$tmp/busy"
exec 9>"$tmp/busy/rows.jsonl" # locked as by another run
flock 9
refuses 2 'rows.jsonl: another process is writing it' \
    sweep --weights "$vit" --data "$tmp/data" --spec "$tmp/spec.json" --out "$tmp/busy"
exec 9>&-
ok "rows"

printf '\223NUMPY\001\000' >"$tmp/short.npy"
refuses 3 '.npy file is cut short' mask --grid 8x8 --mask "file(path=\"$tmp/short.npy\")"
refuses 3 'is no regular file (expected a file or a folder)' info --weights /dev/null
echo '<!DOCTYPE html><html></html>' >"$tmp/page.png"
refuses 3 'page.png: this is a web page (HTML), not a picture' --weights "$vit" "$tmp/page.png"
ok "files"
