#!/usr/bin/env bash
# table.sh - accuracy of every aggregator under every attack, as a Markdown table.
#
#     examples/byzantine/table.sh OCTOMIL IMAGES [KEY=VALUE...]
#
# IMAGES holds the four unpacked IDX files of MNIST or Fashion-MNIST.  The federation is
# images.yaml beside this script: 20 clients of which 6 are hostile; KEY=VALUE go to
# octomil simulate --set, such as partition.name=dirichlet.  Cells are the accuracy on the
# test images in per cent; the first row has nobody hostile; the backdoor column gives
# accuracy / part of triggered images that go where the attacker wants.
set -euo pipefail
octomil=$1 images=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
sets=()
for kv in "$@"; do sets+=(--set "$kv"); done
attacks="none sign_flip label_flip alie ipm foe mimic gaussian bit_flip backdoor nan free_ride sybil"
rules=(
    "mean"
    "mean pre=arc+nnm"
    "mean screen=2"
    "mean screen=1.5"
    "mean screen=1.1"
    "median"
    "median pre=nnm"
    "trimmed_mean"
    "trimmed_mean pre=nnm"
    "trimmed_mean pre=arc+nnm"
    "meamed"
    "krum"
    "multi_krum"
    "geometric_median"
    "geometric_median pre=nnm"
    "centered_clipping"
    "mda"
    "fltrust trusted=2" # an honest one under seed 1
)
accuracy() { # aggregator-words attack
    local words=($1) args=()
    args+=(--set "aggregator.name=${words[0]}" --set aggregator.num_byzantine=6)
    for kv in "${words[@]:1}"; do args+=(--set "aggregator.$kv"); done
    if [ "$2" != none ]; then args+=(--set "attack.name=$2" --set attack.attackers=0.3); fi
    "$octomil" simulate "$here/images.yaml" --json --quiet \
        --set "data.path=$images/train-images-idx3-ubyte" \
        --set "data.labels=$images/train-labels-idx1-ubyte" \
        --set "data.test_path=$images/t10k-images-idx3-ubyte" \
        --set "data.test_labels=$images/t10k-labels-idx1-ubyte" \
        "${args[@]}" ${sets[@]+"${sets[@]}"} 2>/dev/null |
        sed -n 's/.*"accuracy":\([0-9.e-]*\),"backdoor":\([0-9.a-z-]*\),.*/\1 \2/p' |
        awk '{ printf $2 == "null" ? "%.1f" : "%.1f / %.0f", 100 * $1, 100 * $2 }'
}
printf '| aggregator |'
for a in $attacks; do printf ' %s |' "$a"; done
printf '\n|---|'
for a in $attacks; do printf -- '---|'; done
printf '\n'
for rule in "${rules[@]}"; do
    printf '| %s |' "$rule"
    for a in $attacks; do printf ' %s |' "$(accuracy "$rule" "$a")"; done
    printf '\n'
done
