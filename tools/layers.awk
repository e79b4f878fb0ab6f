# layers.awk - fail when a file includes a header of a folder on the same floor or
# above.  The list below is the architecture (docs/architecture.md, "Floors").
BEGIN {
    n = split("base:0 os:1 kern:2 tensor:3 fmt:4 codec:4 nn:5 llm:6 adapt:7 compress:8 fl:8 proto:9 net:9 coord:10 agent:10 serve:10 sim:11 agent_main:11 cli:12", t, " ")
    for (i = 1; i <= n; i++) { split(t[i], kv, ":"); level[kv[1]] = kv[2] + 0 }
}
FNR == 1 { split(FILENAME, d, "/"); me = d[2]; if (!(me in level)) { print FILENAME ": folder has no floor"; bad = 1 } }
/^#[ \t]*include[ \t]*"/ {
    split($0, q, "\""); split(q[2], h, "/"); to = h[1]
    if (to == me || to == "octomil") next
    if (!(to in level)) { printf "%s:%d: unknown module in \"%s\"\n", FILENAME, FNR, q[2]; bad = 1; next }
    if (level[to] >= level[me]) { printf "%s:%d: %s (floor %d) includes %s (floor %d)\n", FILENAME, FNR, me, level[me], to, level[to]; bad = 1 }
}
END { exit bad }
