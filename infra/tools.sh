#!/bin/sh
# Installs pinned tools, each in an environment of its own under the build folder: tools.sh TOOL...
# TOOL is aws-sam-cli, cargo-lambda, cfn-lint or checkov: a file of tools/ without its ending. What is installed already is
# left. Exits with 77 when the packages cannot be had.
set -eu

UV_VERSION=0.13.8

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
home=${CARGO_TARGET_DIR:-$here/../target}/tools
mkdir -p "$home"
home=$(CDPATH='' cd -- "$home" && pwd)

unavailable() {
    echo "the packages of $1 cannot be had:" >&2
    tail -n 5 "$home/install.log" >&2
    exit 77
}

# One at a time.
exec 9>"$home/lock"
flock 9

for tool in "$@"; do
    wanted="uv $UV_VERSION; $(sha256sum <"$here/tools/$tool.txt")"
    if [ "$(cat "$home/$tool/installed" 2>/dev/null)" = "$wanted" ]; then continue; fi
    if [ ! -x "$home/uv/bin/uv" ]; then
        { python3 -m venv --clear "$home/uv" &&
            "$home/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"; } \
            >"$home/install.log" 2>&1 || unavailable uv
    fi
    { "$home/uv/bin/uv" venv --quiet --clear "$home/$tool" &&
        "$home/uv/bin/uv" pip install --quiet --python "$home/$tool/bin/python" --require-hashes \
            --requirement "$here/tools/$tool.txt"; } >"$home/install.log" 2>&1 || unavailable "$tool"
    echo "$wanted" >"$home/$tool/installed"
done
