#!/bin/sh
# Install what a fresh Debian machine lacks.  Asks apt only for what is missing.
#     tools/setup.sh build        to build and run (make, make demo, make test)
#     tools/setup.sh check        also sanitizers, lint, aarch64, fuzzing
#     tools/setup.sh cross        libcurl for aarch64 under build/sysroot-aarch64
set -e
cd "$(dirname "$0")/.."

# The packages are fetched and unpacked into a folder of their own; neither the packages
# nor the architectures of this machine change, and root is not needed.
cross() {
    root=$PWD/build/sysroot-aarch64
    [ ! -e "$root/complete" ] || return 0
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        { echo "tools/setup.sh cross: needs Debian's apt-get and dpkg-deb" >&2; return 1; }
    rm -rf "$root"
    apt=$root/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    arm() {
        apt-get -qq -y -o APT::Architecture=arm64 -o APT::Architectures::=arm64 \
            -o Dir::State::status=/dev/null -o Dir::State::lists="$apt/lists" \
            -o Dir::Cache="$apt" -o Debug::NoLocking=1 "$@"
    }
    echo "fetching libcurl for aarch64"
    arm update
    arm --no-install-recommends --download-only install libcurl4-openssl-dev
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$apt"
    touch "$root/complete"
}

build="gcc libc6-dev cmake ninja-build pkg-config libcurl4-openssl-dev libmicrohttpd-dev
       libsqlite3-dev libyaml-dev curl"
check="clang libclang-rt-14-dev clang-format gcc-aarch64-linux-gnu libc6-dev-arm64-cross
       qemu-user pmccabe valgrind"
case ${1:-build} in
build) want=$build ;;
check) want="$build $check" ;;
cross) cross; exit ;;
*) echo "usage: tools/setup.sh build|check|cross" >&2; exit 2 ;;
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
