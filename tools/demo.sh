#!/bin/sh
# The demo on its own model and texts: eight users of a keyboard in a town the model
# hardly knows, each with private messages.  Further arguments go to `octomil demo`; with --model and --data it runs on
# yours.     tools/demo.sh PATH_OF_OCTOMIL [ARGUMENT...]
octomil=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
build=$(dirname "$octomil")
out=octomil-demo
own=yes
for argument; do
    case $argument in --data | --data=* | -d) own=no ;; esac
done
rm -rf "$out"
if [ $own = yes ]; then
    texts=$(mktemp -d)
    trap 'rm -rf "$texts"' EXIT
    "$build/keyboard-text" 1000 1008 160 "$texts" || exit 1
    first=$(head -c 200 "$texts/user-1000.txt" | head -n 1 | cut -d: -f1)
    "$octomil" demo --model "$here/demo/keyboard.gguf" --data "$texts" --out "$out" \
        --prompt "$first:" "$@"
else
    "$octomil" demo --out "$out" "$@"
fi
