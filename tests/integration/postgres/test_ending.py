"""Revocation against everything a user can leave behind or do to stay."""

import asyncio
import contextlib
import threading
import time

import psycopg
import pytest
from psycopg import sql

from agent.config.model import Duration
from agent.errors import Forbidden, Unavailable
from agent.failpoints import Failpoint, armed
from agent.leases.lease import Grant
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, eventually, fresh, lease, username

FREE = ("CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",)


def own_schema(site: Site) -> str:
    """A schema where the group may create."""
    site.as_admin("CREATE SCHEMA app", f'GRANT ALL ON SCHEMA app TO "{site.database.group}"')
    return "app"


def as_itself(site: Site, grant: Grant) -> "psycopg.Connection[tuple[object, ...]]":
    """A session in which the user has left its group."""
    session = site.log_in(grant)
    session.execute("SET ROLE NONE")
    return session


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


async def test_what_an_application_creates_outlives_its_user(any_site: Site):
    """R000-018: it belongs to the group from the first moment."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with any_site.log_in(grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute(f"INSERT INTO {schema}.made VALUES (7)")

    await engine.revoke(grant.id)

    assert any_site.database.execute(f"SELECT n FROM {schema}.made") == [(7,)]
    owner = any_site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'")
    assert owner == [(any_site.database.group,)]
    assert not any_site.exists(grant)


async def test_what_a_user_created_as_itself_goes_to_its_group_and_never_to_the_admin(any_site: Site):
    """R000-018: a SECURITY DEFINER function of the user would else run with the admin's rights."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n serial)")
        session.execute(f"CREATE VIEW {schema}.seen AS SELECT * FROM {schema}.made")
        session.execute(f"CREATE TYPE {schema}.kind AS ENUM ('a')")
        session.execute(f"CREATE FUNCTION {schema}.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")

    await engine.revoke(grant.id)

    owners = any_site.database.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'app'::regnamespace"
        " UNION SELECT pg_get_userbyid(typowner) FROM pg_type WHERE typname = 'kind'"
    )
    assert owners == [(any_site.database.group,)]
    assert not any_site.exists(grant)


async def test_without_a_group_it_goes_to_a_role_that_nobody_is(any_site: Site):
    any_site.database.execute("CREATE SCHEMA app")
    creation = (*FREE, 'GRANT ALL ON SCHEMA app TO "{{name}}"')
    any_site.database.execute(f'GRANT ALL ON SCHEMA app TO "{any_site.user}" WITH GRANT OPTION')
    engine = any_site.engine({ROLE: any_site.role(group=None, creation_statements=creation)})
    for _ in range(2):
        grant = await engine.issue(ROLE, fresh())
        with any_site.log_in(grant) as session:
            session.execute(f"CREATE TABLE app.t_{username(grant)} (n int)")

        await engine.revoke(grant.id)

        assert not any_site.exists(grant)
    owners = any_site.database.execute("SELECT tableowner FROM pg_tables WHERE schemaname = 'app'")
    assert owners == [("leasehold_orphaned",)] * 2
    assert any_site.database.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'leasehold_orphaned'") == [
        (False,)
    ]


