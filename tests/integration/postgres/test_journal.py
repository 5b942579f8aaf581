"""What the journal lets an agent know of all leases, whoever holds them: the cap, the counts, the list."""

import asyncio

import pytest

from agent.config.model import Duration
from agent.engines.postgres.journal import Search, Tally
from agent.errors import RateLimited, UpstreamError
from agent.leases.lease import Grant
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh, username

OTHER = "database/creds/other"


async def issued(site: Site, count: int, *, most: int, engines: int) -> tuple[list[Grant], list[UpstreamError]]:
    """Try `count` issues at once, over some engines with holders of their own."""
    role = site.role(max_leases=most)
    makers = [site.engine({ROLE: role}, holder=f"pod-{n}") for n in range(engines)]
    for maker in makers:
        await maker.ping()
    outcomes = await asyncio.gather(
        *(makers[n % engines].issue(ROLE, fresh()) for n in range(count)), return_exceptions=True
    )
    return (
        [each for each in outcomes if isinstance(each, Grant)],
        [each for each in outcomes if isinstance(each, UpstreamError)],
    )


async def test_no_lease_is_issued_beyond_max_leases_however_many_ask_at_once(site: Site):
    """R003-119: exact over all holders."""
    grants, refusals = await issued(site, 12, most=5, engines=3)

    assert (len(grants), len(refusals)) == (5, 7)
    assert site.users() == {username(grant) for grant in grants}
    assert site.rows() == 5
    assert {type(each) for each in refusals} == {RateLimited}
    assert not any(each.unreachable or each.outcome_unknown for each in refusals)
    (text,) = {str(each) for each in refusals}
    assert text.startswith(f"postgresql: issue {ROLE}: max_leases = 5 leases of this role live already")


@NEWEST
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_lease_that_has_ended_makes_room(site: Site, how: str):
    engine = site.engine({ROLE: site.role(max_leases=2), OTHER: site.role(max_leases=2)})
    first, _ = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    await engine.issue(OTHER, fresh())
    with pytest.raises(RateLimited):
        await engine.issue(ROLE, fresh())

    if how == "revoked":
        await engine.revoke(first.id)
    else:
        site.expire(first)

    await engine.issue(ROLE, fresh())
    await engine.issue(OTHER, fresh())


@NEWEST
async def test_a_refusal_by_max_leases_cleans_up_after_nothing(site: Site):
    """The role's own rollback statements are for a user that was begun."""
    role = site.role(max_leases=2, rollback_statements=("CREATE SCHEMA rolled_back",))
    engine = site.engine({ROLE: role})
    for _ in range(2):
        await engine.issue(ROLE, fresh())

    with pytest.raises(RateLimited):
        await engine.issue(ROLE, fresh())

    assert not site.database.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'rolled_back'")


async def test_a_sweep_counts_each_role_and_says_what_it_has_ended(site: Site):
    """R003-091."""
    roles = {ROLE: site.role(), OTHER: site.role()}
    engine, another = site.engine(roles, holder="pod-1"), site.engine(roles, holder="pod-2", incarnation=9)
    revoked, expired, stuck, live = [await another.issue(ROLE, fresh()) for _ in range(4)]
    await engine.issue(OTHER, fresh())
    await another.revoke(revoked.id)
    site.database.execute(f'ALTER ROLE "{username(stuck)}" SUPERUSER')
    for each in (expired, stuck):
        site.expire(each)

    swept = await engine.sweep()

    (ended,) = swept.ended
    assert (ended.id, ended.username, ended.holder, ended.incarnation) == (expired.id, username(expired), "pod-2", 9)
    assert swept.tallies == (
        Tally(role=ROLE, active=1, overdue=1, failed=1, revoked=2),
        Tally(role=OTHER, active=1),
    )
    assert live.id not in swept.expired


@NEWEST
async def test_the_journal_is_listed_with_the_servers_time_and_cut_where_it_is_long(site: Site):
    """R003-010, R000-034."""
    engine = site.engine(holder="pod-1")
    grants = [await engine.issue(ROLE, fresh()) for _ in range(3)]
    await engine.revoke(grants[0].id)

    whole = await site.engine(holder="pod-2").find(Search(state="unrevoked"))
    part = await engine.find(Search(most=2))
    none = await engine.find(Search(prefix="database/creds/app"))

    assert [row.id for row in whole.rows] == [grants[2].id, grants[1].id]
    assert {row.holder for row in whole.rows} == {"pod-1"}
    assert all(0 < row.expires - whole.now <= 61 for row in whole.rows)
    assert (whole.cut, part.cut, len(part.rows)) == (False, True, 2)
    assert none.rows == ()


@NEWEST
async def test_a_cap_does_not_slow_down_other_roles(site: Site):
    """The lock that makes the count exact is of no account to a role without a cap."""
    roles = {ROLE: site.role(max_leases=5), OTHER: site.role()}
    engine = site.engine(roles, connect_timeout=Duration(5))
    await engine.ping()
    with superuser(site.database.cluster, site.database.dbname) as conn, conn.transaction():
        conn.execute("LOCK TABLE leasehold.lease IN SHARE UPDATE EXCLUSIVE MODE")

        await asyncio.wait_for(engine.issue(OTHER, fresh()), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.issue(ROLE, fresh()), 1)
