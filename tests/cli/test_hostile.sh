#!/bin/sh
# Some thousand broken and odd files (hostile.py): the broken ones are refused, the odd ones taken.
. tests/cli/lib.sh
python3 tests/cli/hostile.py "$vitrun" "$tmp" >"$tmp/report" || { cat "$tmp/report"; exit 1; }
ok "hostile files: $(cat "$tmp/report")"
