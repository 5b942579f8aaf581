"""The composition root: builds every part, owns the order of start and stop. Nobody else constructs collaborators.

Start: listen → obtain the required roles → files → started. Heavy libraries are imported only after the socket listens.
Stop: grace → not ready → stop accepting → finish in flight → remove files → revoke in parallel within the deadline.
Files go before the users that they name, as the socket does: what is found there works.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from agent import __version__, log
from agent.api.access import AllowList
from agent.api.health import Probes
from agent.api.metrics import Metrics
from agent.api.server import Server
from agent.clock import Clock, Dials, wait_for
from agent.config.model import Config
from agent.failpoints import Failpoint, reach
from agent.hook import run_hook
from agent.leases.cache import LeaseCache
from agent.leases.observed import Call
from agent.leases.schedule import MIN_TTL
from agent.log import Event
from agent.management import Management
from agent.measures import Measures
from agent.meters import Family
from agent.notify import Notifier
from agent.parts import Builder, Parts
from agent.tasks import leaves, unless
from agent.translate import access_of

if TYPE_CHECKING:
    from agent.api.healthport import HealthServer

_log = log.get(__name__)
T = TypeVar("T")

TICK = 5.0
"""The watchdog looks this often (seconds) whether the machine was suspended, the loop stuck or a clock set."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended.

    Attributes:
        crashed: a part of the agent failed in a way that it should not have.
        left: what could not be revoked or removed, a line each.
    """

    crashed: bool = False
    left: list[str] = field(default_factory=list)


class App:
    """One agent.

    Args:
        min_ttl: shortest lease that is accepted; less than the default is for tests.
        holder: whom the leases are issued for, the pod's name; the host's name by default.
        notifier: the service manager that wants to know how the agent is.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        min_ttl: float = MIN_TTL,
        holder: str | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._required = frozenset(n for n, r in config.role.items() if r.required and not r.lazy)
        self._started = False
        self._built = False
        self._stopping = False
        self._leaving = False
        self._ends_at = 0.0
        self._ticked_at = clock.now()
        self._hooks: set[asyncio.Task[None]] = set()
        self.cache = LeaseCache(config.role)
        self._notifier = notifier or Notifier()
        self._parts = Parts()
        self._measures = Measures(config, cache=self.cache, parts=self._parts, clock=clock)
        self._management = Management(config, self._parts, holder=holder, clock=clock)
        self._metrics = Metrics(self._families, clock)
        self._probes = Probes(
            started=lambda: self.started,
            ready=lambda: self.ready,
            live=lambda: self.live,
            degraded=lambda: self._measures.degraded,
            files=self._file_states,
            upstreams=self._measures.upstreams,
        )
        self._builder = Builder(
            config=config,
            cache=self.cache,
            clock=clock,
            holder=self._management.owner,
            min_ttl=min_ttl,
            on_failed=self._failed,
            on_expired=self._management.expired,
            on_swept=self._management.swept,
            tell=self._called,
        )
        self._server: Server | None = None
        self._health_server: HealthServer | None = None

    # -- what health asks -------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether all required roles were published and their files written, once."""
        return self._started

    @property
    def ready(self) -> bool:
        """Whether every required role holds a published, unexpired credential now."""
        now = self._clock.now()
        return self._started and not self._stopping and all(self.cache.read(r, now) for r in self._required)

    @property
    def live(self) -> bool:
        """Whether the loop turns and no Renewer sleeps past its step; never depends on an upstream (R003-110)."""
        return self._clock.now() - self._ticked_at < 3 * TICK and self._measures.stuck < 3 * TICK

    def missing(self) -> list[str]:
        """What the start still waits for, a line each: roles without a credential, or else files; never empty."""
        now = self._clock.now()
        roles = [role for role in self._required if not self.cache.read(role, now)]
        if roles:
            return [f"{role}: {self.cache.status(role).error or 'no credential yet'}" for role in sorted(roles)]
        files = [file for file in self._file_states() if file["state"] != "written"]
        return [f"{file['path']}: {file['error'] or 'not written yet'}" for file in files] or ["not started yet"]

    def _file_states(self) -> list[dict[str, Any]]:
        return [state.as_dict() for state in self._parts.file_states()]

    def _families(self) -> Iterator[Family]:
        """All that was counted, for a scrape."""
        yield from self._measures.families(self._probes)
        yield from self._management.families()
        for server in (self._server, self._health_server):
            if server is not None:
                yield from server.families()

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(
        self,
        stop: asyncio.Event,
        *,
        hurry: asyncio.Event | None = None,
        on_started: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Serve until `stop` is set, then end in order.

        Args:
            hurry: set by a second signal; skips the grace.
            on_started: called once, when the agent is started.

        Raises:
            StartError: it cannot start here; nothing is left behind.
        """
        _log.info(Event.STARTING, version=__version__, count=len(self._config.role))
        crashed = False
        try:
            await self._management.start()
            await self._listen()
            self._built = await unless(stop, self._builder.build(self._parts))
            if self._built:
                crashed = await self._work(stop, hurry or asyncio.Event(), on_started)
        finally:
            left = await self._end()
        return Ended(crashed=crashed, left=left)

    def leave_all(self) -> None:
        """Leave every lease and file as it is at the end: somebody takes over, or the leases end by themselves."""
        self._leaving = True

    async def _work(self, stop: asyncio.Event, hurry: asyncio.Event, on_started: Callable[[], None]) -> bool:
        """Serve until `stop`; True if a part of the agent crashed."""
        crashed = False
        try:
            async with asyncio.TaskGroup() as group:
                workers = self._parts.put_to_work(group)
                workers.append(group.create_task(self._watch(), name="watchdog"))
                workers += self._measures.put_to_work(group)
                beating = self._notifier.keep_beating(
                    self._clock, live=lambda: self.live, status=self._measures.summary
                )
                workers.append(group.create_task(beating, name="notifier"))
                workers.append(group.create_task(self._starting(on_started), name="starting"))
                await self._until_stopped(stop, hurry)
                self._begin_to_end()
                reach(Failpoint.STOP_BEGUN)
                if self._server is not None:
                    await self._server.stop(min(2.0, self._left() / 4))
                for worker in workers:
                    worker.cancel()
        except* Exception as broken:  # noqa: BLE001 - whatever broke, the leases are still revoked; the exit code tells
            for error in leaves(broken):
                _log.error(Event.CRASHED, error=type(error).__name__, reason=log.place_of(error))
            crashed = True
        return crashed

    async def _listen(self) -> None:
        health = self._config.listener.health
        if health is not None:
            from agent.api.healthport import HealthServer

            self._health_server = HealthServer(health, probes=self._probes, metrics=self._metrics, clock=self._clock)
            await self._health_server.start()
        unix = self._config.listener.unix
        if unix is None:
            return
        own = os.geteuid()
        self._server = Server(
            unix,
            roles={name: access_of(role, own) for name, role in self._config.role.items()},
            admin=AllowList.parse(unix.allow_admin, own),
            cache=self.cache,
            clock=self._clock,
            probes=self._probes,
            metrics=self._metrics,
            holdings=self._management.holdings,
            rotate=self._rotate,
            required=self._required,
            version=__version__,
            witness=self._management.trail,
        )
        await self._server.start()

    def _rotate(self, role: str, revoke_after: float | None) -> None:
        renewer = self._parts.renewers.get(role)
        if renewer is not None:  # before that the role's first credential is on its way anyway
            renewer.replace(revoke_after)

    async def _starting(self, on_started: Callable[[], None]) -> None:
        for role in self._required:
            await self.cache.changed(role, 0)
        await self._parts.written()
        self._started = True
        _log.info(Event.STARTED, count=len(self._required))
        self._notifier.ready()
        on_started()

    async def _until_stopped(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        await stop.wait()
        grace = self._config.agent.stop_grace
        _log.info(Event.STOPPING, deadline=self._config.agent.stop_timeout)
        if grace > 0:
            await wait_for(self._clock, hurry, grace)

    async def _watch(self) -> None:
        """Timers do not count suspend, the dial does: when it ran ahead, everyone looks at the clock once.

        When somebody has set the wall clock, readers are told anew when their credentials end; nothing else is done.
        """
        dials = Dials(self._clock)
        while True:
            jump = await dials.look(TICK)
            self._ticked_at = self._clock.now()
            if jump.slept:
                self._measures.vitals.jumped()
                _log.warning(Event.CLOCK_JUMP, took=round(jump.slept, 1), reason="suspended, or stuck")
                self._parts.recheck()
            if jump.set_by:
                _log.warning(Event.CLOCK_JUMP, set_by=round(jump.set_by, 1), reason="the wall clock was set")
                self.cache.wall_set(self._clock.now(), self._clock.wall())

    def _called(self, call: Call) -> None:
        """One call of an upstream has ended."""
        self._measures.calls.called(call)
        self._management.called(call)

    def _failed(self, role: str, error: str) -> None:
        command = self._config.role[role].on_failed
        if command:
            task = asyncio.create_task(run_hook(command, role, error, self._clock), name=f"on_failed {role}")
            self._hooks.add(task)
            task.add_done_callback(self._hooks.discard)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _begin_to_end(self) -> None:
        """From now on the deadline runs."""
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping()
            self._ends_at = self._clock.now() + self._config.agent.stop_timeout

    def _left(self) -> float:
        """Seconds until the stop's deadline; a moment is always left, to try."""
        return max(0.1, self._ends_at - self._clock.now())

    async def _end(self) -> list[str]:
        """Remove, revoke, close; what is left, a line each. Keeps to `stop_timeout` whatever hangs."""
        self._begin_to_end()
        left: list[str] = []
        if self._server is not None:
            await self._within(self._left() / 4, self._server.stop(0.0), "the socket did not close", left)
        if not self._handing_over:
            what = "files were not removed"
            left += await self._within(min(2.0, self._left() / 4), self._parts.remove_files(), what, left) or []
        if not self._handing_over:
            work = self._parts.revoke(self._left() * 0.7)
            left += await self._within(self._left() * 0.8, work, "users were left", left) or []
        if self._health_server is not None:  # the last to go: until here it said that the agent is not ready
            await self._health_server.stop(0.0)
        for hook in list(self._hooks):
            hook.cancel()
        # Upstreams that answer late may take their time, as far as the trail is left some to be written.
        closing = asyncio.gather(self._parts.close(), *self._hooks, return_exceptions=True)
        await self._within(self._left() * 0.9, closing, "", [])
        await self._management.close(min(2.0, self._left()))
        if self._parts.state is not None:
            self._parts.state.close()
        for line in left:
            _log.error(Event.LEFT_BEHIND, left=line)
        _log.info(Event.STOPPED, count=len(left))
        return left

    @property
    def _handing_over(self) -> bool:
        """Whether the next incarnation gets all: by configuration only where something records it.

        Nor does a run that could not start end what the last one left: it has not taken it over.
        """
        configured = self._config.agent.on_stop == "handover" and self._parts.state is not None
        return self._leaving or configured or not self._built

    async def _within(self, deadline: float, work: Awaitable[T], what: str, left: list[str]) -> T | None:
        """What `work` returns; None, and `what` among what is left, where it fails or takes longer than `deadline`."""
        try:
            async with self._clock.timeout(deadline):
                return await work
        except TimeoutError:
            left.append(f"{what}: no answer in time")
        except Exception as error:  # noqa: BLE001 - whatever fails, the next step is taken: users are still revoked
            left.append(f"{what}: {log.reason_of(error)}")
        return None
