#!/bin/sh
# Builds jansson under MemorySanitizer from the distribution's source package: a library that is not
# instrumented would look as if it never wrote anything.
#   tests/checks/msan_jansson.sh FOLDER      -> FOLDER/libjansson.a
set -eu
mkdir -p "$1/lists/partial"
cd "$1"
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    grep -E '(debian|ubuntu)[^ ]* [^ ]+ main$' | sort -u >sources.list
apt="apt-get -qq -o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/dev/null
     -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD -o APT::Sandbox::User=$(id -un)"
$apt update
$apt --download-only source jansson
rm -rf source && mkdir source
tar -xf jansson_*.orig.tar.* -C source --strip-components=1
cd source/src
cp "$(printf '#include <jansson_config.h>\n' | clang -E - | sed -n 's/^# 1 "\(.*jansson_config.h\)".*/\1/p')" .
for have in ATOMIC_BUILTINS SYNC_BUILTINS CLOSE FCNTL_H GETPID GETTIMEOFDAY LOCALECONV OPEN READ SCHED_H SCHED_YIELD \
    STDINT_H SYS_STAT_H SYS_TIME_H SYS_TYPES_H UNISTD_H; do
    echo "#define HAVE_$have 1"
done >jansson_private_config.h
clang -std=gnu11 -D_GNU_SOURCE -DHAVE_STDINT_H -DINITIAL_HASHTABLE_ORDER=3 -O1 -g -fsanitize=memory -fPIC \
    -fno-omit-frame-pointer -c ./*.c
ar rcs ../../libjansson.a ./*.o
