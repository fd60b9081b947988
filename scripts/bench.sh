#!/usr/bin/env bash
# Measures tenantd against its peers: builds both for release, installs Redis where apt may,
# and writes the table as text, JSON and SVG to target/bench. BENCH_ROUNDS and BENCH_SECONDS
# shorten it, BENCH_ONLY names the servers (with commas).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v redis-server >/dev/null || scripts/apt.sh redis-server || echo "bench: Redis is left out" >&2
cargo build --locked --release --bin tenantd
cargo build --locked --release --manifest-path benches/load/Cargo.toml --target-dir target
mkdir -p target/bench
BENCH_JSON="${BENCH_JSON:-target/bench/compare.json}" target/release/tenantd-bench compare | tee target/bench/compare.txt
BENCH_WATCHERS_JSON=target/bench/watchers.json target/release/tenantd-bench watchers | tee target/bench/watchers.txt
target/release/tenantd-bench tenants | tee target/bench/tenants.txt
target/release/tenantd-bench flood | tee target/bench/flood.txt
benches/plot.py "${BENCH_JSON:-target/bench/compare.json}" target/bench/compare.svg
