"""Revocation: whom it stops, what it refuses to touch, and what happens when it dies on the way."""

import asyncio
import contextlib
import threading
import time

import psycopg
import pytest
import structlog

from agent.errors import Forbidden
from agent.failpoints import Failpoint, armed
from agent.log import Event
from tests.integration.postgres.site import (
    NEWEST,
    ROLE,
    Site,
    as_itself,
    eventually,
    fresh,
    lease,
    username,
)


async def test_an_open_session_ends_within_a_second(any_site: Site):
    """R003-040, R003-117: the sessions of a dropped role would go on."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)
    began = time.monotonic()

    await engine.revoke(grant.id)

    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    assert time.monotonic() - began < 1.0


async def test_a_session_in_the_middle_of_a_query_ends(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)
    busy = asyncio.create_task(asyncio.to_thread(session.execute, "SELECT pg_sleep(30)"))
    await eventually(
        lambda: bool(any_site.database.execute("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)'")), 2.0
    )

    await engine.revoke(grant.id)

    with pytest.raises(psycopg.errors.AdminShutdown):
        await busy
    assert not any_site.exists(grant)


async def test_a_client_that_reconnects_in_a_loop_does_not_keep_its_user(any_site: Site):
    """D-21."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    stop = threading.Event()
    logins = 0

    def reconnect() -> None:
        nonlocal logins
        while not stop.is_set():
            with contextlib.suppress(psycopg.Error), any_site.log_in(grant) as session:
                logins += 1
                session.execute("SELECT 1")

    clients = [threading.Thread(target=reconnect) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await engine.revoke(grant.id)
        took = time.monotonic() - began
        left = any_site.database.execute("SELECT 1 FROM pg_stat_activity WHERE usename LIKE 'v\\_app%%'")
    finally:
        stop.set()
        for client in clients:
            await asyncio.to_thread(client.join)

    assert logins > 0
    assert took < 2.0
    assert not any_site.exists(grant)
    assert left == []


async def test_a_user_that_left_the_marker_group_is_not_touched(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute(
        f'REVOKE leasehold_lease FROM "{username(grant)}" CASCADE'
        if site.database.cluster.major < 16
        else f'REVOKE leasehold_lease FROM "{username(grant)}" GRANTED BY "{site.user}"'
    )

    with pytest.raises(Forbidden, match="taken out of leasehold_lease"):
        await engine.revoke(grant.id)

    site.log_in(grant).close()


async def test_a_user_that_became_a_superuser_is_not_touched(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.database.execute(f'ALTER ROLE "{username(grant)}" SUPERUSER')

    with pytest.raises(Forbidden, match="made a superuser"):
        await engine.revoke(grant.id)

    assert any_site.exists(grant)


@NEWEST
async def test_a_user_that_somebody_dropped_is_marked_as_gone(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute(f'DROP ROLE "{username(grant)}"')

    await engine.revoke(grant.id)

    (row,) = await engine.list(live_only=False)
    assert row.revoked_at is not None


async def test_a_user_that_changed_its_own_settings_is_revoked(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    with as_itself(site, grant) as session:
        session.execute(f"ALTER ROLE \"{username(grant)}\" PASSWORD 'own'")
        session.execute(f'ALTER ROLE "{username(grant)}" SET role = none')
        session.execute(f'ALTER ROLE "{username(grant)}" SET search_path = evil')

    await engine.revoke(grant.id)

    assert not site.exists(grant)


@pytest.mark.parametrize(
    "point",
    [Failpoint.REVOKE_LOCKED, Failpoint.REVOKE_NOLOGIN, Failpoint.REVOKE_TERMINATED, Failpoint.REVOKE_DROPPED],
)
async def test_a_revocation_that_dies_on_the_way_is_finished_by_another_agent(site: Site, point):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())

    def die() -> None:
        raise KeyboardInterrupt

    with armed(point, die), pytest.raises(KeyboardInterrupt):
        await engine.revoke(grant.id)

    other = site.engine(holder="another")
    if point is Failpoint.REVOKE_LOCKED:
        site.log_in(grant).close()
        site.expire(grant)
    else:
        with pytest.raises(psycopg.OperationalError):
            site.log_in(grant)
    assert (await other.sweep()).reaped == 1
    assert not site.exists(grant)


@NEWEST
async def test_a_lease_whose_revocation_has_begun_is_renewed_no_more(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())

    def die() -> None:
        raise KeyboardInterrupt

    with armed(Failpoint.REVOKE_NOLOGIN, die), pytest.raises(KeyboardInterrupt):
        await engine.revoke(grant.id)

    with pytest.raises(Exception, match="revoked or has expired"):
        await engine.renew(lease(grant), 60.0)


@NEWEST
async def test_two_agents_that_revoke_at_once_both_succeed(site: Site):
    one, two = site.engine(), site.engine()
    grants = [await one.issue(ROLE, fresh()) for _ in range(5)]

    for grant in grants:
        await asyncio.gather(one.revoke(grant.id), two.revoke(grant.id))

    assert site.users() == set()


@NEWEST
async def test_that_the_default_revocation_serves_is_said_once_per_role(site: Site):
    """R003-039."""
    own = site.role(revocation_statements=("SELECT '{{name}}'",))
    engine = site.engine({"one": site.role(), "two": site.role(), "own": own})

    with structlog.testing.capture_logs() as lines:
        for role in ("one", "one", "two", "own"):
            await engine.revoke((await engine.issue(role, fresh())).id)

    said = [line for line in lines if "revocation_statements" in str(line.get("reason"))]
    assert [(line["event"], line["log_level"], line["role"]) for line in said] == [
        (Event.UPSTREAM, "info", "one"),
        (Event.UPSTREAM, "info", "two"),
    ]