@pytest.mark.parametrize("planted", ["LOGIN", "NOLOGIN"])
async def test_an_heir_that_somebody_could_be_gets_nothing(site: Site, planted):
    site.database.execute(f"CREATE ROLE leasehold_orphaned {planted}")
    if planted == "NOLOGIN":
        site.database.execute("CREATE ROLE neighbour NOLOGIN")
        site.database.execute("GRANT leasehold_orphaned TO neighbour")
    site.database.execute("CREATE SCHEMA app")
    site.database.execute(f'GRANT ALL ON SCHEMA app TO "{site.user}" WITH GRANT OPTION')
    creation = (*FREE, 'GRANT ALL ON SCHEMA app TO "{{name}}"')
    engine = site.engine({ROLE: site.role(group=None, creation_statements=creation)})
    grant = await engine.issue(ROLE, fresh())
    with site.log_in(grant) as session:
        session.execute("CREATE TABLE app.made (n int)")

    with pytest.raises(Forbidden, match="role leasehold_orphaned has LOGIN, another attribute or members"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    assert site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [(username(grant),)]


async def test_a_session_with_a_temporary_table_does_not_keep_its_user(any_site: Site):
    """R000-019."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = as_itself(any_site, grant)
    session.execute("CREATE TEMP TABLE mine (n int)")

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    session.close()


async def test_rights_and_objects_in_a_second_database_are_cleared(any_site: Site):
    """D-20: DROP OWNED sees one database only."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    user, group = sql.Identifier(username(grant)), sql.Identifier(any_site.database.group)
    with any_site.neighbour("b") as other:
        other.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(any_site.user)))
        other.execute("CREATE SCHEMA app")
        other.execute(sql.SQL("GRANT ALL ON SCHEMA app TO {}, {}").format(user, group))
        with any_site.log_in(grant, other.info.dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("CREATE TABLE app.made (n int)")

        await engine.revoke(grant.id)

        owner = other.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'").fetchall()
    assert owner == [(any_site.database.group,)]
    assert not any_site.exists(grant)


@NEWEST
async def test_a_second_database_the_admin_may_not_enter_is_named(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    with site.neighbour("b") as other:
        other.execute("CREATE SCHEMA app")
        other.execute(f'GRANT ALL ON SCHEMA app TO "{username(grant)}"')
        name = other.info.dbname
        other.execute(f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
        other.execute(f'ALTER DATABASE "{name}" OWNER TO postgres')

        with pytest.raises(Forbidden, match=f"into database {name}: GRANT CONNECT"):
            await engine.revoke(grant.id)

        other.execute(f'DROP OWNED BY "{username(grant)}"')
        await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_default_privileges_do_not_keep_a_user(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with superuser(any_site.database.cluster, any_site.database.dbname) as conn:
        conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(any_site.user)))
        conn.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}").format(sql.Identifier(username(grant)))
        )

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)


async def test_a_prepared_transaction_that_is_in_the_way_is_named(any_site: Site):
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute("BEGIN")
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute("PREPARE TRANSACTION 'two\nphase'")

    with pytest.raises(Unavailable, match=r"two\?phase in database t[0-9a-f]+; COMMIT PREPARED or ROLLBACK") as caught:
        await engine.revoke(grant.id)

    assert username(grant) not in str(caught.value)
    with pytest.raises(psycopg.OperationalError):
        any_site.log_in(grant)
    any_site.database.execute("ROLLBACK PREPARED 'two\nphase'")
    assert (await engine.sweep()).reaped == 1
    assert not any_site.exists(grant)


async def test_a_table_locked_by_somebody_else_delays_only_the_drop(site: Site):
    schema = own_schema(site)
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
    with superuser(site.database.cluster, site.database.dbname) as reader, reader.transaction():
        reader.execute(f"SELECT * FROM {schema}.made")

        with pytest.raises(Unavailable, match="LockNotAvailable"):
            await engine.revoke(grant.id)

        with pytest.raises(psycopg.OperationalError):
            site.log_in(grant)
    await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_rights_from_another_grantor_are_said_to_remain(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute(f'GRANT SELECT ON reports TO "{username(grant)}"')

    with pytest.raises(Forbidden, match="granted by another role than the agent's own"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    site.database.execute(f'REVOKE SELECT ON reports FROM "{username(grant)}"')
    await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_rights_that_the_group_gave_are_taken_back(any_site: Site):
    """A session of one user may, as their group, give rights on the group's tables to another."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    giver, taker = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    with any_site.log_in(giver) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute(f'GRANT ALL ON {schema}.made TO "{username(taker)}"')

    await engine.revoke(taker.id)

    assert not any_site.exists(taker)


async def test_an_admin_without_its_group_s_rights_takes_them_when_they_are_needed(site: Site):
    """D-35: CREATEROLE is enough before 16; from 16 on the ADMIN option is, although it gives no rights by itself."""
    group, major = site.database.group, site.database.cluster.major
    site.database.execute(f'REVOKE "{group}" FROM "{site.user}"')
    if major >= 16:
        site.database.execute(f'GRANT "{group}" TO "{site.user}" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE')
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.as_admin("CREATE SCHEMA app", f'GRANT ALL ON SCHEMA app TO "{group}", "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute("CREATE TABLE app.made (n int)")
        session.execute("CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")

    await engine.revoke(grant.id)

    assert site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [(group,)]
    assert not site.exists(grant)


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


# -- the sweep


async def test_the_sweep_ends_what_has_expired_with_its_sessions(any_site: Site):
    """R003-120: VALID UNTIL alone lets sessions live on."""
    engine = any_site.engine()
    expired = await engine.issue(ROLE, fresh())
    living = await engine.issue(ROLE, fresh())
    session = any_site.log_in(expired)
    any_site.expire(expired)

    swept = await any_site.engine(holder="another").sweep()

    assert (swept.reaped, swept.failed, swept.strangers) == (1, (), 0)
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
