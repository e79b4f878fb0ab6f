#!/bin/sh
# One test for tools/run-tests.sh: its line (its whole log when it failed) at once, and
# "PASSED FAILED SKIPPED" for the sum.
#     tools/run-test.sh TEST LOG_FOLDER SOURCE BUILD_FOLDER [PREFIX_COMMAND...]
test=$1 logs=$2 here=$3 build=$4
shift 4
[ -x "$test" ] || [ "${test%.sh}" != "$test" ] || exit 0
name=$(basename "$test")
log=$logs/$name.log
case $test in
*.sh) OCTOMIL=$build/octomil timeout 600 sh "$test" >"$log" 2>&1 ;;
*) timeout 300 "$@" "$test" >"$log" 2>&1 ;;
esac
status=$?

# the closing line is the log's last "N passed, ..." line
line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
if [ -z "$line" ]; then
    out=$(printf 'FAIL %s: no closing line (exit %s)\n' "$name" "$status"; tail -n 20 "$log")
    set -- 0 1 0
else
    set -- $(printf '%s' "$line" | tr -c '0-9\n' ' ') 0
    if [ "$2" -ne 0 ]; then
        out=$(cat "$log")
    elif [ "$status" -ne 0 ]; then
        out=$(printf 'FAIL %s: exit %s after "%s"\n' "$name" "$status" "$line"; tail -n 20 "$log")
        set -- "$1" 1 "$3"
    else
        out=$(grep '^skip' "$log"; printf 'ok   %s: %s\n' "$name" "$line")
    fi
fi
printf '%s\n' "$out" # in one write, so that tests side by side do not mix their lines
echo "$1 $2 $3" >"$logs/$name.count"
