"""Each right taken away, and each one too many, is found by itself, and the SQL of its remedy mends it."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.config.model import Connection
from agent.engines.postgres.rights import Level, diagnose
from tests.integration.postgres.least import Least, least, subjects
from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh, username


@pytest.fixture
def bare(site: Site) -> Least:
    return least(site)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Statements that spoil something, and the only finding that follows.

    Attributes:
        text: is in the finding's text.
        role: changes to the role.
        back: statements for what the remedy does not undo.
        since: the first major that has it.
    """

    spoil: tuple[str, ...]
    level: Level
    subject: str
    text: str
    role: dict[str, Any] = field(default_factory=dict)
    back: tuple[str, ...] = ()
    since: int = 0


LOGIN, GROUP, JOURNAL = "login {admin}", "group {group}", "journal leasehold.lease"
MARKER = "marker group leasehold_lease"
LOGINS = {
    "no CREATEROLE": Case(
        spoil=('ALTER ROLE "{admin}" NOCREATEROLE',), level=Level.MISSING, subject=LOGIN, text="lacks CREATEROLE"
    ),
    "superuser": Case(
        spoil=('ALTER ROLE "{admin}" SUPERUSER',), level=Level.TOO_MUCH, subject=LOGIN, text="is a superuser"
    ),
    "CREATEDB": Case(
        spoil=('ALTER ROLE "{admin}" CREATEDB',), level=Level.TOO_MUCH, subject=LOGIN, text="may make databases"
    ),
    "REPLICATION": Case(
        spoil=('ALTER ROLE "{admin}" REPLICATION',), level=Level.TOO_MUCH, subject=LOGIN, text="has REPLICATION"
    ),
    "BYPASSRLS": Case(
        spoil=('ALTER ROLE "{admin}" BYPASSRLS',), level=Level.TOO_MUCH, subject=LOGIN, text="has BYPASSRLS"
    ),
    "a predefined role": Case(
        spoil=('GRANT pg_monitor TO "{admin}"',), level=Level.TOO_MUCH, subject=LOGIN, text="the rights of pg_monitor"
    ),
    "the app's owner": Case(
        spoil=("CREATE ROLE app_owner NOLOGIN", 'GRANT app_owner TO "{admin}"'),
        level=Level.TOO_MUCH,
        subject=LOGIN,
        text="the rights of app_owner",
        back=("DROP ROLE app_owner",),
    ),
    "the database": Case(
        spoil=('ALTER DATABASE "{db}" OWNER TO "{admin}"',),
        level=Level.TOO_MUCH,
        subject="database {db}",
        text="could drop it",
    ),
    "few connections": Case(
        spoil=('ALTER ROLE "{admin}" CONNECTION LIMIT 4',), level=Level.WARNING, subject=LOGIN, text="and needs 5"
    ),
    "a password that ends": Case(
        spoil=("""ALTER ROLE "{admin}" VALID UNTIL 'tomorrow'""",), level=Level.WARNING, subject=LOGIN, text="days more"
    ),
    "createrole_self_grant": Case(
        spoil=("""ALTER ROLE "{admin}" SET createrole_self_grant = 'set, inherit'""",),
        level=Level.WARNING,
        subject=LOGIN,
        text="createrole_self_grant is set, inherit",
        since=16,
    ),
}
GROUPS = {
    "no group": Case(
        spoil=(),
        role={"group": "no_such_group"},
        level=Level.MISSING,
        subject="group no_such_group",
        text=f"no users can be made for {ROLE}",
        back=('GRANT SELECT ON reports TO "no_such_group"',),
    ),
    "a group with LOGIN": Case(
        spoil=('ALTER ROLE "{group}" LOGIN',), level=Level.MISSING, subject=GROUP, text="has LOGIN"
    ),
    "a group with CREATEDB": Case(
        spoil=('ALTER ROLE "{group}" CREATEDB',), level=Level.MISSING, subject=GROUP, text="makes no users for it"
    ),
    "a group that reaches power": Case(
        spoil=(
            "CREATE ROLE far NOLOGIN BYPASSRLS",
            "CREATE ROLE near NOLOGIN IN ROLE far",
            'GRANT near TO "{group}"',
        ),
        level=Level.MISSING,
        subject=GROUP,
        text="as a member of near",
        back=("DROP ROLE near, far",),
    ),
    "a group of another": Case(
        spoil=('REVOKE "{group}" FROM "{admin}"',),
        level=Level.MISSING,
        subject=GROUP,
        text="may not be granted by {admin}",
        since=16,
    ),
    "an idle group": Case(
        spoil=(
            'REVOKE ALL ON reports FROM "{group}"',
            'REVOKE ALL ON SCHEMA public FROM "{group}"',
            'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM "{group}"',
        ),
        level=Level.WARNING,
        subject=GROUP,
        text="has no privilege on anything",
    ),
    "no CONNECT for the group": Case(
        spoil=('REVOKE CONNECT ON DATABASE "{db}" FROM PUBLIC, "{group}"',),
        level=Level.MISSING,
        subject=GROUP,
        text="may not CONNECT to database {db}",
    ),
    "no database for the group": Case(
        spoil=(),
        role={"connection": True},
        level=Level.MISSING,
        subject=GROUP,
        text="does not exist",
        back=("DROP DATABASE {db}_other",),
    ),
    "a database for the group alone": Case(
        spoil=(
            'CREATE DATABASE "{db}_two"',
            'REVOKE CONNECT ON DATABASE "{db}_two" FROM PUBLIC',
            'GRANT CONNECT ON DATABASE "{db}_two" TO "{group}"',
        ),
        level=Level.MISSING,
        subject="database {db}_two",
        text="could not tidy up",
        back=('DROP DATABASE "{db}_two"',),
    ),
}
GROUNDS = {
    "no place for the journal": Case(
        spoil=("DROP SCHEMA leasehold",), level=Level.MISSING, subject=JOURNAL, text="may make none"
    ),
    "a schema of another": Case(
        spoil=("ALTER SCHEMA leasehold OWNER TO postgres",),
        level=Level.MISSING,
        subject=JOURNAL,
        text="belongs to another role",
    ),
}
JOURNALS = {
    "a column less": Case(
        spoil=("ALTER TABLE leasehold.lease DROP COLUMN max_expires",),
        level=Level.MISSING,
        subject=JOURNAL,
        text="lacks max_expires",
    ),
    "an open schema": Case(
        spoil=("GRANT USAGE ON SCHEMA leasehold TO PUBLIC",),
        level=Level.TOO_MUCH,
        subject=JOURNAL,
        text="open to everybody (PUBLIC): USAGE on its schema",
    ),
    "an open table": Case(
        spoil=('GRANT SELECT, UPDATE ON leasehold.lease TO "{group}"',),
        level=Level.TOO_MUCH,
        subject=JOURNAL,
        text="open to {group}: SELECT, UPDATE on its table",
    ),
    "default privileges": Case(
        spoil=('ALTER DEFAULT PRIVILEGES FOR ROLE "{admin}" IN SCHEMA leasehold GRANT SELECT ON TABLES TO PUBLIC',),
        level=Level.WARNING,
        subject=JOURNAL,
        text="default privileges open tables",
    ),
    "default privileges everywhere": Case(
        spoil=('ALTER DEFAULT PRIVILEGES FOR ROLE "{admin}" GRANT SELECT ON TABLES TO "{group}"',),
        level=Level.WARNING,
        subject=JOURNAL,
        text="to {group} as they are made",
    ),
    "no index for the sweep": Case(
        spoil=("DROP INDEX leasehold.lease_due",), level=Level.WARNING, subject=JOURNAL, text="no index on expires"
    ),
    "an invalid index": Case(
        spoil=("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'leasehold.lease_due'::regclass",),
        level=Level.WARNING,
        subject=JOURNAL,
        text="no index on expires",
    ),
    "no index for forgetting": Case(
        spoil=("DROP INDEX leasehold.lease_revoked",), level=Level.WARNING, subject=JOURNAL, text="index on revoked_at"
    ),
}
MARKERS = {
    "a marker with LOGIN": Case(
        spoil=("ALTER ROLE leasehold_lease LOGIN",), level=Level.MISSING, subject=MARKER, text="the agent refuses it"
    ),
    "a marker in a role": Case(
        spoil=("GRANT pg_monitor TO leasehold_lease",), level=Level.MISSING, subject=MARKER, text="a membership"
    ),
    "a marker with rights": Case(
        spoil=("GRANT SELECT ON reports TO leasehold_lease",),
        level=Level.TOO_MUCH,
        subject=MARKER,
        text="every lease user inherits that",
    ),
    "a marker that owns": Case(
        spoil=("CREATE TABLE owned (id int)", "ALTER TABLE owned OWNER TO leasehold_lease"),
        level=Level.TOO_MUCH,
        subject=MARKER,
        text="owns something",
        back=("DROP TABLE owned",),
    ),
    "a marker of another": Case(
        spoil=("DROP OWNED BY leasehold_lease", "DROP ROLE leasehold_lease", "CREATE ROLE leasehold_lease NOLOGIN"),
        level=Level.MISSING,
        subject=MARKER,
        text="may not be granted by {admin}",
        since=16,
    ),
    "an open schema of the app": Case(
        spoil=("GRANT CREATE ON SCHEMA public TO PUBLIC",),
        level=Level.WARNING,
        subject="schema public",
        text="everybody may create in it",
    ),
    "a stranger in the marker group": Case(
        spoil=("CREATE ROLE stranger NOLOGIN", "GRANT leasehold_lease TO stranger"),
        level=Level.WARNING,
        subject=MARKER,
        text="no journal knows: stranger",
        back=("DROP ROLE stranger",),
    ),
}


