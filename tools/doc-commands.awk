# doc-commands.awk - the commands that Markdown files show, one a line, each once.
#
# A command is a line of an indented or fenced block (fences of another language than sh
# do not count), or a code span in running text or in single quotes, that begins with
# octomil or make.  "Then: " before it and " # why" after it are not part of it; a \ at the
# end of a line goes on.
FNR == 1 { fence = 0 }
/^ *```/ { fence = !fence; other = fence && /```[a-z]/ && !/```sh/; next }
function shown(s) {
    sub(/ +#.*$/, "", s)
    sub(/ +$/, "", s)
    if (s ~ /^(build\/release\/)?octomil(-agent)?( |$)/ || s ~ /^make( |$)/) {
        if (!(s in seen)) print s
        seen[s] = 1
        return 1
    }
    return 0
}
function spans(s, mark, n, part, i) {
    n = split(s, part, mark)
    for (i = 2; i <= n; i += 2) shown(part[i])
}
fence && other { next }
fence || /^    / {
    s = $0
    sub(/^ +/, "", s)
    s = carried s
    carried = ""
    if (sub(/\\$/, "", s)) {
        carried = s
        next
    }
    sub(/^[A-Z][a-z]+: +/, "", s)
    if (!shown(s)) spans(s, "'")
    next
}
{ spans($0, "`") }
