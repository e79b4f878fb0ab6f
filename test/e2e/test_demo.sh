#!/bin/sh
# The demo, small: a coordinator and eight agent processes fine-tune the shipped model;
# the simulator gives the same bits with 1, 2 and 8 threads and counts the same bytes.
. "$(dirname "$0")/lib.sh"

model=$here/demo/keyboard.gguf
texts=$work/given
"$build/keyboard-text" 1000 1008 60 "$texts"

check demo sh -c "'$octomil' demo --model '$model' --data '$texts' --out '$work/demo' \
    --rounds 2 --local-steps 2 --batch 4 --json >'$work/demo.json'"
check page grep -q '<svg' "$work/demo/index.html"
number() { sed -n "s/.*\"$1\":\([0-9.e+-]*\).*/\1/p" "$2" | head -n 1; }
better() { awk "BEGIN {exit !($(number perplexity_after "$work/demo.json") < $(number perplexity_before "$work/demo.json"))}"; }
check perplexity_falls better

for threads in 1 2 8; do
    check "simulate_$threads" sh -c "'$octomil' simulate '$work/demo/run.yaml' --json --quiet \
        --threads $threads --out '$work/sim$threads' >'$work/sim$threads.json'"
    check "same_bits_$threads" cmp "$work/demo/adapter/adapter_model.safetensors" \
        "$work/sim$threads/adapter/adapter_model.safetensors"
done
column() { awk -F, -v name="$1" 'NR == 1 {for (i = 1; i <= NF; i++) if ($i == name) c = i} NR > 1 {s += $c} END {print s}' "$work/sim1/results.csv"; }
check bytes_up test "$(number bytes_up "$work/demo.json")" = "$(column up_bytes)"
check bytes_down test "$(number bytes_down "$work/demo.json")" = "$(column down_bytes)"

refuse no_texts 2 'at least two files' "$octomil" demo --model "$model" --data "$work/demo/server" --out "$work/x"
refuse used_folder 1 'holds an earlier demo' "$octomil" demo --model "$model" --data "$texts" --out "$work/demo"

# The same on the user's own kind of files: a public model and a public text.
if [ -f "$data/models/stories260K.gguf" ] && [ -f "$data/text/tinyshakespeare.txt.gz" ]; then
    mkdir "$work/own"
    gunzip -c "$data/text/tinyshakespeare.txt.gz" | head -c 60000 | split -b 20000 --additional-suffix=.txt - "$work/own/part-"
    check own_files sh -c "'$octomil' demo --model '$data/models/stories260K.gguf' --data '$work/own' \
        --out '$work/own-demo' --rounds 2 --local-steps 2 --batch 4 --json >'$work/demo.json'"
    check own_falls better
else
    skip own_files "the shared models and texts are not there"
fi
finish
