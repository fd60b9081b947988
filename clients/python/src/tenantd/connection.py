"""Where the sidecar is, and what this process shows to it: a token, a certificate."""

from __future__ import annotations

import collections
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tenantd import _wire
from tenantd.address import default_address, grpc_target, normalise

Stamp = tuple[tuple[int, int, int] | None, ...]
"""What tells that files became others."""


@dataclass(frozen=True)
class Connection:
    """Settings of the channels to one sidecar. Made by `connection`."""

    address: str
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def _secure(self) -> bool:
        return self.address.startswith("https://")

    def channel(self) -> grpc.Channel:
        """A channel, with the certificates of now. Its calls show the token of then."""
        target = grpc_target(self.address)
        options = _wire.channel_options(target)
        if self._secure:
            channel = grpc.secure_channel(target, self._credentials(), options=options)
        else:
            channel = grpc.insecure_channel(target, options=options)
        if self.token or self.token_file:
            channel = grpc.intercept_channel(channel, _bearer(self._shown))
        return channel

    def aio_channel(self) -> grpc.aio.Channel:
        """As `channel`, for asyncio."""
        target = grpc_target(self.address)
        options = _wire.channel_options(target)
        shows = _aio_bearers(self._shown) if self.token or self.token_file else None
        if self._secure:
            return grpc.aio.secure_channel(
                target, self._credentials(), options=options, interceptors=shows
            )
        return grpc.aio.insecure_channel(target, options=options, interceptors=shows)

    def stamp(self) -> Stamp:
        """Another one when the certificates are: a channel keeps those it was made with."""
        if not self._secure:
            return ()
        return tuple(_look(path) for path in (self.ca_file, self.cert_file, self.key_file) if path)

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )

    def _shown(self) -> str:
        return f"Bearer {self.token or _token(self.token_file)}"


def connection(
    address: str | None = None,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Connection:
    """What is given, else what `env` says (default: this process's): `TENANTD_ADDRESS`,
    `TENANTD_TOKEN_FILE` or `TENANTD_TOKEN`, `TENANTD_CA_FILE`, `TENANTD_CERT_FILE` and
    `TENANTD_KEY_FILE`. Raises `ValueError` where that does not fit together."""
    env = os.environ if env is None else env
    where = default_address(env) if address is None else normalise(address)
    if token is None and token_file is None:
        token, token_file = env.get("TENANTD_TOKEN", ""), env.get("TENANTD_TOKEN_FILE", "")
        if token and token_file:
            raise ValueError("TENANTD_TOKEN_FILE and TENANTD_TOKEN are both set; set one")
    elif token and token_file:
        raise ValueError("token and token_file are both given; give one")

    def path(given: str | os.PathLike[str] | None, name: str) -> str:
        return os.fspath(given) if given is not None else env.get(name, "")

    made = Connection(
        where,
        token=token or "",
        token_file=os.fspath(token_file or ""),
        ca_file=path(ca_file, "TENANTD_CA_FILE"),
        cert_file=path(cert_file, "TENANTD_CERT_FILE"),
        key_file=path(key_file, "TENANTD_KEY_FILE"),
    )
    if bool(made.cert_file) != bool(made.key_file):
        raise ValueError("a client certificate and its key go together: cert_file and key_file")
    if (made.token or made.token_file) and not _is_private(where):
        raise ValueError(
            "a token goes over https, loopback or a unix socket, "
            f"and not in clear to {where}"
        )
    return made


def _is_private(address: str) -> bool:
    """What is sent there cannot be read on the way."""
    if not address.startswith("http://"):
        return True
    host = address.removeprefix("http://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _look(path: str) -> tuple[int, int, int] | None:
    try:
        of = os.stat(path)
    except OSError:
        return None
    return (of.st_ino, of.st_size, of.st_mtime_ns)


def _read(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


_tokens: dict[str, tuple[tuple[int, int, int] | None, str]] = {}


def _token(path: str) -> str:
    """The token in a file, read again when it changed; the last one while it is away."""
    looks = _look(path)
    known = _tokens.get(path)
    if known is None or (looks is not None and looks != known[0]):
        with open(path, encoding="ascii") as file:
            known = _tokens[path] = (looks, file.read().strip())
    return known[1]


class _Details(
    collections.namedtuple(
        "_Details",
        ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"),
    ),
    grpc.ClientCallDetails,
):
    """Of a call, as interceptors hand them on."""


def _bearer(shown: Callable[[], str]) -> Any:
    """Shows the token with each call of a blocking channel."""

    def call(_self: Any, go: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), ("authorization", shown()))
        return go(
            _Details(
                details.method,
                details.timeout,
                metadata,
                details.credentials,
                getattr(details, "wait_for_ready", None),
                getattr(details, "compression", None),
            ),
            request,
        )

    kinds = (
        grpc.UnaryUnaryClientInterceptor,
        grpc.UnaryStreamClientInterceptor,
        grpc.StreamUnaryClientInterceptor,
        grpc.StreamStreamClientInterceptor,
    )
    return type("_Bearer", kinds, dict.fromkeys(_METHODS, call))()


def _aio_bearers(shown: Callable[[], str]) -> list[Any]:
    """The same for asyncio, whose channels take an interceptor for the first kind that it
    is: one a kind."""

    async def call(_self: Any, go: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", shown())
        return await go(details._replace(metadata=metadata), request)

    kinds = (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
    return [type("_Bearer", (kind,), {name: call})() for kind, name in zip(kinds, _METHODS)]


_METHODS = (
    "intercept_unary_unary",
    "intercept_unary_stream",
    "intercept_stream_unary",
    "intercept_stream_stream",
)
