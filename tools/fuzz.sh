#!/bin/sh
# Run every fuzz target for a number of seconds under address and undefined sanitizers.
#     tools/fuzz.sh SECONDS [NAME...]
seconds=$1
shift
cd "$(dirname "$0")/.." || exit 1
cmake --preset fuzz >/dev/null && cmake --build build/fuzz --target fuzz_targets || exit 1
[ $# -gt 0 ] || set -- $(cd build/fuzz/fuzz && ls -1 | grep -v '\.')
bad=0
for name; do
    grown=build/fuzz/corpus/$name
    mkdir -p "$grown"
    echo "== $name, $seconds s"
    build/fuzz/fuzz/"$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 "$grown" fuzz/corpus/"$name" 2>&1 | tail -n 12 |
        grep -E 'stat::number_of_executed_units|stat::average_exec|SUMMARY|ERROR|cov:' || true
    ls crash-* leak-* timeout-* oom-* >/dev/null 2>&1 && { echo "fuzz: $name left an input"; bad=1; }
done
exit $bad
