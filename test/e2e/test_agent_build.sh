#!/bin/sh
# octomil-agent alone (`make agent`): built without database and web server, it needs
# libc, libm and libcurl, is small, and answers.
. "$(dirname "$0")/lib.sh"
agent=$here/build/agent/octomil-agent

build_agent() { (cd "$here" && cmake --preset agent && cmake --build build/agent --target octomil-agent); }
needs_no_more() { # what the loader is told to bring; threads are in libc
    readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' |
        awk '/^lib(c|m|curl)\.so\.[0-9]+$/ {n++; next} /^ld-linux|^libpthread\.so/ {next}
             {print "needs " $0; bad = 1} END {exit bad || n != 3}'
}
is_small() { # bytes
    strip -o "$work/stripped" "$agent" && "$work/stripped" --version &&
        [ "$(wc -c <"$work/stripped")" -lt "$1" ]
}
says() { # PATTERN ARGUMENTS...
    pattern=$1
    shift
    "$agent" "$@" | grep -q -- "$pattern"
}
no_server_inside() { ! nm "$agent" | grep -E ' [A-Za-z] (MHD_|sqlite3_|yaml_|coord_|http_server)'; }

check build build_agent
check needs needs_no_more "$agent"
check under-2MB is_small 2000000
check no-server no_server_inside
check version says '^octomil-agent [0-9]' --version
check help says '--server URL' --help
refuse no-arguments 2 'usage: octomil-agent' "$agent"
refuse no-server-there 1 'octomil-agent:' "$agent" --server http://127.0.0.1:1 --name a --dir "$work/a" --give-up 1
finish
