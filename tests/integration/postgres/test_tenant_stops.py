"""A hostile tenant cannot stop the others' leases: they are issued, renewed, revoked and swept as quickly as ever."""

import contextlib
import time

import psycopg
import pytest

from tests.integration.postgres.site import (
    NEWEST,
    ROLE,
    Site,
    as_itself,
    fresh,
    lease,
    own_schema,
    username,
)
from tests.integration.postgres.tenant import others_live_on


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
