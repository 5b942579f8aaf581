"""The journal's making: on first use, by several agents at once, and never on ground that somebody else prepared."""

import asyncio

import psycopg
import pytest
import structlog

from agent.errors import ConfigError, Forbidden, NotFound
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh, username


async def test_the_journal_is_made_on_first_use_and_found_afterwards(any_site: Site):
    await any_site.engine().ping()
    await any_site.engine().ping()

    owners = any_site.database.execute(
        "SELECT pg_get_userbyid(n.nspowner), pg_get_userbyid(c.relowner), c.relacl::text"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'leasehold' AND c.relname = 'lease'"
    )
    assert [(schema, table) for schema, table, _ in owners] == [(any_site.user, any_site.user)]
    assert "=r/" not in str(owners[0][2]).replace(f"{any_site.user}=", "")
    assert any_site.database.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'leasehold_lease'") == [(False,)]


async def test_agents_that_start_at_once_all_find_it(any_site: Site):
    engines = [any_site.engine(holder=f"pod-{n}") for n in range(5)]

    grants = await asyncio.gather(*(engine.issue(ROLE, fresh()) for engine in engines))

    assert any_site.users() == {username(grant) for grant in grants}


@NEWEST
async def test_a_schema_made_beforehand_for_the_admin_is_enough(site: Site):
    site.database.execute(f'ALTER DATABASE "{site.database.dbname}" OWNER TO postgres')
    site.database.execute(f'CREATE SCHEMA leasehold AUTHORIZATION "{site.user}"')

    await site.engine().issue(ROLE, fresh())

    assert site.rows() == 1


@NEWEST
async def test_an_admin_that_may_make_nothing_is_told_what_it_needs(site: Site):
    site.database.execute(f'ALTER DATABASE "{site.database.dbname}" OWNER TO postgres')

    with pytest.raises(Forbidden, match="it needs CREATEROLE, and CREATE on database"):
        await site.engine().ping()


async def test_a_schema_that_somebody_else_planted_is_refused(any_site: Site):
    any_site.database.execute("CREATE ROLE neighbour NOLOGIN")
    any_site.database.execute("CREATE SCHEMA leasehold AUTHORIZATION neighbour")

    with pytest.raises(Forbidden, match="schema leasehold belongs to another role"):
        await any_site.engine().issue(ROLE, fresh())

    assert any_site.users() == set()
    await any_site.engine(schema="leasehold2").issue(ROLE, fresh())


@pytest.mark.parametrize("planted", ["TABLE leasehold.lease (id uuid)", "VIEW leasehold.lease AS SELECT 1 AS id"])
async def test_a_table_that_somebody_else_planted_is_refused(site: Site, planted):
    site.database.execute(f'CREATE SCHEMA leasehold AUTHORIZATION "{site.user}"')
    site.database.execute(f"CREATE {planted}")

    with pytest.raises(Forbidden, match=r"leasehold\.lease is not a table of"):
        await site.engine().ping()


async def test_a_view_of_its_own_is_no_journal_either(site: Site):
    site.as_admin("CREATE SCHEMA leasehold", "CREATE VIEW leasehold.lease AS SELECT 1 AS id")

    with pytest.raises(Forbidden, match=r"leasehold\.lease is not a table of"):
        await site.engine().ping()


@pytest.mark.parametrize("attribute", ["LOGIN", "SUPERUSER", "CREATEROLE", "BYPASSRLS", "IN ROLE pg_monitor"])
async def test_a_marker_group_from_which_users_would_inherit_is_refused(site: Site, attribute):
    site.database.execute(f"CREATE ROLE leasehold_lease {attribute}")

    with pytest.raises(Forbidden, match="every lease user would inherit from it"):
        await site.engine().ping()


@NEWEST
async def test_what_is_planted_later_is_found_at_the_next_connection(site: Site):
    await site.engine().ping()
    site.database.execute("ALTER ROLE leasehold_lease LOGIN")

    with pytest.raises(Forbidden, match="every lease user would inherit from it"):
        await site.engine().ping()


