#!/usr/bin/env bash
# Makes or refreshes the Python environment for the client, its tests and the
# examples in .venv. Quick when nothing changed. PYTHON picks the interpreter.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
project="$root/clients/python"
stamp="$venv/.tenantd-stamp"

if [ -n "${PYTHON:-}" ]; then
  python="$PYTHON"
else
  python="$(command -v python3.11 || command -v python3)"
fi

# The place of the checkout is part of the stamp: an editable install and the
# scripts of a venv hold absolute paths.
want="$( (sha256sum <"$project/pyproject.toml"; sha256sum <"${BASH_SOURCE[0]}"; echo "$root") | sha256sum | cut -d' ' -f1)"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
  exit 0
fi

"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install uv==0.13.9
install() { "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --editable "$project[$1]"; }
install test
for extra in frameworks grpcurl; do
  if ! install "test,$extra"; then
    echo "python-env: $extra could not be installed; the tests that use it will be skipped" >&2
  fi
done
echo "$want" >"$stamp"
echo "python-env: ready in $venv" >&2
