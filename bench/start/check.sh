#!/bin/sh
# Builds one function as it is shipped, and holds it to what AWS runs: check.sh [FUNCTION]
# http_api, the largest, unless another is named. Fails when it needs a newer C library than Lambda's has, when its ZIP has over
# 5 MB, when a start has more to relocate than it had, or when it carries what no function needs: tables for unwinding, a reader
# of YAML. All of the functions, and how they start, are measured by `make bench`.
# Exits with 77 when cargo-lambda cannot be had.
set -eu

# provided.al2023 has glibc 2.34 (AWS Lambda Developer Guide, "OS-only runtimes"; Amazon Linux 2023).
GLIBC=2.34

cd "$(dirname "$0")/../.."
function=${1:-http_api}
# What http_api is to have at most. Lambda itself takes 50 MB.
zip_bytes=5000000
# Pages of 4 KiB that a start copies because the loader writes addresses into them: the part of its time that can be counted.
# A guard: http_api has 149, BENCHMARKS.md says where from.
relocated_pages=155
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
python3 -B - "$bootstrap" "$zip_bytes" "$relocated_pages" <<'PY'
import os, sys
sys.path[:0] = ["bench/start"]
from start import relocated_pages, zipped_mb
path, most_mb, most_pages = sys.argv[1], int(sys.argv[2]) / 1e6, int(sys.argv[3])
size, pages = zipped_mb(path), relocated_pages(path)
print(f"{path}: {os.path.getsize(path) / 1e6:.2f} MB, as a ZIP {size:.2f} MB of at most {most_mb:.2f} MB")
print(f"{path}: a start relocates {pages} pages, of at most {most_pages}")
sys.exit(size > most_mb or not 0 < pages <= most_pages)
PY
if readelf --sections --wide "$bootstrap" | grep -q ' \.eh_frame '; then
    echo "$bootstrap has tables for unwinding, and aborts on a panic: functions/no-unwind-tables.ld" >&2
    exit 1
fi
# Policies are JSON where a function reads them: with a reader of YAML it would carry half a megabyte that it never uses.
# The names of crates stand in it, in the places that panics would name.
if ! grep -q aws-smithy-runtime "$bootstrap" || grep -q serde-saphyr "$bootstrap"; then
    echo "$bootstrap has a reader of YAML in it, or no names to tell by" >&2
    exit 1
fi
echo "$bootstrap: needs $newest of the C library, and Lambda has $GLIBC"
