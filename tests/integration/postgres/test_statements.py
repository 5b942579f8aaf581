"""Roles with statements of their own: the documented examples, the mistakes, and the hostile ones."""

import asyncio

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.engines.postgres.statements import Value, Values, parse, render
from agent.errors import Forbidden, NotFound, UpstreamError
from tests.fix_postgres import Database, superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, closing, fresh, lease

CREATE = """CREATE USER "{{username}}" WITH PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"""


@NEWEST
async def test_statements_run_when_their_moment_has_come(site: Site):
    """R000-017."""
    site.as_admin("CREATE TABLE public.marks (what text, name text)")
    mark = "INSERT INTO public.marks VALUES ('{}', '{{{{name}}}}')"
    role = site.role(
        creation_statements=(CREATE, mark.format("made")),
        renewal_statements=("""ALTER USER "{{name}}" VALID UNTIL '{{expiration}}'; """ + mark.format("renewed"),),
        revocation_statements=(mark.format("ended"),),
    )
    engine = site.engine({ROLE: role})

    def marks() -> list[str]:
        return [what for what, _ in site.database.execute("SELECT what, name FROM public.marks")]

    grant = await engine.issue(ROLE, fresh())
    assert marks() == ["made"]
    await engine.renew(lease(grant), 90.0)
    assert marks() == ["made", "renewed"]
    await engine.revoke(grant.id)
    assert marks() == ["made", "renewed", "ended"]
    assert not site.exists(grant)


@NEWEST
async def test_statements_of_a_role_leave_no_setting_behind(site: Site):
    sneaky = (
        """SET search_path = public; SET statement_timeout = '1h'; SET ROLE "{}"; CREATE TEMP TABLE left_behind ()"""
    )
    role = site.role(creation_statements=(CREATE, sneaky.format(site.database.group)))
    engine = site.engine({ROLE: role}, max_calls=1)
    site.database.execute(f'GRANT TEMP ON DATABASE "{site.database.dbname}" TO "{site.database.group}"')

    await engine.issue(ROLE, fresh())
    grant = await engine.issue(ROLE, fresh())

    site.log_in(grant).close()


async def test_a_second_statement_that_fails_leaves_nothing_and_is_named(any_site: Site):
    """D-16."""
    site = any_site
    site.as_admin("CREATE TABLE public.marks (name text)")
    role = site.role(
        creation_statements=(CREATE, "GRANT SELECT ON public.nowhere TO {{name}}"),
        rollback_statements=("INSERT INTO public.marks VALUES ('{{name}}')", "SELECT nonsense"),
    )
    engine = site.engine({ROLE: role})

    with pytest.raises(NotFound, match=r"creation_statements\[1\]: UndefinedTable \(42P01\)") as caught:
        await engine.issue(ROLE, fresh())

    ((name,),) = site.database.execute("SELECT name FROM public.marks")
    assert name.startswith("v_app_readonly_")
    assert name not in str(caught.value)
    assert "nowhere" not in str(caught.value)
    assert site.users() == set()
    assert site.rows() == 0


async def test_a_grant_that_grants_nothing_is_a_failure(site: Site):
    """D-18: the admin may see the table and not hand it on; the server only warns."""
    site.database.execute(f'GRANT SELECT ON reports TO "{site.user}"')
    role = site.role(creation_statements=(CREATE, "GRANT SELECT ON public.reports TO {{name}}"))

    with pytest.raises(Forbidden, match="WITH GRANT OPTION"):
        await site.engine({ROLE: role}).issue(ROLE, fresh())

    assert site.users() == set()
    assert site.rows() == 0


@NEWEST
async def test_rollback_statements_leave_no_setting_behind(site: Site):
    roles = {
        ROLE: site.role(),
        "failing": site.role(
            creation_statements=(CREATE, "SELECT nonsense"),
            rollback_statements=("SET default_transaction_read_only = on",),
        ),
    }
    engine = site.engine(roles, max_calls=1)

    with pytest.raises(Forbidden):
        await engine.issue("failing", fresh())

    await engine.issue(ROLE, fresh())


