# lib.sh - the shell side of the test runner: check, skip, and the closing line.
#   check NAME COMMAND...   passes when the command succeeds
#   refuse NAME STATUS PATTERN COMMAND...   passes when it exits with STATUS and says PATTERN
passed=0 failed=0 skipped=0
here=$(cd "$(dirname "$0")/../.." && pwd)
octomil=${OCTOMIL:-$here/build/dev/octomil}
build=$(cd "$(dirname "$octomil")" && pwd) # scripts work in another folder
octomil=$build/$(basename "$octomil")
work=$(mktemp -d /tmp/octomil-e2e-XXXXXX)
data=${OCTOMIL_TEST_DATA:-$here/../shared/data}
# What outside programs need to run with a library built for a sanitizer.
sanitize=$(sed -n 's/^OM_SANITIZE:[^=]*=\(..*\)/-fsanitize=\1/p' "$build/CMakeCache.txt")
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

check() {
    of_check=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        echo "FAIL $of_check: exit $? from: $*"
        tail -n 20 "$work/log"
        failed=$((failed + 1))
    fi
}

refuse() {
    of_check=$1 want=$2 pattern=$3
    shift 3
    "$@" >"$work/log" 2>&1
    got=$?
    if [ "$got" -eq "$want" ] && grep -q -- "$pattern" "$work/log"; then
        passed=$((passed + 1))
    else
        echo "FAIL $of_check: exit $got (wanted $want and '$pattern') from: $*"
        tail -n 5 "$work/log"
        failed=$((failed + 1))
    fi
}

skip() {
    echo "skip $1: $2"
    skipped=$((skipped + 1))
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}
