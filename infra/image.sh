#!/bin/sh
# An image of the worker as this tree builds it, made of nothing else than it needs: image.sh NAME:TAG
#
#   For tests and for `make up`, where no registry is at hand: the debug build, and the libraries that it is linked to, as
#   this machine has them. infra/Dockerfile makes the image that is deployed.
#   Its credentials are the emulator's own: a task there is told of credentials at an address that no client of AWS may
#   trust (only those of ECS and EKS itself are).
set -eu

cd "$(dirname "$0")/.."
name=${1:?the image to make, NAME:TAG}
switchyard=${CARGO_TARGET_DIR:-target}/debug/switchyard
if [ ! -x "$switchyard" ]; then
    echo "$switchyard is missing: cargo build --package switchyard" >&2
    exit 1
fi
layer=$(mktemp -d)
trap 'rm -rf "$layer"' EXIT

mkdir -p "$layer/usr/bin" "$layer/etc"
mkdir -m 1777 "$layer/tmp"
strip -o "$layer/usr/bin/switchyard" "$switchyard"
# Where the loader finds them: at the very paths that it names here.
for library in $(ldd "$switchyard" | grep -o '/[^ ]*'); do
    mkdir -p "$layer$(dirname "$library")"
    cp -L "$library" "$layer$library"
done
# Whom a client of AWS trusts: without a single certificate it does not start.
mkdir -p "$layer/etc/ssl/certs"
cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$layer/etc/ssl/certs/ca-certificates.crt"
# What a name is resolved by, and nobody to be.
echo 'hosts: files dns' >"$layer/etc/nsswitch.conf"
echo 'worker:x:65532:65532::/tmp:/usr/bin/switchyard' >"$layer/etc/passwd"

tar -C "$layer" -c . | docker import \
    --change 'USER 65532:65532' \
    --change 'ENV PATH=/usr/bin TMPDIR=/tmp AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test' \
    --change "LABEL switchyard.image=$name" \
    --change 'ENTRYPOINT ["/usr/bin/switchyard", "worker", "--once"]' \
    - "$name" >/dev/null
