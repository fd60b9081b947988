#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET...]: runs fuzz targets, all of them where none is
# named, each for so long, with cargo-fuzz installed under target/ where it is
# missing. What libFuzzer grows is kept in target/fuzz-corpus; the seeds in
# fuzz/seeds are only read.
#
# fuzz.sh --keep TARGET...: adds to the seeds the few grown inputs that reach
# code which the seeds do not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools="$PWD/target/tools"
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
  cargo install --quiet --locked --root "$tools" cargo-fuzz --version 0.13.2
fi
# The coverage flags are nightly's; the stable compiler takes them when told so.
# No address sanitizer: the crate forbids unsafe code, and it costs half the runs.
export RUSTC_BOOTSTRAP=1 PATH="$tools/bin:$PATH"
seconds=$1
shift
mapfile -t targets < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else cargo fuzz list; fi)
for target in "${targets[@]}"; do
  grown="target/fuzz-corpus/$target"
  mkdir -p "$grown" "fuzz/seeds/$target"
  if [ "$seconds" = --keep ]; then
    cargo fuzz run --sanitizer none "$target" "fuzz/seeds/$target" "$grown" -- -merge=1 -max_len=1024
    continue
  fi
  echo "fuzz: $target for $seconds s" >&2
  cargo fuzz run --sanitizer none "$target" "$grown" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=4096 -dict=fuzz/words.dict \
    -print_final_stats=1
done
