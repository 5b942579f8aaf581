"""One HTTP exchange, beneath requests: its supported extension point, a transport adapter of our own.

requests' own one, over urllib3, sends a request again on a connection that broke, takes CAs, proxies and passwords from
the environment, inflates what it is sent, and counts its timeout anew with each byte. This one does what it is told,
over http.client: it knows for each failure whether the server may have seen the request. Imported by the wire's threads
only, since requests takes 50 ms to load.
"""

import base64
import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import requests
import requests.adapters
import requests.structures

from agent import dial
from agent.engines.vault import tls
from agent.engines.vault.addresses import Address
from agent.engines.vault.sockets import LARGEST_BODY, BoundedSocket, Bounds, Reader, TooLarge, connect, speaks, wrap

IDLE = 30.0
"""Seconds after which an unused connection is not used again: servers and balancers close theirs after 60 s or more."""

_PIECE = 64 << 10
_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_TOO_LARGE = "a body that is too large"
_CUT_OFF = "a body that was cut off"


class NotSent(Exception):
    """The server has certainly not seen the request; the text says why, in words that may be told."""


class GivenUp(Exception):
    """The caller has gone, and nothing was sent for it."""


class Lost(Exception):
    """The request was sent, and no answer came.

    Attributes:
        timed_out: it was waited for until the end.
    """

    def __init__(self, words: str, *, timed_out: bool = False) -> None:
        super().__init__(words)
        self.timed_out = timed_out


