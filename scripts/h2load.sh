#!/usr/bin/env bash
# Prints where h2load is, installed through apt where it is missing and may be.
set -euo pipefail
command -v h2load >/dev/null || "$(dirname "$0")/apt.sh" nghttp2-client
command -v h2load
