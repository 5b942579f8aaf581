"""Secrets that nobody leases: what is published, when, and what readers are told of it."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise

import pytest

from agent.errors import (
    AuthExpired,
    BadResponse,
    CredentialRefused,
    Forbidden,
    NotFound,
    NotLoggedIn,
    RateLimited,
    Sealed,
    Unavailable,
    Unfit,
)
from agent.leases.cache import LeaseCache, Phase
from agent.leases.lease import Secret
from agent.leases.polling import LEAD, MARGIN, PATIENCE
from tests.fakes import FakeClock, settle
from tests.unit.leases.pollers import ROLE, FakeSource, Rig

DAY = 86_400.0
DOWN = Unavailable("down", unreachable=True)


async def test_a_day_of_a_value_that_stands_is_one_generation(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=300)

    async with rig.running():
        first = rig.served
        await clock.advance(DAY)
        last = rig.served

    assert first is not None
    assert last is not None
    assert last.generation == first.generation
    assert rig.cache.counts(ROLE).published == 1
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(rig.source.looks)]
    assert min(gaps) >= 270
    assert max(gaps) <= 300
    assert max(gaps) - min(gaps) > 15, "jittered"


async def test_a_changed_value_is_a_new_generation_within_an_interval(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        await clock.advance(10)
        before = rig.served
        rig.source.put(password="new")
        await clock.advance(60)
        after = rig.served

    assert before is not None
    assert after is not None
    assert after.generation > before.generation
    assert after.lease.id != before.lease.id
    assert rig.password == "new"


async def test_ids_say_the_kind_and_nothing_of_the_value(clock: FakeClock) -> None:
    one, other = (Rig(clock, FakeSource(clock), kind=kind) for kind in ("kv", "static"))

    async with one.running(), other.running():
        ids = [rig.poller.held()[0].lease_id for rig in (one, other)]

    assert [name.partition(":")[0] for name in ids] == ["kv", "static"]
    assert all("1.0" not in name and "password" not in name for name in ids)


async def test_what_is_held_is_one_entry_that_hangs_on_no_login(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock))

    async with rig.running():
        (held,) = rig.poller.held()

    assert (held.state, held.username, held.renewable, held.parent) == ("published", "app", False, "")
    assert rig.poller.logins_in_use() == frozenset()


async def test_a_reader_is_told_of_the_time_to_the_next_look(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=300)

    async with rig.running():
        for _ in range(40):
            assert math.isclose(rig.remaining, rig.cache.status(ROLE).next_at - clock.now() + PATIENCE)
            await clock.advance(33)


@pytest.mark.parametrize("error", [DOWN, Sealed("sealed"), BadResponse("html"), RateLimited("busy", retry_after=7)])
async def test_a_silent_upstream_takes_nothing_away(clock: FakeClock, error: Exception) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)
    ends = []

    async with rig.running():
        generation = rig.served.generation if rig.served else 0
        rig.source.script = lambda n: error
        await clock.advance(61)
        for _ in range(1200):
            await clock.advance(1)
            assert rig.served is not None
            assert rig.served.stale
            assert rig.remaining > MARGIN
            ends.append(rig.served.lease.expires_at)
        assert rig.served is not None
        assert rig.served.generation == generation
        assert rig.cache.status(ROLE).phase is Phase.STALE
        rig.source.script = lambda n: None
        await clock.advance(61)
        assert rig.served is not None
        assert not rig.served.stale
        assert rig.cache.status(ROLE).phase is Phase.FRESH

    assert all(earlier <= later for earlier, later in pairwise(ends)), "an end once told never falls"
    assert rig.failed == [str(error)], "told once"


async def test_a_look_that_hangs_takes_nothing_away_and_ends_at_its_deadline(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        rig.source.script = lambda n: 1e6
        for _ in range(600):
            await clock.advance(1)
            assert rig.served is not None
            assert rig.poller.overdue(clock.now()) == 0.0

    assert "no answer within 10.0 s" in rig.cache.status(ROLE).error
    gaps = [later - earlier for earlier, later in pairwise(rig.source.failed)]
    assert min(gaps) >= 10.5


class Stuck:
    """A gate that lets nobody through while it is shut."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

    @contextlib.asynccontextmanager
    async def turn(self, *, telling: bool = True, retrying: bool = False) -> AsyncIterator[None]:
        await self.open.wait()
        yield


async def test_waiting_for_a_turn_takes_nothing_away(clock: FakeClock) -> None:
    gate = Stuck()
    rig = Rig(clock, FakeSource(clock), interval=60, gate=gate)

    async with rig.running():
        gate.open.clear()
        for _ in range(600):
            await clock.advance(1)
            assert rig.served is not None
        assert len(rig.source.looks) == 1
        gate.open.set()
        await clock.advance(1)
        assert len(rig.source.looks) == 2


