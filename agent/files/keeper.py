"""Keeps one file: each has a keeper and a task of its own, so that no failure of one ever touches another.

The decision is `agent.files.plan`; this loop executes it. A failure keeps the last good file, is told in the file's
state and in one log line, and is tried again after 1 s, doubling up to 60 s, or at once with another credential.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from agent import log
from agent.clock import Clock
from agent.errors import RenderError
from agent.files.plan import Remove, Render, View, Wait, next_step
from agent.files.sink import Place, Sink
from agent.leases.cache import LeaseCache, Snapshot, Subscription
from agent.leases.schedule import backoff
from agent.log import Event

_log = log.get(__name__)
_T = TypeVar("_T")


class RunBlocking(Protocol):
    """Runs what blocks somewhere else: asyncio.to_thread, or at once in a test."""

    def __call__(self, work: Callable[[], _T], /) -> Awaitable[_T]:
        """What `work` returns or raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How a file is doing, for health and status.

    Attributes:
        state: "unwritten" in this run, "written", "failed" (the last good file stays, if there is one), or "removed".
        error: the last failure in one line, "" when nothing is wrong.
        generations: of the credentials that the file holds, by role.
    """

    path: str
    state: Literal["unwritten", "written", "failed", "removed"] = "unwritten"
    error: str = ""
    generations: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON."""
        return {"path": self.path, "state": self.state, "error": self.error, "generations": dict(self.generations)}


@dataclass(frozen=True, kw_only=True)
class Written:
    """How a file was made to hold the newest credentials.

    Attributes:
        changed: bytes were written; the file did not hold them already.
        shows_life: it shows what a renewal changes.
        look_in: seconds after which to look at it again in any case.
        good_for: seconds that it is of use, where that may be less than its credentials live.
    """

    changed: bool
    shows_life: bool = False
    look_in: float
    good_for: float = math.inf


class Content(Protocol):
    """What a file holds."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the cache whose credentials it holds."""
        ...

    def prepare(self) -> list[str]:
        """Make ready for writing; returns the mistakes in the configuration. Blocks."""
        ...

    async def write(self, sink: Sink, snapshots: Mapping[str, Snapshot], now: float) -> Written:
        """Have `sink` hold these credentials, one for each role, as of `now`.

        Raises:
            RenderError: it cannot be; the old file stays.
            OSError: likewise, for want of a thread.
        """
        ...


