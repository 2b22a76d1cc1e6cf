# Benchmarks: `make bench` measures all figures, `make bench-writers` and so on measure one.
# QUICK=1 takes minutes instead of an hour, with wider spreads.

BENCH = $(or $(CARGO_TARGET_DIR),target)/release/event-piper-bench
BENCH_FIGURES = writers append latency fanout idle replay pump storm start ceiling

.PHONY: bench bench-build $(BENCH_FIGURES:%=bench-%)

bench: bench-build ## Measure all figures of docs/benchmarks.md, with limits and peers (QUICK=1: short)
	$(BENCH)

$(BENCH_FIGURES:%=bench-%): bench-%: bench-build
	$(BENCH) $*

bench-build:
	@if [ -x scripts/ensure-linker ]; then scripts/ensure-linker; fi
	@if [ -x scripts/ensure-postgres ]; then scripts/ensure-postgres; fi
	@bench/ensure-peers
	cargo build --release --locked --package event-piper --package event-piper-bench
