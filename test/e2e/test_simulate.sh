#!/bin/sh
# init and simulate: a federation in one process, the same bits for any threads, resumed,
# and what is not there refused by name.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

sha() { sed -n 's/.*"model_sha256":"\([0-9a-f]*\)".*/\1/p' "$1"; }
same() { [ -n "$(sha "$1")" ] && [ "$(sha "$1")" = "$(sha "$2")" ]; }
run() { # output file, arguments
    out=$1
    shift
    "$octomil" simulate --quiet --json "$@" >"$out"
}

check init "$octomil" init bowl --kind quadratic --codec topk --set codec.ratio=0.1 --rounds 30
check commented grep -q "# same seed, same result" bowl.yaml
refuse twice 1 "there already" "$octomil" init bowl
check one-thread run one.json bowl.yaml --threads 1 --out one
check four-threads run four.json bowl.yaml --threads 4 --out four
check same-bits same one.json four.json
check half run half.json bowl.yaml --rounds 12 --out half
check resumed run resumed.json bowl.yaml --out half --resume
check same-after-resume same one.json resumed.json
check rows [ "$(wc -l <half/results.csv)" -eq 31 ]
check json-rows [ "$(wc -l <half/results.jsonl)" -eq 30 ]
check curve grep -q "<svg" one/curve.svg
refuse other-run 2 "another configuration" "$octomil" simulate bowl.yaml --out half --resume --set seed=9
check sweep sh -c "'$octomil' simulate --quiet --json bowl.yaml --rounds 6 --out sweep \
    --sweep algorithm.lr=0.1,0.01 --sweep codec.ratio=0.1,0.2,0.3 >sweep.json"
check sweep-rows [ "$(wc -l <sweep.json)" -eq 6 ]
check sweep-table [ "$(sed -n 5p sweep/sweep.csv | cut -d, -f1-4)" = "4,0.01,0.1,6" ]
check sweep-single run single.json bowl.yaml --rounds 6 --set algorithm.lr=0.01 \
    --set codec.ratio=0.2 --out single
check sweep-same cmp single/run.sim sweep/run-5/run.sim
check sweep-curves [ "$(grep -o '<svg' sweep/report.html | wc -l)" -eq 3 ]
check sweep-legend grep -q "lr=0.01 ratio=0.3" sweep/report.html
check sweep-on "$octomil" simulate --quiet bowl.yaml --rounds 8 --out sweep --resume \
    --sweep algorithm.lr=0.1,0.01 --sweep codec.ratio=0.1,0.2,0.3
check sweep-longer [ "$(sed -n 5p sweep/sweep.csv | cut -d, -f1-4)" = "4,0.01,0.1,8" ]
# versions instead of rounds, and their time
slow="--set devices.compute=0.01 --set devices.speed=lognormal --set cohort.size=4"
# shellcheck disable=SC2086
check time sh -c "'$octomil' simulate --quiet --json bowl.yaml $slow --set buffer_size=0 \
    --sweep async_mode=false,true --rounds 20 --out time >time.json"
# shellcheck disable=SC2086
check async-again run async.json bowl.yaml $slow --set async_mode=true --rounds 20 --out again --threads 3
check async-same cmp again/run.sim time/run-2/run.sim
seconds() { sed -n "$1s/.*\"simulated_seconds\":\([0-9.e+-]*\).*/\1/p" time.json; }
check async-faster awk -v a="$(seconds 1)" -v b="$(seconds 2)" 'BEGIN {exit !(b > 0 && b < a)}'
check time-column awk -F, 'NR == 1 {t = $14 == "simulated_seconds"} NR > 2 && $14 < last {t = 0} {last = $14}
    END {exit !t}' time/run-2/results.csv
