"""What is shipped: its files, its dependencies, its words."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module, metadata

import pytest

import support
import tenantd

PROJECT = support.REPO / "clients/python"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    uv = [sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(out), str(PROJECT)]
    subprocess.run(uv, check=True, timeout=120)
    return out


def test_the_wheel_has_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"tenantd/py.typed", "tenantd/v1/session_service_pb2.pyi"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tenantd"}


def test_the_sdist_can_be_tested_from(built):
    (sdist,) = built.glob("*.tar.gz")
    names = [name.split("/", 1)[1] for name in tarfile.open(sdist).getnames()]
    assert {"pyproject.toml", "README.md", "tests/test_blocks.py", "src/tenantd/aio.py"} <= set(names)


def test_the_wheel_alone_works_with_grpcio_and_protobuf_alone(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    venv = tmp_path / "venv"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", str(venv)], check=True, timeout=60)
    python = str(venv / "bin/python")
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, str(wheel)],
                   check=True, timeout=120)
    code = """
import asyncio, tenantd
from importlib.metadata import distributions
from tenantd.testing import FakeSidecar
async def main(address):
    async with tenantd.connect(address) as td, td.session(tenant="acme") as s:
        print(s.tenant)
with FakeSidecar() as fake:
    asyncio.run(main(fake.address))
print(sorted(d.name for d in distributions()))
"""
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "acme\n['grpcio', 'protobuf', 'tenantd', 'typing_extensions']\n", ran.stderr


def test_only_grpcio_and_protobuf_are_required():
    needed = [r for r in metadata.requires("tenantd") if "extra ==" not in r]
    assert sorted(r.split(">")[0].split("<")[0] for r in needed) == ["grpcio", "protobuf"]


def modules():
    for found in pkgutil.walk_packages(tenantd.__path__, "tenantd."):
        if ".v1" in found.name or "_pb2" in found.name:
            continue
        try:
            yield import_module(found.name)
        except ImportError:
            continue  # An integration whose framework is not installed.


def test_everything_public_says_what_it_is():
    silent = []
    for module in modules():
        if not module.__doc__:
            silent.append(module.__name__)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if not inspect.getdoc(thing):
                silent.append(f"{module.__name__}.{name}")
            if inspect.isclass(thing):
                for own, member in vars(thing).items():
                    known = callable(member) or isinstance(member, property)
                    if known and not own.startswith("_") and not inspect.getdoc(member):
                        silent.append(f"{module.__name__}.{name}.{own}")
    # Generated from the proto, whose words they carry.
    silent = [s for s in silent if "_Service" not in s and "._wire" not in s]
    assert silent == []


def test_importing_opens_nothing_and_needs_no_framework():
    code = (
        "import sys, threading, tenantd; "
        "print(threading.active_count(), [m for m in ('livekit', 'pipecat', 'openrtc', 'tomli_w')"
        " if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "1 []\n"


def test_the_python_of_the_readme_is_python():
    text = (PROJECT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 6
    for block in blocks:
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
