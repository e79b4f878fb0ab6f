#!/bin/sh
# Install what a fresh Debian machine lacks.  Asks apt only for what is missing.
#     tools/setup.sh build        to build and run (make, make demo, make test)
#     tools/setup.sh check        also sanitizers, lint, aarch64, fuzzing
set -e
build="gcc libc6-dev cmake ninja-build pkg-config libcurl4-openssl-dev libmicrohttpd-dev
       libsqlite3-dev libyaml-dev curl"
check="clang libclang-rt-14-dev clang-format gcc-aarch64-linux-gnu libc6-dev-arm64-cross
       qemu-user pmccabe valgrind"
case ${1:-build} in
build) want=$build ;;
check) want="$build $check" ;;
*) echo "usage: tools/setup.sh build|check" >&2; exit 2 ;;
esac
missing=
for package in $want; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "please install:$missing" >&2; exit 1; }
    as_root=sudo
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
