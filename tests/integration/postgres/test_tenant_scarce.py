"""What a server has only so many of: a hostile tenant takes all connections, all locks, or a place in everybody's way.

Where PostgreSQL itself lets any user stop the whole server, our calls end in time and say so; all goes on afterwards.
"""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

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
from tests.integration.postgres.tenant import SOON, others_live_on

GUARD = Path(__file__).parents[3] / "deploy" / "postgresql" / "guard.sql"


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
