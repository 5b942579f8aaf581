"""sweep, audit, and leases and revoke with --everyone: for who holds the admin login, with or without an agent."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Program, eventually, log_in, toml
from tests.acceptance.scenes import ROLE, document, leased, place_of, role_of
from tests.fix_postgres import Database

OTHER = "database/creds/other"
Command = Callable[..., Program]


@pytest.fixture
def agent(run_agent: RunAgent, database: Database, place: Path) -> Agent:
    text = document(place, database)
    text["agent"]["holder"] = "web-0"
    text["role"][OTHER] = role_of(database)
    return run_agent(text).wait_ready()


@pytest.fixture
def command(agent: Agent, place: Path, started: list[Program]) -> Command:
    """`command("audit")` runs one to its end on the agent's file."""

    def run(*argv: str) -> Program:
        program = Program([*argv, "-c", str(agent.config)], place)
        started.append(program)
        program.wait()
        return program

    return run


def expire(database: Database, username: str) -> None:
    database.execute(
        "UPDATE leasehold.lease SET expires = date_trunc('second', clock_timestamp()) - interval '1 s'"
        f" WHERE username = '{username}'"
    )


def test_an_incident_ends_every_lease_of_a_role_and_the_agent_goes_on(
    agent: Agent, command: Command, database: Database
) -> None:
    """R000-036, R001-019, R001-020: gone at once with its sessions; other roles stay; apps get a successor."""
    old, other = agent.read(ROLE), agent.read(OTHER)
    session = log_in(place_of(database), old)

    ended = command("revoke", "--prefix", ROLE, "--everyone", "--yes")

    assert (ended.code, ended.stdout) == (0, "revoked 1 of 1\n"), ended.stderr
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        log_in(place_of(database), old)
    assert eventually(lambda: agent.read(ROLE).username != old.username)
    assert agent.read(OTHER).username == other.username
    log_in(place_of(database), agent.read(ROLE)).close()


def test_one_lease_is_revoked_by_its_id(agent: Agent, command: Command, database: Database) -> None:
    """R003-062."""
    old = agent.read(ROLE)

    ended = command("revoke", old.lease_id, "--everyone", "--yes")
    again = command("revoke", old.lease_id, "--everyone", "--yes")
    unknown = command("revoke", "no such id", "--everyone", "--yes")

    assert ended.code == 0, ended.stderr
    assert old.username not in leased(database)
    assert (again.code, unknown.code) == (5, 5)
    assert "no lease is to be revoked there" in again.stderr


def test_nothing_is_revoked_that_nobody_has_confirmed(agent: Agent, command: Command, database: Database) -> None:
    """Off a terminal it wants --yes; an empty prefix, as of an empty variable, is no prefix."""
    before = leased(database)

    unasked = command("revoke", "--prefix", ROLE, "--everyone")
    empty = command("revoke", "--prefix", "", "--everyone", "--yes")
    both = command("revoke", "an-id", "--prefix", ROLE, "--everyone", "--yes")
    neither = command("revoke", "--everyone", "--yes")

    assert [ended.code for ended in (unasked, empty, both, neither)] == [2, 2, 2, 2]
    assert "add --yes" in unasked.stderr
    assert "name a path" in empty.stderr
    assert leased(database) == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 5), ("", 5)])
