#!/usr/bin/env bash
# Prints the folder of PostgreSQL's programs, installed through apt where they are missing
# and may be.
set -euo pipefail
found() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
[ -n "$(found)" ] || "$(dirname "$0")/apt.sh" postgresql
found
