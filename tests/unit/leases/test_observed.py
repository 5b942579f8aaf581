import asyncio

import pytest

from agent.errors import CredentialRefused, Unavailable
from agent.leases.lease import Secret
from agent.leases.observed import INCONCLUSIVE, NO_ANSWER, OK, Call, Observed, ObservedSource, ObservedVerify, Operation
from tests.fakes import FakeClock, FakeEngine
from tests.unit.leases.builders import ROLE, lease
from tests.unit.leases.pollers import FakeSource


def observed(engine: FakeEngine, clock: FakeClock, seen: list[Call]) -> Observed:
    return Observed(engine, role=ROLE, upstream="postgresql", requested=90.0, clock=clock, tell=seen.append)


async def test_an_issue_and_its_revocation_name_lease_and_user(clock: FakeClock) -> None:
    """R000-023, R003-092: who got what, and for how long."""
    seen: list[Call] = []
    engine = observed(FakeEngine(clock, ttl=60), clock, seen)

    await engine.issue(ROLE, "an id")
    await engine.revoke("an id")

    assert [(call.operation, call.outcome) for call in seen] == [(Operation.ISSUE, OK), (Operation.REVOKE, OK)]
    assert {(call.role, call.upstream, call.lease_id, call.username) for call in seen} == {
        (ROLE, "postgresql", "an id", "user-1")
    }
    assert (seen[0].requested, seen[0].granted) == (90.0, 60.0)


async def test_a_renewal_tells_what_was_asked_and_what_was_granted(clock: FakeClock) -> None:
    seen: list[Call] = []
    inner = FakeEngine(clock, ttl=60, max_ttl=80)
    engine = observed(inner, clock, seen)
    grant = await engine.issue(ROLE, "an id")
    await clock.advance(50)

    await engine.renew(lease(ttl=grant.ttl, at=clock.now() - 50, id="an id"), 60.0)

    assert (seen[-1].operation, seen[-1].requested, seen[-1].granted) == (Operation.RENEW, 60.0, 30.0)


async def test_a_failure_is_told_by_its_kind_and_raised_as_it_is(clock: FakeClock) -> None:
    seen: list[Call] = []
    failing = FakeEngine(clock, script=lambda op, n: Unavailable("secret text"))

    with pytest.raises(Unavailable):
        await observed(failing, clock, seen).issue(ROLE, "an id")

    assert (seen[0].outcome, seen[0].granted) == ("Unavailable", 0.0)
    assert "secret text" not in repr(seen)


async def test_a_call_that_is_given_up_has_no_answer(clock: FakeClock) -> None:
    seen: list[Call] = []
    hanging = observed(FakeEngine(clock, script=lambda op, n: 1e6), clock, seen)

    async def impatient() -> None:
        async with clock.timeout(3.0):
            await hanging.issue(ROLE, "an id")

    task = asyncio.ensure_future(impatient())
    await clock.advance(4)
    with pytest.raises(TimeoutError):
        await task

    assert (seen[0].outcome, seen[0].took) == (NO_ANSWER, 3.0)


@pytest.mark.parametrize(("answer", "outcome"), [(True, OK), (False, INCONCLUSIVE)])
async def test_a_verification_tells_whether_it_was_found_out(clock: FakeClock, answer: bool, outcome: str) -> None:
    seen: list[Call] = []

    async def verify(data: object, until: float) -> bool:
        return answer

    watched = ObservedVerify(verify, role=ROLE, upstream="postgresql", clock=clock, tell=seen.append)

    assert await watched({"username": Secret("u")}, clock.now() + 1) is answer
    assert [(call.operation, call.outcome, call.username) for call in seen] == [(Operation.VERIFY, outcome, "u")]


async def test_a_refused_credential_is_told(clock: FakeClock) -> None:
    seen: list[Call] = []

    async def verify(data: object, until: float) -> bool:
        raise CredentialRefused("no")

    watched = ObservedVerify(verify, role=ROLE, upstream="postgresql", clock=clock, tell=seen.append)
    with pytest.raises(CredentialRefused):
        await watched({}, clock.now() + 1)

    assert seen[0].outcome == "CredentialRefused"


async def test_a_look_is_told_however_it_ends(clock: FakeClock) -> None:
    seen: list[Call] = []
    fake = FakeSource(clock, script=lambda n: None if n == 0 else Unavailable("down"))
    source = ObservedSource(fake, role=ROLE, upstream="vault", clock=clock, tell=seen.append)

    found = await source.fetch(ROLE)
    with pytest.raises(Unavailable):
        await source.fetch(ROLE)

    assert found.data["password"] == Secret("password 1.0")
    assert [(call.operation, call.outcome, call.upstream) for call in seen] == [
        (Operation.LOOK, OK, "vault"),
        (Operation.LOOK, "Unavailable", "vault"),
    ]
