#!/usr/bin/env bash
# Prints where h2load is, installed through apt where it is missing and may be.
set -euo pipefail
if ! command -v h2load >/dev/null; then
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then sudo="sudo -n"; fi
  ($sudo apt-get install -qq -y nghttp2-client || { $sudo apt-get update -qq && $sudo apt-get install -qq -y nghttp2-client; }) >/dev/null 2>&1 || {
    echo "h2load: apt could not install nghttp2-client; the test that uses it will be skipped" >&2
    exit 1
  }
fi
command -v h2load
