#!/bin/sh
# Run every test program of a build folder and every script of test/e2e, add up their
# closing lines, and end with one of the same form.
#     tools/run-tests.sh BUILD_FOLDER [PREFIX_COMMAND...]
build=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() { # name, exit status; the closing line is the log's last "N passed, ..." line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
    if [ -z "$line" ]; then
        printf 'FAIL %s: no closing line (exit %s)\n' "$1" "$2"
        tail -n 20 "$log"
        failed=$((failed + 1))
        return
    fi
    set -- "$1" "$2" $(printf '%s' "$line" | tr -c '0-9\n' ' ')
    passed=$((passed + $3)) failed=$((failed + $4)) skipped=$((skipped + ${5:-0}))
    if [ "$4" -ne 0 ]; then
        cat "$log"
    elif [ "$2" -ne 0 ]; then
        printf 'FAIL %s: exit %s after "%s"\n' "$1" "$2" "$line"
        tail -n 20 "$log"
        failed=$((failed + 1))
    else
        grep '^skip' "$log"
        printf 'ok   %s: %s\n' "$1" "$line"
    fi
}

for program in "$build"/test/test_*; do
    [ -x "$program" ] || continue
    timeout 300 "$@" "$program" >"$log" 2>&1
    count "$(basename "$program")" $?
done
if [ -x "$build/octomil" ] && [ $# -eq 0 ]; then
    for script in "$here"/test/e2e/test_*.sh; do
        [ -e "$script" ] || continue
        OCTOMIL=$build/octomil timeout 600 sh "$script" >"$log" 2>&1
        count "$(basename "$script")" $?
    done
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
