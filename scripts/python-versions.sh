#!/usr/bin/env bash
# Runs the client's tests on every other Python that this machine has (3.10, 3.12, 3.13),
# without the big frameworks. Says which ones are missing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
uv="$root/.venv/bin/uv"
export TENANTD_BIN="${TENANTD_BIN:-$root/target/debug/tenantd}"

for version in 3.10 3.12 3.13; do
  # pyenv's shims answer for versions that are not switched on: ask it first.
  python="$(compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python" | tail -1 || true)"
  if [ -z "$python" ] && ! python="$("$uv" python find --no-python-downloads "$version" 2>/dev/null)"; then
    echo "python-versions: no Python $version here" >&2
    continue
  fi
  venv="$root/.venv-gen/python-$version"
  mkdir -p "$root/.venv-gen"
  "$uv" venv --quiet --clear --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --editable "$root/clients/python[test]" uv==0.13.9
  echo "python-versions: $("$venv/bin/python" --version)" >&2
  (cd "$root/clients/python" && "$venv/bin/python" -m pytest -q -p no:cacheprovider)
done
