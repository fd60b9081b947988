#!/usr/bin/env bash
# Generates the Python stubs from proto/ into clients/python/src/tenantd/v1, and the
# client's own messages from clients/python/proto.
# With --check: changes nothing, fails when the files there are out of date.
#
# The toolchain is old on purpose: stubs of grpcio-tools 1.71.2 (protobuf 5.29)
# import on every protobuf from 5.29 to 7, newer ones do not. The mypy plugins
# need a newer protobuf than that, hence two environments.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="$root/clients/python/src/tenantd/v1"
tools="$root/.venv-gen"
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"

case "${1:-}" in
  "" | --check) mode="${1:-write}" ;;
  *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

# env NAME REQUIREMENT...: a venv with exactly these, kept while unchanged.
env_with() {
  local dir="$tools/$1"; shift
  local want="$root $*"
  [ "$(cat "$dir/.requirements" 2>/dev/null || true)" = "$want" ] && return
  "$python" -m venv --clear "$dir"
  "$dir/bin/python" -m pip --disable-pip-version-check --quiet install "$@"
  echo "$want" >"$dir/.requirements"
}

mkdir -p "$tools"
echo '*' >"$tools/.gitignore"
# grpcio-tools imports pkg_resources, which newer setuptools dropped.
env_with protoc grpcio-tools==1.71.2 grpcio==1.71.2 protobuf==5.29.6 'setuptools<81'
env_with mypy mypy-protobuf==5.1.0

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
cd "$root/proto"
"$tools/protoc/bin/python" -m grpc_tools.protoc --proto_path=. \
  --plugin=protoc-gen-mypy="$tools/mypy/bin/protoc-gen-mypy" \
  --plugin=protoc-gen-mypy_grpc="$tools/mypy/bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  tenantd/v1/*.proto
# protoc writes a stub module per file, also for files without a service.
for file in tenantd/v1/*.proto; do
  grep -q '^service ' "$file" || rm -f "$out/${file%.proto}"_pb2_grpc.py*
done
cd "$root/clients/python/proto"
"$tools/protoc/bin/python" -m grpc_tools.protoc --proto_path=. \
  --plugin=protoc-gen-mypy="$tools/mypy/bin/protoc-gen-mypy" \
  --python_out="$out" --mypy_out=quiet:"$out" tenantd/_status.proto
echo '"""Generated from proto/tenantd/v1 by scripts/gen-python.sh."""' >"$out/tenantd/v1/__init__.py"

if [ "$mode" = --check ]; then
  if ! { diff -r --exclude=__pycache__ "$target" "$out/tenantd/v1" &&
    diff "$target/../_status_pb2.py" "$out/tenantd/_status_pb2.py" &&
    diff "$target/../_status_pb2.pyi" "$out/tenantd/_status_pb2.pyi"; } >&2; then
    echo "gen-python: stubs are out of date; run scripts/gen-python.sh" >&2
    exit 1
  fi
else
  mkdir -p "$target"
  find "$target" -mindepth 1 -delete
  cp -r "$out/tenantd/v1/." "$target/"
  cp "$out"/tenantd/_status_pb2.py* "$target/../"
fi
