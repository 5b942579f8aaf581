"""The audit log: a JSON line for everything that happens to a lease, and who it was. Never a password.

Nothing waits for it: a line is queued, and a task of its own writes what has gathered. A sink that fails is said once
and tried again; the lines wait, as many as there is room for, and what found none is counted. Credentials go on
meanwhile (ADR 7).
"""

import asyncio
import json
import os
import select
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import StartError
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

ROOM = 10_000
"""Lines that wait while the sink fails or is slow: some 4 MB."""

_STDOUT = 1
_BATCH = 500
_SOONEST, _LATEST = 1.0, 30.0


class What(StrEnum):
    """What happened."""

    ISSUE = "issue"
    VERIFY = "verify"
    RENEW = "renew"
    REVOKE = "revoke"
    EXPIRE = "expire"  # it came to its end while it was served
    SWEEP = "sweep"  # it had ended, and its user is gone now
    ROTATE = "rotate"
    REVOKE_PREFIX = "revoke-prefix"
    READ = "read"
    DENIED = "denied"
    LOST = "lost"  # so many lines found no room


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever asked, in the words of the kernel."""

    uid: int
    gid: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line; what is empty is left out.

    Attributes:
        at: Unix time.
        outcome: "ok", or the kind of failure.
        caller: None for the agent itself.
        owner, incarnation: whom the lease was issued for, and by which run.
        requested, granted: seconds of life.
        generation: which credential was read.
        statements: hash of the SQL that the lease was made with.
        operation: what was denied.
        prefix: of the roles that were revoked, and
        count: how many leases that were, or lines lost.
    """

    at: float
    what: What
    outcome: str = "ok"
    caller: Caller | None = None
    role: str = ""
    upstream: str = ""
    owner: str = ""
    incarnation: int = 0
    lease_id: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    requested: float = 0.0
    granted: float = 0.0
    generation: int = 0
    statements: str = ""
    operation: str = ""
    prefix: str = ""
    count: int = 0

    def line(self) -> bytes:
        """As it is written."""
        at = datetime.fromtimestamp(self.at, UTC)
        caller = self.caller
        who: dict[str, object] = {"who": "agent"}
        if caller is not None:
            who = {"who": f"uid:{caller.uid}", "uid": caller.uid, "gid": caller.gid, "pid": caller.pid}
        rest = {
            "role": self.role,
            "upstream": self.upstream,
            "owner": self.owner,
            "incarnation": self.incarnation,
            "lease_id": self.lease_id,
            "username": self.username,
            "requested_ttl": round(self.requested, 3),
            "granted_ttl": round(self.granted, 3),
            "generation": self.generation,
            "statements": self.statements,
            "operation": self.operation,
            "prefix": self.prefix,
            "count": self.count,
        }
        told = {"time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "what": self.what.value}
        document = told | {"outcome": self.outcome} | who | {name: value for name, value in rest.items() if value}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"


class Sink(Protocol):
    """Where lines go. Its methods block."""

    def open(self) -> None:
        """Take it; StartError where it cannot be had."""
        ...

    def append(self, lines: Sequence[bytes]) -> int:
        """Write the first of these lines, whole, and say how many; OSError where none could be written."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class StandardOutput:
    """Lines for whoever collects the output of containers."""

    def open(self) -> None:
        """It is open already."""

    def append(self, lines: Sequence[bytes]) -> int:
        """All of them; a reader that is slow is waited for."""
        left = memoryview(b"".join(lines))
        while left:
            try:
                left = left[os.write(_STDOUT, left) :]
            except BlockingIOError:
                select.select([], [_STDOUT], [])
        return len(lines)

    def close(self) -> None:
        """It stays open."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """How the audit log is doing.

    Attributes:
        written: lines, since the start.
        waiting: lines that are not written yet.
        lost: lines that found no room.
        error: why the sink fails, "" while it does not.
    """

    written: int = 0
    waiting: int = 0
    lost: int = 0
    error: str = ""


class Audit:
    """The audit log of one agent: `start` before the first line, `close` after the last.

    Args:
        room: lines that may wait.
        run_blocking: runs the sink's work off the loop.
    """

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        *,
        room: int = ROOM,
        run_blocking: Callable[[Callable[[], Any]], Awaitable[Any]] = in_daemon_thread,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._room = room
        self._run = run_blocking
        self._waiting: deque[Entry] = deque()
        self._noted = self._written = self._lost = self._untold = 0
        self._error = ""
        self._more = asyncio.Event()
        self._progress = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Audit({self._sink!r}, {self.account})"

    @property
    def account(self) -> Account:
        """How it is doing."""
        return Account(written=self._written, waiting=len(self._waiting), lost=self._lost, error=self._error)

    async def start(self) -> None:
        """Take the sink, and write from now on.

        Raises:
            StartError: it cannot be had; the text names the remedy.
        """
        try:
            await self._run(self._sink.open)
        except OSError as error:
            raise StartError(f"audit log: {log.reason_of(error)}") from error
        self._task = asyncio.create_task(self._work(), name="audit")

    def note(self, entry: Entry) -> None:
        """Have `entry` written; never waits, never raises."""
        if len(self._waiting) >= self._room:
            if not self._untold:
                _log.error(Event.AUDIT_FAILED, error=f"{self._room} lines wait already: from now on lines are lost")
            self._lost += 1
            self._untold += 1
            return
        self._noted += 1
        self._waiting.append(entry)
        self._more.set()

    async def written(self, timeout: float) -> bool:
        """Whether all that was noted so far is written within `timeout` seconds."""
        target = self._noted
        with suppress(TimeoutError):
            async with self._clock.timeout(timeout):
                while self._written < target:
                    await self._progress.wait()
        return self._written >= target

    async def close(self, timeout: float) -> None:
        """Write what waits, for `timeout` seconds at most, and let go of the sink; what is left is said."""
        if self._task is None:
            return
        self._closing.set()
        self._more.set()
        with suppress(TimeoutError):
            async with self._clock.timeout(timeout):
                await asyncio.wait([self._task])
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        left = len(self._waiting) + self._untold
        if left:
            _log.error(Event.AUDIT_FAILED, error=f"{left} lines were not written: {self._error or 'the sink is slow'}")

    async def _work(self) -> None:
        pause = _SOONEST
        while self._waiting or not self._closing.is_set():
            self._more.clear()
            if await self._write():
                pause = _SOONEST
                if not self._waiting and not self._closing.is_set():
                    await self._more.wait()
                continue
            await wait_for(self._clock, self._closing, pause)
            if self._closing.is_set():
                await self._write()
                break
            pause = min(2 * pause, _LATEST)
        try:
            await self._run(self._sink.close)
        except Exception as error:  # noqa: BLE001 - the process ends, and lets go of it then
            self._failed(log.reason_of(error))

    async def _write(self) -> bool:
        """Write what waits, up to a batch; whether that succeeded."""
        batch = list(islice(self._waiting, _BATCH))
        if not batch:
            return True
        lines = [entry.line() for entry in batch]
        lost = self._untold
        if lost:
            lines.insert(0, Entry(at=self._clock.wall(), what=What.LOST, count=lost).line())
        try:
            count = await self._run(lambda: self._sink.append(lines))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end this task, which nobody looks at
            self._failed(log.reason_of(error))
            return False
        if self._error:
            _log.warning(Event.AUDIT_RESUMED, count=len(self._waiting), left=str(lost) if lost else None)
        self._error = ""
        self._untold -= lost
        count -= bool(lost)
        for _ in range(count):
            self._waiting.popleft()
        self._written += count
        self._progress.set()
        self._progress = asyncio.Event()
        return True

    def _failed(self, error: str) -> None:
        if error != self._error:
            _log.error(Event.AUDIT_FAILED, error=f"{error}; lines wait, and credentials go on")
        self._error = error
