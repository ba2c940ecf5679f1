#!/bin/sh
# Shows a yard at work on this machine: recorded findings and jobs of every tier, to every venue one machine has, with
# the reasons and the prices; a retry, a repeat, a crash. Containers too, where an engine answers.
# Usage: demo/run.sh PATH-TO-SWITCHYARD
set -eu
switchyard=$(realpath "$1")
cd "$(dirname "$0")/.."
events=core/tests/events
image=switchyard-demo-probe:1

SWITCHYARD_DATA=$(mktemp -d)
export SWITCHYARD_DATA
policies=$SWITCHYARD_DATA/policies
yard=
containers=
finish() {
    [ -z "$yard" ] || kill -TERM "$yard" 2>/dev/null || true
    [ -z "$yard" ] || wait "$yard" 2>/dev/null || true
    [ -z "$containers" ] || docker image rm --force "$image" >/dev/null 2>&1 || true
    rm -rf "$SWITCHYARD_DATA"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n--- %s\n' "$1"; }
# Prints a command as one would type it, then runs it; `part FILTER` shows only some lines of what it prints.
typed() {
    printf '$ switchyard'
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9./:=_,@%+-]* | '') printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
}
run() { typed "$@"; "$switchyard" "$@" 2>&1; }
part() { filter=$1; shift; typed "$@"; "$switchyard" "$@" 2>&1 | sed -n "$filter"; }
# The id in the JSON form of a job.
id_of() { sed -n 's/^  "id": "\(.*\)",$/\1/p'; }

open_yard() {
    rm -f "$SWITCHYARD_DATA/endpoint"
    RUST_LOG=error "$switchyard" local --listen 127.0.0.1:0 --policies "$policies" --slots 2 &
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

# The shipped policies, and a few capabilities of the demo's own behind them.
cp -r policies "$policies"
cat demo/capabilities.yaml >>"$policies/capabilities.yaml"

# An image of one static program, and nothing else: no registry is asked.
if docker version >/dev/null 2>&1; then
    if rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$SWITCHYARD_DATA/probe" demo/probe.rs \
        && tar -C "$SWITCHYARD_DATA" -c probe | docker import --change 'ENTRYPOINT ["/probe"]' - "$image" >/dev/null; then
        containers=yes
    fi
fi

say "Open a yard on a free port, in an empty folder"
open_yard
port=$(sed 's/.*://' "$SWITCHYARD_DATA/endpoint")
run capabilities

say "A security finding: what it would lead to, step by step"
run replay $events/ec2-duty-event.json --policies "$policies"

say "Findings as EventBridge delivers them: each becomes a job for every policy and resource"
for event in ec2-duty-event event-securityhub-iamkey-finding-action event-cloud-trail-create-bucket \
    event-config-rule-security-group made/macie-object; do
    run replay --submit $events/$event.json
done

say "The same finding again makes no second job; one that nobody maps is kept for later"
run replay --submit $events/ec2-duty-event.json
run replay --submit $events/event-instance-state.json
run unmapped

say "What a triage says"
id=$("$switchyard" jobs --capability finding-triage --limit 1 --json | sed -n 's/^    "id": "\(.*\)",$/\1/p')
part '/"summary"/p;/"score"/p;/"urgency"/p;/"policy"/p' result "$id"

say "An HTTP service graded: inline, in the call that asked for it"
id=$("$switchyard" submit http-check-here "{\"url\":\"http://127.0.0.1:$port/health\"}" --tier synchronous --wait --json | id_of)
part '/^state/p;/^venue/,/^tier/p;/^price/p' job "$id"
part '/^  "grade"/p;/^  "score"/p;/"because"/p' result "$id"

say "It reaches no address that the catalog does not allow, the metadata service least of all"
part '/^state/p;/^why/p' submit http-check '{"url":"http://169.254.169.254/latest/meta-data/"}' --wait || echo "(exit code $?)"

say "Ports scanned: a network tool, so only a worker runs it, and only where the catalog lets it"
part '/^state/p;/^venue/,/^tier/p;/^output/,/open$/p' \
    submit port-scan "{\"target\":\"127.0.0.1\",\"ports\":\"22,80,443,$port\"}" --tier synchronous --wait

say "A day of CloudTrail, in a task of its own: risky calls by principal"
gzip --keep --stdout demo/cloudtrail/2026-10-03.json >"$SWITCHYARD_DATA/2026-10-03.json.gz"
part '/^state/p;/^venue/p;/^output/,/further/p' \
    submit cloudtrail-digest "{\"path\":\"$SWITCHYARD_DATA/2026-10-03.json.gz\"}" --wait

say "Before anybody knows how long it takes: a function first"
printf '{"event":%s}' "$(cat $events/event-config-rule-security-group.json)" >"$SWITCHYARD_DATA/event.json"
part '/^state/p;/^venue/,/^tier/p' submit finding-triage-unmeasured "@$SWITCHYARD_DATA/event.json" --wait

say "A container: what it can see of this machine"
if [ -n "$containers" ]; then
    part '/^state/p;/^venue/p;/^output/,/^result$/p' submit container-view --wait
else
    echo "No container engine answers here, or no static program can be built; then no place runs images:"
    run explain container-view || echo "(exit code $?)"
fi

say "Why there: every place judged, with its start and its price; here, and on AWS"
run explain file-digest '{"path":"/etc/hostname"}'
run explain --aws --run image --expected 300 --network-tools

say "Two hundred jobs in one batch, with their progress"
i=0
while [ $i -lt 200 ]; do
    printf '{"capability":"file-digest","payload":{"path":"/etc/hostname"}}\n'
    i=$((i + 1))
done >"$SWITCHYARD_DATA/batch.ndjson"
run submit --batch "$SWITCHYARD_DATA/batch.ndjson" --wait

say "A failed attempt is retried after a pause; the timeline tells"
id=$("$switchyard" submit flaky --wait --json | id_of)
part '/^state/p;/^attempts/p;/^timeline/,$p' job "$id" --timeline
run logs "$id"

say "The same idempotency key gives the same job; with another body it is refused"
part 1p submit file-digest '{"path":"/etc/hostname"}' --key demo-1
part 1p submit file-digest '{"path":"/etc/hostname"}' --key demo-1
run submit file-digest '{"path":"/etc/passwd"}' --key demo-1 || echo "(exit code $?)"

say "The yard is killed in the middle of a job, and opened again: the job is not lost"
id=$("$switchyard" submit slow --json | id_of)
sleep 1
kill -KILL "$yard"
wait "$yard" 2>/dev/null || true
open_yard
while "$switchyard" job "$id" | grep -q '^state *\(running\|dispatched\)'; do sleep 0.2; done
part '/^state/p;/^attempts/p;/^timeline/,$p' job "$id" --timeline

say "Everything that happened, and what AWS would have charged"
run jobs --limit 8
run cost

say "Stop the yard: nothing is left running"
kill -TERM "$yard"
wait "$yard"
yard=
echo "The yard is closed."