check time-axis grep -q "simulated seconds" time/report.html
refuse no-rounds 2 "choose fedavg" "$octomil" simulate bowl.yaml --set codec.name=identity --set algorithm.name=rennala --set async_mode=false
refuse no-buffer 2 "nearest: fedbuff" "$octomil" simulate bowl.yaml --set codec.name=identity --set algorithm.name=fedasync --set buffer_size=3
refuse for-async 2 "async_mode to true" "$octomil" simulate bowl.yaml --set staleness_bound=3
refuse by-rounds-alone 2 "goes by rounds alone" "$octomil" simulate bowl.yaml --set codec.name=identity --set algorithm.name=scaffold --set async_mode=true
refuse network 1 "the network goes by" "$octomil" server --config bowl.yaml --dir srv --listen 127.0.0.1:0 --set async_mode=true
refuse sweep-folder 2 "out DIR" "$octomil" simulate bowl.yaml --sweep seed=1,2
refuse sweep-text 2 "KEY=VALUE" "$octomil" simulate bowl.yaml --sweep seed --out x
refuse sweep-key 2 "'algorithm'" "$octomil" simulate bowl.yaml --sweep algoritm.lr=1,2 --out x
refuse no-folder 2 "out DIR" "$octomil" simulate bowl.yaml --resume
refuse unknown-key 2 "'algorithm'" "$octomil" simulate bowl.yaml --set algoritm.lr=1
refuse range 2 "between" "$octomil" simulate bowl.yaml --set algorithm.lr=-1
refuse cohort 2 "asks" "$octomil" simulate bowl.yaml --set cohort.size=200
refuse diverges 1 "model is kept" "$octomil" simulate bowl.yaml --set algorithm.lr=1e5 --rounds 50
refuse quantization 1 "'4bit' is not available" "$octomil" init x --quantization 4bit
refuse pruning 1 "'sparse-proxskip' is not available" "$octomil" init x --pruning sparse-proxskip
refuse kind 2 "llm|logistic" "$octomil" init x --kind lama
check lora "$octomil" init words --lora rank=16
check lora-rank grep -q "rank: 16" words.yaml
check not-written [ ! -e x.yaml ]

if [ -f "$data/tabular/libsvm/a9a.gz" ]; then
    gzip -dc "$data/tabular/libsvm/a9a.gz" >a9a
    check init-a9a "$octomil" init adult --kind logistic --set data.path=a9a --codec qsgd --rounds 20 --set algorithm.lr=0.5
    check a9a run a9a.json adult.yaml
    check a9a-accuracy grep -q '"accuracy":0.8[45]' a9a.json
    gzip -c a9a >a9a.gz
    refuse gzipped 1 "gunzip" "$octomil" simulate adult.yaml --set data.path=a9a.gz
else
    skip a9a "no shared test data"
fi

if [ -f "$data/models/stories260K.gguf" ] && [ -f "$data/text/tinyshakespeare.txt.gz" ]; then
    gzip -dc "$data/text/tinyshakespeare.txt.gz" | head -c 12000 >play
    mkdir texts
    for i in 1 2 3; do tail -c "$((i * 3000))" play | head -c 2500 >texts/$i; done
    check init-llm "$octomil" init play --model "$data/models/stories260K.gguf" --data texts \
        --lora rank=4 --clients 3 --rounds 2 --set cohort.size=2 --set algorithm.local_steps=3 \
        --set algorithm.batch=2 --set data.seq_len=32 --set algorithm.local_optimizer=adamw \
        --set algorithm.lr=0.005 --codec topk --set codec.ratio=0.2
    check llm-one run llm1.json play.yaml --threads 1 --out llm
    check llm-two run llm2.json play.yaml --threads 2
    check llm-same-bits same llm1.json llm2.json
    check llm-learns awk -F, 'NR == 2 {a = $5} NR == 3 {b = $5} END {exit !(b < a)}' llm/results.csv
    refuse no-model 2 "model.path" "$octomil" simulate words.yaml
else
    skip llm "no shared test data"
fi
finish
