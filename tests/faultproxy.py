"""An HTTP proxy in front of an upstream that counts what passes, and misbehaves as a test tells it to.

It speaks plain HTTP on loopback and keeps connections open, as servers do. Paths are given without their leading /v1/.
"""

import contextlib
import http.client
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

_HANG_LOOK = 0.05  # seconds between two looks whether a hang is over
_PATIENCE = 60.0  # seconds for the upstream, and for the next request on an open connection


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request.

    Attributes:
        at: time.monotonic() when its head and body had arrived.
        path: below /v1/, with the query.
        headers: by lower-case name.
    """

    at: float
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document that was sent."""
        found: dict[str, Any] = json.loads(self.content or b"{}")
        return found


@dataclass(kw_only=True, eq=False)
class Fault:
    """What happens to requests on paths that begin with `prefix`.

    Attributes:
        method: only this one.
        times: how many more requests it happens to; None for all.
        delay: seconds before anything else.
        hang: no answer comes while the fault lasts; then the connection is reset.
        reset: the connection is reset at once; the upstream hears nothing.
        lose: the upstream does what was asked, and then the connection is reset.
        half: the upstream does what was asked, and the connection ends in the middle of the answer's body.
        raw: sent in place of an answer, then the connection is closed.
        stream: likewise, piece by piece, until it ends or the client has gone.
        status, body, headers: the answer in place of the upstream's; `body` may be a document, or bytes as they are.
    """

    prefix: str
    method: str | None = None
    times: int | None = None
    delay: float = 0.0
    hang: bool = False
    reset: bool = False
    lose: bool = False
    half: bool = False
    raw: bytes | None = None
    stream: Callable[[], Iterable[bytes]] | None = None
    status: int | None = None
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Response:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    content: bytes


class FaultProxy:
    """Use as a context manager; `upstream` may be set to another server at any time.

    Attributes:
        address: as a configuration names it; it stays the same while the proxy plays dead.
        requests: all that arrived, faults included, in order.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.requests: list[Seen] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: _Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self.dead()

    # -- what passed -------------------------------------------------------------------------------------------------

    def seen(self, prefix: str = "", *, method: str | None = None, since: float = 0.0) -> list[Seen]:
        """The requests on paths that begin with `prefix`, from `since` (time.monotonic()) on."""
        with self._lock:
            every = list(self.requests)
        return [
            one for one in every if one.path.startswith(prefix) and method in (None, one.method) and one.at >= since
        ]

    def count(self, prefix: str = "", *, method: str | None = None, since: float = 0.0) -> int:
        """How many of them there were."""
        return len(self.seen(prefix, method=method, since=since))

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def fault(self, prefix: str, **how: Any) -> Fault:
        """Let something happen to these requests from now on (see Fault); the newest fault that fits wins."""
        one = Fault(prefix=prefix, **how)
        with self._lock:
            self._faults.insert(0, one)
        return one

    def clear(self, fault: Fault | None = None) -> None:
        """End that fault, or all of them; whoever hangs is reset."""
        with self._lock:
            self._faults = [one for one in self._faults if fault not in (None, one)]

    def dead(self) -> None:
        """Reset every connection and refuse new ones, as a killed server does."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with self._lock:
            left, self._open = self._open, set()
        for one in left:
            _reset(one)

    def alive(self) -> None:
        """Listen, again where it has listened before."""
        if self._server is None:
            self._server = _Server(("127.0.0.1", self._port), self)
            self._port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fault-proxy", daemon=True).start()

    # -- one request -------------------------------------------------------------------------------------------------

    def serve(self, connection: socket.socket) -> None:
        """Answer request after request on one connection."""
        with self._lock:
            self._open.add(connection)
        try:
            with contextlib.suppress(OSError), connection.makefile("rb") as reader:
                # The last look: what arrives after the proxy's death may still be read from a connection.
                while (seen := _read(reader)) is not None and self._alive(connection):
                    if not self._answer(connection, seen):
                        break
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket, seen: Seen) -> bool:
        """Whether the connection goes on."""
        fault = self._take(seen)
        if fault is None:
            return self._pass_on(connection, self._forward(seen))
        time.sleep(fault.delay)
        if fault.hang:
            self._hang(fault)
        if fault.hang or fault.reset:
            return _reset(connection)
        if (pieces := _pieces(fault)) is not None:
            for piece in pieces:
                connection.sendall(piece)
            return False
        if fault.status is not None:
            return _send(connection, _scripted(fault))
        answer = self._forward(seen)
        if fault.lose:
            return _reset(connection)
        return self._pass_on(connection, answer, half=fault.half)

    def _pass_on(self, connection: socket.socket, answer: _Response, *, half: bool = False) -> bool:
        """The upstream's answer, unless the proxy died meanwhile."""
        return _send(connection, answer, half=half) if self._alive(connection) else _reset(connection)

    def _alive(self, connection: socket.socket) -> bool:
        """Whether the proxy has not died since that connection was made."""
        with self._lock:
            return connection in self._open

    def _take(self, seen: Seen) -> Fault | None:
        """Note the request; the fault that it meets."""
        with self._lock:
            self.requests.append(seen)
            for one in self._faults:
                if seen.path.startswith(one.prefix) and one.method in (None, seen.method) and one.times != 0:
                    one.times = None if one.times is None else one.times - 1
                    return one
        return None

    def _hang(self, fault: Fault) -> None:
        while self._server is not None:
            with self._lock:
                if fault not in self._faults:
                    return
            time.sleep(_HANG_LOOK)

    def _forward(self, seen: Seen) -> _Response:
        """What the upstream says; OSError where it says nothing."""
        split = urlsplit(self.upstream)
        with contextlib.closing(http.client.HTTPConnection(split.netloc, timeout=_PATIENCE)) as onward:
            headers = {name: value for name, value in seen.headers.items() if name != "connection"}
            try:
                onward.request(seen.method, f"/v1/{seen.path}", seen.content or None, headers)
                response = onward.getresponse()
                content = response.read()
            except http.client.HTTPException as error:
                raise OSError("the upstream broke off") from error
            return _Response(
                status=response.status, reason=response.reason, headers=response.getheaders(), content=content
            )


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self._proxy = proxy
        super().__init__(address, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request.settimeout(_PATIENCE)
        self._proxy.serve(request)

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):  # it may have been reset
            super().shutdown_request(request)


