#!/bin/sh
# The documentation is true: the reference is what the program prints, every command that
# README.md or docs/ shows runs, and every file and link they name exists.
#
# Commands run in a folder of stand-ins that carry the names the documents use.  A line
# that names a FILE or [options] in general is held to the command's own help instead.
. "$(dirname "$0")/lib.sh"

"$octomil" reference >"$work/reference.md"
check reference_is_current cmp "$work/reference.md" "$here/docs/reference.md"

# ---- stand-ins ----
mkdir -p "$work/at/build/release" "$work/at/demo"
cd "$work/at" || exit 1
ln -s "$octomil" build/release/octomil
ln -s "$octomil" octomil
cp -r "$here/README.md" "$here/examples" .
cp README.md notes.txt
cp README.md story.txt
cp README.md text.txt
echo "Once upon a time" >prompt.txt
cp -r "$here/test/golden/arch/llama3" smollm-135m
cp README.md messages.txt
"$build/keyboard-text" 1000 1003 40 texts
check model "$octomil" create model.gguf --text notes.txt --vocab 300 --dim 32 --layers 2 \
    --heads 2 --context 128
cp model.gguf base.gguf
cp model.gguf small.gguf
cp model.gguf big.gguf
echo '{"type": "object", "properties": {"name": {"type": "string"}}}' >city.json
check adapter "$octomil" train --quiet --model model.gguf --data notes.txt --steps 1 --out adapter
if [ -r "$here/demo/keyboard.gguf" ]; then
    cp "$here/demo/keyboard.gguf" demo
else
    cp model.gguf demo/keyboard.gguf
fi
stories=
if [ -r "$data/models/stories260K.bin" ]; then
    cp "$data/models/stories260K.bin" "$data/tokenizers/tok512.bin" . && stories=yes
fi

# ---- one line each ----
PATH=$work/at:$PATH
command_of() { echo "$1" | sed 's/^[^ ]* *\([a-z]*\).*/\1/'; }

# What a line with placeholders says of a command: that it and its options are there.
shape() {
    name=$(command_of "$1")
    [ "$name" ] || return 0
    octomil "$name" --help >"$work/help" || return 1
    for word in $1; do
        case $word in
        --*) grep -q -- "^ .*$(echo "$word" | sed 's/=.*//')\b" "$work/help" || return 1 ;;
        esac
    done
}

# A server comes up, says so, and goes when it is told to.
serves() {
    line=$(echo "$1" | sed 's/ --listen [^ ]*//; s/octomil serve/octomil serve --listen 127.0.0.1:0/')
    : >"$work/serving" # not the server before this one
    timeout 60 $line >"$work/serving" 2>&1 &
    server=$!
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        grep -q "^listening on" "$work/serving" && break
        sleep 0.2
    done
    kill -TERM $server # a background shell would ignore -INT until the program runs
    wait $server
    grep "^listening on" "$work/serving" || { cat "$work/serving"; return 1; }
}

# The end of a line is what counts: long runs are told to be short.
short() {
    case $1 in
    *"octomil train "*) echo "$1 --steps 3" ;;
    *"octomil demo "*) echo "$1 --rounds 1 --local-steps 1" ;;
    *) echo "$1" ;;
    esac
}
runs() { echo "A prompt" | timeout 60 sh -ec "$(short "$1")"; }

# A coordinator as shown, on a free port, and as many devices as it wants.
federation() { # SERVER_LINE AGENT_LINE
    timeout 60 $1 --listen 127.0.0.1:0 --rounds 2 >"$work/server" 2>&1 &
    server=$!
    for i in 1 2 3 4 5 6 7 8 9 10; do
        port=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/server" | head -n 1)
        [ "$port" ] && break
        sleep 0.3
    done
    [ "$port" ] || { cat "$work/server"; return 1; }
    for i in 1 2 3 4 5 6 7 8; do
        line=$(echo "$2" | sed "s/phone-1/phone-$i/g; s/127\.0\.0\.1:[0-9]*/127.0.0.1:$port/")
        timeout 60 $line --give-up 5 >"$work/agent$i" 2>&1 &
    done
    wait $server || { cat "$work/server" "$work/agent1"; return 1; }
}

one_line() {
    case $1 in
    make | "make "*) # the targets themselves are run by hand or by the checks they name
        target=$(echo "$1" | cut -d' ' -f2)
        case $target in
        demo) why="test_demo.sh runs what it runs" ;;
        test | check | bench | bench-peers | fuzz) why="runs this test, or takes minutes" ;;
        install) why="test_install.sh does" ;;
        docs | lint | help | agent) why="a developer's tool" ;;
        *) target="($target is not known to this test)" ;;
        esac
        check "$1" grep -q "^$target:.*##" "$here/Makefile"
        ;;
    "octomil server "*8000*) server_line=$1 ;;
    "octomil agent --server "*8000*) agent_line=$1 ;;
    "octomil serve "*.gguf*) check "$1" serves "$1" ;;
    *"[options]"* | *"octomil COMMAND"* | *" "[A-Z] | *" "[A-Z]" "* | *" "[A-Z][A-Z]*)
        check "shape: $1" shape "$1"
        ;;
    "octomil reference" | *--help) check "$1" runs "$1" ;;
    "octomil "[a-z]*" "*stories*)
        if [ "$stories" ]; then check "$1" runs "$1"; else skip "$1" "no shared test data"; fi
        ;;
    *" "*" "*" "* | *" "*" "[a-z./]*) check "$1" runs "$1" ;;
    *) check "shape: $1" shape "$1" ;;
    esac
}

