"""Where the sidecar listens.

Every client and the server share one rule: `TENANTD_ADDRESS` if it is set,
else a socket in `$XDG_RUNTIME_DIR/tenantd`, else one in a private directory of
the user under the temp folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SOCKET = "tenantd.sock"
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


class InvalidAddress(ValueError):
    """An address is neither a unix socket nor host and port."""


def default_address(env: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """The address that `env` (default: this process's) and `uid` lead to.

    Returns `unix:/absolute/path`, `http://host:port` or `https://host:port`. Raises
    `InvalidAddress` when `TENANTD_ADDRESS` is none of them.
    """
    env = os.environ if env is None else env
    if address := env.get("TENANTD_ADDRESS"):
        return normalise(address)
    runtime_dir = env.get("XDG_RUNTIME_DIR", "")
    if runtime_dir.startswith("/"):
        return f"unix:{_join(runtime_dir, 'tenantd', _SOCKET)}"
    temp = env.get("TMPDIR", "")
    if not temp.startswith("/"):
        temp = "/tmp"
    uid = os.getuid() if uid is None else uid
    return f"unix:{_join(temp, f'tenantd-{uid}', _SOCKET)}"


def normalise(address: str) -> str:
    """`address` in the form `unix:/absolute/path`, `http://host:port` or `https://host:port`.

    Takes also a bare absolute path, `unix:///path` and a bare `host:port`.
    Raises `InvalidAddress` for everything else.
    """
    path = address.removeprefix("unix:")
    if path.startswith("///"):
        path = path[2:]
    if path.startswith("/") and not path.startswith("//"):
        return f"unix:{path}"
    scheme = "https://" if address.startswith("https://") else "http://"
    match = _HOST_PORT.fullmatch(address.removeprefix(scheme).removesuffix("/"))
    if match and 0 < int(match["port"]) < 65536:
        return f"{scheme}{match['host']}:{int(match['port'])}"
    raise InvalidAddress(
        f"{address!r} is no address: give unix:/absolute/path, host:port or https://host:port, "
        "for example unix:/run/tenantd/tenantd.sock or 127.0.0.1:7443"
    )


def grpc_target(address: str) -> str:
    """`address` as gRPC takes it."""
    return normalise(address).removeprefix("http://").removeprefix("https://")


def _join(directory: str, *parts: str) -> str:
    return "/".join([directory.rstrip("/"), *parts])
