#!/usr/bin/env bash
# Prints where libfaketime is, the one for programs with threads, installed through apt where it is
# missing and may be.
set -euo pipefail
found() { ls /usr/lib/*/faketime/libfaketimeMT.so.1 2>/dev/null | head -1; }
[ -n "$(found)" ] || "$(dirname "$0")/apt.sh" libfaketime
found