def _read(reader: Any) -> Seen | None:
    """The next request; None where the client is gone."""
    line = reader.readline().decode("latin-1")
    if not line.strip():
        return None
    method, target, _ = line.split(" ", 2)
    headers = {}
    while (header := reader.readline().decode("latin-1")).strip():
        name, _, value = header.partition(":")
        headers[name.strip().lower()] = value.strip()
    content = reader.read(int(headers.get("content-length", "0")))
    path = target.removeprefix("/v1/")
    return Seen(at=time.monotonic(), method=method, path=path, headers=headers, content=content)


def _pieces(fault: Fault) -> Iterable[bytes] | None:
    """What is sent in place of any answer; None where there is one."""
    return fault.stream() if fault.stream is not None else None if fault.raw is None else (fault.raw,)


def _scripted(fault: Fault) -> _Response:
    assert fault.status is not None
    content = (
        fault.body if isinstance(fault.body, bytes) else b"" if fault.body is None else json.dumps(fault.body).encode()
    )
    headers = {"Content-Type": "application/json", **fault.headers}
    reason = http.client.responses.get(fault.status, "")
    return _Response(status=fault.status, reason=reason, headers=list(headers.items()), content=content)


def _send(connection: socket.socket, answer: _Response, *, half: bool = False) -> bool:
    """Send it with its true length; True if the connection goes on."""
    dropped = ("content-length", "transfer-encoding", "connection")
    headers = [(name, value) for name, value in answer.headers if name.lower() not in dropped]
    if answer.status != 204:
        headers.append(("Content-Length", str(len(answer.content))))
    head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    content = answer.content[: len(answer.content) // 2] if half else answer.content
    connection.sendall(head.encode("latin-1") + b"\r\n" + content)
    return not half


def _reset(connection: socket.socket) -> bool:
    """RST in place of an orderly end; False, since it does not go on."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes whoever reads it
    with contextlib.suppress(OSError):
        connection.close()
    return False
