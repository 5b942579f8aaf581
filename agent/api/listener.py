"""All connections of one socket: how many there may be, how long each may take, how they end."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from agent import catalogue, log
from agent.api.access import Options, Peer, peer_of
from agent.api.connection import Connection, Desk
from agent.api.room import room_for
from agent.api.spacing import Spacing
from agent.api.wire import Response, error
from agent.clock import Clock, wait_for
from agent.log import Event
from agent.meters import Family, Tally

_log = log.get(__name__)
_T = TypeVar("_T")

InnerFactory = Callable[[], asyncio.Protocol]

_LOG_INTERVAL = 10.0  # seconds between two lines of one kind that strangers can cause
_FULL = error(503, "too many connections", ("Retry-After", "1"))
_REFUSALS = ("400", "408", "413", "417", "431", "503")


class Limits(Protocol):
    """Where a listener listens, for people, and its limits; see agent.config.model.UnixListener."""

    @property
    def address(self) -> str: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def max_connections_per_uid(self) -> int: ...
    @property
    def idle_timeout(self) -> float: ...
    @property
    def request_timeout(self) -> float: ...
    @property
    def max_header(self) -> int: ...
    @property
    def max_body(self) -> int: ...


async def close_door(server: asyncio.Server, sock: socket.socket) -> None:
    """No new connections from now on; those that are open go on."""
    # asyncio makes connections a turn after accepting them; closing its server in between would leave their clients
    # with an open socket that nobody serves. So stop accepting first, let them be made, then close.
    asyncio.get_running_loop().remove_reader(sock)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.close()


class Listener:
    """The connections of one socket; call it for a new one (it is a protocol factory).

    Args:
        desk: answers known reads.
        make_inner: makes what answers everything else; called once, when first needed.
        name: what metrics call it.
        peer_of: says who is at the other end of a connected socket.
    """

    def __init__(
        self,
        config: Limits,
        *,
        desk: Desk,
        clock: Clock,
        make_inner: Callable[[], Coroutine[Any, Any, InnerFactory]],
        name: str = "unix",
        peer_of: Callable[[Options], Peer] = peer_of,
    ) -> None:
        self.name = name
        self.peer_of = peer_of
        self.config = config
        self.room = room_for(config.max_connections, config.max_connections_per_uid)
        self.desk = desk
        self.clock = clock
        self.inner: InnerFactory | None = None
        self.stopping = False
        self._make_inner = make_inner
        self._opening: asyncio.Task[InnerFactory] | None = None
        self._connections: set[Connection] = set()
        self._by_uid: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._gone = asyncio.Event()
        self._lines = Spacing()
        self._refused = Tally(catalogue.REFUSED, known=((name, status) for status in _REFUSALS))
        self._faults = 0

    def __repr__(self) -> str:
        return f"Listener({len(self._connections)} connections{', stopping' if self.stopping else ''})"

    def __call__(self) -> Connection:
        """A new connection."""
        return Connection(self)

    # -- called by connections --------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> Response | None:
        """Count `connection`; an answer where there is no room for it."""
        uid = connection.peer.uid
        if self.stopping or len(self._connections) >= self.room.most or self._by_uid[uid] >= self.room.most_per_uid:
            self.complain(connection.peer, _FULL.status, "too many connections")
            return _FULL
        self._connections.add(connection)
        self._by_uid[uid] += 1
        return None

    def forget(self, connection: Connection) -> None:
        """`connection` is gone."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._by_uid[connection.peer.uid] -= 1
        if not self._by_uid[connection.peer.uid]:
            del self._by_uid[connection.peer.uid]
        self._gone.set()

    def own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """`work` as a task that ends with the listener at the latest."""
        task = asyncio.get_running_loop().create_task(work, name="listener")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def open_inner(self) -> InnerFactory:
        """The inner protocol's factory; made once, however many wait for it."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = self.own(self._make_inner())
        self.inner = await asyncio.shield(self._opening)
        return self.inner

    def complain(self, peer: Peer, status: int, reason: str) -> None:
        """Count, and now and then say, what `peer` sends that has no answer; `reason` is ours, never the request's."""
        self._refused.add(self.name, str(status))
        if not self._lines.wait((peer.uid, reason), self.clock.now(), _LOG_INTERVAL):
            _log.warning(Event.BAD_REQUEST, uid=peer.uid, gid=peer.gid, reason=reason, socket=self.config.address)

    def fault(self, bug: BaseException) -> None:
        """Say that we failed to answer, and where; never with what the exception says, which may quote a request."""
        self._faults += 1
        _log.error(Event.HANDLER_FAILED, error=type(bug).__name__, reason=log.place_of(bug))

    # -- called by the server ---------------------------------------------------------------------------------------

    def families(self) -> Iterable[Family]:
        """What was counted here."""
        yield catalogue.CONNECTIONS.of([((self.name,), len(self._connections))])
        yield self._refused.family()
        yield catalogue.FAULTS.of([((self.name,), self._faults)])

    async def keep_time(self) -> None:
        """End connections that take too long, for ever: one coarse timer for all of them."""
        if self.room.most < self.config.max_connections:
            _log.warning(
                Event.HARDENING,
                warning=f"max_connections is {self.room.most} on {self.config.address}, not "
                f"{self.config.max_connections}: raise the limit of open files (ulimit -n)",
            )
        pause = min(1.0, self.config.request_timeout / 4, self.config.idle_timeout / 4)
        while True:
            await self.clock.sleep(pause)
            now = self.clock.now()
            for connection in tuple(self._connections):
                connection.sweep(now)

    async def wind_down(self, deadline: float) -> None:
        """Answer what is due within `deadline` seconds, then end every connection and every task."""
        for _ in range(3):  # what has just been accepted may have its request in the socket already
            await asyncio.sleep(0)
        self.stopping = True
        for connection in tuple(self._connections):
            connection.wind_down()
        end = self.clock.now() + deadline
        while self._connections and (left := end - self.clock.now()) > 0:
            self._gone.clear()
            await wait_for(self.clock, self._gone, left)
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
