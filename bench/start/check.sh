#!/bin/sh
# Builds one function as it is shipped, and holds it to what AWS runs: check.sh [FUNCTION]
# job_reaper unless another is named. Fails when it needs a newer C library than Lambda's has, when its ZIP is much larger
# than it was, or when it carries a reader of YAML. All of the functions, and how they start, are measured by `make bench`.
# Exits with 77 when cargo-lambda cannot be had.
set -eu

# provided.al2023 has glibc 2.34 (AWS Lambda Developer Guide, "OS-only runtimes"; Amazon Linux 2023).
GLIBC=2.34

cd "$(dirname "$0")/../.."
function=${1:-job_reaper}
# A guard, and no aim: what the largest has become by the look of BENCHMARKS.md, and a tenth. Lambda itself takes 50 MB.
zip_bytes=6600000
sh infra/stack.sh build --bin "$function"
bootstrap=target/lambda/$function/bootstrap

versions=$(readelf --version-info --wide "$bootstrap" | grep -o 'GLIBC_[0-9][0-9.]*' | sort -uV)
if [ -z "$versions" ]; then
    echo "$bootstrap names no version of the C library: readelf cannot read it" >&2
    exit 1
fi
newest=$(echo "$versions" | tail -n 1)
if [ "$(printf '%s\n' "GLIBC_$GLIBC" "$newest" | sort -V | tail -n 1)" != "GLIBC_$GLIBC" ]; then
    echo "$bootstrap needs $newest, and Lambda has $GLIBC" >&2
    exit 1
fi
python3 -B - "$bootstrap" "$zip_bytes" <<'PY'
import os, sys
sys.path[:0] = ["bench/start"]
from start import zipped_mb
path, most = sys.argv[1], int(sys.argv[2]) / 1e6
size = zipped_mb(path)
print(f"{path}: {os.path.getsize(path) / 1e6:.2f} MB, as a ZIP {size:.2f} MB of at most {most:.2f} MB")
sys.exit(size > most)
PY
# Policies are JSON where a function reads them: with a reader of YAML it would carry half a megabyte that it never uses.
# The names of crates stand in it, in the places that panics would name.
if ! grep -q aws-smithy-runtime "$bootstrap" || grep -q serde-saphyr "$bootstrap"; then
    echo "$bootstrap has a reader of YAML in it, or no names to tell by" >&2
    exit 1
fi
echo "$bootstrap: needs $newest of the C library, and Lambda has $GLIBC"
