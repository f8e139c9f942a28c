#!/bin/sh
# vitrun tune: measures, keeps, and from then on times are predicted from what it kept. Small heads
# make it quick. On a busy machine it may refuse to believe its times, and must then keep nothing.
. tests/cli/lib.sh
export XDG_CACHE_HOME="$tmp/cache"

succeeds info --weights "$vit" --device cpu --mask 'axial_2d()' --json
holds 'd["measured_costs"] is False'
[ ! -e "$tmp/cache" ] || fail "looking for constants made a folder"
ok "without tune the constants are built in"

run tune --device cpu --threads 1 --head-dim 16 --json
if [ "$status" -eq 1 ]; then
    grep -q 'times contradict each other.*nothing was kept' "$tmp/err" || fail "status 1 and no reason"
    [ ! -e "$tmp/cache/vitrun" ] || fail "something was kept"
    echo "SKIP what tune measures: this machine is too busy"
else
    [ "$status" -eq 0 ] || fail "tune"
    holds 'd["device"] == "cpu" and d["dtype"] == "fp32" and d["head_dim"] == 16'
    holds '{"dense", "tiles", "rows", "reference"} == {s["kernel"] for s in d["samples"]}'
    holds 'all(s["ms"] > 0 and s["measured_ms"] > 0 and s["built_in_ms"] > 0 for s in d["samples"])'
    holds 'd["measured_miss"]["mean"] <= 0.2'
    holds 'all((c["measured"] > 0) == (c["built_in"] > 0) for c in d["constants"])'
    holds "d['file'].startswith('$tmp/cache/vitrun/')"
    [ -s "$tmp"/cache/vitrun/*.tuned ] || fail "nothing was kept"
    succeeds info --weights "$vit" --device cpu --mask 'axial_2d()' --json # its heads have 16, too
    holds 'd["measured_costs"] is True'
    succeeds info --weights "$vit" --device cpu --dtype bf16 --mask 'axial_2d()' --json
    holds 'd["measured_costs"] is False'
    ok "tune measures and keeps, and plans rest on it"
fi
