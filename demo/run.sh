#!/bin/sh
# Shows a yard at work on this machine: events and jobs through every venue, a retry, a repeat, a crash.
# Usage: demo/run.sh PATH-TO-SWITCHYARD
set -eu
switchyard=$(realpath "$1")
cd "$(dirname "$0")/.."
events=core/tests/events

SWITCHYARD_DATA=$(mktemp -d)
export SWITCHYARD_DATA
yard=
finish() {
    [ -z "$yard" ] || kill -TERM "$yard" 2>/dev/null || true
    [ -z "$yard" ] || wait "$yard" 2>/dev/null || true
    rm -rf "$SWITCHYARD_DATA"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n--- %s\n' "$1"; }
# Prints a command, then runs it; `part FILTER` shows only some lines of what it prints.
run() { printf '$ switchyard %s\n' "$*"; "$switchyard" "$@" 2>&1; }
part() { filter=$1; shift; printf '$ switchyard %s\n' "$*"; "$switchyard" "$@" 2>&1 | sed -n "$filter"; }
# The id in the JSON form of a job.
id_of() { sed -n 's/^  "id": "\(.*\)",$/\1/p'; }

open_yard() {
    rm -f "$SWITCHYARD_DATA/endpoint"
    RUST_LOG=warn "$switchyard" local --listen 127.0.0.1:0 --policies demo/policies --slots 2 &
    yard=$!
    tries=0
    until [ -s "$SWITCHYARD_DATA/endpoint" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$yard" 2>/dev/null; then
            echo "the yard did not open" >&2
            exit 1
        fi
        sleep 0.1
    done
}

say "Open a yard on a free port, in an empty folder"
open_yard
run capabilities

say "A security finding arrives: it becomes a job, routed inline, done before the answer"
run replay --submit $events/ec2-duty-event.json
run replay --submit $events/event-securityhub-iamkey-finding-action.json
id=$("$switchyard" jobs --limit 1 --json | sed -n 's/^    "id": "\(.*\)",$/\1/p')
part '/"summary"/p;/"score"/p;/"urgency"/p' result "$id"

say "The same event delivered twice makes no second job; an event nobody knows is an answer"
run replay --submit $events/ec2-duty-event.json
run replay --submit $events/event-instance-state.json

say "A job with an unknown duration: a function of its own, here a process"
printf '{"event":%s}' "$(cat $events/event-config-rule-security-group.json)" >"$SWITCHYARD_DATA/event.json"
part '1,8p' submit finding-triage-unmeasured "@$SWITCHYARD_DATA/event.json" --wait

say "A task on demand, isolated, with a result; and a job in a worker's slot"
run submit inventory --wait
run submit file-digest '{"path":"/etc/hostname"}' --tier synchronous --wait

say "A failed attempt is retried after a pause; the timeline tells"
id=$("$switchyard" submit flaky --wait --json | id_of)
run job "$id" --timeline
run logs "$id"

say "The same idempotency key gives the same job; with another body it is refused"
part 1p submit file-digest '{"path":"/etc/hostname"}' --key demo-1
part 1p submit file-digest '{"path":"/etc/hostname"}' --key demo-1
run submit file-digest '{"path":"/etc/passwd"}' --key demo-1 || echo "(exit code $?)"

say "A delayed job, cancelled before it starts"
id=$("$switchyard" submit slow --delay 600 --json | id_of)
part 1,3p cancel "$id"

say "The yard is killed in the middle of a job, and opened again: the job is not lost"
id=$("$switchyard" submit slow --json | id_of)
sleep 1
kill -KILL "$yard"
wait "$yard" 2>/dev/null || true
open_yard
while "$switchyard" job "$id" | grep -q '^state *\(running\|dispatched\)'; do sleep 0.2; done
part '1,3p;/^attempts/p;/^timeline/,$p' job "$id" --timeline
run logs "$id"

say "Everything that happened"
run jobs

say "Stop the yard: nothing is left running"
kill -TERM "$yard"
wait "$yard"
yard=
echo "The yard is closed."
