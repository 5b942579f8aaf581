"""The end of leases: who was replaced, refused or half issued is revoked here, again and again until confirmed.

Belongs to the Renewer, which alone talks to the engine for its role; a task of its own, because a revocation that
hangs must not delay a renewal.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import Forbidden, NotLoggedIn, Unavailable, UpstreamError
from agent.failpoints import Failpoint, reach
from agent.leases.circuit import Gate
from agent.leases.engine import Engine
from agent.leases.lease import Lease, Secret
from agent.leases.schedule import (
    BACKOFF_FLOOR,
    CALL_DEADLINE,
    RETRY_BUDGET,
    REVOKE_BUDGET,
    Retired,
    RoleView,
    backoff,
    due_revocations,
    revocable_at,
    within_budget,
)
from agent.log import Event

_log = log.get(__name__)

_ENDED_DEADLINE = 3.0
HANDED_OVER = 5.0
"""What drained when the last incarnation died lives this long after the restart, or to its end (seconds): the killed
agent may have published a successor that it had no time to write into the app's files."""


class Retirement:
    """The leases of one role that are on their way out.

    Args:
        on_revoked: called after each that is gone, so that the role's status can say so.
    """

    def __init__(
        self, role: str, engine: Engine, gate: Gate, clock: Clock, rng: random.Random, on_revoked: Callable[[], None]
    ) -> None:
        self.role = role
        self._engine = engine
        self._gate = gate
        self._clock = clock
        self._random = rng
        self._on_revoked = on_revoked
        self._wake = asyncio.Event()
        self._view = RoleView()
        self._failures = 0
        self._failed_at: deque[float] = deque(maxlen=REVOKE_BUDGET)
        self._awaited: dict[str, asyncio.Event] = {}

    @property
    def retired(self) -> tuple[Retired, ...]:
        """What still has to be revoked."""
        return self._view.draining

    def drain(self, lease: Lease, revoke_at: float) -> None:
        """Revoke `lease`, which readers may still hold, at `revoke_at`."""
        self._add(Retired.of(lease, revoke_at))
        _log.info(
            Event.DRAINING,
            role=self.role,
            lease=log.lease_ref(lease.id),
            expires_in=round(max(0.0, revoke_at - self._clock.now()), 1),
        )
        reach(Failpoint.DRAIN_BEGUN)

    def doom(self, lease_id: str, ends_at: float, *, parent: str = "", key: Secret | None = None) -> None:
        """Revoke what nobody has seen, at once; `parent` and `key` as in Retired."""
        now = self._clock.now()
        self._add(Retired(lease_id=lease_id, revoke_at=now, ends_at=ends_at, published=False, parent=parent, key=key))

    def hasten(self, lease_id: str) -> asyncio.Event | None:
        """Revoke that lease at once; the event is set when that is confirmed. None if it is not on its way out."""
        found = [each for each in self.retired if each.lease_id == lease_id]
        if not found:
            return None
        self._drop(found[0])
        self._add(replace(found[0], revoke_at=self._clock.now()))
        return self._awaited.setdefault(lease_id, asyncio.Event())

    def recheck(self) -> None:
        """Look at the clock again."""
        self._wake.set()

    def restore(self, retired: Sequence[Retired]) -> None:
        """Take over what an earlier incarnation had still to revoke, what was published not before HANDED_OVER."""
        soonest = self._clock.now() + HANDED_OVER
        for each in retired:
            later = max(each.revoke_at, min(soonest, each.ends_at))
            self._add(replace(each, revoke_at=later) if each.published else each)

    def _add(self, retired: Retired) -> None:
        self._view = replace(self._view, draining=(*self._view.draining, retired))
        self._wake.set()

    def _drop(self, retired: Retired) -> None:
        self._view = replace(
            self._view, draining=tuple(each for each in self._view.draining if each.lease_id != retired.lease_id)
        )

    async def run(self) -> None:
        """Revoke whatever is due, for ever."""
        while True:
            self._wake.clear()
            now = self._clock.now()
            due = due_revocations(self._view, now)
            if due:
                await self._revoke(due[0])
                continue
            times = [revocable_at(self._view, each) for each in self._view.draining]
            await wait_for(self._clock, self._wake, min(times) - now if times else None)

    async def _revoke(self, retired: Retired) -> None:
        began = self._clock.now()
        # What ends by itself at its upstream, and has, is worth no long wait: all others may be waiting for this call.
        ended = retired.parent and began >= retired.ends_at
        error = await self._attempt(retired, _ENDED_DEADLINE if ended else CALL_DEADLINE)
        if error is None:
            self._failures = 0
            return
        now = self._clock.now()
        self._failures += 1
        self._failed_at.append(began)
        again = now + backoff(self._failures, self._random.random())
        # Its turn comes again later: one lease that cannot be ended must not hold up the others.
        self._drop(retired)
        if isinstance(error, Forbidden) and retired.parent:
            # We may not end it, and asking again would not help: its upstream does at its end, or with its login.
            if now >= retired.ends_at:
                return
            again = retired.ends_at
        self._add(replace(retired, revoke_at=again, tried=True))
        times = tuple(self._failed_at)
        first, more = (within_budget(times, now, budget) for budget in (REVOKE_BUDGET, RETRY_BUDGET))
        floor = now + BACKOFF_FLOOR
        self._view = replace(self._view, revoke_not_before=max(first, floor), again_not_before=max(more, floor))
        tell = _log.debug if isinstance(error, NotLoggedIn) else _log.warning  # as in Failures: the session says why
        tell(
            Event.REVOKE_FAILED,
            role=self.role,
            lease=log.lease_ref(retired.lease_id),
            error=str(error),
            retry_in=round(max(again, self._view.again_not_before) - now, 1),
        )

    async def _attempt(self, retired: Retired, deadline: float, within: float | None = None) -> UpstreamError | None:
        """Revoke once; the failure, or None. `within` bounds the wait for its turn too."""
        # An upstream that names its leases itself is not even asked for an id that we had proposed: no news of it.
        telling = retired.published or bool(retired.parent)
        try:
            turn = self._gate.turn(telling=telling, retrying=retired.tried)
            async with self._clock.timeout(within), turn, self._clock.timeout(deadline):
                await self._engine.revoke(retired.lease_id)
        except TimeoutError:
            return Unavailable(f"no answer within {deadline:.0f} s")
        except UpstreamError as error:
            return error
        self._drop(retired)
        self._awaited.pop(retired.lease_id, asyncio.Event()).set()
        self._on_revoked()
        _log.info(Event.REVOKED, role=self.role, lease=log.lease_ref(retired.lease_id))
        return None

    async def finish(self, deadline: float) -> list[str]:
        """Revoke everything now, in parallel, each tried again until `deadline` seconds are over.

        Returns:
            What is left, a line each, fit for an operator.
        """
        ends = self._clock.now() + deadline
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._insist(each, ends), name=f"revoke {self.role}") for each in unique(self.retired)
            ]
        return [line for line in (task.result() for task in tasks) if line]

    async def _insist(self, retired: Retired, ends: float) -> str:
        error: UpstreamError | None = Unavailable("out of time")
        for failures in range(1, REVOKE_BUDGET + 1):
            left = ends - self._clock.now()
            if left <= 0:
                break
            error = await self._attempt(retired, min(left, CALL_DEADLINE), within=left)
            if error is None:
                return ""
            delay = backoff(failures, self._random.random())
            hopeless = isinstance(error, Forbidden) and retired.parent  # but it may yet end with its login
            if hopeless or failures == REVOKE_BUDGET or self._clock.now() + delay >= ends:
                break
            await self._clock.sleep(delay)
        kind = "published" if retired.published else "never published"
        left_for = retired.ends_at - self._clock.now()
        ended = (
            "has ended; its upstream drops its user" if retired.parent else "has ended; a later sweep drops its user"
        )
        end = f"ends by itself in {left_for:.0f} s" if left_for > 0 else ended
        return f"{self.role}: lease {log.lease_ref(retired.lease_id)} ({kind}) not revoked ({error}); it {end}"


def unique(retired: Sequence[Retired]) -> list[Retired]:
    """One entry per lease id, the first of each."""
    return list({each.lease_id: each for each in reversed(retired)}.values())[::-1]