def test_on_a_terminal_it_asks(agent: Agent, database: Database, place: Path, answer: str, code: int) -> None:
    old = agent.read(ROLE).username
    ours, theirs = pty.openpty()
    asked = subprocess.Popen(
        [sys.executable, "-m", "agent", "revoke", "--prefix", ROLE, "--everyone", "-c", str(agent.config)],
        cwd=place, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"[y/N] " not in text:
        text += os.read(ours, 4096)
    os.write(ours, f"{answer}\n".encode())

    assert asked.wait(20) == code
    os.close(ours)
    assert f"{ROLE}: 1".encode() in text
    assert b"Revoke 1 now?" in text
    assert (old in leased(database)) == (code != 0)


def test_leases_of_everyone_name_their_owner(agent: Agent, command: Command) -> None:
    """R000-034, R000-035, R003-010: as a table, as JSON, and counted by role."""
    held = agent.read(ROLE)

    table = command("leases", "--everyone")
    whole = command("leases", "--everyone", "--json", "--engine", "postgresql")
    one = command("leases", "--everyone", "--json", "--role", OTHER)
    counted = command("leases", "--everyone", "--group-by", "role")
    wrong = command("leases", "--everyone", "--upstream", "postgres")

    assert table.code == whole.code == counted.code == 0
    head, *rows = table.stdout.splitlines()
    assert head.split() == ["LEASE", "ROLE", "STATE", "ENDS", "IN", "OWNER"]
    assert len(rows) == 2
    assert all(len(row) <= 100 for row in rows)
    assert any(row.startswith(held.lease_id) and row.endswith("web-0") for row in rows)
    document = json.loads(whole.stdout)
    assert document["total"] == 2
    (found,) = [row for row in document["leases"] if row["lease_id"] == held.lease_id]
    assert (found["owner"], found["username"], found["state"]) == ("web-0", held.username, "active")
    assert 3500 < found["remaining"] <= 3601
    assert [row["role"] for row in json.loads(one.stdout)["leases"]] == [OTHER]
    assert sorted(line.split() for line in counted.stdout.splitlines()[1:]) == [[ROLE, "1", "1"], [OTHER, "1", "1"]]
    assert wrong.code == 2
    assert "the file has postgresql" in wrong.stderr
    for ended in (table, whole, counted):
        assert held.password not in ended.stdout


def test_audit_leads_from_a_user_to_its_lease_and_its_life(agent: Agent, command: Command) -> None:
    """R000-023, R000-037, R003-125: exactly one lease; who, what, when, how long; nothing of other roles."""
    old, other = agent.read(ROLE), agent.read(OTHER)
    command("revoke", old.lease_id, "--everyone", "--yes")

    user = command("audit", "--user", old.username, "--json")
    recent = command("audit", "--since", "1h", "--role", ROLE)
    lease = command("audit", "--lease", other.lease_id, "--json")
    never = command("audit", "--since", "1ms", "--user", other.username)

    assert user.code == recent.code == lease.code == 0, user.stderr
    acts = json.loads(user.stdout)
    assert {act["lease_id"] for act in acts} == {old.lease_id}
    assert [act["what"] for act in acts] == ["issue", "revoke"]
    assert (acts[0]["owner"], acts[0]["role"], acts[0]["granted_ttl"]) == ("web-0", ROLE, 3600.0)
    assert acts[0]["time"].startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert old.username in recent.stdout
    assert other.username not in recent.stdout
    assert all(len(line) <= 100 for line in recent.stdout.splitlines())
    assert [act["user"] for act in json.loads(lease.stdout)] == [other.username]
    assert never.stdout == "nothing\n"
    assert old.password not in user.stdout + recent.stdout


def test_a_sweep_for_cron_ends_what_has_expired_and_names_what_is_left(
    agent: Agent, command: Command, database: Database
) -> None:
    """Design section 5; R003-102: users without a lease are told, and never touched."""
    agent.end()
    stuck, gone = sorted(leased(database))
    expire(database, gone)
    expire(database, stuck)
    database.execute(f'ALTER ROLE "{stuck}" SUPERUSER')

    due = command("sweep", "--dry-run")
    ended = command("sweep", "--timeout", "2s")

    assert due.code == 0
    assert len(due.stdout.splitlines()) == 3
    assert due.stdout.count("overdue") == 2
    assert ended.code == 6
    assert ended.stdout == "postgresql: 1 expired leases ended, 1 left\n"
    assert "superuser" in ended.stderr
    assert leased(database) == {stuck}
    database.execute(f'ALTER ROLE "{stuck}" NOSUPERUSER')
    database.execute(f"DELETE FROM leasehold.lease WHERE username = '{stuck}'")
    clean = command("sweep", "--json")
    assert clean.code == 0
    assert json.loads(clean.stdout)[0]["strangers"] == 1
    assert "`leasehold check --users` names them" in clean.stderr
    assert leased(database) == {stuck}


def test_a_server_that_does_not_answer_is_told_with_code_4(
    place: Path, started: list[Program], database: Database
) -> None:
    text = document(place, database)
    text["postgresql"]["port"] = 1
    config = place / "agent.toml"
    config.write_text(toml(text))

    for argv in (["sweep", "--timeout", "1s"], ["audit"], ["leases", "--everyone"]):
        program = Program([*argv, "-c", str(config)], place)
        started.append(program)
        assert program.wait() == 4, program.stderr
        (line,) = program.stderr.splitlines()
        assert line.startswith("leasehold: postgresql: ")
