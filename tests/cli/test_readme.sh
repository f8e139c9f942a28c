#!/bin/sh
# Every command that README.md and samples/README.md show runs as it stands there: the lines of their
# ```sh blocks that start with build/vitrun or vitrun.
. tests/cli/lib.sh

# A folder that looks like the repository, so that what the commands write is thrown away.
mkdir "$tmp/root" "$tmp/root/build"
ln -s "$vitrun" "$tmp/root/build/vitrun"
for folder in samples tests; do
    [ ! -e $folder ] || ln -s "$PWD/$folder" "$tmp/root/$folder"
done
PATH=$tmp/root/build:$PATH

# Lines that end in a backslash are joined with the next.
commands_of()
{
    awk '/^```sh$/ {inside = 1; next} /^```/ {inside = 0}
         inside {line = line $0; if (sub(/\\$/, "", line)) next
                 if (line ~ /^(build\/)?vitrun /) print line; line = ""}' "$1"
}

for page in README.md samples/README.md; do
    [ -f $page ] || { echo "SKIP there is no $page"; continue; }
    commands_of $page >"$tmp/commands"
    [ -s "$tmp/commands" ] || fail "$page shows no command"
    while IFS= read -r command <&3; do
        (cd "$tmp/root" && timeout $((5 * patience)) sh -c "$command") >"$tmp/out" 2>"$tmp/err" </dev/null
        status=$?
        if [ "$status" -eq 2 ] && grep -q '^vitrun: unknown command' "$tmp/err"; then
            echo "SKIP $page: not yet there: $command"
            continue
        fi
        [ "$status" -eq 0 ] || fail "$page: $command"
        ok "$page: $command"
    done 3<"$tmp/commands"
done
