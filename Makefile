# Two commands do everything on a fresh Debian 12 with a rustup toolchain, as
# root: `make demo` and `make test`. Each target first installs what it needs
# and says so (integration/setup).

SETUP  := integration/setup
CACHE  := $(shell $(SETUP) cache-dir)
ARCH   := $(shell uname -m)
DIST   := target/dist
FLOOR  := target/floor
GUEST  := target/guest
BINS   := flanneld flannel
export PATH := $(CACHE)/bin:$(PATH)
# Where the tests find what they run for real.
export FLANNEL_DIST      := $(CURDIR)/$(DIST)
export FLANNEL_TEST_ETCD := $(CACHE)/etcd/usr/bin/etcd
export FLANNEL_TEST_PEERS := $(CACHE)/peers
export FLANNEL_TEST_RUNTIMES := $(CACHE)/runtimes
export FLANNEL_TEST_VM := $(CACHE)/vm
export FLANNEL_TEST_GUEST := $(CURDIR)/$(GUEST)/guest
export FLANNEL_BENCH_FLOOR := $(CURDIR)/$(FLOOR)/floor

# A test has nodes, a store and pods of its own: on a large machine not too
# many of them at a time.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n > 4 ? 4 : n)))

.PHONY: help build demo test unit scenarios vm fuzz-smoke fuzz soak lint bench clean

help:
	@echo "make demo   three nodes, a real etcd, pods that reach each other"
	@echo "make test   every test"
	@echo "make fuzz   every fuzz target for FUZZ_SECONDS ($(FUZZ_SECONDS))"
	@echo "make soak   random faults from ten seeds, or SEEDS; 10,000 CNI calls"
	@echo "make lint   formatting, clippy, licences and dependency rules"
	@echo "make bench  ratios beside the kernel's floor and upstream's numbers"
	@echo "make build  static release binaries under $(DIST)"

build:
	@$(SETUP) build
	@$(SETUP) release $(DIST) $(BINS)

demo: build
	@$(SETUP) run
	cargo run --quiet --locked -p integration --bin demo

test: build unit scenarios vm fuzz-smoke

# Tiers 1 and 2, the store against a real etcd, plugins beside the Go ones
# (design.md §6).
unit:
	@$(SETUP) build
	@$(SETUP) run
	@$(SETUP) peers
	cargo test --locked

# Tier 3: nodes and pods as namespaces; the demo is one of them. Tier 4:
# upstream's own programs among them.
scenarios: build
	@$(SETUP) run
	@$(SETUP) peers
	cargo test --locked -p integration --lib --test scenarios

# Tier 5: what this machine's kernel has not, on one that has, in a virtual
# machine.
vm: build
	@$(SETUP) vm
	@$(SETUP) peers
	@$(SETUP) release $(GUEST) guest
	cargo test --locked -p integration --test vm

# Tier 6: what reads foreign bytes, a minute each over its corpus.
fuzz-smoke:
	@$(SETUP) build
	@$(SETUP) fuzz
	fuzz/run 60

FUZZ_SECONDS ?= 600
fuzz:
	@$(SETUP) build
	@$(SETUP) fuzz
	fuzz/run $(FUZZ_SECONDS)

soak: build
	@$(SETUP) run
	cargo run --quiet --locked -p integration --bin soak -- $(SEEDS)
	FLANNEL_SOAK_CALLS=10000 cargo test --quiet --locked -p cni-plugin \
		--test plugin soak -- --nocapture

lint:
	@$(SETUP) build
	@$(SETUP) fuzz
	@$(SETUP) lint
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo fetch --quiet --locked
	cargo deny --offline --locked check --hide-inclusion-graph bans licenses sources
	integration/tree-rules

bench: build
	@$(SETUP) run
	@$(SETUP) bench
	@$(SETUP) peers
	@$(SETUP) release $(FLOOR) floor
	cargo run --quiet --locked --release -p integration --bin bench

clean:
	cargo clean
