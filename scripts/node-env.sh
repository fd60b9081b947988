#!/bin/sh
# Makes clients/node ready to use: its locked dependencies, and the build in
# dist/. Idempotent. Needs Node >= 20.19 and an npm registry, nothing else.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

node -e '
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    console.error(`node-env.sh: Node >= 20.19 is needed, this is ${process.version}`);
    process.exit(1);
  }'

"$root/scripts/npm-ci.sh" "$root/clients/node"
cd "$root/clients/node"
npm run --silent build

# The examples import the package by its name, as they would when it is installed.
mkdir -p node_modules/@tenantd
ln -sfn ../../ node_modules/@tenantd/client
ln -sfn ../../clients/node/node_modules "$root/examples/node/node_modules"
