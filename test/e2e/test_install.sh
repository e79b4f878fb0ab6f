#!/bin/sh
# What an outside program sees: installed headers, libraries that export om_* alone,
# pkg-config, the CMake package, and a few lines that link against each.
. "$(dirname "$0")/lib.sh"

prefix=$work/prefix
check install cmake --install "$build" --prefix "$prefix"
lib=$(dirname "$(find "$prefix" -name 'liboctomil.so' | head -n 1)")

cat >"$work/outside.c" <<'C'
#include <octomil/octomil.h>
#include <stdio.h>
int main(void)
{
    return printf("%s\n", om_version()) > 0 && om_status_name(OM_EIO)[0] == 'E' ? 0 : 1;
}
C

only_om() { # SYMBOL_LISTING: at least 5 symbols, all of them om_*
    nm "$@" | awk '$2 ~ /^[TDBRVW]$/ {n++; if ($3 !~ /^om_/) {print; bad = 1}} END {exit bad || n < 5}'
}
check exports_so only_om -D --defined-only "$lib/liboctomil.so"
[ -f "$lib/liboctomil.a" ] && check exports_a only_om --defined-only -g "$lib/liboctomil.a"

export PKG_CONFIG_PATH="$lib/pkgconfig"
pkg() { pkg-config --define-variable=prefix="$prefix" "$@" octomil; }
shared() { cc $sanitize -o "$work/shared" "$work/outside.c" $(pkg --cflags) -L"$lib" $(pkg --libs) && LD_LIBRARY_PATH=$lib "$work/shared"; }
check pkg_config shared
static() { cc $sanitize -o "$work/static" "$work/outside.c" $(pkg --cflags) "$lib/liboctomil.a" -lm -pthread && "$work/static"; }
[ -f "$lib/liboctomil.a" ] && check static_link static

mkdir -p "$work/cm"
cat >"$work/cm/CMakeLists.txt" <<'C'
cmake_minimum_required(VERSION 3.20)
project(outside C)
find_package(octomil REQUIRED)
add_executable(outside ../outside.c)
target_link_libraries(outside octomil::octomil)
C
with_cmake() {
    cmake -S "$work/cm" -B "$work/cm/b" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_FLAGS="$sanitize" &&
        cmake --build "$work/cm/b" && LD_LIBRARY_PATH=$lib "$work/cm/b/outside"
}
check cmake_package with_cmake
check version "$prefix/bin/octomil" --version
cxx() { printf '#include <octomil/octomil.h>\nint main() { return om_version()[0] == 0; }\n' >"$work/o.cc" && c++ -fsyntax-only $(pkg --cflags) "$work/o.cc"; }
if command -v c++ >/dev/null; then check cplusplus cxx; else skip cplusplus "no C++ compiler"; fi
finish
