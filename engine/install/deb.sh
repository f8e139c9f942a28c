#!/bin/sh
# Makes a Debian package of what make install has put under ROOT: control data, checksums, packed pages.
# What it depends on is found by dpkg-shlibdeps from the libraries that the files are linked with.
#
#   deb.sh ROOT VERSION OUT.deb
set -eu
root=$1 version=$2 out=$3
command -v dpkg-shlibdeps >/dev/null || { echo 'make deb: dpkg-shlibdeps is missing (package dpkg-dev)' >&2; exit 1; }
find "$root/usr/share/man" -type f -exec gzip -9nf {} +
gzip -9nf "$root/usr/share/doc/vitrun/README.md"
strip "$root/usr/bin/vitrun"
find "$root/usr/lib" -name 'libvitrun.so.*.*.*' -exec strip --strip-unneeded {} +
find "$root/usr/lib" -name 'libvitrun.a' -exec strip --strip-debug {} +
find "$root" -type d -exec chmod 755 {} +

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: vitrun\n\nPackage: vitrun\nArchitecture: any\n' >"$work/debian/control"
binaries=$(find "$root/usr/bin/vitrun" "$root/usr/lib" -type f \( -name vitrun -o -name 'libvitrun.so.*' \))
architecture=$(dpkg --print-architecture)
# shellcheck disable=SC2086
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info $binaries 2>/dev/null | sed -n 's/^shlibs:Depends=//p')

rm -rf "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$work/md5sums"
size=$(du -ks "$root" | cut -f1)
mkdir "$root/DEBIAN"
mv "$work/md5sums" "$root/DEBIAN/md5sums"
echo 'activate-noawait ldconfig' >"$root/DEBIAN/triggers"
cat >"$root/DEBIAN/control" <<CONTROL
Package: vitrun
Version: $version
Architecture: $architecture
Maintainer: ${DEBFULLNAME:-The vitrun developers} <${DEBEMAIL:-vitrun@localhost}>
Installed-Size: $size
Depends: $depends
Suggests: pkg-config, libc-dev
Section: science
Priority: optional
Description: Vision Transformer inference with sparse attention
 Runs timm's Vision Transformers on CPUs and NVIDIA GPUs, with attention
 masks for each layer and kernels that skip what they leave out; measures
 what masks cost in accuracy and gain in time and memory.
 .
 This package has the program, the library, its header and its manual.
CONTROL
chmod 644 "$root"/DEBIAN/*
dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