@NEWEST
async def test_a_missing_right_is_said_in_the_server_s_words(site: Site):
    role = site.role(creation_statements=(CREATE, "COMMENT ON TABLE public.reports IS '{{name}}'"))

    with pytest.raises(Forbidden, match=r"lacks a right: must be owner of table reports \(42501\)"):
        await site.engine({ROLE: role}).issue(ROLE, fresh())


ATTRIBUTES = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
UNFIT = {
    "SELECT '{{name}}', '{{expiration}}', '{{password}}'": "made no role called",
    "CREATE ROLE {{name}} PASSWORD {{password}} VALID UNTIL {{expiration}}": "without LOGIN",
    f"{CREATE} ALTER ROLE {{{{name}}}} VALID UNTIL 'infinity'": "left VALID UNTIL",
    f"{CREATE} ALTER ROLE {{{{name}}}} CREATEROLE": "gave SUPERUSER, CREATEROLE",
    f"{CREATE} ALTER ROLE {{{{name}}}} CREATEDB": "gave SUPERUSER, CREATEROLE",
    f"{CREATE} ALTER ROLE {{{{name}}}} SUPERUSER": "gave SUPERUSER, CREATEROLE",
    f"{CREATE} ALTER ROLE {{{{name}}}} BYPASSRLS": "gave SUPERUSER, CREATEROLE",
    f"{CREATE} ALTER ROLE {{{{name}}}} REPLICATION": "gave SUPERUSER, CREATEROLE",
    **{
        f"{CREATE} CREATE ROLE has_{one.lower()} {one}; CREATE ROLE in_{one.lower()} IN ROLE has_{one.lower()}"
        f" ROLE {{{{name}}}}": "made it a member of a role with SUPERUSER, CREATEROLE, .* or BYPASSRLS"
        for one in ATTRIBUTES
    },
    f"{CREATE} CREATE ROLE between_them IN ROLE postgres ROLE {{{{name}}}}": "a member of a role with SUPERUSER",
}


async def test_a_user_that_is_not_what_a_lease_user_may_be_is_not_made(database: Database):
    """R003-068: as a superuser, who could make one."""
    cluster = database.cluster
    site = Site(database=database, user=cluster.superuser, password_file=cluster.password_file)
    roles = {sql: site.role(group=None, creation_statements=(sql,)) for sql in UNFIT}
    engine = site.engine(roles)

    async with closing(engine):
        for role, why in UNFIT.items():
            with pytest.raises(Forbidden, match=why):
                await engine.issue(role, fresh())

    assert site.users() == set()
    assert site.rows() == 0


@NEWEST
async def test_a_group_that_is_missing_or_somebody_s_login_is_refused(site: Site):
    site.database.execute("CREATE ROLE someone LOGIN")
    engine = site.engine({"missing": site.role(group="no such group"), "login": site.role(group="someone")})

    with pytest.raises(NotFound, match="group no such group does not exist"):
        await engine.issue("missing", fresh())
    with pytest.raises(Forbidden, match="group someone has LOGIN"):
        await engine.issue("login", fresh())

    assert site.users() == set()


@pytest.mark.parametrize("how", ["itself", "through a membership"])
async def test_a_group_with_an_attribute_is_refused_since_sessions_begin_as_the_group(site: Site, how):
    roles = {one: site.role(group=f"group_{one}") for one in ATTRIBUTES}
    for one in ATTRIBUTES:
        site.database.execute(f'CREATE ROLE "has_{one}" {one}')
        made = one if how == "itself" else f'IN ROLE "has_{one}"'
        site.database.execute(f'CREATE ROLE "group_{one}" {made}')
        if one != "SUPERUSER" or how == "through a membership":
            site.database.execute(f'GRANT "group_{one}" TO "{site.user}" WITH ADMIN OPTION')
    engine = site.engine(roles)

    for one in ATTRIBUTES:
        with pytest.raises(
            Forbidden, match=f"its group group_{one} has LOGIN, or has, by itself or a membership, SUPER"
        ):
            await engine.issue(one, fresh())

    assert site.users() == set()


