#!/bin/sh
# Runs the GPU's kernels under compute-sanitizer: memcheck (out of bounds), racecheck (shared memory),
# initcheck (reads of what nobody wrote), on whole models in every type and on the tests of the kernels.
#   tests/sanitize_gpu.sh [BUILD_FOLDER [SECONDS_A_PROGRAM]]
# Prints a line a run and fails where one reports an error; a run that takes too long is said to.
set -u
B=${1:-build} seconds=${2:-300} failed=0
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ -x "$sanitizer" ] || { echo "compute-sanitizer is not installed"; exit 1; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT
export VITRUN_TEST_GPU=1

check() # tool, command ...
{
    tool=$1
    shift
    timeout "$seconds" "$sanitizer" --tool "$tool" --error-exitcode 99 "$@" >"$out" 2>&1
    status=$?
    if [ "$status" -eq 124 ]; then
        echo "slow  $tool $*"
    elif [ "$status" -eq 0 ] && grep -q 'ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards' "$out"; then
        echo "ok    $tool $*"
    else
        failed=1
        echo "FAIL  $tool $* (status $status)"
        grep -v '^\[' "$out" | head -30
    fi
}

models=tests/golden/models
for tool in memcheck racecheck initcheck; do
    for dtype in fp16 bf16 tf32 fp32; do
        check $tool "$B/vitrun" --weights $models/vit.safetensors --device cuda --dtype $dtype \
            --mask '0: local_2d(distance=3)' $models/image.png
        check $tool "$B/vitrun" check --weights $models/vit.safetensors --device cuda --dtype $dtype \
            --mask '0: local_2d(distance=3)' $models/image.png
    done
    for program in "$B"/tests/kernels/test_cuda_*; do
        case $program in *.*) ;; *) check $tool "$program" ;; esac
    done
done
exit $failed
