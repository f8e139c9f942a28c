#!/bin/sh
# Manual pages and completions know the options that --help knows, of every command.
. tests/cli/lib.sh
. "$B/settings"

pages=$B/install
for f in vitrun.1 vitrun.3; do
    same_make "$built/install/$f" >"$tmp/out" 2>"$tmp/err" || fail "$f is made"
done
succeeds --help
commands=$(sed -n '/^Commands/,/^$/s/^  \([a-z]*\) .*/\1/p' "$tmp/out")
[ "$(echo "$commands" | wc -w)" -ge 11 ] || fail "commands are read"

# options_of COMMAND: one a line
options_of()
{
    succeeds "$1" --help
    sed -n 's/^  \(--[a-z-]*\).*/\1/p' "$tmp/out" | sort -u
}

manual_of()
{
    sed -n 's/^\\fB\(\\-\\-[a-z\\-]*\)\\fR.*/\1/p' "$1" | sed 's/\\-/-/g' | sort -u
}

for c in $commands; do
    options_of "$c" >"$tmp/help"
    [ "$(wc -l <"$tmp/help")" -gt 3 ] || fail "options of $c are read"
    manual_of "$pages/vitrun-$c.1" >"$tmp/manual"
    diff -u "$tmp/help" "$tmp/manual" >"$tmp/err" || fail "vitrun-$c.1"
done
options_of run >"$tmp/help"
manual_of "$pages/vitrun.1" >"$tmp/manual"
diff -u "$tmp/help" "$tmp/manual" >"$tmp/err" || fail "vitrun.1"
ok "the manual pages have the options of --help"

if command -v groff >/dev/null; then
    for f in "$pages"/*.[13]; do
        groff -man -ww -Tutf8 "$f" >"$tmp/out" 2>"$tmp/err" || fail "groff: $f"
        [ ! -s "$tmp/err" ] || fail "groff complains of $f"
    done
    groff -man -Tutf8 -P-cbou "$pages/vitrun.1" >"$tmp/out"
    says "auto|cpu|cuda[:N]"
    says "--mask 'axial_2d() | local_2d(distance=5)' --json"
    says '~/.cache/vitrun/'
    ok "groff takes the manual pages without a warning"
else
    echo "SKIPPED: no groff"
fi

# bash_completes WORD...: what is offered for the last word.
bash_completes()
{
    (cd "$tmp/files" && bash --norc -c '
        . "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _vitrun
        printf "%s\n" "${COMPREPLY[@]}"' bash "$pages/vitrun.bash" "$@") 2>"$tmp/err" | sort
}
mkdir -p "$tmp/files/folder"
touch "$tmp/files/vit.safetensors" "$tmp/files/a picture.png"
offers() # WANT (lines) WORD...
{
    want=$1
    shift
    bash_completes "$@" >"$tmp/out"
    [ "$(cat "$tmp/out")" = "$want" ] && [ ! -s "$tmp/err" ] || fail "bash: vitrun $*: expected $want"
}
if command -v bash >/dev/null; then
    for c in $commands; do
        options_of "$c" >"$tmp/help"
        bash_completes vitrun "$c" -- >"$tmp/manual"
        diff -u "$tmp/help" "$tmp/manual" >"$tmp/err" || fail "bash: options of $c"
    done
    all='a picture.png
folder
vit.safetensors'
    offers 'search
sensitivity
sweep' vitrun s
    offers '--weights' vitrun --we
    offers 'auto
density' vitrun eval --dispatch ''
    offers 'density' vitrun --dispatch = d
    offers 'fp16
fp32' vitrun --dtype fp
    offers 'auto
cpu
cuda' vitrun bench --device ''
    offers "$all" vitrun --weights ''
    offers 'vit.safetensors' vitrun --weights = v
    offers 'folder' vitrun mask --png ''
    offers '' vitrun bench --attention ''
    offers "$all" vitrun --json ''
    offers 'vit.safetensors' vitrun info --weights v
    ok "bash completes commands, options, their values and files"
else
    echo "SKIPPED: no bash"
fi

if command -v zsh >/dev/null; then
    zsh -n "$pages/_vitrun" 2>"$tmp/err" || fail "zsh: syntax"
    for c in $commands; do
        options_of "$c" | sort >"$tmp/help"
        # zsh's own functions print what they are given
        zsh -f -c '_arguments() { print -l -- "$@" }; _describe() { :; }; _files() { :; }
            words=(vitrun '"$c"' --); CURRENT=3; . "$1"' zsh "$pages/_vitrun" 2>"$tmp/err" >"$tmp/out" ||
            fail "zsh: $c"
        sed -n 's/^\**\(--[a-z-]*\)[=[].*/\1/p' "$tmp/out" | sort -u >"$tmp/manual"
        diff -u "$tmp/help" "$tmp/manual" >"$tmp/err" || fail "zsh: options of $c"
    done
    ok "zsh has the options of --help"
else
    echo "SKIPPED: no zsh"
fi

if command -v fish >/dev/null; then
    fish_completes()
    {
        HOME=$tmp fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$pages/vitrun.fish" "$1" \
            2>"$tmp/err" | cut -f1 | sort -u
    }
    for c in $commands; do
        options_of "$c" >"$tmp/help"
        fish_completes "vitrun $c --" | grep '^--' >"$tmp/manual"
        diff -u "$tmp/help" "$tmp/manual" >"$tmp/err" || fail "fish: options of $c"
    done
    [ "$(fish_completes 'vitrun sens')" = sensitivity ] || fail "fish: commands"
    [ "$(fish_completes 'vitrun eval --dispatch d')" = density ] || fail "fish: values"
    ok "fish completes commands, options and values"
else
    echo "SKIPPED: no fish"
fi