async def test_a_marker_group_made_by_another_needs_its_admin_option(site: Site):
    """From PostgreSQL 16 on; before, CREATEROLE is enough."""
    site.database.execute("CREATE ROLE leasehold_lease NOLOGIN")
    engine = site.engine()

    if site.database.cluster.major >= 16:
        with pytest.raises(Forbidden, match=r"may not grant leasehold_lease, .*: GRANT leasehold_lease TO"):
            await engine.issue(ROLE, fresh())
        site.database.execute(f'GRANT leasehold_lease TO "{site.user}" WITH ADMIN OPTION')
    await engine.issue(ROLE, fresh())

    assert len(site.users() - {site.user}) == 1


@NEWEST
async def test_names_that_need_quotes_serve_as_well(site: Site):
    engine = site.engine(schema='Lease"hold; --', marker_group="mark'er {{name}} %s")

    grant = await engine.issue(ROLE, fresh())
    site.log_in(grant).close()
    await engine.revoke(grant.id)

    assert not site.exists(grant)


async def test_nothing_of_another_schema_is_called(site: Site):
    """search_path is pg_catalog: a function or operator planted in public is never found first."""
    with superuser(site.database.cluster, site.database.dbname) as conn:
        conn.execute(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
            " AS $$ SELECT NULL::timestamptz $$"
        )
        conn.execute("CREATE FUNCTION public.ceil(float8) RETURNS float8 LANGUAGE sql AS $$ SELECT 0::float8 $$")
        conn.execute(f'ALTER ROLE "{site.user}" SET search_path = public, pg_catalog')

    grant = await site.engine().issue(ROLE, fresh())

    site.log_in(grant).close()


@NEWEST
async def test_the_server_s_version_is_logged_once(site: Site):
    """R003-127: 12 with a warning."""
    engine = site.engine()

    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(*(engine.ping() for _ in range(4)))

    said = [line for line in lines if "version" in line]
    assert len(said) == 1
    assert said[0]["version"].startswith(f"{site.database.cluster.major}.")
    old = site.database.cluster.major < 13
    assert said[0].get("warning") == ("PostgreSQL 12 is no longer supported by its makers" if old else None)
    assert said[0]["log_level"] == ("warning" if old else "info")


@NEWEST
async def test_a_neighbour_s_advisory_locks_hold_nobody_up(site: Site):
    with psycopg.connect(site.database.conninfo(), autocommit=True) as neighbour:
        for key in range(64):
            neighbour.execute("SELECT pg_advisory_lock(%s)", (key,))
        engine = site.engine()
        grant = await engine.issue(ROLE, fresh())
        await engine.revoke(grant.id)

    assert not site.exists(grant)


@NEWEST
def test_mistakes_in_names_and_statements_are_told_all_at_once(site: Site):
    role = site.role(creation_statements=("COMMIT",), group="g\0")

    with pytest.raises(ConfigError) as caught:
        site.engine({ROLE: role}, schema="s" * 64, username_prefix="pg_x")

    assert len(caught.value.mistakes) == 4
    assert [m for m in caught.value.mistakes if m.startswith(f'role."{ROLE}".creation_statements[0]: COMMIT')]


@NEWEST
async def test_a_journal_that_is_dropped_beneath_a_running_agent_is_made_anew(site: Site):
    """Else every later call fails until the agent is restarted: its kept connections had found the journal."""
    engine = site.engine()
    await asyncio.gather(*(engine.issue(ROLE, fresh()) for _ in range(3)))
    site.database.execute("DROP SCHEMA leasehold CASCADE")

    with pytest.raises(NotFound, match="the journal was dropped"):
        await engine.issue(ROLE, fresh())
    await asyncio.gather(*(engine.issue(ROLE, fresh()) for _ in range(3)))

    assert site.rows() == 3
