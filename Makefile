# The main commands. `make` without arguments lists them.

CARGO ?= cargo

# Use the system's OpenSSL if its headers are installed (Debian: libssl-dev), because compiling it takes minutes. Without this
# variable, `cargo` compiles OpenSSL and needs no headers.
ifeq ($(shell pkg-config --exists 'openssl >= 3' 2>/dev/null && echo found),found)
export OPENSSL_NO_VENDOR ?= 1
endif

# Only the tests are run with other programs on the PATH: the build depends on it.
WITH_LATEST = --config "target.'cfg(unix)'.runner = '$(CURDIR)/scripts/with-latest'"

.DEFAULT_GOAL := help
.PHONY: help demo screenshot package test test-deps test-latest bench bench-peers soak lint fmt

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a live ledger with generated traffic: only needs Rust and a C/C++ toolchain
	$(CARGO) run --release -- demo

screenshot: ## the pictures of the pages in docs/images, taken from the demo: needs Chromium
	$(CARGO) build --release
	scripts/screenshot

package: ## sla-ledger_VERSION_ARCHITECTURE.deb and its debug symbols, in target/debian
	scripts/package

test: test-deps ## all tests, including those against a real Kafka
	$(CARGO) test --no-fail-fast --lib --bins --tests
	$(CARGO) test --features mutations --test simulation
	$(CARGO) test --doc

test-deps: ## check, or as root install, the tests' dependencies: JDK, Maven, Kafka, Prometheus, Alertmanager, linters
	scripts/test-deps.sh

test-latest: ## the tests of scraping, rules and notifications, with current Prometheus and Alertmanager releases
	scripts/test-deps.sh --latest
	$(CARGO) test $(WITH_LATEST) --test rules --test exposition --test deploy
	$(CARGO) test $(WITH_LATEST) --test kafka -- alerts dashboards notify promtool

bench: test-deps ## cost per call, memory, /metrics, pages, takeovers, forecast: one line per figure; updates docs/performance.md
	$(CARGO) bench --no-run
	bash -o pipefail -c '$(CARGO) bench --bench ledger --bench live --bench pages --bench forecast | tee target/bench.txt'
	scripts/bench-table target/bench.txt docs/performance.md

bench-peers: test-deps ## compare with Kafka Streams, Go and Python: CPU, time and counting errors
	$(CARGO) bench --bench peers

soak: test-deps ## the long runs of the tests: takes hours
	SLA_LEDGER_SOAK=1 $(CARGO) test --release --lib --bins --tests -- --nocapture
	SLA_LEDGER_SOAK=1 $(CARGO) test --release --features mutations --test simulation -- --nocapture

lint: ## formatting and clippy; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --features mutations -- -D warnings

fmt: ## format the code
	$(CARGO) fmt
