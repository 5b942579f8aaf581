"""The example roles of a vendor's guide, with their own statements: they work, and they are fully revoked."""

import asyncio

import psycopg
import pytest
import structlog

from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh

CREATE = """CREATE USER "{{username}}" WITH PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"""
REVOKE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{username}}';",
    'DROP USER IF EXISTS "{{username}}";',
)


def example(site: Site, *grants: str) -> dict[str, object]:
    """A role as vendors' guides write them: direct grants, and a revocation that cannot drop what was granted to."""
    connect = f'GRANT CONNECT ON DATABASE {site.database.dbname} TO "{{{{username}}}}";'
    return {
        "group": None,
        "creation_statements": (CREATE, connect, *(f'{grant} TO "{{{{username}}}}";' for grant in grants)),
        "revocation_statements": REVOKE,
    }


def grantable(site: Site) -> None:
    """Tables in `public` and `reporting` that the admin owns."""
    site.as_admin(
        "CREATE SCHEMA reporting",
        "CREATE TABLE public.accounts (id serial PRIMARY KEY, note text)",
        "CREATE TABLE reporting.monthly (id serial PRIMARY KEY, note text)",
        "INSERT INTO public.accounts (note) VALUES ('a')",
    )
    for what in ("SCHEMA public", "TABLE reports", "SEQUENCE reports_id_seq"):
        site.database.execute(f'GRANT ALL ON {what} TO "{site.user}" WITH GRANT OPTION')
    site.database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


async def test_the_read_only_example_works_and_is_fully_revoked(any_site: Site):
    """R003-036, R003-037, R003-042, R003-043."""
    grantable(any_site)
    role = any_site.role(
        **example(
            any_site,
            "GRANT USAGE ON SCHEMA public",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public",
            "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public",
        )
    )
    engine = any_site.engine({ROLE: role})
    grant = await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)
    assert session.execute("SELECT note FROM accounts").fetchall() == [("a",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("DELETE FROM accounts")

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


async def test_the_read_write_example_works_and_is_fully_revoked(any_site: Site):
    """R003-044."""
    grantable(any_site)
    role = any_site.role(
        **example(
            any_site,
            "GRANT USAGE ON SCHEMA public",
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public",
        )
    )
    engine = any_site.engine({ROLE: role})
    grant = await engine.issue(ROLE, fresh())
    with any_site.log_in(grant) as session:
        session.execute("INSERT INTO accounts (note) VALUES ('b')")
        session.execute("UPDATE accounts SET note = 'c'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("DELETE FROM accounts")

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)


async def test_the_schema_admin_example_works_and_is_fully_revoked(any_site: Site):
    """R003-045: default privileges, and tables of its own."""
    grantable(any_site)
    default = """ALTER DEFAULT PRIVILEGES IN SCHEMA reporting GRANT ALL ON TABLES TO "{{username}}";"""
    settings_ = example(
        any_site,
        "GRANT ALL PRIVILEGES ON SCHEMA reporting",
        "GRANT ALL PRIVILEGES ON ALL TABLES IN SCHEMA reporting",
        "GRANT ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA reporting",
    )
    creation = settings_["creation_statements"]
    assert isinstance(creation, tuple)
    engine = any_site.engine({ROLE: any_site.role(**{**settings_, "creation_statements": (*creation, default)})})
    grant = await engine.issue(ROLE, fresh())
    with any_site.log_in(grant) as session:
        session.execute("CREATE TABLE reporting.made AS SELECT * FROM reporting.monthly")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("CREATE TABLE public.made (n int)")

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    assert any_site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [
        ("leasehold_orphaned",)
    ]


async def test_ten_users_with_direct_grants_are_made_and_ended_at_once(site: Site):
    """Concurrent GRANTs on one table mostly fail (XX000): they take turns."""
    grantable(site)
    role = site.role(**example(site, "GRANT SELECT ON ALL TABLES IN SCHEMA public"))
    one, two = site.engine({ROLE: role}), site.engine({ROLE: role})

    grants = await asyncio.gather(*(engine.issue(ROLE, fresh()) for _ in range(5) for engine in (one, two)))
    await asyncio.gather(*(one.revoke(grant.id) for grant in grants))

    assert site.users() == set()


@NEWEST
async def test_a_role_with_direct_grants_is_warned_of(site: Site):
    """D-19."""
    with structlog.testing.capture_logs() as lines:
        site.engine({"direct": site.role(**example(site, "GRANT USAGE ON SCHEMA public")), ROLE: site.role()})

    ((event, role),) = [(line["event"], line["role"]) for line in lines]
    assert (event, role) == ("config-warning", "direct")


@NEWEST
async def test_users_of_a_group_leave_no_trace_in_the_table_s_rights(site: Site):
    """D-19: with direct grants the list of rights fills up."""
    relacl = "SELECT relacl::text FROM pg_class WHERE relname = 'reports'"
    before = site.database.execute(relacl)
    engine = site.engine()

    for _ in range(20):
        grant = await engine.issue(ROLE, fresh())
        assert site.database.execute(relacl) == before
        await engine.revoke(grant.id)

    assert site.database.execute("SELECT 1 FROM pg_auth_members WHERE member NOT IN (SELECT oid FROM pg_roles)") == []
