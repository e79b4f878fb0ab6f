#!/bin/sh
# What holds for every command of `octomil --help`: help, a wrong option, its place in the
# reference; and for every command that reads a file: what it says when the file is not
# there, a folder, garbage, or cut short.  Answers with --json are JSON.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

"$octomil" --help | sed -n 's/^  \([a-z][a-z]*\)  *[a-z].*/\1/p' >commands
check lists_commands [ "$(wc -l <commands)" -ge 13 ]
check version sh -c "'$octomil' --version | grep -q '^octomil [0-9]'"
refuse no_such_command 2 "did you mean 'simulate'" "$octomil" simulte
refuse threads 2 "whole number from" "$octomil" reference --threads many
refuse empty_name 2 "did you mean" "$octomil" ""

while read -r name; do
    check "$name: help" sh -c "'$octomil' $name --help | grep -q '^usage: octomil $name'"
    check "$name: reference" grep -q "^### octomil $name\$" "$here/docs/reference.md"
    refuse "$name: wrong option" 2 "did you mean --json" "$octomil" "$name" --jsn
    refuse "$name: value missing" 2 "needs a value" "$octomil" "$name" --threads
    "$octomil" "$name" --help | grep -q '^usage: .*\.\.\.' ||
        refuse "$name: operands" 2 "one operand too many" "$octomil" "$name" x x x x x
done <commands

# ---- a model, and files that are none ----
head -c 4000 "$here/README.md" >notes.txt
check model "$octomil" create model.gguf --text notes.txt --vocab 300 --dim 32 --layers 1 \
    --heads 2 --context 64
mkdir folder
head -c 3000 /dev/urandom >garbage.gguf
head -c 3000 model.gguf >short.gguf
head -c 20000 model.gguf >cut.gguf
: >empty.gguf

# Each bad file is refused by name.
bad_file() { # FILE STATUS PATTERN
    refuse "run $1" "$2" "$1.*$3\|$3.*$1" "$octomil" run "$1" hi
    refuse "eval $1" "$2" "$1.*$3\|$3.*$1" "$octomil" eval "$1" --text notes.txt
    refuse "inspect $1" "$2" "$1.*$3\|$3.*$1" "$octomil" inspect "$1"
    refuse "convert $1" "$2" "$1.*$3\|$3.*$1" "$octomil" convert "$1" out.gguf
    refuse "train $1" "$2" "$1.*$3\|$3.*$1" "$octomil" train --model "$1" --data notes.txt
    refuse "merge $1" "$2" "$1.*$3\|$3.*$1" "$octomil" merge "$1" folder out.gguf
}
bad_file none.gguf 1 "No such file"
bad_file folder 1 "config.json"
bad_file garbage.gguf 1 "fetch it again"
bad_file empty.gguf 1 "empty"
bad_file short.gguf 1 "the file ends"
bad_file cut.gguf 1 "is the file complete"
check nothing_written [ ! -e out.gguf ]
refuse eval_text 1 "none.txt.*No such file" "$octomil" eval model.gguf --text none.txt
refuse train_data 1 "none.txt.*No such file" "$octomil" train --model model.gguf --data none.txt
refuse adapter 1 "none.*No such file\|none.*adapter" "$octomil" run model.gguf hi --adapter none
refuse config 1 "none.yaml.*No such file" "$octomil" simulate none.yaml
refuse config_folder 1 "folder" "$octomil" simulate folder
refuse prune_method 2 "did you mean wanda" "$octomil" prune model.gguf p.gguf --method wandaa
refuse prune_structure 2 "say unstructured" "$octomil" prune model.gguf p.gguf --structure rows
refuse prune_target 2 "cannot go as channels" "$octomil" prune model.gguf p.gguf \
    --method magnitude --structure channel --target-sparsity 0.9
refuse prune_pattern 2 "are a sparsity of 0.75" "$octomil" prune model.gguf p.gguf \
    --method magnitude --structure 1:4 --target-sparsity 0.5
