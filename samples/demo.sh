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

show() { # says what is run, then runs it
    printf '\n$ vitrun %s\n' "$*"
    "$vitrun" "$@"
}

weights=samples/fashion_vit.safetensors
boot=samples/images/Ankle-boot/0000.png
bag=samples/images/Bag/0018.png
dress=samples/images/Dress/0013.png

show --weights $weights --topk 3 $boot $bag $dress
show --weights $weights --topk 3 --mask-config samples/masks/axial_local.json $boot $bag $dress
show --weights $weights --topk 3 --mask '0-4: local_2d(distance=3)' $boot $bag $dress
show info --weights $weights --mask-config samples/masks/heads.json
show mask --grid 28x28 --prefix 1 --mask 'axial_2d() | local_2d(distance=5)'
