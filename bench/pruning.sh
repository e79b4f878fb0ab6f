#!/bin/sh
# Pruning: method, structure and sparsity against perplexity, bytes and tokens a second.
#     bench/pruning.sh BUILD_FOLDER MODEL.gguf CALIBRATION.txt HELDOUT.txt [OUT_FOLDER]
# Files and tables are left in OUT_FOLDER (BUILD_FOLDER/pruning).  TOKENS (32768) limits the
# held-out text, CALIBRATION_TOKENS (16384) what is calibrated on, SPARSITY (0.5) what goes,
# MASKS (40) the losses a round of forward-only; METHODS and STRUCTURES which.  SPEED=0
# leaves out the speed, which wants a quiet machine.
set -e
build=$1 model=$2 calibration=$3 heldout=$4
out=${5:-$build/pruning}
sparsity=${SPARSITY:-0.5}
mkdir -p "$out"

for structure in ${STRUCTURES:-unstructured 2:4 channel channel+head layer}; do
    case $structure in
    layer) methods="depth forward-only" ;;
    channel*) methods="magnitude wanda ria symmetric-wanda thanos forward-only" ;;
    *) methods="magnitude wanda ria symmetric-wanda sparsegpt thanos" ;;
    esac
    for method in ${METHODS:-$methods}; do
        file=$out/$method-$structure-$sparsity.gguf
        [ -e "$file" ] || "$build/octomil" prune "$model" "$file" --method "$method" \
            --structure "$structure" --target-sparsity "$sparsity" --masks "${MASKS:-40}" \
            --step 0.17 --calibration "$calibration" \
            --calibration-tokens "${CALIBRATION_TOKENS:-16384}" --quiet
    done
    set -- "$out"/*-"$structure-$sparsity".gguf
    "$build/octomil" eval "$@" --reference "$model" --text "$heldout" --context 512 --halves \
        --max-tokens "${TOKENS:-32768}" --quiet | tee "$out/$structure-$sparsity.txt"
done

[ "$SPEED" = 0 ] && exit 0
for file in "$model" "$out"/*-channel*"$sparsity".gguf "$out"/*-layer-"$sparsity".gguf; do
    echo "$file"
    "$build/octomil" bench "$file" ${SPEED_ARGS:-}
done | tee "$out/speed-$sparsity.txt"
