#!/bin/sh
# The deployed yard, from this tree: stack.sh COMMAND
#
#   build [ARG..] the functions as AWS runs them, at target/lambda/NAME/bootstrap; ARCHITECTURE=arm64 for the other one. ARGs
#                 are cargo's, such as --bin NAME
#   peer ARG..    another package the same way, by cargo's ARGs: what functions are measured beside
#   deploy ENV    deploys them by samconfig.toml's environment ENV, then the policies and the capabilities' task definitions.
#                 WORKER_IMAGE says which image tasks have, and POLICIES from which folder the policies come
#   rollback ENV  deploys what was deployed before: its functions, its template, its parameters. Once more, and it is undone
#   emulate       deploys template.yaml, as it is, to an emulator on this machine: debug builds, users of each role. What is
#                 where, and their keys, lies in target/stack/env afterwards. It has no policies yet, and decides nothing
#   up            the same, with policies, a worker of the fleet, and recorded events to look at
#   again         deploys to that emulator once more, with what lies at target/lambda
#   back          rolls that back
#   with CMD...   runs a command with all of target/stack/env in its environment; what did not run before ends after it
#   env           prints target/stack/env
#   down          ends all of that and leaves nothing of it
#
# The emulator listens on the address of Docker's bridge, where tasks reach it; without an engine on loopback, and no task
# starts. Functions see what the template gives them, and nothing of the environment that this is called in.
set -eu

cd "$(dirname "$0")/.."
root=$(pwd)
build=${CARGO_TARGET_DIR:-$root/target}
state=$root/target/stack
prefix=${PREFIX:-switchyard}
region=us-east-1
# A tree's own: two may share an engine.
image=$prefix-worker:tree-$(printf %s "$root" | cksum | cut -d ' ' -f 1)

sam() { SAM_CLI_TELEMETRY=0 "$build/tools/aws-sam-cli/bin/sam" "$@"; }
stack_py() { "$build/tools/aws-sam-cli/bin/python" infra/stack.py "$@"; }
say() { printf '\n--- %s\n' "$1"; }

functions() { sed -n 's|^ *CodeUri: target/lambda/\(.*\)/$|\1|p' template.yaml; }

# Lambda's image of the operating system has an older C library than most machines: provided.al2023 has glibc 2.34 (AWS Lambda
# Developer Guide, "OS-only runtimes"; Amazon Linux 2023). cargo-lambda links against the one that it is told, and against an
# older one else, whose parts are libraries of their own to load.
for_lambda() {
    sh infra/tools.sh cargo-lambda
    [ "${ARCHITECTURE:-x86_64}" = arm64 ] && processor=aarch64 || processor=x86_64
    # It brings its own linker, which it finds by PATH.
    PATH=$build/tools/cargo-lambda/bin:$PATH \
        cargo lambda build --profile function --locked --target "$processor-unknown-linux-gnu.2.34" "$@"
}

build_functions() {
    for_lambda --package switchyard-functions --lambda-dir target/lambda "$@"
    for name in $(functions); do ship_with "$name"; done
}

# What lies beside a function's bootstrap: ship_with NAME
ship_with() {
    mkdir -p "target/lambda/$1"
    cp infra/amazon-roots.pem "target/lambda/$1/"
}

# sam deploy, for AWS and for the emulator alike: deploy_stack STACK ENV [NAME=VALUE...]
deploy_stack() {
    stack=$1
    environment=$2
    shift 2
    # What is there is what a rollback leads to.
    stack_py remember "$stack" || return
    set -f
    # shellcheck disable=SC2046 # one parameter a word; no value has a blank in it
    failed=0
    sam deploy --config-env "$environment" --stack-name "$stack" --region "${AWS_REGION:-$region}" \
        --parameter-overrides $(stack_py parameters "$environment" "$@") || failed=$?
    set +f
    return "$failed"
}

# The rules, then what they need of task definitions.
deploy_policies() {
    switchyard=$1
    policies=$2
    "$switchyard" policies push --bucket "$POLICY_BUCKET" "$policies"
    "$switchyard" capabilities apply --like "$STACK_WORKER_DEFINITION" --prefix "$STACK_TASK_PREFIX" --policies "$policies"
}

