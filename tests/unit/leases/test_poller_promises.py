"""The Poller's promises as properties: for any pattern of troubles, changes and rotations."""

import asyncio
import contextlib
import math
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import AuthExpired, BadResponse, Forbidden, NotFound, NotLoggedIn, RateLimited, Sealed, Unavailable
from agent.leases.cache import Snapshot
from agent.leases.schedule import BACKOFF_CAP, CALL_DEADLINE, WINDOW
from tests.fakes import FakeClock
from tests.unit.leases.pollers import FakeSource, Rig

RETRY_AFTER = 17.0
ERRORS: dict[str, Exception] = {
    "unreachable": Unavailable("down", unreachable=True),
    "sealed": Sealed("sealed", unreachable=True),
    "garbage": BadResponse("html"),
    "rate limited": RateLimited("slow", retry_after=RETRY_AFTER),
    "forbidden": Forbidden("no"),
    "login ended": AuthExpired("ended"),
    "not logged in": NotLoggedIn("none"),
    "deleted": NotFound("none"),
}
LENGTH = 1500.0


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """From `start` for `length` seconds, looks end like `kind`."""

    start: float
    length: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Life:
    """What happens to one secret; instants count from the start."""

    interval: float
    period: float
    lag: float
    resets_early: bool
    troubles: tuple[Trouble, ...]
    changes: tuple[float, ...]
    asks: tuple[float, ...]
    seed: int


lives = st.builds(
    Life,
    interval=st.sampled_from([5.0, 30.0, 300.0]),
    period=st.sampled_from([math.inf, 60.0, 400.0]),
    lag=st.sampled_from([0.0, 0.5, 7.0]),
    resets_early=st.booleans(),
    troubles=st.lists(
        st.builds(
            Trouble,
            start=st.floats(0, LENGTH),
            length=st.floats(0.1, 400),
            kind=st.sampled_from(["hang", "slow", "flapping", *ERRORS]),
        ),
        max_size=4,
    ).map(tuple),
    changes=st.lists(st.floats(1, LENGTH), max_size=5).map(lambda found: tuple(sorted(found))),
    asks=st.lists(st.floats(1, LENGTH), max_size=5).map(lambda found: tuple(sorted(found))),
    seed=st.integers(0, 1000),
)


class World:
    """One life, played."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.clock = FakeClock()
        self.began = self.clock.now()
        self.seen: list[Snapshot] = []
        self.gaps: list[float] = []
        self.called: list[tuple[float, str]] = []
        self.source = FakeSource(
            self.clock, period=life.period, lag=life.lag, resets_early=life.resets_early, script=self.script
        )
        self.rig = Rig(self.clock, self.source, interval=life.interval, seed=life.seed)
        self.truth = [(self.began, self.source.version)]

    def trouble(self) -> str:
        at = self.clock.now() - self.began
        return next((t.kind for t in self.life.troubles if t.start <= at < t.start + t.length), "")

    def script(self, n: int) -> Exception | float | None:
        kind = self.trouble()
        if kind == "flapping":
            kind = "unreachable" if n % 2 else ""
        self.called.append((self.clock.now(), kind))
        if kind == "hang":
            return 1e7
        if kind == "slow":
            return 5.0
        return ERRORS.get(kind)

    async def play(self) -> None:
        """Live; note what readers see at every moment."""
        async with self.rig.running():
            events = sorted([*((at, "put") for at in self.life.changes), *((at, "ask") for at in self.life.asks)])
            while self.clock.now() - self.began < LENGTH + 500:
                while events and events[0][0] <= self.clock.now() - self.began:
                    if events.pop(0)[1] == "put":
                        self.source.put()
                    else:
                        self.rig.poller.replace()
                self.note()
                await self.clock.advance(1.0)

    def note(self) -> None:
        now, version = self.clock.now(), self.source.version
        if version != self.truth[-1][1]:
            self.truth.append((now, version))
        snapshot = self.rig.served
        if snapshot is None:
            self.gaps.append(now)
            return
        assert snapshot.remaining(now) > 1.0, "lease_duration is never 0"
        if self.seen and self.seen[-1].generation == snapshot.generation:
            assert snapshot.lease.expires_at >= self.seen[-1].lease.expires_at, "an end once told never falls"
            assert snapshot.lease.data == self.seen[-1].lease.data, "a generation is one credential"
        self.seen.append(snapshot)


def sound(world: World) -> None:
    life, called = world.life, world.called
    failed = [at for at, kind in called if kind not in ("", "slow", "not logged in")]
    assert all(b - a >= WINDOW for a, b in zip(failed, failed[10:], strict=False)), "ten failed calls a minute"
    all_calls = [at for at, _ in called]
    assert all(b - a >= WINDOW for a, b in zip(all_calls, all_calls[32 + 10 :], strict=False)), "and not many others"
    for at in world.gaps:  # nothing but the upstream's word takes a credential away
        before = [kind for when, kind in called if when <= at]
        published = any(kind in ("", "slow") for kind in before)
        assert not published or "deleted" in before or at - world.began < CALL_DEADLINE
    # A change is published within one interval, and the delay that failures have left behind.
    longest = max(life.interval, 10.0) + BACKOFF_CAP + WINDOW + RETRY_AFTER + CALL_DEADLINE + life.lag + 3
    for (at, version), (until, _) in zip(world.truth, [*world.truth[1:], (math.inf, "")], strict=True):
        due = max([at, *(world.began + t.start + t.length for t in life.troubles if world.began + t.start < at + 2000)])
        due += longest
        if due < min(until, world.clock.now()):
            found = [s for s in world.seen if s.lease.issued_at <= due]
            assert found
            assert found[-1].lease.data["password"].reveal() == f"password {version}"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lives)
def test_whatever_happens_the_promises_hold(life: Life) -> None:
    world = World(life)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(world.play())

    sound(world)
