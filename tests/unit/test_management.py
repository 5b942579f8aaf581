"""What operators are told beyond the agent's own leases."""

import asyncio
from typing import Any, cast

import pytest

from agent.config.model import Config, Role
from agent.engines.postgres import PostgresEngine
from agent.engines.postgres.journal import Page, Row, Search
from agent.errors import Unavailable
from agent.leases.circuit import Circuit
from agent.management import Management
from agent.parts import Parts
from tests.fakes import FakeClock

ROLE = "database/creds/app"


class Looks:
    """An engine whose journal answers after `delay` seconds."""

    def __init__(self, clock: FakeClock, delay: float = 0.0) -> None:
        self.clock = clock
        self.delay = delay
        self.asked: list[Search] = []

    async def find(self, search: Search) -> Page:
        self.asked.append(search)
        if self.delay:
            await self.clock.sleep(self.delay)
        return Page(rows=(row("live", 50.0), row("late", -5.0)), now=1000.0, cut=True)


def row(lease_id: str, left: float) -> Row:
    plain: dict[str, Any] = {"issued": 900.0, "max_expires": 2000.0, "requested_ttl": 60.0, "granted_ttl": 60.0}
    return Row(
        id=lease_id,
        role=ROLE,
        username="u",
        holder="web-9",
        incarnation=3,
        expires=1000.0 + left,
        revoked_at=None,
        **plain,
    )


def managed(clock: FakeClock, engine: Looks) -> Management:
    parts = Parts(journals={"db": cast(PostgresEngine, engine)}, circuits={"db": Circuit("db", limit=1)})
    return Management(Config(role={ROLE: Role(upstream="db")}), parts, holder="web-0", clock=clock)


async def test_a_journal_is_told_by_the_servers_clock(clock: FakeClock) -> None:
    engine = Looks(clock)

    shelf = await managed(clock, engine).holdings.journal("db", "database", 5)

    assert engine.asked == [Search(prefix="database", state="unrevoked", most=5)]
    assert [(each.lease_id, each.state, each.remaining, each.owner) for each in shelf.leases] == [
        ("live", "active", 50.0, "web-9"),
        ("late", "overdue", -5.0, "web-9"),
    ]
    assert shelf.cut


async def test_a_journal_that_does_not_answer_is_given_up(clock: FakeClock) -> None:
    looking = asyncio.create_task(cast(Any, managed(clock, Looks(clock, 1000.0)).holdings.journal("db", "", 5)))
    await clock.advance(10.0)

    with pytest.raises(Unavailable, match="db: journal: no answer in time"):
        await looking


async def test_there_is_no_journal_of_an_unknown_upstream(clock: FakeClock) -> None:
    with pytest.raises(KeyError):
        await managed(clock, Looks(clock)).holdings.journal("other", "", 5)


async def test_without_an_audit_log_nothing_is_kept(clock: FakeClock) -> None:
    management = managed(clock, Looks(clock))
    await management.start()
    await management.close(1.0)

    assert management.trail is None
    assert management.holdings.beyond() == {"journals": {}, "journals_by_role": {}, "audit": "off"}


def test_the_owner_is_the_configured_holder_or_the_host(clock: FakeClock) -> None:
    parts = Parts()

    assert Management(Config(), parts, holder="web-0", clock=clock).owner == "web-0"
    assert Management(Config(), parts, holder=None, clock=clock).owner
