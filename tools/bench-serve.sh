#!/bin/sh
# Eight clients at once against `octomil serve` and, where it is named, llama-server, over
# the same file, taking turns in one run (bench/bench_serve.c).
#     tools/bench-serve.sh MODEL.gguf [VOCAB [ROUNDS]]
#     OCTOMIL_PEER_LLAMA_SERVER   path of llama-server
#     OCTOMIL_PEER_ARGS           more options for it
#     OCTOMIL, BENCH_SERVE        programs; default those of build/release
here=$(cd "$(dirname "$0")/.." && pwd)
model=$1 vocab=${2:-4096} rounds=${3:-5}
octomil=${OCTOMIL:-$here/build/release/octomil}
bench=${BENCH_SERVE:-$here/build/release/bench/bench_serve}
work=$(mktemp -d)
trap 'kill $ours $peer 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
threads=${THREADS:-$(nproc)}

"$octomil" serve m="$model" --listen 127.0.0.1:0 --threads "$threads" >"$work/ours" 2>&1 &
ours=$!
servers=
until port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$work/ours") && [ "$port" ]; do
    kill -0 $ours 2>/dev/null || { cat "$work/ours"; exit 1; }
    sleep 0.2
done
servers="octomil=127.0.0.1:$port"
if [ "$OCTOMIL_PEER_LLAMA_SERVER" ]; then
    peer_port=$((20000 + $$ % 20000))
    "$OCTOMIL_PEER_LLAMA_SERVER" -m "$model" --host 127.0.0.1 --port $peer_port -t "$threads" \
        -np 8 -c 4096 $OCTOMIL_PEER_ARGS >"$work/peer" 2>&1 &
    peer=$!
    until curl -s "http://127.0.0.1:$peer_port/health" | grep -q ok; do
        kill -0 $peer 2>/dev/null || { tail -n 20 "$work/peer"; exit 1; }
        sleep 0.5
    done
    servers="$servers llama-server=127.0.0.1:$peer_port"
else
    echo "peer absent: set OCTOMIL_PEER_LLAMA_SERVER to llama-server"
fi
"$bench" -v "$vocab" -r "$rounds" $servers
