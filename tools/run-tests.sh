#!/bin/sh
# Run every test program of a build folder and every script of test/e2e, as many at a time
# as there are processors, add up their closing lines, and end with one of the same form.
#     tools/run-tests.sh BUILD_FOLDER [PREFIX_COMMAND...]
# JOBS=1 runs them one by one.
build=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
trap 'exit 1' INT TERM

# The whole tests come first: they are long, and wait more than they compute.
set -- "$logs" "$here" "$build" "$@"
{
    [ -x "$build/octomil" ] && [ $# -eq 3 ] && ls "$here"/test/e2e/test_*.sh
    ls "$build"/test/test_*
} | xargs -P "${JOBS:-$(nproc)}" -I {} "$here/tools/run-test.sh" {} "$@"

total=$(cat "$logs"/*.count 2>/dev/null |
    awk '{p += $1; f += $2; s += $3} END {printf "%d passed, %d failed, %d skipped", p, f, s}')
echo "$total"
case $total in *", 0 failed,"*) [ "$total" != "0 passed, 0 failed, 0 skipped" ] ;; *) false ;; esac
