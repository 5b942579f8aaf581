"""The promises as properties: for any TTL, jitter, outage pattern and answer of the upstream.

One simulated life of a role per example; a day runs in milliseconds because time is moved by hand.
"""

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from agent.errors import (
    BadResponse,
    CredentialRefused,
    Forbidden,
    LeaseGone,
    NotFound,
    RateLimited,
    Sealed,
    Unavailable,
    UpstreamError,
)
from agent.leases.cache import Snapshot
from agent.leases.schedule import CALL_DEADLINE, Policy
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE, Rig

ERRORS: dict[str, UpstreamError] = {
    "unreachable": Unavailable("down", unreachable=True),
    "lost answer": Unavailable("reset", outcome_unknown=True),
    "sealed": Sealed("sealed", unreachable=True),
    "garbage": BadResponse("html"),
    "rate limited": RateLimited("slow", retry_after=17.0),
    "forbidden": Forbidden("no"),
    "unknown role": NotFound("none"),
}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """From `start` for `length` seconds, `operations` answer with `kind`."""

    start: float
    length: float
    kind: str
    operations: frozenset[str]


@dataclass
class World:
    """An upstream with troubles, and a database whose verification has some of its own."""

    clock: FakeClock
    ttl: float
    max_ttl: float
    troubles: list[Trouble]
    began: float = 0.0
    verify_started: list[float] = field(default_factory=list)

    def now_in(self, operation: str) -> Trouble | None:
        at = self.clock.now() - self.began
        for trouble in self.troubles:
            if operation in trouble.operations and trouble.start <= at < trouble.start + trouble.length:
                return trouble
        return None

    def script(self, operation: str, n: int) -> Exception | float | None:
        trouble = self.now_in(operation)
        if trouble is None:
            return 0.01
        if trouble.kind == "hang":
            return 1e7
        if trouble.kind == "slow":
            return 0.2
        return ERRORS[trouble.kind]

    async def verify(self, data: object, until: float) -> bool:
        while True:
            trouble = self.now_in("verify")
            if trouble is None:
                return True
            if trouble.kind == "hang":
                await self.clock.sleep(1e7)
            if self.clock.now() + 0.5 >= until:
                if trouble.kind == "forbidden":
                    raise CredentialRefused("refused")
                return False
            await self.clock.sleep(0.5)


kinds = st.sampled_from(["hang", "slow", *ERRORS])
operations = st.sets(st.sampled_from(["issue", "renew", "revoke", "verify"]), min_size=1).map(frozenset)


@st.composite
def lives(draw: st.DrawFn) -> tuple[float, float, int, list[Trouble]]:
    ttl = draw(st.sampled_from([5.0, 7.3, 20.0, 60.0, 900.0, 3600.0]))
    max_ttl = draw(st.sampled_from([1.0, 2.0, 3.5, 10.0, math.inf])) * ttl
    troubles = draw(
        st.lists(
            st.builds(
                Trouble,
                start=st.floats(0, 6).map(lambda x: x * ttl),
                length=st.floats(0.01, 3).map(lambda x: x * ttl),
                kind=kinds,
                operations=operations,
            ),
            max_size=4,
        )
    )
    return ttl, max_ttl, draw(st.integers(0, 2**16)), troubles


SPAN = 8.0
"""Length of a life in TTLs."""


@dataclass
class Seen:
    """What a reader who asks all the time has been told."""

    clock: FakeClock
    rig: Rig
    served: list[tuple[float, Snapshot]] = field(default_factory=list)
    calls: list[tuple[float, str, bool]] = field(default_factory=list)

    def look(self) -> None:
        snapshot = self.rig.cache.read(ROLE, self.clock.now())
        if snapshot is not None:
            self.served.append((self.clock.now(), snapshot))


async def live(ttl: float, max_ttl: float, seed: int, troubles: list[Trouble], policy: Policy) -> tuple[World, Seen]:
    clock = FakeClock()
    world = World(clock, ttl, max_ttl, troubles, began=clock.now())
    engine = FakeEngine(clock, ttl=ttl, max_ttl=max_ttl, script=world.script)
    rig = Rig(clock, engine, policy=policy, seed=seed, verify=world.verify)
    seen = Seen(clock, rig)
    task = asyncio.create_task(rig.renewer.run())
    await settle()
    for _ in range(int(SPAN * 40)):
        seen.look()
        await clock.advance(ttl / 40)
    assert not task.done(), "nothing an upstream does ends the Renewer"
    seen.calls = list(engine.calls)  # before the call that this test's own end cancels
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return world, seen


simulated = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


AT_THE_WINDOWS_EDGE = (
    *(20.0, 20.0, 0),
    [
        Trouble(start=0.0, length=30.0, kind="hang", operations=frozenset({"renew"})),
        Trouble(start=0.0, length=10.0, kind="hang", operations=frozenset({"issue"})),
        Trouble(start=40.0, length=60.0, kind="unreachable", operations=frozenset({"revoke", "renew", "issue"})),
    ],
)
"""An eleventh failed call came a rounding error less than 60 s after the first."""


