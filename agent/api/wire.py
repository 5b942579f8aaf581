"""Requests and answers as values, and as bytes of HTTP/1.1. No socket, no clock, no role.

A request keeps only what an answer can depend on: tokens and cookies a client may send are dropped while parsing, so
nothing behind the listener can leak them.
"""

import json
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

KEPT_HEADERS = frozenset(
    {b"accept", b"content-length", b"transfer-encoding", b"content-type", b"expect", b"if-none-match"},
)
WANTED = b"application/openmetrics-text"
"""The only thing that an Accept header can ask for; whatever else it says is not kept."""
_FORWARDED = (b"accept", b"content-type", b"if-none-match")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refused(Exception):
    """This request is answered with `status` and `text`, and its connection ends."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(text)


class Request:
    """One request, whole.

    Attributes:
        method: as sent, e.g. b"GET".
        target: as sent: a path with its query, still percent-encoded, or an absolute URL.
        headers: those of KEPT_HEADERS, names in lower case.
        body: without its transfer coding.
        version: "1.0" or "1.1".
        keep_alive: whether the client goes on using the connection.
    """

    __slots__ = ("body", "headers", "keep_alive", "method", "target", "version")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.version = "1.1"
        self.keep_alive = True

    def canonical(self) -> bytes:
        """The same request in its one plain spelling, for a second parser: nothing is left to interpretation."""
        target = origin_form(self.target) or b"/"
        lines = [b"%b %b HTTP/%b" % (self.method, target, self.version.encode()), b"Host: localhost"]
        lines += [b"%b: %b" % (name, self.headers[name]) for name in _FORWARDED if name in self.headers]
        if self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        lines.append(b"Connection: keep-alive" if self.keep_alive else b"Connection: close")
        return b"\r\n".join((*lines, b"", self.body))


class Response:
    """One answer; its bytes are put together once, however often it is sent.

    Attributes:
        status: HTTP status.
        headers: all but Connection and Content-Length.
        body: JSON, or nothing.
    """

    __slots__ = ("_head", "_whole", "body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = tuple(headers)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if status != HTTPStatus.NOT_MODIFIED:
            lines.append(f"Content-Length: {len(body)}")
        self._head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        self._whole = self._head + b"\r\n" + body

    def __repr__(self) -> str:
        return f"Response({self.status})"

    def to(self, request: Request, *, keep_alive: bool) -> bytes:
        """The bytes that answer `request`."""
        if keep_alive and request.version == "1.1" and request.method != b"HEAD":
            return self._whole
        connection = b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        return self._head + connection + (b"" if request.method == b"HEAD" else self.body)

    def last(self) -> bytes:
        """The bytes, where they are the last of their connection."""
        return self._head + b"Connection: close\r\n\r\n" + self.body


def as_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def plain(status: int, value: object, *headers: tuple[str, str]) -> Response:
    """An answer of JSON that nobody may keep."""
    return Response(
        status, as_json(value), (("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers)
    )


def error(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """An error in Vault's shape. `text` never repeats what the client sent."""
    return plain(status, {"errors": [text]}, *headers)


NOT_FOUND = error(404, "no such path: credentials are at /v1/ROLE, the agent's state at /v1/sys/health")
READ_ONLY = error(405, "only GET and HEAD here", ("Allow", "GET, HEAD"))
FAULT = error(500, "the agent failed to answer; its log says more")


def origin_form(target: bytes) -> bytes | None:
    """A request's target from its path on; None where it has none ("*", "host:port").

    An absolute URL counts by its path alone: whatever its host, it was sent to this socket.
    """
    if target[:1] == b"/":
        return target
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return None
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"


def split_target(target: bytes) -> tuple[str, str] | None:
    """The decoded path and the raw query of a request's target; None where there is no such path."""
    path, _, query = (origin_form(target) or b"").partition(b"#")[0].partition(b"?")
    try:
        return (unquote_to_bytes(path).decode(), query.decode("latin-1")) if path else None
    except UnicodeDecodeError:
        return None