deploy() {
    environment=$1
    : "${WORKER_IMAGE:?the image of tasks, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com/switchyard-worker@sha256:...}"
    sh infra/tools.sh aws-sam-cli
    for name in $(functions); do
        if [ ! -x "target/lambda/$name/bootstrap" ]; then
            echo "target/lambda/$name/bootstrap is missing: make build" >&2
            exit 1
        fi
    done
    cargo build --locked --package switchyard
    # They are pushed when the stack is there, and what is refused then would leave it without.
    "$build/debug/switchyard" policies check "${POLICIES:-policies}"
    name=$(stack_py parameters "$environment" | sed -n 's/^Prefix=//p')
    deploy_stack "$name" "$environment" "WorkerImage=$WORKER_IMAGE" "Architecture=${ARCHITECTURE:-x86_64}"
    outputs=$(stack_py outputs "$name")
    for each in $outputs; do export "${each?}"; done
    deploy_policies "$build/debug/switchyard" "${POLICIES:-policies}"
    echo "the yard answers at $STACK_API_URL"
}

# --- the emulator ----------------------------------------------------------------------------------------------------

docker_answers() { docker version >/dev/null 2>&1; }

bridge() {
    if docker_answers; then
        # Some engines name the gateway only once a container has asked for it: it is the network's first address.
        docker network inspect bridge --format '{{(index .IPAM.Config 0).Subnet}}' |
            python3 -c 'import ipaddress; print(ipaddress.ip_network(input().strip())[1])'
    else
        echo 127.0.0.1
    fi
}

free_port() {
    python3 -c 'import socket, sys; s = socket.socket(); s.bind((sys.argv[1], 0)); print(s.getsockname()[1])' "$1"
}

alive() { [ -s "$state/$1.pid" ] && kill -0 "$(cat "$state/$1.pid")" 2>/dev/null; }

start_emulator() {
    if alive emulator; then return; fi
    rm -f "$state/users"
    sh infra/emulators/run.sh install
    host=$(bridge)
    port=$(free_port "$host")
    endpoint=http://$host:$port
    # With AUTH it checks signatures and permissions as AWS does: the roles of the template are held to what they allow.
    env -i PATH="$PATH" HOME="$state" TMPDIR="$state/tmp" DOCKER_HOST="${DOCKER_HOST:-}" AUTH=true \
        BIND_HOST="$host" MINISTACK_HOST="$host" MINISTACK_HOSTNAME=switchyard GATEWAY_PORT="$port" AWS_ENDPOINT_URL="$endpoint" IOT_MTLS_ENABLED=0 \
        setsid "$build/emulators/ministack/bin/ministack" >"$state/emulator.log" 2>&1 </dev/null &
    echo "$!" >"$state/emulator.pid"
    echo "$endpoint" >"$state/endpoint"
    tries=0
    until python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).read()' \
        "$endpoint/_ministack/health" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 150 ] || ! alive emulator; then
            echo "the emulator does not answer:" >&2
            tail -n 20 "$state/emulator.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

# Keys of the emulator's root, which it knows by this name.
as_root() {
    export AWS_ENDPOINT_URL="$(cat "$state/endpoint")" AWS_REGION=$region AWS_DEFAULT_REGION=$region
    export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true
    unset AWS_PROFILE AWS_SESSION_TOKEN
}

emulate() {
    mkdir -p "$state/tmp"
    sh infra/tools.sh aws-sam-cli
    # As tests are built, so that it is one build.
    cargo build --locked --workspace --all-features --bins
    for name in $(functions); do
        ship_with "$name"
        strip -o "target/lambda/$name/bootstrap" "$build/debug/$name"
    done
    if docker_answers; then sh infra/image.sh "$image"; fi
    start_emulator
    as_root
    again
    (
        umask 077
        {
            for name in AWS_ENDPOINT_URL AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
                eval "echo $name=\$$name"
            done
            stack_py outputs "$prefix" | tee "$state/outputs"
            # By its path the emulator answers without a name to resolve.
            echo "SWITCHYARD_URL=$AWS_ENDPOINT_URL/_aws/execute-api/$(sed -n 's/^STACK_API_ID=//p' "$state/outputs")"
            echo "SWITCHYARD_SIGN=$AWS_REGION"
            echo "STACK_WORKER_IMAGE=$image"
            # A key is told when it is made, and never again.
            if [ ! -s "$state/users" ]; then stack_py users "$prefix" >"$state/users"; fi
            cat "$state/users"
        } >"$state/env.new"
        rm "$state/outputs"
        mv "$state/env.new" "$state/env"
    )
}

