#!/bin/sh
# Runs the given test programs and scripts; prints a line a program, the whole output of those
# that fail, and the sum. B is the build folder.
set -u
passed=0 failed=0 broken=
# Threads that wait asleep: tests share the machine.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
# Under AddressSanitizer, too, an allocation that cannot be made returns NULL: tests try it.
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1}"
# What was measured on this machine before changes no choice; what tests measure is kept for the next.
case ${B:-build} in /*) XDG_CACHE_HOME=$B/cache ;; *) XDG_CACHE_HOME=$PWD/${B:-build}/cache ;; esac
export XDG_CACHE_HOME
mkdir -p "$XDG_CACHE_HOME"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for t in "$@"; do
    [ -e "$t" ] || continue
    # The tests of the CPU find no GPU, wherever they run.
    case $t in
    *test_cuda*) hide=VITRUN_TEST= ;;
    *) hide=CUDA_VISIBLE_DEVICES= ;;
    esac
    if env B="${B:-build}" "$hide" "$t" >"$out" 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %s  %s\n' "$t" "$(grep -cE '^\[ +OK +\]|^ok ' "$out") tests"
        grep -E '^\[ +SKIPPED +\]|^SKIP' "$out" | sort -u | sed 's/^/      /'
    else
        failed=$((failed + 1)) broken="$broken $t"
        cat "$out"
        printf 'FAIL  %s\n' "$t"
    fi
done
[ -z "$broken" ] || printf 'failed:%s\n' "$broken"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
