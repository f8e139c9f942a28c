#!/bin/sh
# Runs the GPU's kernels under compute-sanitizer: memcheck (out of bounds), racecheck (shared memory),
# initcheck (reads of what nobody wrote), on whole models in every type, on every attention kernel under
# masks of several shapes (vitrun check), and on the tests of the kernels.
#   tests/sanitize_gpu.sh [BUILD_FOLDER [SECONDS_A_PROGRAM [PROGRAMS_AT_ONCE [PATTERN]]]]
# With a pattern (grep's), only commands that it matches. Prints a line a run and fails where one
# reports an error; a run that takes too long is said to. Heads of 64, which have kernels of their own,
# come from a random model (numpy).
set -u
B=${1:-build} seconds=${2:-300} at_once=${3:-1} pattern=${4:-.}
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ -x "$sanitizer" ] || { echo "compute-sanitizer is not installed"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export VITRUN_TEST_GPU=1 sanitizer seconds work
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" XDG_CACHE_HOME="$work"

cat >"$work/one.sh" <<'ONE'
# number tool command ...
log=$work/$1.log tool=$2
shift 2
if [ "$tool" = racecheck ]; then export VITRUN_TEST_PRODUCTS=6e6; fi # else hours
timeout "$seconds" "$sanitizer" --tool "$tool" --error-exitcode 99 "$@" >"$log" 2>&1
status=$?
if [ "$status" -eq 124 ]; then
    echo "slow  $tool $*"
elif [ "$status" -eq 0 ] && grep -q 'ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards' "$log"; then
    echo "ok    $tool $*"
else
    : >"$work/failed"
    echo "FAIL  $tool $* (status $status)"
    grep -v '^\[' "$log" | head -30
fi
ONE

models=tests/golden/models image=tests/golden/models/image.png
python3 weights_tools/random_vit.py vit_tiny_patch16_224 -o "$work/tiny.safetensors" >"$work/numpy.log" 2>&1 ||
    { echo "no random model: $(tail -1 "$work/numpy.log")"; exit 1; }

runs() # a line a run, for xargs
{
    for tool in memcheck racecheck initcheck; do
        for program in "$B"/tests/kernels/test_cuda_*; do
            case $program in *.* | *attention) ;; *) echo "$tool '$program'" ;; esac
        done
        for dtype in fp16 bf16 tf32 fp32; do
            on="--device cuda --dtype $dtype"
            echo "$tool '$B/vitrun' --weights $models/vit.safetensors $on --mask '0: local_2d(distance=3)' $image"
            echo "$tool '$B/vitrun' check --weights samples/fashion_vit.safetensors $on" \
                "--mask '0-1: axial_2d() | local_2d(distance=2)' $image"
            for mask in 'local_2d(distance=3)' 'axial_2d() | random(sparsity=0.98)'; do
                for px in 224 512; do
                    echo "$tool '$B/vitrun' check --weights '$work/tiny.safetensors' $on --img-size $px" \
                        "--mask '0: $mask' $image"
                done
            done
        done
    done
}
# Once without the tool: what is timed to choose between products is kept, and not timed under it.
runs | grep -e "$pattern" | cut -d' ' -f2- | sort -u | tr '\n' '\0' |
    xargs -0 -P "$at_once" -I{} sh -c '{} >/dev/null 2>&1'
runs | grep -e "$pattern" | awk '{print NR, $0}' | tr '\n' '\0' | xargs -0 -P "$at_once" -I{} sh -c 'sh "$work/one.sh" {}'
[ ! -e "$work/failed" ]
