#!/bin/sh
# Measures every mask configuration in samples/masks and prints the table of samples/README.md.
#   samples/measure.sh VITRUN DIR     DIR: labelled pictures, a folder a class
set -eu
[ $# -eq 2 ] || { echo "usage: measure.sh VITRUN DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)

measure() { # name, arguments of eval
    name=$1
    shift
    result=$("$vitrun" eval --json --weights "$here/fashion_vit.safetensors" --data "$data" "$@" |
        tr -d '\n')
    field() {
        printf '%s' "$result" | sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"
    }
    printf '| %s | %s | %s | %s | %s |\n' "$name" "$(field images)" "$(field top1)" \
        "$(field agreement_top1)" "$(field images_per_s)"
}

vitrun=$1 data=$2
echo '| masks | images | top-1 | same class as dense | images/s |'
echo '| --- | --- | --- | --- | --- |'
measure dense
for config in "$here"/masks/*.json; do
    measure "$(basename "$config" .json)" --mask-config "$config"
done
