#!/bin/sh
# Holds a live API to its own description: run.sh SWITCHYARD [EXAMPLES]
# Starts the program given on a folder of its own, and has schemathesis ask it everything that /openapi.json allows, and
# much that it does not. Its tools lie in a folder of their own under the build folder, and are fetched once.
# Exits with 0 when nothing was found, 1 when something was, 77 when the tools cannot be had.
set -eu
switchyard=$1
examples=${2:-20}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tools=${CARGO_TARGET_DIR:-$here/../../target}/conformance
work=$(mktemp -d)
yard=
trap 'if [ -n "$yard" ]; then kill "$yard" 2>/dev/null || true; wait "$yard" 2>/dev/null || true; fi; rm -rf "$work"' EXIT

if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
    { python3 -m venv --clear "$tools" && "$tools/bin/pip" install --quiet --requirement "$here/requirements.txt"; } \
        >"$work/install" 2>&1 || { echo "the tools cannot be had:"; tail -n 3 "$work/install"; exit 77; }
    cp "$here/requirements.txt" "$tools/installed.txt"
fi

"$switchyard" local --data "$work/data" --listen 127.0.0.1:0 --policies "$here/policies" \
    >"$work/out" 2>"$work/log" &
yard=$!
tries=0
until [ -s "$work/data/endpoint" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then echo "the yard does not open:"; cat "$work/log"; exit 1; fi
    sleep 0.1
done

status=0
cd "$work"
SWITCHYARD_TOKEN=$(cat "$work/data/token") "$tools/bin/st" --no-color --config-file "$here/schemathesis.toml" run \
    "$(cat "$work/data/endpoint")/openapi.json" --max-examples "$examples" || status=1
# What the yard says of its own defects counts, whatever its answers were.
if grep -E 'panicked|"ERROR"' "$work/log"; then status=1; fi
exit "$status"
