#!/bin/sh
# Everything `make test` does not have the time for: lint, clang, address and undefined
# sanitizers, threads, aarch64 under qemu, valgrind.  Ends with the sum of all closing
# lines.
cd "$(dirname "$0")/.." || exit 1
log=$(mktemp) out=$(mktemp)
trap 'rm -f "$log" "$out"' EXIT
bad=0
step() {
    echo "== $1"
    shift
    "$@" || { echo "check: failed: $*"; bad=1; }
}
tests() { # PRESET [PREFIX COMMAND]
    preset=$1
    shift
    cmake --preset "$preset" >/dev/null && cmake --build "build/$preset" || return 1
    tools/run-tests.sh "build/$preset" "$@" | tee "$out"
    tail -n 1 "$out" >>"$log"
    tail -n 1 "$out" | grep -q '^[0-9]* passed, 0 failed'
}
emulated() { OCTOMIL_TEST_QUICK=1 tests aarch64 qemu-aarch64 -L /usr/aarch64-linux-gnu; }
# Reads of what was never written, which the sanitizers do not see.  valgrind knows no
# AVX-512, and not the debugging notes of every clang.
valgrind_says() {
    for name in base json gguf train session; do
        strip -g -o "$out" "build/clang/test/test_$name" &&
            OCTOMIL_TEST_QUICK=1 OCTOMIL_CPU_MASK=avx512,amx valgrind -q --error-exitcode=9 \
                --leak-check=full --show-leak-kinds=definite,possible "$out" || return 1
    done
}
step lint tools/lint.sh
step "libcurl for aarch64" tools/setup.sh cross
step clang tests clang
step "address, undefined" tests asan
step threads tests tsan
step aarch64 emulated
step valgrind valgrind_says
awk '{p += $1; f += $3; s += $5} END {printf "%d passed, %d failed, %d skipped\n", p, f, s}' "$log"
exit $bad
