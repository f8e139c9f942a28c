#!/bin/sh
# Standard streams and signals: full disk, closed pipe, closed output, interruption.
. tests/cli/lib.sh

if [ -c /dev/full ]; then
    for arguments in "--help" "info --list" "--weights $vit $image" "--weights $vit --json $image"; do
        # shellcheck disable=SC2086
        "$vitrun" $arguments >/dev/full 2>"$tmp/err"
        status=$?
        [ "$status" -eq 1 ] || fail "expected status 1 on a full disk: vitrun $arguments"
        grep -q 'standard output' "$tmp/err" || fail "no word of standard output"
        [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "expected one line on standard error"
    done
    ok "a full disk is an error"
else
    echo "SKIP a full disk: there is no /dev/full"
fi

"$vitrun" --help >&- 2>"$tmp/err"
status=$?
[ "$status" -eq 1 ] || fail "expected status 1 when standard output is closed"
ok "a closed standard output is an error"

# The reader is gone before anything is written: it ends once its side of the FIFO is open.
mkfifo "$tmp/pipe"
true <"$tmp/pipe" &
{
    sleep 0.2
    "$vitrun" --weights "$vit" "$image" 2>"$tmp/err"
    echo $? >"$tmp/status"
} >"$tmp/pipe"
status=$(cat "$tmp/status")
[ "$status" -eq 141 ] || fail "expected status 141 when the pipe is closed"
[ ! -s "$tmp/err" ] || fail "a closed pipe is not worth a word"
ok "a closed pipe ends the program quietly"

# It waits for an image on standard input when the signal comes.
mkfifo "$tmp/input"
for case in INT:130 TERM:143; do
    exec 9<>"$tmp/input"
    timeout --preserve-status -s ${case%:*} 1 "$vitrun" --weights "$vit" \
        --features "$tmp/features.npy" "$image" - <"$tmp/input" >"$tmp/out" 2>"$tmp/err" 9>&-
    status=$?
    exec 9>&-
    [ "$status" -eq ${case#*:} ] || fail "expected status ${case#*:} after SIG${case%:*}"
    [ ! -s "$tmp/out" ] || fail "half of the results were written"
    [ -z "$(ls "$tmp" | grep features)" ] || fail "half a file was left behind"
done
ok "interrupted and terminated programs say so and leave nothing behind"

# What is shown of work that takes longer than two seconds: on a terminal only, with what time is left.
eval="'$vitrun' eval --weights samples/fashion_vit.safetensors --device cpu --data samples/images --limit 40 --threads 1"
if script -qec true /dev/null >/dev/null 2>&1; then
    script -qec "$eval" "$tmp/terminal" >/dev/null </dev/null || fail "eval on a terminal"
    tr '\r' '\n' <"$tmp/terminal" | grep -o ' of 40 images, [0-9]*:[0-9]* left' >"$tmp/left"
    [ -s "$tmp/left" ] && ! grep -qE ' [0-9]{3,}:' "$tmp/left" || fail "time left: $(head -n 1 "$tmp/left")"
    sh -c "$eval" >"$tmp/out" 2>"$tmp/err" || fail "eval"
    [ ! -s "$tmp/err" ] || fail "progress where there is no terminal"
    ok "progress and the time left, on a terminal only"
else
    echo "SKIPPED: no script(1) to make a terminal"
fi

"$vitrun" --weights "$vit" --topk 1 - <"$image" >"$tmp/out" 2>"$tmp/err"
status=$?
[ "$status" -eq 0 ] && [ "$(head -n 1 "$tmp/out")" = - ] || fail "no result from standard input"
ok "an image from standard input"

if locale -a 2>/dev/null | grep -qi '^de_DE.utf'; then
    LC_ALL=de_DE.UTF-8 run --weights "$vit" --json --density-threshold 0.5 "$image"
    [ "$status" -eq 0 ] || fail "fails in another locale"
    holds 'd["results"][0]["top"][0]["probability"] <= 1'
    ok "numbers are the same in another locale"
fi
