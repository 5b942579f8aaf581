from dataclasses import replace

from agent.dev import feed
from agent.dev.feed import Look
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from tests.unit.leases.builders import ROLE, grant, lease

FRESH = RoleStatus(phase=Phase.FRESH, next_step="renew", next_at=1040.0, draining=1)


def look(*, id: str = "a", now: float = 1000.0, users: dict[str, str] | None = None) -> Look:
    held = lease(ttl=60, at=1000.0, id=id)
    snapshot = LeaseCache([ROLE]).publish(ROLE, held, until=1057.0, verified=True, now=1000.0, wall=1e9 + ord(id))
    return Look(now=now, wall=1e9, snapshot=snapshot, status=FRESH, users=users)


def said(before: Look | None, after: Look) -> list[str]:
    return [line.split("  ", 1)[1] for line in feed.happened(before, after)]


def test_a_first_credential_is_announced() -> None:
    assert said(None, look()) == ["published: u, 60 s left, its login was verified first"]


def test_a_replacement_and_the_end_of_the_old_user_are_announced() -> None:
    before = look(users={"v_old": "12:00:00"})
    after = look(id="b", users={"v_new": "12:01:00"})

    assert said(before, after) == [
        "replaced, the old user drains: u, 60 s left, its login was verified first",
        "gone from pg_roles: v_old",
    ]


def test_a_renewal_is_announced() -> None:
    before = look()
    assert before.snapshot is not None
    renewed = before.snapshot.lease.renewed(grant(ttl=60, id="a"), granted_at=1040.0, answered_at=1040.1, jitter=0.0)
    after = replace(before, now=1041.0, snapshot=replace(before.snapshot, lease=renewed))

    assert said(before, after) == ["renewed: u, 59 s left"]


def test_failures_and_their_consequence_are_announced() -> None:
    before = look()
    status = RoleStatus(phase=Phase.FAILING, error="refused")

    assert said(before, replace(before, status=status)) == ["failing: refused"]
    assert said(before, replace(before, status=status, snapshot=None)) == [
        "nothing to serve: refused",
        "failing: refused",
    ]


def test_an_orderly_stop_is_no_loss() -> None:
    before = look()

    assert said(before, replace(before, status=RoleStatus(phase=Phase.STOPPED), snapshot=None)) == []


def test_nothing_new_says_nothing() -> None:
    assert said(look(), look(now=1001.0)) == []


def test_the_table_counts_down_and_shows_pg_roles() -> None:
    lines = feed.table(ROLE, look(now=1010.0, users={"v_x": "12:00:00"}))

    assert lines[1].split() == [ROLE, "fresh", "u", "50", "s", "renew", "30", "s", "1"]
    assert lines[3] == "pg_roles: 1 leased user"
    assert lines[4] == "  v_x  valid until 12:00:00"


def test_a_server_that_does_not_answer_is_said() -> None:
    assert feed.table(ROLE, replace(look(), snapshot=None, users=None))[-1] == "pg_roles: the server does not answer"
