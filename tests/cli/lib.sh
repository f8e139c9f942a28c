# What the tests of the command line share. Source it: . tests/cli/lib.sh
#
#   B          build folder (build)
#   $vitrun    the program          $models $vit $image   small random models and a picture
#   $tmp       a folder of the test's own, removed at the end
# A test ends in `ok NAME`; the first thing that does not hold ends the program with status 1.
set -u
B=${B:-build}
case $B in /*) ;; *) B=$PWD/$B ;; esac
vitrun=$B/vitrun
models=${MODELS:-$PWD/tests/golden/models}
vit=$models/vit.safetensors       # 8 x 8 patches and a class token, 2 layers, 2 heads, 10 classes
dinov2=$models/dinov2.safetensors # no head: 24 features
image=$models/image.png
patience=60                       # seconds until a run counts as hanging
[ -z "${VITRUN_TEST_SLOW-}" ] || patience=900
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
[ -x "$vitrun" ] || { echo "$vitrun is not built"; exit 1; }

ok()
{
    echo "ok $1"
}

fail()
{
    echo "not ok: $*"
    echo "--- status ${status:-}, standard output:"
    head -c 2000 "$tmp/out" 2>/dev/null
    echo "--- standard error:"
    head -c 2000 "$tmp/err" 2>/dev/null
    exit 1
}

# Runs vitrun; its output is in $tmp/out and $tmp/err, its exit status in $status.
run()
{
    timeout "$patience" "$vitrun" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
}

# succeeds ARGUMENTS...
succeeds()
{
    run "$@"
    [ "$status" -eq 0 ] || fail "expected status 0: vitrun $*"
}

# refuses STATUS TEXT ARGUMENTS...: exits so, says TEXT in the one line on standard error, and
# writes nothing to standard output.
refuses()
{
    want=$1 text=$2
    shift 2
    run "$@"
    [ "$status" -eq "$want" ] || fail "expected status $want: vitrun $*"
    [ ! -s "$tmp/out" ] || fail "something on standard output: vitrun $*"
    [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "expected one line on standard error: vitrun $*"
    grep -q '^vitrun: .' "$tmp/err" || fail "the line does not begin with vitrun: vitrun $*"
    grep -qF -e "$text" "$tmp/err" || fail "expected \"$text\": vitrun $*"
}

# says TEXT: what the last run wrote to standard output.
says()
{
    grep -qF -e "$1" "$tmp/out" || fail "expected \"$1\" on standard output"
}

# holds EXPRESSION: of the last run's JSON document d, in Python. NaN and Infinity are no JSON.
holds()
{
    python3 - "$tmp/out" "$1" <<'PY' || fail "does not hold: $1"
import json, math, sys

def no(constant):
    raise ValueError(constant)

with open(sys.argv[1], encoding='utf-8') as f:
    d = json.load(f, parse_constant=no)
sys.exit(0 if eval('(' + sys.argv[2] + ')', {'d': d, 'math': math}) else 1)
PY
}
