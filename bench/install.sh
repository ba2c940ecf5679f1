#!/bin/sh
# Installs what the Python peers of the benchmarks need: a virtual environment in bench/target with
# the packages of requirements.txt, and a redis-server. Safe to run again, and quick when nothing is
# missing. What cannot be had is named together with the peers that are skipped without it; the other
# peers run all the same.
set -eu

UV_VERSION=0.13.8

bench=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$bench/target/venv
stamp=$venv/installed

skipped() {
    echo "SKIPPED: celery_redis and rq_forking: $1" >&2
}

# --- Python packages -------------------------------------------------------------------------------
wanted="uv $UV_VERSION; $(sha256sum <"$bench/requirements.txt")"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "Python packages: installed already"
else
    mkdir -p "$bench/target"
    rm -rf "$venv"
    if python3 -m venv "$venv" &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" &&
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes \
            --requirement "$bench/requirements.txt"; then
        printf '%s' "$wanted" >"$stamp"
        echo "Python packages: installed into $venv"
    else
        rm -rf "$venv"
        skipped "no Python environment (on Debian: apt-get install python3-venv; or no package index can be reached)"
    fi
fi

# --- redis-server ----------------------------------------------------------------------------------
if command -v redis-server >/dev/null; then
    echo "redis-server: installed already"
elif [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    skipped "no redis-server, and to install it takes root and apt-get"
else
    # The package starts a server at once and at each boot. The peers start their own, so the usual
    # refusal of a start is put in place meanwhile, where there is none, and start at boot is undone.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    if { apt-get update -qq && apt-get install -qq -y --no-install-recommends redis-server; } >/dev/null; then
        if command -v systemctl >/dev/null; then
            systemctl disable --quiet redis-server 2>/dev/null || true
        fi
        echo "redis-server: installed"
    else
        skipped "apt-get could not install redis-server"
    fi
fi