async def test_a_deleted_secret_is_withdrawn_and_said(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        rig.source.deleted = True
        await clock.advance(61)
        assert rig.served is None
        assert rig.poller.held() == ()
        status = rig.cache.status(ROLE)
        assert (status.phase, status.error) == (Phase.FAILING, f"{ROLE}: there is no such secret")
        assert rig.failed == [status.error], "told at once"
        rig.source.put(password="back")
        await clock.advance(61)
        assert rig.password == "back"


async def test_one_that_comes_back_as_it_was_is_published_again(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        before = rig.served
        rig.source.deleted = True
        await clock.advance(61)
        rig.source.deleted = False
        await clock.advance(61)
        assert before is not None
        assert rig.served is not None
        assert rig.served.generation > before.generation


async def test_a_right_that_is_missing_is_told_at_once_and_keeps_the_value(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        rig.source.script = lambda n: Forbidden("read on secret/data/app is missing")
        await clock.advance(600)
        assert rig.served is not None
        assert rig.cache.status(ROLE).phase is Phase.STALE
        assert rig.failed == ["read on secret/data/app is missing"]

    gaps = [later - earlier for earlier, later in pairwise(rig.source.failed)]
    assert min(gaps) >= 8


async def test_retry_after_is_waited_for(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        rig.source.script = lambda n: RateLimited("busy", retry_after=200)
        await clock.advance(61)
        for _ in range(200):
            assert rig.served is not None
            await clock.advance(1)

    gaps = [later - earlier for earlier, later in pairwise(rig.source.failed)]
    assert all(gap >= 200 for gap in gaps)
    assert gaps


async def test_while_nothing_was_ever_found_nothing_is_served(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: DOWN if n < 5 else None))

    async with rig.running():
        assert rig.cache.status(ROLE).phase is Phase.FAILING
        assert rig.served is None
        await clock.advance(40)
        assert rig.password == "password 1.0"

    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(rig.source.looks)]
    assert all(low <= gap <= high for gap, (low, high) in zip(gaps, [(0.5, 1), (1, 2), (2, 4), (4, 8)], strict=False))
    assert rig.failed == ["down"], "after five in a row"


async def test_rotate_now_is_a_look_now(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock))

    async with rig.running():
        await clock.advance(10)
        before = rig.served
        rig.poller.replace(revoke_after=1.0)
        await settle()
        assert before is not None
        assert rig.served is not None
        assert rig.served.generation == before.generation, "it stands"
        assert rig.served.lease.expires_at >= before.lease.expires_at
        rig.source.put(password="new")
        rig.poller.replace()
        await settle()
        assert rig.password == "new"

    assert len(rig.source.looks) == 3


async def test_however_often_it_is_asked_for_no_end_falls(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=3600)
    ends = []

    async with rig.running():
        for _ in range(50):
            assert rig.served is not None
            ends.append(rig.served.lease.expires_at)
            rig.poller.replace()
            await clock.advance(1)

    assert all(earlier <= later for earlier, later in pairwise(ends))


async def test_two_roles_of_one_secret_have_ids_of_their_own(clock: FakeClock) -> None:
    cache = LeaseCache([ROLE, "kv/other"])
    one = Rig(clock, FakeSource(clock), cache=cache)
    other = Rig(clock, FakeSource(clock), cache=cache, role="kv/other")

    async with one.running(), other.running():
        assert one.poller.held()[0].lease_id != other.poller.held()[0].lease_id


async def test_what_cannot_be_handed_out_leaves_the_old_value_in_place(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        rig.source.script = lambda n: Unfit("a value holds control characters")
        await clock.advance(200)
        assert rig.password == "password 1.0"
        assert rig.failed == ["a value holds control characters"]


async def test_rotate_now_during_a_look_makes_another_one(clock: FakeClock) -> None:
    """What the look under way finds may be older than the asking."""
    rig = Rig(clock, FakeSource(clock, script=lambda n: 2.0))

    async with rig.running():
        await clock.advance(3)
        rig.poller.replace()
        await clock.advance(1)
        rig.poller.replace()
        await clock.advance(10)

    assert len(rig.source.looks) == 3


async def test_rotate_now_does_not_break_a_backoff(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: DOWN))

    async with rig.running():
        for _ in range(600):
            rig.poller.replace()
            await clock.advance(1)

    assert len(rig.source.looks) <= 20


async def test_an_operators_revocation_withdraws_and_looks_again(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock))

    async with rig.running():
        before = rig.served
        assert before is not None
        assert rig.poller.revoke("kv:other") is None
        confirmed = rig.poller.revoke(before.lease.id)
        assert rig.served is None
        assert confirmed is not None
        assert confirmed.is_set(), "there is nothing to wait for"
        await rig.poller.strike(before.lease.id)
        await settle()
        assert rig.served is not None
        assert rig.served.generation > before.generation


