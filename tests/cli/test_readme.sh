#!/bin/sh
# Every command of README.md that starts with build/vitrun runs as it stands there.
. tests/cli/lib.sh

[ -f README.md ] || { echo "SKIP there is no README.md"; exit 0; }
# The commands of ```sh blocks, lines that end in a backslash joined with the next.
awk '/^```sh$/ {inside = 1; next} /^```/ {inside = 0}
     inside {line = line $0; if (sub(/\\$/, "", line)) next
             if (line ~ /^build\/vitrun /) print line; line = ""}' README.md >"$tmp/commands"
count=$(wc -l <"$tmp/commands")
[ "$count" -gt 0 ] || fail "README.md shows no command"

# A folder that looks like the repository, so that what the commands write is thrown away.
mkdir "$tmp/root" "$tmp/root/build"
ln -s "$vitrun" "$tmp/root/build/vitrun"
for folder in samples tests; do
    [ ! -e $folder ] || ln -s "$PWD/$folder" "$tmp/root/$folder"
done
cd "$tmp/root" || exit 1
while IFS= read -r command <&3; do
    timeout 120 sh -c "$command" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
    [ "$status" -eq 0 ] || fail "README.md: $command"
    ok "$command"
done 3<"$tmp/commands"