class Garbled(Exception):
    """What came is no answer of HTTP/1.1; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """What the transport must know of a call, beside the request.

    Attributes:
        address: where to; the request's URL is of it.
        certificate: client certificate and key, in place of the configuration's.
        connect_until: instant by which the connection stands.
        bounds: of the whole call.
        begin: asked right before the first byte; False if the caller has gone, and nothing may be sent any more.
    """

    address: Address
    certificate: tuple[str, str] | None
    connect_until: float
    bounds: Bounds
    begin: Callable[[], bool]


class Reply(requests.Response):
    """An answer, read whole.

    Attributes:
        location: of a redirect. It is kept from requests, which would look into it.
        flaw: why the body cannot be used, "" if it can.
        last: nothing more may be read from its connection.
    """

    location: str = ""
    flaw: str = ""
    last: bool = False


class _Answer(http.client.HTTPResponse):
    """An answer that is read through a Reader.

    Attributes:
        reader: it; http.client lets go of its own at the end of the body.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = self.reader = Reader(self.fp.detach(), cast(BoundedSocket, sock))


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A connection that stands; `stamp` is of the files that it was made with."""

    connection: http.client.HTTPConnection
    stamp: tls.Stamp
    idle_since: float


class Transport(requests.adapters.BaseAdapter):
    """Carries the requests of one thread, one at a time, on connections that are kept.

    Args:
        contexts: for TLS.
        server_name: name the certificates must carry, None for the address's own.
        proxy: its URL, None for none. Only TLS goes through it: what goes in clear goes to loopback, which a proxy
            elsewhere would take for its own, tokens and all.
    """

    def __init__(self, contexts: tls.Contexts, server_name: str | None, proxy: str | None) -> None:
        super().__init__()
        self.route: Route
        self._contexts = contexts
        self._server_name = server_name
        self._proxy = urlsplit(proxy) if proxy else None
        self._kept: dict[Address, _Kept] = {}

    def close(self) -> None:
        """Close every connection."""
        while self._kept:
            self._kept.popitem()[1].connection.close()

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Reply:
        """The answer to `request`, as `route` says. What requests would pass beside it is ours to know.

        Raises:
            NotSent, GivenUp, Lost, Garbled: there is none.
            tls.BadFiles: nothing was sent, to whichever address.
        """
        address = self.route.address
        stamp, context = self._tls()
        kept = self._take(address, stamp)
        if kept is not None:
            # The server may have closed it while it lay idle. Only if the first write finds that out is it certain
            # that nothing was processed: then, and only then, the same request goes out on a new one.
            with contextlib.suppress(NotSent):
                return self._exchange(kept, request, stamp)
        return self._exchange(self._open(context), request, stamp)

    def _tls(self) -> tuple[tls.Stamp, ssl.SSLContext | None]:
        if self.route.address.scheme != "https":
            return (), None
        found = self._contexts.get(self.route.certificate)
        return found.stamp, found.context

    def _take(self, address: Address, stamp: tls.Stamp) -> http.client.HTTPConnection | None:
        kept = self._kept.pop(address, None)
        if kept is None:
            return None
        fresh = kept.stamp == stamp and dial.now() - kept.idle_since < IDLE
        if fresh and not speaks(cast(BoundedSocket, kept.connection.sock)):
            return kept.connection
        kept.connection.close()
        return None

    def _open(self, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
        route = self.route
        address = route.address
        name = self._server_name or address.host
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.auto_open = 0
        connection.response_class = _Answer
        try:
            plain = connect(self._first_hop(), route.bounds.narrowed(route.connect_until))
            if context is None:
                connection.sock = plain
            else:
                self._tunnel(plain)
                connection.sock = wrap(plain, context, name)
        except ssl.SSLError as problem:
            raise NotSent(tls.words(problem, name)) from problem
        except (OSError, UnicodeError, http.client.HTTPException, TooLarge) as problem:
            raise NotSent(connect_words(problem)) from problem
        return connection

    def _first_hop(self) -> tuple[str, int]:
        if self._proxy is None or self.route.address.scheme != "https":
            return self.route.address.place
        return self._proxy.hostname or "", self._proxy.port or 80

    def _tunnel(self, plain: socket.socket) -> None:
        """Through the proxy, if there is one (RFC 9110, 9.3.6)."""
        if self._proxy is None:
            return
        host, port = self.route.address.place
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        lines += [f"{name}: {value}" for name, value in self._proxy_headers().items()]
        try:
            plain.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            with contextlib.closing(http.client.HTTPResponse(plain, method="CONNECT")) as answer:
                answer.begin()
            if not 200 <= answer.status < 300:
                raise NotSent(f"the proxy refuses the way to it ({answer.status})")
        except BaseException:
            plain.close()
            raise

    def _proxy_headers(self) -> Mapping[str, str]:
        if self._proxy is None or self._proxy.username is None:
            return {}
        pair = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def _exchange(
        self, connection: http.client.HTTPConnection, request: requests.PreparedRequest, stamp: tls.Stamp
    ) -> Reply:
        sock = cast(BoundedSocket, connection.sock)
        sock.bounds, sock.touched = self.route.bounds, False
        sock.bounds.begin_answer()
        try:
            if not self.route.begin():
                raise GivenUp
            reply = self._answer(connection, request)
        except BaseException as problem:
            connection.close()
            if isinstance(problem, OSError | http.client.HTTPException | TooLarge):
                raise self._fault(problem, touched=sock.touched) from problem
            raise
        # Whatever came behind the answer would be taken for the answer to the next request: somebody else's credential.
        if connection.sock is not None and not reply.last and not speaks(sock):
            self._kept[self.route.address] = _Kept(connection=connection, stamp=stamp, idle_since=dial.now())
        else:
            connection.close()
        return reply

    def _answer(self, connection: http.client.HTTPConnection, request: requests.PreparedRequest) -> Reply:
        address = self.route.address
        headers = {"Host": address.authority, **request.headers}
        body = cast("bytes | None", request.body)
        connection.request(request.method or "GET", request.path_url, body=body, headers=headers)
        reply = Reply()
        with contextlib.closing(connection.getresponse()) as answer:
            reply.status_code = answer.status
            reply.headers = requests.structures.CaseInsensitiveDict(
                reversed(answer.headers.items())
            )  # the first counts
            raw, reply.flaw = _body(answer)
        # After an interim answer (RFC 9110, 15.2) there is another one to come.
        reply.last = bool(reply.flaw) or cast(_Answer, answer).reader.more or answer.status < 200
        reply.location = reply.headers.pop("Location", "")
        reply.request, reply.url = request, request.url or ""
        reply.raw = io.BytesIO(raw)
        return reply

    def _fault(self, problem: Exception, *, touched: bool) -> Exception:
        """What a failure between the first byte sent and the last of the headers means."""
        if not touched and isinstance(problem, OSError):
            return NotSent(connect_words(problem))
        if isinstance(problem, TimeoutError):
            return Lost("no answer in time", timed_out=True)
        if isinstance(problem, ssl.SSLError) and not isinstance(problem, _ENDED):
            words = tls.words(problem, self.route.address.host)
            return NotSent(words) if tls.before_request(problem) else Lost(words)
        if isinstance(problem, OSError):  # RemoteDisconnected is one: it closed without a word
            return Lost("the connection was cut")
        if isinstance(problem, TooLarge | http.client.LineTooLong):
            return Garbled("headers that are too large")
        return Garbled("what is not HTTP")


def _body(answer: http.client.HTTPResponse) -> tuple[bytes, str]:
    """The body, never more than a mebibyte, never inflated; or why there is none of use.

    Raises:
        TimeoutError: it did not come to its end in time.
    """
    encoding = (answer.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity":
        return b"", "a compressed body, which was not asked for"
    if answer.length is not None and answer.length > LARGEST_BODY:
        return b"", _TOO_LARGE
    try:
        return _read(answer)
    except TooLarge:
        return b"", _TOO_LARGE
    except TimeoutError:
        raise
    except (OSError, ValueError, http.client.HTTPException):
        return b"", _CUT_OFF


def _read(answer: http.client.HTTPResponse) -> tuple[bytes, str]:
    body = bytearray()
    while piece := answer.read(_PIECE):
        body += piece
        if len(body) > LARGEST_BODY:
            return b"", _TOO_LARGE
    return (b"", _CUT_OFF) if answer.length else (bytes(body), "")  # read(n) does not say itself that more was promised


def connect_words(problem: Exception) -> str:
    """Why a connection could not be made, or written to."""
    if isinstance(problem, TimeoutError):
        return "no connection in time"
    if isinstance(problem, socket.gaierror | UnicodeError):
        return "its name cannot be looked up"
    if isinstance(problem, ConnectionError | ssl.SSLError):
        return "the connection is refused" if isinstance(problem, ConnectionRefusedError) else "the connection was cut"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return "the proxy does not speak HTTP"
