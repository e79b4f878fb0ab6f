#!/bin/sh
# Our speed beside that of other engines, in turns within one run:
#   peers.sh [FOLDER]            FOLDER keeps the model files (default: build/bench-models)
# From the environment, programs that you have built or installed:
#   OCTOMIL_PEER_LLAMA_BENCH     llama.cpp's llama-bench
#   OCTOMIL_PEER_IK_BENCH        ik_llama.cpp's llama-bench
# What to measure, each with its default:
#   SHAPES="llama-32m qwen25-05b llama32-1b"  TYPES="Q4_0 Q4_K_M Q8_0 F16"  THREADS="1 2"
#   PROMPTS=128,512  GENERATE=64  DEPTHS="0 2048 8192"  KV="f16 q8_0" (the peer's)  ROUNDS=3
# Every round runs ours, then each peer.  A line per test: medians over the rounds, lowest
# and highest, the ratio of medians.  Models have random weights in real shapes.
cd "$(dirname "$0")/.." || exit 1
models=${1:-build/bench-models}
shapes=${SHAPES:-llama-32m qwen25-05b llama32-1b}
types=${TYPES:-Q4_0 Q4_K_M Q8_0 F16}
threads=${THREADS:-1 2}
prompts=${PROMPTS:-128,512}
generate=${GENERATE:-64}
depths=${DEPTHS:-0 2048 8192}
kv=${KV:-f16 q8_0}
rounds=${ROUNDS:-3}
bin=${BIN:-build/release}
mkdir -p "$models" || exit 1
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs," \
    "load $(cut -d' ' -f1 /proc/loadavg) at $(date -u '+%Y-%m-%d %H:%M') UTC"
[ "$OCTOMIL_PEER_LLAMA_BENCH" ] || echo "peer absent: OCTOMIL_PEER_LLAMA_BENCH is not set"
[ "$OCTOMIL_PEER_IK_BENCH" ] || echo "peer absent: OCTOMIL_PEER_IK_BENCH is not set"

# Lines "WHO THREADS TEST DEPTH RATE" into the log.
ours() { # MODEL THREADS DEPTH
    "$bin/octomil" bench "$1" --prompt "$prompts" --generate "$generate" --depth "$3" \
        --repeat 1 --threads "$2" --json --quiet | tr '{}' '\n' | sed -n \
        's/.*"test":"\([a-z0-9]*\)","depth":\([0-9]*\),"tokens_per_second":\([0-9.e+]*\).*/\1 \2 \3/p' |
        sed "s/^/ours $2 /" >>"$log"
}
peer() { # NAME PROGRAM MODEL THREADS DEPTH KV
    depth="-d $5"
    [ "$5" = 0 ] && depth=
    # shellcheck disable=SC2086
    "$2" -m "$3" -t "$4" -p "$prompts" -n "$generate" -r 1 -fa 1 -ctk "$6" -ctv "$6" $depth \
        -o jsonl 2>/dev/null | tr '{,}' '\n' | awk -F: -v who="$1-$6" -v t="$4" '
        { gsub(/[" ]/, "") }
        $1 == "n_prompt" { p = $2 } $1 == "n_gen" { g = $2 } $1 == "n_depth" { d = $2 }
        $1 == "avg_ts" { print who, t, (p > 0 ? "pp" p : "tg" g), d + 0, $2 }' >>"$log"
}
report() { # MODEL
    sort -k1,4 -k5n "$log" | awk -v model="$(basename "$1" .gguf)" '
        { key = $2 " " $3 " " $4 " " $1; n[key]++; v[key, n[key]] = $5
          if (!(key in seen)) { seen[key] = 1; order[++m] = key } }
        function median(k) { return (v[k, int((n[k] + 1) / 2)] + v[k, int(n[k] / 2) + 1]) / 2 }
        END { for (i = 1; i <= m; i++) {
            k = order[i]; split(k, f, " "); base = f[1] " " f[2] " " f[3] " ours"
            line = sprintf("%-18s %s threads %-6s depth %-5s %-10s %9.2f (%.2f to %.2f)",
                           model, f[1], f[2], f[3], f[4], median(k), v[k, 1], v[k, n[k]])
            if (f[4] != "ours" && (base in n))
                line = line sprintf("  ours is %.2fx", median(base) / median(k))
            print line } }'
}

for shape in $shapes; do
    for type in $types; do
        model=$models/$shape-$type.gguf
        [ -f "$model" ] || "$bin/bench/bench_model" "$shape" "$type" "$model" || exit 1
        : >"$log"
        for t in $threads; do
            for d in $depths; do
                i=0
                while [ "$i" -lt "$rounds" ]; do
                    ours "$model" "$t" "$d"
                    for k in $kv; do
                        if [ "$OCTOMIL_PEER_LLAMA_BENCH" ]; then
                            peer llama.cpp "$OCTOMIL_PEER_LLAMA_BENCH" "$model" "$t" "$d" "$k"
                        fi
                        if [ "$OCTOMIL_PEER_IK_BENCH" ]; then
                            peer ik "$OCTOMIL_PEER_IK_BENCH" "$model" "$t" "$d" "$k"
                        fi
                    done
                    i=$((i + 1))
                done
            done
        done
        report "$model"
    done
done
