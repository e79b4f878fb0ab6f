#!/bin/sh
# Everything `make test` does not have the time for: lint, clang, address and undefined
# sanitizers, threads, aarch64 under qemu.  Ends with the sum of all closing lines.
cd "$(dirname "$0")/.." || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
bad=0
step() {
    echo "== $1"
    shift
    "$@" || { echo "check: failed: $*"; bad=1; }
}
tests() { # PRESET [PREFIX COMMAND]
    preset=$1
    shift
    cmake --preset "$preset" >/dev/null && cmake --build "build/$preset" &&
        tools/run-tests.sh "build/$preset" "$@" | tee -a "$log"
}
step lint tools/lint.sh
step clang tests clang
step "address, undefined" tests asan
step threads tests tsan
step aarch64 tests aarch64 qemu-aarch64 -L /usr/aarch64-linux-gnu
grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" |
    awk '{p += $1; f += $3; s += $5} END {printf "%d passed, %d failed, %d skipped\n", p, f, s}'
exit $bad
