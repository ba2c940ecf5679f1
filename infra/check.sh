#!/bin/sh
# What the template and the scripts must pass. What a template may not do by its author's leave is said beside the resource.
set -eu
cd "$(dirname "$0")/.."
tools=${CARGO_TARGET_DIR:-target}/tools

for script in infra/*.sh infra/*/*.sh demo/*.sh api/conformance/*.sh bench/*.sh; do sh -n "$script"; done
bash -n .ci/run

sh infra/tools.sh aws-sam-cli cfn-lint checkov
"$tools/cfn-lint/bin/cfn-lint" template.yaml infra/*.yaml
SAM_CLI_TELEMETRY=0 "$tools/aws-sam-cli/bin/sam" validate --lint --template-file template.yaml --region us-east-1
# It asks nobody, and writes nothing.
"$tools/checkov/bin/checkov" --quiet --compact --skip-download --framework cloudformation --file template.yaml infra/*.yaml
