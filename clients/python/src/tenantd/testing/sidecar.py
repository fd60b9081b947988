"""The real binary, started for a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tenantd.client import Client
from tenantd.errors import TenantdError
from tenantd.v1.admin_service_pb2 import (
    DrainRequest,
    OpenBreakerRequest,
    ReloadConfigRequest,
    ResumeTenantRequest,
    RevokeSessionRequest,
    SuspendTenantRequest,
)
from tenantd.v1.admin_service_pb2_grpc import AdminServiceStub
from tenantd.v1.watch_service_pb2 import (
    GetSnapshotRequest,
    GetSnapshotResponse,
    ListSessionsRequest,
)
from tenantd.v1.watch_service_pb2_grpc import WatchServiceStub

STARTS_WITHIN = 20.0
"""Longest wait for a started sidecar, in seconds."""
STOPS_WITHIN = 10.0
"""Longest wait for a stopped one, in seconds; then it is killed."""


class Sidecar:
    """A `tenantd serve` of its own: a private folder, socket and log.

    `config` as in the config file, as a dict (`{"tenants": {"acme": {"cap": 2}}}`) or as
    its TOML text. `binary`: by default `TENANTD_BIN`, else `tenantd` on the `PATH`.
    `environment`: variables for `env:NAME` credentials. `log`: its log level. `listen`:
    where to listen beside its socket, for example `127.0.0.1:7443`.

    Use it as a block, or `start()` and `stop()`.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str = "",
        *,
        binary: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        log: str = "info",
        listen: Iterable[str] = (),
    ) -> None:
        self._config = config
        self._binary = binary
        self._listen = [part for address in listen for part in ("--listen", address)]
        self._environment = {**(environment or {}), "TENANTD_LOG": log}
        # Not the test's own folder: a socket's path may have only 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="td-"))
        """Where config, socket and log are; removed by `stop`."""
        self.path = self.folder / "t.sock"
        """The socket."""
        self.file = self.folder / "config" / "tenantd.toml"
        """Its config file; apart from the log, since the sidecar watches that folder."""
        self.log = self.folder / "log"
        """What it says."""
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Sidecar({self.address!r})"

    def __enter__(self) -> Sidecar:
        return self.start()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except AssertionError:
            if error is None:
                raise

    @property
    def address(self) -> str:
        """For `tenantd.connect`, or `TENANTD_ADDRESS`."""
        return f"unix:{self.path}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self._process is None:
            raise RuntimeError("the sidecar is not started")
        return self._process

    def start(self) -> Sidecar:
        """Starts it, and returns when it serves. Does nothing while it runs."""
        if self._process is not None and self._process.poll() is None:
            return self
        self._write(self._config)
        with self.log.open("ab") as output:
            command = [self._command(), "serve", "--config", os.fspath(self.file)]
            self._process = subprocess.Popen(
                [*command, "--listen", self.address, *self._listen],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its audit log goes away with it.
                env={**os.environ, "XDG_STATE_HOME": str(self.folder), **self._environment},
            )
        try:
            _until(f"serve {self.address}", self._serving, STARTS_WITHIN)
        except BaseException as error:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"tenantd did not start: {error}\n{self.logs()[-4000:]}") from error
        return self

    def stop(self) -> None:
        """Releases what is live, stops it as an operator would, and removes its folder.

        Raises an AssertionError when it does not end well.
        """
        try:
            if self.process.poll() is None:
                self._release_all()
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"no end after SIGTERM\n{self.logs()[-4000:]}") from None
            if code != 0:
                raise AssertionError(f"it ended with {code}\n{self.logs()[-4000:]}")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Ends it at once, as a crash would; `start` brings it back on the same socket."""
        self.process.kill()
        self.process.wait()

    def logs(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def reload(self, config: Mapping[str, Any] | str) -> None:
        """Gives it another config, which it has taken on when this returns."""
        self._write(config)
        with Client(self.address) as client:
            AdminServiceStub(client.channel).ReloadConfig(ReloadConfigRequest(), timeout=5)

    def snapshot(self) -> GetSnapshotResponse:
        """Its figures."""
        with Client(self.address) as client:
            return WatchServiceStub(client.channel).GetSnapshot(GetSnapshotRequest(), timeout=2)

    def live(self, tenant: str) -> int:
        """A tenant's live sessions."""
        return self.snapshot().sessions_by_tenant.get(tenant, 0)

    def revoke(self, session_id: str, note: str = "") -> None:
        """Takes a session's slot away."""
        self._admin("RevokeSession", RevokeSessionRequest(session_id=session_id, note=note))

    def suspend(self, tenant: str, note: str = "") -> None:
        """Refuses a tenant's new sessions."""
        self._admin("SuspendTenant", SuspendTenantRequest(tenant=tenant, note=note))

    def resume(self, tenant: str) -> None:
        """Ends a suspension."""
        self._admin("ResumeTenant", ResumeTenantRequest(tenant=tenant))

    def open_breaker(self, tenant: str) -> None:
        """Opens a tenant's circuit breaker."""
        self._admin("OpenBreaker", OpenBreakerRequest(tenant=tenant))

    def drain(self) -> None:
        """Refuses all new sessions."""
        self._admin("Drain", DrainRequest())

    def _admin(self, method: str, request: Any) -> None:
        with Client(self.address) as client:
            getattr(AdminServiceStub(client.channel), method)(request, timeout=2)

    def _write(self, config: Mapping[str, Any] | str) -> None:
        self._config = config
        self.file.parent.mkdir(exist_ok=True)
        # Others must not read it: it may hold keys.
        self.file.touch(mode=0o600)
        text = config if isinstance(config, str) else _toml(config)
        # A file of no bytes is refused, as an edit half-way.
        self.file.write_text(text or "# defaults\n", encoding="utf-8")

    def _command(self) -> str:
        named = self._binary or os.environ.get("TENANTD_BIN") or shutil.which("tenantd")
        if not named:
            raise FileNotFoundError(
                "no tenantd binary: put it on the PATH, set TENANTD_BIN, or use FakeSidecar"
            )
        return os.fspath(named)

    def _release_all(self) -> None:
        # A failed test leaves sessions behind, and the drain would wait for them.
        with Client(self.address) as client:
            watch = WatchServiceStub(client.channel)
            try:
                for session in watch.ListSessions(ListSessionsRequest(), timeout=2).sessions:
                    # Not released: with identities it is another's.
                    request = RevokeSessionRequest(session_id=session.session_id)
                    AdminServiceStub(client.channel).RevokeSession(request, timeout=2)
            except (grpc.RpcError, TenantdError):
                pass  # It drains already, and ends by itself.

    def _serving(self) -> bool:
        code = self.process.poll()
        if code is not None:
            raise RuntimeError(f"it ended with {code}")
        if not self.path.exists():
            return False
        with Client(self.address) as client:
            check: Any = client.channel.unary_unary("/grpc.health.v1.Health/Check")
            try:
                # HealthCheckResponse{status: SERVING} is field 1, varint 1.
                return bool(check(b"", timeout=1) == b"\x08\x01")
            except grpc.RpcError:
                return False


def _toml(config: Mapping[str, Any]) -> str:
    try:
        import tomli_w
    except ImportError:
        raise ImportError("a config as dict needs tomli-w: pip install tenantd[testing]") from None
    return tomli_w.dumps(config)


def _until(what: str, probe: Callable[[], bool], within: float) -> None:
    end = time.monotonic() + within
    while not probe():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {within:g} s: {what}")
        time.sleep(0.02)
