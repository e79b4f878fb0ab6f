#!/bin/sh
# AUC optimisation beside cross-entropy on the imbalanced tables of the shared data: seeds
# 1 to 5, each with its own split in halves (training, test) and its own dealing to 10
# clients.  Prints a line a run, then for each pair of methods the
# mean difference over the seeds and its 95 % interval (Student, 4 degrees of freedom).
#     bench/imbalanced.sh build/release/octomil ../shared/data [mammography|credit]
set -eu
octomil=$1 data=$2 set=${3:-mammography}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $set in
mammography) zcat "$data/tabular/mammography.csv.gz" ;;
credit) zcat "$data/tabular/UCI_Credit_Card.csv.gz" | sed 1d | cut -d, -f2- ;;
*) echo "no set named $set" >&2 && exit 2 ;;
esac | tr -d "'\"\r" >"$work/all.csv"

# Standardised columns, the last one the label; a row is for training by the seed's coin.
split() {
    awk -F, -v seed="$1" -v train="$work/train" -v test="$work/test" '
    NR == FNR { for (i = 1; i < NF; i++) { s[i] += $i; q[i] += $i * $i } n++; next }
    FNR == 1 { srand(seed); for (i = 1; i < NF; i++) {
        m[i] = s[i] / n; d[i] = sqrt(q[i] / n - m[i] * m[i]); if (d[i] <= 0) d[i] = 1 } }
    { line = ($NF > 0) + 0
      for (i = 1; i < NF; i++) line = line " " i ":" ($i - m[i]) / d[i]
      print line > (rand() < 0.5 ? train : test) }' "$work/all.csv" "$work/all.csv"
}

cat >"$work/conf.yaml" <<YAML
rounds: ${ROUNDS:-60}
clients: 10
model:
  kind: ${KIND:-mlp}
  hidden: ["16"]
data:
  format: libsvm
  path: "$work/train"
  test_path: "$work/test"
algorithm:
  name: fedavg
partition:
  name: dirichlet
  alpha: 1
cohort:
  size: 10
YAML

# name, then what to set; batches are large enough to hold positives
run() {
    name=$1 seed=$2
    shift 2
    "$octomil" simulate "$work/conf.yaml" --quiet --json --threads 1 --set seed="$seed" \
        --set algorithm.batch=128 --set algorithm.local_epochs=1 "$@" |
        tr ',{}' '\n\n\n' | awk -F: -v name="$name" -v seed="$seed" '
        { gsub(/[" ]/, "", $1); v[$1] = $2 }
        END { if (!("auc" in v)) { print name, seed, "failed"; exit }
              printf "%s %s auc %.4f pauc %.4f ap %.4f loss %.4f\n", name, seed, v["auc"],
              v["pauc"], v["ap"], v["loss"] }' | tee -a "$work/runs"
}

# Learning rates: for each method by itself, what had the best AUC of 2 to 4 tried after 60
# rounds on six other splits of mammography (cross-entropy: 1, 2, 4; 2 with clipping).
for seed in 1 2 3 4 5; do
    split $seed
    run cross-entropy $seed --set algorithm.name=fedavg --set algorithm.lr="${LR:-2}"
    run coda $seed --set algorithm.name=coda --set algorithm.lr="${LR_CODA:-0.05}"
    run codasca $seed --set algorithm.name=codasca --set algorithm.lr="${LR_CODA:-0.05}"
    run fedxl-auc $seed --set algorithm.name=fedxl --set algorithm.score=linear \
        --set algorithm.surrogate=logistic --set algorithm.lr="${LR_FEDXL:-0.3}"
    run fedxl-pauc $seed --set algorithm.name=fedxl --set algorithm.objective=pauc \
        --set algorithm.lambda=1 --set algorithm.lr="${LR_PAUC:-0.1}"
    run fedxl-ap $seed --set algorithm.name=fedxl --set algorithm.objective=ap \
        --set algorithm.lr="${LR_AP:-0.3}"
done

awk '
{ for (i = 3; i < NF; i += 2) v[$1, $2, $i] = $(i + 1); names[$1] = 1 }
END { for (name in names) for (k = 1; k <= 3; k++) {
    if (name == "cross-entropy") continue
    what = k == 1 ? "auc" : k == 2 ? "pauc" : "ap"; s = q = next_one = 0
    for (seed = 1; seed <= 5; seed++) {
        if (!((name, seed, what) in v)) { print name, what, "not in all seeds"; next_one = 1 }
        d = v[name, seed, what] - v["cross-entropy", seed, what]; s += d; q += d * d }
    if (next_one) continue
    m = s / 5; half = 2.776 * sqrt((q / 5 - m * m) / 4)
    printf "%-10s - cross-entropy: %s %+.4f +- %.4f\n", name, what, m, half } }' \
    "$work/runs" | sort
