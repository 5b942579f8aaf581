"""A hostile tenant cannot stop the others' leases: they are issued, renewed, revoked and swept as quickly as ever.

Where PostgreSQL itself lets any user stop the whole server, our calls end in time and say so; all goes on afterwards.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.engines.postgres import PostgresEngine
from agent.errors import Unavailable
from agent.leases.lease import Grant
from tests.fix_postgres import StartCluster, create_database, superuser
from tests.integration.postgres.site import (
    NEWEST,
    ROLE,
    Site,
    as_itself,
    closing,
    eventually,
    fresh,
    lease,
    own_schema,
    username,
)

GUARD = Path(__file__).parents[3] / "deploy" / "postgresql" / "guard.sql"
SOON = 2.0


async def others_live_on(site: Site, engine: PostgresEngine) -> None:
    """A lease from its issue to its end, and another reaped, each step within the usual time."""
    took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        took[step] = time.monotonic() - began

    with timed("issue"):
        grant = await engine.issue(ROLE, fresh())
    with timed("renew"):
        await engine.renew(lease(grant), 60.0)
    with timed("revoke"):
        await engine.revoke(grant.id)
    expired = await engine.issue(ROLE, fresh())
    site.expire(expired)
    with timed("sweep"):
        swept = await engine.sweep()
    assert swept.reaped == 1
    assert not site.exists(grant)
    assert {step: seconds for step, seconds in took.items() if seconds > SOON} == {}


async def test_locks_snapshots_and_open_transactions_stop_nobody(site: Site):
    """Advisory locks, the view that all may lock, its own role, gifts to everybody, old snapshots, exclusive locks."""
    schema = own_schema(site)
    engine = site.engine()
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    everybody = f'"{site.database.group}", leasehold_lease, "{site.user}", "{username(sibling)}"'
    held: list[list[str]] = [
        ["SELECT pg_advisory_lock(n), pg_advisory_lock(n::int, 0) FROM generate_series(-300, 300) n"],
        ["BEGIN", "LOCK TABLE pg_settings IN ACCESS EXCLUSIVE MODE"],
        ["BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'own'"],
        ["BEGIN", "ALTER ROLE CURRENT_USER SET search_path = evil"],
        ["BEGIN", f"CREATE TABLE {schema}.gift (n int)", f"GRANT ALL ON {schema}.gift TO {everybody}"],
        ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT count(*) FROM pg_roles", "SELECT count(*) FROM pg_auth_members"],
        ["BEGIN", "LOCK TABLE pg_auth_members, pg_database, pg_class IN ACCESS SHARE MODE"],
        ["BEGIN", f"CREATE TABLE {schema}.mine (n int)", f"LOCK TABLE {schema}.mine"],
        ["LISTEN bait", "CREATE TEMP TABLE lease (n int)", "BEGIN", "LOCK TABLE pg_temp.lease"],
    ]
    if site.database.cluster.major < 15:
        held.append(["BEGIN", f'GRANT "{username(grant)}" TO "{site.user}", "{username(sibling)}"'])
    with contextlib.ExitStack() as sessions:
        for statements in held:
            session = sessions.enter_context(contextlib.closing(as_itself(site, grant)))
            for statement in statements:
                session.execute(statement.encode())

        await others_live_on(site, engine)
        await others_live_on(site, site.engine(holder="another"))
        began = time.monotonic()
        await engine.revoke(grant.id)

        assert time.monotonic() - began < 3.0
    assert not site.exists(grant)


async def test_gifts_of_a_tenant_to_our_login_and_its_siblings_are_worth_nothing(site: Site):
    """Before PostgreSQL 15 a user may make others members of itself, and so of what it is a member of."""
    engine = site.engine()
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    gift = f'GRANT "{username(grant)}" TO "{site.user}", "{username(sibling)}" WITH ADMIN OPTION'
    before = [one for one in site.memberships() if username(grant) not in one]
    with as_itself(site, grant) as session:
        if site.database.cluster.major < 15:
            session.execute(gift.encode())
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(gift.encode())

    await engine.revoke(grant.id)

    assert not site.exists(grant)
    assert site.memberships() == before


SETTINGS = {
    "search_path": "evil",
    "role": "none",
    "statement_timeout": "'1ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "transaction_timeout": "'1ms'",
    "idle_session_timeout": "'1ms'",
    "client_encoding": "latin1",
    "datestyle": "german",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "password_encryption": "md5",
    "createrole_self_grant": "''",
    "check_function_bodies": "off",
    "client_min_messages": "error",
    "local_preload_libraries": "evil",
}


@NEWEST
async def test_whatever_a_tenant_sets_for_its_role_changes_nothing_for_ours(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    kept: list[str] = []
    with as_itself(any_site, grant) as session:
        for name, value in SETTINGS.items():
            with contextlib.suppress(psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue):
                session.execute(f"ALTER ROLE CURRENT_USER SET {name} = {value}".encode())
                kept.append(name)
    assert len(kept) > 12

    await engine.renew(lease(grant), 60.0)
    await others_live_on(any_site, engine)
    any_site.expire(grant)

    assert (await engine.sweep()).reaped == 1
    assert not any_site.exists(grant)


@NEWEST
async def test_a_tenant_that_resets_its_settings_is_ended_all_the_same(any_site: Site):
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute("ALTER ROLE CURRENT_USER RESET ALL")
    with any_site.log_in(grant) as session:
        assert session.execute("SELECT current_user").fetchone() == (username(grant),)
        session.execute(f"CREATE TABLE {schema}.made (n int)".encode())

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    owner = any_site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'")
    assert owner == [(any_site.database.group,)]


# -- what the server has only so many of


@pytest.fixture
def small(own_cluster: StartCluster, tmp_path: Path) -> Site:
    """On a server of this test alone, with few connections and locks."""
    cluster = own_cluster(max_connections="25", max_locks_per_transaction="10", autovacuum="off")
    database = create_database(cluster, tmp_path)
    return Site(database=database, user=database.admin, password_file=database.admin_password_file)


def flood(site: Site, grant: Grant) -> list[psycopg.Connection[tuple[Any, ...]]]:
    """As many sessions as the server gives."""
    sessions: list[psycopg.Connection[tuple[Any, ...]]] = []
    with contextlib.suppress(psycopg.OperationalError):
        while len(sessions) < 100:
            sessions.append(site.log_in(grant))
    return sessions


@NEWEST
async def test_a_flood_of_connections_stops_no_agent_that_is_connected_and_ends_with_its_user(small: Site):
    engine, late = small.engine(), small.engine(holder="late")
    async with closing(engine, late):
        grant = await engine.issue(ROLE, fresh())
        sessions = flood(small, grant)
        assert len(sessions) > 10

        with pytest.raises(Unavailable, match=r"refused the login for now \(53300\)"):
            await late.ping()
        other = await engine.issue(ROLE, fresh())
        await engine.renew(lease(other), 60.0)
        await engine.revoke(other.id)
        small.expire(grant)
        swept = await engine.sweep()

        assert (swept.reaped, swept.failed) == (1, ())
        assert not small.exists(grant)
        await late.ping()
        for session in sessions:
            session.close()


@NEWEST
async def test_a_role_s_connection_limit_leaves_room_for_the_others(small: Site):
    limited = small.role(connection_limit=3)
    own = small.role(
        connection_limit=3,
        creation_statements=("CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",),
    )
    engine = small.engine({ROLE: limited, "own": own})
    async with closing(engine):
        for role in (ROLE, "own"):
            grant, other = await engine.issue(role, fresh()), await engine.issue(role, fresh())

            sessions = flood(small, grant)

            assert len(sessions) == 3
            small.log_in(other).close()
            await engine.revoke(grant.id)
            for session in sessions:
                session.close()


@NEWEST
async def test_a_tenant_that_takes_every_lock_of_the_server_is_said_and_outlived(small: Site):
    """PostgreSQL bounds nobody's locks; with all taken not even a superuser can log in or end the session."""
    engine = small.engine()
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        session = as_itself(small, grant)
        for step in (1000, 1):
            with contextlib.suppress(psycopg.errors.OutOfMemory):
                for n in range(0, 1_000_000, step):
                    keys = f"generate_series({n}, {n + step - 1}) g"
                    session.execute(f"SELECT count(pg_advisory_lock({step}, g)) FROM {keys}".encode())
        began = time.monotonic()

        with pytest.raises(Unavailable, match=r"lock table is full .max_locks_per_transaction"):
            await engine.issue(ROLE, fresh())

        assert time.monotonic() - began < SOON
        session.close()
        assert await eventually(lambda: small.database.execute("SELECT count(*) FROM pg_locks")[0][0] < 100, 5.0)
        await others_live_on(small, engine)
        await engine.revoke(grant.id)
        assert not small.exists(grant)


