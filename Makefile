# Everything a person or CI runs. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tests mount as root where they can; asking again and again for a password would not help.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: ## Installs what building, testing and mounting need (Debian packages, cargo-deny)
	@command -v cargo >/dev/null || { echo "aysfs: cargo is missing: install Rust (https://rustup.rs), then try again" >&2; exit 1; }
	@missing=""; \
	command -v fusermount3 >/dev/null || missing="$$missing fuse3"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v setfacl >/dev/null || missing="$$missing acl"; \
	PATH="$$PATH:/usr/sbin:/sbin" command -v mkfs.ext4 >/dev/null || missing="$$missing e2fsprogs"; \
	command -v python3 >/dev/null || missing="$$missing python3-minimal"; \
	if [ -n "$$missing" ]; then \
		command -v apt-get >/dev/null || { echo "aysfs: install these packages first:$$missing" >&2; exit 1; }; \
		echo "installing$$missing"; \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@[ -e /dev/fuse ] || $(SUDO) modprobe fuse || { echo "aysfs: /dev/fuse is missing: load the kernel module fuse" >&2; exit 1; }

.PHONY: setup-deny
setup-deny:
	@command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny

.PHONY: setup-posix
setup-posix: setup
	@{ command -v pjdfstest && command -v fsx; } >/dev/null || cargo install --quiet --locked pjdfstest fsx

# One test reads our profiles with `go tool pprof`; where that cannot be had, it says that it skips this.
.PHONY: setup-go
setup-go: setup
	@command -v go >/dev/null || ! command -v apt-get >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go >/dev/null; } || \
		echo "golang-go cannot be installed: profiles are not read with go tool pprof" >&2

.PHONY: build
build: setup ## Builds the command: target/release/aysfs
	cargo build --locked --release

.PHONY: lint
lint: setup setup-deny ## Formatting, clippy, docs, licences, and who may use whom
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	cargo deny --log-level error check bans licenses sources
	.ci/arrows

.PHONY: test
test: setup lint setup-posix setup-go ## Everything that CI runs
	cargo test --locked --workspace
	tests/posix.sh 1

.PHONY: posix
posix: setup-posix ## pjdfstest and fsx on each frontend, at length
	tests/posix.sh 50

.PHONY: crash
crash: setup ## Kills the daemon under local changes, 500 times, on a disk that is full, and 300 times while it pushes
	AYSFS_CRASH_KILLS=500 AYSFS_PUSH_KILLS=300 cargo test --locked -p aysfs --test e2e -- --nocapture overlay_crash:: push_crash::

.PHONY: demo
demo: setup ## A first look: packs a real tree, mounts it, runs a program from it
	@tests/demo.sh

.PHONY: bench
bench: setup ## Benchmarks, as ratios against the local disk where there is something to compare with
	cargo bench --locked -p aysfs-benches --bench flist --bench engine --bench frontends --bench mount --bench changes

.PHONY: bench-cold
bench-cold: build ## Cold starts over a network, beside plain downloads (ARGS="--help" tells the options)
	cargo bench --locked -p aysfs-benches --bench cold -- $(ARGS)

.PHONY: advisories
advisories: setup-deny ## Known vulnerabilities in dependencies (needs the network)
	cargo deny check advisories

.PHONY: clean
clean: ## Removes what was built
	cargo clean
