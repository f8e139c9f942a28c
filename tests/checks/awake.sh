#!/bin/sh
# Does the checking tool of this build see the faults that it is there for, and nothing where there
# are none? Run by tests/run.sh before everything else; B is the build folder.
set -u
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
unset ASAN_OPTIONS UBSAN_OPTIONS MSAN_OPTIONS
case $B in
*/sanitize) faults='overflow overflow_sum' ;;
*/tsan) faults=race ;;
*/msan) faults=uninitialised ;;
*/valgrind) faults='overflow uninitialised' ;;
*) exit 0 ;;
esac
for fault in $faults; do
    if VALGRIND_LOG=/dev/null "$B/tests/checks/canary" "$fault" >/dev/null 2>&1; then
        echo "not ok: $fault is not seen"
        exit 1
    fi
    echo "ok $fault is seen"
done
