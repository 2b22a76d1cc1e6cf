# The two commands: `make run` and `make test`. Both work on a fresh machine that has Rust.

PROGRAM = $(or $(CARGO_TARGET_DIR),target)/release/event-piper
# What serve is told, for instance: make run ARGS="--listen 127.0.0.1:8080"
ARGS =
# How long a soak lasts, and which one: make soak MINUTES=30 SEED=7
MINUTES = 30
SEED =
# How often each fault strikes by itself: make proof ROUNDS=100
ROUNDS = 10
# Which versions of PostgreSQL: make test-versions MAJORS="13 18"; all when empty
MAJORS =

.PHONY: help run build test soak proof lint lint-all fmt deny test-versions

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf '  make %-14s %s\n' "$$target" "$$what"; done

run: build ## Build and start the gateway, with a PostgreSQL of its own unless DATABASE_URL is set
	@[ -n "$$DATABASE_URL$$DATABASE_URL_FILE" ] || scripts/ensure-postgres
	@# In place of the shell, so that a signal reaches the gateway, and make waits for it.
	@exec $(PROGRAM) serve $(ARGS)

build: ## Build the program as it is released
	@scripts/ensure-linker
	cargo build --release --locked

test: ## Formatting, lints, licences and all tests, against a real PostgreSQL and a real browser
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

soak: ## Everything goes wrong at once for MINUTES, by the dice of SEED; nothing may be lost
	@scripts/ensure-linker
	@scripts/ensure-postgres
	EVENT_PIPER_SOAK_MINUTES=$(MINUTES) $(if $(SEED),EVENT_PIPER_SOAK_SEED=$(SEED)) \
		cargo test --release --locked --test it chaos::soak -- --exact --nocapture

proof: ## Each fault by itself, ROUNDS times, and a table of what was found
	@scripts/ensure-linker
	@scripts/ensure-postgres
	EVENT_PIPER_ROUNDS=$(ROUNDS) EVENT_PIPER_FAULTS=$(FAULTS) cargo test --release --locked --test it -- --nocapture \
		chaos::gateways_fail chaos::postgresql_fails chaos::the_network

lint: ## Formatting and lints of the program, and no dependency that nothing uses
	cargo fmt --all --check
	@scripts/ensure-linker
	"$$(scripts/ensure-cargo-machete)" --skip-target-dir
	cargo clippy --locked --all-targets $(PACKAGES) -- -D warnings

lint-all: PACKAGES = --workspace
lint-all: lint ## The same, of the benchmarks and examples, too

fmt: ## Format the code
	cargo fmt --all

deny: ## Licences and known faults of our dependencies, by cargo-deny
	@scripts/ensure-linker
	@scripts/check-dependencies

test-versions: ## The integration tests, once for each major version of PostgreSQL
	@scripts/ensure-linker
	@# Named first, so that a version that cannot be fetched is an error.
	@bins=$$(scripts/postgres-versions $(MAJORS)) && for bin in $$bins; do \
		echo "== $$bin"; \
		EVENT_PIPER_TEST_POSTGRES_BIN="$$bin" cargo test --locked --test it </dev/null || exit 1; done

include bench/bench.mk
