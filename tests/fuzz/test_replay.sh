#!/bin/sh
# What fuzzing begins with and what it has found (tests/fuzz/corpus) runs through every target: here
# without libFuzzer, so with any compiler, in every configuration of the build.
set -u
B=${B:-build}
MODELS=$PWD/tests/golden/models
export MODELS OMP_NUM_THREADS=1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 tests/fuzz/make_corpus.py "$tmp" || exit 1
for target in safetensors config json masks npy images images_stb cli; do
    stored=tests/fuzz/corpus/${target%_stb}
    set -- "$tmp/$target"
    [ ! -d "$stored" ] || set -- "$@" "$stored"
    if ! timeout 600 "$B/fuzz/$target" "$@" >"$tmp/out" 2>&1; then
        tail -n 30 "$tmp/out"
        echo "not ok: $target"
        exit 1
    fi
    echo "ok $target: $(sed -n 's/^ok *//p' "$tmp/out")"
done
