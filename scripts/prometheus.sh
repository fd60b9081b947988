#!/usr/bin/env bash
# Prints the folder of prometheus and promtool, installed through apt where they are missing and
# may be.
set -euo pipefail
command -v promtool >/dev/null || "$(dirname "$0")/apt.sh" prometheus
dirname "$(command -v promtool)"