class Keeper:
    """One file's task.

    Args:
        gating: whether start waits for this file.

    Attributes:
        rendered, failed: attempts that came off so far, and that did not.
    """

    def __init__(
        self,
        content: Content,
        place: Place,
        cache: LeaseCache,
        clock: Clock,
        run_blocking: RunBlocking,
        *,
        gating: bool,
    ) -> None:
        self.written = asyncio.Event()
        self.gating = gating
        self.state = FileState(path=place.path)
        self.rendered = self.failed = 0
        self._content = content
        self._cache = cache
        self._clock = clock
        self._run_blocking = run_blocking
        self._sink = Sink(place)
        self._shown: Mapping[str, Snapshot] | None = None
        self._good_until = math.inf
        self._rendered: Mapping[str, str] = {}
        self._look_at = -math.inf
        self._failures = 0
        self._failed_for: Mapping[str, int] = {}
        self._not_before = -math.inf
        self._remove_after = -math.inf

    def __repr__(self) -> str:
        return f"Keeper({self.state.path}, {self.state.state})"

    def prepare(self) -> tuple[list[str], list[str]]:
        """Make content and place ready. Blocks.

        Returns:
            The mistakes in the configuration, and those in the surroundings.
        """
        name = f'{self._content.name} "{self.state.path}"'
        mistakes = [f"{name}: {line}" for line in self._content.prepare()]
        return mistakes, [f"{name}: {line}" for line in self._sink.prepare()]

    async def run(self) -> None:
        """Keep the file until cancelled."""
        with self._cache.subscribe(self._content.roles) as changes:
            while True:
                now = self._clock.now()
                match next_step(self._look(), now):
                    case Render(snapshots=snapshots):
                        await self._render(snapshots, now)
                    case Remove():
                        await self._remove()
                    case Wait(until=until):
                        await self._wait(changes, until - now)

    async def close(self) -> str:
        """Remove the file for good, whoever wrote it; returns "", or why it is still there."""
        try:
            await self._run_blocking(self._sink.close)
        except (RenderError, OSError) as error:
            return f"{self.state.path} {_refused(error, 'removed')}"
        self.state = FileState(path=self.state.path, state="removed")
        return ""

    def _look(self) -> View:
        # The margin is for those who begin to use a credential; a file keeps it to its end.
        found = {role: self._cache.read(role, -math.inf) for role in self._content.roles}
        published = {role: snapshot for role, snapshot in found.items() if snapshot is not None}
        if self._shown is not None:
            self._shown = {role: _newest(old, published.get(role)) for role, old in self._shown.items()}
        return View(
            roles=self._content.roles,
            published=published,
            shown=self._shown,
            rendered=self._rendered,
            look_at=self._look_at,
            not_before=self._not_before if _generations(published) == self._failed_for else -math.inf,
            good_until=self._good_until,
            remove_after=self._remove_after,
        )

    async def _wait(self, changes: Subscription, delay: float) -> None:
        try:
            async with self._clock.timeout(None if delay == math.inf else delay):
                await changes.next()
        except TimeoutError:
            return

    async def _render(self, snapshots: Mapping[str, Snapshot], now: float) -> None:
        try:
            written = await self._content.write(self._sink, snapshots, now)
        except (RenderError, OSError) as error:
            self._failed(_refused(error, "written"))
            self._failed_for = _generations(snapshots)
            self._not_before = self._clock.now() + backoff(self._failures, 1.0)  # it may have taken a while
            return
        self.rendered += 1
        self._shown = snapshots
        self._good_until = now + written.good_for
        self._rendered = {role: one.request_id for role, one in snapshots.items()} if written.shows_life else {}
        self._look_at = now + written.look_in
        self._failures = 0
        self._failed_for = {}
        self._not_before = -math.inf
        self.state = FileState(path=self.state.path, state="written", generations=_generations(snapshots))
        self.written.set()
        if written.changed:
            _log.info(Event.FILE_WRITTEN, path=self.state.path)

    async def _remove(self) -> None:
        try:
            await self._run_blocking(self._sink.remove)
        except (RenderError, OSError) as error:
            self._failed(_refused(error, "removed"))
            self._remove_after = self._clock.now() + backoff(self._failures, 1.0)
            return
        self._shown = None
        self._remove_after = -math.inf
        self.state = FileState(path=self.state.path, state="removed", error=self.state.error)
        _log.warning(Event.FILE_REMOVED, path=self.state.path, reason="its credential has ended")

    def _failed(self, error: RenderError) -> None:
        self._failures += 1
        self.failed += 1
        delay = backoff(self._failures, 1.0)
        generations = {} if self._shown is None else _generations(self._shown)
        self.state = FileState(path=self.state.path, state="failed", error=str(error), generations=generations)
        _log.warning(Event.FILE_FAILED, path=self.state.path, error=str(error), retry_in=delay, attempt=self._failures)


def _refused(error: RenderError | OSError, what: str) -> RenderError:
    """The sink's own word, or that of the system, which had no thread for it."""
    return error if isinstance(error, RenderError) else RenderError(f"cannot be {what}: {log.reason_of(error)}")


def _newest(old: Snapshot, new: Snapshot | None) -> Snapshot:
    """What is known now of the credential in the file: renewals move its end."""
    return new if new is not None and new.generation == old.generation else old


def _generations(snapshots: Mapping[str, Snapshot]) -> dict[str, int]:
    return {role: snapshot.generation for role, snapshot in snapshots.items()}