def queue_for_everybody_s_way_in(site: Site, grant: Grant) -> tuple[Any, Any, threading.Thread, list[str]]:
    """One session reads pg_authid in an open transaction, another waits for it: whoever comes after them waits, too."""
    reader, writer = as_itself(site, grant), as_itself(site, grant)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM pg_roles")
    said: list[str] = []

    def wait() -> None:
        try:
            writer.execute("CREATE RULE trap AS ON UPDATE TO pg_catalog.pg_authid DO INSTEAD NOTHING")
        except psycopg.Error as exc:
            said.append(str(exc).splitlines()[0])

    thread = threading.Thread(target=wait)
    thread.start()
    return reader, writer, thread, said


@NEWEST
async def test_a_weaker_lock_queued_there_stops_the_others_no_longer_than_the_tenant_lives(own_site: Site):
    """CREATE TRIGGER, too, takes its lock first. Behind an uncommitted ALTER ROLE, every other waits for it."""
    engine = own_site.engine()
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        with (
            contextlib.closing(as_itself(own_site, grant)) as holder,
            contextlib.closing(as_itself(own_site, grant)) as waiter,
        ):
            holder.execute("BEGIN")
            holder.execute("ALTER ROLE CURRENT_USER PASSWORD 'own'")

            def wait() -> None:
                with contextlib.suppress(psycopg.Error):
                    waiter.execute(
                        "CREATE TRIGGER trap BEFORE UPDATE ON pg_catalog.pg_authid"
                        " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
                    )

            thread = threading.Thread(target=wait)
            thread.start()
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"
            assert await eventually(lambda: bool(own_site.database.execute(waits)), 5.0)
            with pytest.raises(Unavailable, match="LockNotAvailable"):
                await engine.issue(ROLE, fresh())
            own_site.expire(grant)

            swept = await engine.sweep()

            assert (swept.reaped, swept.failed) == (1, ())
            thread.join(5.0)
        await others_live_on(own_site, engine)
        assert not own_site.exists(grant)


