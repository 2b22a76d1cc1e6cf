# The two main commands are `make run` and `make test`. Both work on a fresh machine that has Rust.

PROGRAM = $(or $(CARGO_TARGET_DIR),target)/release/event-piper
# Arguments for serve, for instance: make run ARGS="--listen 127.0.0.1:8080"
ARGS =
# Duration and random seed of the soak test: make soak MINUTES=30 SEED=7
MINUTES = 30
SEED =
# Number of rounds for each fault: make proof ROUNDS=100
ROUNDS = 10
# Major versions of PostgreSQL: make test-versions MAJORS="13 18"; all if empty
MAJORS =

.PHONY: help run build test soak proof lint lint-all fmt deny test-versions

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf '  make %-14s %s\n' "$$target" "$$what"; done

run: build ## Build and start the gateway, with a private PostgreSQL unless DATABASE_URL is set
	@[ -n "$$DATABASE_URL$$DATABASE_URL_FILE" ] || scripts/ensure-postgres
	@# exec replaces the shell, so that signals reach the gateway and make waits for it.
	@exec $(PROGRAM) serve $(ARGS)

build: ## Build the program in release mode
	@scripts/ensure-linker
	cargo build --release --locked

test: ## Check formatting, lints and licences, and run all tests with a real PostgreSQL and browser
	@scripts/ensure-linker
	@scripts/ensure-postgres
	@scripts/ensure-chromium
	@scripts/ensure-schemathesis
	@scripts/ensure-cargo-deny >/dev/null
	@scripts/ensure-cargo-machete >/dev/null
	@scripts/ensure-clients
	$(MAKE) --no-print-directory lint-all deny
	cargo test --locked
	cargo test --locked --package aggregator

soak: ## Run all faults at once for MINUTES, with the random SEED, and check that nothing is lost
	@scripts/ensure-linker
	@scripts/ensure-postgres
	EVENT_PIPER_SOAK_MINUTES=$(MINUTES) $(if $(SEED),EVENT_PIPER_SOAK_SEED=$(SEED)) \
		cargo test --release --locked --test it chaos::soak -- --exact --nocapture

proof: ## Run each fault on its own, ROUNDS times, and print a table of the results
	@scripts/ensure-linker
	@scripts/ensure-postgres
	EVENT_PIPER_ROUNDS=$(ROUNDS) EVENT_PIPER_FAULTS=$(FAULTS) cargo test --release --locked --test it -- --nocapture \
		chaos::gateways_fail chaos::postgresql_fails chaos::the_network

lint: ## Check formatting, lints and unused dependencies of the program
	cargo fmt --all --check
	@scripts/ensure-linker
	"$$(scripts/ensure-cargo-machete)" --skip-target-dir
	cargo clippy --locked --all-targets $(PACKAGES) -- -D warnings

lint-all: PACKAGES = --workspace
lint-all: lint ## The same for the benchmarks and the example too

fmt: ## Format the code
	cargo fmt --all

deny: ## Check licences and known vulnerabilities of the dependencies with cargo-deny
	@scripts/ensure-linker
	@scripts/check-dependencies

test-versions: ## Run the integration tests once for each major version of PostgreSQL
	@scripts/ensure-linker
	@# Fetch all versions first, so that a version that cannot be fetched is an error.
	@bins=$$(scripts/postgres-versions $(MAJORS)) && for bin in $$bins; do \
		echo "== $$bin"; \
		EVENT_PIPER_TEST_POSTGRES_BIN="$$bin" cargo test --locked --test it </dev/null || exit 1; done

include bench/bench.mk
