#!/bin/sh
# The scripts of samples/ run, here on less than they are made for.
. tests/cli/lib.sh

PATH=$tmp/bin:$PATH # without PyTorch, wherever the test runs
mkdir "$tmp/bin"
printf '#!/bin/sh\nexit 1\n' >"$tmp/bin/python3"
chmod +x "$tmp/bin/python3"
timeout "$patience" samples/memory/run.sh "$vitrun" --device cpu --attention 2x64x16 --grid 8x8 --runs 1 >"$tmp/out" 2>"$tmp/err"
status=$?
[ "$status" -eq 0 ] || fail "samples/memory/run.sh"
says 'mask random(sparsity=0.1), density 89.99 %'
says 'mask random(sparsity=0.9), density 9.99 %'
[ "$(grep -c '^auto takes ' "$tmp/out")" -eq 2 ] && [ "$(grep -c '^  reference' "$tmp/out")" -eq 2 ] ||
    fail "every kernel at both densities"
grep -q 'no PyTorch with a GPU' "$tmp/err" || fail "what was left out is not said"
ok "the memory example runs"
