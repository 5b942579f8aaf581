"""A service on loopback that records what it is asked and answers as told, byte by byte where it must misbehave."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: str

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> Mapping[str, str]:
        """What the query says."""
        return {name: value for name, (value, *_) in parse_qs(urlsplit(self.target).query).items()}

    @property
    def form(self) -> Mapping[str, str]:
        """What the body says, if it is a form."""
        return {name: value for name, (value, *_) in parse_qs(self.body).items()}


def answer(body: Any = "", *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A well-formed answer; whatever is no text is sent as JSON."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(data)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


@dataclass
class StandIn:
    """The service. `respond` returns the bytes to send, or None to say nothing until the caller leaves."""

    respond: Callable[[Asked], bytes | None]
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "StandIn":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(30)
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        try:
            method, target, _ = file.readline().decode().split()
        except ValueError:  # the caller has left without a word, or begins with TLS
            return
        headers: dict[str, str] = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", "0"))).decode()
        asked = Asked(method=method, target=target, headers=headers, body=body)
        self.asked.append(asked)
        said = self.respond(asked)
        try:
            connection.sendall(said or b"")
            if said is None and connection.recv(1) == b"":
                self.left.set()
        except OSError:
            self.left.set()
