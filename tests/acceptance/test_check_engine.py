"""`leasehold check --engine` and `--users`, as somebody runs them before a release and at 3 a.m."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Program, toml
from tests.acceptance.scenes import ROLE, document, leased, minted, place_of, server_of
from tests.fix_postgres import Database

Check = Callable[..., Program]
PASSWORD = "do not show this 7"


@pytest.fixture
def check(place: Path, started: list[Program]) -> Check:
    """`check(document, *options)` writes the file and runs the command to its end."""

    def run(text: Any, *options: str) -> Program:
        config = place / "agent.toml"
        config.write_text(toml(text))
        program = Program(["check", "-c", str(config), *options], place)
        started.append(program)
        program.wait()
        return program

    return run


def test_a_sound_server_passes_and_every_role_lives_once(check: Check, database: Database, place: Path) -> None:
    """R000-007, R003-094: CREATEROLE NOSUPERUSER passes; nothing is left but a row."""
    ended = check(document(place, database, description="the app"), "--engine")

    assert ended.code == 0, ended.stdout
    lines = ended.stdout.splitlines()
    assert f"  ok        login {database.admin}: has CREATEROLE, and is no superuser" in lines
    assert f"  ok        group {database.group}: is NOLOGIN, may be granted, may CONNECT and has privileges" in lines
    assert lines[-1].startswith(f"{ROLE}: minted a user, logged in with it, renewed it, revoked it, in ")
    assert not any(line.startswith("  missing") for line in lines)
    assert ended.stderr == ""
    assert leased(database) == set()
    assert minted(database) == 1


def test_a_superuser_is_too_much_and_no_failure(check: Check, database: Database, place: Path) -> None:
    """R000-007, R003-026."""
    text = document(place, database)
    cluster = database.cluster
    text["postgresql"] = server_of(database, user=cluster.superuser, password_file=str(cluster.password_file))

    ended = check(text, "--engine")

    assert ended.code == 0, ended.stdout
    assert "  too-much  login postgres: is the server's first superuser" in ended.stdout


def test_a_login_without_createrole_fails_with_the_sql_that_mends_it(
    check: Check, database: Database, place: Path
) -> None:
    """R000-007, R003-104: exit code 1; what the text says is what a superuser runs."""
    database.execute(f'ALTER ROLE "{database.admin}" NOCREATEROLE')
    text = document(place, database)

    ended = check(text, "--engine")

    assert ended.code == 1
    lines = ended.stdout.splitlines()
    at = lines.index(f"  missing   login {database.admin}: lacks CREATEROLE: it can make no users")
    assert any(line.startswith(f"{ROLE}: could not log in and find the journal: ") for line in lines)
    database.execute(lines[at + 1])
    assert check(text, "--engine").code == 0


def test_a_server_that_cannot_be_reached_is_asked_once_and_shows_no_password(
    check: Check, database: Database, place: Path
) -> None:
    """R000-014."""
    text = document(place, database)
    wrong = place / "wrong.password"
    wrong.write_text(PASSWORD)
    text["postgresql"] = server_of(database, port=1)
    away = check(text, "--engine")
    text["postgresql"] = server_of(database, password_file=str(wrong))
    refused = check(text, "--engine", "--users")

    assert away.code == refused.code == 1
    assert "connection refused; is PostgreSQL up, is `port` right?" in away.stdout
    assert f"refuses the password of {database.admin}" in refused.stdout
    assert f"{ROLE}: could not" not in away.stdout + refused.stdout, "a role is tried where its server was reached"
    for text_shown in (away.stdout, away.stderr, refused.stdout, refused.stderr):
        assert PASSWORD not in text_shown
        assert database.admin_password.reveal() not in text_shown


def test_a_refused_probe_names_the_object_and_the_group_s_grant(check: Check, database: Database, place: Path) -> None:
    """R003-106: what is printed mends it."""
    database.execute("CREATE SCHEMA private")
    database.execute('CREATE TABLE private."Books" (id int)')
    probe = {**place_of(database), "probe": 'SELECT id FROM private."Books" LIMIT 0'}
    text = document(place, database, verify=[probe])

    for wanted in (
        f'GRANT USAGE ON SCHEMA "private" TO "{database.group}";',
        f'GRANT SELECT ON "private"."Books" TO "{database.group}";',
    ):
        ended = check(text, "--engine")
        assert ended.code == 1
        assert f"{ROLE}: could not log in with it: " in ended.stdout
        assert ended.stdout.splitlines()[-1].strip() == wanted
        database.execute(wanted)

    assert check(text, "--engine").code == 0
    assert leased(database) == set()


def test_a_grant_that_grants_nothing_fails(check: Check, database: Database, place: Path) -> None:
    """R003-129: the server only warns (01007)."""
    sql = (
        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; "
        'GRANT SELECT ON public.reports TO "{{name}}"'
    )
    database.execute(f'GRANT SELECT ON reports TO "{database.admin}"')
    text = document(place, database, creation_statements=[sql], description="of its own")

    ended = check(text, "--engine")

    assert ended.code == 1
    assert f"{ROLE}: could not mint a user: " in ended.stdout
    assert "01007" in ended.stdout
    assert "WITH GRANT OPTION" in ended.stdout
    assert f'warning: role."{ROLE}".creation_statements: its statements grant privileges to each user' in ended.stdout
    assert minted(database) == 0


def test_scripts_get_one_document(check: Check, database: Database, place: Path) -> None:
    """R003-109 too: users with their ends and the groups' rights, in the same document."""
    database.execute(f'ALTER ROLE "{database.admin}" CREATEDB')

    ended = check(document(place, database), "--engine", "--users", "--json")

    found = json.loads(ended.stdout)
    assert ended.code == 0
    assert found["ok"] is True
    assert found["warnings"] == [f'role."{ROLE}".description is missing: say what the role is for']
    (server,) = found["servers"]
    assert (server["upstream"], server["user"], server["reached"]) == ("postgresql", database.admin, True)
    assert {
        "level": "too-much",
        "subject": f"login {database.admin}",
        "text": "has CREATEDB: it may make databases, and needs nothing of it",
        "remedy": [f'ALTER ROLE "{database.admin}" NOCREATEDB'],
    } in server["findings"]
    (role,) = found["roles"]
    assert (role["role"], role["failed"], role["verified"]) == (ROLE, "", True)
    assert 0 < role["took"] < 20
    (users,) = found["users"]
    assert users["users"] == []
    assert {"group": database.group, "thing": "public.reports", "privileges": "SELECT"} in users["rights"]


def test_users_are_shown_and_nothing_is_touched(
    check: Check, run_agent: RunAgent, database: Database, place: Path
) -> None:
    """R003-109: beside a running agent, whose credential is none the worse for it."""
    agent = run_agent(document(place, database)).wait_ready()
    held = agent.read(ROLE)

    ended = check(agent.document, "--users")

    assert ended.code == 0
    assert ended.stdout.startswith(f"postgresql: lease users at {database.host}:{database.port}/{database.dbname}: 1\n")
    (line,) = [line for line in ended.stdout.splitlines() if held.username in line]
    assert "live" in line.split()
    assert ROLE in line
    assert f"  {database.group}  public.reports  SELECT" in ended.stdout
    assert held.password not in ended.stdout
    assert minted(database) == 1
    assert agent.read(ROLE).username == held.username


def test_mistakes_come_before_any_server(check: Check, database: Database, place: Path) -> None:
    text = document(place, database, creation_statements=["COMMIT"])

    ended = check(text, "--engine", "--json")

    assert ended.code == 2
    assert ended.stdout == ""
    assert "COMMIT is refused" in ended.stderr
    assert database.execute("SELECT 1 FROM pg_roles WHERE rolname = 'leasehold_lease'") == []
