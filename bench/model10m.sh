#!/bin/sh
# Makes the benchmark model: a Llama-family model of 9.9 million parameters whose matrix
# rows are multiples of 256, so that every tensor type applies to it, trained by octomil
# itself on the stories, novels, essays and plays of the data folder (about 12 MB).
#     bench/model10m.sh BUILD_FOLDER DATA_FOLDER [CACHE_FOLDER]
# Leaves CACHE_FOLDER/model10m.gguf (F16) with heldout.txt and calibration.txt beside it;
# half an hour to an hour on two quiet cores (an estimate), nothing when the model is there already.  A run that was
# interrupted goes on from its checkpoint.  The last twentieth of every source is held out
# and never trained on; the calibration text is a part of what was trained on.
set -e
build=$1
data=$2
cache=${3:-$build/bench-cache}
[ -e "$cache/model10m.gguf" ] && { ls -l "$cache/model10m.gguf"; exit 0; }
mkdir -p "$cache"
: >"$cache/text.txt"
: >"$cache/heldout.txt"
: >"$cache/calibration.txt"
for f in tinystories/tinystories-train-lower authors/bronte authors/dubois tinyshakespeare; do
    gzip -dc "$data/text/$f.txt.gz" >"$cache/part"
    n=$(wc -c <"$cache/part")
    head -c $((n / 20 * 19)) "$cache/part" >>"$cache/text.txt"
    tail -c $((n / 20)) "$cache/part" | tail -n +2 >>"$cache/heldout.txt"
    tail -c +$((n / 2)) "$cache/part" | head -c 100000 | tail -n +2 >>"$cache/calibration.txt"
done
rm "$cache/part"

[ -e "$cache/start.gguf" ] || "$build/octomil" create "$cache/start.gguf" \
    --text "$cache/text.txt" --vocab 4096 --dim 256 --layers 9 --heads 4 --kv-heads 2 \
    --ffn 1024 --context 512
resume=
[ -e "$cache/trained/checkpoint.omck" ] && resume="--resume $cache/trained/checkpoint.omck"
"$build/octomil" train --full --model "$cache/start.gguf" --data "$cache/text.txt" \
    --steps "${OCTOMIL_MODEL10M_STEPS:-1500}" --batch 16 --seq-len 256 --lr 0.002 \
    --warmup 100 --type F16 --checkpoint-every 100 --out "$cache/trained" $resume
mv "$cache/trained/model.gguf" "$cache/model10m.gguf"
ls -l "$cache/model10m.gguf"