async def try_all(bare: Least, cases: dict[str, Case]) -> None:
    """One after the other on one database: each remedy, run as a superuser, leaves nothing to be found."""
    for name, case in cases.items():
        if bare.major >= case.since:
            assert await bare.found() == [], f"before {name}"
            await try_one(bare, name, case)


async def try_one(bare: Least, name: str, case: Case) -> None:
    role = dict(case.role)
    if "connection" in role:
        place = bare.database
        role["connection"] = Connection(host=place.host, port=place.port, dbname=f"{place.dbname}_other")
    bare.run(*map(bare.named, case.spoil))

    found = await bare.found(role)

    assert subjects(found) == [(case.level, bare.named(case.subject))], name
    assert bare.named(case.text) in found[0].text, name
    bare.run(*found[0].remedy)
    back = [bare.named(statement) for statement in case.back]
    grants = [statement for statement in back if statement.startswith("GRANT")]
    bare.run(*grants)
    assert await bare.found(role) == [], f"after the remedy of {name}"
    bare.run(*(statement for statement in back if statement not in grants))


async def test_what_the_login_lacks_or_has_too_much_of_is_found_and_mended(bare: Least) -> None:
    """R000-007, R003-026, R003-104, R003-129."""
    await try_all(bare, LOGINS)


async def test_what_is_wrong_with_a_group_is_found_and_mended(bare: Least) -> None:
    """R003-129."""
    await try_all(bare, GROUPS)


