#!/usr/bin/env bash
# Prints the folder of PostgreSQL's programs, installed through apt where they are missing
# and may be.
set -euo pipefail
found() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
if [ -z "$(found)" ]; then
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then sudo="sudo -n"; fi
  ($sudo apt-get install -qq -y --no-install-recommends postgresql || { $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends postgresql; }) >/dev/null 2>&1 || {
    echo "postgres: apt could not install postgresql; the tests that use it will be skipped" >&2
    exit 1
  }
fi
found
