#!/bin/sh
# npm ci in the given directory, unless it already holds what the lockfile, the
# manifest and Node's version ask for.
set -eu
cd "$1"
# Hashed by Node, because sha256sum is not everywhere.
want=$(node -e '
  const hash = require("node:crypto").createHash("sha256");
  for (const file of ["package.json", "package-lock.json"])
    hash.update(require("node:fs").readFileSync(file));
  console.log(hash.digest("hex"), process.versions.modules);')
stamp=node_modules/.tenantd-stamp
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
  npm ci --no-audit --no-fund --loglevel=error
  printf '%s\n' "$want" > "$stamp"
fi
