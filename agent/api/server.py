"""The local API on one Unix socket: puts this room's parts together, starts and stops them."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent import catalogue, log
from agent.api.access import AllowList, RoleAccess
from agent.api.binding import BACKLOG, Binding, bind
from agent.api.fastpath import Reads
from agent.api.health import Health, Probes
from agent.api.leases import Holdings, Leases
from agent.api.listener import InnerFactory, Listener, close_door
from agent.api.metrics import Metrics
from agent.api.witness import Witness
from agent.clock import Clock
from agent.config.model import UnixListener
from agent.leases.cache import LeaseCache
from agent.log import Event
from agent.meters import Family
from agent.offload import in_daemon_thread
from agent.tasks import leaves

if TYPE_CHECKING:
    from agent.api.routes import Inner, Routes

_log = log.get(__name__)

_LOOK = 2.0  # seconds between two looks at the socket's path


class Server:
    """Serves credentials on a Unix socket.

    Args:
        config: where, and within which limits.
        roles: who may read and rotate what; every one of them is in `cache`.
        admin: the operators.
        probes: what only the rest of the agent can say.
        metrics: answers scrapes of operators.
        holdings: what the rest of the agent knows of leases.
        rotate: called as rotate(role, revoke_after) when a replacement was asked for and granted.
        required: the roles that readiness waits for.
        version: the agent's, for operators.
        witness: told who did what; None where nobody is.
    """

    def __init__(
        self,
        config: UnixListener,
        *,
        roles: Mapping[str, RoleAccess],
        admin: AllowList,
        cache: LeaseCache,
        clock: Clock,
        probes: Probes,
        metrics: Metrics,
        holdings: Holdings,
        rotate: Callable[[str, float | None], None],
        required: frozenset[str],
        version: str,
        witness: Witness | None = None,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._rotate = rotate
        self._clock = clock
        self._reads = Reads(roles, cache, clock, witness)
        self._leases = Leases(holdings, roles=roles, admin=admin, cache=cache, clock=clock, witness=witness)
        self._health = Health(
            probes=probes, cache=cache, clock=clock, roles=roles, admin=admin, required=required, version=version
        )
        self._listener = Listener(config, desk=self._reads, clock=clock, make_inner=self._make_inner)
        self._inner: Inner | None = None
        self._binding: Binding | None = None
        self._server: asyncio.Server | None = None
        self._timekeeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Server({self._config.address}, {self._listener!r})"

    @property
    def address(self) -> str:
        """The socket's path."""
        return self._config.address

    def families(self) -> Iterable[Family]:
        """What was counted here."""
        yield from self._listener.families()
        yield from self._reads.families()
        yield catalogue.DENIALS.of(self._leases.denials())

    async def start(self) -> None:
        """Take the socket and answer on it.

        Raises:
            StartError: somebody listens there, or the place cannot be trusted; the text names the remedy.
        """
        config = self._config
        self._binding = await in_daemon_thread(
            lambda: bind(
                Path(config.address), mode=config.socket_mode, user=config.socket_user, group=config.socket_group
            )
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            self._listener, sock=self._binding.sock, backlog=min(BACKLOG, self._listener.room.most)
        )
        self._timekeeper = loop.create_task(self._keep_time(), name="listener timeouts")
        _log.info(Event.LISTENING, socket=config.address, mode=f"{config.socket_mode:04o}")

    async def _keep_time(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listener.keep_time(), name="connections")
                group.create_task(self._keep_path(), name="path")
        except* Exception as bugs:
            for bug in leaves(bugs):
                self._listener.fault(bug)
            raise

    async def _keep_path(self) -> None:
        """Say once when the socket's path no longer leads here: nobody who connects from then on is served."""
        said = ""
        while self._binding is not None:
            try:
                wrong = await in_daemon_thread(self._binding.astray)
            except OSError:  # no thread for it: the next look tells
                wrong = said
            if wrong and wrong != said:
                _log.error(Event.SOCKET_LOST, socket=self._config.address, reason=f"{wrong}: restart the agent")
            said = wrong
            await self._clock.sleep(_LOOK)

    async def _make_inner(self) -> InnerFactory:
        # 100 ms of imports, in a thread: the reads that are known go on meanwhile.
        inner, routes = await asyncio.to_thread(_import_routes)
        self._inner = inner(
            routes(
                reads=self._reads,
                health=self._health,
                metrics=self._metrics,
                leases=self._leases,
                rotate=self._rotate,
                clock=self._clock,
            ),
            self._config,
        )
        return await self._inner.open()

    async def stop_accepting(self) -> None:
        """No new connections from now on; those that are open go on."""
        if self._server is None or self._binding is None or not self._server.is_serving():
            return
        await close_door(self._server, self._binding.sock)

    async def stop(self, deadline: float) -> None:
        """Stop accepting, answer what is due within `deadline` seconds, close every connection, remove the socket.

        Does nothing where `start` did not succeed; never raises.
        """
        await self.stop_accepting()
        await self._listener.wind_down(deadline)
        if self._timekeeper is not None:
            self._timekeeper.cancel()
            await asyncio.gather(self._timekeeper, return_exceptions=True)
        if self._inner is not None:
            await self._inner.close()
        if self._binding is not None:
            binding, self._binding = self._binding, None
            try:
                await in_daemon_thread(binding.release)
            except OSError as error:  # no thread for it: nobody listens there, and the next start takes it over
                _log.warning(Event.SOCKET_LOST, socket=self._config.address, reason=f"left: {log.reason_of(error)}")


def _import_routes() -> "tuple[type[Inner], type[Routes]]":
    from agent.api.routes import Inner, Routes

    return Inner, Routes
