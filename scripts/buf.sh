#!/bin/sh
# Runs the pinned buf from the repository's root:
#   scripts/buf.sh lint
# BUF_DIR names another directory to run it in.
# Calls the platform package's binary itself: npm 11 runs no install scripts
# unasked, and @bufbuild/buf sets its own up in one. On a system whose package
# is not in clients/node/tools, a buf on the PATH is taken.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
tools="$root/clients/node/tools"
"$root/scripts/npm-ci.sh" "$tools" >&2

arch=$(node -p 'process.arch === "arm64" ? "aarch64" : process.arch')
buf="$tools/node_modules/@bufbuild/buf-$(node -p process.platform)-$arch/bin/buf"
[ -x "$buf" ] || buf=$(command -v buf) || {
  echo "buf.sh: no buf for this system in clients/node/tools, and none on the PATH" >&2
  exit 1
}
cd "${BUF_DIR:-$root}"
exec "$buf" "$@"
