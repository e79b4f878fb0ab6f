#!/bin/sh
# The commands around a model: convert, inspect, eval, run; what they refuse; and the
# program in docs/library.md, compiled against the installed library.
. "$(dirname "$0")/lib.sh"

golden=$here/test/golden/arch
says() { # PATTERN COMMAND...
    pattern=$1
    shift
    "$@" >"$work/out" 2>"$work/err" && grep -q -- "$pattern" "$work/out"
}

check convert_folder "$octomil" convert "$golden/llama3" "$work/a.gguf" --type Q8_0
check inspect_gguf says 'blk.1.ffn_up.weight  *Q8_0  *64 x 32' "$octomil" inspect "$work/a.gguf"
check inspect_json says '"llama.rope.freq_base":10000[,}]' "$octomil" inspect "$work/a.gguf" --json
check inspect_folder says 'family  *qwen3' "$octomil" inspect "$golden/qwen3"
check inspect_safetensors says '^ln_f.bias  *F32  *32' "$octomil" inspect "$golden/gpt2/model.safetensors"
refuse convert_type 2 "did you mean Q4_K" "$octomil" convert "$golden/llama3" "$work/b.gguf" --type Q4K
refuse convert_name 2 "does not end in .gguf" "$octomil" convert "$golden/llama3" "$work/b.bin"
refuse run_no_model 1 "No such file" "$octomil" run "$work/none.gguf" hi
refuse run_no_tokenizer 1 "without a tokenizer" "$octomil" run "$work/a.gguf" hi
refuse eval_no_text 2 "--text FILE" "$octomil" eval "$work/a.gguf"
refuse run_temp 2 "0 to 100" "$octomil" run "$work/a.gguf" hi --temp -1

stories=$data/models/stories260K
if [ -r "$stories.gguf" ]; then
    tok=$data/tokenizers/tok512.bin
    head -c 6000 "$here/README.md" >"$work/text"
    greedy() {
        "$octomil" run "$@" "Once upon a time" --temp 0 -n 40 2>/dev/null
    }
    same_text() {
        greedy "$stories.gguf" >"$work/1" && greedy "$stories.bin" --tokenizer "$tok" >"$work/2" &&
            grep -q "little girl named Lily" "$work/1" && cmp "$work/1" "$work/2"
    }
    figure() { # KEY, from a JSON answer on standard input
        sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" | cut -c1-6
    }
    same_perplexity() {
        a=$("$octomil" eval "$stories.gguf" --text "$work/text" --json 2>/dev/null | figure perplexity)
        b=$("$octomil" eval "$stories.bin" --tokenizer "$tok" --text "$work/text" --json 2>/dev/null |
            figure perplexity)
        echo "$a $b" && [ -n "$a" ] && [ "$a" = "$b" ]
    }
    seeded() {
        for t in 1 2; do
            "$octomil" run "$stories.gguf" "Tim" -n 30 --seed 7 --threads $t >"$work/s$t" 2>/dev/null || return 1
        done
        cmp "$work/s1" "$work/s2"
    }
    pipe() { echo "Lily went" | "$octomil" run "$stories.gguf" -n 5 --json | grep -q '"generated_tokens":5'; }
    check greedy_text same_text
    check perplexity same_perplexity
    check seed seeded
    check pipe pipe
    check converted "$octomil" convert "$stories.bin" "$work/s.gguf" --tokenizer "$tok" --type Q4_0
    check converted_runs says '[a-z]' "$octomil" run "$work/s.gguf" "One day" -n 10
    check eval_keys says '"tokens_per_second":.*"peak_rss_bytes":' "$octomil" eval "$work/s.gguf" --text "$work/text" --json

    sed -n '/^```c$/,/^```$/p; /^## Training/q' "$here/docs/library.md" | sed '/^```/d' >"$work/program.c"
    program() {
        cmake --install "$build" --prefix "$work/prefix" >/dev/null &&
            lib=$(dirname "$(find "$work/prefix" -name liboctomil.so | head -n 1)") &&
            cc $sanitize -std=c99 -Wall -Wextra -o "$work/program" "$work/program.c" -I"$work/prefix/include" -L"$lib" -loctomil &&
            LD_LIBRARY_PATH=$lib "$work/program" "$stories.gguf" "Once upon a time" >"$work/out" &&
            grep -q "little girl named Lily" "$work/out" && grep -q "^64 tokens" "$work/out"
    }
    check documented_program program
else
    skip real_model "no shared test data"
fi
finish
