#!/usr/bin/env bash
# Prints the folder of prometheus and promtool, installed through apt where they are missing and
# may be.
set -euo pipefail
if ! command -v promtool >/dev/null; then
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then sudo="sudo -n"; fi
  ($sudo apt-get install -qq -y --no-install-recommends prometheus || { $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends prometheus; }) >/dev/null 2>&1 || {
    echo "prometheus: apt could not install it; the tests that use it will be skipped" >&2
    exit 1
  }
fi
dirname "$(command -v promtool)"
