"""The process's one stream to the sidecar, on a thread of its own.

A thread, because the stream must live while an event loop is blocked, and because
the sync and the async client then share it. It opens with the first session.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from tenantd import _wire, notices
from tenantd.connection import Connection, Stamp
from tenantd.errors import (
    InvalidField,
    NotPermitted,
    SessionEnded,
    SessionUnknown,
    SidecarUnavailable,
    TenantdError,
    Undecided,
    from_rpc_error,
)
from tenantd.v1.session_service_pb2 import (
    AcquireSessionRequest,
    KeepAliveAttached,
    KeepAliveRequest,
    ReleaseSessionRequest,
)
from tenantd.v1.session_service_pb2_grpc import SessionServiceStub
from tenantd.worker import worker_id

log = logging.getLogger("tenantd")

BACKOFF = (0.05, 2.0)
"""First and longest wait before the stream is opened again, in seconds; doubled."""
ATTACH_AT_MOST = 1_000
"""Sessions in one attach, the sidecar's bound."""
GONE_AT_MOST = 1_000
"""Revoked sessions remembered, so that each is told once."""
OWED_AT_MOST = 10_000
"""Releases kept while the sidecar is away; further ones are left to the grace."""
OWED_EVERY = 1.0
"""Seconds between two tries to be rid of releases that the sidecar could not take."""
MEMORY_EVERY = 10.0
"""Seconds between two reports of resident memory."""
CLOSE_WITHIN = 1.0
"""Seconds that the end of the process waits for the thread."""

Subscriber = Callable[[notices.Notice], None]


@dataclass
class Held:
    """A live session of this process: what it takes to have it again."""

    request: AcquireSessionRequest
    tenant: str
    told: Subscriber
    """Called on the link's thread, with notices of this session alone."""
    attached: bool = False
    """The sidecar has said that it belongs to the stream."""


@dataclass
class _Outbox:
    """What one opening of the stream has to say."""

    messages: queue.SimpleQueue[KeepAliveRequest | None] = field(default_factory=queue.SimpleQueue)

    def __iter__(self) -> Iterator[KeepAliveRequest]:
        while (message := self.messages.get()) is not None:
            yield message


