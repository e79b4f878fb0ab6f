#!/bin/sh
# Ranks of octomil-mpi simulate one federation: one, two and four give the same bits,
# results and checkpoint as the program alone, however clients are dealt, with state and
# without; a client that fails ends all.  Skipped where MPI is not installed.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

mpi=$build/octomil-mpi
if [ ! -x "$mpi" ] || ! command -v mpirun >/dev/null; then
    skip mpi "no MPI here"
    finish
fi
root=
[ "$(id -u)" -eq 0 ] && root=--allow-run-as-root
ranks() { # how many, then arguments of octomil-mpi
    n=$1
    shift
    timeout 100 mpirun $root --oversubscribe -n "$n" "$mpi" "$@"
}
sha() { sed -n 's/.*"model_sha256":"\([0-9a-f]*\)".*/\1/p' "$1"; }
same() { [ -n "$(sha "$1")" ] && [ "$(sha "$1")" = "$(sha "$2")" ]; }
run() { # ranks, name of the output, arguments
    n=$1 name=$2
    shift 2
    ranks "$n" simulate --quiet --json --threads 1 "$@" >"$name.json" &&
        [ "$(wc -l <"$name.json")" -eq 1 ] # rank 0 alone speaks
}

check init "$octomil" init bowl --kind quadratic --codec topk --rounds 12 \
    --set codec.ratio=0.1 --set cohort.size=13 --set cohort.dropout=0.2
check alone sh -c "'$octomil' simulate --quiet --json bowl.yaml --out alone >alone.json"
check one run 1 one bowl.yaml
check two run 2 two bowl.yaml --out two
check four run 4 four bowl.yaml
check one-same same alone.json one.json
check two-same same alone.json two.json
check four-same same alone.json four.json
check checkpoint cmp alone/run.sim two/run.sim
cut -d, -f1-10 alone/results.csv >alone.rows # without the seconds
cut -d, -f1-10 two/results.csv >two.rows
check rows cmp alone.rows two.rows
check states "$octomil" simulate --quiet bowl.yaml --set codec.name=identity \
    --set algorithm.name=scaffold --set cohort.dropout=0 --out s1
check two-states ranks 2 simulate --quiet bowl.yaml --set codec.name=identity \
    --set algorithm.name=scaffold --set cohort.dropout=0 --out s2
check states-same cmp s1/run.sim s2/run.sim
check half run 2 half bowl.yaml --rounds 5 --out half
check resumed-alone sh -c "'$octomil' simulate --quiet --json bowl.yaml --out half --resume >r.json"
check resumed-same same alone.json r.json

awk 'BEGIN { srand(3); for (i = 0; i < 600; i++) printf "%d 1:%.3f 2:%.3f\n",
    (rand() < 0.5) * 2 - 1, rand(), rand() }' >rows
check init-rows "$octomil" init rows --kind logistic --set data.format=libsvm \
    --set data.path=rows --clients 20 --rounds 6 --set cohort.size=9 \
    --set partition.name=power
check rows-alone sh -c "'$octomil' simulate --quiet --json rows.yaml >rows1.json"
check rows-size run 3 rows3 rows.yaml --placement size
check rows-same same rows1.json rows3.json
refuse diverges 1 "model is kept" ranks 2 simulate bowl.yaml --set algorithm.lr=1e5 --rounds 50
finish
