"""The sweep: it ends what has expired, whoever minted it, and nothing else."""

import asyncio
import contextlib
import time

import psycopg
import pytest

from agent.config.model import Duration
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, as_itself, fresh, lease, own_schema, username


async def test_the_sweep_ends_what_has_expired_with_its_sessions(any_site: Site):
    """R003-120: VALID UNTIL alone lets sessions live on."""
    engine = any_site.engine()
    expired = await engine.issue(ROLE, fresh())
    living = await engine.issue(ROLE, fresh())
    session = any_site.log_in(expired)
    any_site.expire(expired)

    swept = await any_site.engine(holder="another").sweep()

    assert (swept.reaped, swept.failed, swept.strangers) == (1, (), 0)
    assert swept.expired == {expired.id}
    assert any_site.users() == {username(living)}
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    assert (await engine.sweep()).reaped == 0


@NEWEST
async def test_one_lease_that_cannot_be_ended_does_not_hold_the_sweep_up(site: Site):
    engine = site.engine()
    stuck, fine = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    site.database.execute(f'ALTER ROLE "{username(stuck)}" SUPERUSER')
    site.expire(stuck)
    site.expire(fine)

    swept = await engine.sweep()

    assert swept.reaped == 1
    (line,) = swept.failed
    assert line.startswith(f"postgresql: sweep {ROLE}: its user was made a superuser")
    assert username(stuck) not in line


@NEWEST
async def test_what_could_not_be_ended_before_does_not_hold_up_the_rest(site: Site):
    schema = own_schema(site)
    engine = site.engine()
    stuck, fresher = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(stuck)}"')
    with as_itself(site, stuck) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
    site.expire(stuck)
    site.expire(fresher)
    with superuser(site.database.cluster, site.database.dbname) as reader, reader.transaction():
        reader.execute(f"SELECT * FROM {schema}.made")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await engine.sweep()

    assert site.exists(stuck)
    assert not site.exists(fresher)


@NEWEST
async def test_leases_that_cannot_be_ended_never_keep_the_others_from_their_end(site: Site):
    """Each sweep has ten seconds; whichever order the journal has, innocent leases stand behind stuck ones."""
    engine = site.engine()
    grants = [await engine.issue(ROLE, fresh()) for _ in range(11)]
    innocent, stuck = (grants[0], grants[-1]), grants[1:-1]
    for grant in grants:
        site.expire(grant)
    sweeps, reaped = 0, 0
    with superuser(site.database.cluster, site.database.dbname) as holder, holder.transaction():
        for grant in stuck:
            holder.execute(f'ALTER ROLE "{username(grant)}" CONNECTION LIMIT 7')

        while reaped < len(innocent) and sweeps < 4:
            sweeps += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10.0):
                    swept = await engine.sweep()
                    reaped += swept.reaped

    assert reaped == len(innocent)
    assert len(swept.failed) == len(stuck)
    assert not any(site.exists(grant) for grant in innocent)


@NEWEST
async def test_a_sweep_that_is_cancelled_begins_with_others_next_time(site: Site):
    engine = site.engine()
    late, stuck = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    site.expire(late)
    site.expire(stuck)
    with superuser(site.database.cluster, site.database.dbname) as holder, holder.transaction():
        holder.execute(f'ALTER ROLE "{username(stuck)}" CONNECTION LIMIT 7')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await engine.sweep()
        began = time.monotonic()

        swept = await engine.sweep()

    assert time.monotonic() - began < 0.5
    assert (swept.reaped, swept.failed) == (
        1,
        (f"postgresql: sweep {ROLE}: not ended within 4 s; it is tried again later",),
    )


@NEWEST
async def test_the_sweep_passes_by_what_another_is_ending(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.expire(grant)
    with superuser(site.database.cluster, site.database.dbname) as other, other.transaction():
        other.execute("SELECT 1 FROM leasehold.lease FOR UPDATE")

        began = time.monotonic()
        swept = await engine.sweep()

    assert (swept.reaped, swept.failed) == (0, ())
    assert time.monotonic() - began < 1.5


async def test_agents_that_sweep_at_once_reap_each_lease_once(site: Site):
    engines = [site.engine(holder=f"pod-{n}") for n in range(4)]
    grants = [await engines[0].issue(ROLE, fresh()) for _ in range(12)]
    for grant in grants:
        site.expire(grant)

    swept = await asyncio.gather(*(engine.sweep() for engine in engines))

    assert sum(one.reaped for one in swept) == 12
    assert [line for one in swept for line in one.failed] == []
    assert site.users() == set()


async def test_agents_that_renew_and_sweep_at_once_do_not_collide(site: Site):
    """Two ALTER ROLE at once fail (XX000); the row's lock keeps them apart."""
    one, two = site.engine(), site.engine()
    grant = await one.issue(ROLE, fresh())

    await asyncio.gather(
        *(engine.renew(lease(grant), 60.0 + n) for n in range(10) for engine in (one, two)),
        *(engine.sweep() for engine in (one, two)),
    )

    site.log_in(grant).close()


@NEWEST
async def test_a_role_in_the_marker_group_without_a_row_is_counted_and_left_alone(site: Site):
    engine = site.engine()
    await engine.ping()
    site.database.execute("CREATE ROLE v_app_lookalike LOGIN VALID UNTIL '2001-01-01' IN ROLE leasehold_lease")
    site.database.execute("CREATE ROLE v_app_unmarked LOGIN VALID UNTIL '2001-01-01'")

    swept = await engine.sweep()

    assert (swept.reaped, swept.strangers) == (0, 1)
    assert site.users() == {"v_app_lookalike"}
    assert site.database.execute("SELECT 1 FROM pg_roles WHERE rolname = 'v_app_unmarked'") == [(1,)]


@NEWEST
async def test_rows_past_their_retention_are_forgotten(site: Site):
    engine = site.engine(journal_retention=Duration(3600))
    old, recent, living = [await engine.issue(ROLE, fresh()) for _ in range(3)]
    await engine.revoke(old.id)
    await engine.revoke(recent.id)
    site.database.execute(
        "UPDATE leasehold.lease SET revoked_at = revoked_at - interval '2 hours' WHERE id = %s", old.id
    )

    await engine.sweep()

    assert {row.id for row in await engine.list(live_only=False)} == {recent.id, living.id}


@NEWEST
async def test_a_sweep_tells_the_holder_which_of_its_leases_somebody_revoked(site: Site):
    """R000-036: in an incident the agent is not asked; it must not serve the dead credential until its renewal."""
    one, other = site.engine(holder="one"), site.engine(holder="other")
    mine, theirs, living = [await engine.issue(ROLE, fresh()) for engine in (one, other, one)]
    await site.engine(holder="one", incarnation=2).revoke(mine.id)
    await other.revoke(theirs.id)

    swept = await one.sweep()

    assert swept.expired == {mine.id}
    assert (swept.reaped, swept.failed) == (0, ())
    site.database.execute("UPDATE leasehold.lease SET revoked_at = revoked_at - interval '11 minutes'")
    assert (await one.sweep()).expired == frozenset()
    assert site.exists(living)
