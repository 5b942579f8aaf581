"""Asks the services that vouch for a pod in a cloud: STS, Entra ID, and metadata servers.

One request, one answer, nothing more: no redirect is followed, and no proxy, netrc or CA of the environment is looked
at; TLS is checked; what comes back is bounded in size and time, and is hostile until looked at. Plain HTTP goes to
loopback and to metadata servers only, which speak nothing else.
"""

import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agent import trust
from agent.clock import Clock
from agent.errors import BadResponse, NoIdentity, RateLimited, Unavailable
from agent.leases.lease import Secret
from agent.offload import in_daemon_thread

DEADLINE = 5.0
"""Seconds for one answer, bytes that trickle included."""

_LARGEST = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request.

    Attributes:
        service: who is asked, for people: "STS".
        remedy: what to look at if it does not answer.
        url: with its query.
        headers: values that prove something are Secrets, as is the body.
        metadata: it goes to a metadata server, which speaks plain HTTP.
    """

    service: str
    remedy: str
    url: str = field(repr=False)
    method: str = "GET"
    headers: Mapping[str, str | Secret] = field(default_factory=dict, repr=False)
    body: Secret | None = None
    metadata: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer, 2xx or 4xx.

    Attributes:
        text: of the body.
        flavor: of the header Metadata-Flavor, by which Google's metadata server is known.
    """

    question: Question
    status: int
    text: str = field(repr=False)
    flavor: str = ""

    @property
    def ok(self) -> bool:
        """Whether the service did what was asked."""
        return self.status < 300

    def bad(self, problem: str) -> BadResponse:
        """The error for an answer that is of no use."""
        return BadResponse(f"{self.question.service} {problem}; {self.question.remedy}")

    def fields(self) -> Mapping[str, Any]:
        """The JSON object that the body is.

        Raises:
            BadResponse: it is none.
        """
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise self.bad("answered no JSON") from error
        if not isinstance(found, dict):
            raise self.bad("answered no JSON object")
        return found

    def text_of(self, name: str) -> str:
        """The text in that field of the JSON object.

        Raises:
            BadResponse: there is none.
        """
        return text_in(self, self.fields(), name)


def text_in(reply: Reply, fields: Mapping[str, Any], name: str) -> str:
    """The text in a field of an object that `reply` brought; BadResponse where there is none that could be sent on."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise reply.bad(f"answered without {name}")
    return value


async def ask(question: Question, clock: Clock) -> Reply:
    """The service's answer.

    Raises:
        NoIdentity: the address is none to which a proof may go.
        Unavailable: there was no answer in time, or 5xx.
        RateLimited: 429.
        BadResponse: it is too large, cut off, a redirect, or not HTTP.
    """
    exchange = _Exchange(question)
    try:
        async with clock.timeout(DEADLINE):
            return _judged(await in_daemon_thread(exchange.run))
    except TimeoutError as error:
        raise _silent(question, f"did not answer within {DEADLINE:.0f} s") from error
    except ssl.SSLCertVerificationError as error:
        raise _silent(question, "shows a certificate that is not to be trusted") from error
    except OSError as error:
        raise _silent(question, f"cannot be reached ({error.strerror or type(error).__name__})") from error
    except (http.client.HTTPException, ValueError) as error:  # ValueError: http.client's for some broken framings
        raise BadResponse(f"{question.service} answered no HTTP; {question.remedy}") from error
    finally:
        exchange.leave()


def _silent(question: Question, problem: str) -> Unavailable:
    return Unavailable(f"{question.service} {problem}; {question.remedy}")


def _judged(reply: Reply) -> Reply:
    if reply.status == 429:
        raise RateLimited(f"{reply.question.service} answered 429: too many calls")
    if reply.status >= 500:
        raise _silent(reply.question, f"answered {reply.status}")
    if 300 <= reply.status < 400:
        raise reply.bad(f"answered {reply.status}, a redirect, and none is followed")
    return reply


class _Exchange:
    """A request under way, in a thread; `leave` ends it from the loop, wherever it is."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._left = False
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> Reply:
        """Ask, and read. Blocks."""
        question = self._question
        connection = self._connection = _connection(question)  # here, since TLS reads the system's CAs from files
        headers = {
            name: value.reveal() if isinstance(value, Secret) else value for name, value in question.headers.items()
        }
        body = None if question.body is None else question.body.reveal().encode()
        try:
            connection.connect()
            if self._left:  # after a look-up of the name that nobody could interrupt
                raise ConnectionAbortedError("nobody waits any more")
            parts = urlsplit(question.url)
            connection.request(
                question.method, f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", body, headers
            )
            return self._read(connection.getresponse())
        finally:
            connection.close()

    def leave(self) -> None:
        """Let the thread end: what it waits for will not come."""
        self._left = True
        sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with suppress(OSError):
                # TLS's own shutdown would take its state away beneath the thread that is reading.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _read(self, response: http.client.HTTPResponse) -> Reply:
        data = response.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise BadResponse(
                f"{self._question.service} answered more than {_LARGEST >> 10} KiB; {self._question.remedy}"
            )
        if response.length:  # a sized read does not tell that the rest is missing
            raise http.client.IncompleteRead(data)
        return Reply(
            question=self._question,
            status=response.status,
            text=data.decode("utf-8", "replace"),
            flavor=response.headers.get("Metadata-Flavor", ""),
        )


def _connection(question: Question) -> http.client.HTTPConnection:
    """A connection, not yet made, to where the question goes."""
    parts = urlsplit(question.url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https" and host:
        return http.client.HTTPSConnection(host, port, timeout=DEADLINE, context=_context())
    if parts.scheme == "http" and (question.metadata or _loopback(host)):
        return http.client.HTTPConnection(host, port, timeout=DEADLINE)
    raise NoIdentity(
        f"{question.service}: a proof goes over https only, and this address is another; {question.remedy}"
    )


def _context() -> ssl.SSLContext:
    context = trust.bare_context()
    trust.trust_system(context)
    return context


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
