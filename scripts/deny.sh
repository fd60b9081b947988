#!/usr/bin/env bash
# Licences, banned and duplicate crates, and where crates come from, by deny.toml; known
# vulnerabilities too where RustSec's database can be had (from GitHub). cargo-deny is
# installed under target/ where it is missing, which takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools="$PWD/target/tools"
if ! command -v cargo-deny >/dev/null && [ ! -x "$tools/bin/cargo-deny" ]; then
  cargo install --quiet --locked --root "$tools" cargo-deny --version 0.20.2
fi
export PATH="$PATH:$tools/bin"
cargo-deny --locked check --allow duplicate bans licenses sources
if git ls-remote --exit-code https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  cargo-deny --locked check advisories
else
  echo "deny: advisories were NOT checked: github.com cannot be reached" >&2
fi
