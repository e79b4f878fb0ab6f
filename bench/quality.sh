#!/bin/sh
# Quality against size: every method at every size on one model and held-out text, beside
# llama.cpp's types with its own importance matrix.
#     bench/quality.sh BUILD_FOLDER MODEL.gguf CALIBRATION.txt HELDOUT.txt [OUT_FOLDER]
# Files and tables are left in OUT_FOLDER (BUILD_FOLDER/quality).  With OCTOMIL_LLAMA_BIN set
# to a folder with llama-quantize, llama-imatrix and llama-perplexity the peer's files are
# made and measured too; that program cannot read the rotated types and this one not its
# two- and three-bit ones, so each measures its own with the same windows (512 tokens, the
# second half of each scored), and both measure the standard types once as a cross-check.
# TOKENS (default all) limits the text of every measurement, CALIBRATION_TOKENS (65536) what
# is calibrated on, SIZES which bits, METHODS which methods.
set -e
build=$1 model=$2 calibration=$3 heldout=$4
out=${5:-$build/quality}
tokens=${TOKENS:-0} most=${CALIBRATION_TOKENS:-65536}
mkdir -p "$out"

make_one() { # METHOD BITS [options]
    method=$1 bits=$2
    shift 2
    [ -e "$out/$method-$bits.gguf" ] ||
        "$build/octomil" quantize "$model" "$out/$method-$bits.gguf" --method "${method%%_*}" \
            --bits "$bits" --quiet "$@"
}
for bits in ${SIZES:-2 3 4 5}; do
    for method in ${METHODS:-rtn kquant gptq higgs higgs_data}; do
        case $method in
        rtn | higgs) make_one "$method" "$bits" ;;
        *) make_one "$method" "$bits" --calibration "$calibration" --calibration-tokens "$most" ;;
        esac
    done
done
"$build/octomil" eval "$out"/*-[2-8].gguf --reference "$model" --text "$heldout" --context 512 \
    --halves --max-tokens "$tokens" --plot "$out/quality.svg" | tee "$out/quality.txt"

[ "$OCTOMIL_LLAMA_BIN" ] || exit 0
bin=$OCTOMIL_LLAMA_BIN
chunks=-1
[ "$tokens" = 0 ] || chunks=$((tokens / 512))
[ -e "$out/llama.imatrix" ] || "$bin/llama-imatrix" -m "$model" -f "$calibration" -c 512 \
    -o "$out/llama.imatrix" >"$out/llama.log" 2>&1
[ -e "$out/base.kld" ] || "$bin/llama-perplexity" -m "$model" -f "$heldout" -c 512 \
    --chunks "$chunks" --kl-divergence-base "$out/base.kld" >>"$out/llama.log" 2>&1
for type in ${PEER_TYPES:-IQ2_XXS IQ2_XS IQ2_M Q2_K IQ3_XXS IQ3_S Q3_K_M IQ4_XS Q4_K_S Q4_K_M Q5_K_M}; do
    file=$out/llama-$type.gguf
    [ -e "$file" ] || "$bin/llama-quantize" --imatrix "$out/llama.imatrix" "$model" "$file" \
        "$type" >>"$out/llama.log" 2>&1
    "$bin/llama-perplexity" -m "$file" -f "$heldout" -c 512 --chunks "$chunks" \
        --kl-divergence-base "$out/base.kld" --kl-divergence >"$out/llama-$type.txt" 2>&1
    awk -v type="$type" -v bytes="$(wc -c <"$file")" '/^Mean PPL\(Q\)/ { p = $4 " +- " $6 }
        /^Mean    KLD/ { k = $3 " +- " $5 } /^Same top p/ { s = $4 }
        END { printf "%-28s %10d  perplexity %s  KL %s  same top %s%%\n", type, bytes, p, k, s }' \
        "$out/llama-$type.txt"
done | tee "$out/llama.txt"
