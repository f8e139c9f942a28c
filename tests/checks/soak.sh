#!/bin/sh
# The short form of tests/soak.c, which says what it is about.
set -u
B=${B:-build}
images=10000 loads=300
"$B/tests/soak" --images $images --loads $loads || exit 1
echo "ok $images pictures and $loads models leave nothing behind"
