#!/bin/sh
# Fuzzes each target for some seconds: tests/fuzz/run.sh FOLDER SECONDS TARGET...
# FOLDER holds the programs; what is learnt is kept in FOLDER/corpus, an input that ends a target in
# FOLDER/findings (run it again with FOLDER/TARGET FILE). A line a target; status 1 with findings.
set -eu
cd "$(dirname "$0")/../.."
case $1 in /*) folder=$1 ;; *) folder=$PWD/$1 ;; esac
seconds=$2
shift 2
MODELS=$PWD/tests/golden/models
# No stacks of allocations: a fifth of the time. An input run again by hand shows them.
ASAN_OPTIONS=quarantine_size_mb=16:malloc_context_size=0:allocator_may_return_null=1
export MODELS ASAN_OPTIONS OMP_NUM_THREADS=1
python3 tests/fuzz/make_corpus.py "$folder/seeds"
mkdir -p "$folder/findings"
bad=0
for target in "$@"; do
    mkdir -p "$folder/corpus/$target"
    log=$folder/$target.log
    dict=$folder/seeds/$target.dict
    stored=$PWD/tests/fuzz/corpus/$target
    case $target in images_stb) stored=$PWD/tests/fuzz/corpus/images ;; esac
    [ -d "$stored" ] || stored=
    # shellcheck disable=SC2086
    "$folder/$target" -max_total_time="$seconds" -timeout=20 -malloc_limit_mb=256 -rss_limit_mb=1024 \
        -max_len=4096 -print_final_stats=1 -artifact_prefix="$folder/findings/$target-" \
        $([ ! -e "$dict" ] || echo "-dict=$dict") \
        "$folder/corpus/$target" "$folder/seeds/$target" $stored >"$log" 2>&1 && status=0 || status=$?
    awk -v t="$target" -v status="$status" -v log_="$log" '
        /^stat::number_of_executed_units/ { n = $2 }
        /^stat::average_exec_per_sec/ { rate = $2 }
        END { printf "%-12s %10d executions %8d/s  %s\n", t, n, rate, status ? "FINDING: see " log_ : "no finding" }' "$log"
    [ "$status" -eq 0 ] || bad=1
done
exit $bad
