#!/bin/sh
# Runs the given test programs and scripts; prints a line a program, the whole output of those
# that fail, and the sum. B is the build folder.
set -u
passed=0 failed=0 broken=
# Threads that wait asleep: tests share the machine.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
# Under the tools that watch memory and threads, what they report counts, whatever becomes of the
# program's status. There, too, an allocation that cannot be made returns NULL: tests try it.
case ${B:-build} in */sanitize | */tsan | */msan | */valgrind) export VITRUN_TEST_SLOW=1 ;; esac
reports=$(mktemp -d)
to="allocator_may_return_null=1:log_path=$reports/report"
export ASAN_OPTIONS="$to:${ASAN_OPTIONS-}" MSAN_OPTIONS="$to:${MSAN_OPTIONS-}"
export TSAN_OPTIONS="$to:ignore_noninstrumented_modules=1:${TSAN_OPTIONS-}"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/report" VALGRIND_LOG="$reports/report.%p"
# What was measured on this machine before changes no choice; what tests measure is kept for the next.
case ${B:-build} in /*) XDG_CACHE_HOME=$B/cache ;; *) XDG_CACHE_HOME=$PWD/${B:-build}/cache ;; esac
export XDG_CACHE_HOME
mkdir -p "$XDG_CACHE_HOME"
out=$(mktemp)
trap 'rm -rf "$out" "$reports"' EXIT
for t in "$@"; do
    [ -e "$t" ] || continue
    # The tests of the CPU find no GPU, wherever they run.
    case $t in
    *test_cuda*) hide=VITRUN_TEST= ;;
    *) hide=CUDA_VISIBLE_DEVICES= ;;
    esac
    env B="${B:-build}" "$hide" "$t" >"$out" 2>&1
    status=$?
    find "$reports" -type f -size +0 -exec cat {} + >>"$out"
    if [ "$status" -eq 0 ] && [ -z "$(find "$reports" -type f -size +0 | head -n 1)" ]; then
        passed=$((passed + 1))
        printf 'ok    %s  %s\n' "$t" "$(grep -cE '^\[ +OK +\]|^ok ' "$out") tests"
        grep -E '^\[ +SKIPPED +\]|^SKIP' "$out" | sort -u | sed 's/^/      /'
    else
        failed=$((failed + 1)) broken="$broken $t"
        cat "$out"
        printf 'FAIL  %s\n' "$t"
    fi
    rm -f "$reports"/*
done
[ -z "$broken" ] || printf 'failed:%s\n' "$broken"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
