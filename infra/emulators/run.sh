#!/bin/sh
# The two emulators of AWS that tests run against: run.sh start | stop | status | endpoints | install | with COMMAND...
#
#   MiniStack 1.5 and moto 5.2, each in an environment of its own under the build folder, from pinned packages with
#   their hashes. They listen on loopback only, keep everything in memory, and forget it when they stop.
#
#   start      installs what is missing, starts what does not run, waits until both answer, and prints their endpoints
#   stop       ends both; nothing is left of them but the installed packages
#   status     whether each answers; exits with 1 when one does not
#   endpoints  prints NAME=URL for each, as `eval` of a shell takes it
#   install    installs, and starts nothing
#   with       runs a command that finds them in its environment; those that did not run before are stopped after it
#
# Starting twice starts once, also from two processes at the same time. Exits with 77 when the packages cannot be had.
set -eu

UV_VERSION=0.13.8

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
home=${CARGO_TARGET_DIR:-$here/../../target}/emulators
mkdir -p "$home"
home=$(CDPATH='' cd -- "$home" && pwd)

installed() {
    [ "$(cat "$home/$1/installed" 2>/dev/null)" = "$(wanted "$1")" ]
}

wanted() {
    echo "uv $UV_VERSION; $(sha256sum <"$here/$1.txt")"
}

install() {
    for name in ministack moto; do
        if installed "$name"; then continue; fi
        if [ ! -x "$home/uv/bin/uv" ]; then
            { python3 -m venv --clear "$home/uv" &&
                "$home/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"; } \
                >"$home/install.log" 2>&1 || unavailable
        fi
        { "$home/uv/bin/uv" venv --quiet --clear "$home/$name" &&
            "$home/uv/bin/uv" pip install --quiet --python "$home/$name/bin/python" --require-hashes \
                --requirement "$here/$name.txt"; } >"$home/install.log" 2>&1 || unavailable
        wanted "$name" >"$home/$name/installed"
    done
}

unavailable() {
    echo "the emulators' packages cannot be had:" >&2
    tail -n 5 "$home/install.log" >&2
    exit 77
}

# A port that nothing listens on just now.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() {
    [ -s "$home/$1.port" ] && python3 - "$(cat "$home/$1.port")" "$2" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=5).read()
except Exception:
    sys.exit(1)
PY
}

health() {
    case $1 in ministack) echo /_ministack/health ;; moto) echo /moto-api/config ;; esac
}

launch() {
    port=$(free_port)
    case $1 in
    ministack)
        # Left to itself it listens on all interfaces, and on a second port for things of the Internet.
        BIND_HOST=127.0.0.1 IOT_MTLS_ENABLED=0 GATEWAY_PORT=$port \
            setsid "$home/ministack/bin/ministack" >"$home/ministack.log" 2>&1 </dev/null &
        ;;
    moto)
        setsid "$home/moto/bin/moto_server" -H 127.0.0.1 -p "$port" >"$home/moto.log" 2>&1 </dev/null &
        ;;
    esac
    echo "$!" >"$home/$1.pid"
    echo "$port" >"$home/$1.port"
}

start() {
    install
    for name in ministack moto; do
        if answers "$name" "$(health "$name")"; then continue; fi
        end "$name"
        launch "$name"
    done
    for name in ministack moto; do
        tries=0
        until answers "$name" "$(health "$name")"; do
            tries=$((tries + 1))
            if [ "$tries" -gt 150 ] || ! kill -0 "$(cat "$home/$name.pid")" 2>/dev/null; then
                echo "$name does not answer:" >&2
                tail -n 20 "$home/$name.log" >&2
                exit 1
            fi
            sleep 0.2
        done
    done
}

# Ends an emulator with whatever it started itself: it is the leader of a group.
end() {
    if [ -s "$home/$1.pid" ]; then
        pid=$(cat "$home/$1.pid")
        # A number that another process has by now is left alone.
        if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$home"; then
            kill -- "-$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
            tries=0
            while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 50 ]; do
                tries=$((tries + 1))
                sleep 0.1
            done
            kill -9 -- "-$pid" 2>/dev/null || true
        fi
    fi
    rm -f "$home/$1.pid" "$home/$1.port"
}

endpoints() {
    for name in ministack moto; do
        if [ ! -s "$home/$name.port" ]; then
            echo "$name does not run" >&2
            exit 1
        fi
    done
    echo "SWITCHYARD_TEST_MINISTACK=http://127.0.0.1:$(cat "$home/ministack.port")"
    echo "SWITCHYARD_TEST_MOTO=http://127.0.0.1:$(cat "$home/moto.port")"
}

if [ "${1:-}" = with ]; then
    shift
    if [ $# = 0 ]; then
        echo "run.sh with: a command is missing" >&2
        exit 64
    fi
    self=$here/run.sh
    sh "$self" status >/dev/null && ran=yes || ran=no
    started=$(sh "$self" start)
    for each in $started; do export "${each?}"; done
    # Also when it is interrupted.
    if [ "$ran" = no ]; then trap 'sh "$self" stop' EXIT; fi
    trap 'exit 130' INT
    trap 'exit 143' TERM
    status=0
    "$@" || status=$?
    exit "$status"
fi

# One at a time: tests of several processes may all want them at once.
exec 9>"$home/lock"
flock 9

case ${1:-} in
# What is started must not hold the lock.
start) start 9>&- && endpoints ;;
stop) for name in ministack moto; do end "$name"; done ;;
status)
    status=0
    for name in ministack moto; do
        if answers "$name" "$(health "$name")"; then
            echo "$name answers at http://127.0.0.1:$(cat "$home/$name.port")"
        else
            echo "$name does not answer"
            status=1
        fi
    done
    exit "$status"
    ;;
endpoints) endpoints ;;
install) install ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
