#!/usr/bin/env bash
# Prints where a program is, installed through apt where it is missing and may be:
#   scripts/apt.sh PROGRAM PACKAGE
set -euo pipefail
program=$1 package=$2
if ! command -v "$program" >/dev/null; then
  # Tests run side by side, and apt has one lock.
  exec 9>"${TMPDIR:-/tmp}/tenantd-apt-$(id -u).lock"
  flock 9
fi
if ! command -v "$program" >/dev/null; then
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then sudo="sudo -n"; fi
  ($sudo apt-get install -qq -y "$package" || { $sudo apt-get update -qq && $sudo apt-get install -qq -y "$package"; }) >/dev/null 2>&1 || {
    echo "$program: apt could not install $package; the tests that use it will be skipped" >&2
    exit 1
  }
fi
command -v "$program"