@simulated
@example(AT_THE_WINDOWS_EDGE, Policy())
@given(lives(), st.sampled_from([Policy(), Policy(overlap=2.0), Policy(drain=1.0), Policy(margin=1.0, threshold=0.5)]))
def test_any_life_keeps_the_promises(life: tuple[float, float, int, list[Trouble]], policy: Policy) -> None:
    ttl, max_ttl, seed, troubles = life

    _, seen = asyncio.run(live(ttl, max_ttl, seed, troubles, policy))

    engine = seen.rig.engine
    for now, snapshot in seen.served:
        lease = snapshot.lease
        assert now < lease.expires_at - policy.margin_of(lease), "served past the margin"
        assert lease.expires_at <= engine.ends[lease.id] + 1e-6, "the end told is later than the upstream's"
        assert engine.revoked.get(lease.id, math.inf) > now, "served after it was revoked"
    ends: dict[int, float] = {}
    for _, snapshot in seen.served:
        assert snapshot.lease.expires_at >= ends.get(snapshot.generation, -math.inf), "an end that was told fell"
        ends[snapshot.generation] = snapshot.lease.expires_at
    if policy.drain is None:
        for _, snapshot in seen.served:
            revoked_at = engine.revoked.get(snapshot.lease.id, math.inf)
            assert revoked_at >= ends[snapshot.generation] - 1e-6, "revoked before the end that was told"
    generations = [snapshot.generation for _, snapshot in seen.served]
    assert generations == sorted(generations)
    failed = [at for at, _, fine in seen.calls if not fine]
    for at in failed:
        assert sum(1 for other in failed if at - 60 < other <= at) <= 10, "more than ten failed calls in a minute"
    calls = [(at, op, fine) for at, op, fine in seen.calls if op in ("issue", "renew")]
    for (at, op, fine), (later, then, _) in pairwise(calls):
        replaced_at_once = (op, then) == ("renew", "issue")
        if not fine and not replaced_at_once:
            assert later - at >= 0.5 - 1e-9, "a delay under the floor"
        if not fine:
            assert later - at <= 60 + CALL_DEADLINE + 1e-6, "a delay over the cap"
    event(f"generations: {min(len(set(generations)), 5)}")


@simulated
@given(lives())
def test_whatever_can_be_replaced_in_time_is(life: tuple[float, float, int, list[Trouble]]) -> None:
    """An upstream that answers issues and verifications, however renewals fare: no reader ever sees a gap."""
    ttl, max_ttl, seed, troubles = life
    renewals_only = [
        Trouble(start=max(t.start, 0.2 * ttl), length=t.length, kind=t.kind, operations=frozenset({"renew", "revoke"}))
        for t in troubles
    ]

    _, seen = asyncio.run(live(ttl, max_ttl, seed, renewals_only, Policy()))

    looks = int(SPAN * 40)
    assert len(seen.served) >= looks - 1, "a gap while replacements could be had"


@simulated
@given(
    st.sampled_from([10.0, 60.0, 3600.0]),
    st.integers(0, 2**16),
    st.floats(0.3, 0.49),
    st.sampled_from(["unreachable", "hang", "sealed", "garbage"]),
)
def test_an_outage_before_the_end_is_bridged_whenever_half_the_overlap_is_left(
    ttl: float, seed: int, left: float, kind: str
) -> None:
    """The upstream comes back at least overlap/2 + one backoff before the margin: the successor is there in time."""
    policy = Policy(overlap=0.5 * ttl)
    outage = Trouble(
        start=0.05 * ttl, length=(1 - left) * ttl - 0.05 * ttl, kind=kind, operations=frozenset({"issue", "renew"})
    )
    _, seen = asyncio.run(live(ttl, 1.0 * ttl, seed, [outage], policy))

    engine = seen.rig.engine
    first = seen.served[0][1].lease
    tries = [at for at, op, _ in engine.calls if op == "issue" and at > first.issued_at]
    recovered = first.issued_at + (1 - left) * ttl
    in_time = [at for at in tries if recovered <= at <= first.expires_at - policy.overlap_of(first) / 2]
    assume(in_time)
    successor = next(snapshot for _, snapshot in seen.served if snapshot.lease.id != first.id)
    assert successor.lease.granted_at < policy.served_until(first)
    assert engine.born[successor.lease.id] <= first.expires_at
    gaps = [later - now for (now, _), (later, _) in pairwise(seen.served) if now < first.expires_at]
    assert max(gaps) < ttl / 20, "no reader saw a gap"


async def test_a_true_shortening_by_the_upstream_is_told_at_once(clock: FakeClock) -> None:
    """The one case in which an end falls: the upstream itself has brought it forward (ADR 1)."""
    rig = Rig(clock, FakeEngine(clock, ttl=100))
    task = asyncio.create_task(rig.renewer.run())
    await settle()
    rig.engine.ttl = 10.0
    rig.engine.script = lambda op, n: LeaseGone("x") if op == "issue" else None

    await clock.advance(70)
    snapshot = rig.cache.read(ROLE, clock.now())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    assert snapshot is None or snapshot.lease.expires_at - clock.now() <= 10.0
