"""A hostile tenant gains nothing: not by asking, not by what it leaves for others to step on, not by its end."""

import contextlib

import psycopg
import pytest

from agent.leases.lease import Grant
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, as_itself, fresh, lease, username
from tests.integration.postgres.tenant import REFUSED, Session, arm, be_generous, caught, powers, words_of


async def test_what_a_tenant_leaves_is_never_run_and_gives_nobody_anything(any_site: Site):
    """Traps in functions, casts, operators, policies, defaults, indexes, views, triggers and rules; issue 4.3."""
    engine = any_site.engine()
    be_generous(any_site)
    sibling = await engine.issue(ROLE, fresh())
    before = powers(any_site)
    grant = await engine.issue(ROLE, fresh())
    session = arm(any_site, grant, sibling)
    any_site.database.execute("TRUNCATE public.caught")

    await engine.renew(lease(grant), 60.0)
    await engine.renew(lease(sibling), 60.0)
    await engine.sweep()
    await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    assert not any_site.exists(grant)
    assert caught(any_site) == []
    after = powers(any_site)
    assert after.memberships == before.memberships
    assert ungranted(after.roles, sibling) == ungranted(before.roles, sibling)
    assert {key: after.objects.get(key) for key in before.objects} == before.objects
    trusted = (any_site.user, any_site.database.admin, any_site.database.cluster.superuser)
    assert after.owned_by(*trusted) == before.owned_by(*trusted)
    made = set(after.objects) - set(before.objects)
    assert len(made) > 30
    assert made <= after.owned_by(any_site.database.group)


def ungranted(roles: frozenset[tuple[object, ...]], sibling: Grant) -> set[tuple[object, ...]]:
    """Without the sibling, whose end the renewal has moved."""
    return {role for role in roles if role[0] != username(sibling)}


async def test_what_a_tenant_may_not_do_is_refused(any_site: Site):
    engine = any_site.engine()
    be_generous(any_site)
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    session = arm(any_site, grant, sibling)
    before = powers(any_site)
    words = words_of(any_site, sibling)

    done = [text for text in REFUSED if not refused(session, text.format(**words))]

    assert done == []
    assert powers(any_site) == before
    session.close()
    await engine.revoke(grant.id)
    assert not any_site.exists(grant)


def refused(session: Session, statement: str) -> bool:
    try:
        session.execute(statement.encode())
    except psycopg.Error:
        return True
    with contextlib.suppress(psycopg.Error):
        session.execute("SET ROLE NONE")
    return False


async def test_a_tenant_cannot_act_as_the_marker_group_where_the_server_knows_how_to_forbid_it(site: Site):
    """As that group it would own what every other lease user may change. Before 16 membership is all or nothing."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())

    with as_itself(site, grant) as session:
        if site.database.cluster.major >= 16:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("SET ROLE leasehold_lease")
        inherits = "SELECT pg_has_role('leasehold_lease', 'USAGE')"
        assert session.execute(inherits.encode()).fetchone() == (site.database.cluster.major < 16,)


async def test_a_tenant_with_a_subscription_and_an_extension_ends(site: Site):
    engine = site.engine()
    be_generous(site)
    grant = await engine.issue(ROLE, fresh())
    trusted = site.database.execute(
        "SELECT name FROM pg_available_extension_versions WHERE name IN ('citext', 'hstore', 'pg_trgm')"
        + (" AND trusted" if site.database.cluster.major >= 13 else " AND false")
    )
    subscribes = site.database.cluster.major >= 16
    if subscribes:
        site.database.execute(f'GRANT pg_create_subscription TO "{site.database.group}"')
    with as_itself(site, grant) as session:
        if trusted:
            session.execute(f"CREATE EXTENSION {trusted[0][0]} SCHEMA app".encode())
        if subscribes:
            session.execute(
                b"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 password=x' PUBLICATION p WITH (connect = false)"
            )

    try:
        await engine.revoke(grant.id)

        assert not site.exists(grant)
        owners = site.database.execute("SELECT pg_get_userbyid(subowner) FROM pg_subscription WHERE subname = 's'")
        assert owners == [(site.database.group,)] * subscribes
    finally:
        if subscribes:
            site.database.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            site.database.execute("DROP SUBSCRIPTION s")


async def test_event_and_login_triggers_that_a_superuser_made_of_a_tenant_s_function_stop_nothing(site: Site):
    """Only a superuser can be talked into that; it runs then as whoever comes by, with that one's rights."""
    engine = site.engine()
    be_generous(site)
    grant, sibling = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    with as_itself(site, grant) as session:
        session.execute(
            "CREATE FUNCTION app.spy() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            " $$BEGIN INSERT INTO public.caught VALUES (current_user, session_user); END$$"
        )
    site.database.execute("CREATE EVENT TRIGGER t_end ON ddl_command_end EXECUTE FUNCTION app.spy()")
    if site.database.cluster.major >= 17:
        site.database.execute("CREATE EVENT TRIGGER t_login ON login EXECUTE FUNCTION app.spy()")
        site.log_in(sibling).close()

    await site.engine(holder="another").ping()
    await engine.revoke(grant.id)

    assert not site.exists(grant)
    # What ran did so with the rights of the function's owner, never with those of our login.
    assert {as_user for as_user, _ in caught(site)} <= {username(grant), site.database.group}
    owner = site.database.execute("SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'spy'")
    assert owner == [(site.database.group,)]