async def test_an_upstreams_word_that_it_has_ended_is_a_look_now(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock))

    async with rig.running():
        rig.source.put(password="new")
        rig.poller.expired(["kv:other"])
        await settle()
        assert rig.password != "new"
        rig.poller.expired([rig.poller.held()[0].lease_id])
        await settle()
        assert rig.password == "new"


@pytest.mark.parametrize(("error", "times"), [(NotLoggedIn("not logged in"), 5), (AuthExpired("ended"), 2)])
async def test_a_look_that_failed_for_want_of_a_login_is_made_as_soon_as_there_is_one(
    clock: FakeClock, error: Exception, times: int
) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: error if n < times else None))

    async with rig.running():
        while len(rig.source.looks) < times:
            await clock.advance(0.1)
        assert rig.served is None
        rig.poller.login_changed()
        await settle()
        assert rig.served is not None


async def test_a_login_that_changes_hurries_no_other_failure(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: Forbidden("no")))

    async with rig.running():
        for _ in range(70):  # the first delay is 8 s at least
            await clock.advance(0.1)
            rig.poller.login_changed()

    assert len(rig.source.looks) == 1


async def test_logins_that_nobody_accepts_cost_no_more_than_ten_calls_a_minute(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: AuthExpired("ended")))

    async with rig.running():
        for _ in range(6000):
            await clock.advance(0.1)
            rig.poller.login_changed()

    times = rig.source.failed
    assert all(later - earlier > 60 for earlier, later in zip(times, times[10:], strict=False))


# -- verification -----------------------------------------------------------------------------------------------------


