#!/bin/sh
# make deb: the package says what it needs, and what it holds runs from where it is unpacked.
. tests/cli/lib.sh
. "$B/settings"
for tool in dpkg-deb dpkg-shlibdeps; do
    command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 0; }
done
case $cc in *fsanitize* | *coverage*) echo "SKIPPED: no package of a build for tests"; exit 0 ;; esac

version=$("$vitrun" --version | sed -n 's/^vitrun //p')
deb=$B/vitrun_$version-1_$(dpkg --print-architecture).deb
rm -f "$deb"
same_make deb >"$tmp/out" 2>"$tmp/err" || fail "make deb"
dpkg-deb --info "$deb" >"$tmp/out" 2>"$tmp/err" || fail "dpkg-deb --info"
says " Version: $version-1"
field()
{
    dpkg-deb --field "$deb" "$1"
}
field Depends | grep -q 'libc6 (>= ' || fail "libc6 is needed"
for package in $(field Depends | tr ',|' '\n\n' | sed 's/(.*//'); do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || fail "$package is none of this machine"
done
readelf -d "$vitrun" | sed -n 's/.*NEEDED.*\[\(lib[a-z]*\)\.so.*/\1/p' | while read -r library; do
    [ "$library" = libm ] || [ "$library" = libc ] || field Depends | grep -q "$library" || exit 1
done || fail "a library that vitrun is linked with is not among: $(field Depends)"
ok "the package depends on the packages of the libraries that vitrun is linked with"

mkdir "$tmp/root" "$tmp/state"
dpkg-deb -x "$deb" "$tmp/root" 2>"$tmp/err" || fail "dpkg-deb -x"
dpkg-deb --contents "$deb" >"$tmp/out"
for file in bin/vitrun include/vitrun.h 'lib/.*/libvitrun.so.*' 'lib/.*/pkgconfig/vitrun.pc' share/man/man1/vitrun.1.gz \
    share/man/man3/vitrun.3.gz share/bash-completion/completions/vitrun share/doc/vitrun/copyright; do
    grep -q "root/root.* \./usr/$file" "$tmp/out" || fail "/usr/$file"
done
dpkg-deb -e "$deb" "$tmp/control"
(cd "$tmp/root" && md5sum --quiet -c "$tmp/control/md5sums") >"$tmp/out" 2>"$tmp/err" || fail "checksums"
ok "it holds the program, the library and their manuals"

vitrun=$tmp/root/usr/bin/vitrun
succeeds --weights "$vit" --device cpu "$image"
says 'class 1'
ok "the program in it runs"

if [ "$(id -u)" -eq 0 ]; then
    mkdir -p "$tmp/system/var/lib/dpkg/info" "$tmp/system/var/lib/dpkg/updates" "$tmp/system/var/lib/dpkg/triggers"
    : >"$tmp/system/var/lib/dpkg/status"
    dpkg --root="$tmp/system" --log=/dev/null --force-depends --force-script-chrootless --no-triggers -i "$deb" \
        >"$tmp/out" 2>"$tmp/err" || fail "dpkg -i"
    "$tmp/system/usr/bin/vitrun" --version >/dev/null || fail "installed by dpkg"
    dpkg --root="$tmp/system" --log=/dev/null --force-script-chrootless --no-triggers -r vitrun >"$tmp/out" 2>"$tmp/err" || fail "dpkg -r"
    [ ! -e "$tmp/system/usr/bin/vitrun" ] || fail "dpkg -r leaves the program"
    ok "dpkg installs and removes it"
else
    echo "SKIPPED: dpkg installs for root only"
fi
