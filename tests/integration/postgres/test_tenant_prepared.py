"""Prepared transactions of a lease's user: what keeps it able to log in is rolled back, the rest is named (ADR 6)."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
import structlog

from agent.errors import LeaseGone, Unavailable
from agent.leases.lease import Grant
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, as_itself, fresh, lease, own_schema, username


def roll_all_back(site: Site) -> None:
    for gid, dbname in site.database.execute("SELECT gid, database FROM pg_prepared_xacts"):
        with superuser(site.database.cluster, dbname) as conn, contextlib.suppress(psycopg.Error):
            conn.execute(f"ROLLBACK PREPARED '{gid}'")


@pytest.fixture
def kept(site: Site) -> Iterator[None]:
    """Whatever a test leaves prepared is rolled back."""
    yield
    roll_all_back(site)


@pytest.fixture
def kept_anywhere(any_site: Site) -> Iterator[None]:
    """The same, for a test on either kind of admin."""
    yield
    roll_all_back(any_site)


def prepare(site: Site, grant: Grant, *statements: str, gid: str = "kept", owner: str | None = None) -> None:
    """The user runs the statements as itself and prepares their transaction, as itself or as `owner`."""
    with as_itself(site, grant) as session:
        session.execute("BEGIN")
        for statement in statements:
            session.execute(statement.encode())
        if owner is not None:
            session.execute(f'SET ROLE "{owner}"'.encode())
        session.execute(f"PREPARE TRANSACTION '{gid}'".encode())


def prepared(site: Site) -> list[str]:
    return [
        gid for (gid,) in site.database.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    ]


OWN_PASSWORD = "ALTER ROLE CURRENT_USER PASSWORD 'own'"


@pytest.mark.parametrize("prepared_as", ["itself", "its group", "the marker group"])
async def test_one_that_keeps_the_user_able_to_log_in_is_rolled_back(any_site: Site, prepared_as):
    if prepared_as == "the marker group" and any_site.database.cluster.major >= 16:
        pytest.skip("from PostgreSQL 16 on no user can act as the marker group: test_tenant_powers")
    owner = {"its group": any_site.database.group, "the marker group": "leasehold_lease"}.get(prepared_as)
    engine = any_site.engine()
    grant, other = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)
    memberships = any_site.memberships()
    prepare(any_site, grant, OWN_PASSWORD, gid="it''s", owner=owner)
    prepare(any_site, other, "SELECT 1", gid="innocent", owner=any_site.database.group)

    with structlog.testing.capture_logs() as lines:
        await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    assert prepared(any_site) == ["innocent"]
    assert any_site.memberships() == [one for one in memberships if username(grant) not in one]
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    (said,) = [str(line["warning"]) for line in lines if "prepared" in str(line.get("warning"))]
    assert f"rolled back prepared transaction it's in database {any_site.database.dbname}, which held its role" in said
    assert username(grant) not in said


@NEWEST
async def test_one_in_another_database_is_rolled_back_by_the_sweep(site: Site, kept: None):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    with site.neighbour("b") as other:
        with site.log_in(grant, other.info.dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("BEGIN")
            session.execute(OWN_PASSWORD)
            session.execute("PREPARE TRANSACTION 'far'")
        site.expire(grant)

        swept = await site.engine(holder="another").sweep()

    assert (swept.reaped, swept.failed) == (1, ())
    assert not site.exists(grant)


@NEWEST
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_one_in_a_database_of_another_encoding_is_rolled_back(site: Site, encoding):
    """Its id is no UTF-8, and comes back to the server as it is."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    dbname = f"{site.database.dbname}_other"
    site.database.execute(
        f"CREATE DATABASE {dbname} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        with site.log_in(grant, dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("BEGIN")
            session.execute(OWN_PASSWORD)
            session.execute("SET client_encoding = 'SQL_ASCII'")
            session.execute(b"PREPARE TRANSACTION 'caf\xe9'")

        await engine.revoke(grant.id)

        assert not site.exists(grant)
    finally:
        with superuser(site.database.cluster, dbname) as conn, contextlib.suppress(psycopg.Error):
            conn.execute("SET client_encoding = 'SQL_ASCII'")
            conn.execute(b"ROLLBACK PREPARED 'caf\xe9'")
        site.database.execute(f"DROP DATABASE {dbname}")


@NEWEST
async def test_one_that_is_neither_the_user_s_nor_its_group_s_is_named_and_the_sessions_end(
    any_site: Site, kept_anywhere: None
):
    engine = any_site.engine()
    grant, other = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)
    with superuser(any_site.database.cluster, any_site.database.dbname) as somebody:
        somebody.execute("BEGIN")
        somebody.execute(f'ALTER ROLE "{username(grant)}" CONNECTION LIMIT 7')
        somebody.execute("PREPARE TRANSACTION 'theirs'")
    any_site.expire(grant)
    any_site.expire(other)

    swept = await engine.sweep()

    assert swept.reaped == 1
    (line,) = swept.failed
    assert line == (
        f"postgresql: sweep {ROLE}: its user can still log in, for its role is held by prepared transaction theirs in "
        f"database {any_site.database.dbname}; COMMIT PREPARED or ROLLBACK PREPARED it as a superuser"
    )
    assert (await engine.sweep()).failed == (line,), "it is named at every sweep"
    assert prepared(any_site) == ["theirs"]
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(LeaseGone):
        await engine.renew(lease(grant), 60.0)
    any_site.database.execute("ROLLBACK PREPARED 'theirs'")
    await engine.revoke(grant.id)
    assert not any_site.exists(grant)


