#!/bin/sh
# A cascade over the next token of a text: three small models that vote, then a larger one,
# all made and trained here; both rules, and the curve of each.
#
#     bench/cascade.sh TEXT DIR
#
# The first eight tenths of TEXT train, the ninth sets thresholds, the last measures.
# OCTOMIL: the program (build/release/octomil).
set -eu
octomil=${OCTOMIL:-build/release/octomil}
text=$1
dir=$2
mkdir -p "$dir"
size=$(wc -c <"$text")
tenth=$((size / 10))
head -c $((8 * tenth)) "$text" >"$dir/train.txt"
tail -c +$((8 * tenth + 1)) "$text" | head -c "$tenth" >"$dir/calibrate.txt"
tail -c +$((9 * tenth + 1)) "$text" >"$dir/test.txt"

# NAME STEPS SEED [create's options]
make_model() {
    name=$1 steps=$2 seed=$3
    shift 3
    [ -e "$dir/$name/model.gguf" ] && return
    "$octomil" create --text "$dir/train.txt" --vocab 512 --seed "$seed" --quiet "$@" \
        "$dir/$name.gguf" >&2
    "$octomil" train --full --model "$dir/$name.gguf" --data "$dir/train.txt" --batch 8 \
        --seq-len 64 --steps "$steps" --lr 0.003 --seed "$seed" --threads 1 --quiet \
        --out "$dir/$name" >&2
}
for seed in 1 2 3; do
    make_model "small-$seed" 400 $seed --dim 32 --layers 2 --heads 2
done
make_model large 700 9 --dim 96 --layers 4 --heads 4

small=$dir/small-1/model.gguf,$dir/small-2/model.gguf,$dir/small-3/model.gguf
for rule in agree learned; do
    "$octomil" cascade "$small" "$dir/large/model.gguf" --calibrate "$dir/calibrate.txt" \
        --text "$dir/test.txt" --rule $rule --plot "$dir/$rule.svg" --threads 1
done
