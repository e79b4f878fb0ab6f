#!/bin/sh
# The house rules a machine can check.  Exceptions stand by name in tools/limits.allow.
cd "$(dirname "$0")/.." || exit 1
bad=0
allow=tools/limits.allow

awk -f tools/layers.awk $(find src -name '*.[ch]') || bad=1

# Banned calls: use the one door.  (file pattern excluded : regex : instead)
ban() {
    found=$(grep -nE "(^|[^A-Za-z0-9_.>])($2)[ ]*\(" $(find src -name '*.c') | grep -vE "$1")
    [ -z "$found" ] || { printf '%s\n  banned here: use %s\n' "$found" "$3"; bad=1; }
}
ban '^$' 'sprintf|strcpy|strcat|atoi|atol|atof|gets|strtok|rand|srand|alloca' 'the bounded form'
ban '^src/base/mem\.c|^src/os/file\.c' 'malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup' 'mem_*'
ban '^src/cli/|^src/agent_main/|^src/[a-z_]*/.*: \* ' 'printf|puts|putchar|fprintf|perror|exit|_exit|abort' 'om_err or the log sink'

# Sizes: functions of at most 100 lines, files of at most 1000, lines of at most 100.
pmccabe $(find src -name '*.c') 2>/dev/null | awk -v allow="$allow" '
    BEGIN { while ((getline line < allow) > 0) ok[line] = 1 }
    $5 > 100 && !(($6 ":" $7) in ok) { split($6, f, "("); print f[1] ": " $7 " is " $5 " lines (limit 100)"; bad = 1 }
    END { exit bad }' || bad=1
for f in $(find src include test fuzz bench tools -name '*.[ch]' 2>/dev/null); do
    n=$(wc -l <"$f")
    if [ "$n" -gt 1000 ] && ! grep -qx "$f" $allow; then echo "$f: $n lines (limit 1000)"; bad=1; fi
done
long=$(grep -nE '^.{101,}$' $(find src include -name '*.[ch]') | grep -vE 'src/llm/unicode_table' | cut -c1-120)
[ -z "$long" ] || { printf '%s\n  lines over 100 columns\n' "$long"; bad=1; }
marks=$(grep -nE 'TODO|FIXME' $(find src include -name '*.[ch]'))
[ -z "$marks" ] || { printf '%s\n  unfinished marks\n' "$marks"; bad=1; }

[ $bad -eq 0 ] && echo "lint: clean"
exit $bad