refuse prune_no_text 2 "needs a calibration text" "$octomil" prune model.gguf p.gguf
head -c 200 notes.txt >few.txt
refuse prune_short_text 2 "at least 256" "$octomil" prune model.gguf p.gguf --calibration few.txt
check nothing_pruned [ ! -e p.gguf ]
check prune_says_so sh -c "'$octomil' prune model.gguf p.gguf --method magnitude --structure 2:4 |
    grep -q 'did not shrink'"
printf 'rounds: [\n' >bad.yaml
refuse config_garbage 1 "bad.yaml:2" "$octomil" simulate bad.yaml
refuse full_disk 1 "disk full" sh -c "'$octomil' reference >/dev/full"

# ---- answers as JSON ----
json() {
    "$octomil" "$@" --json >answer 2>/dev/null && [ -s answer ] && python3 -m json.tool <answer
}
error_is_json() {
    "$octomil" "$@" --json >answer 2>/dev/null
    python3 -m json.tool <answer && grep -q '"error":"E' answer
}
if command -v python3 >/dev/null; then
    check create_experts "$octomil" create moe.gguf --text notes.txt --vocab 300 --dim 32 --heads 2 \
        --layers 1 --ffn 64 --experts 4 --experts-used 2
    check quantize_experts "$octomil" convert moe.gguf moe-q8.gguf --type q8_0
    "$octomil" run moe.gguf "hi" --max-tokens 20 --temp 0 >resident
    "$octomil" run moe.gguf "hi" --max-tokens 20 --temp 0 --expert-cache 500K >cached
    check experts_same_text sh -c "[ -s resident ] && cmp resident cached"
    refuse expert_cache_small 1 "at least" "$octomil" run moe.gguf "hi" --expert-cache 1K
    refuse no_experts 2 "no experts" "$octomil" run model.gguf "hi" --expert-cache 500K
    refuse plan_no_experts 2 "no experts" "$octomil" plan model.gguf --expert-cache 500K
    check plan_experts "$octomil" plan moe.gguf --expert-cache 500K
    check run_experts "$octomil" run moe.gguf "hi" --max-tokens 4
    refuse few_experts 2 "cannot use 5 of 4" "$octomil" create x.gguf --text notes.txt \
        --experts 4 --experts-used 5
    check json_create json create other.gguf --text notes.txt --vocab 300 --dim 32 --heads 2
    check json_inspect json inspect model.gguf
    check json_plan json plan model.gguf --memory 4G
    refuse plan_too_small 1 "does not fit with a context" "$octomil" plan model.gguf --memory 65M
    check json_eval json eval model.gguf --text notes.txt
    check json_eval_keys grep -q '"perplexity":.*"tokens":.*"tokens_per_second":.*"peak_rss_bytes":' answer
    check json_run json run model.gguf "Hello" -n 4
    check json_train json train --model model.gguf --data notes.txt --steps 2 --seq-len 16
    check json_merge json merge model.gguf trained merged.gguf
    check json_convert json convert model.gguf q8.gguf --type Q8_0
    check json_prune json prune model.gguf pruned.gguf --method magnitude \
        --structure channel+head --target-sparsity 0.3
    check json_prune_keys grep -q '"weights_gone":.*"ffn":' answer
    check json_init json init bowl --kind quadratic
    check json_simulate json simulate bowl.yaml --rounds 3
    check json_error error_is_json inspect none.gguf
else
    skip json "no python3 to read it with"
fi

# ---- a training that is interrupted and resumed ends with the same bits ----
train() { # OUT OPTIONS...
    out=$1
    shift
    "$octomil" train --quiet --model model.gguf --data notes.txt --seq-len 16 --batch 2 \
        --schedule constant --out "$out" "$@"
}
check whole train whole --steps 6
check half train half --steps 3
check resumed train half --steps 6 --resume half/checkpoint.omck
check same_bits cmp whole/adapter_model.safetensors half/adapter_model.safetensors
finish
