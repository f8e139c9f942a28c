#!/bin/sh
# Has the release what its flags ask for? Looks into build/vitrun and build/libvitrun.so with readelf.
set -u
B=${B:-build}
fail()
{
    echo "not ok: $file: $*"
    exit 1
}
has() # a text, of what
{
    echo "$all" | grep -qE -e "$1" || fail "no $2"
}
hasnt()
{
    ! echo "$all" | grep -qE -e "$1" || fail "$2"
}
command -v readelf >/dev/null || { echo "SKIPPED: no readelf"; exit 0; }
"$B/vitrun" --version | grep -q 'no CUDA' && cuda= || cuda=1
for file in "$B/vitrun" "$B/libvitrun.so"; do
    all=$(readelf -W -h -l -d -n --dyn-syms "$file")
    has 'Type: +DYN' 'position-independent code'
    has 'GNU_RELRO' 'RELRO'
    has '(BIND_NOW|FLAGS_1.*NOW)' 'binding at start: RELRO is partial'
    has 'GNU_STACK .* RW +0x' 'stack without execution'
    hasnt 'LOAD .* RWE ' 'a segment both written and executed'
    hasnt '(RPATH|RUNPATH|TEXTREL)' 'RPATH, RUNPATH or TEXTREL'
    has '__stack_chk_fail' 'stack protector'
    has '__(f|vf|sn|vsn)printf_chk' '_FORTIFY_SOURCE'
done
file=$B/vitrun all=$(readelf -W -d "$B/vitrun")
has 'FLAGS_1.*PIE' 'PIE'
# The linker takes the mark from the whole where one object lacks it, such as a distribution's crt1.o: ours
# all have it. Those of nvcc have not.
file=$B/libvitrun.a all=$(readelf -W -n "$B/libvitrun.a")
if [ "$(uname -m)" = x86_64 ] && [ -z "$cuda" ]; then
    marked=$(echo "$all" | grep -c 'IBT, SHSTK')
    [ "$marked" -eq "$(ar t "$B/libvitrun.a" | wc -l)" ] || fail "$marked objects with control flow protection"
fi
echo "ok the program and the library are hardened"
