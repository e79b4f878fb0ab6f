#!/bin/sh
# Makes demo/keyboard.gguf, the small language model that ships with the repository, from
# nothing: text from the generator, vocabulary and weights by octomil itself.
#     demo/recipe.sh BUILD_FOLDER [OUT]
# About three minutes on two cores.  The same seed on the same instruction set gives the same
# bits; another one differs in rounding only.
set -e
build=$1
out=${2:-demo/keyboard.gguf}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 400 users whose messages the model may see.  The demo's devices are others.
"$build/keyboard-text" 0 400 250 "$work/users"
for f in "$work"/users/user-*[0-9].txt; do cat "$f"; done >"$work/text.txt"
for f in "$work"/users/user-00[0-4]*.heldout.txt; do cat "$f"; done >"$work/heldout.txt"

"$build/octomil" create "$work/start.gguf" --text "$work/text.txt" --vocab 1024 \
    --dim 160 --layers 5 --heads 5 --ffn 448 --context 256
"$build/octomil" train --full --model "$work/start.gguf" --data "$work/text.txt" \
    --eval "$work/heldout.txt" --steps 700 --batch 16 --seq-len 128 --lr 0.003 \
    --warmup 100 --type F16 --out "$work/trained"
cp "$work/trained/model.gguf" "$out"
ls -l "$out"