class Database:
    """Tries logins; refuses those in `refused`, cannot be asked while `down`."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.refused: set[str] = set()
        self.takes = 0.0
        self.down = False
        self.tried: list[str] = []

    async def __call__(self, data: Mapping[str, Secret], until: float) -> bool:
        self.tried.append(data["password"].reveal())
        if self.takes:
            await self.clock.sleep(self.takes)
        if self.tried[-1] in self.refused:
            raise CredentialRefused("db refuses the new credential")
        return not self.down


async def test_a_changed_login_is_tried_before_anyone_sees_it(clock: FakeClock) -> None:
    database = Database(clock)
    rig = Rig(clock, FakeSource(clock), interval=60, verify=database)

    async with rig.running():
        assert rig.served is not None
        assert rig.served.verified
        await clock.advance(600)
        assert len(database.tried) == 1, "one that stands is not tried again"
        old = rig.password
        rig.source.put(username="app", password="bad")
        database.refused.add("bad")
        await clock.advance(120)
        assert rig.password == old
        assert rig.served is not None
        assert rig.served.stale
        assert "refuses" in rig.cache.status(ROLE).error
        database.refused.clear()
        await clock.advance(61)
        assert rig.password == "bad"


async def test_what_cannot_be_tried_is_published_as_unverified(clock: FakeClock) -> None:
    database = Database(clock)
    database.down = True
    rig = Rig(clock, FakeSource(clock), verify=database)

    async with rig.running():
        assert rig.served is not None
        assert not rig.served.verified


async def test_a_trial_that_hangs_is_given_up(clock: FakeClock) -> None:
    database = Database(clock)
    database.takes = 1e6
    rig = Rig(clock, FakeSource(clock), verify=database)

    async with rig.running():
        assert rig.served is None
        await clock.advance(20.1)
        assert rig.served is not None
        assert not rig.served.verified


async def test_what_is_no_login_is_not_tried(clock: FakeClock) -> None:
    database = Database(clock)
    rig = Rig(clock, FakeSource(clock), verify=database)
    rig.source.put(password="an API key's", endpoint="x")

    async with rig.running():
        assert rig.served is not None

    assert database.tried == []


async def test_a_long_trial_takes_the_old_value_from_nobody(clock: FakeClock) -> None:
    database = Database(clock)
    rig = Rig(clock, FakeSource(clock), interval=60, verify=database)

    async with rig.running():
        database.takes = 19.0
        rig.source.put(username="app", password="new")
        for _ in range(90):
            await clock.advance(1)
            assert rig.served is not None
        assert rig.password == "new"


# -- lazy roles, waiters, the end -------------------------------------------------------------------------------------


async def test_a_lazy_role_waits_for_a_reader_and_is_let_go_after_an_idle_interval(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60, lazy=True)

    async with rig.running():
        await clock.advance(100)
        assert rig.source.looks == []
        assert rig.cache.status(ROLE).phase is Phase.IDLE
        rig.cache.demand(ROLE, clock.now())
        assert rig.cache.status(ROLE).phase is Phase.STARTING
        await settle()
        for _ in range(4):
            await clock.advance(50)
            assert rig.served is not None
            rig.cache.demand(ROLE, clock.now())
        looks = len(rig.source.looks)
        assert looks >= 3
        await clock.advance(60)
        assert rig.served is None
        assert rig.cache.status(ROLE).phase is Phase.IDLE
        looks = len(rig.source.looks)
        await clock.advance(DAY)

    assert len(rig.source.looks) == looks


async def test_a_reader_who_came_first_is_not_forgotten(clock: FakeClock) -> None:
    """The socket listens before the Pollers are made."""
    source, cache = FakeSource(clock), Rig(clock, FakeSource(clock)).cache
    cache.demand(ROLE, clock.now())
    rig = Rig(clock, source, lazy=True, cache=cache)

    async with rig.running():
        assert rig.served is not None


async def test_readers_who_come_and_go_buy_no_more_calls(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: DOWN), interval=10, lazy=True)

    async with rig.running():
        for _ in range(60):
            rig.cache.demand(ROLE, clock.now())
            await clock.advance(11)

    times = rig.source.failed
    assert all(later - earlier > 60 for earlier, later in zip(times, times[10:], strict=False))


async def test_rotate_now_wakes_a_lazy_role(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), lazy=True)

    async with rig.running():
        rig.poller.replace()
        await settle()
        assert rig.served is not None


async def test_the_first_look_waits_for_the_splay(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), splay=20.0)

    async with rig.running():
        assert rig.cache.status(ROLE).phase is Phase.STARTING
        await clock.advance(19.9)
        assert rig.source.looks == []
        await clock.advance(0.2)
        assert rig.served is not None


async def test_a_waiter_who_leaves_disturbs_nobody(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: 3.0), interval=60)

    async with rig.running():
        waiting = [asyncio.create_task(rig.cache.changed(ROLE, 0)) for _ in range(3)]
        await settle()
        waiting[0].cancel()
        await clock.advance(4)
        found = await asyncio.gather(*waiting[1:])

    assert len({snapshot.generation for snapshot in found}) == 1
    assert len(rig.source.looks) == 1


@pytest.mark.parametrize("at", ["turn", "fetch", "trial", "sleep"])
async def test_cancelled_anywhere_it_ends_at_once_and_withdraws_when_closed(clock: FakeClock, at: str) -> None:
    gate, database = Stuck(), Database(clock)
    rig = Rig(clock, FakeSource(clock), gate=gate, verify=database)
    if at == "turn":
        gate.open.clear()
    if at == "fetch":
        rig.source.script = lambda n: 5.0
    if at == "trial":
        database.takes = 5.0

    async with rig.running() as task:
        await clock.advance(1)
        assert (rig.served is not None) == (at == "sleep")
        task.cancel()
        await settle()
        assert task.done()
        assert await rig.poller.close(1.0) == []

    assert rig.served is None
    assert rig.cache.status(ROLE).phase is Phase.STOPPED
    assert rig.poller.held() == ()


async def test_closed_before_it_ran_it_leaves_nothing(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), lazy=True)

    assert await rig.poller.close(1.0) == []

    rig.cache.demand(ROLE, clock.now())
    assert rig.cache.status(ROLE).phase is Phase.STOPPED


async def test_after_a_standstill_one_look_is_made_and_the_value_is_served(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock), interval=60)

    async with rig.running():
        clock.suspend(3600)
        assert rig.poller.overdue(clock.now()) > 3500
        rig.poller.recheck()
        await settle()
        assert rig.served is not None
        assert rig.poller.overdue(clock.now()) == 0.0

    assert len(rig.source.looks) == 2


async def test_its_repr_tells_how_it_is_and_no_secret(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock))

    async with rig.running():
        assert repr(rig.poller) == f"Poller({ROLE}, fresh, failures=0)"


async def test_what_is_told_is_moved_on_before_it_could_run_out(clock: FakeClock) -> None:
    """A busy machine's timers are late: there are seconds left whenever the end is moved."""
    rig = Rig(clock, FakeSource(clock), interval=60)
    least = math.inf

    async with rig.running():
        rig.source.script = lambda n: DOWN
        for _ in range(1000):
            await clock.advance(0.5)
            least = min(least, rig.remaining)

    assert least >= LEAD - 0.5


async def test_an_unknown_path_is_told_at_once_and_tried_slowly(clock: FakeClock) -> None:
    rig = Rig(clock, FakeSource(clock, script=lambda n: NotFound("secret/data/app: no such path")))

    async with rig.running():
        assert rig.failed == ["secret/data/app: no such path"]
        await clock.advance(600)

    assert len(rig.source.looks) <= 20