async def test_a_user_that_also_gave_itself_to_our_login_can_at_least_log_in_no_longer_than_its_lease(
    site: Site, kept: None
):
    """Before PostgreSQL 15 a user may GRANT itself: prepared, that keeps its rights from us. Later ones refuse it."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    gift = f'GRANT "{username(grant)}" TO "{site.user}"'
    if site.database.cluster.major >= 15:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            prepare(site, grant, gift)
        return
    ends = site.database.execute("SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s", username(grant))
    prepare(site, grant, OWN_PASSWORD, gift)

    with pytest.raises(Unavailable, match="can still log in, for its role is held by prepared transaction kept in "):
        await engine.revoke(grant.id)

    left = site.database.execute("SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s", username(grant))
    assert left == ends
    site.database.execute("ROLLBACK PREPARED 'kept'")
    await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_one_that_only_keeps_its_rights_from_us_does_not_keep_it_able_to_log_in(site: Site, kept: None):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    if site.database.cluster.major >= 15:
        prepare(site, grant, "SELECT 1")
    else:
        prepare(site, grant, f'GRANT "{username(grant)}" TO "{site.user}"')

    with pytest.raises(Unavailable, match=r"log in no more, .*prepared transactions? .*kept in database"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        site.log_in(grant)
    site.database.execute("ROLLBACK PREPARED 'kept'")
    await engine.revoke(grant.id)
    assert not site.exists(grant)


@NEWEST
async def test_one_with_data_that_does_not_keep_it_able_to_log_in_is_left_to_people(site: Site, kept: None):
    schema = own_schema(site)
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    with site.log_in(grant) as session:
        session.execute(f"CREATE TABLE {schema}.orders (n int)")
    prepare(
        site, grant, f'SET ROLE "{site.database.group}"', f"INSERT INTO {schema}.orders VALUES (7)", "SET ROLE NONE"
    )

    with pytest.raises(Unavailable, match="can log in no more, but prepared transactions keep it: kept in database"):
        await engine.revoke(grant.id)

    site.database.execute("COMMIT PREPARED 'kept'")
    await engine.revoke(grant.id)
    assert site.database.execute(f"SELECT n FROM {schema}.orders") == [(7,)]
    assert not site.exists(grant)


@NEWEST
async def test_one_of_a_sibling_that_holds_the_user_s_role_is_named(site: Site, kept: None):
    """A sibling can give the user something, as their group, and prepare that: the role cannot go."""
    schema = own_schema(site)
    engine = site.engine()
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    with site.log_in(sibling) as giver:
        giver.execute(f"CREATE TABLE {schema}.made (n int)")
        giver.execute("BEGIN")
        giver.execute(f'GRANT ALL ON {schema}.made TO "{username(grant)}"')
        giver.execute("PREPARE TRANSACTION 'gift'")

    with pytest.raises(Unavailable, match=f"prepared transaction gift in database {site.database.dbname}"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    site.database.execute("ROLLBACK PREPARED 'gift'")
    await engine.revoke(grant.id)
    assert not site.exists(grant)


@NEWEST
async def test_who_holds_the_role_in_a_session_is_named(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.expire(grant)
    with superuser(site.database.cluster, site.database.dbname) as somebody, somebody.transaction():
        somebody.execute(f'ALTER ROLE "{username(grant)}" CONNECTION LIMIT 7')
        where = f"process {somebody.info.backend_pid} in database {site.database.dbname}"

        swept = await engine.sweep()

    (line,) = swept.failed
    assert line.endswith(f"its user can still log in, for its role is held by {where}; end that transaction")
