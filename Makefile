# Everything a newcomer needs: `make demo` and `make test`.
.PHONY: demo test build lint gen fuzz faults faults-test rust-test python-test node-test setup python-versions bench node-versions deny

build:
	cargo build --locked

setup:
	scripts/node-env.sh
	scripts/python-env.sh

demo: build setup
	scripts/demo.sh

test: rust-test setup python-test node-test faults-test

rust-test: build
	cargo test --locked

python-test: build
	cd clients/python && ../../.venv/bin/pytest -q && ../../.venv/bin/mypy --strict src && \
	  ../../.venv/bin/pyright

node-test: build
	cd clients/node && npm run --silent typecheck && npm test --silent

# A short run of `make faults`.
faults-test: build setup
	FAULT_SECONDS=20 FAULT_SEED=7 cargo test --locked --test faults

# The clients on other Pythons and Nodes; what the loop monitor costs, a warm acquire by source,
# and the sidecar against its peers (benches/load; BENCH_ROUNDS=1 for a look).
python-versions: build setup
	scripts/python-versions.sh

node-versions: build setup
	scripts/node-versions.sh

bench: setup
	.venv/bin/python clients/python/bench/lag.py
	cargo build --locked --release --bin tenantd
	.venv/bin/python clients/python/bench/openrtc_path.py
	cargo bench --locked --bench sources
	cargo bench --locked --bench growth
	scripts/bench.sh
	.venv/bin/python clients/python/bench/calls.py
	node clients/node/bench/calls.mjs

# Format, lints, and generated code as fresh as the protos.
lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test faults -- -D warnings
	scripts/buf.sh lint
	scripts/buf.sh format -d --exit-code proto
	scripts/gen-node.sh --check
	scripts/gen-python.sh --check
	scripts/gen-sync.py --check

gen:
	scripts/gen-node.sh
	scripts/gen-python.sh

# Fuzzes all that reads bytes from outside, each target for FUZZ_SECONDS; not part of `make test`,
# which plays the seeds and a fixed run of mutations of them.
FUZZ_SECONDS ?= 60
fuzz:
	scripts/fuzz.sh $(FUZZ_SECONDS)

# Licences, banned crates and known vulnerabilities; see scripts/deny.sh.
deny:
	scripts/deny.sh

# Real agents, an operator and a watcher at work while everything under them breaks: the kept
# seeds and a new one, each for FAULT_SECONDS, or FAULT_SEED alone. docs/reliability.md.
FAULT_SECONDS ?= 60
faults: build setup
	FAULT_SECONDS=$(FAULT_SECONDS) cargo test --locked --test faults
