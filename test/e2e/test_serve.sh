#!/bin/sh
# `octomil serve` from outside: the official openai client over every listed feature, the
# chat page in a browser, keys, shutting down.  Parts whose program is absent are skipped.
. "$(dirname "$0")/lib.sh"

head -c 20000 "$here/README.md" >"$work/text.txt"
check model "$octomil" create "$work/tiny.gguf" --text "$work/text.txt" --vocab 400 --dim 32 \
    --layers 2 --heads 2 --context 2048
check adapter "$octomil" train --model "$work/tiny.gguf" --data "$work/text.txt" --steps 40 \
    --lr 0.05 --rank 8 --target-modules all --quiet --out "$work/adapter"

start() { # OPTIONS...: the server's address in $url
    "$octomil" serve "$@" --listen 127.0.0.1:0 >"$work/serve.out" 2>"$work/serve.err" &
    serve=$!
    url=
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        url=$(sed -n 's/^listening on //p' "$work/serve.out")
        [ "$url" ] && return
        sleep 0.2
    done
    cat "$work/serve.err"
    return 1
}
stop() {
    kill -INT $serve
    wait $serve
    [ $? -eq 0 ] || [ $? -eq 130 ]
}

check starts start "$work/tiny.gguf" --chat-template chatml --api-key secret --api-key other \
    --adapter "styled=$work/adapter"
auth="Authorization: Bearer secret"
is() { # PATTERN CURL_ARGUMENTS...
    pattern=$1
    shift
    curl -s -m 60 "$@" | tee "$work/answer" | grep -q -- "$pattern" || { cat "$work/answer"; return 1; }
}
check health is '"ok"' "$url/health"
check needs_key is invalid_api_key "$url/v1/models"
check wrong_key is invalid_api_key -H "Authorization: Bearer secre" "$url/v1/models"
check second_key is '"styled"' -H "Authorization: Bearer other" "$url/v1/models"
check foreign_page is foreign_origin -H "$auth" -H "Origin: http://evil.example" "$url/v1/models"
check own_page is '"tiny"' -H "$auth" -H "Origin: $url" "$url/v1/models"
check metrics is '^octomil_steps_total' -H "$auth" "$url/metrics"
check no_route is '"error"' "$url/v2"
check bad_json is 'json: byte' -H "$auth" -d '{"model":' "$url/v1/chat/completions"
check not_object is 'JSON object' -H "$auth" -d '[]' "$url/v1/completions"
check page is '<title>octomil' "$url/"

# ---- the official client ----
package=${OCTOMIL_NPM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/octomil-test}
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    skip openai_client "node or npm is absent"
elif [ ! -d "$package/node_modules/openai" ] &&
    ! timeout 120 npm install --silent --no-audit --no-fund --prefix "$package" openai@6 >/dev/null 2>&1; then
    skip openai_client "the openai package cannot be installed"
else
    timeout 300 node "$here/test/e2e/serve/openai_client.mjs" "$url" secret tiny styled \
        "$package/node_modules/openai" >"$work/client" 2>&1
    line=$(tail -n 1 "$work/client")
    case $line in
    *" passed, "*)
        passed=$((passed + $(echo "$line" | sed 's/ passed.*//')))
        failed=$((failed + $(echo "$line" | sed 's/.*passed, \([0-9]*\) failed.*/\1/')))
        grep -A 6 '^FAIL' "$work/client"
        ;;
    *)
        cat "$work/client"
        failed=$((failed + 1))
        ;;
    esac
fi
check shuts_down stop

# ---- the page in a browser: it says the question and shows an answer ----
check starts_again start "$work/tiny.gguf" --chat-template chatml
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
dom() {
    timeout 60 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/browser" \
        --virtual-time-budget=8000 --dump-dom "$url/?q=Hello%20page" >"$work/dom" 2>/dev/null
    grep -q 'class="m user">Hello page' "$work/dom" &&
        grep -q '<option[^>]*>tiny' "$work/dom" &&
        grep -q 'class="m assistant">[^<]' "$work/dom" || { cat "$work/dom"; return 1; }
}
if [ "$browser" ]; then check chat_page dom; else skip chat_page "no chromium"; fi

# ---- what docs/server.md tells to type ----
awk -v url="$url" '/^```/ { sh = !sh && /sh/; if (!sh && cmd) { print cmd; cmd = "" } next }
    sh { gsub(/http:\/\/127\.0\.0\.1:8080/, url); cmd = cmd $0 " " }' "$here/docs/server.md" >"$work/curls"
check finds_curls [ "$(wc -l <"$work/curls")" -ge 2 ]
while IFS= read -r line; do
    documented() { eval "$line" 2>/dev/null | tee "$work/answer" | grep -q '"finish_reason"'; }
    check "$line" documented </dev/null
done <"$work/curls"

# ---- shutting down ends streams; what is not served is refused ----
curl -s -m 60 -N -d '{"prompt":"x","max_tokens":400,"stream":true,"ignore_eos":true,"n":8}' \
    "$url/v1/completions" >"$work/stream" &
reader=$!
sleep 0.3
check shuts_down_busy stop
wait $reader
check stream_ended grep -q 'data: ' "$work/stream"
refuse no_key_outside 2 "api-key" "$octomil" serve "$work/tiny.gguf" --listen 0.0.0.0:0
refuse twice 2 "NAME=PATH" "$octomil" serve "$work/tiny.gguf" "$work/tiny.gguf" --listen 127.0.0.1:0
refuse no_template 2 "chat template" "$octomil" serve "$work/tiny.gguf" --chat-template none \
    --listen 127.0.0.1:0
finish
