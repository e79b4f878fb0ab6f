#!/bin/sh
# Federated fine-tuning of a language model by every method, clients of three ranks: held-out
# perplexity against bytes.
#
#     bench/federated-llm.sh data MODEL.gguf TEXT   makes examples/federated-llm
#     bench/federated-llm.sh run [METHOD...]        the table, a line a method
#
# TEXT is a play: "NAME:" on a line of its own, then what NAME says, then an empty line.
# Clients are the 16 speakers with the most lines; of what each says the first nine tenths
# are the client's, the rest is held out.  OCTOMIL: the program (build/release/octomil).
# DIR: the folder that data makes.
set -eu
cd "$(dirname "$0")/.."
octomil=${OCTOMIL:-build/release/octomil}
dir=${DIR:-examples/federated-llm}

data() {
    mkdir -p "$dir/speakers"
    rm -f "$dir/speakers"/*
    cp "$1" "$dir/base.gguf"
    awk -v dir="$dir" '
        BEGIN { RS = ""; FS = "\n" }
        $1 ~ /:$/ {
            name = substr($1, 1, length($1) - 1)
            gsub(/[^A-Za-z]/, "-", name)
            text[name] = text[name] $0 "\n\n"
            size[name] = length(text[name])
        }
        END {
            for (k = 0; k < 16; k++) {
                best = ""
                for (name in size)
                    if (best == "" || size[name] > size[best] ||
                        (size[name] == size[best] && name < best))
                        best = name
                cut = int(size[best] * 0.9)
                printf "%s", substr(text[best], 1, cut) > (dir "/speakers/" best ".txt")
                held = held substr(text[best], cut + 1)
                delete size[best]
            }
            printf "%s", held > (dir "/held-out.txt")
        }' "$2"
}

# NAME, then --set pairs
one() {
    name=$1
    shift
    sets=""
    for s in "$@"; do sets="$sets --set $s"; done
    out=$("$octomil" simulate examples/federated-llm.yaml --threads 1 --json --quiet $sets)
    printf '%s\n' "$out" | tail -1 | awk -v name="$name" '
        function field(k) {
            return match($0, "\"" k "\":[^,}]*") ? substr($0, RSTART + length(k) + 3,
                                                          RLENGTH - length(k) - 3) : "nan"
        }
        { printf "%-28s %8.3f %12d %12d\n", name, exp(field("loss")), field("up_bytes"),
                 field("down_bytes") }'
}

no_ranks='model.lora.ranks= model.lora.rank=16'
method() {
    m='model.adaptation=matrices'
    case $1 in
    none) one "before training" rounds=1 algorithm.name=fedit algorithm.lr=0 ;;
    full) one "all weights, fedavg" algorithm.name=fedavg model.adaptation=full model.lora.ranks= \
            algorithm.lr=0.003 algorithm.local_steps=5 algorithm.batch=4 \
            algorithm.local_optimizer=adamw ;;
    prompt) one "prompt of 16, fedavg" algorithm.name=fedavg model.adaptation=prompt \
            model.lora.ranks= $adam ;;
    equal) one "fedit, all of rank 16" algorithm.name=fedit $no_ranks $adam ;;
    fedit | ffa-lora | hetlora | flexlora) one "$1" algorithm.name="$1" $adam ;;
    flora) one flora algorithm.name=flora $m algorithm.alpha=32 $adam ;;
    rac-lora) one rac-lora algorithm.name=rac-lora $m algorithm.rank=16 algorithm.scale=2 $adam ;;
    bernoulli-lora*) one "$1" algorithm.name="$1" $m model.lora.ranks= algorithm.rank=16 \
            algorithm.lr=1 algorithm.batch=16 ;;
    flasc-*) d=${1#flasc-}
        one "flasc, density $d" algorithm.name=flasc $no_ranks $adam algorithm.server_lr=0.01 \
            algorithm.density_down=$d algorithm.density_up=$d ;;
    ef-*) d=${1#ef-}
        one "flasc + feedback, $d" algorithm.name=flasc $no_ranks $adam \
            algorithm.server_lr=0.01 algorithm.density_down=$d algorithm.density_up=$d \
            algorithm.error_feedback=on ;;
    sparse-*) d=${1#sparse-} # adapters of rank 4, whole down, a part of d up
        one "flasc + feedback, up $d" algorithm.name=flasc model.lora.ranks= \
            model.lora.rank=4 $adam algorithm.server_lr=0.01 algorithm.density_down=1 \
            algorithm.density_up=$d algorithm.error_feedback=on ;;
    *) echo "no method '$1'" >&2; exit 2 ;;
    esac
}
adam='algorithm.local_steps=5 algorithm.batch=4 algorithm.lr=0.01 algorithm.local_optimizer=adamw'

case ${1-} in
data) shift; data "$@" ;;
run)
    shift
    [ $# -gt 0 ] || set -- none full equal fedit ffa-lora hetlora flexlora flora rac-lora \
        bernoulli-lora prompt flasc-1 flasc-0.25 flasc-0.0625 flasc-0.01 ef-0.01 \
        sparse-0.1 sparse-0.003
    printf '%-28s %8s %12s %12s\n' method perplexity 'bytes up' 'bytes down'
    for m; do method "$m"; done ;;
*) sed -n '2,14p' "$0"; exit 2 ;;
esac