@NEWEST
async def test_a_lock_queued_on_the_table_of_roles_ends_our_calls_in_time(own_site: Site):
    """CREATE RULE takes its lock before it looks at rights. Every login of the server waits; SQL cannot end that."""
    engine = own_site.engine()
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        reader, writer, thread, said = queue_for_everybody_s_way_in(own_site, grant)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"  # the reader holds what nobody else gets now
        assert await eventually(lambda: reader.execute(waits).fetchone() == (1,), 5.0)
        began = time.monotonic()

        with pytest.raises(Unavailable, match=r"LockNotAvailable"):
            await engine.issue(ROLE, fresh())

        assert time.monotonic() - began < 2 * SOON
        assert said == []
        reader.close()
        thread.join(10.0)
        writer.close()
        assert said == ['permission denied: "pg_authid" is a system catalog']
        await others_live_on(own_site, engine)
        await engine.revoke(grant.id)
        assert not own_site.exists(grant)


@NEWEST
async def test_the_guard_keeps_lease_users_from_queueing_there(own_site: Site):
    """deploy/postgresql/guard.sql, which a superuser may run in each database."""
    with superuser(own_site.database.cluster, own_site.database.dbname) as conn:
        conn.execute(GUARD.read_bytes())
        conn.execute(GUARD.read_bytes())
    schema = own_schema(own_site)
    engine = own_site.engine()
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        own_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
        reader, writer, thread, said = queue_for_everybody_s_way_in(own_site, grant)
        thread.join(5.0)

        assert said == ["leasehold: lease users may not use CREATE RULE"]
        with own_site.log_in(grant) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("CREATE RULE trap AS ON UPDATE TO pg_catalog.pg_database DO INSTEAD NOTHING")
        own_site.as_admin(
            f"CREATE TABLE {schema}.made (n int)",
            f"CREATE RULE fine AS ON DELETE TO {schema}.made DO INSTEAD NOTHING",
        )
        await others_live_on(own_site, engine)
        reader.close()
        writer.close()
        await engine.revoke(grant.id)
        assert not own_site.exists(grant)
