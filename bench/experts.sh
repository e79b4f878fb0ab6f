#!/bin/sh
# A mixture of experts four times the memory it may use, beside a peer under the same limit:
#   experts.sh [FOLDER]          FOLDER keeps the model file (default: build/bench-models)
# Needs root and a memory controller of cgroups (v1 or v2), which enforces the limit on all
# that the process touches, mapped files too.  From the environment:
#   OCTOMIL_PEER_LLAMA_BENCH     llama.cpp's llama-bench
#   TYPE=q8_0  TOKENS=64  PEER_TOKENS=16  SHARE=4  BIN=build/release
# Q8_0, because the peer copies types that it repacks (Q4_0, Q4_K) and is then killed.
cd "$(dirname "$0")/.." || exit 1
folder=${1:-build/bench-models}
bin=${BIN:-build/release}
mkdir -p "$folder" || exit 1
model=$folder/moe-1b.${TYPE:-q8_0}.gguf
if [ ! -e "$model" ]; then
    "$bin/octomil" create "$folder/moe.f32.gguf" --text README.md --vocab 2000 --dim 1024 \
        --layers 12 --heads 16 --kv-heads 8 --ffn 2048 --experts 16 --experts-used 2 \
        --context 2048 || exit 1
    "$bin/octomil" convert "$folder/moe.f32.gguf" "$model" --type "${TYPE:-q8_0}" || exit 1
    rm "$folder/moe.f32.gguf"
fi
size=$(stat -c %s "$model")
limit=$((size / ${SHARE:-4}))
if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
    group=/sys/fs/cgroup/memory/octomil-$$ file=memory.limit_in_bytes
else
    group=/sys/fs/cgroup/octomil-$$ file=memory.max
fi
trap 'rmdir "$group" 2>/dev/null' EXIT
limited() { # COMMAND...: with nothing of the model in memory at first
    mkdir -p "$group" && echo "$limit" >"$group/$file" || exit 1
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
}
run() { # the text into $1.txt, tokens per second on standard output
    to=$1
    shift
    "$@" "$bin/octomil" run "$model" "A model is" --max-tokens "${TOKENS:-64}" --temp 0 \
        --ignore-end --speculate off --json >"$folder/$to.json" || exit 1
    sed 's/.*"text":\("[^"]*"\).*/\1/' "$folder/$to.json" >"$folder/$to.txt"
    sed 's/.*"tokens_per_second":\([0-9.]*\).*/\1/' "$folder/$to.json"
}
echo "model $size bytes, limit $limit"
echo "ours, no limit:       $(run free env) tokens/s"
echo "ours, within limit:   $(run limited limited) tokens/s"
cmp "$folder/free.txt" "$folder/limited.txt" && echo "the same text"
if [ "$OCTOMIL_PEER_LLAMA_BENCH" ]; then
    limited "$OCTOMIL_PEER_LLAMA_BENCH" -m "$model" -p 0 -n "${PEER_TOKENS:-16}" -r 1 -t "$(nproc)" \
        -fa 1 -o jsonl 2>/dev/null |
        sed -n 's/.*"avg_ts": *\([0-9.]*\).*/llama.cpp, within limit: \1 tokens\/s/p'
else
    echo "peer absent: OCTOMIL_PEER_LLAMA_BENCH is not set"
fi