async def test_a_place_where_no_journal_can_be_made_is_found_and_mended(bare: Least) -> None:
    await try_all(bare, GROUNDS)


async def test_what_is_wrong_with_the_journal_is_found_and_mended(bare: Least) -> None:
    await bare.site.engine().ping()

    await try_all(bare, JOURNALS)


async def test_what_is_wrong_with_the_marker_group_or_an_app_s_schema_is_found_and_mended(bare: Least) -> None:
    await bare.site.engine().ping()

    await try_all(bare, MARKERS)


async def test_rights_of_docs_are_enough_for_a_whole_life(bare: Least) -> None:
    """The page's SQL and no more: mint, renew, tidy up after a user that owns something, drop."""
    bare.run(bare.named('GRANT CREATE, USAGE ON SCHEMA public TO "{group}"'))
    engine = bare.site.engine()

    grant = await engine.issue(ROLE, fresh())
    with bare.site.log_in(grant) as app:
        app.execute("SET ROLE NONE")
        app.execute("CREATE TABLE public.mine (id int)")
    await engine.revoke(grant.id)

    owners = bare.database.execute("SELECT tableowner::text FROM pg_tables WHERE tablename = 'mine'")
    assert owners == [(bare.database.group,)]
    assert not bare.site.exists(grant)
    assert await bare.found() == []


