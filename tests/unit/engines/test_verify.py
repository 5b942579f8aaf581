"""How often and how long a new credential is tried, and what the answers amount to. No network, no real time."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping

import pytest
import structlog
import tenacity  # noqa: F401 - otherwise its first import, in a thread, would escape the fake clock
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Connection, PostgreSQL, Role, VerifyTarget
from agent.engines.login import Failure
from agent.engines.verify import LoginVerifier, Target, targets_for
from agent.errors import CredentialRefused
from agent.leases.lease import Secret
from tests.fakes import FakeClock, settle

PRIMARY = Target(host="db-1", port=5432, dbname="app", sslmode="require")
REPLICA = Target(host="db-2", port=5433, dbname="app", sslmode="require", probe="SELECT 1")
DATA = {"username": Secret("v_app_x7"), "password": Secret("hunter2")}
REFUSED = Failure(reason="password refused", code="28P01", refused=True)
BUSY = Failure(reason="too many connections", code="53300")
USELESS = Failure(reason="it asks for no password", final=True)
HANGS = "hangs"

Answer = Failure | None | str


class Door:
    """A `log_in` that answers by target from a script, repeating its last word, and notes who came when."""

    def __init__(self, clock: FakeClock, answers: Mapping[Target, list[Answer]]) -> None:
        self.clock = clock
        self.answers = {target: list(script) for target, script in answers.items()}
        self.knocks: list[tuple[float, Target]] = []
        self.given_up = 0

    async def __call__(self, target: Target, username: Secret, password: Secret, timeout: float) -> Failure | None:
        assert (username, password) == (DATA["username"], DATA["password"])
        assert timeout > 0
        self.knocks.append((self.clock.now(), target))
        script = self.answers[target]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, str):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        assert not isinstance(answer, str)
        return answer

    def times(self, target: Target) -> list[float]:
        return [at for at, who in self.knocks if who == target]


async def ended(clock: FakeClock, work: Awaitable[bool]) -> tuple[bool | CredentialRefused, float]:
    """The outcome, and how many seconds it took on the fake clock."""
    began = clock.now()
    task = asyncio.ensure_future(work)
    await settle()
    while not task.done():
        await clock.advance(0.05)
    try:
        return task.result(), clock.now() - began
    except CredentialRefused as error:
        return error, clock.now() - began


async def tried(
    clock: FakeClock, answers: Mapping[Target, list[Answer]], within: float = 10.0
) -> tuple[bool | CredentialRefused, float, Door]:
    """Run a verifier over `answers`, with `within` seconds for it."""
    door = Door(clock, answers)
    verifier = LoginVerifier(tuple(answers), clock, log_in=door)
    outcome, took = await ended(clock, verifier(DATA, clock.now() + within))
    return outcome, took, door


async def test_a_credential_that_every_target_lets_in_is_verified_at_once(clock: FakeClock) -> None:
    outcome, took, door = await tried(clock, {PRIMARY: [None], REPLICA: [None]})

    assert outcome is True
    assert took == 0
    assert [target for _, target in door.knocks] == [PRIMARY, REPLICA]


async def test_without_a_target_nothing_was_found_out(clock: FakeClock) -> None:
    verifier = LoginVerifier((), clock)

    assert await verifier(DATA, clock.now() + 10) is False


@pytest.mark.parametrize("missing", ["username", "password"])
async def test_a_lease_that_is_no_login_was_not_verified(clock: FakeClock, missing: str) -> None:
    door = Door(clock, {PRIMARY: [None]})
    data = {name: value for name, value in DATA.items() if name != missing}

    assert await LoginVerifier((PRIMARY,), clock, log_in=door)(data, clock.now() + 10) is False
    assert door.knocks == []


async def test_what_stays_refused_until_the_end_is_refused(clock: FakeClock) -> None:
    outcome, took, door = await tried(clock, {PRIMARY: [REFUSED]}, within=30)

    assert isinstance(outcome, CredentialRefused)
    assert outcome.code == "28P01"
    assert str(outcome) == "db-1:5432/app refuses the new credential: password refused"
    assert 28 < took <= 30
    assert len(door.knocks) > 5


async def test_what_is_refused_first_and_let_in_later_is_verified(clock: FakeClock) -> None:
    outcome, took, door = await tried(clock, {REPLICA: [REFUSED, BUSY, REFUSED, None]})

    assert outcome is True
    assert len(door.knocks) == 4
    assert took < 10


async def test_the_last_answer_counts(clock: FakeClock) -> None:
    outcome, _, _ = await tried(clock, {PRIMARY: [REFUSED, REFUSED, BUSY]})

    assert outcome is False


async def test_a_refusal_anywhere_outweighs_a_doubt_elsewhere(clock: FakeClock) -> None:
    outcome, _, _ = await tried(clock, {PRIMARY: [BUSY], REPLICA: [REFUSED]})

    assert isinstance(outcome, CredentialRefused)
    assert "db-2:5433/app" in str(outcome)


async def test_what_nobody_could_find_out_is_said_with_its_place_and_reason(clock: FakeClock) -> None:
    with structlog.testing.capture_logs() as lines:
        outcome, _, _ = await tried(clock, {PRIMARY: [BUSY]})

    assert outcome is False
    assert [(line["server"], line["reason"]) for line in lines] == [("db-1:5432/app", "too many connections")]


async def test_a_target_that_let_it_in_is_not_asked_again(clock: FakeClock) -> None:
    outcome, _, door = await tried(clock, {PRIMARY: [None], REPLICA: [REFUSED, REFUSED, None]})

    assert outcome is True
    assert len(door.times(PRIMARY)) == 1
    assert len(door.times(REPLICA)) == 3


async def test_where_asking_again_is_useless_nobody_waits(clock: FakeClock) -> None:
    outcome, took, door = await tried(clock, {PRIMARY: [USELESS]})

    assert outcome is False
    assert took == 0
    assert len(door.knocks) == 1


async def test_a_useless_target_does_not_cut_another_short(clock: FakeClock) -> None:
    outcome, _, door = await tried(clock, {PRIMARY: [USELESS], REPLICA: [REFUSED, None]})

    assert outcome is False
    assert len(door.times(REPLICA)) == 2


@pytest.mark.parametrize("within", [0.0, -5.0, 0.1])
async def test_one_attempt_is_made_however_late_it_is(clock: FakeClock, within: float) -> None:
    outcome, took, door = await tried(clock, {PRIMARY: [REFUSED]}, within=within)

    assert isinstance(outcome, CredentialRefused)
    assert took == 0
    assert len(door.knocks) == 1


async def test_an_attempt_that_hangs_ends_and_was_no_refusal(clock: FakeClock) -> None:
    outcome, took, door = await tried(clock, {PRIMARY: [HANGS], REPLICA: [HANGS]}, within=3)

    assert outcome is False
    assert took == pytest.approx(5, abs=0.1)  # one attempt's timeout, for both at once
    assert door.given_up == 2


async def test_a_hurried_last_attempt_unsays_no_refusal(clock: FakeClock) -> None:
    outcome, took, _ = await tried(clock, {PRIMARY: [REFUSED, HANGS]}, within=3)

    assert isinstance(outcome, CredentialRefused)
    assert took <= 3.1


async def test_a_cancelled_verification_gives_its_login_up(clock: FakeClock) -> None:
    door = Door(clock, {PRIMARY: [HANGS]})
    task = asyncio.ensure_future(LoginVerifier((PRIMARY,), clock, log_in=door)(DATA, clock.now() + 10))
    await settle()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert door.given_up == 1


async def test_a_verification_can_be_cancelled_between_two_attempts(clock: FakeClock) -> None:
    door = Door(clock, {PRIMARY: [REFUSED]})
    task = asyncio.ensure_future(LoginVerifier((PRIMARY,), clock, log_in=door)(DATA, clock.now() + 10))
    await settle()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


@given(
    script=st.lists(st.sampled_from([REFUSED, BUSY, HANGS]), min_size=1, max_size=40),
    within=st.floats(min_value=0.0, max_value=120.0),
)
def test_any_refusals_are_spared_and_end_in_time(script: list[Answer], within: float) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        door = Door(clock, {PRIMARY: script})
        verifier = LoginVerifier((PRIMARY,), clock, log_in=door)

        _, took = await ended(clock, verifier(DATA, clock.now() + within))

        assert took <= max(within, 5.0) + 0.1
        gaps = [later - earlier for earlier, later in itertools.pairwise(door.times(PRIMARY))]
        assert all(0.2 <= gap <= 10.0 + 5.0 for gap in gaps)
        assert len(door.knocks) <= 12 + within / 5

    asyncio.run(scenario())


async def test_its_repr_names_the_targets(clock: FakeClock) -> None:
    assert repr(LoginVerifier((PRIMARY, REPLICA), clock)) == "LoginVerifier(db-1:5432/app, db-2:5433/app)"


UPSTREAM = PostgreSQL(host="pg", port=5499, dbname="app", user="root", sslmode="verify-full", sslrootcert="/ca.pem")
CASES: dict[str, tuple[Callable[[], Role], PostgreSQL | None, tuple[Target, ...]]] = {
    "nothing said: the upstream": (
        lambda: Role(upstream="postgresql"),
        UPSTREAM,
        (Target(host="pg", port=5499, dbname="app", sslmode="verify-full", sslrootcert="/ca.pem"),),
    ),
    "where the app is sent": (
        lambda: Role(upstream="postgresql", connection=Connection(host="ro", dbname="app", sslmode="verify-full")),
        UPSTREAM,
        (Target(host="ro", port=5432, dbname="app", sslmode="verify-full", sslrootcert="/ca.pem"),),
    ),
    "where the list says": (
        lambda: Role(
            upstream="postgresql",
            connection=Connection(host="ro", dbname="app"),
            verify=(
                VerifyTarget(host="a", dbname="x", probe="SELECT 1"),
                VerifyTarget(host="/run/pg", dbname="y", sslmode="disable"),
            ),
        ),
        UPSTREAM,
        (
            Target(host="a", port=5432, dbname="x", sslmode="require", probe="SELECT 1"),
            Target(host="/run/pg", port=5432, dbname="y", sslmode="disable"),
        ),
    ),
    "nowhere": (lambda: Role(upstream="postgresql", verify=()), UPSTREAM, ()),
    "another kind of upstream": (lambda: Role(upstream="vault"), None, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_role_is_verified(case: str) -> None:
    role, upstream, expected = CASES[case]

    assert targets_for(role(), upstream) == expected
