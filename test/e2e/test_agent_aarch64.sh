#!/bin/sh
# A federation of unlike devices: the coordinator here, the agents cross-compiled for
# aarch64 and emulated.  What they send must be accepted, and the model must be the one
# native agents give within rounding: the same order of sums, other vector widths.
#     tools/setup.sh cross    fetches what the cross build needs
. "$(dirname "$0")/lib.sh"
root=$here/build/sysroot-aarch64
native=$build/octomil-agent
cross=$here/build/agent-aarch64/octomil-agent

for tool in qemu-aarch64 aarch64-linux-gnu-gcc; do
    command -v $tool >/dev/null || { skip aarch64 "no $tool (tools/setup.sh check)"; finish; }
done
[ -e "$root/complete" ] || { skip aarch64 "no libcurl for aarch64 (tools/setup.sh cross)"; finish; }

build_agent() { (cd "$here" && cmake --preset agent-aarch64 && cmake --build build/agent-aarch64); }
check build build_agent
emulated() { qemu-aarch64 -L "$root" "$cross" "$@"; }
here_native() { "$native" "$@"; }
answers() { emulated --version | grep -q '^octomil-agent [0-9]'; }
check answers answers
is_small() { aarch64-linux-gnu-strip -o "$work/stripped" "$cross" && [ "$(wc -c <"$work/stripped")" -lt 2000000 ]; }
check under-2MB is_small
cd "$work" || exit 1

# federate NAME RUNNER AGENTS SERVER_ARGUMENT...: the model in NAME.out, logs in NAME/;
# agent i trains on texts/user-i.txt when `model` is set.
federate() {
    name=$1 runner=$2 agents=$3
    shift 3
    mkdir "$name"
    devices=
    for i in $(seq "$agents"); do devices="$devices --device dev-$i"; done
    # shellcheck disable=SC2086
    "$octomil" server --dir "$name/server" --listen 127.0.0.1:0 --token sesame $devices \
        --retry 10 --linger 1000 --deadline 120 --out "$name.out" "$@" >"$name/log" 2>&1 &
    server=$!
    for try in $(seq 200); do
        url=$(grep -o 'http://[0-9.:]*' "$name/log") && break
        sleep 0.05
    done
    pids=
    for i in $(seq "$agents"); do
        "$runner" --server "$url" --name "dev-$i" --dir "$name/dev-$i" --token sesame \
            --threads 1 --give-up 20 ${model:+--model "$model" --data "texts/user-$i.txt"} \
            >"$name/dev-$i.log" 2>&1 &
        pids="$pids $!"
    done
    bad=0
    for pid in $server $pids; do wait "$pid" || bad=1; done
    cat "$name"/log "$name"/*.log
    [ $bad -eq 0 ] && [ -e "$name.out" ]
}
all_accepted() { # NAME AGENTS ROUNDS
    [ "$(grep -l "is finished: $3 updates accepted, 0 refused" "$1"/dev-*.log | wc -l)" -eq "$2" ]
}
numbers() { # of a file of f32 after a header of so many bytes
    od -An -v -w4 -tf4 -j "$2" "$1"
}
# |a - b| / |b| of two files of numbers, at most LIMIT; an empty or unequal file fails.
close_to() { # A B HEADER_BYTES LIMIT
    numbers "$1" "$3" >a.txt
    numbers "$2" "$3" >b.txt
    paste a.txt b.txt | awk -v limit="$4" '
        NF != 2 || $1 - $1 != 0 || $2 - $2 != 0 {bad = 1}
        {d += ($1 - $2) ^ 2; s += $2 ^ 2}
        END {printf "relative distance %g of %d numbers\n", s ? sqrt(d / s) : -1, NR
             exit bad || !(s > 0) || !(sqrt(d / s) <= limit)}'
}
header_bytes() { echo $((8 + $(od -An -tu8 -N8 "$1"))); } # of a safetensors file

model=
bowl() {
    federate "$1" "$2" 4 --kind quadratic --task '{"dim":500}' --clients 4 --cohort 4 \
        --rounds 6 --seed 11 --set algorithm.name=fedadam --set algorithm.local_steps=3 \
        --set algorithm.lr=0.05 --set codec.name=topk --set codec.k=50
}
check quadratic bowl q-arm emulated
check quadratic-accepted all_accepted q-arm 4 6
check quadratic-native bowl q-native here_native
check quadratic-agrees close_to q-arm.out q-native.out 0 1e-4
tail -n 1 log | sed 's/^/     quadratic: /'

texts() {
    mkdir texts
    if [ -f "$here/demo/keyboard.gguf" ]; then
        model=$here/demo/keyboard.gguf
        "$build/keyboard-text" 1 4 40 texts
        for i in 1 2 3; do mv "texts/user-000$i.txt" "texts/user-$i.txt"; done
    else
        model=$data/models/stories260K.gguf
        gzip -dc "$data/text/tinyshakespeare.txt.gz" | head -c 9000 >play
        for i in 1 2 3; do tail -c "$((i * 3000))" play | head -c 2500 >"texts/user-$i.txt"; done
    fi
    [ -s texts/user-3.txt ]
}
words() {
    "$octomil" init "words-$1" --model "$model" --data texts --lora rank=4 --clients 3 --rounds 2 \
        --set cohort.size=3 --set algorithm.local_steps=3 --set algorithm.batch=2 \
        --set data.seq_len=32 --set algorithm.lr=0.05 &&
        federate "$1" "$2" 3 --config "words-$1.yaml"
}
adapters_agree() {
    a=w-arm.out/adapter_model.safetensors b=w-native.out/adapter_model.safetensors
    [ -s $a ] && [ "$(header_bytes $a)" = "$(header_bytes $b)" ] && close_to $a $b "$(header_bytes $a)" 1e-3
}
if [ -f "$here/demo/keyboard.gguf" ] || [ -f "$data/models/stories260K.gguf" ]; then
    check texts texts
    check words words w-arm emulated
    check words-accepted all_accepted w-arm 3 2
    check words-native words w-native here_native
    check words-agree adapters_agree
    tail -n 1 log | sed 's/^/     words: /'
else
    skip words "neither demo/keyboard.gguf nor shared test data"
fi
finish