@NEWEST
async def test_renewal_statements_that_do_not_renew_are_refused(site: Site):
    role = site.role(renewal_statements=("SELECT '{{name}}', '{{expiration}}'",))
    engine = site.engine({ROLE: role})
    grant = await engine.issue(ROLE, fresh())
    (before,) = await engine.list()

    with pytest.raises(Forbidden, match="renewal_statements did not set VALID UNTIL"):
        await engine.renew(lease(grant), 200.0)

    assert await engine.list() == [before]


HOSTILE = [
    'x"; DROP TABLE reports; --',
    "x'; DROP TABLE reports; --",
    "$$; DROP TABLE reports; --",
    "a" * 200,
    "ü" * 80,
    "{{name}}",
    "%s %(x)s",
    "\\",
    "database/creds/",
]


@NEWEST
async def test_a_hostile_role_name_is_only_a_name(site: Site):
    """D-24."""
    engine = site.engine({name: site.role() for name in HOSTILE})

    for name in HOSTILE:
        grant = await engine.issue(name, fresh())
        with site.log_in(grant) as session:
            assert session.execute("SELECT count(*) FROM reports").fetchone() == (1,)
        (row,) = await engine.list(role=name)
        await engine.revoke(grant.id)

        assert row.role == name
        assert not site.exists(grant)


@pytest.mark.parametrize("group", ['gr"oup; --', "gr'oup", "Gr Oup", "ü" * 31, "{{name}}"])
@NEWEST
async def test_a_group_of_any_name_is_quoted(site: Site, group):
    with superuser(site.database.cluster) as conn:
        quoted = '"' + group.replace('"', '""') + '"'
        conn.execute(f"CREATE ROLE {quoted} NOLOGIN".encode())
        conn.execute(f'GRANT {quoted} TO "{site.user}" WITH ADMIN OPTION'.encode())
    engine = site.engine({ROLE: site.role(group=group)})

    grant = await engine.issue(ROLE, fresh())
    with site.log_in(grant) as session:
        found = session.execute("SELECT current_user").fetchone()
    await engine.revoke(grant.id)

    assert found == (group,)


TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


def test_the_server_reads_every_value_as_it_was_meant(database):
    """R001-011: as a literal and as an identifier, whatever is in it."""
    statement = parse(
        """SELECT '{{name}}', {{password}}, '{{expiration}}'::text, 1 AS "{{name}}" """, allowed=frozenset(Value)
    )
    with superuser(database.cluster) as conn:

        @given(name=TEXT.filter(lambda text: 0 < len(text.encode()) <= 63), password=TEXT, expiration=TEXT)
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        def check(name: str, password: str, expiration: str) -> None:
            values = Values(name=name, password=password, expiration=expiration)
            cursor = conn.execute(render(statement, values, conn))
            assert cursor.fetchone() == (name, password, expiration, 1)
            assert cursor.description is not None
            assert cursor.description[3].name == name

        check()


@NEWEST
async def test_an_own_revocation_that_hangs_does_not_keep_the_user_alive(site: Site):
    role = site.role(revocation_statements=("SELECT pg_sleep(30), '{{name}}'",))
    engine = site.engine({ROLE: role})
    grant = await engine.issue(ROLE, fresh())

    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await engine.revoke(grant.id)

    assert asyncio.get_running_loop().time() - began < 0.7
    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    await engine.revoke(grant.id)
    assert not site.exists(grant)


@NEWEST
async def test_errors_name_upstream_operation_and_role_and_nothing_secret(site: Site):
    role = site.role(creation_statements=(CREATE, "SELECT 'canary-of-the-statement' FROM"))
    engine = site.engine({ROLE: role})
    proposed = fresh()

    with pytest.raises(UpstreamError) as caught:
        await engine.issue(ROLE, proposed)

    text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert str(caught.value).startswith(f"postgresql: issue {ROLE}: creation_statements[1]: SyntaxError (42601)")
    for secret in ("canary", proposed, "v_app_readonly_", "SCRAM", "CREATE"):
        assert secret not in text
