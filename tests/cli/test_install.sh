#!/bin/sh
# An installed vitrun serves programs outside: here it goes to a folder of the test's own, and the
# sample programs are built and run against that.
. tests/cli/lib.sh

root=$tmp/root # as a package builder's: files lie under $root, but say that they lie under /opt
lib=$root/opt/v/lib
. "$B/settings"
make_vitrun()
{
    same_make PREFIX=/opt/v DESTDIR="$root" "$@" >"$tmp/out" 2>"$tmp/err" || fail "make $*"
}
make_vitrun install

"$root/opt/v/bin/vitrun" --version >"$tmp/out" || fail "the installed program runs"
[ "$(readlink -f "$lib/libvitrun.so")" = "$(readlink -f "$lib"/libvitrun.so.*.*.*)" ] || fail "libvitrun.so"
ok "the program, the libraries and their links are installed"

export PKG_CONFIG_PATH="$lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
run_classify()
{
    env LD_LIBRARY_PATH="$lib" "$@" "$vit" "$image" >"$tmp/out" 2>"$tmp/err"
    status=$?
    [ "$status" -eq 0 ] || fail "$*"
}
succeeds --json --topk 1 --threads 1 --logits --device cpu --weights "$vit" "$image"
best=$(python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))["results"][0]
print(r["top"][0]["class"], max(r["logits"]))' "$tmp/out")
agrees() # the class, and its logit to three digits
{
    python3 -c 'import sys
a, b = sys.argv[1].split(), open(sys.argv[2]).read().split()
sys.exit(a[0] != b[0] or abs(float(a[1]) - float(b[-1])) > 2e-3)' "$best" "$tmp/out" || fail "$1: $best"
}

$cc -Wall -Wextra -Werror -pedantic samples/classify.c -o "$tmp/classify" \
    $(pkg-config --cflags --libs vitrun) 2>"$tmp/err" || fail "with the shared library"
run_classify "$tmp/classify"
agrees "classify.c, shared"
readelf -d "$tmp/classify" | grep -q "NEEDED.*\[libvitrun\.so\.[0-9]*\(\.[0-9]*\)\?\]" || fail "soname"
ok "the C sample is built with pkg-config and gives what vitrun gives"

$cc samples/classify.c -o "$tmp/classify_static" $(pkg-config --cflags vitrun) \
    "$lib/libvitrun.a" $(pkg-config --static --libs-only-l --libs-only-other vitrun | sed 's/-lvitrun//') \
    2>"$tmp/err" || fail "with the static library"
run_classify "$tmp/classify_static"
agrees "classify.c, static"
ok "the C sample is built with the static library"

case $cc in
*fsanitize*) echo "SKIPPED: Python cannot load a library with sanitizers" ;;
*)
    run_classify python3 "$root/opt/v/share/doc/vitrun/examples/classify.py"
    sed -i 2,\$d "$tmp/out"
    agrees "classify.py"
    env LD_LIBRARY_PATH="$lib" python3 samples/classify.py "$tmp/none" "$image" >"$tmp/out" 2>"$tmp/err" && fail "no weights"
    grep -q '^classify.py: .*/none: ' "$tmp/err" || fail "an error is told"
    ok "the Python sample gives what vitrun gives"
    ;;
esac

# cmake_classify TARGET VERSION: a CMake project outside, linked with TARGET.
cmake_classify()
{
    mkdir -p "$tmp/cmake"
    cat >"$tmp/cmake/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.13)
project(classify C)
find_package(vitrun $2 REQUIRED)
add_executable(classify $PWD/samples/classify.c)
target_link_libraries(classify $1)
CMAKE
    rm -rf "$tmp/cmake/build"
    cmake -S "$tmp/cmake" -B "$tmp/cmake/build" -DCMAKE_C_COMPILER="${cc%% *}" \
        -DCMAKE_C_FLAGS="${cc#* }" -DCMAKE_PREFIX_PATH="$root/opt/v" >"$tmp/out" 2>"$tmp/err" &&
        cmake --build "$tmp/cmake/build" >"$tmp/out" 2>"$tmp/err"
}
version=$("$vitrun" --version | sed -n 's/^vitrun //p')
if command -v cmake >/dev/null; then
    for target in vitrun::vitrun vitrun::vitrun_static; do
        cmake_classify $target "$version" || fail "CMake: $target"
        run_classify "$tmp/cmake/build/classify"
        agrees "CMake: $target"
    done
    cmake_classify vitrun::vitrun 99.0 && fail "CMake: a version that is not there"
    grep -q 'vitrunConfig.cmake, version: '"$version" "$tmp/err" || fail "CMake: the version is said"
    ok "CMake finds both libraries"
else
    echo "SKIPPED: no cmake"
fi

make_vitrun install-strip DESTDIR="$tmp/stripped" libdir=/opt/v/lib64
grep -q '^libdir=/opt/v/lib64' "$tmp/stripped/opt/v/lib64/pkgconfig/vitrun.pc" || fail "libdir"
readelf -S "$tmp/stripped/opt/v/bin/vitrun" | grep -q debug_info && fail "not stripped"
"$tmp/stripped/opt/v/bin/vitrun" --version >"$tmp/out" || fail "the stripped program runs"
$cc samples/classify.c -o "$tmp/classify" "-I$tmp/stripped/opt/v/include" "$tmp/stripped/opt/v/lib64/libvitrun.so" \
    2>"$tmp/err" || fail "with the stripped library"
lib=$tmp/stripped/opt/v/lib64
run_classify "$tmp/classify"
agrees "classify.c, stripped"
ok "folders may be chosen, and tables for debuggers left out"

mine=$root/opt/v/share/doc/vitrun/mine
touch "$mine"
make_vitrun uninstall
left=$(find "$root" ! -type d)
[ "$left" = "$mine" ] || fail "uninstall left $left"
ok "uninstall removes what install put, and nothing else"