class Link:
    """One process's stream to one sidecar."""

    def __init__(self, connection: Connection, worker: str = "") -> None:
        self.connection = connection
        self.address = connection.address
        self._named = worker
        self._reset()
        _links.add(self)

    def __repr__(self) -> str:
        return f"Link({self.address!r}, worker={self.worker!r})"

    def _reset(self) -> None:
        # After a fork as well: locks may be held by threads that the child does not have, and
        # the parent's sessions stay the parent's.
        self.worker = self._named or worker_id()
        self._lock = threading.Lock()
        self._live: dict[str, Held] = {}
        self._owed: dict[str, ReleaseSessionRequest] = {}
        self._gone: dict[str, None] = {}
        self._subscribers: list[Subscriber] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._outbox: _Outbox | None = None
        self._call: Any = None
        self._channel: grpc.Channel | None = None
        self._stamp: Stamp = ()
        self.connected = threading.Event()

    def after_fork(self) -> None:
        """Forgets the parent's life; the child has a worker id of its own."""
        if self._named:
            self._named = f"{self._named[:100]}-{os.getpid()}"
        self._reset()

    # -- called by the clients, on any thread

    def start(self) -> None:
        """Opens the stream, once; does not wait for it."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="tenantd", daemon=True)
                self._thread.start()

    def hold(self, session_id: str, held: Held) -> None:
        """Keeps a session alive from now on."""
        self.start()
        with self._lock:
            self._live[session_id] = held
            # Always: the stream may have broken and come back between the acquire and here.
            self._say(_wire.attach([session_id]))

    def let_go(self, session_id: str) -> None:
        """Keeps it no longer."""
        with self._lock:
            self._live.pop(session_id, None)

    def owe(self, request: ReleaseSessionRequest) -> None:
        """Releases a session as soon as the sidecar answers."""
        self.start()
        with self._lock:
            self._live.pop(request.session_id, None)
            if len(self._owed) < OWED_AT_MOST:
                self._owed[request.session_id] = request
            else:
                log.warning("too many releases wait; %s is left to its TTL", request.session_id)
        self._wake.set()

    @property
    def owes(self) -> bool:
        """Whether releases wait for the sidecar: their slots are still taken."""
        return bool(self._owed)

    def pay(self) -> None:
        """Tries to be rid of what is owed, now."""
        self._wake.set()

    def blocked(self, seconds: float, session_id: str) -> None:
        """Reports that this process's event loop was blocked."""
        with self._lock:
            self._say(_wire.blocked(seconds, session_id))

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Has `subscriber` called with every notice, on the link's thread. Gives the
        function that ends it."""
        with self._lock:
            self._subscribers.append(subscriber)

        def end() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return end

    def close(self) -> None:
        """Closes the stream. Sessions still held have the sidecar's grace."""
        self._stop.set()
        self._wake.set()
        with self._lock:
            if self._outbox is not None:
                self._outbox.messages.put(None)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_WITHIN)
            if thread.is_alive() and (call := self._call) is not None:
                call.cancel()
                thread.join(CLOSE_WITHIN)
        _links.discard(self)

    @property
    def live(self) -> int:
        """Sessions held."""
        return len(self._live)

    # -- on the link's thread

    def _say(self, message: KeepAliveRequest) -> None:
        if self._outbox is not None:
            self._outbox.messages.put(message)

    def _run(self) -> None:
        stop = self._stop
        wait = BACKOFF[0]
        said_down = False
        settler = threading.Thread(
            target=self._settle, args=(stop,), name="tenantd-owed", daemon=True
        )
        settler.start()
        while not stop.is_set():
            opened, problem = False, ""
            try:
                opened = self._stream(self._connected())
            except OSError as error:
                problem = f": {error}"  # A token or certificate that cannot be read.
            if stop.is_set():
                break
            if opened:
                wait, said_down = BACKOFF[0], False
            if not said_down:
                said_down = True
                log.warning(
                    "the tenantd sidecar at %s is away%s; %d sessions go on and re-attach",
                    self.address,
                    problem,
                    self.live,
                )
            stop.wait(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, BACKOFF[1])
        self._wake.set()
        settler.join(CLOSE_WITHIN)
        if self._channel is not None:
            self._channel.close()

    def _connected(self) -> SessionServiceStub:
        """Over the channel with the certificates of now: those of then may have expired."""
        stamp = self.connection.stamp()
        if self._channel is None or stamp != self._stamp:
            former, self._channel = self._channel, self.connection.channel()
            self._stamp = stamp
            if former is not None:
                former.close()
        return SessionServiceStub(self._channel)

    def _stream(self, stub: SessionServiceStub) -> bool:
        """Holds the stream as long as it lives; whether it was ever open."""
        outbox = _Outbox()
        with self._lock:
            ids = list(self._live)
            outbox.messages.put(
                KeepAliveRequest(worker=self.worker, memory_bytes=_resident_bytes())
            )
            for start in range(0, len(ids), ATTACH_AT_MOST):
                outbox.messages.put(_wire.attach(ids[start : start + ATTACH_AT_MOST]))
            self._outbox = outbox
        opened = False
        try:
            self._call = stub.KeepAlive(iter(outbox))
            for message in self._call:
                opened = True
                self.connected.set()
                self._wake.set()
                if message.WhichOneof("message") == "attached":
                    self._attached(stub, message.attached)
                elif (notice := notices.from_response(message)) is not None:
                    self._tell(notice)
        except grpc.RpcError as error:
            log.debug("stream to the sidecar ended: %s", from_rpc_error(error))
        finally:
            self.connected.clear()
            with self._lock:
                self._outbox = None
            outbox.messages.put(None)
            self._call = None
        return opened

    def _attached(self, stub: SessionServiceStub, attached: KeepAliveAttached) -> None:
        for session in attached.sessions:
            with self._lock:
                if (known := self._live.get(session.session_id)) is not None:
                    known.attached = True
        for refused in attached.refused:
            with self._lock:
                held = self._live.get(refused.session_id)
            if held is None:
                continue
            reason = refused.reason
            if reason == "SESSION_UNKNOWN":
                # A sidecar that started anew: ask for the slot again, under the caps of now.
                reason = self._again(stub, held)
            elif reason == "SESSION_ENDED":
                reason = _wire.outcome_name(refused.outcome)
            if reason:
                self._tell(notices.Revoked(refused.session_id, held.tenant, reason))

    def _again(self, stub: SessionServiceStub, held: Held) -> str:
        """Empty when it is held again, or may be with the next stream; else why not."""
        request = AcquireSessionRequest()
        request.CopyFrom(held.request)
        request.worker, request.activate = self.worker, True
        try:
            stub.AcquireSession(request, timeout=_wire.DEADLINE)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if not isinstance(error, SidecarUnavailable | Undecided):
                return error.reason or type(error).__name__
        else:
            with self._lock:
                released = request.session_id not in self._live
            if released:
                self.owe(_wire.release(request.session_id, "cancelled", "", "", ""))
        return ""

    def _settle(self, stop: threading.Event) -> None:
        """Pays owed releases and reports memory, until the link closes."""
        reported = time.monotonic()
        while True:
            self._wake.wait(OWED_EVERY if self._owed else MEMORY_EVERY)
            self._wake.clear()
            if (now := time.monotonic()) - reported >= MEMORY_EVERY:
                reported = now
                with self._lock:
                    self._say(KeepAliveRequest(memory_bytes=_resident_bytes()))
            with self._lock:
                owed = list(self._owed.values())
            for request in owed:
                if (channel := self._channel) is None or not _released(channel, request):
                    break
                with self._lock:
                    if self._owed.get(request.session_id) is request:
                        del self._owed[request.session_id]
            if stop.is_set():
                return

    def _tell(self, notice: notices.Notice) -> None:
        with self._lock:
            told = list(self._subscribers)
            if isinstance(notice, notices.Revoked):
                held = self._live.pop(notice.session_id, None)
                if held is not None:
                    told.insert(0, held.told)
                elif notice.session_id in self._gone:
                    return  # The answer to an attach has said it before the notice.
                self._gone[notice.session_id] = None
                if len(self._gone) > GONE_AT_MOST:
                    del self._gone[next(iter(self._gone))]
            elif not isinstance(notice, notices.SidecarDraining):
                told[:0] = [self._live[i].told for i in notice.session_ids if i in self._live]
        for subscriber in told:
            try:
                subscriber(notice)
            except Exception:
                log.exception("a callback for %s failed", type(notice).__name__)


