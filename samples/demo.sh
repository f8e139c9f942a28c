#!/bin/sh
# Runs vitrun on a few of the sample pictures, dense and under masks, and looks at masks.
#   samples/demo.sh [VITRUN]     VITRUN: the program (default: build/vitrun)
set -eu
vitrun=${1:-$(dirname "$0")/../build/vitrun}
case $vitrun in
/*) ;;
*) vitrun=$PWD/$vitrun ;;
esac
[ -x "$vitrun" ] || { echo "demo.sh: $vitrun: no such program (make builds it)" >&2; exit 2; }
cd "$(dirname "$0")/.."
drawings=$(mktemp -d "${TMPDIR:-/tmp}/vitrun-demo.XXXXXX")
out=$drawings/out
trap 'rm -f "$out"' EXIT

say() {
    printf '\n# %s\n' "$*"
}

show() { # what sed prints of the output, the arguments
    part=$1 line='$ vitrun'
    shift
    for argument; do
        case $argument in
        *[!A-Za-z0-9./_=-]*) line="$line '$argument'" ;;
        *) line="$line $argument" ;;
        esac
    done
    printf '%s\n' "$line"
    "$vitrun" "$@" >"$out"
    sed -n "$part" "$out"
}

set -- samples/images/Ankle-boot/0000.png samples/images/Bag/0018.png samples/images/Dress/0013.png
weights=samples/fashion_vit.safetensors
mask='axial_2d() | local_2d(distance=5)'

say 'Three pictures, every layer dense'
show p --weights $weights --topk 2 "$@"
say 'The same under a mask: own row, own column, neighbours'
show p --weights $weights --topk 2 --mask-config samples/masks/axial_local.json "$@"
say 'Two masks in each layer: which kernel serves which heads, and why (here the first layer)'
show '/^attention/,/2-3/p' info --weights $weights --mask-config samples/masks/heads.json
say 'A mask by itself: counts, and drawings'
show p mask --grid 28x28 --prefix 1 --mask "$mask" --png "$drawings"
ls "$drawings"/*.png
