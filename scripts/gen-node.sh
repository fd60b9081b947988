#!/bin/sh
# Generates clients/node/src/gen from the protos.
#   scripts/gen-node.sh            writes the files
#   scripts/gen-node.sh --check    writes nothing; fails when they are stale
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
client="$root/clients/node"
# buf.gen.yaml's paths are relative to clients/node; $1 is where src/gen goes.
generate() {
  BUF_DIR="$client" "$root/scripts/buf.sh" generate --output "$1"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case "${1:-}" in
  "") generate "$client" ;;
  --check)
    generate "$work"
    diff -ru "$client/src/gen" "$work/src/gen" || {
      echo "gen-node.sh: clients/node/src/gen is stale; run scripts/gen-node.sh" >&2
      exit 1
    }
    ;;
  *)
    echo "usage: gen-node.sh [--check]" >&2
    exit 2
    ;;
esac
