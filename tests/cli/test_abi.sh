#!/bin/sh
# What programs that are linked with the library rely on.
. tests/cli/lib.sh
. "$B/settings"

golden=tests/golden/vitrun.abi
tests/abi.py "$cc" engine/vitrun.h >"$tmp/out" 2>"$tmp/err" || fail "the header is read"
diff -u "$golden" "$tmp/out" >"$tmp/err" ||
    fail "vitrun.h is not what $golden says (see \"Versions\" in vitrun.h and in CONTRIBUTING.md)"
ok "functions, values and structures are laid out as they were"

sed -n 's/^function .*\b\(vitrun_[a-z0-9_]*\)(.*/\1/p' "$golden" | sort >"$tmp/declared"
[ "$(wc -l <"$tmp/declared")" -eq "$(grep -c '^VITRUN_API' engine/vitrun.h)" ] || fail "all functions are read"
while read -r function; do
    grep -q "\b$function(" tests/engine/test_api.c || fail "tests/engine/test_api.c does not call $function"
done <"$tmp/declared"
ok "arguments of every function are tested"

nm -D --defined-only "$B/libvitrun.so" | awk '{print $NF}' | sort >"$tmp/shared"
diff -u "$tmp/declared" "$tmp/shared" >"$tmp/err" || fail "the shared library shows something else than vitrun.h"
same_make "$built/install/libvitrun.a" >"$tmp/out" 2>"$tmp/err" ||
    fail "the static library is made"
nm -g --defined-only "$B/install/libvitrun.a" | awk 'NF == 3 && $2 != "C" {print $NF}' | sort >"$tmp/static"
case $cc in
*fsanitize* | *coverage*) ;;
*) diff -u "$tmp/declared" "$tmp/static" >"$tmp/err" || fail "the static library shows something else than vitrun.h" ;;
esac
ok "both libraries show what vitrun.h declares, and nothing else"

PYTHONPATH=samples PYTHONDONTWRITEBYTECODE=1 python3 - "$golden" 2>"$tmp/err" <<'PY' || fail "samples/classify.py lays structures out otherwise"
import ctypes, sys, classify

kept = dict(line.split()[1:3] for line in open(sys.argv[1]) if line.startswith(("field", "struct")))
for name, mine in (("error", classify.Error), ("options", classify.Options), ("info", classify.Info),
                   ("image", classify.Image), ("outputs", classify.Outputs)):
    for field, *_ in mine._fields_:
        assert int(kept[f"vitrun_{name}.{field}"]) == getattr(mine, field).offset, field
    assert name == "info" or int(kept[f"vitrun_{name}"]) == ctypes.sizeof(mine), name
PY
ok "the Python sample lays structures out as the header does"

printf '#include <vitrun.h>\nint main(void) { return vitrun_version_number() != VITRUN_VERSION_NUMBER; }\n' >"$tmp/a.c"
cp "$tmp/a.c" "$tmp/a.cc"
$cc -std=c99 -Wall -Wextra -Werror -pedantic -Wconversion -fsyntax-only -Iengine "$tmp/a.c" 2>"$tmp/err" || fail "as C99"
if command -v g++ >/dev/null; then
    g++ -std=c++98 -Wall -Wextra -Werror -fsyntax-only -Iengine "$tmp/a.cc" 2>"$tmp/err" || fail "as C++"
else
    echo "SKIPPED: no C++ compiler"
fi
ok "the header alone is C99 and C++"