def _released(channel: grpc.Channel, request: ReleaseSessionRequest) -> bool:
    """Whether nothing is left to free. False: to be asked again."""
    try:
        SessionServiceStub(channel).ReleaseSession(request, timeout=_wire.DEADLINE)
    except grpc.RpcError as rpc_error:
        error = from_rpc_error(rpc_error)
        if isinstance(error, SessionEnded | SessionUnknown):
            return True
        if isinstance(error, NotPermitted | InvalidField):
            log.warning("%s cannot be released: %s", request.session_id, error)
            return True
        return False  # A stream that was cut, a fault: it may still hold its slot.
    except (OSError, ValueError):
        return False  # No token to show, or the channel was replaced just now.
    return True


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


_links: weakref.WeakSet[Link] = weakref.WeakSet()
_shared: dict[Connection, tuple[Link, int]] = {}
_shared_lock = threading.Lock()


def shared(connection: Connection) -> Link:
    """The process's link over `connection`; give it back with `unshare`."""
    with _shared_lock:
        link, users = _shared.get(connection, (None, 0))
        link = link or Link(connection)
        _shared[connection] = (link, users + 1)
        return link


def unshare(link: Link) -> None:
    """Closes the link with its last user."""
    with _shared_lock:
        known, users = _shared.get(link.connection, (None, 0))
        if known is link and users > 1:
            _shared[link.connection] = (link, users - 1)
            return
        if known is link:
            del _shared[link.connection]
    link.close()


def _at_exit() -> None:
    for link in list(_links):
        link.close()


def _in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for link in list(_links):
        link.after_fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
