"""A TCP port for probes and, where configured, metrics: for kubelets and Prometheus, which open no Unix socket.

Nobody is known here, so nothing is answered that depends on who asks: no credential, no role's state, no `/v1` at all.
The connections are our own listener's, with its limits; aiohttp is never loaded for them.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from agent import log
from agent.api.access import Options, Peer
from agent.api.connection import Connection
from agent.api.health import Probes, probe_answers
from agent.api.listener import InnerFactory, Listener, close_door
from agent.api.metrics import PATH, Metrics
from agent.api.wire import READ_ONLY, Request, Response, error, split_target
from agent.clock import Clock
from agent.config.addresses import split_address
from agent.config.model import HealthListener
from agent.errors import StartError
from agent.log import Event
from agent.meters import Family

_log = log.get(__name__)

_BACKLOG = 128
_READS = (b"GET", b"HEAD")
_STRANGER = Peer(uid=-1, gid=-1, groups=frozenset(), pid=0)
_ELSEWHERE = error(404, "this port answers /startupz, /readyz and /livez; credentials are on the Unix socket")


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """See agent.api.listener.Limits. All callers are one here; a probe is short, and has no body."""

    address: str
    max_connections: int
    max_connections_per_uid: int
    idle_timeout: float = 5.0
    request_timeout: float = 5.0
    max_header: int = 8192
    max_body: int = 0


class _Scrape:
    """One answer of `/metrics`, which takes a moment."""

    def __init__(self, metrics: Metrics, accept: bytes | None) -> None:
        self._metrics = metrics
        self._accept = accept

    async def response(self) -> Response:
        """See agent.api.connection.Pending."""
        return await self._metrics.response(self._accept)


class ProbeDesk:
    """Answers every request there can be on this port.

    Args:
        metrics: None where they are not to be had here.
    """

    def __init__(self, probes: Mapping[str, Callable[[], Response]], metrics: Metrics | None) -> None:
        self._probes = probes
        self._metrics = metrics

    def answer(self, request: Request, peer: Peer, now: float) -> Response | _Scrape:
        """See agent.api.connection.Desk; never None."""
        path, _ = split_target(request.target) or ("", "")
        scraped = self._metrics if path == PATH else None
        probe = self._probes.get(path)
        if probe is None and scraped is None:
            return _ELSEWHERE
        if request.method not in _READS:
            return READ_ONLY
        if scraped is not None:
            return _Scrape(scraped, request.headers.get(b"accept"))
        return probe() if probe is not None else _ELSEWHERE


class _Visitor(Connection):
    """A connection that the next one may take the place of."""

    __slots__ = ()

    @property
    def standing(self) -> tuple[bool, float]:
        """The least of all has been idle longest; whom an answer is due to comes after all the idle ones."""
        return self._busy, self._idle_at


class _Hall(Listener):
    """When full, the connection that has been idle longest makes room: whoever only holds connections open shuts out no
    probe, for which a kubelet would end the pod.
    """

    def __call__(self) -> Connection:
        """A new connection."""
        return _Visitor(self)

    def admit(self, connection: Connection) -> Response | None:
        """See Listener."""
        if not self.stopping and len(self._connections) >= min(self.room.most, self.room.most_per_uid):
            oldest = min((each for each in self._connections if isinstance(each, _Visitor)), key=_standing)
            self.complain(oldest.peer, 503, "too many connections: the one that was idle longest makes room")
            self.forget(oldest)  # at once: that it is gone is told in a later turn of the loop
            oldest.abort()
        return super().admit(connection)


def _standing(visitor: _Visitor) -> tuple[bool, float]:
    return visitor.standing


class HealthServer:
    """Serves probes on a TCP port."""

    def __init__(self, config: HealthListener, *, probes: Probes, metrics: Metrics, clock: Clock) -> None:
        self._address = config.address
        self._listener = _Hall(
            _Limits(
                address=config.address,
                max_connections=config.max_connections,
                max_connections_per_uid=config.max_connections,
            ),
            desk=ProbeDesk(probe_answers(probes), metrics if config.metrics else None),
            clock=clock,
            make_inner=_nothing_else,
            name="health",
            peer_of=_stranger,
        )
        self._sock: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._timekeeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"HealthServer({self._address}, {self._listener!r})"

    async def start(self) -> None:
        """Take the port and answer on it.

        Raises:
            StartError: it cannot be had; the text names the remedy.
        """
        self._sock = _bound(self._address)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._listener, sock=self._sock, backlog=_BACKLOG)
        self._timekeeper = loop.create_task(self._listener.keep_time(), name="health port timeouts")
        _log.info(Event.LISTENING, socket=self._address)

    def families(self) -> Iterable[Family]:
        """What was counted here."""
        return self._listener.families()

    async def stop(self, deadline: float) -> None:
        """Stop accepting, answer what is due within `deadline` seconds, close every connection; never raises."""
        if self._server is None or self._sock is None:
            return
        await close_door(self._server, self._sock)
        await self._listener.wind_down(deadline)
        if self._timekeeper is not None:
            self._timekeeper.cancel()
            await asyncio.gather(self._timekeeper, return_exceptions=True)
        self._server = None


def _bound(address: str) -> socket.socket:
    host, port = split_address(address) or ("", 0)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # A restarted agent must not wait for the kernel to forget the last one's connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as problem:
        sock.close()
        text = f"health port {address}: {problem.strerror}; choose another [listener.health] address"
        raise StartError(text) from problem
    return sock


def _stranger(_: Options) -> Peer:
    return _STRANGER


async def _nothing_else() -> InnerFactory:
    _impossible()


def _impossible() -> NoReturn:
    raise RuntimeError("the health port's desk left a request without an answer")
