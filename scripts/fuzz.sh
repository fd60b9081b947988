#!/usr/bin/env bash
# fuzz.sh TARGET SECONDS: runs one fuzz target, with cargo-fuzz installed under
# target/ where it is missing. The corpus is kept in fuzz/corpus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools="$PWD/target/tools"
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
  cargo install --quiet --locked --root "$tools" cargo-fuzz --version 0.13.2
fi
# The sanitizer flags are nightly's; the stable compiler takes them when told so.
export RUSTC_BOOTSTRAP=1 PATH="$tools/bin:$PATH"
cargo fuzz run "$1" -- -max_total_time="$2"