again() {
    as_root
    deploy_stack "$prefix" dev "Prefix=$prefix" "WorkerImage=$image" "Operators=user/$prefix-operator" \
        "Submitters=user/$prefix-submitter" "ExtraEventSources=example.scanner" \
        "RecordShards=1" "LendableRoles=arn:aws:iam::000000000000:role/$prefix-lent" "LogLevel=${RUST_LOG:-info}" \
        >"$state/deploy.log" 2>&1 || { tail -n 40 "$state/deploy.log" >&2; exit 1; }
    stack_py bend "$prefix"
}

back() {
    as_root
    stack_py rollback "$prefix"
    stack_py bend "$prefix"
}

rollback() {
    sh infra/tools.sh aws-sam-cli
    stack_py rollback "$(stack_py parameters "$1" | sed -n 's/^Prefix=//p')"
}

# Takes one of the users' keys for its own.
as_user() {
    for each in $(cat "$state/env"); do export "${each?}"; done
    eval "AWS_ACCESS_KEY_ID=\$$1_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY=\$$1_SECRET_ACCESS_KEY"
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
}

up() {
    emulate
    for each in $(cat "$state/env"); do export "${each?}"; done
    switchyard=$build/debug/switchyard
    say "The policies of this tree, and the task definitions of their capabilities"
    deploy_policies "$switchyard" "${POLICIES:-policies}"
    if ! alive worker; then
        say "A worker of the pool standard"
        (
            as_user WORKER
            unset SWITCHYARD_URL SWITCHYARD_SIGN
            exec setsid "$switchyard" worker --pool standard --idle-seconds 86400 >"$state/worker.log" 2>&1 </dev/null
        ) &
        echo "$!" >"$state/worker.pid"
    fi
    as_user OPERATOR
    say "Recorded findings, as EventBridge delivers them"
    for event in ec2-duty-event event-securityhub-iamkey-finding-action event-cloud-trail-create-bucket made/macie-object; do
        "$switchyard" replay --submit "core/tests/events/$event.json"
    done
    "$switchyard" jobs
    say "It is up"
    cat <<END
The API answers at $SWITCHYARD_URL, to signed requests. As its operator:

    set -a; . target/stack/env; AWS_ACCESS_KEY_ID=\$OPERATOR_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY=\$OPERATOR_SECRET_ACCESS_KEY; set +a
    $switchyard jobs

The worker and the emulator log to target/stack. \`make down\` ends it all.
END
}

# Ends a process that this has started, with whatever it started itself: it is the leader of a group.
end() {
    if [ -s "$state/$1.pid" ]; then
        pid=$(cat "$state/$1.pid")
        if kill -0 "$pid" 2>/dev/null; then
            kill -- "-$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
            tries=0
            while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 350 ]; do
                tries=$((tries + 1))
                sleep 0.1
            done
            kill -9 -- "-$pid" 2>/dev/null || true
        fi
    fi
    rm -f "$state/$1.pid"
}

down() {
    if [ ! -d "$state" ]; then return; fi
    end worker
    port=$(sed 's/.*://' "$state/endpoint" 2>/dev/null || true)
    end emulator
    if docker_answers; then
        leave_no_container
        # Those before it, too, which have lost their name to it.
        made=$(docker image ls --all --quiet --filter "label=switchyard.image=$image")
        if [ -n "$made" ]; then docker image rm --force $made >/dev/null; fi
    fi
    rm -rf "$state" target/lambda .aws-sam
}

# Its containers are known by the address that it served on, which it had to itself.
leave_no_container() {
    [ -n "$port" ] || return 0
    for container in $(docker ps --all --quiet --filter "label=ministack.instance=switchyard:$port"); do
        docker rm --force --volumes "$container" >/dev/null
    done
}

case ${1:-} in
build)
    shift
    build_functions "$@"
    ;;
peer)
    shift
    for_lambda "$@"
    ;;
deploy) deploy "${2:?which environment of samconfig.toml}" ;;
rollback) rollback "${2:?which environment of samconfig.toml}" ;;
emulate) emulate ;;
again) again ;;
back) back ;;
up) up ;;
env) cat "$state/env" ;;
with)
    shift
    alive emulator && ran=yes || ran=no
    if [ "$ran" = no ]; then trap down EXIT; fi
    # Also when it is interrupted.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    emulate
    status=0
    (
        for each in $(cat "$state/env"); do export "${each?}"; done
        exec "$@"
    ) || status=$?
    exit "$status"
    ;;
down) down ;;
*)
    sed -n '2,23s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