@NEWEST
async def test_functions_and_operators_in_public_shadow_nothing(any_site: Site):
    """PostgreSQL 13 and 14 let anybody create there; a database's owner may on any version."""
    be_generous(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with as_itself(any_site, grant) as session:
        for signature in (
            "clock_timestamp() RETURNS timestamptz",
            "pg_terminate_backend(int) RETURNS bool",
            "pg_has_role(oid, text) RETURNS bool",
            "to_timestamp(float8) RETURNS timestamptz",
            "pg_stat_clear_snapshot() RETURNS void",
            "textsend(text) RETURNS bytea",
            "pg_backend_pid() RETURNS int",
        ):
            session.execute(
                f"CREATE FUNCTION public.{signature} LANGUAGE plpgsql AS $$BEGIN"
                " INSERT INTO public.caught VALUES (current_user, session_user); RETURN NULL; END$$".encode()
                if "void" not in signature
                else f"CREATE FUNCTION public.{signature} LANGUAGE sql AS"
                " 'INSERT INTO public.caught VALUES (current_user, session_user)'".encode()
            )
        session.execute(
            "CREATE FUNCTION public.eq(name, text) RETURNS bool LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO public.caught VALUES (current_user, session_user); RETURN true; END$$"
        )
        session.execute("CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.eq)")
        for width in ("smallint", "int", "bigint"):  # fits better than any operator of the server's own
            session.execute(
                f"CREATE FUNCTION public.eq(oid, {width}) RETURNS bool LANGUAGE plpgsql AS $$BEGIN"
                " INSERT INTO public.caught VALUES (current_user, session_user); RETURN true; END$$".encode()
            )
            session.execute(
                f"CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = {width}, FUNCTION = public.eq)".encode()
            )
        for name in ("lease", "pg_roles", "pg_stat_activity", "pg_auth_members", "pg_prepared_xacts", "pg_locks"):
            session.execute(f"CREATE VIEW public.{name} AS SELECT 1 AS trap".encode())

    other = any_site.engine(holder="another")
    second = await other.issue(ROLE, fresh())
    await other.renew(lease(second), 60.0)
    any_site.expire(second)
    assert (await other.sweep()).reaped == 1
    await engine.revoke(grant.id)

    assert caught(any_site) == []
    assert not any_site.exists(grant)


@NEWEST
@pytest.mark.parametrize("enough", [True, False], ids=["its group may own it", "its group may not"])
async def test_what_its_group_may_not_own_is_named_and_the_user_is_locked_out(site: Site, enough):
    """A publication's owner needs CREATE on the database, and a group may have less than its user."""
    engine = site.engine()
    be_generous(site)
    grant = await engine.issue(ROLE, fresh())
    if not enough:
        site.database.execute(f'REVOKE CREATE ON DATABASE {site.database.dbname} FROM "{site.database.group}"')
    site.as_admin(f'GRANT CREATE ON DATABASE {site.database.dbname} TO "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute("CREATE PUBLICATION told")

    if enough:
        await engine.revoke(grant.id)
    else:
        with pytest.raises(Exception, match=f"permission denied for database {site.database.dbname}") as no:
            await engine.revoke(grant.id)
        assert "\n" not in str(no.value)
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            site.log_in(grant)
        with superuser(site.database.cluster, site.database.dbname) as conn:
            conn.execute("DROP PUBLICATION told")
        await engine.revoke(grant.id)

    assert not site.exists(grant)
