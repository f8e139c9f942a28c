#!/bin/sh
# Installs the packages that vitrun is built and tested with (Debian 12, Ubuntu 24.04).
set -eu
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
packages="gcc make pkg-config libc6-dev libjansson-dev libstb-dev libcmocka-dev python3"
packages="$packages clang libclang-rt-dev libomp-dev" # make fuzz
missing=
for p in $packages libdnnl-dev libjpeg-dev; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || { echo "all packages are there"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing
