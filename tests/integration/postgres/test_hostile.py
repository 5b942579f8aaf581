"""A lease's user that does what it may to keep itself, or somebody else who holds what it left."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from agent.errors import Unavailable
from agent.leases.lease import Grant
from tests.fix_postgres import superuser
from tests.integration.postgres.site import (
    NEWEST,
    ROLE,
    Site,
    as_itself,
    eventually,
    fresh,
    lease,
    own_schema,
    username,
)

LOCK_ITSELF = ("BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'own'")


def holding_its_own_role(site: Site, grant: Grant) -> psycopg.Connection[tuple[Any, ...]]:
    """A session of the user with an open transaction that has changed its own role."""
    session = as_itself(site, grant)
    for statement in LOCK_ITSELF:
        session.execute(statement.encode())
    return session


@contextlib.contextmanager
def locking_itself_again_and_again(site: Site, grant: Grant, clients: int) -> Iterator[list[int]]:
    """Clients that take that lock, and take it again whenever they are thrown out; yields one entry per time."""
    stop, taken = threading.Event(), list[int]()

    def client() -> None:
        while not stop.is_set():
            with contextlib.suppress(psycopg.Error), as_itself(site, grant) as session:
                # The password stays what it is: the transaction never ends well.
                for statement in LOCK_ITSELF:
                    session.execute(statement.encode())
                taken.append(1)
                session.execute("SELECT pg_sleep(30)")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield taken
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def test_a_user_that_holds_a_lock_on_its_own_role_is_revoked(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = holding_its_own_role(any_site, grant)
    began = time.monotonic()

    await engine.revoke(grant.id)

    assert time.monotonic() - began < 3.0
    assert not any_site.exists(grant)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


async def test_a_user_that_holds_a_lock_on_its_own_role_is_swept(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = holding_its_own_role(any_site, grant)
    any_site.expire(grant)

    swept = await any_site.engine(holder="another").sweep()

    assert (swept.reaped, swept.failed) == (1, ())
    assert not any_site.exists(grant)
    session.close()


async def test_clients_that_take_that_lock_again_and_again_do_not_keep_their_user(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())

    with locking_itself_again_and_again(any_site, grant, clients=4) as taken:
        assert await eventually(lambda: bool(taken), within=5.0)
        await engine.revoke(grant.id)

    assert not any_site.exists(grant)


async def test_a_lock_that_ends_with_a_commit_only_delays(any_site: Site):
    """The server then fails with XX000: somebody else has changed the row."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = holding_its_own_role(any_site, grant)
    timer = threading.Timer(0.1, session.commit)
    timer.start()

    await engine.revoke(grant.id)

    timer.join()
    assert not any_site.exists(grant)
    session.close()


async def test_no_membership_and_no_role_of_the_moment_is_left_of_it(any_site: Site):
    def catalog() -> list[tuple[Any, ...]]:
        roles = any_site.database.execute("SELECT rolname FROM pg_roles ORDER BY 1")
        return roles + any_site.database.execute("SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2")

    engine = any_site.engine()
    await engine.ping()
    before = catalog()
    grant = await engine.issue(ROLE, fresh())
    session = holding_its_own_role(any_site, grant)

    await engine.revoke(grant.id)

    assert catalog() == before
    session.close()


async def test_a_renewal_that_meets_such_a_lock_says_so_in_time_and_holds_nobody_up(any_site: Site):
    engine = any_site.engine()
    grant, other = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    session = holding_its_own_role(any_site, grant)
    began = time.monotonic()

    with pytest.raises(Unavailable, match=r"renew .*: a transaction, most likely its user's own, keeps it from") as no:
        await engine.renew(lease(grant), 60.0)

    assert time.monotonic() - began < 1.5
    assert not no.value.unreachable
    assert username(grant) not in str(no.value)
    await engine.renew(lease(other), 60.0)
    session.rollback()
    await engine.renew(lease(grant), 60.0)
    session.close()


@NEWEST
async def test_a_prepared_transaction_with_a_name_in_another_encoding_is_named_all_the_same(site: Site):
    """The server sends such a name as it is, which is no UTF-8: a user could stop every sweep with that."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    dbname = f"{site.database.dbname}_latin1"
    site.database.execute(f"CREATE DATABASE {dbname} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with site.log_in(grant, dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("BEGIN")
            session.execute("PREPARE TRANSACTION 'caf\u00e9'")
        site.expire(grant)

        swept = await engine.sweep()
    finally:
        with superuser(site.database.cluster, dbname) as conn:
            conn.execute("ROLLBACK PREPARED 'caf\u00e9'")
        site.database.execute(f"DROP DATABASE {dbname}")

    (line,) = swept.failed
    assert f"keep it: caf? in database {dbname};" in line


async def test_who_holds_what_a_user_left_is_named(any_site: Site):
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
    with superuser(any_site.database.cluster, any_site.database.dbname) as reader, reader.transaction():
        reader.execute(f"SELECT * FROM {schema}.made")
        began = time.monotonic()

        pid, dbname = reader.info.backend_pid, any_site.database.dbname
        with pytest.raises(Unavailable, match=f"its user left: process {pid} in database {dbname}; end ") as caught:
            await engine.revoke(grant.id)

        assert time.monotonic() - began < 3.0
    assert username(grant) not in str(caught.value)
    await engine.revoke(grant.id)
    assert not any_site.exists(grant)


async def test_who_holds_it_in_a_second_database_is_named(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with any_site.neighbour("b") as other:
        other.execute(f'SET SESSION AUTHORIZATION "{any_site.user}"')
        other.execute("CREATE SCHEMA app")
        other.execute(f'GRANT ALL ON SCHEMA app TO "{username(grant)}", "{any_site.database.group}"')
        with any_site.log_in(grant, other.info.dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("CREATE TABLE app.made (n int)")
        with superuser(any_site.database.cluster, other.info.dbname) as reader, reader.transaction():
            reader.execute("LOCK TABLE app.made")

            pid, dbname = reader.info.backend_pid, other.info.dbname
            with pytest.raises(Unavailable, match=f"process {pid} in database {dbname}"):
                await engine.revoke(grant.id)

        await engine.revoke(grant.id)
    assert not any_site.exists(grant)


async def test_who_is_giving_rights_to_a_user_is_named(any_site: Site):
    """An uncommitted GRANT holds the role itself; a sibling of the same group may do that as their group."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    with any_site.log_in(sibling) as giver:
        giver.execute(f"CREATE TABLE {schema}.made (n int)")
        giver.execute("BEGIN")
        giver.execute(f'GRANT ALL ON {schema}.made TO "{username(grant)}"')

        with pytest.raises(Unavailable, match=f"process {giver.info.backend_pid} in database"):
            await engine.revoke(grant.id)

        with pytest.raises(psycopg.OperationalError):
            any_site.log_in(grant)
        giver.execute("COMMIT")
    await engine.revoke(grant.id)
    assert not any_site.exists(grant)


@NEWEST
async def test_an_end_that_is_held_up_lets_others_end(site: Site):
    schema = own_schema(site)
    engine = site.engine()
    stuck, fine = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    for grant in (stuck, fine):
        site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
        with as_itself(site, grant) as session:
            session.execute(f'CREATE TABLE {schema}."{username(grant)}" (n int)')
    with superuser(site.database.cluster, site.database.dbname) as reader, reader.transaction():
        reader.execute(f'SELECT * FROM {schema}."{username(stuck)}"')

        with pytest.raises(Unavailable):
            await engine.revoke(stuck.id)
        await engine.revoke(fine.id)

    assert not site.exists(fine)
