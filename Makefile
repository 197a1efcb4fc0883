# Every command a newcomer needs. `make` alone lists them.

CARGO ?= cargo

# The system's OpenSSL where its headers are installed (Debian: libssl-dev); compiling one takes minutes. `cargo` alone, without
# this variable, compiles it and needs nothing.
ifeq ($(shell pkg-config --exists 'openssl >= 3' 2>/dev/null && echo found),found)
export OPENSSL_NO_VENDOR ?= 1
endif

.DEFAULT_GOAL := help
.PHONY: help demo package test test-deps test-latest bench bench-peers soak lint fmt

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a live ledger with made-up traffic: needs nothing but Rust and a C/C++ toolchain
	$(CARGO) run --release -- demo

package: ## sla-ledger_VERSION_ARCHITECTURE.deb and its debug symbols, in target/debian
	scripts/package

test: test-deps ## all tests, those against a real Kafka included
	$(CARGO) test --lib --bins --tests
	$(CARGO) test --features mutations --test simulation
	$(CARGO) test --doc

test-deps: ## check, or as root install, what the tests need: JDK, Maven, Kafka, Prometheus, Alertmanager, linters
	scripts/test-deps.sh

test-latest: ## the tests that scrape, load rules and notify, against current Prometheus and Alertmanager releases
	scripts/test-deps.sh --latest
	scripts/with-latest $(CARGO) test --test rules --test exposition --test deploy
	scripts/with-latest $(CARGO) test --test kafka -- alerts dashboards notify promtool

bench: test-deps ## cost per call, memory, /metrics, takeovers, forecast: one line a figure, and the table of docs/performance.md
	$(CARGO) bench --no-run
	bash -o pipefail -c '$(CARGO) bench --bench ledger --bench live --bench forecast | tee target/bench.txt'
	scripts/bench-table target/bench.txt docs/performance.md

bench-peers: test-deps ## the same counting by Kafka Streams, Go and Python beside the service: CPU, time, and what they count wrong
	$(CARGO) bench --bench peers

soak: test-deps ## the tests with their long doses: hours
	SLA_LEDGER_SOAK=1 $(CARGO) test --release --lib --bins --tests -- --nocapture
	SLA_LEDGER_SOAK=1 $(CARGO) test --release --features mutations --test simulation -- --nocapture

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --features mutations -- -D warnings

fmt: ## format the code
	$(CARGO) fmt
