"""Sockets with an end: an instant by which all must be over, and a number of bytes.

A socket's own timeout counts anew with each piece, so that a server that sends one byte a second is never late.
"""

import contextlib
import errno
import io
import math
import select
import socket
import ssl
import threading
from typing import Any

from agent import dial

LARGEST_BODY = 1 << 20
"""Bytes of an answer's body."""

_LARGEST_ANSWER = LARGEST_BODY + (128 << 10)  # with headers, and with what chunks cost
_LOOK = 0.25  # how long to wait at most before looking whether the call has been given up
_PIECE = 16 << 10  # what fits into one TLS record
_LEAST = 0.01


class TooLarge(Exception):
    """More bytes than any answer has."""


class Bounds:
    """What one call may take; `cut` by another thread ends it within a moment.

    Args:
        ends_at: instant of the dial.
    """

    def __init__(self, ends_at: float) -> None:
        self._ends_at = ends_at
        self._cut = threading.Event()
        self._bytes = _LARGEST_ANSWER

    def narrowed(self, ends_at: float) -> "Bounds":
        """The same call's, for a part of it that must be over by `ends_at`."""
        part = Bounds(min(self._ends_at, ends_at))
        part._cut = self._cut
        return part

    @property
    def remaining(self) -> float:
        """Seconds left; not above 0 when there are none."""
        return -math.inf if self._cut.is_set() else self._ends_at - dial.now()

    def pause(self) -> float:
        """How long to wait for the other side before looking at the bounds again.

        Raises:
            TimeoutError: the time is over.
        """
        if (remaining := self.remaining) <= 0:
            raise TimeoutError
        return min(remaining, _LOOK)

    def cut(self) -> None:
        """No more time; for any thread."""
        self._cut.set()

    def begin_answer(self) -> None:
        """The next bytes received are a new answer's."""
        self._bytes = _LARGEST_ANSWER

    def count(self, received: int) -> None:
        """So many bytes have come.

        Raises:
            TooLarge: they are too many.
        """
        self._bytes -= received
        if self._bytes < 0:
            raise TooLarge


class _Bounded:
    """Beneath http.client: `recv_into` and `sendall` keep to the bounds.

    Attributes:
        bounds: of the call under way.
        touched: whether a byte has been handed to the machine for sending since this was last set to False.
        deaf: receive nothing, as if nothing had come.
    """

    bounds: Bounds
    touched: bool = False
    deaf: bool = False

    def recv_into(self, *args: Any) -> int:
        if self.deaf:
            raise BlockingIOError(errno.EAGAIN, "not listening")
        while True:
            self.settimeout(self.bounds.pause())  # type: ignore[attr-defined]  # a socket's
            try:
                received: int = super().recv_into(*args)  # type: ignore[misc]
            except TimeoutError:
                continue
            self.bounds.count(received)
            return received

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            self.settimeout(self.bounds.pause())  # type: ignore[attr-defined]
            try:
                sent: int = self.send(view[:_PIECE], flags)  # type: ignore[attr-defined]
            except TimeoutError:
                continue
            self.touched = True
            view = view[sent:]


class PlainSocket(_Bounded, socket.socket):
    """TCP."""


class TlsSocket(_Bounded, ssl.SSLSocket):
    """TLS over it; made by a context whose `sslsocket_class` it is."""


BoundedSocket = PlainSocket | TlsSocket


def speaks(sock: BoundedSocket) -> bool:
    """Whether there is something to read where nothing was asked: the end, as a rule.

    What came in one TLS record with an answer is with OpenSSL by then, where the system's poll() does not see it.
    """
    if isinstance(sock, TlsSocket) and sock.pending():
        return True
    look = select.poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))


class Reader(io.BufferedReader):
    """What one answer is read from, and which is closed at its end.

    Attributes:
        more: whether something was left in the buffer by then: an answer that nobody has asked for.
    """

    more: bool = False

    def __init__(self, raw: io.RawIOBase, sock: BoundedSocket) -> None:
        super().__init__(raw)
        self._sock = sock

    def close(self) -> None:
        """Look into the buffer, and close."""
        if not self.closed:
            self.more, self._sock.deaf = True, True
            with contextlib.suppress(OSError):  # what broke is not used again, either
                self.more = bool(self.peek(1))
            self._sock.deaf = False
        super().close()


def connect(place: tuple[str, int], bounds: Bounds) -> PlainSocket:
    """A TCP connection, made within `bounds`; every IP address of the name gets its share of the time.

    A name's look-up alone keeps to no deadline: the resolver cannot be interrupted.

    Raises:
        OSError: it cannot be made; of several reasons the last.
    """
    found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    problem: OSError = TimeoutError()
    for nth, (family, kind, protocol, _, where) in enumerate(found):
        if (left := bounds.remaining) <= 0:
            raise TimeoutError
        made = PlainSocket(family, kind, protocol)
        try:
            made.bounds = bounds
            made.settimeout(max(left / (len(found) - nth), _LEAST))
            made.connect(where)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except OSError as refused:
            made.close()
            problem = refused
    raise problem


def wrap(plain: PlainSocket, context: ssl.SSLContext, name: str) -> TlsSocket:
    """TLS over `plain`, within its bounds; `plain` is closed where that fails.

    Raises:
        OSError: the handshake failed, or was not over in time.
    """
    try:
        plain.settimeout(max(plain.bounds.remaining, _LEAST))  # of the whole handshake, as the ssl module counts it
        made = context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        with contextlib.suppress(OSError):
            plain.close()
        raise
    assert isinstance(made, TlsSocket)  # noqa: S101 - for the type checker: the context was told so
    made.bounds = plain.bounds
    return made
