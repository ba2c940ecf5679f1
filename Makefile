# Every target installs nothing by itself but what cargo fetches; `bench` says what else it needs and gets it.
#
# Programs are built with the words that tests are built with: another choice of packages is another choice of features, and
# then all of the SDK is compiled again.

.PHONY: demo test check bench soak emulators emulators-stop faults build deploy rollback up down stack-test shipped

# The yard's main job on this machine: no AWS account, no Docker.
demo:
	cargo build --workspace --all-features --bin switchyard
	sh demo/run.sh "$${CARGO_TARGET_DIR:-target}/debug/switchyard"

# nextest runs each test in a process of its own, side by side; without it cargo's own runner does. The emulators of AWS
# are started once for all tests, from pinned packages (Python 3.11 or newer). The examples are the benchmarks' programs:
# `check` reads them, `bench` builds them.
test:
	@if cargo nextest --version >/dev/null 2>&1; then \
	    sh infra/emulators/run.sh with cargo nextest run --workspace --all-features --lib --bins --tests --no-fail-fast; \
	else \
	    sh infra/emulators/run.sh with cargo test --workspace --all-features --lib --bins --tests --no-fail-fast; \
	fi
	cargo test --workspace --all-features --doc

# AWS on this machine: MiniStack and moto on loopback, until `make emulators-stop`. Prints their endpoints.
emulators:
	@sh infra/emulators/run.sh start

emulators-stop:
	@sh infra/emulators/run.sh stop

# The fault proxy before the emulators, until it is interrupted; then it says what every request would have cost.
# SEED=N has it fail as AWS fails, the same for the same seed.
faults:
	cargo build --workspace --all-features --bin switchyard-faults
	@eval "$$(sh infra/emulators/run.sh start)"; \
	exec "$${CARGO_TARGET_DIR:-target}/debug/switchyard-faults" --upstream "$$SWITCHYARD_TEST_MINISTACK" \
	    --upstream-for "autoscaling=$$SWITCHYARD_TEST_MOTO" $(if $(SEED),--seed $(SEED),--calm)

# The functions as AWS runs them, at target/lambda. ARCHITECTURE=arm64 for the other processor.
build:
	@sh infra/stack.sh build

# To AWS, by the environment of samconfig.toml: make deploy ENV=dev WORKER_IMAGE=...@sha256:... Credentials as the AWS CLI has
# them. What was deployed before is what AWS rolls back to when it fails.
ENV = dev
deploy:
	@sh infra/stack.sh deploy $(ENV)

# What was deployed before the last time, in one command: make rollback ENV=production.
rollback:
	@sh infra/stack.sh rollback $(ENV)

# The same template, unchanged, on this machine, with a worker and some findings; `down` leaves nothing of it.
up:
	@sh infra/stack.sh up

down:
	@sh infra/stack.sh down

# Deploys to an emulator and shows that jobs of every kind end there.
stack-test:
	@sh infra/stack.sh with cargo test --workspace --all-features --test stack -- --ignored --nocapture

# One function as it is shipped, held to what AWS runs: its C library, its size, and that it carries no reader of YAML. All of
# them are in `bench`. Where cargo-lambda cannot be had, it is skipped, and says so.
shipped:
	@sh bench/start/check.sh http_api || { [ $$? = 77 ] && echo "SKIPPED: shipped: cargo-lambda cannot be had" >&2; }

# Writes nothing but build products.
check:
	sh infra/check.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --all-features --no-deps --document-private-items
	cargo build --workspace --all-features --bin switchyard
	"$${CARGO_TARGET_DIR:-target}/debug/switchyard" policies check policies

# Ours and the peers in turn, in one run; the peers live in a workspace of their own. At the end what a job on AWS costs of
# requests and dollars, which are counts and need no release build.
bench:
	sh bench/install.sh
	cargo build --release --examples --package switchyard-core --package switchyard-embedded --package switchyard-worker
	python3 bench/run.py
	sh infra/stack.sh build
	python3 bench/start/start.py
	cargo build --locked --workspace --all-features --bin switchyard --example a_loan
	python3 bench/start/loan.py
	for function in http_api finding_listener task_listener result_listener job_runner job_reaper fleet_scaler credential_broker; do sh bench/start/check.sh $$function || exit 1; done
	sh infra/emulators/run.sh with cargo test --workspace --all-features --test requests -- --nocapture --test-threads 1

# Long forms of what `test` runs short.
soak:
	SWITCHYARD_TEST_KILLS=500 SWITCHYARD_TEST_JOBS=20000 cargo test --release --package switchyard --test crash -- --nocapture
	SWITCHYARD_TEST_KILLS=100 cargo test --release --package switchyard --test limits -- --nocapture
	PROPTEST_CASES=1000000 cargo test --release --package switchyard-core --all-features --test findings
	SWITCHYARD_TEST_LOGS_MIB=1024 cargo test --workspace --all-features --test tool logs_of -- --nocapture
	PROPTEST_CASES=100000 cargo test --release --package switchyard-core --all-features --test mapping
	SWITCHYARD_TEST_SEEDS=2000 sh infra/emulators/run.sh with \
	    cargo test --workspace --all-features --test storms -- --nocapture --test-threads 1
	SWITCHYARD_TEST_BOTH_SIDES=1 sh infra/emulators/run.sh with cargo test --workspace --all-features --test crash_points
	SWITCHYARD_TEST_CHAOS_SECONDS=600 sh infra/emulators/run.sh with \
	    cargo test --workspace --all-features --test deployed no_job_is_lost -- --nocapture
	cargo build --workspace --all-features --bin switchyard
	sh api/conformance/run.sh "$${CARGO_TARGET_DIR:-target}/debug/switchyard" 2000