@NEWEST
async def test_looking_changes_nothing(bare: Least) -> None:
    """Neither journal nor marker group is made by a look, and a look at nothing finds nothing wrong."""
    assert await bare.found() == []

    assert bare.database.execute("SELECT 1 FROM pg_roles WHERE rolname = 'leasehold_lease'") == []
    assert bare.database.execute("SELECT 1 FROM pg_class WHERE relname = 'lease'") == []


async def test_rights_of_each_user_s_own_are_named_with_the_thing_they_fill(bare: Least) -> None:
    """D-19."""
    grant = await bare.site.engine().issue(ROLE, fresh())
    bare.run(f'GRANT SELECT ON reports TO "{username(grant)}"')

    (finding,) = await bare.found()

    assert (finding.level, finding.subject) == (Level.WARNING, "table public.reports")
    assert finding.text.startswith("lease users with rights of their own on it: 1, of 2 roles in all")
    assert "set `group`" in finding.text


@NEWEST
async def test_users_that_should_be_gone_are_counted(bare: Least) -> None:
    grant = await bare.site.engine().issue(ROLE, fresh())
    bare.run("UPDATE leasehold.lease SET expires = clock_timestamp() - interval '10 minutes'")

    (finding,) = await bare.found()

    assert subjects([finding]) == [(Level.WARNING, "leases")]
    assert finding.text.startswith("1 have ended and still have users, the oldest for 60")
    assert username(grant) not in finding.text


@NEWEST
async def test_a_journal_that_is_no_table_of_ours_is_not_read(bare: Least) -> None:
    bare.run("CREATE VIEW leasehold.lease AS SELECT 1 AS id")

    (finding,) = await bare.found()

    assert subjects([finding]) == [(Level.MISSING, "journal leasehold.lease")]
    assert "drop it, or set `schema`" in finding.text


@NEWEST
async def test_names_chosen_by_others_cannot_act_on_a_terminal_nor_leave_their_quotes(bare: Least) -> None:
    evil = 'a";\x1b[2J\n--'
    bare.run(f"""CREATE SCHEMA "{evil.replace('"', '""')}" """)
    bare.run(f"""GRANT CREATE ON SCHEMA "{evil.replace('"', '""')}" TO PUBLIC""")

    (finding,) = await bare.found()

    assert all(text.isprintable() for text in (finding.subject, finding.text, *finding.remedy))
    bare.run(*finding.remedy)
    assert await bare.found() == []


async def test_the_diagnosis_shows_users_with_their_ends_and_what_groups_may_do(bare: Least) -> None:
    """R003-109."""
    engine = bare.site.engine()
    live, ended, gone = [await engine.issue(ROLE, fresh()) for _ in range(3)]
    bare.site.expire(ended)
    bare.run(
        f'DROP ROLE "{username(gone)}"', "CREATE ROLE stranger NOLOGIN", "GRANT leasehold_lease TO stranger"
    )  # fmt: skip

    with bare.site.log_in(live):
        found = await diagnose("postgresql", bare.site.config(), {ROLE: bare.site.role()}, SystemClock())

    users = {user.user: user for user in found.users}
    assert set(users) == {username(live), username(ended), username(gone), "stranger"}
    one = users[username(live)]
    assert (one.role, one.holder, one.there, one.sessions) == (ROLE, "pod", True, 1)
    assert one.expires_in is not None
    assert 50 < one.expires_in <= 61
    assert one.valid_until.endswith("Z")
    assert (users[username(ended)].expires_in or 0) < 0
    assert not users[username(gone)].there
    assert (users["stranger"].expires_in, users["stranger"].role, users["stranger"].valid_until) == (None, "", "")
    rights = {right.thing: right.privileges for right in found.rights}
    assert rights["public.reports"] == "SELECT"
    assert rights["schema public"] == "USAGE"


@NEWEST
async def test_the_diagnosis_says_why_it_knows_nothing(bare: Least) -> None:
    role = {ROLE: bare.site.role()}

    unmade = await diagnose("postgresql", bare.site.config(), role, SystemClock())
    away = await diagnose("postgresql", bare.site.config(port=1), role, SystemClock())

    assert "has no journal there yet" in unmade.error
    assert "cannot be reached" in away.error
    assert unmade.users == away.users == ()
