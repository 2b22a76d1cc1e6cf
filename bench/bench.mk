# The figures: `make bench` for all of them, `make bench-writers` and so on for one.
# QUICK=1 takes minutes in place of an hour, and wider spreads.

BENCH = $(or $(CARGO_TARGET_DIR),target)/release/event-piper-bench
BENCH_FIGURES = writers append latency fanout idle replay pump storm start ceiling

.PHONY: bench bench-build $(BENCH_FIGURES:%=bench-%)

bench: bench-build ## Every figure of docs/benchmarks.md, beside limits and peers (QUICK=1: short)
	$(BENCH)

$(BENCH_FIGURES:%=bench-%): bench-%: bench-build
	$(BENCH) $*

bench-build:
	@if [ -x scripts/ensure-linker ]; then scripts/ensure-linker; fi
	@if [ -x scripts/ensure-postgres ]; then scripts/ensure-postgres; fi
	@bench/ensure-peers
	cargo build --release --locked --package event-piper --package event-piper-bench