awk -f "$here/tools/doc-commands.awk" "$here/README.md" "$here"/docs/*.md >"$work/lines"
check finds_commands [ "$(wc -l <"$work/lines")" -gt 40 ]
while IFS= read -r line; do
    one_line "$line" </dev/null
done <"$work/lines"
check keyboard octomil init keyboard --force --model model.gguf --set algorithm.local_steps=2
check federation federation "$server_line" "$agent_line"

# ---- examples ----
example() { # NAME PATTERN OPTIONS...
    name=$1 pattern=$2
    shift 2
    octomil simulate "examples/$name.yaml" "$@" >"$work/example" && grep -q -- "$pattern" "$work/example"
}
unpack() { # FOLDER FILES...: out of the shared data, into examples/
    from=$data/$1
    shift
    for f; do gzip -dc "$from/$(basename "$f").gz" >"examples/$f" || return 1; done
}
check example_quadratic example quadratic "^loss [23]\."
check keyboard_texts "$build/keyboard-text" 500 504 40 examples/keyboard
rm -f examples/keyboard/*.heldout.txt
check example_keyboard example keyboard "^loss" --rounds 1 --set clients=4 --set cohort.size=4 \
    --set algorithm.local_steps=1
if [ -r "$data/text/tinyshakespeare.txt.gz" ] && [ -r "$data/models/stories260K.gguf" ]; then
    gzip -dc "$data/text/tinyshakespeare.txt.gz" >plays.txt
    DIR=$work/at/examples/federated-llm sh "$here/bench/federated-llm.sh" data \
        "$data/models/stories260K.gguf" "$work/at/plays.txt"
    check example_federated_llm example federated-llm "^loss" --rounds 1 \
        --set algorithm.local_steps=1 --set cohort.size=3 --set algorithm.batch=2
else
    skip "example federated-llm" "no shared test data"
fi
if [ -r "$data/tabular/libsvm/a9a.gz" ]; then
    check a9a_data unpack tabular/libsvm a9a a9a.t
    check example_a9a example a9a "accuracy 8[45]" --rounds 30
    check example_stragglers example stragglers "^simulated time [1-4][0-9]\." --rounds 40
    mkdir examples/mnist
    check mnist_data unpack images/mnist mnist/train-images-idx3-ubyte \
        mnist/train-labels-idx1-ubyte mnist/t10k-images-idx3-ubyte mnist/t10k-labels-idx1-ubyte
    check example_digits example digits "accuracy [5-9]" --rounds 10 --set data.limit=20000
else
    skip "example a9a, digits" "no shared test data"
fi

# ---- the program in docs/library.md that trains; test_models.sh runs the other ----
sed -n '/^## Training/,$p' "$here/docs/library.md" | sed -n '/^```c$/,/^```$/p' | sed '/^```/d' >train.c
trains() {
    cmake --install "$build" --prefix "$work/prefix" >/dev/null || return 1
    lib=$(dirname "$(find "$work/prefix" -name liboctomil.so | head -n 1)")
    cc $sanitize -std=c99 -Wall -Wextra -o train train.c -I"$work/prefix/include" -L"$lib" -loctomil &&
        LD_LIBRARY_PATH=$lib ./train model.gguf "$(head -c 2000 notes.txt)" adapter >"$work/out" &&
        awk '/^perplexity/ && $4 + 0 < $2 + 0 {n++} END {exit n != 1}' "$work/out"
}
check documented_training trains

# ---- files and links ----
links() {
    bad=0
    for f in "$here/README.md" "$here"/docs/*.md; do
        for to in $(grep -o '](\([a-zA-Z0-9_./-]*\))' "$f" | sed 's/](\(.*\))/\1/'); do
            [ -e "$(dirname "$f")/$to" ] || { echo "$f: no $to"; bad=1; }
        done
    done
    return $bad
}
named_files() { # `cli/cmd_run.c` lies under src/ or at the root; <name> and foo are anybody
    bad=0
    for f in "$here/README.md" "$here"/docs/*.md; do
        for path in $(grep -o '`[a-z_A-Z0-9.]*/[a-zA-Z0-9_./-]*\.[chs][a-z]*`' "$f" | tr -d '`'); do
            case $path in */foo.*) continue ;; esac
            [ -e "$here/src/$path" ] || [ -e "$here/$path" ] || { echo "$f: no $path"; bad=1; }
        done
    done
    return $bad
}
check links links
check named_files named_files
finish
