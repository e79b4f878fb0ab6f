#!/bin/sh
# Measure, each figure beside its peer in one run where a peer is named:
#   OCTOMIL_PEER_BLAS    path of an OpenBLAS shared library (matrix products)
#   OCTOMIL_PEER_PYTHON  a Python that has torch (training steps, aggregation)
# A peer that is not named is said to be absent; nothing is installed for it.
cd "$(dirname "$0")/.." || exit 1
b=build/release/bench
cmake --build build/release --target bench_kern bench_qmat bench_nn bench_sim bench_coord || exit 1
echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs"
date -u '+date: %Y-%m-%d %H:%M UTC'

torch() { # CASE CORETYPE
    if [ -z "$OCTOMIL_PEER_PYTHON" ]; then
        echo "peer absent: set OCTOMIL_PEER_PYTHON to a Python with torch"
        return
    fi
    if [ "$2" ]; then
        OPENBLAS_CORETYPE=$2 OMP_NUM_THREADS=$(nproc) "$OCTOMIL_PEER_PYTHON" bench/torch_train.py "$1" 3
    else
        "$OCTOMIL_PEER_PYTHON" bench/torch_train.py "$1" 3
    fi
}
echo "== matrix products"
$b/bench_kern
echo "== quantized products"
$b/bench_qmat
echo "== training steps: ours, the peer tuned, the peer as installed, ours again"
for case in full:full15m lora:lora110m; do
    $b/bench_nn "${case%%:*}" --steps 5 | tail -n 1
    torch "${case##*:}" SkylakeX
    torch "${case##*:}" ""
    $b/bench_nn "${case%%:*}" --steps 5 | tail -n 1
done
echo "== without AMX; with recomputation"
for case in full lora; do
    OCTOMIL_CPU_MASK=amx $b/bench_nn $case --steps 3 | tail -n 1
done
$b/bench_nn lora --recompute --steps 4 | tail -n 1
echo "== LoRA over an 8-bit and a 4-bit base, integer forward products"
$b/bench_nn lora --type Q8_0 --steps 5 | tail -n 1
$b/bench_nn lora --type Q8_0 --quant --steps 5 | tail -n 1
$b/bench_nn lora --type Q4_0 --quant --steps 5 | tail -n 1
echo "== simulator"
$b/bench_sim
echo "== coordinator"
$b/bench_coord
